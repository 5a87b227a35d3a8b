"""A replica's contents: the newest that has been told of each key.

Records are kept as readers see them, one object each, which forwarding shares. What
readers do not see of a record (pins, freezing, moves) is kept for the few that have it.
Whose provider addresses of pools are is in `granted.py`.
"""

from __future__ import annotations

import bisect
import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Set

from gateway.lookup.entries import Key, Kind, LeaseKey, NamedKey, Placement, RecordKey, Stored, Value
from gateway.lookup.granted import Granted
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import LookupRecord, Translation

# From so many records on, the collector of cycles is kept from them.
_MANY = 10_000

_ByMac = dict[MacAddress, CustomerAddress | tuple[CustomerAddress, ...]]


class _Segment:
    """The records of one virtual subnet."""

    __slots__ = ("by_ca", "by_mac", "order", "told", "vsid")

    def __init__(self, vsid: Vsid) -> None:
        self.vsid = vsid
        self.by_ca: dict[CustomerAddress, LookupRecord] = {}
        # As they were told, those with more than a LookupRecord says.
        self.told: dict[CustomerAddress, Stored] = {}
        # Both are made when somebody first asks for them, since few segments are asked:
        # the addresses in order, and the CA of a MAC, or all of them where there are several
        # (a VM with both families).
        self.order: list[CustomerAddress] | None = None
        self.by_mac: _ByMac | None = None

    def put(self, record: LookupRecord) -> LookupRecord | None:
        """Take a record, and return what was there."""
        old = self.by_ca.get(record.ca)
        self.by_ca[record.ca] = record
        if self.order is not None and old is None:
            bisect.insort(self.order, record.ca)
        if self.by_mac is not None and (old is None or old.mac != record.mac):
            if old is not None:
                _remove_mac(self.by_mac, old)
            _add_mac(self.by_mac, record)
        return old

    def remove(self, ca: CustomerAddress) -> LookupRecord | None:
        """Forget a record, and return what was there."""
        record = self.by_ca.pop(ca, None)
        if record is None:
            return None
        self.told.pop(ca, None)
        if self.order is not None:
            del self.order[bisect.bisect_left(self.order, ca)]
        if self.by_mac is not None:
            _remove_mac(self.by_mac, record)
        return record

    def in_order(self) -> list[CustomerAddress]:
        if self.order is None:
            self.order = sorted(self.by_ca)
        return self.order

    def with_mac(self, mac: MacAddress) -> tuple[LookupRecord, ...]:
        if self.by_mac is None:
            self.by_mac = {}
            for record in self.by_ca.values():
                _add_mac(self.by_mac, record)
        return tuple(self.by_ca[ca] for ca in _all(self.by_mac.get(mac, ())))


def _add_mac(by_mac: _ByMac, record: LookupRecord) -> None:
    others = by_mac.get(record.mac)
    by_mac[record.mac] = record.ca if others is None else (*_all(others), record.ca)


def _remove_mac(by_mac: _ByMac, record: LookupRecord) -> None:
    left = tuple(ca for ca in _all(by_mac[record.mac]) if ca != record.ca)
    if left:
        by_mac[record.mac] = left if len(left) > 1 else left[0]
    else:
        del by_mac[record.mac]


def _all(cas: CustomerAddress | tuple[CustomerAddress, ...]) -> tuple[CustomerAddress, ...]:
    return cas if isinstance(cas, tuple) else (cas,)


