"""Grants addresses of the pools: which is free is known from this node's replica, and the store decides.

Another lookup node may be quicker. Then the store says that an address is taken, and the next one is tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress

import msgspec

from gateway.lookup.allocation import Allocation, PoolUsage
from gateway.lookup.batches import Batch
from gateway.lookup.claims import Claim, Reason, Refused
from gateway.lookup.entries import Grant, LeaseKey, Stored
from gateway.lookup.follow import latest_revision
from gateway.lookup.replica import Replica
from gateway.lookup.store import Conflict, Expect, LookupStore, StoreUnavailable, Taken
from gateway.lookup.writes import OWN_REPLICA_SECONDS, Writes
from policies.addresses import CustomerAddress, Prefix, ProviderAddress, Vsid
from policies.model import Network, Translation

ATTEMPTS = 16
"""Addresses that are tried for one CA, where other lookup nodes take them."""
AT_ONCE = 256
"""Addresses that are returned at once."""

Write = Callable[[ProviderAddress], Awaitable[Stored]]


class Granting:
    """Finds free addresses, and writes whose they are. `now` tells Unix time, in seconds."""

    def __init__(
        self, store: LookupStore, replica: Replica, writes: Writes, *, now: Callable[[], float]
    ) -> None:
        self._store = store
        self._replica = replica
        self._writes = writes
        self._now = now
        self._allocation = Allocation()
        self._configured: Network | None = None
        replica.subscribe(self._take_changes)

    async def claim(self, claim: Claim) -> list[Stored]:
        """Carry out a claim, with addresses for those of its records that need one.

        Raises Refused and StoreUnavailable.
        """
        tried: list[ProviderAddress] = []
        has_caught_up = False
        try:
            for attempt in range(ATTEMPTS):
                found = (self._take(claim.pools, claim.vsid, ca, attempt) for ca in self._lacking(claim))
                candidates = tuple(pa for pa in found if pa is not None)
                tried += candidates
                try:
                    with self._writes.timed():
                        return await self._store.claim(msgspec.structs.replace(claim, candidates=candidates))
                except Taken:
                    await self._catch_up()
                    continue
                except Refused as refused:
                    if refused.reason is not Reason.NO_ADDRESS or has_caught_up:
                        raise
                # There may be records, or addresses, that this node has not heard of yet.
                has_caught_up = True
                await self._catch_up()
        finally:
            self._release(tried)
        raise StoreUnavailable(_OTHERS)

    async def with_address(
        self, pools: Sequence[Prefix], vsid: Vsid, ca: CustomerAddress, write: Write
    ) -> Stored | None:
        """Make a write with a free address, and anew with another while it is Taken; None: none is free.

        Raises what the write does, and StoreUnavailable.
        """
        tried: list[ProviderAddress] = []
        try:
            for attempt in range(ATTEMPTS):
                pa = self._take(pools, vsid, ca, attempt)
                if pa is None:
                    return None
                tried.append(pa)
                try:
                    return await write(pa)
                except Taken:
                    await self._catch_up()
        finally:
            self._release(tried)
        raise StoreUnavailable(_OTHERS)

    async def grant(self, pa: ProviderAddress, grant: Grant) -> Stored:
        """Write whose an address is, if it is as this node knows it. Raises Taken and StoreUnavailable."""
        key = LeaseKey(pa)
        known = self._replica.entry(key)
        try:
            with self._writes.timed():
                entry = await self._store.put(key, grant, Expect.ABSENT if known is None else known.epoch)
        except Conflict:
            raise Taken(key, None) from None
        self._allocation.changed(pa, grant)
        return entry

    async def _catch_up(self) -> None:
        """Hear of what others have taken."""
        await self._replica.reached(await latest_revision(self._store), OWN_REPLICA_SECONDS)
        await asyncio.sleep(0)  # the replica tells of it when it has nothing else to do

    async def give_back(self, entries: Sequence[Stored]) -> int:
        """Return addresses that are as they have been read, and say how many. Raises StoreUnavailable."""
        revisions: list[int] = []
        for start in range(0, len(entries), AT_ONCE):
            done = await asyncio.gather(*map(self._give_back_one, entries[start : start + AT_ONCE]))
            revisions += [entry.revision for entry in done if entry is not None]
        await self._replica.reached(max(revisions, default=0), OWN_REPLICA_SECONDS)
        return len(revisions)

    def is_usable(self, pools: Sequence[Prefix], pa: ProviderAddress) -> bool:
        """Whether an address of pools may be granted, as far as nobody has it."""
        self._configure()
        return self._allocation.is_usable(pools, pa)

    def is_in_a_pool(self, pa: ProviderAddress) -> bool:
        """Whether an address is in any node's pool."""
        self._configure()
        return self._allocation.has(pa)

    def usage(self) -> Iterator[PoolUsage]:
        """Each pool, and how it is used."""
        self._configure()
        return self._allocation.usage(self._now())

    async def _give_back_one(self, entry: Stored) -> Stored | None:
        key, grant = entry.key, entry.value
        if not isinstance(key, LeaseKey) or not isinstance(grant, Grant):
            return None
        returned = msgspec.structs.replace(grant, returned_at=self._now())
        with suppress(Conflict, Taken):
            with self._writes.timed():
                stored = await self._store.put(key, returned, entry.epoch)
            self._allocation.changed(key.pa, returned)
            return stored
        return None

    def _lacking(self, claim: Claim) -> Iterator[CustomerAddress]:
        """The CAs of a claim that need an address, as far as is known here."""
        recorded = (record.ca for record in self._replica.find_by_mac(claim.vsid, claim.mac))
        for ca in dict.fromkeys((*recorded, *claim.addresses)):
            record = self._replica.find(claim.vsid, ca)
            translation = claim.translation if record is None else record.translation
            if translation is Translation.REWRITE and (record is None or not claim.keeps(record.pa)):
                yield ca

    def _take(
        self, pools: Sequence[Prefix], vsid: Vsid, ca: CustomerAddress, attempt: int
    ) -> ProviderAddress | None:
        self._configure()
        return self._allocation.take(pools, vsid, ca, self._now(), attempt)

    def _release(self, pas: Sequence[ProviderAddress]) -> None:
        for pa in pas:
            self._allocation.release(pa)

    def _configure(self) -> None:
        network = self._replica.network
        if network is not self._configured:
            self._configured = network
            self._allocation.configure(network, self._replica.granted.within)

    def _take_changes(self, batch: Batch) -> None:
        for entry in batch.changes:
            if isinstance(entry.key, LeaseKey):
                grant = entry.value
                self._allocation.changed(entry.key.pa, grant if isinstance(grant, Grant) else None)


_OTHERS = "other lookup nodes take addresses more quickly than this one: try again"
