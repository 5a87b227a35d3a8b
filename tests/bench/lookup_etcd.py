"""What the lookup store on etcd costs, beside etcd's own client and its bare gateway in the same run.

One etcd member, its files where temporary files are, and everybody on this machine's cores. `etcdctl` makes
one write a process. Writes at once are therefore compared with bare puts: of values as long, through the same
gateway and by the same client, without an index, without a comparison, and without having read anything.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import tempfile
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

from gateway.lookup.claims import Write
from gateway.lookup.entries import Kind, Placement, RecordKey, Stored
from gateway.lookup.follow import closing, entries
from gateway.lookup.store import Expect, Prefix
from gateway.lookup.stores import etcd_layout
from gateway.lookup.stores.etcd import EtcdStore
from gateway.lookup.stores.etcd_gateway import EtcdGateway
from gateway.lookup.stores.etcd_layout import Layout
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.services import Etcd
from tests.bench.results import CannotMeasure, Result
from tests.interop.etcd import COMMANDS, Single, opened

RUNS = 3
AT_ONCE = 64
WRITES = 2_000
ONE_BY_ONE = 100
RECORDS = 20_000
WRITES_AT_ONCE = 100  # of one transaction, when records are only wanted to be there

LAYOUT = Layout("/isthmus/")
BARE = Layout("/bare/")
RECORD_PREFIX = "/isthmus/record/"


def benchmark() -> Iterator[Result]:
    """Write, watch and list."""
    if missing := [command for command in COMMANDS if shutil.which(command) is None]:
        raise CannotMeasure(
            f"{', '.join(missing)} not installed: `make peers` installs what is compared with"
        )
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as directory, Single(Path(directory)) as etcd:
        yield from asyncio.run(_measure(etcd.endpoint))


async def _measure(endpoint: str) -> list[Result]:
    async with opened(Etcd((endpoint,))) as store, _gateway(endpoint) as gateway:
        results = [
            *await _writes_at_once(store, gateway),
            *await _writes_one_by_one(store, endpoint),
            *await _delays(store, endpoint),
        ]
        begin = await _load(gateway)
        return [*results, *await _replays(store, endpoint, begin), *await _listings(store, endpoint)]


async def _writes_at_once(store: EtcdStore, gateway: EtcdGateway) -> list[Result]:
    numbers, bare_numbers, moves = count(), count(), count()

    async def put() -> None:
        await store.put(*_record(next(numbers)), Expect.ABSENT)

    async def move() -> None:
        number = next(moves)
        key, value = _record(number % WRITES, host=1 + number // WRITES)
        await store.put(key, value, Expect.ANY)

    async def put_bare() -> None:
        key, value = _record(next(bare_numbers))
        where = BARE.key(key)
        await gateway.write(
            {}, {where: etcd_layout.written(Write(key, value, 1), "0123456789abcdef-1")}, where
        )

    return await _rates(
        WRITES,
        {
            f"etcd: bare puts, {AT_ONCE} at once": lambda: _at_once(put_bare),
            f"etcd: new records put, {AT_ONCE} at once": lambda: _at_once(put),
            f"etcd: records moved, {AT_ONCE} at once": lambda: _at_once(move),
        },
    )


async def _writes_one_by_one(store: EtcdStore, endpoint: str) -> list[Result]:
    numbers = count(1_000_000)

    async def put() -> None:
        for _ in range(ONE_BY_ONE):
            await store.put(*_record(next(numbers)), Expect.ABSENT)

    def put_by_etcdctl() -> None:
        for number in range(ONE_BY_ONE):
            key, value = _record(number)
            written = etcd_layout.written(Write(key, value, 1), "0123456789abcdef-1").decode()
            _etcdctl(endpoint, "put", BARE.key(key).decode(), written)

    return await _rates(
        ONE_BY_ONE,
        {
            "etcd: etcdctl put, one after the other, a process each": lambda: asyncio.to_thread(
                put_by_etcdctl
            ),
            "etcd: new records put, one after the other": put,
        },
    )


async def _delays(store: EtcdStore, endpoint: str) -> list[Result]:
    """From the beginning of a write until two watchers have been told it: both of the same writes."""
    numbers, begun = count(2_000_000), dict[bytes, float]()
    ours, own = dict[bytes, float](), dict[bytes, float]()

    async def watch(revision: int) -> None:
        async with closing(store.watch(revision)) as changes:
            async for change in changes:
                if isinstance(change, Stored):
                    ours[LAYOUT.key(change.key)] = time.perf_counter()

    async def watch_by_etcdctl() -> None:
        async with _etcdctl_watch(endpoint) as lines:
            async for line in lines:
                own[line] = time.perf_counter()

    first = await store.put(*_record(next(numbers)), Expect.ABSENT)
    watchers = [asyncio.ensure_future(each) for each in (watch(first.revision), watch_by_etcdctl())]
    while not own or not ours:  # until both of them watch
        await store.put(*_record(next(numbers)), Expect.ABSENT)
        await asyncio.sleep(0.05)
    runs: list[tuple[list[float], list[float]]] = []
    for _ in range(RUNS):
        begun.clear()
        for _ in range(ONE_BY_ONE):
            key, value = _record(next(numbers))
            begun[LAYOUT.key(key)] = time.perf_counter()
            await store.put(key, value, Expect.ABSENT)
        await asyncio.sleep(0.2)
        runs.append(
            (
                [ours[key] - since for key, since in begun.items()],
                [own[key] - since for key, since in begun.items()],
            )
        )
    for watcher in watchers:
        watcher.cancel()
    await asyncio.gather(*watchers, return_exceptions=True)
    results = []
    for name, percentile in (("p50", 50), ("p99", 99)):
        against = f"etcd: from a write to etcdctl watch, {name}"
        for label, of, other in (
            (against, 1, None),
            (f"etcd: from a write to the store's watch, {name}", 0, against),
        ):
            samples = tuple(1e3 * statistics.quantiles(run[of], n=100)[percentile - 1] for run in runs)
            results.append(Result(label, "ms", samples, other))
    return results


async def _load(gateway: EtcdGateway) -> int:
    """Have many records be there; return the revision before them."""
    begin = (await gateway.range(LAYOUT.prefix)).header.revision
    for start in range(3_000_000, 3_000_000 + RECORDS, WRITES_AT_ONCE):
        records = [_record(number) for number in range(start, start + WRITES_AT_ONCE)]
        values = {
            LAYOUT.key(key): etcd_layout.written(Write(key, value, 1), "0123456789abcdef-1")
            for key, value in records
        }
        await gateway.write({}, values, LAYOUT.prefix)
    return begin


async def _replays(store: EtcdStore, endpoint: str, begin: int) -> list[Result]:
    async def replay() -> None:
        left = RECORDS
        async with closing(store.watch(begin)) as changes:
            async for change in changes:
                left -= isinstance(change, Stored)
                if not left:
                    return

    async def replay_by_etcdctl() -> None:
        left = RECORDS
        async with _etcdctl_watch(endpoint, "--rev", str(begin + 1)) as lines:
            async for _ in lines:
                left -= 1
                if not left:
                    return

    return await _rates(
        RECORDS,
        {
            "etcd: changes replayed to etcdctl watch": replay_by_etcdctl,
            "etcd: changes replayed to the store's watch": replay,
        },
    )


async def _listings(store: EtcdStore, endpoint: str) -> list[Result]:
    found = 0

    async def list_all() -> None:
        nonlocal found
        found = 0
        async for _ in entries(store, Prefix(Kind.RECORD)):
            found += 1

    await list_all()
    get = (endpoint, "get", "--prefix", RECORD_PREFIX)
    return await _rates(
        found,
        {
            "etcd: records listed by etcdctl get": lambda: asyncio.to_thread(_etcdctl, *get),
            "etcd: records listed by the store, in pages": list_all,
        },
    )


async def _rates(amount: int, runs: dict[str, Callable[[], Awaitable[None]]]) -> list[Result]:
    """Measure in turns, so that what disturbs one disturbs the others; all are compared with the first."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(RUNS):
        for name, run in runs.items():
            began = time.perf_counter()
            await run()
            samples[name].append(amount / (time.perf_counter() - began))
    first = next(iter(runs))
    return [
        Result(name, "1/s", tuple(found), None if name == first else first) for name, found in samples.items()
    ]


