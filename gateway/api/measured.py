"""What is measured, family by family: the values of a node's report, its lookup service and its listeners."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from platform import python_version

import msgspec

from gateway.api import families
from gateway.api.exposition import Values
from gateway.api.families import Family
from gateway.forwarding.drops import DropReason
from gateway.http.door import Door
from gateway.http.measures import Histogram, Measures
from gateway.lookup.allocation import PoolUsage
from gateway.lookup.figures import FollowersReport, LookupReport
from gateway.operating.report import (
    FastPathReport,
    Report,
    RewritingReport,
    SiteReport,
    SubnetReport,
    TunnelReport,
)
from tunnels.esp.drops import EspDrop
from tunnels.ike.endpoint import IkeDrop

Found = Iterable[tuple[Values, float | Histogram]]
"""The values of a family's labels, and of the metric itself."""


class Listener(msgspec.Struct, frozen=True):
    """Where requests are answered, and what was measured there."""

    measures: Measures
    door: Door


class Scrape(msgspec.Struct, frozen=True):
    """Everything that metrics are made of."""

    report: Report
    lookup: LookupReport | None = None
    listeners: Mapping[str, Listener] = {}
    """By the section of the configuration: lookup or api."""


def found(scrape: Scrape) -> Iterator[tuple[Family, Found]]:
    """Yield each family that this node has, with all of its series."""
    report = scrape.report
    yield from _node(report)
    if report.engine:
        yield from _drops(report)
        yield from _subnets(report.meters)
        yield from _sites(report.sites)
        yield from _tunnels(report)
        yield from _rest(report)
    if scrape.lookup is not None:
        yield from _lookup(scrape.lookup)
    yield from _listeners(scrape.listeners)


def _one(value: float) -> Found:
    return [((), value)]


def _node(report: Report) -> Iterator[tuple[Family, Found]]:
    yield families.BUILD, [((report.version, python_version()), 1)]
    yield families.STARTED, _one(report.started_at)
    yield families.LAG, [((loop.name,), loop.most_late) for loop in report.loops]
    yield families.MEAN_LAG, [((loop.name,), loop.mean_late) for loop in report.loops]
    certificates = [((each.use, each.tenant, each.site), each.expires_at) for each in report.certificates]
    yield families.EXPIRY, certificates
    configuration = report.configuration
    if configuration is not None:
        yield families.TAKEN, _one(configuration.taken_at)
        yield families.UNCONFIRMED, _one(configuration.rolls_back_in is not None)
        yield families.DIFFERS, _one(configuration.differs_since is not None)
        outcomes = {
            "taken": configuration.reloads,
            "refused": configuration.failures,
            "rolled-back": configuration.rollbacks,
        }
        yield families.RELOADS, [((outcome,), count) for outcome, count in outcomes.items()]


def _drops(report: Report) -> Iterator[tuple[Family, Found]]:
    yield families.ENGINE, [((report.engine,), 1)]
    yield families.RECORDS, _one(report.records)
    drops = {(reason.value, ""): 0 for reason in DropReason}
    drops |= {(drop.reason, drop.tenant): drop.packets for drop in report.drops}
    yield families.DROPS, drops.items()


def _subnets(subnets: list[SubnetReport]) -> Iterator[tuple[Family, Found]]:
    named = [((each.tenant, each.subnet), each) for each in subnets]
    yield families.SUBNET_SENT_PACKETS, [(labels, each.sent_packets) for labels, each in named]
    yield families.SUBNET_SENT_BYTES, [(labels, each.sent_octets) for labels, each in named]
    yield families.SUBNET_RECEIVED_PACKETS, [(labels, each.received_packets) for labels, each in named]
    yield families.SUBNET_RECEIVED_BYTES, [(labels, each.received_octets) for labels, each in named]
    yield families.SUBNET_TOO_BIG, [(labels, each.too_big) for labels, each in named]


