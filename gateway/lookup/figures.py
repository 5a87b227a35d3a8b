"""How a lookup node, or one that follows, is doing: as plain values, for the metrics."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sized

import msgspec

from gateway.http.measures import Histogram
from gateway.lookup.alerts import AlertKind
from gateway.lookup.allocation import PoolUsage
from gateway.lookup.authority import Authority
from gateway.lookup.claims import Mode
from gateway.lookup.lease_limits import lease_limits
from gateway.lookup.replica import Replica


class FollowersReport(msgspec.Struct, frozen=True):
    """Those who follow a node that serves records. The histograms go on counting."""

    watches: int
    nodes: dict[str, int]
    """By their role."""
    most_behind: float
    """For how many seconds somebody has been told something that they have not acknowledged."""
    moves: dict[str, int]
    """Records that claims at this node have moved, by the claim's mode."""
    alerts: dict[str, int]
    """By their kind."""
    convergence: Histogram
    writes: Histogram
    """How long the store took to write."""
    failed_writes: int
    """Those for which it was away."""


class LookupReport(msgspec.Struct, frozen=True):
    """What a node knows of the records and the network, and how good that is."""

    revision: int
    is_synced: bool
    stale_seconds: float
    records: dict[str, int]
    """By tenant."""
    leases: dict[tuple[str, str], int] = {}
    """How many addresses a tenant has of a gateway's pools, where that has any, but for the gateway's own
    CAs: by both their names. Of a node that serves records, as the next two: others need not know."""
    lease_limits: dict[str, int] = {}
    """How many it may have at each gateway, by its name; of the same tenants."""
    pools: list[PoolUsage] = []
    followers: FollowersReport | None = None


def figures(replica: Replica, authority: Authority | None = None, watches: Sized = ()) -> LookupReport:
    """Return how a node is doing now. On the asyncio thread."""
    stale_since = replica.stale_since
    now = asyncio.get_running_loop().time()
    records = {tenant.name: 0 for tenant in replica.network.tenants}
    for tenant in replica.network.tenants:
        for subnet in tenant.subnets:
            records[tenant.name] += replica.count(subnet.vsid)
    leases = _leases(replica) if authority is not None else {}
    limits = lease_limits(replica.network) if leases else {}
    return LookupReport(
        revision=replica.revision,
        is_synced=replica.is_synced,
        stale_seconds=0.0 if stale_since is None else max(0.0, now - stale_since),
        records=records,
        leases=leases,
        lease_limits={
            tenant.name: limits[tenant.name]
            for tenant in replica.network.tenants
            if any((tenant.name, gateway) in leases for gateway in tenant.gateways)
        },
        pools=list(authority.granting.usage()) if authority is not None else [],
        followers=_followers(authority, watches) if authority is not None else None,
    )


def _leases(replica: Replica) -> dict[tuple[str, str], int]:
    return {
        (tenant.name, gateway.name): replica.granted.bounded(tenant, gateway.name)
        for gateway in replica.network.gateways
        if gateway.pools
        for tenant in replica.network.tenants
        if gateway.name in tenant.gateways
    }


def _followers(authority: Authority, watches: Sized) -> FollowersReport:
    nodes = authority.followers.nodes()
    roles = Counter(node.role.value for node in nodes)
    return FollowersReport(
        watches=len(watches),
        nodes={role: roles[role] for role in ("host", "gateway")},
        most_behind=max((node.behind for node in nodes), default=0.0),
        moves={mode.value: authority.moves[mode] for mode in Mode},
        alerts={kind.value: authority.alerts.counts[kind] for kind in AlertKind},
        convergence=authority.followers.convergences,
        writes=authority.writes.seconds,
        failed_writes=authority.writes.failed,
    )
