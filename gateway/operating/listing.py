"""A running appliance's status and events in words, for a terminal: what is wrong comes first."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.operating import fastpath
from gateway.operating.events import Event
from gateway.operating.health import Finding, LookupStatus, PoolStatus
from gateway.operating.status import Status
from gateway.operating.words import duration, moment

_MOST_POOLS = 4
_MARKS = {"bad": "!!", "warning": "! ", "note": "- "}


def is_well(status: Status) -> bool:
    """Whether nothing is wrong: what is only worth knowing is not."""
    return all(finding.level == "note" for finding in status.health)


def status_lines(status: Status) -> Iterator[str]:
    """Describe an appliance on one screen."""
    wrong = sum(finding.level != "note" for finding in status.health)
    in_words = (
        "all is well" if not wrong else "1 thing is wrong" if wrong == 1 else f"{wrong} things are wrong"
    )
    yield f"{status.name}: {in_words}"
    for finding in status.health:
        yield from _finding(finding, status.at)
    yield ""
    for name, value in _facts(status):
        yield f"{name:<13}  {value}"


def event_line(event: Event) -> str:
    """Describe an event in one line."""
    whose = f" {event.tenant}{f'/{event.site}' if event.site else ''}" if event.tenant else ""
    level = f" {event.level.upper()}" if event.level not in ("info", "debug") else ""
    return f"{moment(event.at)}{level} {event.event}{whose}: {event.words}"


def _finding(finding: Finding, now: float) -> Iterator[str]:
    since = f" (for {duration(now - finding.since)})" if finding.since is not None else ""
    yield f"  {_MARKS[finding.level]} {finding.words}{since}"
    if finding.advice:
        yield f"       {finding.advice}"


def _facts(status: Status) -> Iterator[tuple[str, str]]:
    now = status.at
    running = f"since {moment(status.started_at)} ({duration(now - status.started_at)})"
    yield "runs", f"{running}, process {status.process}, isthmus {status.version}"
    yield "roles", ", ".join(status.roles)
    if status.attached:
        yield "underlay", f"{' '.join(status.provider_addresses)} {status.attached}"
    if status.fastpath is not None:
        yield "fast path", fastpath.line(status.fastpath)
    if status.configuration is not None:
        yield "configuration", _configuration(status)
    if status.engine:
        yield "sites", f"{status.sites_up} of {status.sites} up" if status.sites else "none dialled here"
    if status.records is not None:
        yield "records", f"{status.records:,}"
    if status.lookup is not None:
        yield "lookup", _lookup(status.lookup)
        yield from _pools(status.lookup.pools)
    for loop in status.loops:
        late = f"late by {loop.most_late * 1000:.1f} ms at most in the last minute"
        yield f"{loop.name} loop", f"{late}, {loop.mean_late * 1000:.1f} ms in the mean"
    if status.engine:
        yield "dropped", _drops(status)
    for certificate in status.certificates:
        whose = f"site {certificate.tenant}/{certificate.site}, " if certificate.site else ""
        left = certificate.expires_at - now
        ends = f"for {duration(left)}, until" if left > 0 else "EXPIRED"
        yield "certificate", f"{whose}{certificate.use}: {ends} {moment(certificate.expires_at)}"


def _configuration(status: Status) -> str:
    configuration = status.configuration
    if configuration is None:
        return ""
    taken = f"what runs was taken over {moment(configuration.taken_at)}"
    if configuration.rolls_back_in is not None:
        return f"{taken}, and is undone in {configuration.rolls_back_in:.0f} s unless it is confirmed"
    if configuration.differs_since is not None:
        return f"{taken}; the file has been another since {moment(configuration.differs_since)}"
    return taken


def _lookup(lookup: LookupStatus) -> str:
    words = "serves" if lookup.serves else "follows"
    words += f", revision {lookup.revision}"
    if not lookup.is_synced:
        words += ", NOT SYNCED since the start"
    elif lookup.stale_seconds:
        words += f", STALE for {duration(lookup.stale_seconds)}"
    else:
        words += ", up to date"
    if lookup.serves:
        behind = f", one of them {lookup.most_behind:.1f} s behind" if lookup.most_behind else ""
        words += f"; {lookup.followers} hosts and gateways follow{behind}"
    return words


def _pools(pools: list[PoolStatus]) -> Iterator[tuple[str, str]]:
    """Those that have the fewest free addresses for their size; the others are counted."""
    fullest = sorted(pools, key=lambda pool: pool.free / max(pool.size, 1))
    for pool in fullest[:_MOST_POOLS]:
        owners = ", ".join(pool.nodes[:3]) + (", ..." if len(pool.nodes) > 3 else "")
        returned = f", {pool.quarantined:,} in quarantine" if pool.quarantined else ""
        yield "pool", f"{pool.pool} ({owners}): {pool.held:,} of {pool.size:,} held{returned}"
    if len(pools) > _MOST_POOLS:
        yield "pool", f"and {len(pools) - _MOST_POOLS} more"


def _drops(status: Status) -> str:
    if not status.drops:
        return "nothing in the last minute"
    most = status.drops[:6]
    words = ", ".join(
        f"{drop.packets:,} {drop.reason}{f' of {drop.tenant}' if drop.tenant else ''}" for drop in most
    )
    more = len(status.drops) - len(most)
    return f"in the last minute: {words}{f', and {more} more kinds' if more else ''}"