def _sites(sites: list[SiteReport]) -> Iterator[tuple[Family, Found]]:
    named = [((each.tenant, each.site), each, each.tunnel) for each in sites if each.tunnel is not None]
    yield families.SITE_UP, [(labels, tunnel.is_up) for labels, _, tunnel in named]
    yield families.SITE_SINCE, [(labels, tunnel.since) for labels, _, tunnel in named]
    yield families.SITE_DOWNS, [(labels, tunnel.turns_down) for labels, _, tunnel in named]
    yield families.SITE_MTU, [(labels, each.mtu or 0) for labels, each, _ in named]
    yield families.SITE_SENT_PACKETS, [(labels, each.sent_packets) for labels, each, _ in named]
    yield families.SITE_SENT_BYTES, [(labels, each.sent_octets) for labels, each, _ in named]
    yield families.SITE_RECEIVED_PACKETS, [(labels, each.received_packets) for labels, each, _ in named]
    yield families.SITE_RECEIVED_BYTES, [(labels, each.received_octets) for labels, each, _ in named]
    yield families.SITE_TOO_BIG, [(labels, each.too_big) for labels, each, _ in named]
    yield families.REKEYS, (row for labels, _, tunnel in named for row in _rekeys(labels, tunnel))
    # There are as many as all others together: they are never all held at once.
    failures = (
        ((*labels, cause), count) for labels, _, tunnel in named for cause, count in tunnel.failures.items()
    )
    yield families.FAILURES, failures


def _rekeys(site: Values, tunnel: TunnelReport) -> Found:
    return [((*site, "ike"), tunnel.ike_rekeys), ((*site, "child"), tunnel.child_rekeys)]


def _tunnels(report: Report) -> Iterator[tuple[Family, Found]]:
    tunnels = report.tunnels
    drops = {(reason.value, "", ""): 0 for reason in EspDrop}
    drops |= {(drop.reason, "", ""): drop.packets for drop in tunnels.esp_drops if not drop.site}
    of_sites = (
        ((reason, site.tenant, site.site), count)
        for site in report.sites
        if site.tunnel is not None
        for reason, count in site.tunnel.drops.items()
    )
    yield families.ESP_DROPS, chain(drops.items(), of_sites)
    ike_drops = {reason.value: tunnels.ike_drops.get(reason.value, 0) for reason in IkeDrop}
    yield families.IKE_DROPS, [((reason,), count) for reason, count in ike_drops.items()]
    yield families.KEEPALIVES, _one(tunnels.keepalives)
    yield families.UNSENT, [((error,), count) for error, count in tunnels.unsent.items()]


def _rest(report: Report) -> Iterator[tuple[Family, Found]]:
    underlay, tunnels, ports = report.underlay, report.tunnels, report.ports
    moves, notices = report.moves, report.notices
    yield families.ELSEWHERE, [((tenant,), count) for tenant, count in report.sources_elsewhere.items()]
    yield families.HELD, _one(moves.held)
    yield families.REDIRECTED_RECORDS, _one(moves.redirected_records)
    yield families.REDIRECTED, _one(moves.redirected_packets)
    yield families.AHEAD, _one(moves.ahead_of_their_records)
    told = {
        "sent": notices.sent,
        "suppressed": notices.suppressed,
        "without-source": notices.without_source,
    }
    yield families.NOTICES, [((what,), count) for what, count in told.items()]
    lost = {
        "underlay": underlay.kernel_drops,
        "pools": report.rewriting.kernel_drops,
        "tunnels": tunnels.kernel_drops,
        "ports": ports.kernel_drops,
    }
    yield families.KERNEL_DROPS, [((side,), count) for side, count in lost.items()]
    errors = {"underlay": underlay.icmp_errors, "tunnels": tunnels.icmp_errors}
    yield families.NETWORK_ERRORS, [((side,), count) for side, count in errors.items()]
    yield families.MERGED, _one(underlay.merged)
    yield from _rewriting(report.rewriting)
    yield families.UNREADABLE, _one(ports.unreadable)
    if report.fastpath is not None:
        yield from _fast_path(report.fastpath)
    if report.bridge is not None:
        yield families.BRIDGE_UP, _one(not report.bridge.trouble)
        yield families.BRIDGE_FLOWS, _one(report.bridge.flows)


