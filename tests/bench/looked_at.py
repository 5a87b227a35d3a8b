"""What it costs to be looked at: the builtin data path without sockets, with a capture and without."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import trio
import trio.testing

from gateway.builtin import Builtin
from gateway.emissions import Emitter
from gateway.operating.capture import Captures
from gateway.operating.commands import OWNER, carry_out
from gateway.underlay.interfaces import Attachment
from policies.model import Appliance, Engine, Underlay
from tests import networks
from tests.bench.results import Result

PACKETS = 3_000
RUNS = 40

HV1 = networks.from_host("hv1")
PAYLOAD = networks.nvgre("red", "web", networks.frame("red", ("web", 5), ("db", 5)))


def benchmark() -> Iterator[Result]:
    """Forward the same packet again and again, and have a reader read as fast as it can."""
    never, no_longer = _path(), _path()
    captures = Captures(no_longer, time.time)
    wanted = {
        "for another tenant's packets alone": {"tenant": "blue"},
        "on both sides, by a reader that may lose": {"side": "both"},
    }
    costs: dict[str, list[float]] = {"never": [], "no longer": [], **{name: [] for name in wanted}}
    for _ in range(RUNS):  # in turns, so that all have the same machine
        for name, arguments in wanted.items():
            costs[name].append(trio.run(_while_captured, no_longer, captures, arguments))
        costs["never"].append(_cost(never))
        costs["no longer"].append(_cost(no_longer))
    for name, samples in costs.items():
        against = None if name == "never" else "looked at: never"
        yield Result(f"looked at: {name}", "us", tuple(samples), against=against)


def _path() -> Builtin:
    net = networks.network()
    appliance = Appliance(
        name="edge-1",
        state=Path("/nowhere"),
        engine=Engine.AUTO,
        underlay=Underlay((networks.pa("edge-1"),)),
        gateway=True,
        lookup=None,
        host=None,
        network=net,
    )
    path = Builtin(appliance, Attachment((), 1500), networks.directory(net))
    # What is sent goes nowhere: only the way to it is measured.
    path._emitter = Emitter(path.drops, _nowhere, _nowhere, _nowhere, _nowhere)
    return path


def _nowhere(_packet: object) -> None:
    return


def _cost(path: Builtin) -> float:
    receive: Callable[..., None] = path._from_underlay
    for _ in range(100):
        receive(HV1, PAYLOAD, 0.0)
    began = time.perf_counter()
    for _ in range(PACKETS):
        receive(HV1, PAYLOAD, 0.0)
    return (time.perf_counter() - began) / PACKETS * 1e6


async def _while_captured(path: Builtin, captures: Captures, wanted: dict[str, Any]) -> float:
    async def read(_: Any) -> None:
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        arguments = {"frames": 1_000_000, **wanted}
        nursery.start_soon(carry_out, captures.commands(), OWNER, "capture", arguments, read)
        await trio.testing.wait_all_tasks_blocked()
        cost = _cost(path)
        nursery.cancel_scope.cancel()
    return cost
