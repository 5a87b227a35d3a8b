"""What is not as it should be, each thing in words and with what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from gateway.forwarding.drops import DropReason
from gateway.operating.certificates import SOON
from gateway.operating.configuration import Configuration
from gateway.operating.report import CertificateReport, DropReport, LoopReport
from gateway.sites.status import SiteStatus

LATE = 0.5
"""Seconds that an event loop may be late before it is told."""
STALE = 10.0
"""Seconds that the lookup service may be away before it is told."""
BEHIND = 30.0
"""Seconds that a follower may owe an acknowledgement before it is told."""
OFTEN = 3
"""Times that a site goes down in an hour, from which on it is told although it is up again."""
WORTH_A_WORD = 30
"""Packets dropped in a minute for one of the reasons below, from which on it is told."""

TOLD = 8
"""Of what is not served, so much is told."""

NEARLY_EMPTY = 0.1
"""So much of a pool is free, or less, when it is told; and of the leases that a tenant may hold."""

LEVELS = ("bad", "warning", "note")

SERIOUS = {
    DropReason.SPOOFED_SOURCE.value: "somebody sends by addresses that are not its own, or a record is old",
    DropReason.LOOP.value: "two nodes send packets to each other: look at their provider addresses",
    DropReason.QUEUE_FULL.value: "this node is sent more than it can carry",
    DropReason.PUNT_LIMITED.value: "the fast path left too much to Python: see docs/fastpath.md",
    DropReason.SEND_FAILED.value: "the kernel refuses packets: look at the interfaces and the firewall",
    DropReason.HOLD_FULL.value: "a moving VM's frames were more than are held for it",
    DropReason.NO_PROVIDER_ADDRESS.value: "this node lacks the family of a host's provider address",
    DropReason.SITE_DOWN.value: "packets for a site that has no tunnel",
    DropReason.OTHER_TENANT.value: "somebody sends to provider addresses of a tenant that is not its own",
    DropReason.NO_LEASE.value: "a pool is empty, a tenant has all its leases, or the lookup service is away",
}
"""Why packets are dropped that no guest can help, and what to do."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it should be."""

    level: str
    """bad: somebody's packets do not arrive. warning: they might not, soon. note: worth knowing."""
    words: str
    advice: str = ""
    since: float | None = None
    """In seconds since 1970, UTC."""
    tenant: str = ""
    site: str = ""


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How many addresses of a pool are used. Those in quarantine were returned, and are nobody's yet."""

    pool: str
    nodes: list[str]
    """Whose it is: one gateway's, or that of the hosts which share it."""
    size: int
    held: int
    quarantined: int
    free: int


class LeaseStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How many addresses of a gateway's pools a tenant has, of those that it may."""

    tenant: str
    node: str
    held: int
    limit: int


class LookupStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What an appliance has of the lookup service."""

    serves: bool
    """Else it follows."""
    is_synced: bool
    """Whether everything has been told at least once since the start."""
    stale_seconds: float
    """For how long what is known may be out of date; 0 while it is not."""
    revision: int
    records: int = 0
    followers: int = 0
    most_behind: float = 0.0
    """For how many seconds a follower has owed an acknowledgement."""
    not_served: list[str] = []
    """Pools, ports and sites that the network has for this node and it cannot serve, and why."""
    pools: list[PoolStatus] = []
    """Of a node that serves: of all hosts and gateways that rewrite."""
    short_of_leases: list[LeaseStatus] = []
    """The tenants that have nearly as many as they may."""


def sorted_by_gravity(findings: Iterable[Finding]) -> list[Finding]:
    """Return what is worst first, and of that what began first."""
    return sorted(findings, key=lambda finding: (LEVELS.index(finding.level), finding.since or 0.0))


def of_sites(sites: Iterable[SiteStatus]) -> Iterator[Finding]:
    """Tell of the sites that are not up."""
    for site in sites:
        if site.state != "up":
            yield of_site(site)


def of_flapping(sites: Iterable[SiteStatus], now: float) -> Iterator[Finding]:
    """Tell of the sites that are up, and were not again and again in the last hour."""
    for site in sites:
        downs = [moment for moment in site.history if moment.what == "down" and moment.at > now - 3600]
        if site.state == "up" and len(downs) >= OFTEN:
            words = f"site {site.tenant}/{site.site} has gone down {len(downs)} times in an hour"
            yield Finding(
                level="warning",
                words=f"{words}, last {now - downs[-1].at:.0f} s ago: {downs[-1].why}",
                advice=f"`isthmus sites FILE {site.tenant}/{site.site}` has when and why",
                since=downs[0].at,
                tenant=site.tenant,
                site=site.site,
            )


def of_site(site: SiteStatus) -> Finding:
    """Tell of a site that is not up."""
    why = f": {site.last_error.why}" if site.last_error is not None else ""
    level, more = "bad", f", {site.failures} attempts have failed" if site.failures > 1 else ""
    if site.state == "connecting":
        more += f", and {site.peer} is being dialled"
    elif site.state == "waiting" and site.retry_in is None:
        more += f", and waits for {'the first packet' if site.start == 'trap' else 'its device to dial'}"
        level = "note" if site.last_error is None else "bad"
    return Finding(
        level=level,
        words=f"site {site.tenant}/{site.site} is down{more}{why}",
        advice=f"`isthmus sites FILE {site.tenant}/{site.site}` tells more",
        since=site.since,
        tenant=site.tenant,
        site=site.site,
    )


def of_configuration(configuration: Configuration) -> Iterator[Finding]:
    """Tell what is unfinished of the configuration."""
    if configuration.rolls_back_in is not None:
        yield Finding(
            level="warning",
            words=f"what was reloaded is not confirmed, and is undone in {configuration.rolls_back_in:.0f} s",
            advice="`isthmus confirm FILE` keeps it",
            since=configuration.taken_at,
        )
    elif configuration.differs_since is not None:
        yield Finding(
            level="warning",
            words=f"the file is not what runs: {configuration.why or 'it has changed'}",
            advice="`isthmus diff FILE` shows it, `isthmus reload FILE` takes it over",
            since=configuration.differs_since,
        )


def of_lookup(lookup: LookupStatus) -> Iterator[Finding]:
    """Tell how good what is known of the network is."""
    source = "the store" if lookup.serves else "the lookup service"
    if not lookup.is_synced:
        words = f"{source} has not been heard of since the start"
        yield Finding(level="bad", words=words, advice="what is known is the last known good copy, if any")
    elif lookup.stale_seconds >= STALE:
        words = f"{source} has been away for {lookup.stale_seconds:.0f} s"
        advice = "traffic goes on by what is known; moves and changes are not heard of"
        yield Finding(level="warning", words=words, advice=advice)
    if lookup.most_behind >= BEHIND:
        words = f"a follower has not acknowledged changes for {lookup.most_behind:.0f} s"
        yield Finding(level="warning", words=words, advice="`isthmus nodes FILE` says which")
    for words in lookup.not_served[:TOLD]:
        yield Finding(level="bad", words=f"not served: {words}", advice="`isthmus doctor FILE` looks why")
    for pool in lookup.pools:
        yield from _of_pool(pool)
    for leases in lookup.short_of_leases:
        is_over = leases.held >= leases.limit
        yield Finding(
            level="bad" if is_over else "warning",
            words=f"{leases.tenant} holds {leases.held:,} of {leases.limit:,} leases at {leases.node}",
            advice="`isthmus leases FILE` says what for; `leases` of the tenant allows it more",
            tenant=leases.tenant,
        )


def _of_pool(pool: PoolStatus) -> Iterator[Finding]:
    if pool.free > NEARLY_EMPTY * pool.size:
        return
    owners = ", ".join(pool.nodes[:3]) + (f" and {len(pool.nodes) - 3} more" if len(pool.nodes) > 3 else "")
    quarantined = (
        f", and {pool.quarantined:,} wait for the end of their quarantine" if pool.quarantined else ""
    )
    words = (
        f"the pool {pool.pool} of {owners}: {pool.free:,} of {pool.size:,} addresses are free{quarantined}"
    )
    advice = "give it another prefix beside this one: `pools` of the host or the gateway takes several"
    yield Finding(level="warning" if pool.free else "bad", words=words, advice=advice)


def of_loops(loops: Iterable[LoopReport]) -> Iterator[Finding]:
    """Tell of the event loops that were late."""
    for loop in loops:
        if loop.most_late >= LATE:
            yield Finding(
                level="warning",
                words=f"the {loop.name} loop was up to {loop.most_late:.1f} s late in the last minute",
                advice="this node has more to do than it can: `isthmus top FILE` says what it carries",
            )


def of_certificates(certificates: Iterable[CertificateReport], now: float) -> Iterator[Finding]:
    """Tell of the certificates that have expired, or do so soon."""
    for certificate in certificates:
        left = certificate.expires_at - now
        if left < SOON:
            whose = f"site {certificate.tenant}/{certificate.site}, " if certificate.site else ""
            ends = f"expires in {left / 86400:.0f} days" if left > 0 else "has expired"
            yield Finding(
                level="warning" if left > 0 else "bad",
                words=f"the certificate of {whose}{certificate.use}: {ends}",
                tenant=certificate.tenant,
                site=certificate.site,
            )


def of_drops(last_minute: Iterable[DropReport]) -> Iterator[Finding]:
    """Tell of the packets that were dropped in the last minute for a reason that is not a guest's own."""
    for drop in last_minute:
        advice = SERIOUS.get(drop.reason)
        if advice is not None and drop.packets >= WORTH_A_WORD:
            whose = f" of {drop.tenant}" if drop.tenant else ""
            yield Finding(
                level="warning",
                words=f"{drop.packets} packets{whose} were dropped in the last minute: {drop.reason}",
                advice=advice,
                tenant=drop.tenant,
            )
