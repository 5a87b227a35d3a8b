"""What the embedded store's tables hold, and how entries become rows and back.

Every key has one row in `entries`, a tombstone where it was deleted, and every change has one in `history`
until that is trimmed. Keys are octets that sort as keys do. Of a record the MAC has a column of its own,
for claims; what is left is the same text for most records of a host, and is read once for all of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import msgspec

from gateway.lookup import forms
from gateway.lookup.claims import Write
from gateway.lookup.entries import Key, Kind, LeaseKey, NamedKey, Placement, RecordKey, Stored, Value
from gateway.lookup.store import Page, Prefix
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import Translation

FIRST_VERSION = 1
"""Of a new file."""
VERSION_WITH_GRANTS = 2
"""Of a file in which a provider address has been granted: programs that do not know this kind of entry refuse
it. Until then they can read it, so that going back to one needs no copy."""

SCHEMA = """
CREATE TABLE entries (
    kind TEXT NOT NULL,
    key BLOB NOT NULL,
    mac BLOB,
    value TEXT,
    epoch INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE INDEX entries_by_mac ON entries (mac) WHERE mac IS NOT NULL;
CREATE TABLE history (
    revision INTEGER NOT NULL,
    kind TEXT NOT NULL,
    key BLOB NOT NULL,
    mac BLOB,
    value TEXT,
    epoch INTEGER NOT NULL,
    PRIMARY KEY (revision, kind, key)
) WITHOUT ROWID;
CREATE TABLE meta (
    revision INTEGER NOT NULL,
    compacted INTEGER NOT NULL
);
INSERT INTO meta VALUES (0, 0);
"""

_LEASE = Kind.LEASE.value
_COLUMNS = "kind, key, mac, value, epoch, revision"

# So many changes are read at once for a watch.
CHANGES_AT_ONCE = 1_000

_Row = tuple[str, bytes, bytes | None, str | None, int, int]
_Rest = tuple[ProviderAddress, str, Translation, bool, bool, tuple[float, ...]]


class Changes(msgspec.Struct, frozen=True):
    """The changes after a revision, up to another one."""

    entries: list[Stored]
    upto: int
    revision: int
    """Of the store when they were read."""


def positions(connection: sqlite3.Connection) -> tuple[int, int]:
    """The store's revision, and the one that its history begins after."""
    revision, compacted = connection.execute("SELECT revision, compacted FROM meta").fetchone()
    return revision, compacted


def entry(connection: sqlite3.Connection, key: Key) -> Stored | None:
    """What is stored of one key, a tombstone too."""
    found = connection.execute(
        f"SELECT {_COLUMNS} FROM entries WHERE kind = ? AND key = ?",  # noqa: S608 - our own columns
        (key.kind.value, _octets(key)),
    )
    return next(_stored(found), None)


def entries_of(connection: sqlite3.Connection, vsid: Vsid, mac: MacAddress) -> list[Stored]:
    """The records of a MAC, in the order of their keys."""
    found = connection.execute(
        f"SELECT {_COLUMNS} FROM entries WHERE mac = ? AND kind = 'record' AND key >= ? AND key < ?"  # noqa: S608
        " ORDER BY key",
        (mac, vsid.to_bytes(3), (vsid + 1).to_bytes(3)),
    )
    return list(_stored(found))


def page(connection: sqlite3.Connection, prefix: Prefix, after: Key | None, limit: int) -> Page:
    """Some live entries, and the revision that they are true at."""
    vsid = prefix.vsid
    lowest, end = (b"", None) if vsid is None else (vsid.to_bytes(3), (vsid + 1).to_bytes(3))
    first = lowest if after is None else max(lowest, _octets(after) + b"\0")
    upper = "" if end is None else " AND key < ?"
    with _Snapshot(connection):
        revision, _ = positions(connection)
        found = connection.execute(
            f"SELECT {_COLUMNS} FROM entries WHERE kind = ? AND key >= ?{upper} AND value IS NOT NULL"  # noqa: S608
            " ORDER BY key LIMIT ?",
            (prefix.kind.value, first, *(() if end is None else (end,)), limit + 1),
        ).fetchall()
    return Page(list(_stored(found[:limit])), revision, more=len(found) > limit)


def changes(connection: sqlite3.Connection, after: int) -> Changes | None:
    """The next changes after a revision, those of one revision together; None where they are gone.

    Revisions have no gaps, so that a range of them bounds what is read.
    """
    with _Snapshot(connection):
        revision, compacted = positions(connection)
        if not compacted <= after <= revision:
            return None
        upto = min(after + CHANGES_AT_ONCE, revision)
        found = connection.execute(
            f"SELECT {_COLUMNS} FROM history WHERE revision > ? AND revision <= ?"  # noqa: S608
            " ORDER BY revision, kind, key",
            (after, upto),
        ).fetchall()
    return Changes(list(_stored(found)), upto, revision)


def write(connection: sqlite3.Connection, writes: Iterable[Write], revision: int) -> None:
    """Make changes that belong together, under one revision."""
    for change in writes:
        mac, text = _columns(change.value)
        kind, key = change.key.kind.value, _octets(change.key)
        if kind == _LEASE:
            connection.execute(f"PRAGMA user_version = {VERSION_WITH_GRANTS}")
        connection.execute(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?)",
            (kind, key, mac, text, change.epoch, revision),
        )
        connection.execute(
            "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?)", (revision, kind, key, mac, text, change.epoch)
        )


