"""What a lookup node writes and reads on disk: durable writes at once, and the last known good copy."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec

from gateway.lookup.entries import Placement, RecordKey
from gateway.lookup.journal import Journal, Snapshot
from gateway.lookup.store import Expect
from gateway.lookup.stores.sqlite import SqliteStore
from tests.bench.lookup_node import at_first
from tests.bench.records import RECORDS, record
from tests.bench.results import Result, in_fresh_process

RUNS = 3
WRITERS = 64
WRITES = 10_000


class Took(msgspec.Struct, frozen=True):
    """Seconds."""

    write: float
    load: float


def benchmark() -> Iterator[Result]:
    """Write to the store, then write a journal and load it."""
    with at_first(), tempfile.TemporaryDirectory(prefix="isthmus-bench-") as directory:
        rates = [asyncio.run(_writes(Path(directory) / f"{run}.sqlite")) for run in range(RUNS)]
        yield Result(f"lookup: durable writes by {WRITERS} writers, sqlite", "1/s", tuple(rates))
        runs = [in_fresh_process(partial(journal, Path(directory) / f"journal-{run}")) for run in range(RUNS)]
        yield Result("lookup: 1 M records to the journal", "s", tuple(run.write for run in runs))
        yield Result("lookup: 1 M records from the journal", "s", tuple(run.load for run in runs))


async def _writes(path: Path) -> float:
    store = await SqliteStore.open(path)
    left = iter(range(WRITES))

    async def work() -> None:
        for number in left:
            each = record(number, 0)
            placement = Placement(each.mac, each.pa, each.host)
            await store.put(RecordKey(each.vsid, each.ca), placement, Expect.ABSENT)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(WRITERS)))
    took = time.perf_counter() - began
    await store.close()
    return WRITES / took


def journal(path: Path) -> Took:
    """Write a million records, and load them."""
    return asyncio.run(_journal(path))


async def _journal(path: Path) -> Took:
    snapshot: Snapshot | None = Snapshot([record(number, 0) for number in range(RECORDS)], (), RECORDS)
    keeper = Journal(path)
    keeper.rewrite()
    began = time.perf_counter()
    running = asyncio.create_task(keeper.run(lambda: snapshot))
    # Nobody is told: the file is there once it is whole.
    while not path.exists():  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.01)
    write = time.perf_counter() - began
    running.cancel()
    await asyncio.wait([running])
    snapshot = None
    began = time.perf_counter()
    count = 0
    async for part in Journal(path).load():
        count += len(part.entries)
    if count != RECORDS:
        raise AssertionError(f"{count} records were written of {RECORDS}")
    return Took(write=write, load=time.perf_counter() - began)
