"""The lines of a watch as events."""

from __future__ import annotations

import msgspec

from gateway.lookup.answers import RecordForm, decoded
from gateway.lookup.entries import (
    Event,
    Grant,
    Key,
    Kind,
    LeaseKey,
    NamedKey,
    Progress,
    RecordKey,
    Reset,
    Stored,
)
from gateway.lookup.forms import VALUE_TYPES, Malformed, read
from gateway.lookup.records_wire import customer_address, provider_address
from policies.addresses import Vsid


class _Line(msgspec.Struct, frozen=True):
    type: str
    revision: int
    kind: Kind = Kind.RECORD
    value: msgspec.Raw = msgspec.Raw()


class _RecordName(msgspec.Struct, frozen=True):
    vsid: int
    ca: str


class _LeaseName(msgspec.Struct, frozen=True):
    pa: str


class _Lease(_LeaseName, frozen=True):
    vsid: int
    ca: str
    node: str


class _Name(msgspec.Struct, frozen=True):
    name: str


def event(line: bytes) -> Event:
    """Return the event that a line tells. Raises Malformed."""
    found = decoded(_Line, line)
    match found.type:
        case "put":
            return _put(found)
        case "delete":
            return Stored(_key(found), None, 0, found.revision)
        case "progress":
            return Progress(found.revision)
        case "resync":
            return Reset(found.revision)
        case _:
            raise Malformed(f"there is no event {found.type!r}")


def _put(line: _Line) -> Stored:
    if line.kind is Kind.RECORD:
        return msgspec.structs.replace(
            Stored.of(decoded(RecordForm, line.value).record()), revision=line.revision
        )
    if line.kind is Kind.LEASE:
        return _lease(decoded(_Lease, line.value), line.revision)
    value = read(VALUE_TYPES[line.kind], decoded(object, line.value), line.kind.value)
    name = getattr(value, "name", None)
    if not isinstance(name, str):
        raise Malformed(f"a {line.kind} without a name")
    return Stored(NamedKey(line.kind, name), value, 0, line.revision)


def _lease(found: _Lease, revision: int) -> Stored:
    try:
        grant = Grant(Vsid(found.vsid), customer_address(found.ca), found.node, leased=True)
    except ValueError as error:
        raise Malformed(f"a lease: {error}") from None
    return Stored(_lease_key(found), grant, 0, revision)


def _lease_key(found: _LeaseName) -> LeaseKey:
    try:
        return LeaseKey(provider_address(found.pa))
    except ValueError as error:
        raise Malformed(f"a lease's name: {error}") from None


def _key(line: _Line) -> Key:
    if line.kind is Kind.LEASE:
        return _lease_key(decoded(_LeaseName, line.value))
    if line.kind is not Kind.RECORD:
        return NamedKey(line.kind, decoded(_Name, line.value).name)
    name = decoded(_RecordName, line.value)
    try:
        return RecordKey(Vsid(name.vsid), customer_address(name.ca))
    except ValueError as error:
        raise Malformed(f"a record's name: {error}") from None
