"""The last known good copy on disk: a snapshot, and what has changed since.

The file is a line that says what it is, and frames: length, CRC-32, MessagePack. A
frame that was being written when the process ended is found by its length or its CRC,
and left out with whatever follows. Files are read and written off the event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import struct
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gateway.lookup.entries import Grant, Kind, LeaseKey, NamedKey, Placement, RecordKey, Stored
from gateway.lookup.forms import VALUE_TYPES, Malformed, form, read
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import LookupRecord, Translation

log = logging.getLogger("isthmus.lookup")

_JOURNAL = {"event": "journal"}

MAGIC = b"isthmus journal 2\n"
_WITHOUT_GRANTS = b"isthmus journal 1\n"

_HEADER = struct.Struct("!II")  # length and CRC-32 of what follows

# Entries in a frame of a snapshot: about a millisecond's work at once.
_AT_ONCE = 1000

# A file is not rewritten before it has this many octets of changes, however small its snapshot.
_LEAST_GROWTH = 1 << 16

# More changes than this are not kept for a slow disk: a new snapshot has them.
_MOST_WAITING = 100_000

_RETRY = 5.0
_TOUCH_EVERY = 10.0


class Part(msgspec.Struct, frozen=True):
    """Some entries and tombstones in the order in which they were told, and the revision then whole."""

    entries: Sequence[Stored]
    revision: int


class Snapshot(msgspec.Struct, frozen=True):
    """Everything a replica has: its plain records, its other entries, and the revision that is whole."""

    records: Sequence[LookupRecord]
    others: Sequence[Stored]
    revision: int


class _Row(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """A record; a tombstone has no MAC."""

    vsid: int
    ca: bytes
    epoch: int
    revision: int
    mac: bytes | None = None
    pa: bytes = b""
    host: str = ""
    translation: Translation = Translation.ENCAP
    pinned: bool = False
    frozen: bool = False
    moves: tuple[float, ...] = ()


class _NamedRow(msgspec.Struct, frozen=True, array_like=True):
    """A host, a gateway or a tenant as its form, or None for a tombstone."""

    kind: Kind
    name: str
    epoch: int
    revision: int
    form: Any


class _GrantRow(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """An address of a pool; a tombstone has no VSID."""

    pa: bytes
    epoch: int
    revision: int
    vsid: int | None = None
    ca: bytes = b""
    node: str = ""
    returned_at: float | None = None
    leased: bool = False


class _Frame(msgspec.Struct, frozen=True, array_like=True):
    revision: int
    records: Sequence[_Row]
    named: Sequence[_NamedRow]
    grants: Sequence[_GrantRow] = ()


_encoder = msgspec.msgpack.Encoder(enc_hook=bytes)  # addresses are octets of their own types
_decoder = msgspec.msgpack.Decoder(_Frame)


class Journal:
    """A file that a replica writes and, at the next start, loads. One process at a time uses it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0
        self._snapshot_size = 0
        self._waiting: list[Part] = []
        self._waiting_entries = 0
        self._is_rewrite_due = True
        self._is_touch_due = False
        self._touched = -_TOUCH_EVERY
        self._work = asyncio.Event()
        self.age = 0.0
        """For how many seconds nothing had been noted when it was loaded."""
        self.is_whole = True
        """Whether what was loaded is all that there was: older versions left out what they did not know."""

    async def load(self) -> AsyncIterator[Part]:
        """Yield what the file holds, as far as it is sound; nothing where there is none."""
        frames = self._frames()
        while True:
            part = await asyncio.to_thread(next, frames, None)
            if part is None:
                return
            self._is_rewrite_due = False
            yield part

    def append(self, entries: Sequence[Stored], revision: int) -> None:
        """Have changes written soon."""
        if self._is_rewrite_due:
            self._work.set()
            return
        self._waiting.append(Part(entries, revision))
        self._waiting_entries += len(entries)
        if self._waiting_entries > _MOST_WAITING:
            self.rewrite()
        self._work.set()

    def rewrite(self) -> None:
        """Have everything written anew soon."""
        self._is_rewrite_due = True
        self._waiting.clear()
        self._waiting_entries = 0
        self._work.set()

    def touch(self, now: float) -> None:
        """Note that what is written is true still, by the event loop's clock."""
        if now - self._touched >= _TOUCH_EVERY:
            self._touched = now
            self._is_touch_due = True
            self._work.set()

    async def run(self, snapshot: Callable[[], Snapshot | None]) -> None:
        """Write whatever comes, for ever. A disk that fails is tried again, and harms nothing else.

        `snapshot` returns None while there is nothing whole to be written.
        """
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._write(snapshot)
            except OSError as error:
                log.error("%s cannot be written: %s", self._path, error, extra=_JOURNAL)
                self.rewrite()
                await asyncio.sleep(_RETRY)

    async def _write(self, snapshot: Callable[[], Snapshot | None]) -> None:
        if self._is_rewrite_due or self._size > 2 * self._snapshot_size + _LEAST_GROWTH:
            everything = snapshot()
            if everything is None:
                return
            self._is_rewrite_due = False
            self._waiting.clear()
            self._waiting_entries = 0
            self._size = self._snapshot_size = await asyncio.to_thread(self._rewrite, everything)
        elif self._waiting:
            parts = self._waiting
            self._waiting = []
            self._waiting_entries = 0
            self._size = await asyncio.to_thread(self._append, parts)
        elif self._is_touch_due:
            await asyncio.to_thread(os.utime, self._path)
        self._is_touch_due = False

    def _rewrite(self, snapshot: Snapshot) -> int:
        """Replace the file by a snapshot, in one step, and return its size."""
        temporary = self._path.with_name(self._path.name + ".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(MAGIC)
                for frame in _snapshot_frames(snapshot):
                    file.write(frame)
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            temporary.replace(self._path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return size

    def _append(self, parts: Iterable[Part]) -> int:
        """Write frames behind the last sound one, and return the new size."""
        data = b"".join(_encoded(part) for part in parts)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "wb") as file:
            file.truncate(self._size)
            file.seek(self._size)
            file.write(data)
        return self._size + len(data)

    def _frames(self) -> Iterator[Part]:
        """Read the file up to its end, or to the first frame that is not whole."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        except OSError as error:
            log.error("%s cannot be read: %s", self._path, error, extra=_JOURNAL)
            return
        with file:
            self.age = max(0.0, time.time() - os.fstat(file.fileno()).st_mtime)
            magic = file.read(len(MAGIC))
            self.is_whole = magic == MAGIC
            if magic not in {MAGIC, _WITHOUT_GRANTS}:
                log.error("%s is no journal of ours, and is not used", self._path, extra=_JOURNAL)
                return
            self._size = self._snapshot_size = len(MAGIC)
            while True:
                header = file.read(_HEADER.size)
                if len(header) < _HEADER.size:
                    break
                length, checksum = _HEADER.unpack(header)
                payload = file.read(length)
                if len(payload) < length or zlib.crc32(payload) != checksum:
                    break
                try:
                    part = _decoded(payload)
                except (msgspec.MsgspecError, Malformed) as error:
                    words = "%s is used as far as it can be read: %s"
                    log.error(words, self._path, error, extra=_JOURNAL)
                    break
                self._size += _HEADER.size + length
                yield part
            self._snapshot_size = self._size


def _snapshot_frames(snapshot: Snapshot) -> Iterator[bytes]:
    others = iter(snapshot.others)
    yield _encoded(Part((), snapshot.revision))
    while entries := tuple(itertools.islice(others, _AT_ONCE)):
        yield _encoded(Part(entries, snapshot.revision))
    for start in range(0, len(snapshot.records), _AT_ONCE):
        rows = [_row_of_record(record) for record in snapshot.records[start : start + _AT_ONCE]]
        yield _framed(_Frame(snapshot.revision, rows, ()))


def _encoded(part: Part) -> bytes:
    records: list[_Row] = []
    named: list[_NamedRow] = []
    grants: list[_GrantRow] = []
    for entry in part.entries:
        key, value = entry.key, entry.value
        if isinstance(key, NamedKey):
            named.append(
                _NamedRow(
                    key.kind, key.name, entry.epoch, entry.revision, None if value is None else form(value)
                )
            )
        elif isinstance(key, LeaseKey):
            grants.append(_grant_row(key, entry))
        elif isinstance(value, Placement):
            records.append(
                _Row(
                    key.vsid,
                    key.ca,
                    entry.epoch,
                    entry.revision,
                    value.mac,
                    value.pa,
                    value.host,
                    value.translation,
                    value.pinned,
                    value.frozen,
                    value.moves,
                )
            )
        else:
            records.append(_Row(key.vsid, key.ca, entry.epoch, entry.revision))
    return _framed(_Frame(part.revision, records, named, grants))


def _grant_row(key: LeaseKey, entry: Stored) -> _GrantRow:
    value = entry.value
    if not isinstance(value, Grant):
        return _GrantRow(key.pa, entry.epoch, entry.revision)
    return _GrantRow(
        key.pa,
        entry.epoch,
        entry.revision,
        value.vsid,
        value.ca,
        value.node,
        value.returned_at,
        value.leased,
    )


def _row_of_record(record: LookupRecord) -> _Row:
    return _Row(
        record.vsid,
        record.ca,
        record.epoch,
        record.revision,
        record.mac,
        record.pa,
        record.host,
        record.translation,
    )


def _framed(frame: _Frame) -> bytes:
    payload = _encoder.encode(frame)
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def _decoded(payload: bytes) -> Part:
    """Raises msgspec.MsgspecError or Malformed."""
    frame = _decoder.decode(payload)
    entries: list[Stored] = []
    for row in frame.named:
        value = None if row.form is None else read(VALUE_TYPES[row.kind], row.form, row.name)
        entries.append(Stored(NamedKey(row.kind, row.name), value, row.epoch, row.revision))
    entries += map(_entry, frame.records)
    entries += map(_granted, frame.grants)
    return Part(entries, frame.revision)


def _entry(row: _Row) -> Stored:
    key = RecordKey(Vsid(row.vsid), CustomerAddress(row.ca))
    if row.mac is None:
        return Stored(key, None, row.epoch, row.revision)
    placement = Placement(
        MacAddress(row.mac),
        ProviderAddress(row.pa),
        row.host,
        row.translation,
        row.pinned,
        row.frozen,
        row.moves,
    )
    return Stored(key, placement, row.epoch, row.revision)


def _granted(row: _GrantRow) -> Stored:
    key = LeaseKey(ProviderAddress(row.pa))
    if row.vsid is None:
        return Stored(key, None, row.epoch, row.revision)
    grant = Grant(Vsid(row.vsid), CustomerAddress(row.ca), row.node, row.returned_at, row.leased)
    return Stored(key, grant, row.epoch, row.revision)
