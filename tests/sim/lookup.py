"""A store, replicas of it, and replicas of those, joined by connections that fail in every way they may.

    writers -> store --follow--> replicas A, B --their history, as HTTP watches tell it--> replicas C, D

D sees one virtual subnet alone, and neither of them what provider addresses records have.
Time is virtual: it jumps to when something is next due, so a history of minutes takes
milliseconds, and the same seed makes the same history.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from ipaddress import ip_network
from typing import Any

import msgspec

from gateway.lookup.batches import Batch
from gateway.lookup.claims import Claim, FlapLimits, Mode, Refused
from gateway.lookup.client.watch_lines import event as read_line
from gateway.lookup.entries import (
    NAMED_KINDS,
    Event,
    Grant,
    Key,
    Kind,
    LeaseKey,
    NamedKey,
    Placement,
    Progress,
    RecordKey,
    Reset,
    Stored,
    Value,
)
from gateway.lookup.follow import closing, entries, follow
from gateway.lookup.network import assemble
from gateway.lookup.records_wire import lease_line, line
from gateway.lookup.replica import Replica
from gateway.lookup.store import Expect, Prefix, StoreError, StoreUnavailable
from gateway.lookup.stores.memory import MemoryStore
from gateway.lookup.visibility import EVERYTHING, View
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import Lease, ProviderGateway, Tenant, Translation

VSIDS = (Vsid(5001), Vsid(5002))
ADDRESSES = tuple(CustomerAddress(bytes((10, 0, 0, number))) for number in (5, 6, 7))
MACS = tuple(MacAddress(bytes((2, 0, 0, 0, 0, number))) for number in (1, 2))
HOSTS = {f"hv{number}": ProviderAddress(bytes((198, 51, 100, number))) for number in (1, 2, 3)}
POOL = tuple(ProviderAddress(bytes((192, 0, 2, number))) for number in (1, 2, 3, 4))
"""Of gateways and of hosts alike, so that an address comes to be one's and then the other's."""
FASTER = 100
"""So much faster the store's clock goes: quarantines end within a history."""


