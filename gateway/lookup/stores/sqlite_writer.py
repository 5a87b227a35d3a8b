"""The one thread that writes the embedded store: whatever waits is committed together.

A commit costs a write to the disk however much is in it. While one is under way the next
writes gather, so that many writers at once are each answered after one or two of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from gateway.lookup.claims import Refused, Write
from gateway.lookup.store import Conflict, StoreUnavailable, Taken
from gateway.lookup.stores import sqlite_rows
from gateway.lookup.stores.sqlite_file import DatabaseFile

T = TypeVar("T")

# So many writes are committed together at most.
BATCH = 1_000


class Transaction:
    """What a write may do: read, and make changes, which get the next revision."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.revision, self.compacted = sqlite_rows.positions(connection)
        self._begun_at = self.revision

    def write(self, writes: Iterable[Write]) -> None:
        """Make changes that belong together. None of them is no change."""
        if writes := tuple(writes):
            self.revision += 1
            sqlite_rows.write(self.connection, writes, self.revision)

    def forget(self, revision: int) -> None:
        """Drop the history up to a revision."""
        self.compacted = max(self.compacted, min(revision, self.revision))
        sqlite_rows.forget(self.connection, self.compacted)

    def finish(self, history: int) -> None:
        """Say where the revisions stand, and keep the history from growing without end."""
        if self.revision != self._begun_at:
            self.connection.execute("UPDATE meta SET revision = ?", (self.revision,))
        # A tenth at a time, rather than one after each write.
        if self.revision - self.compacted > history + history // 10:
            self.forget(self.revision - history)


class _Task(NamedTuple):
    work: Callable[[Transaction], Any]
    answer: asyncio.Future[Any]


class Writer:
    """Carries out writes in the order of their submission, several in one transaction."""

    def __init__(self, file: DatabaseFile, history: int, committed: Callable[[], None]) -> None:
        """`committed` is called on the event loop after each commit, before its writes are answered."""
        self._file = file
        self._history = history
        self._committed = committed
        self._connection = file.connect()
        self._loop = asyncio.get_running_loop()
        self._waiting: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="lookup-writer", daemon=True)
        self._thread.start()

    async def submit(self, work: Callable[[Transaction], T]) -> T:
        """Have `work` done in a transaction, and return what it returns once that is durable.

        What `work` raises is raised here; Conflict, Refused and Taken have to come before it writes.
        """
        answer: asyncio.Future[T] = self._loop.create_future()
        self._waiting.put(_Task(work, answer))
        return await answer

    def stop(self) -> None:
        """Finish what waits, and let go of the file. Blocks until then."""
        self._waiting.put(None)
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while batch := self._take():
            outcomes = self._commit(batch)
            try:
                self._loop.call_soon_threadsafe(self._answer, batch, outcomes)
            except RuntimeError:
                return  # the loop is closed: whoever waited is gone with it

    def _take(self) -> list[_Task]:
        """Wait for writes, and return all there are; none at the end."""
        batch: list[_Task] = []
        task = self._waiting.get()
        while task is not None:
            batch.append(task)
            if len(batch) == BATCH or self._waiting.empty():
                return batch
            task = self._waiting.get()
        if batch:
            self._waiting.put(None)  # the end, for the next time
        return batch

    def _commit(self, batch: list[_Task]) -> list[Any]:
        """Return each write's result, or its exception."""
        if not self._file.is_there():
            message = (
                f"{self._file.path}: it has been removed or replaced: restart isthmus; nothing was written"
            )
            return [StoreUnavailable(message) for _ in batch]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            transaction = Transaction(self._connection)
            outcomes = [_outcome(task, transaction) for task in batch]
            transaction.finish(self._history)
            self._connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            self._abandon()
            return [StoreUnavailable(f"{self._file.trouble(error)}; nothing was written") for _ in batch]
        except Exception as error:
            self._abandon()
            if len(batch) == 1:
                return [error]
            # One write that cannot be made is not the others' fault.
            return [outcome for task in batch for outcome in self._commit([task])]
        return outcomes

    def _abandon(self) -> None:
        # SQLite has rolled back by itself after some failures. Should this fail too, the next transaction
        # cannot begin and comes here again.
        with contextlib.suppress(sqlite3.Error):
            self._connection.rollback()

    def _answer(self, batch: list[_Task], outcomes: list[Any]) -> None:
        self._committed()
        for task, outcome in zip(batch, outcomes, strict=True):
            if task.answer.done():
                continue  # cancelled: whoever asked does not wait any more
            if isinstance(outcome, Exception):
                task.answer.set_exception(outcome)
            else:
                task.answer.set_result(outcome)


def _outcome(task: _Task, transaction: Transaction) -> Any:
    try:
        return task.work(transaction)
    except (Conflict, Refused, Taken) as refusal:
        return refusal
