"""A hundred thousand leases taken and given back in the embedded store, durable at each answer."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec

from gateway.lookup.entries import Grant, LeaseKey, Stored
from gateway.lookup.store import Expect
from gateway.lookup.stores.sqlite import SqliteStore
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from tests.bench.lookup_node import at_first
from tests.bench.results import Result

RUNS = 3
WRITERS = 64
LEASES = 100_000
POOL = 0xC612_0000  # 198.18.0.0/15
SITE = 0x0A00_0000  # 10.0.0.0/8
RETURNED_AT = 1_800_000_000.0


class Took(msgspec.Struct, frozen=True):
    """Seconds, and octets of the file in the end."""

    take: float
    give_back: float
    size: int


def benchmark() -> Iterator[Result]:
    """Take each address by compare-and-swap, then give each back."""
    with at_first(), tempfile.TemporaryDirectory(prefix="isthmus-bench-") as directory:
        runs = [_measure(Path(directory) / f"{run}.sqlite") for run in range(RUNS)]
    made = f"100,000 leases by {WRITERS} writers, sqlite"
    yield Result(f"{made}: taken", "s", tuple(run.take for run in runs))
    yield Result(f"{made}: given back", "s", tuple(run.give_back for run in runs))
    yield Result(f"{made}: file", "MB", tuple(run.size / 1e6 for run in runs))


def _measure(path: Path) -> Took:
    taken, given_back = asyncio.run(_take_and_give_back(path))
    return Took(taken, given_back, path.stat().st_size)


async def _take_and_give_back(path: Path) -> tuple[float, float]:
    store = await SqliteStore.open(path)

    async def take(number: int) -> Stored:
        return await store.put(_key(number), _lease(number), Expect.ABSENT)

    async def give_back(number: int) -> Stored:
        returned = msgspec.structs.replace(_lease(number), returned_at=RETURNED_AT)
        return await store.put(_key(number), returned, 1)

    taken, given_back = await _timed(take), await _timed(give_back)
    if (last := await store.get(_key(LEASES - 1))) is None or last.epoch != 2:
        raise AssertionError(f"{last} is left of the last")
    await store.close()
    return taken, given_back


async def _timed(act: Callable[[int], Awaitable[Stored]]) -> float:
    left = iter(range(LEASES))

    async def work() -> None:
        for number in left:
            await act(number)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(WRITERS)))
    return time.perf_counter() - began


def _key(number: int) -> LeaseKey:
    return LeaseKey(ProviderAddress((POOL + number).to_bytes(4)))


def _lease(number: int) -> Grant:
    return Grant(
        Vsid(0x1000 + number % 100), CustomerAddress((SITE + number).to_bytes(4)), "edge-1", leased=True
    )
