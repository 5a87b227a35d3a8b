"""How entries lie in etcd: their keys, and JSON values that `etcdctl get --prefix /isthmus/` can show.

    record/00005001/0a000105      {"epoch":7,"write":"5e3c...","value":{"mac":...,"pa":...,"host":...}}
    tenant/red, host/hv1, ...     the same, with the model's form as the value
    lease/c6336485                the same; {"vsid":...,"ca":...,"node":...}: whose 198.51.100.133 is
    mac/00005001/020000000105     {"addresses":["10.0.1.5"]}: the live records of a MAC

etcd's order of keys is that of entries: VSIDs have eight digits, addresses are octets in
hexadecimal. A tombstone is an entry whose value is null, so its epoch and the whole order
of its changes stay. `write` is different in each write: whoever reads an entry again finds
out by it whether a write that was never answered has been made.
"""

from __future__ import annotations

import binascii
import logging
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import msgspec

from gateway.lookup import forms
from gateway.lookup.claims import Write
from gateway.lookup.entries import Key, Kind, LeaseKey, NamedKey, Placement, RecordKey, Stored, Value
from gateway.lookup.store import Prefix, StoreUnavailable
from gateway.lookup.stores.etcd_wire import KeyValue
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import Translation

log = logging.getLogger("isthmus.lookup")


class _Entry(msgspec.Struct, frozen=True, gc=False):
    """The JSON object that an entry's value is."""

    epoch: int
    write: str
    value: dict[str, Any] | None


class _Place(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The form of a Placement. There may be a million of them, so they have a decoder of their own."""

    mac: str
    pa: str
    host: str
    translation: Translation = Translation.ENCAP
    pinned: bool = False
    frozen: bool = False
    moves: tuple[float, ...] = ()


class _Record(msgspec.Struct, frozen=True, gc=False):
    epoch: int
    write: str
    value: _Place | None


class _Index(msgspec.Struct, frozen=True, gc=False):
    addresses: tuple[str, ...]


_read_entry = msgspec.json.Decoder(_Entry).decode
_read_record = msgspec.json.Decoder(_Record).decode
_read_index = msgspec.json.Decoder(_Index).decode
_KINDS = {kind.value.encode(): kind for kind in Kind}


class Layout:
    """Keys and values below one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix.encode()
        self.all = (self.prefix, after_all(self.prefix))
        """The first key that may be ours, and the first that cannot be."""

    def key(self, key: Key) -> bytes:
        """Return where an entry is."""
        if isinstance(key, RecordKey):
            return b"%brecord/%08d/%b" % (self.prefix, key.vsid, key.ca.hex().encode())
        if isinstance(key, LeaseKey):
            return b"%blease/%b" % (self.prefix, key.pa.hex().encode())
        return b"%b%b/%b" % (self.prefix, key.kind.encode(), key.name.encode())

    def index_key(self, vsid: Vsid, mac: MacAddress) -> bytes:
        """Return where the addresses of a MAC's live records are."""
        return b"%bmac/%08d/%b" % (self.prefix, vsid, mac.hex().encode())

    def range(self, prefix: Prefix) -> tuple[bytes, bytes]:
        """Return the first key that a listing may hold, and the first that it cannot hold."""
        start = b"%b%b/" % (self.prefix, prefix.kind.encode())
        if prefix.vsid is not None:
            start += b"%08d/" % prefix.vsid
        return start, after_all(start)

    def read_key(self, found: bytes) -> Key | None:
        """Return whose entry is at an etcd key; None if nobody's."""
        kind, _, rest = found.removeprefix(self.prefix).partition(b"/")
        if kind not in _KINDS:
            return None
        try:
            if kind == b"lease":
                octets = binascii.unhexlify(rest)
                return LeaseKey(ProviderAddress(octets)) if len(octets) in {4, 16} else None
            if kind != b"record":
                return NamedKey(_KINDS[kind], rest.decode())
            vsid, _, ca = rest.partition(b"/")
            octets = binascii.unhexlify(ca)
            return RecordKey(Vsid(int(vsid)), CustomerAddress(octets)) if len(octets) in {4, 16} else None
        except ValueError:
            return None

    def read(self, found: KeyValue) -> Stored | None:
        """Return the entry of a key and value; None if the key is nobody's.

        Raises StoreUnavailable where the value is none that we have written.
        """
        key = self.read_key(found.key)
        if key is None:
            return None
        value: Value | None
        try:
            if isinstance(key, RecordKey):
                record = _read_record(found.value)
                value, epoch = _placement(record.value), record.epoch
            else:
                entry = _read_entry(found.value)
                value, epoch = _value(key.kind, entry.value), entry.epoch
        except (msgspec.DecodeError, ValueError) as error:
            raise StoreUnavailable(f"etcd's key {_text(found.key)} holds no {key.kind}: {error}") from None
        return Stored(key, value, epoch, found.mod_revision)

    def read_all(self, found: Iterable[KeyValue]) -> Iterator[Stored]:
        """Read entries and pass over what is none: what nobody understands keeps nobody from the others."""
        for each in found:
            try:
                entry = self.read(each)
            except StoreUnavailable as error:
                log.warning("passed over: %s", error, extra={"event": "entry-refused"})
                continue
            if entry is not None:
                yield entry


def _placement(found: _Place | None) -> Placement | None:
    if found is None:
        return None
    mac, (pa, host) = MacAddress.parse(found.mac), _holder(found.pa, found.host)
    return Placement(mac, pa, host, found.translation, found.pinned, found.frozen, found.moves)


@lru_cache(maxsize=65_536)
def _holder(pa: str, host: str) -> tuple[ProviderAddress, str]:
    """Hosts are few: the records of one share its name and its address."""
    return ProviderAddress.parse(pa), host


def _value(kind: Kind, found: object) -> Value | None:
    return None if found is None else forms.read(forms.VALUE_TYPES[kind], found)


def after_all(prefix: bytes) -> bytes:
    """Return the first key after all that begin with a prefix, which ends in a slash."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def written(write: Write, identity: str) -> bytes:
    """Return the value of an entry."""
    value = None if write.value is None else forms.form(write.value)
    return msgspec.json.encode(_Entry(write.epoch, identity, value))


def identity(found: KeyValue) -> str | None:
    """Return which write an entry's value is of."""
    try:
        return _read_entry(found.value).write
    except msgspec.DecodeError:
        return None


def index(addresses: Iterable[CustomerAddress]) -> bytes:
    """Return an index's value."""
    return msgspec.json.encode(_Index(tuple(str(ca) for ca in sorted(addresses))))


def read_index(found: KeyValue | None) -> set[CustomerAddress]:
    """Return the addresses that an index names. Raises StoreUnavailable where it is none."""
    if found is None:
        return set()
    try:
        return {CustomerAddress.parse(text) for text in _read_index(found.value).addresses}
    except (msgspec.DecodeError, ValueError) as error:
        raise StoreUnavailable(f"etcd's key {_text(found.key)} is no index: {error}") from None


def mac_of(entry: Stored | Write | None) -> MacAddress | None:
    """Return under which MAC a record is indexed; None if it is no live record."""
    return entry.value.mac if entry is not None and isinstance(entry.value, Placement) else None


def _text(key: bytes) -> str:
    return key.decode(errors="replace")
