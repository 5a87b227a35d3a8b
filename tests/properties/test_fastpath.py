"""What the program decides, the pipeline decides alike, octet by octet; the rest it is left, for a reason."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec
import pytest
import trio
from trio.testing import MockClock

from gateway.fastpath.layout import DROPPED, Passed
from gateway.forwarding.drops import DropReason
from policies.addresses import ProviderAddress
from policies.model import Limits
from policies.tables import Tables
from tests.fuzz.mutation import INPUTS, ipv4_checksum_at, mutations
from tests.properties.agreement import XDP_DROP, XDP_PASS, XDP_REDIRECT, Agreement
from tests.properties.crossings import Crossing, Gateway, cross
from tests.properties.machine import Machine, Processors
from tests.properties.worlds import World, generate

FRAMES_PER_WORLD = 80

# One octet a second: while a test runs, nothing comes in again that could make a difference.
_RATE = 8

# Only what waits for another processor, and what nobody listens for here.
_NOT_SHOWN = {Passed.CONTENDED, Passed.TEACH}
_LIMITED = DropReason.PUNT_LIMITED

EVERYTHING = (
    {f"dropped: {reason}" for reason in DROPPED.values() if reason is not _LIMITED}
    | {f"left to Python: {reason.word}" for reason in Passed if reason not in _NOT_SHOWN}
    | {"forwarded", "not delivered"}
)
"""All that can become of a frame; there is no other reason to leave one to Python."""


def world_with_limits(chance: random.Random) -> World:
    """A network whose tenants' limits are used up soon, or never."""
    world = generate(chance)
    tenants = tuple(
        msgspec.structs.replace(
            tenant, limits=tenant.limits and Limits(_RATE, chance.choice((500, 2_000, 20_000)))
        )
        for tenant in world.network.tenants
    )
    world.network = msgspec.structs.replace(world.network, tenants=tenants)
    world.tables = Tables.compile(world.network)
    for node in world.nodes.values():
        node.replace_tables(world.tables)
    return world


def reach_hosts(chance: random.Random, machine: Machine) -> None:
    """Have next hops for most provider addresses."""
    for number, address in enumerate(sorted(machine.forwarder.tables.members)):
        if chance.random() < 0.9:
            machine.reach(ProviderAddress(address), b"\2\xaa\0\0\0" + bytes((number,)))


async def start(
    chance: random.Random, processors: Processors, make: Callable[[random.Random], World]
) -> tuple[Gateway, Machine]:
    """Make up a network, and have one of its gateways decide by both."""
    gateway = Gateway.of(chance, make(chance))
    machine = Machine(processors, gateway.forwarder)
    await machine.start()
    reach_hosts(chance, machine)
    return gateway, machine


def check(agreement: Agreement, crossing: Crossing, where: str) -> None:
    """Compare, and say of what where it fails."""
    try:
        agreement.check(crossing, trio.current_time())
    except Exception as failure:
        failure.add_note(where)
        failure.add_note(f"from {crossing.source}")
        failure.add_note(f"to {crossing.destination}")
        failure.add_note(f"bytes.fromhex({crossing.frame.hex()!r})")
        raise


