"""A store as a dictionary and a list, and random histories that a real store is compared with it over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any, TypeVar

import msgspec
from hypothesis import strategies as st

from gateway.lookup.claims import Claim, FlapLimits, Mode, Refused, decide, next_write, unfrozen
from gateway.lookup.entries import Grant, Key, Kind, LeaseKey, NamedKey, Placement, RecordKey, Stored, Value
from gateway.lookup.grants import QUARANTINE, grant_writes
from gateway.lookup.store import Compacted, Conflict, Expect, LookupStore, Prefix, Taken
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.model import ProviderGateway, Translation
from tests.gateway.lookup.entries import (
    DATABASE,
    MAC,
    OTHER_MAC,
    PROVIDER,
    WEB,
    Clock,
    OpenStore,
    at,
    listed,
    told,
)

T = TypeVar("T")

_ADDRESSES = tuple(CustomerAddress.parse(text) for text in ("10.0.1.5", "10.0.1.6", "fd00:1::5"))
_HOSTS = ("hv1", "hv2", "hv3")
_RECORD_KEYS = tuple(RecordKey(vsid, ca) for vsid in (WEB, DATABASE) for ca in _ADDRESSES)
_GATEWAY = NamedKey(Kind.GATEWAY, "edge-1")
_POOLS = (ip_network("203.0.113.0/30"), ip_network("2001:db8:5::/126"))
_POOLED = tuple(
    ProviderAddress.parse(text)
    for text in ("203.0.113.1", "203.0.113.2", "2001:db8:5::1", "198.51.99.1", "2001:db8:9::1")
)
_KEYS: tuple[Key, ...] = (*_RECORD_KEYS, _GATEWAY, *map(LeaseKey, _POOLED))


class Put(msgspec.Struct, frozen=True):
    """`expected` is what is there (None), or something."""

    key: Key
    host: str
    is_other_mac: bool
    is_pinned: bool
    expected: Expect | int | None
    own: ProviderAddress | None
    """Of a rewritten record."""


class PutLease(msgspec.Struct, frozen=True):
    """Take an address for a gateway, or give it back."""

    key: LeaseKey
    holder: RecordKey
    is_returned: bool
    expected: Expect | int | None


class Wait(msgspec.Struct, frozen=True):
    """Until some seconds later."""

    seconds: float


class Delete(msgspec.Struct, frozen=True):
    key: Key
    expected: Expect | int | None


class Unfreeze(msgspec.Struct, frozen=True):
    key: Key


class Compact(msgspec.Struct, frozen=True):
    """So many changes ago."""

    age: int


class Look(msgspec.Struct, frozen=True):
    """A page after a key."""

    after: RecordKey | None
    vsid: Vsid | None
    limit: int


Operation = Put | PutLease | Wait | Delete | Unfreeze | Compact | Look | Claim

_expected = st.sampled_from((None, None, Expect.ANY, Expect.ANY, Expect.ABSENT, 0, 1, 2))
_keys = st.sampled_from((*_RECORD_KEYS, _GATEWAY))
_claims = st.builds(
    lambda vsid, mac, host, mode, now, addresses, translation, candidates: Claim(
        *(vsid, mac, PROVIDER[host], host, mode, now, addresses, FlapLimits(2, 10.0)),
        *(translation, _POOLS, candidates),
    ),
    st.sampled_from((WEB, DATABASE)),
    st.sampled_from((MAC, MAC, OTHER_MAC)),
    st.sampled_from(_HOSTS),
    st.sampled_from(Mode),
    st.sampled_from((0.0, 5.0, 20.0)),
    st.lists(st.sampled_from(_ADDRESSES), max_size=2, unique=True).map(tuple),
    st.sampled_from(Translation),
    st.lists(st.sampled_from(_POOLED[:3]), max_size=3, unique=True).map(tuple),
)
_leases = st.builds(
    PutLease,
    st.builds(LeaseKey, st.sampled_from(_POOLED)),
    st.sampled_from(_RECORD_KEYS),
    st.booleans(),
    _expected,
)
OPERATIONS: st.SearchStrategy[list[Operation]] = st.lists(
    st.one_of(
        st.builds(
            Put,
            _keys,
            st.sampled_from(_HOSTS),
            st.booleans(),
            st.booleans(),
            _expected,
            st.none() | st.sampled_from(_POOLED),
        ),
        st.builds(Delete, _keys, _expected),
        _leases,
        st.builds(Delete, st.builds(LeaseKey, st.sampled_from(_POOLED)), _expected),
        st.builds(Wait, st.sampled_from((1.0, QUARANTINE / 2, QUARANTINE))),
        _claims,
        _claims,
        st.builds(Unfreeze, _keys),
        st.builds(Compact, st.integers(0, 5)),
        st.builds(
            Look,
            st.none() | st.sampled_from(_RECORD_KEYS),
            st.sampled_from((None, WEB, DATABASE)),
            st.integers(1, 5),
        ),
    ),
    max_size=25,
)

# Few that want the same few addresses, all of the time.
CONTENTION: st.SearchStrategy[list[Operation]] = st.lists(
    st.one_of(
        st.builds(
            Put,
            st.sampled_from(_RECORD_KEYS[:3]),
            st.sampled_from(_HOSTS),
            st.just(value=False),
            st.just(value=False),
            st.just(Expect.ANY),
            st.sampled_from((*_POOLED[:2], *_POOLED[:2], None)),
        ),
        st.builds(
            PutLease,
            st.builds(LeaseKey, st.sampled_from(_POOLED[:2])),
            st.sampled_from(_RECORD_KEYS[:3]),
            st.booleans(),
            st.just(Expect.ANY),
        ),
        st.builds(
            Delete,
            st.sampled_from((*_RECORD_KEYS[:3], *_RECORD_KEYS[:3], *_KEYS[-5:-3])),
            st.just(Expect.ANY),
        ),
        st.builds(Wait, st.sampled_from((1.0, QUARANTINE / 2, QUARANTINE))),
        st.builds(
            lambda host, candidates: Claim(
                *(WEB, MAC, PROVIDER[host], host, Mode.ORCHESTRATE, 0.0, _ADDRESSES[:2], FlapLimits()),
                *(Translation.REWRITE, _POOLS, candidates),
            ),
            st.sampled_from(_HOSTS),
            st.permutations(_POOLED[:2]).map(tuple),
        ),
    ),
    min_size=10,
    max_size=30,
)


class Model:
    """What a store should answer. Its revisions are counted; the real one's are compared by their order."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.entries: dict[Key, Stored] = {}
        self.history: list[Stored] = []
        self.revision = 0

    def put(self, key: Key, value: Value | None, expected: Expect | int) -> Stored | None:
        current = self.entries.get(key)
        is_there = current is not None and current.value is not None
        if expected is Expect.ABSENT and is_there:
            raise Conflict(key, current)
        if isinstance(expected, int) and (current is None or current.epoch != expected):
            raise Conflict(key, current)
        self._write([next_write(current, key, value)])
        return self.entries.get(key)

    def claim(self, claim: Claim) -> list[Stored]:
        named = [RecordKey(claim.vsid, ca) for ca in claim.addresses]
        concerned = [e for e in self.entries.values() if e.key in named or _is_of(claim, e)]
        self._write(decide(claim, sorted(concerned, key=lambda entry: entry.key)))
        return sorted((e for e in self.entries.values() if _is_of(claim, e)), key=lambda entry: entry.key)

    def _write(self, writes: Any) -> None:
        made = [write for write in writes if write is not None]
        made += grant_writes(made, self.entries.get, self.clock.now)
        self.revision += bool(made)
        for write in made:
            stored = Stored(write.key, write.value, write.epoch, self.revision)
            self.entries[write.key] = stored
            self.history.append(stored)