def forget(connection: sqlite3.Connection, revision: int) -> None:
    """Drop the history up to a revision."""
    connection.execute("DELETE FROM history WHERE revision <= ?", (revision,))
    connection.execute("UPDATE meta SET compacted = ?", (revision,))


class _Snapshot:
    """Reads that see one and the same commit. It takes no lock that a writer minds."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN")

    def __exit__(self, *_: object) -> None:
        self._connection.rollback()


def _octets(key: Key) -> bytes:
    if isinstance(key, RecordKey):
        return key.vsid.to_bytes(3) + key.ca
    return key.pa if isinstance(key, LeaseKey) else key.name.encode()


def _key(kind: Kind, octets: bytes) -> Key:
    return LeaseKey(ProviderAddress(octets)) if kind is Kind.LEASE else NamedKey(kind, octets.decode())


def _columns(value: Value | None) -> tuple[bytes | None, str | None]:
    if value is None:
        return None, None
    if isinstance(value, Placement):
        rest = (value.pa, value.host, value.translation, value.pinned, value.frozen, value.moves)
        return value.mac, _text_of_rest(rest)
    return None, _text(forms.form(value))


def _stored(rows: Iterable[_Row]) -> Iterator[Stored]:
    record = Kind.RECORD.value
    for kind, key, mac, text, epoch, revision in rows:
        if kind == record:
            record_key = RecordKey(_vsid(key[:3]), CustomerAddress(key[3:]))
            if mac is None or text is None:
                yield Stored(record_key, None, epoch, revision)
            else:
                yield Stored(record_key, Placement(MacAddress(mac), *_rest(text)), epoch, revision)
        else:
            value = (
                None if text is None else forms.read(forms.VALUE_TYPES[Kind(kind)], msgspec.json.decode(text))
            )
            yield Stored(_key(Kind(kind), key), value, epoch, revision)


def _text(form: Any) -> str:
    return msgspec.json.encode(form).decode()


@lru_cache(maxsize=65536)
def _text_of_rest(rest: _Rest) -> str:
    form = forms.form(Placement(_NO_MAC, *rest))
    del form["mac"]
    return _text(form)


@lru_cache(maxsize=65536)
def _rest(text: str) -> _Rest:
    value = forms.read(Placement, {"mac": str(_NO_MAC), **msgspec.json.decode(text)})
    return value.pa, value.host, value.translation, value.pinned, value.frozen, value.moves


@lru_cache(maxsize=4096)
def _vsid(octets: bytes) -> Vsid:
    return Vsid(int.from_bytes(octets))


_NO_MAC = MacAddress(bytes(6))
