"""Brings what a replica learns to the data path: records and leases a few at a time, then the network."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence

import trio

from gateway.forwarding.directory import Change, Delete, DeleteLease, Put, PutLease
from gateway.lookup.batches import Batch
from gateway.lookup.entries import LeaseKey, RecordKey
from gateway.operating import logs
from policies.errors import ConfigurationError
from policies.model import Network

log = logging.getLogger("isthmus.lookup")

# Records and leases taken over before packets get their turn: about a millisecond.
AT_ONCE = 256


class Feed:
    """Takes batches in order, on the trio thread.

    `apply` takes changes of records and leases, `adopt` a network, and `applied` hears the revision that
    all of it is at now. What waits has no bound: a batch that is left out would be missing here
    for ever, and whoever tells of it cannot wait.
    """

    def __init__(
        self,
        apply: Callable[[Sequence[Change]], None],
        adopt: Callable[[Network], Awaitable[None]],
        applied: Callable[[int], None],
    ) -> None:
        self._apply = apply
        self._adopt = adopt
        self._applied = applied
        self._waiting: deque[Batch] = deque()
        self._come = trio.Event()

    def take(self, batch: Batch) -> None:
        """Keep a batch until its turn comes. Called on the trio thread."""
        self._waiting.append(batch)
        self._come.set()

    async def run(self) -> None:
        """Pass on whatever is taken, for ever."""
        while True:
            await self._come.wait()
            self._come = trio.Event()
            while self._waiting:
                await self._pass_on(self._waiting.popleft())

    async def _pass_on(self, batch: Batch) -> None:
        changes = list(changes_of(batch))
        for start in range(0, len(changes), AT_ONCE):
            self._apply(changes[start : start + AT_ONCE])
            await trio.lowlevel.checkpoint()
        if batch.network is not None:
            try:
                await self._adopt(batch.network)
            except ConfigurationError as error:
                for problem in error.problems:
                    about = {"event": "network-refused", **logs.concerned(problem)}
                    words = "the network of revision %d is not taken over: %s"
                    log.error(words, batch.revision, problem, extra=about)
        self._applied(batch.revision)


def changes_of(batch: Batch) -> Iterator[Change]:
    """The changes of records and leases in a batch, as the directory takes them."""
    for entry, record in zip(batch.changes, batch.records, strict=True):
        if isinstance(entry.key, RecordKey):
            yield Put(record) if record is not None else Delete(entry.key.vsid, entry.key.ca)
        elif isinstance(entry.key, LeaseKey):
            # What a record has may have been a gateway's until now.
            lease = entry.lease
            yield PutLease(lease) if lease is not None else DeleteLease(entry.key.pa)
