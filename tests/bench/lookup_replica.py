"""What one change of a record costs a node that knows a million: in its replica and in its directory."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator

from gateway.feed import changes_of
from gateway.forwarding.directory import Directory
from gateway.lookup.batches import Batch
from gateway.lookup.entries import Event, Placement, Progress, RecordKey, Reset, Stored
from gateway.lookup.replica import Replica
from tests.bench.lookup_node import at_first
from tests.bench.records import RECORDS, record
from tests.bench.results import Result, in_fresh_process

CHANGES = 200_000
RUNS = 3


def benchmark() -> Iterator[Result]:
    """Change records spread over all of them."""
    with at_first():
        took = tuple(in_fresh_process(change) for _ in range(RUNS))
    yield Result("lookup: one record changed, replica and directory", "us", took, at_most=50)


def change() -> float:
    """Return the microseconds that a change takes."""
    return asyncio.run(_change())


async def _change() -> float:
    directory = Directory()
    loaded, changed = asyncio.Event(), asyncio.Event()
    generator = random.Random(7637)

    async def source(_after: int | None) -> AsyncIterator[Event]:
        yield Reset(RECORDS)
        for number in range(RECORDS):
            yield _stored(number, 0, number + 1)
        yield Progress(RECORDS)
        await loaded.wait()
        for count in range(1, CHANGES + 1):
            yield _stored(generator.randrange(RECORDS), 1, RECORDS + count)
        yield Progress(RECORDS + CHANGES)
        await asyncio.Event().wait()

    def apply(batch: Batch) -> None:
        for each in changes_of(batch):
            directory.apply(each)
        if batch.revision == RECORDS:
            began.append(time.perf_counter())
            loaded.set()
        if batch.revision == RECORDS + CHANGES:
            changed.set()

    began: list[float] = []
    replica = Replica(source)
    replica.subscribe(apply)
    running = asyncio.create_task(replica.run())
    await changed.wait()
    took = time.perf_counter() - began[0]
    running.cancel()
    await asyncio.wait([running])
    if len(directory) != RECORDS:
        raise AssertionError(f"{len(directory)} records are there of {RECORDS}")
    return took / CHANGES * 1e6


def _stored(number: int, epoch: int, revision: int) -> Stored:
    each = record(number, epoch)
    return Stored(RecordKey(each.vsid, each.ca), Placement(each.mac, each.pa, each.host), epoch + 1, revision)
