"""What an examination finds."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    """Packets may be lost, now or soon."""
    FAIL = "fail"
    """Something does not work."""
    SKIPPED = "skipped"
    """It could not be found out, and why."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    area: str
    level: Level
    what: str
    advice: str = ""
    """What to do about it."""