def _fast_path(report: FastPathReport) -> Iterator[tuple[Family, Found]]:
    yield families.FAST_INTERFACE, [((each.interface, each.mode), 1) for each in report.interfaces]
    yield families.FAST_RECORDS, _one(report.records)
    yield families.FAST_CAPACITY, _one(report.capacity)
    yield families.FAST_WITHOUT_PLACE, _one(report.without_place)
    yield families.FAST_TENANTS, [(("xdp",), report.tenants), (("python",), report.tenants_left)]
    yield families.FAST_UNRESOLVED, _one(report.hops_unresolved)
    yield families.FAST_RESYNCS, _one(report.hops_resyncs)
    yield families.FAST_CARRIED, _one(report.carried)
    yield families.FAST_PASSED, [((reason,), packets) for reason, packets in report.passed.items()]


def _rewriting(rewriting: RewritingReport) -> Iterator[tuple[Family, Found]]:
    yield families.REWRITTEN, _one(rewriting.received)
    yield families.REWRITTEN_MERGED, _one(rewriting.merged)
    yield families.WAITING, _one(rewriting.waiting)
    said = {
        "answered": rewriting.answered,
        "announced": rewriting.announced,
        "not-announced": rewriting.not_announced,
        "contested": rewriting.contested,
        "malformed": rewriting.malformed,
    }
    yield families.NEIGHBOURS, [((what,), count) for what, count in said.items()]


def _lookup(lookup: LookupReport) -> Iterator[tuple[Family, Found]]:
    yield families.SYNCED, _one(lookup.is_synced)
    yield families.STALE, _one(lookup.stale_seconds)
    yield families.REVISION, _one(lookup.revision)
    yield families.LOOKUP_RECORDS, [((tenant,), count) for tenant, count in lookup.records.items()]
    yield families.LEASES, lookup.leases.items()
    yield families.LEASE_LIMIT, [((tenant,), limit) for tenant, limit in lookup.lease_limits.items()]
    if lookup.pools:
        yield from _pools(lookup.pools)
    if lookup.followers is not None:
        yield from _followers(lookup.followers)


def _pools(pools: Sequence[PoolUsage]) -> Iterator[tuple[Family, Found]]:
    yield families.POOL, [((str(pool.prefix), node), 1) for pool in pools for node in pool.nodes]
    addresses = [
        ((str(pool.prefix), state), count)
        for pool in pools
        for state, count in (
            ("held", pool.held),
            ("quarantined", pool.quarantined),
            ("free", pool.free),
        )
    ]
    yield families.POOL_ADDRESSES, addresses


def _followers(followers: FollowersReport) -> Iterator[tuple[Family, Found]]:
    yield families.WATCHES, _one(followers.watches)
    yield families.FOLLOWERS, [((role,), count) for role, count in followers.nodes.items()]
    yield families.BEHIND, _one(followers.most_behind)
    yield families.MOVES, [((mode,), count) for mode, count in followers.moves.items()]
    yield families.ALERTS, [((kind,), count) for kind, count in followers.alerts.items()]
    yield families.CONVERGENCE, [((), followers.convergence)]
    yield families.WRITES, [((), followers.writes)]
    yield families.FAILED_WRITES, _one(followers.failed_writes)


def _listeners(listeners: Mapping[str, Listener]) -> Iterator[tuple[Family, Found]]:
    answers = [
        ((name, method, path, str(status)), count)
        for name, listener in listeners.items()
        for (method, path, status), count in listener.measures.answers.items()
    ]
    yield families.REQUESTS, answers
    yield families.STRANGERS, [((name,), listener.door.failures) for name, listener in listeners.items()]
    full = [
        ((name, why), listener.measures.connections_refused[why])
        for name, listener in listeners.items()
        for why in ("full", "address")
    ]
    yield families.REFUSED, full
    latencies = {"lookup": families.LOOKUP_REQUESTS, "api": families.API_REQUESTS}
    for name, listener in listeners.items():
        yield (
            latencies[name],
            [(labels, histogram) for labels, histogram in listener.measures.latencies.items()],
        )
