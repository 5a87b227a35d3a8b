"""Which configuration a running appliance goes by, and what a reload has done."""

from __future__ import annotations

import msgspec

from gateway.changes.difference import Difference


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration that runs. Times are in seconds since 1970, UTC."""

    taken_at: float
    """Since when what runs has been what it is."""
    rolls_back_in: float | None = None
    """Seconds until what runs is undone, unless it is confirmed; None: it stays."""
    differs_since: float | None = None
    """Since when the file holds something else than what runs, as far as is known; None: it does not."""
    why: str = ""
    """Why the two differ, in words."""
    reloads: int = 0
    failures: int = 0
    """Reloads that were refused, or undone half-way."""
    rollbacks: int = 0
    """Times that nobody confirmed."""


class ReloadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload has taken over."""

    differences: list[Difference]
    authenticated_again: list[str] = []
    """The sites, as TENANT/SITE."""
    rolls_back_in: float | None = None
    """Seconds in which it is to be confirmed."""