class Contents:
    """Records by (VSID, CA) and by (VSID, MAC), addresses of pools, and named entries by their keys."""

    def __init__(self) -> None:
        self.granted = Granted()
        self._segments: dict[Vsid, _Segment] = {}
        self._named: dict[NamedKey, Stored] = {}
        self._count = 0
        # A million records name a few hosts: each name and address is kept once.
        self._hosts: dict[str, str] = {}
        self._addresses: dict[ProviderAddress, ProviderAddress] = {}
        self._held: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many records there are."""
        return self._count

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing at all."""
        return not self._count and not self._named and not self.granted

    def revision_of(self, key: Key) -> int | None:
        """Return the revision of a live entry, or None."""
        found = self.find(key.vsid, key.ca) if isinstance(key, RecordKey) else self.entry(key)
        return found.revision if found is not None else None

    def put(self, entry: Stored) -> LookupRecord | None:
        """Take an entry or a tombstone, whatever was there, and return what is kept if it is a record."""
        key, value = entry.key, entry.value
        if isinstance(key, NamedKey):
            if value is None:
                self._named.pop(key, None)
            else:
                self._named[key] = entry
            return None
        if isinstance(key, LeaseKey):
            self.granted.put(key, entry)
            return None
        segment = self._segments.get(key.vsid)
        if segment is None:
            if value is None:
                return None
            segment = self._segments[key.vsid] = _Segment(key.vsid)
        before = len(segment.by_ca)
        record = None
        if isinstance(value, Placement):
            record = self._record(segment.vsid, key.ca, value, entry)
            old = segment.put(record)
            if value.pinned or value.frozen or value.moves:
                segment.told[key.ca] = entry
            elif segment.told:
                segment.told.pop(key.ca, None)
        else:
            old = segment.remove(key.ca)
            if not segment.by_ca:
                del self._segments[key.vsid]
        self._count += len(segment.by_ca) - before
        if old is None or record is None or old.host != record.host:
            if record is not None:
                self._held[record.host] += 1
            if old is not None:
                self._held[old.host] -= 1
        return record

    def held_by(self, host: str) -> int:
        """Return how many records are of a host."""
        return self._held[host]

    def find(self, vsid: Vsid, ca: CustomerAddress) -> LookupRecord | None:
        """Return a record as readers see it."""
        segment = self._segments.get(vsid)
        return segment.by_ca.get(ca) if segment is not None else None

    def find_by_mac(self, vsid: Vsid, mac: MacAddress) -> tuple[LookupRecord, ...]:
        """Return all records of a MAC; usually one for each family."""
        segment = self._segments.get(vsid)
        return segment.with_mac(mac) if segment is not None else ()

    def entry(self, key: Key) -> Stored | None:
        """Return a live entry as the store has it."""
        if isinstance(key, NamedKey):
            return self._named.get(key)
        if isinstance(key, LeaseKey):
            return self.granted.find(key)
        segment = self._segments.get(key.vsid)
        if segment is None:
            return None
        record = segment.by_ca.get(key.ca)
        return _stored(segment, record) if record is not None else None

    def records(self, vsid: Vsid, after: CustomerAddress | None, limit: int) -> list[LookupRecord]:
        """Return some of a virtual subnet's records in the order of keys, from behind an address."""
        segment = self._segments.get(vsid)
        if segment is None:
            return []
        order = segment.in_order()
        start = 0 if after is None else bisect.bisect_right(order, after)
        return [segment.by_ca[ca] for ca in order[start : start + limit]]

    def count(self, vsid: Vsid) -> int:
        """Return how many records a virtual subnet has."""
        segment = self._segments.get(vsid)
        return len(segment.by_ca) if segment is not None else 0

    def vsids(self) -> list[Vsid]:
        """Return the virtual subnets with records, in order."""
        return sorted(self._segments)

    def entries(self, kind: Kind) -> Iterator[Stored]:
        """Every live entry of a kind, in no order. Nothing may change meanwhile."""
        if kind is Kind.RECORD:
            for segment in self._segments.values():
                for record in segment.by_ca.values():
                    yield _stored(segment, record)
        elif kind is Kind.LEASE:
            yield from self.granted
        else:
            yield from (entry for key, entry in self._named.items() if key.kind is kind)

    def entries_but(
        self, others: Set[NamedKey | LeaseKey], records: Mapping[Vsid, Set[CustomerAddress]]
    ) -> Iterator[Stored]:
        """Every live entry but these, in no order. Nothing may change meanwhile."""
        yield from (entry for key, entry in self._named.items() if key not in others)
        yield from (entry for entry in self.granted if entry.key not in others)
        for vsid, segment in self._segments.items():
            for ca in segment.by_ca.keys() - records.get(vsid, frozenset()):
                yield _stored(segment, segment.by_ca[ca])

    def network_values(self) -> Iterator[Value]:
        """Every host, gateway and tenant, in no order. Nothing may change meanwhile."""
        return (entry.value for entry in self._named.values() if entry.value is not None)

    def snapshot(self) -> tuple[list[LookupRecord], list[Stored]]:
        """Return everything there is: the plain records, and the other entries."""
        plain: list[LookupRecord] = []
        others = [*self._named.values(), *self.granted]
        for segment in self._segments.values():
            if segment.told:
                plain += [record for ca, record in segment.by_ca.items() if ca not in segment.told]
                others += segment.told.values()
            else:
                plain += segment.by_ca.values()
        return plain, others

    def keep_from_collector(self) -> None:
        """Have the collector of cycles pass over what has been loaded: in records there are none.

        Whenever it looked at a million of them, every thread would stand still for 0.15 s.
        """
        if self._count >= _MANY:
            gc.collect()
            gc.freeze()

    def _record(self, vsid: Vsid, ca: CustomerAddress, value: Placement, entry: Stored) -> LookupRecord:
        is_rewritten = value.translation is Translation.REWRITE  # and its address nobody else's
        return LookupRecord(
            vsid,
            ca,
            value.mac,
            value.pa if is_rewritten else self._addresses.setdefault(value.pa, value.pa),
            self._hosts.setdefault(value.host, value.host),
            value.translation,
            0 if value.pinned else entry.epoch,
            entry.revision,
        )


def _stored(segment: _Segment, record: LookupRecord) -> Stored:
    told = segment.told.get(record.ca)
    return told if told is not None else Stored.of(record)