class _Jump(selectors.DefaultSelector):
    """Waits for nothing: whatever the event loop would wait for is now."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits for somebody else")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only by jumps."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)


class Mirror:
    """Whatever a replica tells its subscribers, and whether it ever goes backwards."""

    def __init__(self, world: World, name: str, replica: Replica, view: View | None) -> None:
        self.world, self.name, self.replica, self.view = world, name, replica, view
        self.entries: dict[Key, Stored] = {}
        self.last: dict[Key, int] = {}
        replica.subscribe(self.take)

    def is_at(self, revision: int) -> bool:
        """Whether the replica has come to a revision, and believes so."""
        replica = self.replica
        return replica.complete == replica.revision == revision and replica.stale_since is None

    def sees(self, entry: Stored) -> Stored | None:
        """An entry of the store as the replica is to have it: as it is, or as a watch tells it."""
        if self.view is None:
            return entry
        shown = self.view.entry(entry)
        return shown if shown is None or not isinstance(entry.key, LeaseKey) else as_told(shown)

    def take(self, batch: Batch) -> None:
        for change, record in zip(batch.changes, batch.records, strict=True):
            if change.revision < self.last.get(change.key, 0) and not self.world.is_restored:
                self.world.problems.append(f"{self.name}: {change} after {self.last[change.key]}")
            self.last[change.key] = change.revision
            if change.value is None:
                self.entries.pop(change.key, None)
            else:
                self.entries[change.key] = change
            if record != change.record:
                self.world.problems.append(f"{self.name}: {record} for {change}")
        if self.entries != contents(self.replica):
            self.world.problems.append(f"{self.name}: what is told is not what is there")


def as_told(entry: Stored) -> Stored | None:
    """A lease as a watch tells it; None if that is that it has ended."""
    found = read_line(line(entry))
    return found if isinstance(found, Stored) and found.value is not None else None


def contents(replica: Replica) -> dict[Key, Stored]:
    """Everything that a replica has."""
    return {entry.key: entry for kind in Kind for entry in replica.entries(kind)}


class World:
    """One history, by its seed."""

    def __init__(self, seed: int, *, writes: int = 25) -> None:
        self.chance = random.Random(seed)
        self.writes = writes
        self.store = MemoryStore(self._now)
        self.problems: list[str] = []
        self.is_calm = False
        self.is_restored = False
        self.near: list[Replica] = []
        self.mirrors: list[Mirror] = []
        self.trouble = self.chance.choice((0.0, 0.02, 0.1, 0.3))
        self.slowness = self.chance.choice((0.0, 0.01, 0.3))

    async def live(self) -> None:
        """Write, fail and recover; then see that everybody has the same."""
        # A replica's back-off draws from the module's own generator.
        random.seed(self.chance.random())
        tasks = []
        views = (None, None, EVERYTHING, View(vsids=frozenset(VSIDS[:1])))
        for number, view in enumerate(views):
            source = self._faulty(self._of_store if view is None else partial(self._of_a_replica, view))
            patience = 0.0 if number < 2 else 300.0
            replica = Replica(source, history=self.chance.choice((2, 8, 100)), patience=patience)
            if number < 2:
                self.near.append(replica)
            self.mirrors.append(Mirror(self, "ABCD"[number], replica, view))
            tasks.append(asyncio.create_task(replica.run()))
        backup = None
        for number in range(self.writes):
            await asyncio.sleep(self.chance.choice((0.0, 0.01, 0.5, 3.0)))
            await self._write()
            if number == self.writes // 2 and self.chance.random() < 0.2:
                backup = clone(self.store)
        self.is_calm = True
        self.store.come_back()
        if backup is not None:
            self.is_restored = True
            self.store.go_away("it is restored from a backup")
            self.store = backup
        await self._converge()
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(result, asyncio.CancelledError):
                self.problems.append(f"a replica has ended: {result!r}")

    async def _converge(self) -> None:
        wanted = {entry.key: entry async for entry in entries(self.store, *map(Prefix, Kind))}
        head = self.store._revision
        for _ in range(1000):
            await asyncio.sleep(1.0)
            if all(each.is_at(head) for each in self.mirrors):
                break
        await asyncio.sleep(0.1)
        network = assemble(entry.value for entry in wanted.values() if entry.value is not None)
        for each in self.mirrors:
            if not each.is_at(head):
                self.problems.append(f"{each.name} is at {each.replica.revision}, not at {head}")
            seen = {key: shown for key, entry in wanted.items() if (shown := each.sees(entry)) is not None}
            for what, found in (("has", contents(each.replica)), ("has told", each.entries)):
                self.problems += [
                    f"{each.name} {what} {found.get(key)}, and the store {seen.get(key)}"
                    for key in {**found, **seen}
                    if found.get(key) != seen.get(key)
                ]
            self.problems += _disagreements(each, seen)
            if each.replica.network != network:
                self.problems.append(f"{each.name} has another network")

    async def _write(self) -> None:
        chance, store = self.chance, self.store
        vsid, ca, mac = chance.choice(VSIDS), chance.choice(ADDRESSES), chance.choice(MACS)
        host, pa = chance.choice(list(HOSTS.items()))
        try:
            match chance.randrange(16):
                case 0 | 1:
                    await store.put(RecordKey(vsid, ca), Placement(mac, pa, host), Expect.ANY)
                case 12:
                    placed = Placement(mac, chance.choice(POOL), host, Translation.REWRITE)
                    await store.put(RecordKey(vsid, ca), placed, Expect.ANY)
                case 13 | 14:
                    grant = Grant(vsid, ca, chance.choice(("one", "two")), leased=True)
                    await store.put(LeaseKey(chance.choice(POOL)), grant, Expect.ANY)
                case 15:
                    await self._give_back(LeaseKey(chance.choice(POOL)))
                case 2 | 3:
                    await store.delete(RecordKey(vsid, ca), Expect.ANY)
                case 4:
                    key, value = self._named()
                    await store.put(key, value, Expect.ANY)
                case 5:
                    await store.delete(self._named()[0], Expect.ANY)
                case 6:
                    await store.compact(store._revision - chance.randrange(3))
                case 7:
                    store.go_away("its leader is lost")
                    store.come_back()
                case 8:
                    store.go_away("its machines are down")
                    await asyncio.sleep(chance.choice((0.1, 20.0)))
                    store.come_back()
                case _:
                    addresses = tuple(chance.sample(ADDRESSES, chance.randrange(3)))
                    mode = chance.choice(list(Mode))
                    limits = FlapLimits(moves=3)
                    await store.claim(Claim(vsid, mac, pa, host, mode, 1.0, addresses, limits))
        except (StoreError, Refused):
            pass  # what a write comes to is the store's own test; here it is one more history

    async def _give_back(self, key: LeaseKey) -> None:
        """Return a lease, or forget the address that has been returned for long."""
        entry = await self.store.get(key)
        if entry is None or not isinstance(entry.value, Grant):
            return
        if entry.lease is None:
            await self.store.delete(key, entry.epoch)
        else:
            value = msgspec.structs.replace(entry.value, returned_at=self._now())
            await self.store.put(key, value, entry.epoch)

    def _now(self) -> float:
        return FASTER * asyncio.get_running_loop().time()

    def _named(self) -> tuple[NamedKey, Value]:
        name = self.chance.choice(("one", "two"))
        pa = self.chance.choice(list(HOSTS.values()))
        if self.chance.random() < 0.5:
            return NamedKey(Kind.GATEWAY, name), ProviderGateway(name, (pa,))
        gateways = tuple(self.chance.sample(("one", "two"), self.chance.randrange(3)))
        return NamedKey(Kind.TENANT, name), Tenant(name, gateways, ())

    def _faulty(
        self, source: Callable[[int | None], AsyncIterator[Event]]
    ) -> Callable[[int | None], AsyncIterator[Event]]:
        """A source that is lost, slow, cut off or silent, repeats itself, and mixes up a claim's changes."""

        async def told(after: int | None) -> AsyncIterator[Event]:
            repeatable: list[Stored] = []
            async with closing(_shuffled(self.chance, source(after))) as events:
                async for event in events:
                    await self._fail()
                    yield event
                    if isinstance(event, Stored):
                        repeatable.append(event)
                        if not self.is_calm and self.chance.random() < self.trouble:
                            yield self.chance.choice(repeatable)
                    else:
                        repeatable.clear()

        return told

    async def _fail(self) -> None:
        if self.is_calm:
            return
        if self.slowness and self.chance.random() < 0.5:
            await asyncio.sleep(self.chance.random() * self.slowness)
        if self.chance.random() < self.trouble:
            match self.chance.randrange(4):
                case 0:
                    raise ConnectionResetError("cut")
                case 1:
                    raise StoreUnavailable("away")
                case 2:
                    await asyncio.sleep(self.chance.choice((1.0, 15.0)))
                    raise TimeoutError
                case _:
                    await asyncio.sleep(self.chance.choice((0.5, 5.0)))

    def _of_store(self, after: int | None) -> AsyncIterator[Event]:
        return follow(self.store, after)

    async def _of_a_replica(self, view: View, after: int | None) -> AsyncIterator[Event]:
        """What a lookup node tells on a watch, of which the reader has everything up to a revision."""
        replica = self.chance.choice(self.near)
        if not replica.has_contents:
            raise StoreUnavailable("it has nothing yet")
        position = replica.position_after(after) if after is not None else None
        if position is None:
            if replica.position_after(replica.complete) is None:
                raise StoreUnavailable("its history is shorter than that of a lookup node ever is")
            position = replica.whole_position
            yield Reset(replica.complete)
            for kind in NAMED_KINDS:
                for entry in list(replica.entries(kind)):
                    yield entry
            for vsid in filter(view.sees, replica.vsids()):
                last = None
                while page := replica.records(vsid, last, 2):
                    last = page[-1].ca
                    # As they are on the wire: what readers do not see of a record is asked for here.
                    found = [replica.entry(RecordKey(vsid, record.ca)) for record in page]
                    for placed in found:
                        if placed is not None:
                            yield placed
            for vsid in filter(view.sees, replica.granted.leased_vsids()):
                for lease in replica.granted.leases_in(vsid):
                    yield read_line(lease_line(lease))
        while True:
            changes = replica.history.since(position)
            if changes is None:
                return
            for change in filter(None, map(view.entry, changes)):
                yield read_line(line(change)) if isinstance(change.key, LeaseKey) else change
            position += len(changes)
            if position == replica.history.position:
                yield Progress(replica.complete)
                try:
                    async with asyncio.timeout(5):
                        await replica.history.changed(position)
                except TimeoutError:
                    continue