def check_against_model(open_store: OpenStore, operations: list[Operation]) -> None:
    """Carry out the same operations on both, and compare every answer and what is left at the end."""

    async def main() -> None:
        clock = Clock()
        async with asyncio.timeout(60), open_store(clock) as store:
            await _Comparison(store, clock).run(operations)

    asyncio.run(main())


class _Comparison:
    def __init__(self, store: LookupStore, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.model = Model(clock)
        self.ledger = _Ledger()
        self.real = {0: 0}
        """The model's revisions, and the store's."""
        self.compacted = 0

    async def run(self, operations: list[Operation]) -> None:
        self.real[0] = (await self.store.page(Prefix(Kind.RECORD), None, 1)).revision
        for operation in operations:
            await self._carry_out(operation)
            self.ledger.check(self.model.entries, self.clock.now)
        for key in _KEYS:
            self._compare(await self.store.get(key), self.model.entries.get(key))
        for kind in (Kind.RECORD, Kind.GATEWAY, Kind.LEASE):
            live = [e for e in self.model.entries.values() if e.key.kind is kind and e.value is not None]
            live.sort(key=lambda entry: entry.key)
            self._compare(await listed(self.store, Prefix(kind), 2), live)
        await self._compare_watches()

    async def _carry_out(self, operation: Operation) -> None:
        store, model = self.store, self.model
        if isinstance(operation, Claim):
            expected = _outcome(lambda: model.claim(operation))
            self._compare(await _attempt(store.claim(operation)), expected)
        elif isinstance(operation, Compact):
            upto = max(0, model.revision - operation.age)
            await store.compact(self.real[upto])
            self.compacted = max(self.compacted, upto)
        elif isinstance(operation, Wait):
            self.clock.now += operation.seconds
        elif isinstance(operation, Look):
            await self._look(operation)
        else:
            await self._write(operation)

    async def _write(self, operation: Put | PutLease | Delete | Unfreeze) -> None:
        key = operation.key
        current = self.model.entries.get(key)
        if isinstance(operation, Unfreeze):
            if current is None or not isinstance(current.value, Placement):
                return
            value: Value | None = unfrozen(current.value)
            wanted: Expect | int | None = current.epoch
        else:
            value, wanted = _value(operation, self.clock.now), operation.expected
        if wanted is None:
            wanted = Expect.ABSENT if current is None else current.epoch
        expected = _outcome(lambda: self.model.put(key, value, wanted))
        write = self.store.delete(key, wanted) if value is None else self.store.put(key, value, wanted)
        self._compare(await _attempt(write), expected)

    async def _look(self, look: Look) -> None:
        prefix = Prefix(Kind.RECORD, look.vsid)
        live = sorted(
            (
                entry
                for key, entry in self.model.entries.items()
                if isinstance(key, RecordKey)
                and look.vsid in {None, key.vsid}
                and entry.value is not None
                and (look.after is None or key > look.after)
            ),
            key=lambda entry: entry.key,
        )
        page = await self.store.page(prefix, look.after, look.limit)
        self._compare(list(page.entries), live[: look.limit])
        assert page.more == (len(live) > look.limit)
        assert page.revision == self.real[self.model.revision]

    async def _compare_watches(self) -> None:
        last = self.model.revision
        for after in range(last + 1):
            if after < self.compacted - 1:
                try:
                    await told(self.store, self.real[after], self.real[last])
                except Compacted:
                    continue
                raise AssertionError(f"revision {after} is watched although {self.compacted} is compacted")
            if after >= self.compacted:
                wanted = [change for change in self.model.history if change.revision > after]
                # Which of one claim's changes is told first is nobody's business.
                found = await told(self.store, self.real[after], self.real[last])
                self._compare(sorted(found, key=_order), sorted(wanted, key=_order))

    def _compare(self, found: Any, expected: Any) -> None:
        """Both are entries, lists of them, refusals, or None."""
        if isinstance(expected, list):
            assert len(found) == len(expected), (found, expected)
            for one, other in zip(found, expected, strict=True):
                self._compare(one, other)
        elif isinstance(expected, Conflict | Refused):
            assert type(found) is type(expected), (found, expected)
            assert str(found) == str(expected)
            self._compare(found.current, expected.current)
        elif isinstance(expected, Taken):
            assert isinstance(found, Taken), (found, expected)
            assert found.key == expected.key
            self._compare(found.holder, expected.holder)
        elif expected is None:
            assert found is None
        else:
            assert isinstance(found, Stored), (found, expected)
            if expected.revision not in self.real:
                assert found.revision > max(self.real.values())
                self.real[expected.revision] = found.revision
            assert found == msgspec.structs.replace(expected, revision=self.real[expected.revision])


class _Ledger:
    """Who has had each address, by records and leases alone: nobody gets what another has, or just had."""

    def __init__(self) -> None:
        self.latest: dict[ProviderAddress, tuple[RecordKey, float]] = {}

    def check(self, entries: dict[Key, Stored], now: float) -> None:
        held: dict[ProviderAddress, RecordKey] = {}
        recorded: set[ProviderAddress] = set()
        for key, entry in entries.items():
            value = entry.value
            if isinstance(key, LeaseKey) and isinstance(value, Grant) and value.returned_at is None:
                held[key.pa] = RecordKey(value.vsid, value.ca)
        for key, entry in entries.items():
            value = entry.value
            if not isinstance(key, RecordKey) or not isinstance(value, Placement):
                continue
            if value.translation is Translation.REWRITE:
                assert value.pa not in recorded, f"{value.pa} is of two records"
                recorded.add(value.pa)
                granted_to = entries[LeaseKey(value.pa)]
                assert granted_to.value == Grant(key.vsid, key.ca, value.host), granted_to
        for pa, holder in held.items():
            grant = entries[LeaseKey(pa)].value
            assert isinstance(grant, Grant)
            assert grant.leased != (pa in recorded), f"{pa} is held for nothing"
            former, since = self.latest.get(pa, (holder, now))
            assert former == holder or now - since >= QUARANTINE, f"{pa} is handed on too soon"
            self.latest[pa] = (holder, now)


def _value(operation: Put | PutLease | Delete, now: float) -> Value | None:
    if isinstance(operation, Delete):
        return None
    if isinstance(operation, PutLease):
        holder, returned_at = operation.holder, now if operation.is_returned else None
        return Grant(holder.vsid, holder.ca, "edge-1", returned_at, leased=True)
    if isinstance(operation.key, NamedKey):
        return ProviderGateway(operation.key.name, (PROVIDER[operation.host],))
    mac = OTHER_MAC if operation.is_other_mac else MAC
    placement = at(operation.host, mac=mac, pinned=operation.is_pinned)
    if operation.own is None:
        return placement
    return msgspec.structs.replace(placement, pa=operation.own, translation=Translation.REWRITE)


def _is_of(claim: Claim, entry: Stored) -> bool:
    key, value = entry.key, entry.value
    return (
        isinstance(key, RecordKey)
        and key.vsid == claim.vsid
        and isinstance(value, Placement)
        and value.mac == claim.mac
    )


def _outcome(act: Callable[[], T]) -> T | Conflict | Refused | Taken:
    try:
        return act()
    except (Conflict, Refused, Taken) as refusal:
        return refusal


async def _attempt(act: Any) -> Any:
    try:
        return await act
    except (Conflict, Refused, Taken) as refusal:
        return refusal


def _order(change: Stored) -> tuple[int, str, Any]:
    return change.revision, change.key.kind, change.key