async def _at_once(write: Callable[[], Awaitable[None]]) -> None:
    left = iter(range(WRITES))

    async def work() -> None:
        for _ in left:
            await write()

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


def _record(number: int, host: int = 0) -> tuple[RecordKey, Placement]:
    """One record of many, each with a MAC of its own."""
    key = RecordKey(Vsid(5000 + number // 1_000), CustomerAddress((0x0A000000 + number).to_bytes(4)))
    pa = ProviderAddress((0xC6336400 + host).to_bytes(4))
    return key, Placement(MacAddress(b"\2" + number.to_bytes(5)), pa, f"hv{host}")


@asynccontextmanager
async def _gateway(endpoint: str) -> AsyncIterator[EtcdGateway]:
    gateway = EtcdGateway(Etcd((endpoint,)))
    try:
        yield gateway
    finally:
        await gateway.close()


def _etcdctl(endpoint: str, *arguments: str) -> None:
    subprocess.run(["etcdctl", "--endpoints", endpoint, *arguments], check=True, stdout=subprocess.DEVNULL)


@asynccontextmanager
async def _etcdctl_watch(endpoint: str, *options: str) -> AsyncIterator[AsyncIterator[bytes]]:
    """The keys that etcdctl says have changed."""
    arguments = ("--endpoints", endpoint, "watch", "--prefix", RECORD_PREFIX, *options)
    process = await asyncio.create_subprocess_exec("etcdctl", *arguments, stdout=PIPE)

    async def keys() -> AsyncIterator[bytes]:
        assert process.stdout is not None
        async for line in process.stdout:
            if line.startswith(LAYOUT.prefix):
                yield line.rstrip()

    try:
        yield keys()
    finally:
        process.terminate()
        await process.communicate()
