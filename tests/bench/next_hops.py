"""What it costs to know the next hops of 2,000 provider addresses while neighbours and routes change."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import msgspec
import trio

from gateway.fastpath.nexthops import NextHops
from gateway.lab.namespaces import Namespace, connect
from policies.addresses import ProviderAddress
from tests.bench.results import Result

ADDRESSES = [ProviderAddress(b"\xc6\x12" + number.to_bytes(2)) for number in range(2000)]
EVENTS = 10_000
ROUTES = 50_000
RUNS = 3
_OTHERS = "\n".join(
    f"neigh replace 10.0.0.{number % 200 + 2} dev u0 lladdr 02:00:00:00:01:{number % 256:02x}"
    for number in range(EVENTS)
)
_ELSEWHERE = "\n".join(
    f"route replace 100.64.{number >> 8}.{number & 255}/32 via 10.0.0.254" for number in range(ROUTES)
)
_COVERING = "\n".join(
    f"route {'del' if number & 1 else 'add'} default via 10.0.0.254 metric 9" for number in range(ROUTES)
)


class Costs(msgspec.Struct, frozen=True):
    """Of one run. All but the first are of trio's thread alone, whoever else uses the processor."""

    found: float
    told: float
    event: float
    elsewhere: float
    covering: float
    longest: float


class _Steps(trio.abc.Instrument):
    """The longest time that other tasks waited for one of these."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._since = time.thread_time()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._since = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.longest = max(self.longest, time.thread_time() - self._since)


def benchmark() -> Iterator[Result]:
    """Have a machine in a namespace ask its own kernel."""
    runs = [_measured() for _ in range(RUNS)]

    def result(name: str, unit: str, field: str, at_most: float | None = None) -> Result:
        return Result(f"next hops: {name}", unit, tuple(getattr(run, field) for run in runs), at_most=at_most)

    yield result("2,000 addresses found", "ms", "found", 500)
    yield result("2,000 told of their router's new MAC", "ms", "told", 10)
    yield result("an event of another neighbour", "us", "event", 50)
    yield result(f"{ROUTES:,} routes to elsewhere, processor time", "s", "elsewhere")
    yield result(f"{ROUTES:,} routes that cover all, processor time", "s", "covering")
    yield result("longest that other tasks waited meanwhile", "ms", "longest", 5)


def _measured() -> Costs:
    machine, router = Namespace("machine"), Namespace("router")
    try:
        connect(machine, "u0", router, "r0")
        router.ip("link set r0 up")
        machine.ip(
            "addr add 10.0.0.1/24 dev u0",
            "link set u0 up",
            "route add 198.18.0.0/15 via 10.0.0.254",
            "neigh replace 10.0.0.254 dev u0 lladdr 02:00:00:00:0e:00 nud permanent",
        )
        return machine.call(trio.run, _run, machine)
    finally:
        machine.close()
        router.close()


async def _run(machine: Namespace) -> Costs:
    hops = NextHops([socket.if_nametoindex("u0")])
    hops.replace(ADDRESSES)
    took: list[float] = []

    async def cost(lines: str) -> float:
        began = time.thread_time()
        await trio.to_thread.run_sync(lambda: machine.run("ip", "-batch", "-", stdin=lines, timeout=120))
        await trio.sleep(0.5)
        return time.thread_time() - began

    async with trio.open_nursery() as nursery:
        began = time.perf_counter()
        await nursery.start(hops.serve, lambda address, hop: took.append(time.thread_time()))
        found = time.perf_counter() - began
        if hops.status().unresolved:
            raise RuntimeError(f"not all were found: {hops.status()}")
        await trio.sleep(0.2)
        steps = _Steps()
        trio.lowlevel.add_instrument(steps)
        took.clear()
        await cost("neigh replace 10.0.0.254 dev u0 lladdr 02:00:00:00:0e:01 nud permanent")
        told = took[-1] - took[0]
        event = await cost(_OTHERS) / EVENTS
        elsewhere = await cost(_ELSEWHERE)
        covering = await cost(_COVERING)
        trio.lowlevel.remove_instrument(steps)
        nursery.cancel_scope.cancel()
    return Costs(found * 1e3, told * 1e3, event * 1e6, elsewhere, covering, steps.longest * 1e3)
