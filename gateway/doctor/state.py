"""The folder of what an appliance keeps: whose it is, who else may look there, and how much room it has."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.doctor.findings import Finding, Level

AREA = "state"

MB = 1 << 20
ENOUGH = 512 * MB
TOO_LITTLE = 64 * MB
"""Octets free: what a million records take several times over, and what the store cannot do without."""


class Folder(msgspec.Struct, frozen=True):
    """The state folder, or the nearest one above it that is there."""

    path: Path
    is_there: bool
    mode: int
    owner: int
    free: int
    """In octets, for an ordinary user."""
    free_files: int | None
    """How many more files there can be; None where the file system does not count them."""


def look(path: Path) -> Folder:
    """Look at a folder. Raises OSError."""
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    status, room = there.stat(), os.statvfs(there)
    return Folder(
        path,
        there == path,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        room.f_bavail * room.f_frsize,
        room.f_favail if room.f_files else None,
    )


def owner_of(process: int) -> int:
    """Return the number of the user who runs a process. Raises OSError."""
    return Path("/proc", str(process)).stat().st_uid


def judge(folder: Folder, runner: int | None) -> Iterator[Finding]:
    """Say what is wrong with the folder; `runner` is the number of who runs the appliance, if it is known."""
    path = folder.path
    if not folder.is_there:
        yield Finding(AREA, Level.OK, f"{path} is not there yet, and is made at the first start")
    else:
        if folder.mode & 0o022:
            words = f"mode {folder.mode:04o} of {path} lets others write there, and say where VMs are"
            yield Finding(AREA, Level.FAIL, words, f"chmod 0700 {path}")
        elif folder.mode & 0o055:
            words = f"mode {folder.mode:04o} of {path} lets others look in: it says where VMs are"
            yield Finding(AREA, Level.WARN, words, f"chmod 0700 {path}")
        else:
            yield Finding(AREA, Level.OK, f"{path} is closed to others")
        if runner is not None and folder.owner != runner:
            words = f"{path} belongs to user {folder.owner}, and user {runner} runs the appliance"
            yield Finding(AREA, Level.FAIL, words, f"chown -R {runner} {path}")
    few_files = folder.free_files is not None and folder.free_files < 100
    if folder.free < TOO_LITTLE or few_files:
        level = Level.FAIL
    else:
        level = Level.WARN if folder.free < ENOUGH else Level.OK
    words = f"{folder.free // MB} MiB are free there" + (", but hardly any new files" if few_files else "")
    advice = "" if level is Level.OK else "make room: without, nothing new is stored and writes fail"
    yield Finding(AREA, level, words, advice)
