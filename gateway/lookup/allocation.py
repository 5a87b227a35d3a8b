"""Which free address of a pool comes next, kept from change to change of what is granted.

The oldest that was returned comes first, once its quarantine is over, and only then one that has never been
used: so a store keeps no more than is used at once. A customer address that comes back has the one it had.
Nothing here ever goes through a whole pool: one of IPv6 has no end.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Container, Iterable, Iterator, Sequence

import msgspec

from gateway.lookup.entries import Grant
from gateway.lookup.grants import is_free
from gateway.lookup.limits import LARGEST_NUMBER
from policies.addresses import CustomerAddress, Prefix, ProviderAddress, Vsid
from policies.model import Network, ProviderGateway, ProviderHost
from policies.tables import PrefixTable

Grants = Callable[[Prefix], Iterable[tuple[ProviderAddress, Grant]]]
"""What is granted of a pool, and what has been."""

_FARTHEST = 10
"""After so many attempts, an address is at most two to that power farther on."""
_STALE = 64
"""Of the queue of returned addresses, so many may be out of date before it is made anew."""


class PoolUsage(msgspec.Struct, frozen=True):
    """How a pool is used."""

    prefix: Prefix
    nodes: tuple[str, ...]
    """Whose it is: one gateway's, or that of the hosts which share it."""
    size: int
    """LARGEST_NUMBER where there are more, in IPv6."""
    held: int
    quarantined: int

    @property
    def free(self) -> int:
        """How many are nobody's, and may be somebody's at once."""
        return max(0, self.size - self.held - self.quarantined)


class Allocation:
    """The pools of all hosts and gateways, and which of their addresses are free.

    `start` says where in a pool the search for one that has never been used begins: at random, so that two
    lookup nodes seldom propose the same.
    """

    def __init__(self, start: Callable[[int], int] = random.randrange) -> None:
        self._start = start
        self._pools: dict[Prefix, _Pool] = {}
        self._table: PrefixTable[_Pool] = PrefixTable(())
        self._reserved: set[ProviderAddress] = set()

    def configure(self, network: Network, grants: Grants) -> None:
        """Have the pools be those of a network."""
        nodes: tuple[ProviderHost | ProviderGateway, ...] = (*network.hosts, *network.gateways)
        owners: dict[Prefix, list[str]] = {}
        for node in nodes:
            for prefix in node.pools:
                owners.setdefault(prefix, []).append(node.name)
        self._pools = {prefix: self._pools.get(prefix) or self._new(prefix, grants) for prefix in owners}
        self._table = PrefixTable(self._pools.items())
        members: dict[Prefix, list[ProviderAddress]] = {}
        for node in nodes if owners else ():
            for pa in node.provider_addresses:
                if (pool := self._table.lookup(pa)) is not None:
                    members.setdefault(pool.prefix, []).append(pa)
        for prefix, pool in self._pools.items():
            pool.own(tuple(owners[prefix]), members.get(prefix, ()))

    def changed(self, pa: ProviderAddress, grant: Grant | None) -> None:
        """An address has been granted or returned; None: nothing is known of it any more."""
        pool = self._table.lookup(pa)
        if pool is not None:
            pool.change(pa, grant)

    def take(
        self, prefixes: Iterable[Prefix], vsid: Vsid, ca: CustomerAddress, now: float, attempt: int = 0
    ) -> ProviderAddress | None:
        """Return a free address of a CA's family, or None. Nobody else gets it before it is released.

        Where earlier attempts were in vain, it is one farther on, at random: other lookup nodes go by the
        same order, and would be met at each address of it.
        """
        pools = [self._pools[each] for each in prefixes if each.version == ca.version and each in self._pools]
        for pool in pools:
            former = pool.former.get((vsid, ca))
            if former is not None and former not in self._reserved and pool.is_usable(former):
                self._reserved.add(former)
                return former
        for pool in pools:
            pa = pool.next_free(self._reserved, now, self._start(1 << min(attempt, _FARTHEST)))
            if pa is not None:
                self._reserved.add(pa)
                return pa
        return None

    def release(self, pa: ProviderAddress) -> None:
        """An address has been granted by now, or it has not been wanted in the end."""
        self._reserved.discard(pa)
        pool = self._table.lookup(pa)
        if pool is not None:
            pool.put_back(pa)

    def is_usable(self, prefixes: Sequence[Prefix], pa: ProviderAddress) -> bool:
        """Whether an address may be granted of pools, by whomever it is held."""
        pool = self._table.lookup(pa)
        return pool is not None and pool.prefix in prefixes and pool.is_usable(pa)

    def has(self, pa: ProviderAddress) -> bool:
        """Whether an address is in any pool."""
        return self._table.lookup(pa) is not None

    def usage(self, now: float) -> Iterator[PoolUsage]:
        """Each pool, in the order of the configuration."""
        return (pool.usage(now) for pool in self._pools.values())

    def _new(self, prefix: Prefix, grants: Grants) -> _Pool:
        pool = _Pool(prefix, self._start(prefix.num_addresses))
        for pa, grant in grants(prefix):
            pool.change(pa, grant)
        return pool


