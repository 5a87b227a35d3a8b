"""Leases of gateways' pools: provider addresses for customer addresses that have none of their own.

A CA has one at most at each gateway, and the same one whoever asks. Where two lookup nodes have each leased
one at once, the earlier stands.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress

from gateway.lookup.alerts import AlertKind, Alerts
from gateway.lookup.domains import Domain, Domains
from gateway.lookup.entries import Grant, Kind, LeaseKey, Stored
from gateway.lookup.granting import Granting
from gateway.lookup.grants import is_free
from gateway.lookup.outcomes import WHY_NO_LEASE, Forbidden, NoLease, Unacceptable, WhyNoLease
from gateway.lookup.replica import Replica
from gateway.lookup.store import Conflict, LookupStore, Taken
from gateway.lookup.writes import OWN_REPLICA_SECONDS
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.model import Lease, LookupRecord, Translation

LOOKED_AT = 1000
"""Grants that a sweep looks at before others get their turn."""
TOLD_EVERY = 60.0
"""Seconds between two alerts that a tenant gets no more leases of a gateway."""

_Wanted = tuple[Vsid, CustomerAddress]
_At = tuple[Vsid, CustomerAddress, str]
"""A CA at a gateway."""


class Leasing:
    """Who gets which address of the gateways' pools. `now` tells Unix time, in seconds."""

    def __init__(
        self,
        store: LookupStore,
        replica: Replica,
        granting: Granting,
        domains: Domains,
        alerts: Alerts,
        *,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._replica = replica
        self._granting = granting
        self._domains = domains
        self._alerts = alerts
        self._now = now
        self._making: dict[_At, asyncio.Task[Lease]] = {}
        # By tenant and gateway: what is being leased, and may not be in the replica yet.
        self._asked: defaultdict[tuple[str, str], set[_Wanted]] = defaultdict(set)
        self._told: dict[tuple[str, str, WhyNoLease], float] = {}
        # Made here, and not in the replica yet: one that is cut off would make another for each question.
        self._unseen: dict[_At, Lease] = {}

    async def lease(
        self, domain: Domain, vsid: Vsid, ca: CustomerAddress, gateway: str | None
    ) -> Lease | LookupRecord:
        """Return what stands for a CA at a gateway, or the record of one that has its own address.

        Without a gateway, it is the first of those by which the CA is reached that has a pool of the family.
        Raises NoLease and StoreUnavailable.
        """
        found = self._need(domain, vsid, ca)
        if isinstance(found, LookupRecord):
            return found
        if not found:
            raise NoLease(WhyNoLease.UNKNOWN)
        names = domain.gateways(ca) if gateway is None else (gateway,)
        node = next((name for name in names if self._domains.pools(name, ca.version)), None)
        if node is None:
            raise NoLease(WhyNoLease.NO_POOL)
        standing = self._standing(vsid, ca, node) or self._not_seen_yet().get((vsid, ca, node))
        if standing is not None:
            return standing
        making = self._making.get((vsid, ca, node)) or self._begin(domain, vsid, ca, node)
        # Whoever asks for the same has to get it, also where the first to ask has gone.
        return await asyncio.shield(making)

    async def give_back(self, pas: Sequence[ProviderAddress], gateway: str | None = None) -> None:
        """Return leases, of any gateway or of one alone; what nobody holds is passed over.

        Raises Forbidden for another gateway's, Unacceptable for a record's own address, and StoreUnavailable.
        """
        held = [entry for pa in dict.fromkeys(pas) if (entry := self._held(pa)) is not None]
        for entry in held:
            if entry.lease is None:
                raise Unacceptable(f"{entry.key}: it is a record's own, and goes with it")
            if gateway is not None and entry.lease.node != gateway:
                raise Forbidden(f"{entry.key}: it is not of a pool of {gateway}")
        await self._granting.give_back(held)

    async def sweep(self) -> int:
        """Return what nobody needs any more, and say how many leases that is. Raises StoreUnavailable.

        Those are leases of gateways and virtual subnets that are gone, of CAs that are gone or have an
        address of their own by now, and all but the first for one CA at one gateway. Addresses that are in
        no pool any more are forgotten.
        """
        replica = self._replica
        if not replica.is_synced or replica.stale_since is not None:
            return 0
        swept = 0
        entries = list(replica.entries(Kind.LEASE))
        for start in range(0, len(entries), LOOKED_AT):
            some = entries[start : start + LOOKED_AT]
            swept += await self._granting.give_back([entry for entry in some if self._is_unneeded(entry)])
            for entry in some:
                if self._is_of_no_pool(entry):
                    with suppress(Conflict, Taken):
                        await self._store.delete(entry.key, entry.epoch)
            await asyncio.sleep(0)
        return swept

    def _need(self, domain: Domain, vsid: Vsid, ca: CustomerAddress) -> LookupRecord | bool:
        """Return whether a CA needs a lease, or the record of one that has an address of its own."""
        if domain.is_own(ca):
            return True
        if not domain.is_inside(ca):
            return domain.is_beyond(ca)
        record = self._replica.find(vsid, ca)
        if record is None:
            return False
        return record if record.translation is Translation.REWRITE else True

    def _standing(self, vsid: Vsid, ca: CustomerAddress, node: str) -> Lease | None:
        """Return a gateway's lease for a CA: the first, if two lookup nodes have each made one."""
        pools = self._domains.pools(node, ca.version)
        found = (
            lease
            for lease in self._replica.granted.leases_of(vsid, ca)
            if lease.node == node and self._granting.is_usable(pools, lease.pa)
        )
        return min(found, key=lambda lease: lease.revision, default=None)

    def _not_seen_yet(self) -> dict[_At, Lease]:
        """Return what this node has leased and its replica does not show yet."""
        if self._unseen:
            shown = self._replica.revision
            self._unseen = {key: lease for key, lease in self._unseen.items() if lease.revision > shown}
        return self._unseen

    def _held(self, pa: ProviderAddress) -> Stored | None:
        entry = self._replica.entry(LeaseKey(pa))
        grant = entry.value if entry is not None else None
        return entry if isinstance(grant, Grant) and grant.returned_at is None else None

    def _begin(self, domain: Domain, vsid: Vsid, ca: CustomerAddress, node: str) -> asyncio.Task[Lease]:
        """Begin to lease an address. Raises NoLease where the tenant holds as many as it may."""
        tenant = domain.tenant.name
        if not domain.is_own(ca):
            if self._is_at_limit(domain, node):
                raise self._no_lease(WhyNoLease.TENANT_LIMIT, tenant, node)
            self._asked[tenant, node].add((vsid, ca))
        making = asyncio.create_task(self._make(domain, vsid, ca, node))
        self._making[vsid, ca, node] = making

        def done(task: asyncio.Task[Lease]) -> None:
            del self._making[vsid, ca, node]
            asked = self._asked.get((tenant, node), set())
            asked.discard((vsid, ca))
            if not asked:
                self._asked.pop((tenant, node), None)
            if not task.cancelled():
                task.exception()  # those who asked may all have gone

        making.add_done_callback(done)
        return making

    async def _make(self, domain: Domain, vsid: Vsid, ca: CustomerAddress, node: str) -> Lease:
        async def write(pa: ProviderAddress) -> Stored:
            return await self._granting.grant(pa, Grant(vsid, ca, node, leased=True))

        entry = await self._granting.with_address(self._domains.pools(node, ca.version), vsid, ca, write)
        own = entry.lease if entry is not None else None
        if entry is None or own is None:
            raise self._no_lease(WhyNoLease.POOL_EMPTY, domain.tenant.name, node)
        if not await self._replica.reached(entry.revision, OWN_REPLICA_SECONDS):
            self._unseen[vsid, ca, node] = own
        first = self._standing(vsid, ca, node)
        if first is None or first.pa == own.pa:
            return own
        await self._granting.give_back([entry])
        return first

    def _is_at_limit(self, domain: Domain, node: str) -> bool:
        """Whether a tenant holds as many leases of a gateway as it may, besides that of its own CAs."""
        routing = domain.routing
        unseen = {
            (vsid, ca)
            for vsid, ca, at in self._not_seen_yet()
            if at == node and vsid in routing.vsids and not domain.is_own(ca)
        }
        asked = unseen.union(self._asked.get((domain.tenant.name, node), ()))
        granted, most = self._replica.granted, self._domains.lease_limit(domain.tenant)
        if granted.held(routing.vsids, node) + len(asked) < most:
            return False
        new = sum(self._standing(vsid, ca, node) is None for vsid, ca in asked)
        return granted.bounded(domain.tenant, node) + new >= most

    def _no_lease(self, reason: WhyNoLease, tenant: str, node: str) -> NoLease:
        """Tell operators, though seldom: a VM that scans a site's prefix would have it told each time."""
        now = self._now()
        about = tenant, node, reason
        if about not in self._told or abs(now - self._told[about]) >= TOLD_EVERY:
            self._told = {key: at for key, at in self._told.items() if abs(now - at) < TOLD_EVERY}
            self._told[about] = now
            words = f"tenant {tenant} gets no lease at {node}: {WHY_NO_LEASE[reason]}"
            self._alerts.tell(AlertKind.NO_LEASE, words, tenant)
        return NoLease(reason)

    def _is_unneeded(self, entry: Stored) -> bool:
        lease = entry.lease
        # Of a claim's changes, which share a revision, some may not have been told yet.
        if lease is None or entry.revision > self._replica.complete:
            return False
        domain = self._domains.find(lease.vsid)
        if domain is None or lease.node not in domain.tenant.gateways:
            return True
        if (
            domain.routing.home(lease.ca) != lease.vsid
            or self._need(domain, lease.vsid, lease.ca) is not True
        ):
            return True
        return self._standing(lease.vsid, lease.ca, lease.node) != lease

    def _is_of_no_pool(self, entry: Stored) -> bool:
        key, grant = entry.key, entry.value
        if not isinstance(key, LeaseKey) or not isinstance(grant, Grant) or grant.returned_at is None:
            return False
        return is_free(grant, self._now()) and not self._granting.is_in_a_pool(key.pa)
