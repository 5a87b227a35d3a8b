"""The embedded lookup store: one file beside the process, durable at each answer."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import time
from typing import Self, TypeVar

from gateway.lookup.claims import Claim, decide, next_write
from gateway.lookup.entries import Key, Progress, RecordKey, Stored, Value
from gateway.lookup.grants import grant_writes
from gateway.lookup.store import Compacted, Conflict, Expected, Page, Prefix, StoreUnavailable
from gateway.lookup.stores import sqlite_rows
from gateway.lookup.stores.sqlite_file import DatabaseFile
from gateway.lookup.stores.sqlite_writer import Transaction, Writer

T = TypeVar("T")

# So many revisions can be watched after the fact.
HISTORY = 100_000

_READERS = 2


class SqliteStore:
    """A LookupStore in a SQLite file. Readers never wait for the writer, nor does it for them."""

    def __init__(self, file: DatabaseFile, history: int, now: Callable[[], float]) -> None:
        self._file = file
        self._now = now
        self._changed = asyncio.Event()
        self._is_closed = False
        self._writer = Writer(file, history, self._wake)
        self._connections: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        for _ in range(_READERS):
            self._connections.put(file.connect())
        self._readers = ThreadPoolExecutor(_READERS, "lookup-reader")

    @classmethod
    async def open(cls, path: Path, *, history: int = HISTORY, now: Callable[[], float] = time) -> Self:
        """Open a store's file, or make it.

        Raises ConfigurationError where another process has it open, a newer version wrote it, or it is
        damaged, and where it cannot be made.
        """
        return cls(await asyncio.to_thread(DatabaseFile, path), history, now)

    async def get(self, key: Key) -> Stored | None:
        return await self._read(lambda connection: sqlite_rows.entry(connection, key))

    async def page(self, prefix: Prefix, after: Key | None, limit: int) -> Page:
        return await self._read(lambda connection: sqlite_rows.page(connection, prefix, after, limit))

    async def put(self, key: Key, value: Value, expected: Expected) -> Stored:
        stored = await self._write(lambda transaction: _set(transaction, key, value, expected, self._now()))
        if stored is None:
            raise TypeError(f"{key}: None is no value")
        return stored

    async def delete(self, key: Key, expected: Expected) -> Stored | None:
        return await self._write(lambda transaction: _set(transaction, key, None, expected, self._now()))

    async def claim(self, claim: Claim) -> list[Stored]:
        return await self._write(lambda transaction: _claim(transaction, claim, self._now()))

    async def watch(self, after: int) -> AsyncIterator[Stored | Progress]:
        told: int | None = None
        while True:
            # Taken before looking: what is committed after that ends the wait.
            changed = self._changed
            found = await self._read(partial(sqlite_rows.changes, after=after))
            if found is None:
                raise Compacted(f"the history after revision {after} is not here")
            for change in found.entries:
                yield change
            after = found.upto
            if found.upto == found.revision:
                if told != found.revision:
                    told = found.revision
                    yield Progress(found.revision)
                await changed.wait()

    async def compact(self, revision: int) -> None:
        await self._write(lambda transaction: transaction.forget(revision))

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._wake()
        await asyncio.to_thread(self._let_go)

    async def _read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read_with, function)

    def _read_with(self, function: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connections.get()
        try:
            return function(connection)
        except sqlite3.Error as error:
            raise StoreUnavailable(self._file.trouble(error)) from error
        finally:
            self._connections.put(connection)

    async def _write(self, work: Callable[[Transaction], T]) -> T:
        self._check_open()
        return await self._writer.submit(work)

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreUnavailable(f"{self._file.path}: the store is closed")

    def _let_go(self) -> None:
        self._writer.stop()
        self._readers.shutdown()
        while not self._connections.empty():
            self._connections.get().close()
        self._file.close()

    def _wake(self) -> None:
        """Have watchers look again."""
        self._changed.set()
        self._changed = asyncio.Event()


def _set(
    transaction: Transaction, key: Key, value: Value | None, expected: Expected, now: float
) -> Stored | None:
    connection = transaction.connection
    current = sqlite_rows.entry(connection, key)
    Conflict.check(key, current, expected)
    write = next_write(current, key, value)
    if write is None:
        return current
    writes = (write,)
    grants = grant_writes(
        writes, lambda other: current if other is key else sqlite_rows.entry(connection, other), now
    )
    transaction.write(writes + grants)
    return Stored(key, value, write.epoch, transaction.revision)


def _claim(transaction: Transaction, claim: Claim, now: float) -> list[Stored]:
    connection = transaction.connection
    found: dict[Key, Stored | None] = {
        entry.key: entry for entry in sqlite_rows.entries_of(connection, claim.vsid, claim.mac)
    }
    for ca in claim.addresses:
        key = RecordKey(claim.vsid, ca)
        if key not in found:
            found[key] = sqlite_rows.entry(connection, key)
    writes = decide(claim, (entry for entry in found.values() if entry is not None))
    grants = grant_writes(
        writes, lambda key: found[key] if key in found else sqlite_rows.entry(connection, key), now
    )
    transaction.write(writes + grants)
    return sqlite_rows.entries_of(connection, claim.vsid, claim.mac)
