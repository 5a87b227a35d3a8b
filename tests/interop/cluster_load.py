"""Readers, writers and watchers of a cluster while things happen to it, and what must hold afterwards.

Each asks the lookup nodes by the client that everybody uses, which goes on to another node by itself.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from itertools import count
from typing import Any, Self

import msgspec

from gateway.lookup.client import LookupClient
from gateway.lookup.entries import Key, Progress, RecordKey, Reset, Stored
from gateway.lookup.store import Conflict, Expect, Expected, StoreUnavailable
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import LookupRecord, Network
from tests.interop.cluster import LOOKUPS, Cluster

WEB = Vsid(5001)
KNOWN = CustomerAddress.parse("10.0.1.6")
"""A VM's address, which readers look for."""
HOST, PA = "hv1", ProviderAddress.parse("198.51.100.11")
PATIENCE = 30.0

Records = Mapping[RecordKey, LookupRecord]


class Load:
    """A thread with an event loop at the console; the test does its harm meanwhile."""

    def __init__(self, cluster: Cluster, *, writers: int = 3, readers: int = 2, watchers: int = 3) -> None:
        self._cluster = cluster
        self._count = (writers, readers, watchers)
        self._numbers = count(1)
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._done: Future[None] | None = None
        self.acknowledged: dict[RecordKey, LookupRecord] = {}
        """The last acknowledged write of each key, which has one writer."""
        self.writes: list[tuple[float, float]] = []
        """When each write was acknowledged, and how long that took, attempts in vain included, in seconds."""
        self.reads: list[tuple[float, float]] = []
        """When each read was answered, and how long that took, in seconds."""
        self.outages: list[str] = []
        self.failures: list[str] = []
        """What never should be."""
        self.watched: list[dict[Key, Stored]] = []
        self.progress: list[int] = []

    def __enter__(self) -> Self:
        self._done = self._pool.submit(self._cluster.console.call, asyncio.run, self._main())
        self.go_on(3)
        return self

    def __exit__(self, kind: type[BaseException] | None, *failure: object) -> None:
        assert self._done is not None
        self._stop.set()
        try:
            self._done.result(4 * PATIENCE)
        finally:
            self._pool.shutdown()
        if kind is None:
            assert self.failures == []
            assert self.reads, "nobody has read"

    def go_on(self, writes: int = 10) -> float:
        """Wait until so many more writes are acknowledged; return the seconds that it took."""
        began, wanted = time.monotonic(), len(self.writes) + writes
        while len(self.writes) < wanted:
            assert self._done is not None
            if self._done.done():
                self._done.result()
            assert time.monotonic() < began + PATIENCE, f"no writes: {self.outages[-3:]}"
            time.sleep(0.01)
        return time.monotonic() - began

    def slowest_read(self, since: float) -> float:
        """Return how long the slowest read took of those that were answered since a time, in seconds."""
        return _slowest(self.reads, since)

    def slowest_write(self, since: float) -> float:
        """Return the same of writes."""
        return _slowest(self.writes, since)

    async def _main(self) -> None:
        writers, readers, watchers = self._count
        self.watched = [{} for _ in range(watchers)]
        self.progress = [0] * watchers
        async with asyncio.TaskGroup() as background:
            watching = [background.create_task(self._watch(number)) for number in range(watchers)]
            try:
                async with asyncio.TaskGroup() as tasks:
                    for number in range(writers):
                        tasks.create_task(self._write(number))
                    for number in range(readers):
                        tasks.create_task(self._read(number))
                await self._compare()
            finally:
                for task in watching:
                    task.cancel()
        await asyncio.sleep(0.25)  # connections by TLS take their time to close

    async def _write(self, number: int) -> None:
        """Change one record again and again, each time from what was acknowledged last."""
        key = RecordKey(WEB, CustomerAddress(bytes((10, 0, 1, 100 + number))))
        async with LookupClient(self._cluster.access(), cached_seconds=0) as client:
            try:
                present = await client.resolve(*_place(key))
            except StoreUnavailable:
                present = None
            expected: Expected = Expect.ABSENT if present is None else present.epoch
            began = time.monotonic()
            while not self._stop.is_set():
                mac = MacAddress(bytes((2, 0, 1)) + next(self._numbers).to_bytes(3))
                try:
                    record = await client.put(*_place(key), mac=mac, pa=PA, host=HOST, expected=expected)
                except StoreUnavailable as error:
                    self.outages.append(str(error))  # unknown: the next attempt shows
                except Conflict as conflict:
                    current = conflict.current.record if conflict.current is not None else None
                    self._check(key, current)
                    expected = Expect.ABSENT if current is None else current.epoch
                else:
                    if record.mac != mac:
                        self.failures.append(f"{key}: {mac} was written, {record} acknowledged")
                    self._check(key, record)
                    self.acknowledged[key] = record
                    now = time.monotonic()
                    self.writes.append((now, now - began))
                    expected, began = record.epoch, now + 0.02
                await asyncio.sleep(0.02)

    def _check(self, key: RecordKey, current: LookupRecord | None) -> None:
        """What the store has now is what was acknowledged last, or came after it."""
        last = self.acknowledged.get(key)
        if last is not None and (current is None or current.epoch < last.epoch):
            self.failures.append(f"{key}: {last} was acknowledged, {current} is there")

    async def _read(self, number: int) -> None:
        """Look for what is there, each time anew. There is always an answer."""
        nodes = [node.name for node in LOOKUPS]
        first = number % len(nodes)
        access = self._cluster.access(*nodes[first:], *nodes[:first])
        async with LookupClient(access, cached_seconds=0) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    record = await client.resolve(WEB, KNOWN)
                except StoreUnavailable as error:
                    self.failures.append(f"a reader fails after {time.monotonic() - began:.1f} s: {error}")
                else:
                    if record is None:
                        self.failures.append("a reader is told that there is no record")
                    now = time.monotonic()
                    self.reads.append((now, now - began))
                await asyncio.sleep(0.02)

    async def _watch(self, number: int) -> None:
        """Keep what a follower is told, as its replica does."""
        kept = self.watched[number]
        certificate = "edge-1" if number else None  # as a gateway, and once as the operator
        async with LookupClient(self._cluster.access(certificate=certificate)) as client:
            whole: set[Key] | None = None
            async with aclosing(client.watch()) as events:
                async for event in events:
                    match event:
                        case Reset():
                            whole = set()
                        case Progress(revision):
                            if whole is not None:
                                for key in kept.keys() - whole:
                                    del kept[key]
                                whole = None
                            self.progress[number] = revision
                        case Stored(key=key):
                            if whole is not None:
                                whole.add(key)
                            if key not in kept or event.revision >= kept[key].revision:
                                kept[key] = event

    async def _compare(self) -> None:
        """Wait until all nodes and followers have the very same, and the acknowledged writes are in it."""
        deadline = time.monotonic() + PATIENCE
        contents: list[tuple[Records, Network]] = []
        while True:
            try:
                contents = [await self._contents(node.name) for node in LOOKUPS]
            except StoreUnavailable as error:
                different = str(error)
            else:
                different = self._difference(contents)
            if not different:
                break
            if time.monotonic() > deadline:
                self.failures.append(f"no convergence: {different}")
                return
            await asyncio.sleep(0.2)
        records = contents[0][0]
        for key, last in self.acknowledged.items():
            self._check(key, records.get(key))
            found = records.get(key)
            if found is not None and found.epoch == last.epoch and found.mac != last.mac:
                self.failures.append(f"{key}: {last} was acknowledged, {found} is there")

    async def _contents(self, name: str) -> tuple[Records, Network]:
        """Everything that one lookup node has."""
        async with LookupClient(self._cluster.access(name)) as client:
            async with aclosing(client.records()) as records:
                found = {RecordKey(each.vsid, each.ca): each async for each in records}
            return found, await client.network()

    def _difference(self, contents: list[tuple[Records, Network]]) -> str:
        records, network = contents[0]
        for node, (others, other) in zip(LOOKUPS[1:], contents[1:], strict=True):
            if records != others:
                return f"{LOOKUPS[0].name} and {node.name} have different records"
            if network != other:
                return f"{LOOKUPS[0].name} and {node.name} have different networks"
        for number, kept in enumerate(self.watched):
            told = {key: entry.record for key, entry in kept.items() if entry.value is not None}
            if {key: each for key, each in told.items() if isinstance(key, RecordKey)} != records:
                return f"watcher {number} was told of other records"
        return ""


def _slowest(answers: list[tuple[float, float]], since: float) -> float:
    return max((seconds for at, seconds in list(answers) if at >= since), default=0.0)


def nodes_behind(cluster: Cluster, revision: int) -> list[str]:
    """Return the hosts and gateways that have not said that they know what is of a revision."""
    known: dict[str, int] = {}
    for node in LOOKUPS:
        for each in cluster.operator.ask_node(node.name, "GET", "/v1/nodes"):
            known[each["name"]] = max(known.get(each["name"], 0), each["revision"])
    names = [node.name for node in cluster.plan.nodes]
    return [name for name in names if known.get(name, 0) < revision]


def status(cluster: Cluster, name: str) -> dict[str, Any]:
    """Return what one lookup node says of itself."""
    found: dict[str, Any] = msgspec.convert(
        cluster.operator.ask_node(name, "GET", "/v1/status"), dict[str, Any]
    )
    return found


def _place(key: RecordKey) -> tuple[Vsid, CustomerAddress]:
    return key.vsid, key.ca
