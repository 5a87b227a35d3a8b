"""Which provider address stands for which customer address, in both directions (IP rewrite).

What stood for one until a moment ago is still understood: packets are on their way, and directories differ
while a change is.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.forwarding.directory import Directory, Holder
from gateway.forwarding.node import Node
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.model import Lease, LookupRecord, SubnetHop, Translation
from policies.tables import RoutingDomain, Tables

UNDERSTOOD = 30.0
"""So many seconds an address is understood that stands for nobody any more: less than its quarantine."""

# Former addresses that are remembered; the oldest makes room.
CAPACITY = 65_536


class Former(msgspec.Struct, frozen=True, gc=False):
    """Whose a provider address was, and until when it is understood."""

    holder: Holder
    until: float


class Formers:
    """The provider addresses that have lately ceased to stand for somebody."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._formers: dict[bytes, Former] = {}

    def take_over(self, other: Formers) -> None:
        """Know what another knows now."""
        self._formers = dict(other._formers)

    def add(self, holder: Holder, now: float) -> None:
        """A provider address stands for its holder no longer."""
        self._formers.pop(holder.pa, None)
        if len(self._formers) >= self._capacity:
            del self._formers[next(iter(self._formers))]
        self._formers[holder.pa] = Former(holder, now + UNDERSTOOD)

    def find(self, pa: bytes, now: float) -> Holder | None:
        """Return whose it was not long ago."""
        former = self._formers.get(pa)
        return former.holder if former is not None and now < former.until else None

    def expire(self, now: float) -> None:
        """Forget what is not understood any more."""
        for pa, former in [*self._formers.items()]:
            if now < former.until:
                return
            del self._formers[pa]


class Translations:
    """The directory's provider addresses as one node uses them."""

    def __init__(self, node: Node, tables: Tables, directory: Directory, formers: Formers) -> None:
        self._node = node
        self._tables = tables
        self._directory = directory
        self._formers = formers

    def holder(self, pa: bytes, now: float) -> Holder | None:
        """Return whose a provider address is, or was until a moment ago."""
        return self._directory.holder(pa) or self._formers.find(pa, now)

    def is_ours(self, pa: bytes, now: float) -> bool:
        """Whether packets for a provider address belong here: its holder is here, or has just left.

        What only we lease from is all ours, for others may know of a new lease before we do.
        """
        if self.is_in_own_pool(pa, is_shared=False):
            return True
        holder = self.holder(pa, now)
        if isinstance(holder, Lease):
            return holder.node == self._node.name
        return holder is not None and self._node.holds(holder)

    def is_in_own_pool(self, pa: bytes, *, is_shared: bool = True) -> bool:
        """Whether a provider address is of a pool of ours, which others may share or not."""
        names = self._tables.pools.lookup(pa) or frozenset()
        own = {self._node.host} | ({self._node.name} if self._node.is_gateway else set())
        return not own.isdisjoint(names) and (is_shared or len(names) == 1)

    def is_sound(self, record: LookupRecord, domain: RoutingDomain) -> bool:
        """Whether a rewritten record is at a host that may hold the tenant, by an address of its pools."""
        return record.host in domain.hosts and record.host in (self._tables.pools.lookup(record.pa) or ())

    def record_of(self, domain: RoutingDomain, ca: bytes) -> LookupRecord | None:
        """Return the record of a CA that is in one of a tenant's virtual subnets."""
        hop = domain.routes.lookup(ca)
        return self._directory.find(hop.vsid, ca) if isinstance(hop, SubnetHop) else None

    def standing_for(self, domain: RoutingDomain, ca: bytes) -> Holder | None:
        """Return what stands for a CA as the source of what is sent from here: its own address, or a lease.

        A gateway's is one of its own pool. A host sends for a distant CA only what has come to it by mistake.
        """
        record = self.record_of(domain, ca)
        if record is not None and record.translation is Translation.REWRITE:
            return record
        leases = self._leases(domain, ca)
        own = [lease for lease in leases if lease.node == self._node.name]
        return min(own or (leases if not self._node.is_gateway else []), key=_first, default=None)

    def reaching(self, domain: RoutingDomain, ca: bytes, gateways: Iterable[str]) -> Lease | None:
        """Return the lease by which a VM reaches a distant CA: of the first gateway that has one."""
        leases = self._leases(domain, ca)
        for name in gateways:
            at = [lease for lease in leases if lease.node == name]
            if at:
                return min(at, key=_first)
        return None

    def any_for(self, domain: RoutingDomain, ca: bytes) -> ProviderAddress | None:
        """Return what stands for a CA in a packet that an error quotes: whichever gateway it is at."""
        record = self.record_of(domain, ca)
        if record is not None and record.translation is Translation.REWRITE:
            return record.pa
        holder = self.standing_for(domain, ca) or next(iter(self._leases(domain, ca)), None)
        return holder.pa if holder is not None else None

    def customer_of(self, domain: RoutingDomain, pa: bytes, now: float) -> CustomerAddress | None:
        """Return the CA that a provider address stands for within a tenant."""
        holder = self.holder(pa, now)
        return holder.ca if holder is not None and holder.vsid in domain.vsids else None

    def _leases(self, domain: RoutingDomain, ca: bytes) -> tuple[Lease, ...]:
        """What a CA is leased of pools that its gateways have still."""
        home: Vsid | None = domain.home(ca)
        leases = self._directory.leases(home, ca) if home is not None else ()
        return tuple(lease for lease in leases if lease.node in (self._tables.pools.lookup(lease.pa) or ()))


def _first(lease: Lease) -> tuple[int, bytes]:
    """Two lookup nodes may lease one CA an address each: all take the earlier, until the other is gone."""
    return lease.revision, lease.pa
