"""The lookup store of tests and simulations: everything that a store promises, but for durability."""

from __future__ import annotations

import asyncio
import bisect
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from time import time

from gateway.lookup.claims import Claim, Write, decide, next_write
from gateway.lookup.entries import Key, Kind, Placement, Progress, RecordKey, Stored, Value
from gateway.lookup.grants import grant_writes
from gateway.lookup.store import Compacted, Conflict, Expected, Page, Prefix, StoreUnavailable
from policies.addresses import CustomerAddress, MacAddress, Vsid

_LOWEST = CustomerAddress()


class MemoryStore:
    """A LookupStore in this process's memory. Its history is kept until it is compacted."""

    def __init__(self, now: Callable[[], float] = time) -> None:
        self._now = now
        self._entries: dict[Key, Stored] = {}
        self._keys: defaultdict[Kind, list[Key]] = defaultdict(list)
        self._by_mac: defaultdict[tuple[Vsid, MacAddress], set[RecordKey]] = defaultdict(set)
        self._history: list[Stored] = []
        self._revision = 0
        self._compacted = 0
        self._changed = asyncio.Event()
        self._trouble: str | None = None

    async def get(self, key: Key) -> Stored | None:
        self._check_available()
        return self._entries.get(key)

    async def page(self, prefix: Prefix, after: Key | None, limit: int) -> Page:
        self._check_available()
        keys = self._keys[prefix.kind]
        start = 0 if after is None else bisect.bisect_right(keys, after)
        if prefix.vsid is not None:
            start = max(start, bisect.bisect_left(keys, RecordKey(prefix.vsid, _LOWEST)))
        found: list[Stored] = []
        for position in range(start, len(keys)):
            entry = self._entries[keys[position]]
            if prefix.vsid is not None and _vsid(entry.key) != prefix.vsid:
                break
            if entry.value is None:
                continue
            if len(found) == limit:
                return Page(found, self._revision, more=True)
            found.append(entry)
        return Page(found, self._revision, more=False)

    async def put(self, key: Key, value: Value, expected: Expected) -> Stored:
        self._check_available()
        self._set(key, value, expected)
        return self._entries[key]

    async def delete(self, key: Key, expected: Expected) -> Stored | None:
        self._check_available()
        self._set(key, None, expected)
        return self._entries.get(key)

    async def claim(self, claim: Claim) -> list[Stored]:
        self._check_available()
        named = {RecordKey(claim.vsid, ca) for ca in claim.addresses}
        concerned = self._by_mac[claim.vsid, claim.mac] | (named & self._entries.keys())
        self._write(decide(claim, [self._entries[key] for key in sorted(concerned)]))
        return [self._entries[key] for key in sorted(self._by_mac[claim.vsid, claim.mac])]

    async def watch(self, after: int) -> AsyncIterator[Stored | Progress]:
        told: int | None = None
        while True:
            self._check_available()
            if not self._compacted <= after <= self._revision:
                raise Compacted(f"the history after revision {after} is not here")
            changed, revision = self._changed, self._revision
            start = bisect.bisect_right(self._history, after, key=_revision)
            for change in self._history[start:]:
                yield change
            after = revision
            if told != revision:
                told = revision
                yield Progress(revision)
            await changed.wait()

    async def compact(self, revision: int) -> None:
        self._check_available()
        self._compacted = max(self._compacted, min(revision, self._revision))
        del self._history[: bisect.bisect_right(self._history, self._compacted, key=_revision)]

    async def close(self) -> None:
        self.go_away("the store is closed")

    def go_away(self, reason: str) -> None:
        """Fail every call and every watch from now on: what an outage looks like."""
        self._trouble = reason
        self._wake()

    def come_back(self) -> None:
        """End an outage."""
        self._trouble = None

    def _check_available(self) -> None:
        if self._trouble is not None:
            raise StoreUnavailable(self._trouble)

    def _set(self, key: Key, value: Value | None, expected: Expected) -> None:
        current = self._entries.get(key)
        Conflict.check(key, current, expected)
        write = next_write(current, key, value)
        self._write(() if write is None else (write,))

    def _write(self, writes: Iterable[Write]) -> None:
        """Make changes that belong together, under one revision. Raises Taken before it makes any."""
        writes = tuple(writes)
        revision = self._revision + 1
        for write in (*writes, *grant_writes(writes, self._entries.get, self._now())):
            entry = Stored(write.key, write.value, write.epoch, revision)
            before = self._entries.get(entry.key)
            if before is None:
                bisect.insort(self._keys[entry.key.kind], entry.key)
            self._index(before, entry)
            self._entries[entry.key] = entry
            self._history.append(entry)
            self._revision = revision
        self._wake()

    def _index(self, before: Stored | None, after: Stored) -> None:
        if not isinstance(after.key, RecordKey):
            return
        if before is not None and isinstance(before.value, Placement):
            self._by_mac[after.key.vsid, before.value.mac].discard(after.key)
        if isinstance(after.value, Placement):
            self._by_mac[after.key.vsid, after.value.mac].add(after.key)

    def _wake(self) -> None:
        """Have watchers look again. Each takes the event that it waits for before it looks."""
        self._changed.set()
        self._changed = asyncio.Event()


def _vsid(key: Key) -> Vsid | None:
    return key.vsid if isinstance(key, RecordKey) else None


def _revision(entry: Stored) -> int:
    return entry.revision