class _Pool:
    """One prefix, and what is known of its addresses. The others have never been used."""

    def __init__(self, prefix: Prefix, start: int) -> None:
        self.prefix = prefix
        self.former: dict[tuple[Vsid, CustomerAddress], ProviderAddress] = {}
        """What a customer address had before it was returned, unless somebody else has it by now."""
        self._nodes: tuple[str, ...] = ()
        self._held: set[ProviderAddress] = set()
        self._returned: dict[ProviderAddress, Grant] = {}
        # The returned ones by when that was, and some that are not any more, or are again.
        self._queue: list[tuple[float, ProviderAddress]] = []
        self._first = int(prefix.network_address)
        self._cursor = start
        self._unusable: frozenset[ProviderAddress] = frozenset()
        self._used = 0  # of those that are usable

    def own(self, nodes: tuple[str, ...], members: Iterable[ProviderAddress]) -> None:
        """Say whose the pool is, and which of its addresses are nodes' own."""
        self._nodes = nodes
        ends = map(self._address, (0, self.prefix.num_addresses - 1))  # see `addresses.is_leased`
        unusable = frozenset((*ends, *members))
        if unusable != self._unusable:
            self._unusable = unusable
            known = len(self._held) + len(self._returned)
            self._used = known - sum(pa in self._held or pa in self._returned for pa in unusable)

    def is_usable(self, pa: ProviderAddress) -> bool:
        return pa not in self._unusable

    def change(self, pa: ProviderAddress, grant: Grant | None) -> None:
        self._forget(pa)
        if grant is None:
            return
        self._used += pa not in self._unusable
        if grant.returned_at is None:
            self._held.add(pa)
        else:
            self._returned[pa] = grant
            self.former[grant.vsid, grant.ca] = pa
            self._enqueue(grant.returned_at, pa)

    def _forget(self, pa: ProviderAddress) -> None:
        if pa in self._held:
            self._held.remove(pa)
        elif (grant := self._returned.pop(pa, None)) is not None:
            if self.former.get((grant.vsid, grant.ca)) == pa:
                del self.former[grant.vsid, grant.ca]
        else:
            return
        self._used -= pa not in self._unusable

    def next_free(
        self, reserved: Container[ProviderAddress], now: float, passed_over: int
    ) -> ProviderAddress | None:
        """Return the next free address but so many, or the last of them."""
        found: list[ProviderAddress] = []
        while len(found) <= passed_over and (pa := self._oldest_returned(reserved, now)) is not None:
            found.append(pa)
        for pa in found[:-1]:
            self.put_back(pa)
        if found:
            return found[-1]
        self._cursor = (self._cursor + passed_over) % self.prefix.num_addresses
        return self._never_used(reserved)

    def put_back(self, pa: ProviderAddress) -> None:
        """An address that was proposed may be proposed again, unless it is granted by now."""
        grant = self._returned.get(pa)
        if grant is not None and grant.returned_at is not None:
            self._enqueue(grant.returned_at, pa)

    def _enqueue(self, at: float, pa: ProviderAddress) -> None:
        heapq.heappush(self._queue, (at, pa))
        if len(self._queue) > 2 * len(self._returned) + _STALE:
            self._queue = [(grant.returned_at or 0.0, pa) for pa, grant in self._returned.items()]
            heapq.heapify(self._queue)

    def _oldest_returned(self, reserved: Container[ProviderAddress], now: float) -> ProviderAddress | None:
        while self._queue:
            at, pa = self._queue[0]
            grant = self._returned.get(pa)
            is_current = grant is not None and grant.returned_at == at
            if is_current and not is_free(grant, now):
                return None
            # What is reserved is put back by whoever has done so.
            heapq.heappop(self._queue)
            if is_current and pa not in reserved and pa not in self._unusable:
                return pa
        return None

    def _never_used(self, reserved: Container[ProviderAddress]) -> ProviderAddress | None:
        if self._used >= self._size:
            return None
        count = self.prefix.num_addresses
        for _ in range(count):
            pa = self._address(self._cursor)
            self._cursor = (self._cursor + 1) % count
            is_known = pa in self._held or pa in self._returned
            if not is_known and pa not in reserved and pa not in self._unusable:
                return pa
        return None

    @property
    def _size(self) -> int:
        return self.prefix.num_addresses - len(self._unusable)

    def _address(self, offset: int) -> ProviderAddress:
        return ProviderAddress((self._first + offset).to_bytes(self.prefix.max_prefixlen // 8))

    def usage(self, now: float) -> PoolUsage:
        return PoolUsage(
            prefix=self.prefix,
            nodes=self._nodes,
            size=min(self._size, LARGEST_NUMBER),
            held=len(self._held),
            quarantined=sum(not is_free(grant, now) for grant in self._returned.values()),
        )
