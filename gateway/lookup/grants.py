"""Whose provider addresses are, decided without any store: each is one (VSID, CA)'s at most.

A rewritten record has its address for as long as it is there. Whatever changes a record takes and gives
back the addresses that this comes to, in the same write: a store passes what it is about to write through
`grant_writes`. Leases of gateways are written as they are, where nobody else holds the address.

What is given back stays its last holder's alone for a quarantine, since packets to it may be under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from gateway.lookup.claims import Write, next_write
from gateway.lookup.entries import Grant, Key, LeaseKey, Placement, RecordKey, Stored, Value
from gateway.lookup.store import Taken
from policies.addresses import CustomerAddress, Vsid
from policies.model import Translation

QUARANTINE = 300.0
"""Seconds that an address which was given back is nobody else's."""

Find = Callable[[Key], Stored | None]
"""What is stored of a key before a write."""


def is_free(grant: Grant | None, now: float) -> bool:
    """Whether anybody may take an address, at a Unix time.

    The clock may have been set back: what was given back later than now has all of its quarantine before it.
    """
    if grant is None:
        return True
    return grant.returned_at is not None and grant.returned_at + QUARANTINE <= now


def may_take(grant: Grant | None, vsid: Vsid, ca: CustomerAddress, now: float) -> bool:
    """Whether an address is a customer address's already, was the last time, or is free."""
    return is_free(grant, now) or (grant is not None and (grant.vsid, grant.ca) == (vsid, ca))


def concerned(writes: Iterable[Write], find: Find) -> Iterator[LeaseKey]:
    """Yield the addresses that writes take, give back, or are of."""
    for write in writes:
        if isinstance(write.key, LeaseKey):
            yield write.key
        elif isinstance(write.key, RecordKey):
            for value in (write.value, _value(find(write.key))):
                if (key := _leased(value)) is not None:
                    yield key


def holders(keys: Iterable[LeaseKey], find: Find) -> Iterator[RecordKey]:
    """Yield the records that may have addresses: those of whom these are granted to."""
    for key in keys:
        grant = _grant(find(key))
        if grant is not None and grant.returned_at is None:
            yield RecordKey(grant.vsid, grant.ca)


def grant_writes(writes: Iterable[Write], find: Find, now: float) -> tuple[Write, ...]:
    """Return what goes into the store besides some writes: addresses taken and given back.

    `find` knows the keys of the writes, those that are `concerned`, and the `holders` of these. Raises Taken.
    """
    taken: dict[LeaseKey, Write | None] = {}
    given: list[Write] = []
    for write in writes:
        key, value = write.key, write.value
        if isinstance(key, RecordKey):
            entry = find(key)
            before, after = None if entry is None else _leased(entry.value), _leased(value)
            if after is not None and isinstance(value, Placement):
                if after in taken:
                    raise Taken(after, None)
                taken[after] = _take(after, key, value.host, find, now)
            if before is not None and before != after:
                given += _give_back(before, key, find, now)
        elif isinstance(key, LeaseKey):
            _check_lease(key, value, find, now)
    return (*given, *(write for write in taken.values() if write is not None))


def _take(key: LeaseKey, record: RecordKey, host: str, find: Find, now: float) -> Write | None:
    current = find(key)
    if not may_take(_grant(current), record.vsid, record.ca, now):
        raise Taken(key, _holder(key, find))
    return next_write(current, key, Grant(record.vsid, record.ca, host))


def _give_back(key: LeaseKey, record: RecordKey, find: Find, now: float) -> Iterator[Write]:
    current = find(key)
    grant = _grant(current)
    if grant is None or (grant.vsid, grant.ca) != (record.vsid, record.ca) or grant.returned_at is not None:
        return  # it has been recorded before there were grants
    write = next_write(current, key, msgspec.structs.replace(grant, returned_at=now))
    if write is not None:
        yield write


def _check_lease(key: LeaseKey, value: Value | None, find: Find, now: float) -> None:
    """Raise Taken where an address is not a caller's to change."""
    grant = _grant(find(key))
    holder = _holder(key, find)
    if holder is not None:
        raise Taken(key, holder)
    if isinstance(value, Grant):
        is_allowed = may_take(grant, value.vsid, value.ca, now)
    else:
        is_allowed = is_free(grant, now)
    if not is_allowed:
        raise Taken(key, None)


def _holder(key: LeaseKey, find: Find) -> Stored | None:
    """The record that has an address."""
    for record in holders((key,), find):
        found = find(record)
        if _leased(_value(found)) == key:
            return found
    return None


def _leased(value: Value | None) -> LeaseKey | None:
    """The address that a record has for itself alone."""
    if isinstance(value, Placement) and value.translation is Translation.REWRITE:
        return LeaseKey(value.pa)
    return None


def _grant(entry: Stored | None) -> Grant | None:
    value = _value(entry)
    return value if isinstance(value, Grant) else None


def _value(entry: Stored | None) -> Value | None:
    return entry.value if entry is not None else None
