"""The lookup store on an etcd cluster: many lookup nodes, one truth.

Every write is one transaction that compares the revisions of all that it was decided
from. So it can be repeated after a member has not answered, and by the identity that each
write carries it is found out whether it has been made meanwhile.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from time import time

from gateway.lookup.claims import Claim, Write, decide, next_write
from gateway.lookup.entries import Key, Placement, Progress, RecordKey, Stored, Value
from gateway.lookup.grants import concerned, grant_writes, holders
from gateway.lookup.store import Conflict, Expected, Page, Prefix, StoreUnavailable
from gateway.lookup.stores import etcd_layout
from gateway.lookup.stores.etcd_gateway import EtcdGateway, OutOfRange
from gateway.lookup.stores.etcd_layout import Layout, mac_of
from gateway.lookup.stores.etcd_pages import Pages
from gateway.lookup.stores.etcd_watch import History
from gateway.lookup.stores.etcd_wire import KeyValue
from policies.addresses import CustomerAddress
from policies.services import Etcd

# etcd takes 128 operations in a transaction unless configured otherwise.
READ_AT_ONCE = 100


class Snapshot:
    """What some keys were at one revision."""

    def __init__(self, gateway: EtcdGateway) -> None:
        self._gateway = gateway
        self._revision = 0
        self.found: dict[bytes, KeyValue | None] = {}

    async def read(self, keys: Iterable[bytes]) -> None:
        """Add keys that are not yet in it. Raises OutOfRange if its revision is gone meanwhile."""
        missing = [key for key in dict.fromkeys(keys) if key not in self.found]
        for start in range(0, len(missing), READ_AT_ONCE):
            part = missing[start : start + READ_AT_ONCE]
            answer = await self._gateway.read(part, revision=self._revision)
            self._revision = self._revision or answer.header.revision
            self.found |= zip(part, (each.only for each in answer.ranges), strict=True)

    def mod_revision(self, key: bytes) -> int:
        """Return when a key was changed; 0 if it is not there."""
        found = self.found[key]
        return found.mod_revision if found is not None else 0


class EtcdStore:
    """A LookupStore whose revisions are etcd's own."""

    def __init__(self, gateway: EtcdGateway, layout: Layout, now: Callable[[], float]) -> None:
        self._gateway = gateway
        self._layout = layout
        self._now = now
        self._pages = Pages(gateway, layout)
        self._history = History(gateway, layout)
        # So that no two writes ever, of any node, are taken for the same one.
        token, numbers = secrets.token_hex(8), itertools.count()
        self._identities = (f"{token}-{number}" for number in numbers)

    @classmethod
    async def open(cls, settings: Etcd, *, now: Callable[[], float] = time) -> EtcdStore:
        """Return the store, whether the cluster answers yet or not.

        Raises ConfigurationError where the certificates cannot be used.
        """
        return cls(EtcdGateway(settings), Layout(settings.prefix), now)

    async def close(self) -> None:
        await self._gateway.close()

    async def get(self, key: Key) -> Stored | None:
        answer = await self._gateway.range(self._layout.key(key))
        return self._read(answer.only)

    async def page(self, prefix: Prefix, after: Key | None, limit: int) -> Page:
        return await self._pages.page(prefix, after, limit)

    async def put(self, key: Key, value: Value, expected: Expected) -> Stored:
        stored = await self._change(key, value, expected)
        if stored is None:
            raise RuntimeError(f"{key} has been written and is not there")
        return stored

    async def delete(self, key: Key, expected: Expected) -> Stored | None:
        return await self._change(key, None, expected)

    async def _change(self, key: Key, value: Value | None, expected: Expected) -> Stored | None:
        wanted = [where := self._layout.key(key)]
        if isinstance(key, RecordKey) and isinstance(value, Placement):
            wanted.append(
                self._layout.index_key(key.vsid, value.mac)
            )  # which it may need, in the same breath
        while True:
            snapshot = Snapshot(self._gateway)
            await snapshot.read(wanted)
            current = self._read(snapshot.found[where])
            Conflict.check(key, current, expected)
            write = next_write(current, key, value)
            if write is None:
                return current
            done = await self._commit(snapshot, [write])
            if done is not None:
                return done[0]

    async def claim(self, claim: Claim) -> list[Stored]:
        index = self._layout.index_key(claim.vsid, claim.mac)
        named = [RecordKey(claim.vsid, ca) for ca in claim.addresses]
        while True:
            snapshot = Snapshot(self._gateway)
            try:
                await snapshot.read([index, *map(self._layout.key, named)])
                recorded = [RecordKey(claim.vsid, ca) for ca in etcd_layout.read_index(snapshot.found[index])]
                await snapshot.read(map(self._layout.key, recorded))
            except OutOfRange:
                continue
            keys = sorted({*named, *recorded})
            found = (self._read(snapshot.found[self._layout.key(key)]) for key in keys)
            entries = {entry.key: entry for entry in found if entry is not None}
            writes = decide(claim, entries.values())
            done = await self._commit(snapshot, writes) if writes else []
            if done is not None:
                entries |= {entry.key: entry for entry in done}
                return [entries[key] for key in sorted(entries) if mac_of(entries[key]) == claim.mac]

    async def _commit(self, snapshot: Snapshot, writes: Sequence[Write]) -> list[Stored] | None:
        """Make some changes if nothing that was read has changed; None if it has.

        They are all or none, under one revision, and so is what they come to for provider addresses. That is
        not returned. Raises Taken.
        """
        try:
            indices = await self._indices(snapshot, writes)
            grants = await self._grants(snapshot, writes)
        except OutOfRange:
            return None
        identity = next(self._identities)
        values = {
            self._layout.key(write.key): etcd_layout.written(write, identity) for write in (*writes, *grants)
        }
        first = next(iter(values))
        unchanged = {key: snapshot.mod_revision(key) for key in snapshot.found}
        answer = await self._gateway.write(unchanged, values | indices, first)
        revision: int | None = answer.header.revision
        if not answer.succeeded:
            if not answer.is_repeated:
                return None
            revision = await self._find(identity, answer.ranges[0].only, snapshot.mod_revision(first))
        if revision is None:
            return None
        return [Stored(write.key, write.value, write.epoch, revision) for write in writes]

    async def _find(self, identity: str, found: KeyValue | None, base: int) -> int | None:
        """Return the revision of a write that nobody answered, among those of its key after a revision.

        None if it has not been made; it cannot be any more, since the key has changed.
        """
        while found is not None and found.mod_revision > base:
            if etcd_layout.identity(found) == identity:
                return found.mod_revision
            try:
                answer = await self._gateway.range(found.key, revision=found.mod_revision - 1)
            except OutOfRange:
                message = "etcd did not answer a write, and whether it was made is no longer in its history"
                raise StoreUnavailable(message) from None
            found = answer.only
        return None

    async def _indices(self, snapshot: Snapshot, writes: Iterable[Write]) -> dict[bytes, bytes]:
        """Return the indices of MACs that change with records, having read them."""
        moves: list[tuple[bytes, CustomerAddress, bool]] = []
        for write in writes:
            if not isinstance(write.key, RecordKey):
                continue
            before = mac_of(self._read(snapshot.found[self._layout.key(write.key)]))
            after = mac_of(write)
            if before != after:
                sides = ((before, False), (after, True))
                moves += (
                    (self._layout.index_key(write.key.vsid, mac), write.key.ca, is_added)
                    for mac, is_added in sides
                    if mac is not None
                )
        await snapshot.read(key for key, _, _ in moves)
        indices = {key: etcd_layout.read_index(snapshot.found[key]) for key, _, _ in moves}
        for key, ca, is_added in moves:
            (indices[key].add if is_added else indices[key].discard)(ca)
        # An index that is empty stays: its revision would else begin anew, and an old write could pass.
        return {key: etcd_layout.index(addresses) for key, addresses in indices.items()}

    async def _grants(self, snapshot: Snapshot, writes: Sequence[Write]) -> tuple[Write, ...]:
        """Return the grants that change with records, having read all that this depends on."""

        def find(key: Key) -> Stored | None:
            return self._read(snapshot.found[self._layout.key(key)])

        addresses = tuple(concerned(writes, find))
        await snapshot.read(map(self._layout.key, addresses))
        await snapshot.read(map(self._layout.key, holders(addresses, find)))
        return grant_writes(writes, find, self._now())

    def _read(self, found: KeyValue | None) -> Stored | None:
        return None if found is None else self._layout.read(found)

    async def compact(self, revision: int) -> None:
        current = (await self._gateway.range(self._layout.prefix)).header.revision
        try:
            await self._gateway.compact(min(revision, current))
        except OutOfRange:
            return  # somebody has compacted further already

    def watch(self, after: int) -> AsyncIterator[Stored | Progress]:
        return self._history.follow(after)
