"""How a running appliance is, in short, and how its sites are."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Protocol

import msgspec

from gateway.operating.commands import Asker, Command, Commands, Nothing
from gateway.operating.report import Report
from gateway.sites.status import SiteStatus
from policies.model import Appliance


class Status(msgspec.Struct, frozen=True):
    """One appliance, in short. Times are in seconds since 1970, UTC."""

    name: str
    version: str
    process: int
    roles: list[str]
    started_at: float
    engine: str
    """What decides packets; empty where none are carried."""
    attached: str
    """Where it is attached to the underlay, in words."""
    records: int
    sites_up: int
    sites: int


class Reporting(Protocol):
    """A data path, as far as it is asked how it is."""

    def report(self) -> Report: ...

    def sites(self) -> list[SiteStatus]: ...

    @property
    def in_words(self) -> str: ...


def commands(appliance: Appliance, path: Reporting | None, started_at: float) -> Commands:
    """Return what can be asked of how an appliance is. It started at a time in seconds since 1970."""
    sites: Callable[[], list[SiteStatus]] = path.sites if path is not None else list

    def seen(asker: Asker) -> list[SiteStatus]:
        return [site for site in sites() if asker.sees(site.tenant)]

    async def status(asker: Asker, _wanted: Nothing) -> Status:
        visible = seen(asker)
        return Status(
            name=appliance.name,
            version=version("isthmus"),
            process=os.getpid(),
            roles=roles(appliance),
            started_at=started_at,
            engine="python" if path is not None else "",
            attached=path.in_words if path is not None else "",
            records=path.report().records if path is not None else 0,
            sites_up=sum(site.state == "up" for site in visible),
            sites=len(visible),
        )

    async def list_sites(asker: Asker, _wanted: Nothing) -> list[SiteStatus]:
        return seen(asker)

    async def report(_asker: Asker, _wanted: Nothing) -> Report:
        return path.report() if path is not None else Report(node=appliance.name)

    return {
        "status": Command(status),
        "sites": Command(list_sites),
        "report": Command(report, for_operators=True),
    }


def roles(appliance: Appliance) -> list[str]:
    """Return the roles that an appliance has."""
    there = {
        "gateway": appliance.gateway,
        "lookup": appliance.lookup is not None,
        "host": appliance.host is not None,
    }
    return [role for role, is_there in there.items() if is_there]
