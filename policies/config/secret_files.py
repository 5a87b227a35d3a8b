"""Checks of the files that hold secrets: there, ours alone, and not empty."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from policies.config.node_tables import File
from policies.errors import Problem


def secret_file_problems(file: File) -> Iterator[Problem]:
    """What is wrong with the secret files that this node has to read."""
    for tenant in file.tenants:
        for site in tenant.sites:
            ours = file.own_gateway is not None and site.gateway == file.own_gateway
            if ours and site.ike is not None and site.ike.psk_file is not None:
                yield from _problems_of(f"{site.ike.path}.psk_file", site.ike.psk_file)
    if file.host is not None and file.host.token_file is not None:
        yield from _problems_of(f"{file.host.path}.token_file", file.host.token_file)


def _problems_of(path: str, file: Path) -> Iterator[Problem]:
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