def _disagreements(mirror: Mirror, seen: dict[Key, Stored]) -> list[str]:
    """Where what a replica says of addresses of the pool is not what it has."""
    replica = mirror.replica
    leases: dict[tuple[Vsid, CustomerAddress], set[Lease]] = {}
    grants: dict[ProviderAddress, object] = {}
    for key, entry in seen.items():
        if isinstance(key, LeaseKey):
            grants[key.pa] = entry.value
            if (lease := entry.lease) is not None:
                leases.setdefault((lease.vsid, lease.ca), set()).add(lease)
    said = {(vsid, ca): set(replica.granted.leases_of(vsid, ca)) for vsid in VSIDS for ca in ADDRESSES}
    problems = [
        f"{mirror.name} says {found} of {whose}, and has {leases.get(whose)}"
        for whose, found in said.items()
        if found != leases.get(whose, set())
    ]
    if (found := dict(replica.granted.within(ip_network("192.0.2.0/29")))) != grants:
        problems.append(f"{mirror.name} says {found}, and has {grants}")
    return problems


async def _shuffled(chance: random.Random, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """Changes that share a revision, such as a claim's, come in any order."""
    together: list[Stored] = []
    is_listing = False
    async with closing(events):
        async for event in events:
            if isinstance(event, Reset | Progress):
                is_listing = isinstance(event, Reset)
            if together and (not isinstance(event, Stored) or event.revision != together[0].revision):
                chance.shuffle(together)
                for each in together:
                    yield each
                together.clear()
            if isinstance(event, Stored) and not is_listing:
                together.append(event)
            else:
                yield event


def clone(store: MemoryStore) -> MemoryStore:
    """A store as it is now, as a backup would have it."""
    copy = MemoryStore(store._now)
    copy._entries = dict(store._entries)
    for kind, keys in store._keys.items():
        copy._keys[kind] = list(keys)
    for mac, owned in store._by_mac.items():
        copy._by_mac[mac] = set(owned)
    copy._history = list(store._history)
    copy._revision = store._revision
    copy._compacted = store._compacted
    return copy
