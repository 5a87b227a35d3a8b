"""How a running appliance is, in short, and how its sites are."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import msgspec

from gateway.operating import fastpath, health
from gateway.operating.commands import Asker, Command, Nothing
from gateway.operating.configuration import Configuration
from gateway.operating.health import Finding, LookupStatus
from gateway.operating.report import (
    CertificateReport,
    DropReport,
    FastPathReport,
    LoopReport,
    Report,
    SiteReport,
    SubnetReport,
)
from gateway.sites.status import SiteStatus
from policies.model import Appliance


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One appliance, in short, as far as the asker may see it. Times are in seconds since 1970, UTC."""

    name: str
    version: str
    process: int
    roles: list[str]
    started_at: float
    engine: str
    """What decides packets: xdp, python or openvswitch; empty where none are carried."""
    attached: str
    """Where it is attached to the underlay, in words; for who sees every tenant, as the records."""
    records: int | None
    sites_up: int
    sites: int
    at: float = 0.0
    """Now."""
    provider_addresses: list[str] = []
    health: list[Finding] = []
    """What is not as it should be, the worst first."""
    drops: list[DropReport] = []
    """Of the last minute."""
    configuration: Configuration | None = None
    """For who sees every tenant, as the next three."""
    lookup: LookupStatus | None = None
    loops: list[LoopReport] = []
    certificates: list[CertificateReport] = []
    fastpath: FastPathReport | None = None
    """For who sees every tenant; None where Python carries everything."""


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What has been carried and dropped so far, as far as the asker may see it."""

    at: float
    """In seconds, of a clock that is never set back."""
    subnets: list[SubnetReport]
    sites: list[SiteReport]
    drops: list[DropReport]


class Reporting(Protocol):
    """A data path, as far as it is asked how it is."""

    def report(self) -> Report: ...

    def sites(self) -> list[SiteStatus]: ...

    @property
    def in_words(self) -> str: ...


class Running(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """What is asked of a running appliance's parts."""

    appliance: Appliance
    started_at: float
    """In seconds since 1970, as the wall clock's."""
    wall_clock: Callable[[], float]
    clock: Callable[[], float]
    path: Reporting | None
    """None where no packets are carried."""
    report: Callable[[], Report]
    last_minute: Callable[[], list[DropReport]] = list
    configuration: Callable[[], Configuration] | None = None
    lookup: Callable[[], Awaitable[LookupStatus | None]] | None = None


def commands(running: Running) -> dict[str, Command]:
    """Return what can be asked of how an appliance is."""
    path = running.path
    sites: Callable[[], list[SiteStatus]] = path.sites if path is not None else list

    def seen(asker: Asker) -> list[SiteStatus]:
        return [site for site in sites() if asker.sees(site.tenant)]

    async def status(asker: Asker, _wanted: Nothing) -> Status:
        lookup = await running.lookup() if running.lookup is not None else None
        return _status(running, asker, seen(asker), lookup)

    async def list_sites(asker: Asker, _wanted: Nothing) -> list[SiteStatus]:
        return seen(asker)

    async def traffic(asker: Asker, _wanted: Nothing) -> Traffic:
        report = running.report()
        return Traffic(
            at=running.clock(),
            subnets=[each for each in report.meters if asker.sees(each.tenant)],
            sites=[each for each in report.sites if asker.sees(each.tenant)],
            drops=[each for each in report.drops if asker.sees(each.tenant)],
        )

    async def report(_asker: Asker, _wanted: Nothing) -> Report:
        return running.report()

    return {
        "status": Command(status),
        "sites": Command(list_sites),
        "traffic": Command(traffic),
        "report": Command(report, for_operators=True),
    }


def _status(running: Running, asker: Asker, sites: list[SiteStatus], lookup: LookupStatus | None) -> Status:
    appliance, path, now = running.appliance, running.path, running.wall_clock()
    sees_all = asker.tenants is None
    report = running.report()
    drops = [drop for drop in running.last_minute() if asker.sees(drop.tenant)]
    certificates = [each for each in report.certificates if asker.sees(each.tenant)]
    configuration = running.configuration() if running.configuration is not None and sees_all else None
    loops = report.loops if sees_all else []

    def findings() -> Iterator[Finding]:
        yield from health.of_sites(sites)
        yield from health.of_flapping(sites, now)
        yield from health.of_drops(drops)
        yield from health.of_loops(loops)
        yield from health.of_certificates(certificates, now)
        if configuration is not None:
            yield from health.of_configuration(configuration)
        if lookup is not None and sees_all:
            yield from health.of_lookup(lookup)
        if sees_all:
            yield from fastpath.findings(report, appliance.fastpath.mode)
        if sees_all and report.bridge is not None and report.bridge.trouble:
            words = f"the Open vSwitch bridge is waited for: {report.bridge.trouble}"
            yield Finding(level="bad", words=words)

    return Status(
        name=appliance.name,
        version=report.version,
        process=os.getpid(),
        roles=roles(appliance),
        at=now,
        started_at=running.started_at,
        engine=report.engine,
        attached=path.in_words if path is not None and sees_all else "",
        provider_addresses=_provider_addresses(appliance) if sees_all else [],
        records=_records(report, lookup if path is None else None) if sees_all else None,
        sites_up=sum(site.state == "up" for site in sites),
        sites=len(sites),
        health=health.sorted_by_gravity(findings()),
        drops=drops,
        configuration=configuration,
        lookup=lookup if sees_all else None,
        loops=loops,
        certificates=certificates,
        fastpath=report.fastpath if sees_all else None,
    )


def _records(report: Report, lookup: LookupStatus | None) -> int:
    return lookup.records if lookup is not None else report.records


def roles(appliance: Appliance) -> list[str]:
    """Return the roles that an appliance has."""
    there = {
        "gateway": appliance.gateway,
        "lookup": appliance.lookup is not None,
        "host": appliance.host is not None,
    }
    return [role for role, is_there in there.items() if is_there]


def _provider_addresses(appliance: Appliance) -> list[str]:
    underlay = appliance.underlay
    return [str(address) for address in underlay.provider_addresses] if underlay is not None else []
