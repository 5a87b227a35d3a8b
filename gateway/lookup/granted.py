"""Whose the provider addresses of pools are, as a replica knows it: records', or leased by gateways."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator, Set

from gateway.lookup.entries import Grant, LeaseKey, Stored
from policies.addresses import CustomerAddress, Prefix, ProviderAddress, Vsid
from policies.model import Lease, Tenant


class Granted:
    """Grants by provider address, in the order of these; and the leases among them by customer address."""

    def __init__(self) -> None:
        self._entries: dict[LeaseKey, Stored] = {}
        # Of those that gateways hold: usually one each, several only where a tenant has several gateways.
        self._leases: dict[Vsid, dict[CustomerAddress, tuple[Lease, ...]]] = {}
        self._held: dict[str, Counter[Vsid]] = {}
        # All addresses in order, by their length: made when somebody first asks for those of a pool.
        self._order: dict[int, list[ProviderAddress]] | None = None

    def __len__(self) -> int:
        """How many addresses there are, whether held or given back."""
        return len(self._entries)

    def __iter__(self) -> Iterator[Stored]:
        """Every entry, in no order. Nothing may change meanwhile."""
        return iter(self._entries.values())

    def put(self, key: LeaseKey, entry: Stored) -> None:
        """Take an entry or a tombstone, whatever was there."""
        old = self._entries.pop(key, None) if entry.value is None else self._entries.get(key)
        if entry.value is not None:
            self._entries[key] = entry
        if self._order is not None and (old is None) != (entry.value is None):
            _keep(self._order[len(key.pa)], key.pa, is_there=old is None)
        before, after = old.lease if old is not None else None, entry.lease
        if before is not None:
            self._forget(before)
        if after is not None:
            self._add(after)

    def find(self, key: LeaseKey) -> Stored | None:
        """Return the live entry of an address: whose it is, or last was."""
        return self._entries.get(key)

    def is_told(self, entry: Stored) -> bool:
        """Whether watchers are told of a change that has not been taken yet.

        They are told of leases and of their ends alone: what a record has is said by the record.
        """
        key = entry.key
        return not isinstance(key, LeaseKey) or entry.lease is not None or self._lease(key) is not None

    def loses(self, entry: Stored) -> bool:
        """Whether a change that has not been taken yet ends a lease, and who was told of that cannot see it.

        They see by the virtual subnet, and that is another one, or none. A store tells of the lease's
        end first; this is from one whose history is gone.
        """
        key, value = entry.key, entry.value
        lease = self._lease(key) if isinstance(key, LeaseKey) else None
        return lease is not None and not (isinstance(value, Grant) and value.vsid == lease.vsid)

    def grant(self, pa: ProviderAddress) -> Grant | None:
        """Return whose an address is, or last was; None if it has never been anybody's."""
        entry = self._entries.get(LeaseKey(pa))
        return entry.value if entry is not None and isinstance(entry.value, Grant) else None

    def within(self, network: Prefix) -> Iterator[tuple[ProviderAddress, Grant]]:
        """The addresses of a pool that are somebody's, or were, in order. Nothing may change meanwhile."""
        if self._order is None:
            self._order = {4: [], 16: []}
            for key in self._entries:
                self._order[len(key.pa)].append(key.pa)
            for addresses in self._order.values():
                addresses.sort()
        order = self._order[network.max_prefixlen // 8]
        start = bisect.bisect_left(order, network.network_address.packed)
        end = bisect.bisect_right(order, network.broadcast_address.packed)
        for position in range(start, end):
            if (grant := self.grant(order[position])) is not None:
                yield order[position], grant

    def leases_of(self, vsid: Vsid, ca: CustomerAddress) -> tuple[Lease, ...]:
        """Return the leases that stand for a customer address, one for each gateway at most."""
        return self._leases.get(vsid, {}).get(ca, ())

    def leases_in(self, vsid: Vsid) -> list[Lease]:
        """Return the leases of a virtual subnet, in no order."""
        return [lease for leases in self._leases.get(vsid, {}).values() for lease in leases]

    def leased_vsids(self) -> list[Vsid]:
        """Return the virtual subnets with leases, in order."""
        return sorted(self._leases)

    def held(self, vsids: Set[Vsid], node: str) -> int:
        """Return how many leases of some virtual subnets are of a gateway's pools."""
        held = self._held.get(node)
        return sum(held[vsid] for vsid in vsids & held.keys()) if held is not None else 0

    def bounded(self, tenant: Tenant, node: str) -> int:
        """Return how many leases of a gateway's pools a tenant has of those that its `leases` bounds.

        Those of gateways' own CAs are beside them.
        """
        own = sum(
            lease.node == node
            for subnet in tenant.subnets
            for ca in subnet.gateway_addresses
            for lease in self.leases_of(subnet.vsid, ca)
        )
        return self.held({subnet.vsid for subnet in tenant.subnets}, node) - own

    def _lease(self, key: LeaseKey) -> Lease | None:
        entry = self._entries.get(key)
        return entry.lease if entry is not None else None

    def _add(self, lease: Lease) -> None:
        leases = self._leases.setdefault(lease.vsid, {})
        leases[lease.ca] = (*leases.get(lease.ca, ()), lease)
        self._held.setdefault(lease.node, Counter())[lease.vsid] += 1

    def _forget(self, lease: Lease) -> None:
        leases = self._leases[lease.vsid]
        left = tuple(each for each in leases[lease.ca] if each.pa != lease.pa)
        if left:
            leases[lease.ca] = left
        else:
            del leases[lease.ca]
            if not leases:
                del self._leases[lease.vsid]
        held = self._held[lease.node]
        held[lease.vsid] -= 1
        if not held[lease.vsid]:
            del held[lease.vsid]
            if not held:
                del self._held[lease.node]


def _keep(order: list[ProviderAddress], pa: ProviderAddress, *, is_there: bool) -> None:
    if is_there:
        bisect.insort(order, pa)
    else:
        del order[bisect.bisect_left(order, pa)]