async def compare(processors: Processors, seed: int, frames: int) -> Counter[str]:
    """Throw frames at gateways of many networks, and return what became of them."""
    seen: Counter[str] = Counter()
    for number in range(max(1, frames // FRAMES_PER_WORLD)):
        chance = random.Random(f"{seed} {number}")
        gateway, machine = await start(chance, processors, world_with_limits)
        agreement = Agreement(gateway.forwarder, machine)
        for moment in range(FRAMES_PER_WORLD):
            crossing = cross(chance, gateway)
            if crossing is None:
                break
            check(agreement, crossing, f"world {seed} {number}, frame {moment}")
        seen += agreement.seen
    return seen


def run(processors: Processors, seed: int, frames: int) -> Counter[str]:
    return trio.run(compare, processors, seed, frames, clock=MockClock())


def test_the_program_decides_as_the_pipeline_does(processors: Processors) -> None:
    seen = run(processors, seed=7637, frames=INPUTS // 6)

    assert EVERYTHING - set(seen) == set()
    assert {each for each in seen if each.startswith("left to Python")} <= EVERYTHING | {
        "left to Python: uncounted"  # larger than a driver hands over in one piece
    }


@pytest.mark.soak
def test_the_program_decides_a_million_frames_as_the_pipeline_does(processors: Processors) -> None:
    seen = run(processors, seed=2890, frames=INPUTS // 10)

    assert EVERYTHING - set(seen) == set()
    # Those that only a flood would bring about are few, if any.
    assert seen[f"dropped: {_LIMITED}"] < seen.total() / 100


def _mutated(chance: random.Random, gateway: Gateway, count: int) -> Iterator[bytes]:
    """Frames that have crossed a gateway, changed anywhere; the checksums are mostly right."""
    crossings = [crossing for _ in range(60) if (crossing := cross(chance, gateway)) is not None]
    corpus = [crossing.frame for crossing in crossings if crossing.is_plain]
    corpus += [crossing.frame for crossing in crossings[:5]]
    if corpus:
        yield from mutations(corpus, chance.getrandbits(32), count, ipv4_checksum_at(14, 56))


async def isolate(processors: Processors, seed: int, frames: int) -> Counter[int]:
    verdicts: Counter[int] = Counter()
    each = 1000
    for number in range(max(1, frames // each)):
        chance = random.Random(f"{seed} {number}")
        gateway, machine = await start(chance, processors, generate)
        agreement = Agreement(gateway.forwarder, machine)
        for frame in _mutated(chance, gateway, each):
            verdicts[agreement.check_isolation_alone(frame.ljust(14, b"\0"))] += 1
    return verdicts


def test_whatever_comes_nothing_leaves_its_tenant_or_goes_to_a_host_that_may_not_have_it(
    processors: Processors,
) -> None:
    verdicts = trio.run(isolate, processors, 7638, INPUTS // 2, clock=MockClock())

    assert set(verdicts) == {XDP_DROP, XDP_PASS, XDP_REDIRECT}
    assert verdicts[XDP_REDIRECT] > verdicts.total() / 50


@pytest.mark.soak
def test_whatever_comes_in_millions_nothing_leaves_its_tenant(processors: Processors) -> None:
    verdicts = trio.run(isolate, processors, 2891, INPUTS, clock=MockClock())

    assert set(verdicts) == {XDP_DROP, XDP_PASS, XDP_REDIRECT}


async def fuzz(processors: Processors, seed: int, frames: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    each = 500
    for number in range(max(1, frames // each)):
        chance = random.Random(f"{seed} {number}")
        gateway, machine = await start(chance, processors, world_with_limits)
        agreement = Agreement(gateway.forwarder, machine)
        for at, frame in enumerate(_mutated(chance, gateway, each)):
            check(agreement, Crossing(frame.ljust(14, b"\0")), f"world {seed} {number}, frame {at}")
        for _ in range(10):
            octets = chance.randbytes(chance.randrange(14, 200))
            kind = chance.choice((b"\x08\x00", b"\x86\xdd", b"\x08\x06"))
            check(agreement, Crossing(octets[:12] + kind + octets[14:]), f"world {seed} {number}")
        seen += agreement.seen
    return seen


def test_any_octets_are_decided_alike(processors: Processors) -> None:
    seen = trio.run(fuzz, processors, 7639, INPUTS // 10, clock=MockClock())

    assert seen["forwarded"]
    assert set(seen) <= EVERYTHING | {"left to Python: uncounted", f"dropped: {_LIMITED}"}


@pytest.mark.soak
def test_a_million_frames_of_any_octets_are_decided_alike(processors: Processors) -> None:
    seen = trio.run(fuzz, processors, 2892, INPUTS // 10, clock=MockClock())

    assert seen["forwarded"]
