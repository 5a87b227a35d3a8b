"""Records and changes as the HTTP interface says them, and addresses as it reads them.

A batch of look-ups is made of these: each is one pass, without a dictionary for each record.
"""

from __future__ import annotations

import socket
from functools import lru_cache

import msgspec

from gateway.lookup.entries import Key, LeaseKey, RecordKey, Stored
from gateway.lookup.forms import form
from policies.addresses import Address, CustomerAddress, ProviderAddress
from policies.model import Lease, LookupRecord, Translation

_json = msgspec.json.encode


def customer_address(text: str) -> CustomerAddress:
    """Read the usual notation of either family. Raises ValueError."""
    return CustomerAddress(_octets(text))


def provider_address(text: str) -> ProviderAddress:
    """Read the usual notation of either family. Raises ValueError."""
    return ProviderAddress(_octets(text))


def address_text(address: bytes) -> str:
    """Return the usual notation of four or sixteen octets."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def record_text(record: LookupRecord, ca: str | None = None) -> str:
    """Return a record as JSON; `ca` is its customer address, where the usual notation is known."""
    return (
        f'{{"vsid":{record.vsid},"ca":"{ca or address_text(record.ca)}","mac":"{record.mac.hex(":")}",'
        f"{_place_text(record.pa, record.host, record.translation)}"
        f',"epoch":{record.epoch},"revision":{record.revision}}}'
    )


def lease_text(lease: Lease) -> str:
    """Return a lease as JSON."""
    pa, ca, node = address_text(lease.pa), address_text(lease.ca), _json(lease.node).decode()
    return f'{{"pa":"{pa}","vsid":{lease.vsid},"ca":"{ca}","node":{node}}}'


def line(entry: Stored) -> bytes:
    """Return a change, or an entry of a snapshot, as one line of a watch.

    A provider address that is given back is told as gone: whoever may take it next is the store's concern.
    """
    key = entry.key
    record = entry.record
    if record is not None:
        return record_line(record)
    lease = entry.lease
    if lease is not None:
        return lease_line(lease)
    if entry.value is None or isinstance(key, LeaseKey):
        return deletion(key, entry.revision)
    head = f'{{"type":"put","kind":"{key.kind.value}","revision":{entry.revision},"value":'
    return head.encode() + _json(form(entry.value)) + b"}\n"


def record_line(record: LookupRecord) -> bytes:
    """Return a record of a snapshot as one line of a watch."""
    text = f'{{"type":"put","kind":"record","revision":{record.revision},"value":{record_text(record)}}}\n'
    return text.encode()


def lease_line(lease: Lease) -> bytes:
    """Return a lease of a snapshot as one line of a watch."""
    text = f'{{"type":"put","kind":"lease","revision":{lease.revision},"value":{lease_text(lease)}}}\n'
    return text.encode()


def deletion(key: Key, revision: int) -> bytes:
    """Return the line that says that a key is gone."""
    if isinstance(key, RecordKey):
        value = f'{{"vsid":{key.vsid},"ca":"{address_text(key.ca)}"}}'
    elif isinstance(key, LeaseKey):
        value = f'{{"pa":"{address_text(key.pa)}"}}'
    else:
        value = f'{{"name":{_json(key.name).decode()}}}'
    return f'{{"type":"delete","kind":"{key.kind.value}","revision":{revision},"value":{value}}}\n'.encode()


def progress(revision: int) -> bytes:
    """Return the line that says that every change up to a revision has been told."""
    return b'{"type":"progress","revision":%d}\n' % revision


def resync(revision: int) -> bytes:
    """Return the line behind which everything is told anew."""
    return b'{"type":"resync","revision":%d}\n' % revision


def _octets(text: str) -> bytes:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return socket.inet_pton(family, text)
    except (OSError, ValueError):
        raise ValueError(f"{text[:64]!r} is not an IP address") from None


@lru_cache(maxsize=65536)
def _place_text(pa: Address, host: str, translation: Translation) -> str:
    return f'"pa":"{address_text(pa)}","host":{_json(host).decode()},"translation":"{translation.value}"'
