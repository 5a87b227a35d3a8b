"""Reads appliance.toml into the frozen model, or says everything that is wrong with it.

The tables are read key by key (`node_tables`, `lookup_tables`, `service_tables`, `network_tables`,
`site_tables`) and checked against each other and against the machine (`node_checks`,
`lookup_checks`, `service_checks`, `network_checks`, `pool_checks`, `site_checks`, `secret_files`). Each step
goes on after a mistake, so one run shows the whole list. Only a file without any mistake is made into the
model.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

from policies.config.lookup_checks import lookup_problems
from policies.config.network_checks import network_problems
from policies.config.node_checks import node_problems
from policies.config.node_tables import ApplianceTable, File
from policies.config.pool_checks import pool_problems
from policies.config.reader import Notes, Reader
from policies.config.secret_files import secret_file_problems
from policies.config.service_checks import api_problems
from policies.config.site_checks import site_problems
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance

Check = Callable[[File], Iterator[Problem]]

# What says whose file it is, up to the next table, in a file that is not TOML elsewhere.
_OWN_TABLE = re.compile(r"^[ \t]*\[appliance\].*(?:\n(?![ \t]*\[).*)*", re.MULTILINE)

_CHECKS: tuple[Check, ...] = (
    node_problems,
    lookup_problems,
    api_problems,
    network_problems,
    pool_problems,
    site_problems,
)


def load(path: Path) -> Appliance:
    """Read a configuration file, and look at the secret files that it names.

    Raises ConfigurationError with everything that is wrong.
    """
    return _appliance(_text(path), path.parent, *_CHECKS, secret_file_problems)


def load_name_and_state(path: Path) -> tuple[str, Path]:
    """Read whose configuration a file is, and where that appliance keeps its state.

    The rest may be wrong: who asks a running appliance something may be in the midst
    of changing its file, and it need not even be TOML. Raises ConfigurationError.
    """
    notes = Notes()
    text = _text(path)
    try:
        tree = _tree(text)
    except ConfigurationError:
        own = _OWN_TABLE.search(text)
        if own is None:
            raise
        tree = _tree(own.group())
    table = Reader(tree, path.parent, notes).table("appliance", ApplianceTable.read)
    if table is None or table.name is None:
        raise ConfigurationError(notes.problems() or [Problem("appliance", "is missing")])
    return table.name, table.state


def parse(text: str, *, base: Path = Path()) -> Appliance:
    """Read a configuration from its text. The files that it names are sought in `base`, and not looked at.

    Raises ConfigurationError with everything that is wrong.
    """
    return _appliance(text, base, *_CHECKS)


def _appliance(text: str, base: Path, *checks: Check) -> Appliance:
    notes = Notes()
    file = File.read(Reader(_tree(text), base, notes))
    for check in checks:
        for problem in check(file):
            notes.note(problem)
    if problems := notes.problems():
        raise ConfigurationError(problems)
    return file.model()


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError([Problem("", f"{path}: {error.strerror or error}")]) from error
    except ValueError as error:
        raise ConfigurationError([Problem("", f"{path} is not text in UTF-8: {error}")]) from error


def _tree(text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigurationError([Problem("", "not TOML that can be read: nested too deeply")]) from None
    except ValueError as error:
        raise ConfigurationError([Problem("", f"not TOML: {error}")]) from error
