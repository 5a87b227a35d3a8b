"""Many writers and watchers on a cluster while things happen to it, and what must hold afterwards.

Every value that is written is another one, so whatever is told later shows which write it was.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from itertools import count
from typing import Self, cast

from gateway.lookup.claims import Claim, Mode
from gateway.lookup.entries import Key, Kind, Placement, Progress, RecordKey, Stored
from gateway.lookup.store import Conflict, Expect, LookupStore, Prefix, StoreUnavailable
from gateway.lookup.stores.etcd import EtcdStore
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.services import Etcd
from tests.interop.etcd import Cluster

WEB = Vsid(5001)
SHARED = [RecordKey(WEB, CustomerAddress(bytes((10, 0, 1, number)))) for number in range(4)]
"""Keys that all writers compare and swap."""
CLAIMED = tuple(CustomerAddress(bytes((10, 0, 2, number))) for number in range(3))
"""Addresses of one MAC, which all writers claim."""
MAC = MacAddress.parse("02:00:00:00:02:01")
LAST = RecordKey(WEB, CustomerAddress(bytes((10, 0, 3, 0))))
"""Written when all is over, for watchers to know."""
NOWHERE = ProviderAddress(bytes(4))
PATIENCE = 30.0


class Storm:
    """A thread with an event loop on the node; the test does its harm meanwhile."""

    def __init__(
        self, cluster: Cluster, settings: Iterable[Etcd] = (), *, writers: int = 3, watchers: int = 2
    ) -> None:
        self._cluster = cluster
        self._settings = list(settings) or [cluster.settings()] * 2
        self._writers, self._watchers = writers, watchers
        self._numbers = count(1)
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._done: Future[None] | None = None
        self.acknowledged: list[Stored] = []
        self.unknown: set[ProviderAddress] = set()
        self.outages: list[str] = []
        self.told: list[list[Stored]] = []
        self.final: dict[Key, Stored] = {}

    def __enter__(self) -> Self:
        self._done = self._pool.submit(self._cluster.run, self._main())
        return self

    def __exit__(self, kind: type[BaseException] | None, *failure: object) -> None:
        self._stop.set()
        assert self._done is not None
        try:
            self._done.result(2 * PATIENCE)
        finally:
            self._pool.shutdown()
        if kind is None:
            self._check()

    def go_on(self, writes: int = 30) -> float:
        """Wait until so many more writes are acknowledged; return the seconds that it took."""
        begun, wanted = time.monotonic(), len(self.acknowledged) + writes
        while len(self.acknowledged) < wanted:
            assert self._done is not None
            if self._done.done():
                self._done.result()
            assert time.monotonic() < begun + PATIENCE, f"no writes: {self.outages[-3:]}"
            time.sleep(0.01)
        return time.monotonic() - begun

    def caught_up(self, revision: int) -> None:
        """Wait until every watcher has been told of a revision."""
        begun = time.monotonic()
        while not all(told and told[-1].revision >= revision for told in self.told):
            assert time.monotonic() < begun + PATIENCE, "a watcher is behind"
            time.sleep(0.01)

    async def _main(self) -> None:
        stores = [await EtcdStore.open(settings) for settings in self._settings]
        self.told = [[] for _ in range(self._watchers)]
        try:
            writers = [
                asyncio.ensure_future(self._write(stores[number % len(stores)], number))
                for number in range(self._writers)
            ]
            watchers = [
                asyncio.ensure_future(self._watch(stores[number % len(stores)], told))
                for number, told in enumerate(self.told)
            ]
            await asyncio.gather(*writers)
            self.acknowledged.append(await stores[0].put(LAST, Placement(MAC, NOWHERE, "hv"), Expect.ABSENT))
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*watchers)
            page = await stores[0].page(Prefix(Kind.RECORD), None, 1000)
            self.final = {entry.key: entry for entry in page.entries}
        finally:
            for store in stores:
                await store.close()

    async def _write(self, store: LookupStore, writer: int) -> None:
        while not self._stop.is_set():
            number = next(self._numbers)
            pa = ProviderAddress(number.to_bytes(4))
            try:
                if number % 4 == 0:
                    claim = Claim(WEB, MAC, pa, f"hv{number}", Mode.ORCHESTRATE, 0.0, CLAIMED)
                    self.acknowledged += await store.claim(claim)
                else:
                    key = SHARED[number % len(SHARED)]
                    current = await store.get(key)
                    value = Placement(MAC, pa, f"hv{number}")
                    expected = current.epoch if current is not None else Expect.ABSENT
                    self.acknowledged.append(await store.put(key, value, expected))
            except Conflict:
                continue
            except StoreUnavailable as error:
                self.outages.append(str(error))
                self.unknown.add(pa)

    async def _watch(self, store: LookupStore, told: list[Stored]) -> None:
        """Go on from the last Progress after an outage, as a replica does."""
        after = 0
        while not told or told[-1].key != LAST:
            try:
                changes = cast("AsyncGenerator[Stored | Progress]", store.watch(after))
                async with aclosing(changes):
                    async for change in changes:
                        if isinstance(change, Stored):
                            told.append(change)
                        elif told and told[-1].key == LAST:
                            return
                        else:
                            after = change.revision
            except StoreUnavailable as error:
                told[:] = [change for change in told if change.revision <= after]
                self.outages.append(str(error))

    def _check(self) -> None:
        history, *others = self.told
        assert all(other == history for other in others), "watchers were told different histories"
        revisions = [change.revision for change in history]
        assert revisions == sorted(revisions)

        epochs = defaultdict(list)
        for change in history:
            epochs[change.key].append(change.epoch)
        for key, found in epochs.items():
            assert found == list(range(1, len(found) + 1)), f"{key}: a change is missing, or was made twice"

        made = {(change.key, change.revision): change for change in history}
        lost = [each for each in self.acknowledged if made.get((each.key, each.revision)) != each]
        assert not lost, f"acknowledged writes have vanished: {lost[:3]}"

        written = defaultdict(set)
        for change in history:
            written[_address(change)].add(change.revision)
        twice = {pa: found for pa, found in written.items() if len(found) > 1}
        assert not twice, f"writes were made twice: {twice}"
        acknowledged = {_address(each) for each in self.acknowledged}
        strange = written.keys() - acknowledged - self.unknown
        assert not strange, f"writes that were refused have been made: {strange}"

        latest = {change.key: change for change in history}
        assert latest == self.final


def _address(change: Stored) -> ProviderAddress:
    assert isinstance(change.value, Placement)
    return change.value.pa
