"""A node's copy of everything that the store holds: reads never leave the node.

It is fed by a source of events, and ordered by revision, key by key. Three things say how
good it is: `has_contents` (there is something to answer from, perhaps only the last known
good copy), `is_synced` (the source has told everything at least once since this process
started), and `stale_since` (the source is away, or has not caught up).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator

from gateway.lookup.batches import AT_ONCE, Batch, Batches
from gateway.lookup.contents import Contents
from gateway.lookup.entries import (
    ADDRESS_KINDS,
    NAMED_KINDS,
    Event,
    Key,
    Kind,
    NamedKey,
    RecordKey,
    Reset,
    Stored,
)
from gateway.lookup.follow import closing
from gateway.lookup.history import History
from gateway.lookup.journal import Journal, Snapshot
from gateway.lookup.movements import Movements
from gateway.lookup.network import assemble
from gateway.lookup.resync import Resync
from gateway.lookup.store import StoreError, StoreUnavailable
from policies.addresses import CustomerAddress, MacAddress, Vsid
from policies.model import LookupRecord, Network

log = logging.getLogger("isthmus.lookup")

Source = Callable[[int | None], AsyncIterator[Event]]
"""Tells what has changed after a revision, or everything (None)."""

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 5.0


class Replica:
    """Everything that the store holds, as of a revision. All of it is used on one thread.

    `patience` is for how many seconds a source that is behind us is taken for one that will
    catch up, such as a lookup node that is cut off from its store; after that, for a store
    that has been restored to an earlier state. A store itself is never behind: 0.
    """

    def __init__(
        self,
        source: Source,
        *,
        history: int = 65536,
        journal: Journal | None = None,
        patience: float = 300.0,
    ) -> None:
        self.revision = 0
        """The highest told. Of a claim's changes, which share one, some may be missing still."""
        self.is_synced = False
        self.has_contents = False
        self.stale_since: float | None = None
        """By the event loop's clock; None while the source is there and has caught up."""
        self._is_away = False
        self._source = source
        self._journal = journal
        self._patience = patience
        self._delay = _FIRST_DELAY
        self._contents = Contents()
        self.find = self._contents.find
        """Return a record as readers see it: the contents' own method, since batches call it most."""
        self.granted = self._contents.granted
        """Whose provider addresses of pools are; only to be read."""
        self.movements = Movements(lambda: self.network)
        self.history = History(history)
        """The latest changes that watchers are told; only to be read."""
        # From here the source goes on. A change says nothing of those before it: of a claim's, which
        # share a revision, some may follow, and what is found gone by a Reset has that of the Reset.
        self._complete: int | None = None
        # Of anything that has been told, also of what a listing has seen before its turn.
        self._highest = 0
        # Where the source has to be before it is believed to have caught up.
        self._awaited = 0
        self._behind_since: float | None = None
        self._resync: Resync | None = None
        self._is_loading = False
        # What is here was written down by a version that left something out.
        self._is_partial = False
        # Deleted after the latest Progress: until the next one, an older put may still come.
        self._tombstones: dict[Key, int] = {}
        self._network: Network | None = None
        self._batches = Batches()
        self._is_flush_due = False

    @property
    def complete(self) -> int:
        """Up to this revision everything has been told, in whole claims: a watcher can go on from here."""
        return self._complete or 0

    def __len__(self) -> int:
        """How many records there are."""
        return len(self._contents)

    @property
    def network(self) -> Network:
        """The network, without what refers to something that is not there."""
        if self._network is None:
            self._network = assemble(self._contents.network_values())
        return self._network

    @property
    def whole_position(self) -> int:
        """Behind the latest change that is `complete`, as far as it is still here.

        Whoever is told everything there is hears of those behind it once more. A store that is restored may
        never tell of them: where one has deleted something, only who has heard of it can know that.
        """
        position = self.history.position_after(self.complete)
        return self.history.position if position is None else position

    def find_by_mac(self, vsid: Vsid, mac: MacAddress) -> tuple[LookupRecord, ...]:
        """Return all records of a MAC; usually one for each family."""
        return self._contents.find_by_mac(vsid, mac)

    def held_by(self, host: str) -> int:
        """Return how many records are of a host."""
        return self._contents.held_by(host)

    def entry(self, key: Key) -> Stored | None:
        """Return a live entry as the store has it."""
        return self._contents.entry(key)

    def records(self, vsid: Vsid, after: CustomerAddress | None, limit: int) -> list[LookupRecord]:
        """Return some of a virtual subnet's records in the order of keys, from behind an address."""
        return self._contents.records(vsid, after, limit)

    def count(self, vsid: Vsid) -> int:
        """Return how many records a virtual subnet has."""
        return self._contents.count(vsid)

    def vsids(self) -> list[Vsid]:
        """Return the virtual subnets with records, in order."""
        return self._contents.vsids()

    def entries(self, kind: Kind) -> Iterator[Stored]:
        """Every live entry of a kind, in no order, to be read without awaiting anything."""
        return self._contents.entries(kind)

    def position_after(self, revision: int) -> int | None:
        """Return where a watcher goes on who has everything up to a revision.

        None: that is too long ago, or this replica has not come that far.
        """
        return self.history.position_after(revision) if revision <= self.revision else None

    async def reached(self, revision: int, timeout: float) -> bool:
        """Wait until this replica is at a revision, for so many seconds at most; say whether it is."""
        try:
            async with asyncio.timeout(timeout):
                while self.revision < revision:
                    await self.history.woken()
        except TimeoutError:
            return False
        return True

    def subscribe(self, callback: Callable[[Batch], None]) -> None:
        """Have everything told that is here, and then each change, in batches."""
        self._flush()
        entries = itertools.chain.from_iterable(map(self.entries, (*NAMED_KINDS, *ADDRESS_KINDS)))
        network = self.network if self.has_contents else None
        changes = tuple(itertools.islice(entries, AT_ONCE))
        while True:
            callback(Batch(changes, self._records_of(changes), network, self.revision, self.is_synced))
            network = None
            changes = tuple(itertools.islice(entries, AT_ONCE))
            if not changes:
                break
        self._batches.subscribe(callback)

    async def run(self) -> None:
        """Follow the source, for ever, whatever becomes of it; from the last known good copy on."""
        self.stale_since = _now()
        if self._journal is None:
            await self._follow()
            return
        await self._load(self._journal)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._journal.run(self._snapshot))
            tasks.create_task(self._follow())

    async def _load(self, journal: Journal) -> None:
        revision: int | None = None
        self._is_loading = True
        async for part in journal.load():
            revision = part.revision
            for entry in part.entries:
                self._change(entry)
        self._is_loading = False
        self._tombstones.clear()
        if revision is not None:
            self._contents.keep_from_collector()
            self.stale_since = _now() - journal.age
            self.has_contents = True
            self._is_partial = not journal.is_whole
            self.revision = self._complete = revision
            self._highest = max(self._highest, revision)
            self.history.restart(self._highest)
            self._flush_soon()

    async def _follow(self) -> None:
        taken = 0
        while True:
            try:
                self._awaited = self._highest
                after = None if self._has_gone_back() or self._is_partial else self._complete
                async with closing(self._source(after)) as events:
                    async for event in events:
                        self._take(event)
                        taken += 1
                        if taken % AT_ONCE == 0:
                            await asyncio.sleep(0)
                reason = "it has ended"
            except (StoreError, OSError) as error:
                reason = str(error) or type(error).__name__
            self._lose(reason)
            await asyncio.sleep(self._delay * random.uniform(0.5, 1.0))
            self._delay = min(2 * self._delay, _LONGEST_DELAY)

    def _take(self, event: Event) -> None:
        if isinstance(event, Stored):
            if self._resync is not None:
                self._resync.take(event)
            elif self._is_news(event):
                self._change(event)
        elif isinstance(event, Reset):
            self._begin(event.revision)
        else:
            self._progress(event.revision)

    def _is_news(self, entry: Stored) -> bool:
        """Whether an entry is newer than what is here: an older or repeated one changes nothing.

        A deletion at the same revision is one: the source no longer tells us of that key.
        """
        known = self._contents.revision_of(entry.key)
        if known is not None:
            return entry.revision > known or (entry.revision == known and entry.value is None)
        deleted = self._tombstones.get(entry.key, -1)
        return entry.revision > deleted or (entry.revision == deleted and entry.value is not None)

    def _change(self, entry: Stored) -> None:
        key, revision = entry.key, entry.revision
        before = None
        if isinstance(key, RecordKey) and not self._is_loading:
            before = self._contents.find(key.vsid, key.ca)
        is_told = self.granted.is_told(entry)
        record = self._contents.put(entry)
        self._batches.add(entry, record)
        if before is not None and record is not None:
            self.movements.changed(before, record)
        if entry.value is None:
            self._tombstones[key] = revision
        elif self._tombstones:
            self._tombstones.pop(key, None)
        if isinstance(key, NamedKey):
            self._network = None
        self._highest = max(self._highest, revision)
        if not self._is_loading:
            if is_told:
                self.history.add(entry)
            if self._resync is None:
                self.revision = max(self.revision, revision)
        if self._batches.is_full:
            self._flush()
        else:
            self._flush_soon()

    def _begin(self, revision: int) -> None:
        """Expect everything there is. Raises StoreUnavailable if the source is behind us."""
        is_behind = revision < self._highest
        if is_behind:
            self._bear_with(revision)
        else:
            self._behind_since = None
        self._awaited = 0
        # Where nobody has been told anything yet, what comes is taken as it comes.
        self._is_loading = self._contents.is_empty and not self.has_contents
        if not self._is_loading:
            self._resync = Resync(self._contents, revision, is_restored=is_behind)

    def _bear_with(self, revision: int) -> None:
        """Take a source that is behind us for one that will catch up, while our patience lasts."""
        if self._behind_since is None:
            self._behind_since = _now()
        if not self._has_gone_back():
            raise StoreUnavailable(f"it is at revision {revision}, and we are at {self._highest} already")

    def _has_gone_back(self) -> bool:
        return self._behind_since is not None and _now() - self._behind_since >= self._patience

    def _progress(self, revision: int) -> None:
        if self._resync is not None:
            self._swap(self._resync, revision)
        elif self._is_loading:
            self._is_loading = False
            self._contents.keep_from_collector()
            self.revision = revision
            self._highest = max(self._highest, revision)
            self.history.restart(self._highest)
            self._rewrite()
        elif self._complete is None:
            return
        elif revision < self._awaited:
            # What we know beyond it may never be told here, not even that it is gone.
            self._bear_with(revision)
            raise StoreUnavailable("it has gone back, and has to tell everything")
        elif revision < self._complete:
            return
        self._awaited = 0
        self._complete = revision
        self.revision = max(self.revision, revision)
        self._highest = max(self._highest, revision)
        if self._tombstones:
            self._tombstones = {key: at for key, at in self._tombstones.items() if at > revision}
        if self.stale_since is not None:
            about = {"event": "store-back"}
            log.info("the lookup service's store is followed from revision %d on", revision, extra=about)
        self.stale_since = self._behind_since = None
        self._is_away = False
        self._delay = _FIRST_DELAY
        if self._journal is not None:
            self._journal.touch(_now())
        self.is_synced = self.has_contents = True
        self._flush_soon()

    def _swap(self, resync: Resync, revision: int) -> None:
        """Go over to what has been told since a Reset, and tell the differences."""
        differences = resync.finish()
        if resync.is_restored:
            about = {"event": "store-restored"}
            words = "the lookup service's store has gone back to revision %d"
            log.warning(words, resync.revision, extra=about)
            self.revision = self._highest = resync.revision
            self._tombstones.clear()
        is_lost = any(map(self.granted.loses, differences))
        for entry in differences:
            self._change(entry)
        self._resync = None
        self._is_partial = False
        self._highest = max(self._highest, revision)
        if resync.is_restored or is_lost or not self.has_contents:
            self.history.restart(self._highest)
        else:
            self.history.close_past(self._highest)
        self._rewrite()

    def _rewrite(self) -> None:
        if self._journal is not None:
            self._journal.rewrite()

    def _snapshot(self) -> Snapshot | None:
        return None if self._complete is None else Snapshot(*self._contents.snapshot(), self._complete)

    def _lose(self, reason: str) -> None:
        """Note that the source is away: reads go on from what is here."""
        self._resync = None
        self._is_loading = False
        if self.stale_since is None:
            self.stale_since = _now()
        if not self._is_away:
            self._is_away = True
            log.warning("the lookup service's store is away: %s", reason, extra={"event": "store-away"})

    def _flush_soon(self) -> None:
        """Tell subscribers once the source has nothing more at hand."""
        if not self._is_flush_due:
            self._is_flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        is_whole = self.has_contents and self._resync is None
        network = self.network if is_whole and self._batches.has_subscribers else None
        batch = self._batches.take(self.revision, self.is_synced, network)
        if batch is None:
            return
        if self._journal is not None and self.is_synced and self._complete is not None:
            self._journal.append(batch.changes, self._complete)
        self.history.wake()
        self._batches.tell(batch)

    def _records_of(self, entries: Iterable[Stored]) -> tuple[LookupRecord | None, ...]:
        keys = (entry.key for entry in entries)
        return tuple(self.find(key.vsid, key.ca) if isinstance(key, RecordKey) else None for key in keys)


def _now() -> float:
    return asyncio.get_running_loop().time()
