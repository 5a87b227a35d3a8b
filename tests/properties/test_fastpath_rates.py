"""A tenant has one bucket, whoever carries its packets: the program, the pipeline, or both in turns."""

from __future__ import annotations

import random
import time

import msgspec
import pytest
import trio
from trio.testing import MockClock

from gateway.forwarding.verdicts import Drop, Forward
from policies.model import Limits
from tests.fastpath.oracle import delivered
from tests.properties.agreement import XDP_REDIRECT
from tests.properties.crossings import Crossing, cross
from tests.properties.machine import Machine, Processors
from tests.properties.test_fastpath import start
from tests.properties.wire import INTERFACE
from tests.properties.worlds import World, generate

RATE, BURST = 2_000_000, 20_000
"""A quarter of a million octets a second: far fewer than a slow machine tries to send here."""


def limited(chance: random.Random) -> World:
    """A network in which every tenant is limited, and nobody is denied anything."""
    world = generate(chance)
    limits = Limits(RATE, BURST)
    world.network = msgspec.structs.replace(
        world.network,
        tenants=tuple(
            msgspec.structs.replace(each, limits=limits, access=()) for each in world.network.tenants
        ),
    )
    return world


async def carried(processors: Processors, by_program: float, seconds: float) -> tuple[int, float]:
    """Send as much as there is time for, some by the program; return the octets that passed, and the time."""
    chance = random.Random(7641)
    machine, crossing, octets = await _somebody_who_sends(chance, processors)
    forwarder = machine.forwarder
    given = delivered(crossing.frame, INTERFACE, forwarder.node.provider_addresses)
    assert given is not None
    passed = 0
    # Whatever was used to find out who may send comes in again; the clock is the kernel's, and none of ours.
    time.sleep(BURST * 8 / RATE)  # noqa: ASYNC251 - nobody else runs here
    start_of_it = time.monotonic()
    while (now := time.monotonic()) < start_of_it + seconds:
        if chance.random() < by_program:
            ran = machine.run(crossing.frame)
            passed += ran.verdict == XDP_REDIRECT
            assert ran.verdict == XDP_REDIRECT or ran.counted == (("rate-limited", crossing.tenant),)
        else:
            verdict = forwarder.from_underlay(*given, now)
            assert isinstance(verdict, Forward | Drop)
            passed += isinstance(verdict, Forward)
    return passed * octets, time.monotonic() - start_of_it


async def _somebody_who_sends(chance: random.Random, processors: Processors) -> tuple[Machine, Crossing, int]:
    """A gateway, a packet that its program carries, and the octets of it."""
    for _ in range(100):
        gateway, machine = await start(chance, processors, limited)
        tables = machine.forwarder.tables
        await machine.replace_tables(type(tables).compile(gateway.world.network))
        for _ in range(50):
            crossing = cross(chance, gateway)
            if crossing is not None and crossing.is_plain:
                ran = machine.run(crossing.frame)
                received = [reading[3] for reading in ran.metered.values() if reading[3]]
                if ran.verdict == XDP_REDIRECT and received[0] < 200:
                    return machine, crossing, received[0]
    raise AssertionError("nobody sends anything")


@pytest.mark.parametrize("by_program", [1.0, 0.5, 0.0], ids=["the program", "both in turns", "the pipeline"])
def test_what_passes_is_what_one_bucket_has(processors: Processors, by_program: float) -> None:
    octets, seconds = trio.run(carried, processors, by_program, 0.5, clock=MockClock())

    # The program may take a packet for some milliseconds older than it is, by a clock that ticks no faster.
    most = BURST + RATE / 8 * (seconds + 0.01)
    assert most * 0.6 < octets <= most  # a process that is kept waiting loses what would not fit the bucket
