"""The appliance that runs by the file: whether it answers, is of this version, and is well."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from gateway import control
from gateway.doctor.findings import Finding, Level
from policies.errors import ConfigurationError, Unanswered

AREA = "appliance"

_LEVELS = {"bad": Level.FAIL, "warning": Level.WARN, "note": Level.OK}


class Trouble(msgspec.Struct, frozen=True):
    """Something that the appliance says of itself."""

    level: str
    words: str
    advice: str = ""


class Running(msgspec.Struct, frozen=True):
    """What a running appliance says of itself, as far as it is used here: another version may say more."""

    version: str
    process: int
    sites: int = 0
    sites_up: int = 0
    records: int = 0
    engine: str = ""
    health: list[Trouble] = []


def look(state: Path, name: str) -> Running | str:
    """Ask the appliance, or say why it does not answer. This may block."""
    try:
        answer: Any = control.ask(control.socket_path(state, name), "status")
        return msgspec.convert(answer, Running)
    except Unanswered as error:
        return str(error)
    except (ConfigurationError, msgspec.ValidationError) as error:
        return f"it is of another version: {error}"


def judge(found: Running | str) -> Iterator[Finding]:
    """Say how it is."""
    if isinstance(found, str):
        yield Finding(
            AREA, Level.SKIPPED, found, "start it, and ask again: it says of its sites how they are"
        )
        return
    mine = _own_version()
    if mine and found.version != mine:
        words = f"version {found.version} runs (process {found.process}), and {mine} is installed"
        yield Finding(AREA, Level.WARN, words, "restart it: systemctl restart isthmus")
    else:
        yield Finding(AREA, Level.OK, f"version {found.version} runs, process {found.process}")
    for trouble in found.health:
        level = _LEVELS.get(trouble.level, Level.WARN)
        yield Finding(AREA, level, trouble.words, trouble.advice)
    if found.sites and found.sites_up == found.sites:
        yield Finding(AREA, Level.OK, f"all {found.sites} sites are up")


def _own_version() -> str | None:
    try:
        return version("isthmus")
    except PackageNotFoundError:
        return None
