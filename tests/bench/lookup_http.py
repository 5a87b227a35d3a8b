"""What a lookup node answers by HTTP, with a million records and a thousand watches open.

The node has one processor, the generator the other: no TLS, loopback. The generator's own limit
is measured with a server that answers everything by the same octets.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path

from gateway.lab.processes import Process
from gateway.lookup.client import LookupClient
from gateway.lookup.client.remote import remote
from gateway.lookup.replica import Replica
from policies.services import LookupAccess
from tests.bench import lookup_node
from tests.bench.lookup_generator import Askers, Listener, connect
from tests.bench.records import RECORDS, ca, record, vsid
from tests.bench.results import Result, in_fresh_process

RUNS = 3
WATCHES = 1_000
SINGLE, BATCH = "single", "in batches of 1,000"
BATCH_SIZE = 1_000
CONNECTIONS = {SINGLE: 64, BATCH: 8}
AIMS = {SINGLE: 15_000, BATCH: 300_000}
SECONDS = 2.0
LOAD = 0.8
PUTS = 40
PAUSE = 0.05
PATIENCE = 30.0


def benchmark() -> Iterator[Result]:
    """Load, ask, tell and have it followed."""
    with _apart() as processor, lookup_node.filled_state() as state:
        node, port, cost = lookup_node.start(state, processor)
        costs = [cost]
        try:
            for _ in range(RUNS - 1):
                node.stop()
                node, port, cost = lookup_node.start(state, processor)
                costs.append(cost)
            loads, sizes = tuple(cost.load for cost in costs), tuple(cost.resident / 1e6 for cost in costs)
            yield Result("lookup: 1 M records from the store to the directory", "s", loads, at_most=10)
            yield Result("lookup: memory of service and directory", "MB", sizes, at_most=500)
            yield from asyncio.run(_measure(port, processor, state))
            took = [in_fresh_process(partial(follow, port)) for _ in range(RUNS)]
            yield Result("lookup: 1 M records to a follower by HTTP", "s", tuple(took))
        finally:
            node.stop()


async def _measure(port: int, processor: int, state: Path) -> list[Result]:
    generator = random.Random(7637)
    requests = {SINGLE: _singles(generator), BATCH: _batches(generator)}
    results = []
    async with _watches(port) as watches:
        for sort in (SINGLE, BATCH):
            results += await _resolves(port, sort, requests[sort], watches)
        results += await _puts(port, watches)
    with _canned(state, processor) as canned:
        askers = await Askers.connect(canned, CONNECTIONS[SINGLE])
        limits = tuple([await askers.rate(requests[SINGLE], SECONDS) for _ in range(RUNS)])
        askers.close()
    return [*results, Result("lookup: the generator alone, single", "1/s", limits)]


async def _resolves(port: int, sort: str, requests: Sequence[bytes], watches: Watches) -> list[Result]:
    of_one = BATCH_SIZE if sort == BATCH else 1
    askers = await Askers.connect(port, CONNECTIONS[sort])
    rates = tuple([await askers.rate(requests, SECONDS) for _ in range(RUNS)])
    rate = LOAD * statistics.median(rates)
    runs = [await askers.latencies(requests, rate, SECONDS) for _ in range(RUNS)]
    askers.close()
    watches.check()
    name = f"lookup: resolves by HTTP, {sort}"
    return [
        Result(name, "1/s", tuple(rate * of_one for rate in rates), at_least=AIMS[sort]),
        *_percentiles(f"{name}, at {LOAD:.0%} of that", runs, most=10),
    ]


async def _puts(port: int, watches: Watches) -> list[Result]:
    """From the beginning of a write by HTTP until each of the watches has been told."""
    askers = await Askers.connect(port, 1)
    each, last = [], []
    numbers = itertools.count(7)
    for _ in range(RUNS):
        took: list[float] = []
        latest: list[float] = []
        for _ in range(PUTS):
            delays = await watches.told(partial(askers.ask_one, _put(next(numbers))))
            took += delays
            latest.append(max(delays))
            await asyncio.sleep(PAUSE)
        each.append(took)
        last.append(latest)
    askers.close()
    name = f"lookup: from a put to {WATCHES:,} watches"
    return [*_percentiles(name, each, most=100), *_percentiles(f"{name}, the last of them", last, most=None)]


class Watches:
    """A thousand of them, each told everything that changes."""

    def __init__(self) -> None:
        self.all: list[Listener] = []
        self._heard: list[float] = []
        self._wanted = 0
        self._everybody = asyncio.Event()

    def heard(self) -> None:
        """One has been told of a record."""
        self._heard.append(time.perf_counter())
        if len(self._heard) == len(self.all):
            self._everybody.set()

    async def told(self, put: partial[None]) -> list[float]:
        """Write, wait until everybody has been told, and return how long that took for each."""
        self._heard.clear()
        self._everybody.clear()
        began = time.perf_counter()
        put()
        await asyncio.wait_for(self._everybody.wait(), PATIENCE)
        return [moment - began for moment in self._heard]

    def check(self) -> None:
        """Raise AssertionError unless all of them are still open."""
        if not all(watch.is_open for watch in self.all):
            raise AssertionError("a watch has been closed")


@contextlib.asynccontextmanager
async def _watches(port: int) -> AsyncIterator[Watches]:
    watches = Watches()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_get("/v1/status", closes=True))
    body = (await reader.read()).partition(b"\r\n\r\n")[2]
    writer.close()
    request = _get(f"/v1/watch?from={json.loads(body)['revision']}")
    for _ in range(WATCHES):
        watches.all.append(await connect(port, lambda: Listener(request, watches.heard)))
    await asyncio.sleep(2)
    watches.check()
    try:
        yield watches
    finally:
        for watch in watches.all:
            watch.close()


def follow(port: int) -> float:
    """Follow a node from nothing; return after how many seconds all of it is here."""
    return asyncio.run(_follow(port))


async def _follow(port: int) -> float:
    async with LookupClient(LookupAccess((f"http://127.0.0.1:{port}",))) as client:
        began = time.perf_counter()
        replica = Replica(remote(client, only_used=False))
        running = asyncio.create_task(replica.run())
        synced = asyncio.Event()
        replica.subscribe(lambda batch: synced.set() if batch.is_synced else None)
        await synced.wait()
        took = time.perf_counter() - began
        running.cancel()
        await asyncio.wait([running])
    if len(replica) != RECORDS:
        raise AssertionError(f"{len(replica)} records have come of {RECORDS}")
    return took


def _singles(generator: random.Random) -> list[bytes]:
    numbers = [generator.randrange(RECORDS) for _ in range(20_000)]
    return [_get(f"/v1/records/{vsid(number)}/{ca(number)}") for number in numbers]


def _batches(generator: random.Random) -> list[bytes]:
    found = []
    for _ in range(50):
        numbers = [generator.randrange(RECORDS) for _ in range(BATCH_SIZE)]
        wanted = [{"vsid": vsid(number), "ca": str(ca(number))} for number in numbers]
        found.append(_with_body("POST /v1/resolve", wanted))
    return found


def _put(number: int) -> bytes:
    """Give a record another MAC."""
    each = record(number, 0)
    body = {"mac": "02:ff:" + each.mac[2:].hex(":"), "pa": str(each.pa), "host": each.host}
    return _with_body(f"PUT /v1/records/{each.vsid}/{each.ca}", body, "If-Match: *\r\n")


def _get(path: str, *, closes: bool = False) -> bytes:
    end = "Connection: close\r\n" if closes else ""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{end}\r\n".encode()


def _with_body(target: str, value: object, headers: str = "") -> bytes:
    body = json.dumps(value).encode()
    head = f"{target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _percentiles(name: str, runs: Sequence[Sequence[float]], most: float | None) -> Iterator[Result]:
    for percent in (50, 99):
        samples = tuple(1e3 * statistics.quantiles(run, n=100)[percent - 1] for run in runs)
        yield Result(f"{name}, p{percent}", "ms", samples, at_most=most if percent == 99 else None)


@contextlib.contextmanager
def _apart() -> Iterator[int]:
    """Keep this thread, and what it starts, to one processor; return another for the node."""
    processors = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, [min(processors)])
        with lookup_node.at_first():
            yield max(processors)
    finally:
        os.sched_setaffinity(0, processors)


@contextlib.contextmanager
def _canned(state: Path, processor: int) -> Iterator[int]:
    arguments = [sys.executable, "-m", "tests.bench.lookup_canned", str(processor)]
    log = state / "canned.log"
    log.unlink(missing_ok=True)
    server = Process("canned", arguments, log)
    try:
        yield int(server.wait_for(r"port (\d+)")[1])
    finally:
        server.stop()
