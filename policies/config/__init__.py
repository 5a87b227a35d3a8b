"""Reads appliance.toml into the frozen model, or says everything that is wrong with it.

The tables are read key by key (`sections`), checked against each other
(`network_checks`, `node_checks`) and made into the model (`assembly`). Each
step goes on after a mistake, so one run shows the whole list.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

from policies.config.assembly import appliance_model
from policies.config.network_checks import network_problems
from policies.config.node_checks import node_problems
from policies.config.reader import Notes
from policies.config.sections import read_file
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance


def load(path: Path) -> Appliance:
    """Read a configuration file, and look at the secret files that it names.

    Raises ConfigurationError with everything that is wrong.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError([Problem("", f"{path}: {error.strerror or error}")]) from error
    except ValueError as error:
        raise ConfigurationError([Problem("", f"{path} is not text in UTF-8: {error}")]) from error
    appliance, notes = _read(text, path.parent)
    for problem in secret_problems(appliance):
        notes.note(problem)
    return _sound(appliance, notes)


def parse(text: str, *, base: Path = Path()) -> Appliance:
    """Read a configuration from its text. The files that it names are sought in `base`, and not looked at.

    Raises ConfigurationError with everything that is wrong.
    """
    return _sound(*_read(text, base))


def secret_problems(appliance: Appliance) -> Iterator[Problem]:
    """What is wrong with the secret files that this node has to read."""
    for tenant in appliance.network.tenants:
        for site in tenant.sites:
            if appliance.gateway and site.gateway == appliance.name and site.ike.psk_file is not None:
                path = f"tenant[{tenant.name}].site[{site.name}].ike.psk_file"
                yield from _secret_file_problems(path, site.ike.psk_file)
    if appliance.host is not None and appliance.host.token_file is not None:
        yield from _secret_file_problems("host.token_file", appliance.host.token_file)


def _secret_file_problems(path: str, file: Path) -> Iterator[Problem]:
    try:
        status = file.stat()
    except OSError as error:
        yield Problem(path, f"{file}: {error.strerror or error}")
        return
    if not stat.S_ISREG(status.st_mode):
        yield Problem(path, f"{file} is not a regular file")
        return
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        yield Problem(path, f"mode {mode:04o} lets others read it; chmod 600 {file}")
    if status.st_uid not in (0, os.geteuid()):
        yield Problem(
            path, f"{file} belongs to user {status.st_uid}; give it to root or to the user who runs this"
        )
    if not status.st_size:
        yield Problem(path, f"{file} is empty; put the secret in it")


def _read(text: str, base: Path) -> tuple[Appliance, Notes]:
    """The model as far as it can be made, and what is wrong."""
    notes = Notes()
    try:
        tree = tomllib.loads(text)
    except RecursionError:
        raise ConfigurationError([Problem("", "not TOML that can be read: nested too deeply")]) from None
    except ValueError as error:
        raise ConfigurationError([Problem("", f"not TOML: {error}")]) from error
    file = read_file(tree, base, notes)
    for problem in (*node_problems(file), *network_problems(file)):
        notes.note(problem)
    return appliance_model(file), notes


def _sound(appliance: Appliance, notes: Notes) -> Appliance:
    if problems := notes.problems():
        raise ConfigurationError(problems)
    return appliance
