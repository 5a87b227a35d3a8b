"""An interface that was away, or had the program taken off it, gets the fast path back under traffic.

The hosts are those of tests/netns/numbered.py. Whatever comes is compared octet by octet; packets are lost
only while there is no interface, and carried by Python until the program has them again.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator

import pytest

from gateway.fastpath.attaching import LOSES
from gateway.fastpath.returning import LONGEST_WAIT, LOOK_EVERY, SETTLING
from gateway.lab.far_end import takes_redirected_frames
from gateway.lab.namespaces import Namespace, connect, tool
from gateway.lab.topology import UPLINK
from tests.netns.numbered import IN_THE_LONG_RUN, NumberedWorld, punted
from tests.netns.rewriting import show
from tests.netns.switching import (
    ON_ITS_WAY,
    RATE,
    During,
    detach,
    pinned,
    program_of,
    running,
    world_with_pins,
)

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("require_bpf")]

SOON = LOOK_EVERY + SETTLING + 2 * LOOK_EVERY
"""Seconds within which it is back, of an interface that is made anew; the machine may be busy."""
AWAY = 0.5


@pytest.fixture
def world() -> Iterator[NumberedWorld]:
    yield from world_with_pins()


def remake(world: NumberedWorld, *, mtu: int | None = None, takes_redirected: bool = True) -> None:
    """Delete the gateway's uplink and make it anew, as ifupdown does; return once packets pass it."""
    edge, router, (gateway,) = world.node("edge-1"), world.router, world.plan.gateways
    edge.ip(f"link delete {UPLINK}")
    time.sleep(AWAY)
    connect(edge, UPLINK, router, gateway.name)
    size = mtu or world.plan.underlay_mtu
    outside = [f"link set {gateway.name} mtu {size} up"]
    inside = [f"link set {UPLINK} mtu {size} up"]
    for each in gateway.interfaces:
        beyond = each.network[1]
        outside.append(f"address add {beyond}/{each.network.prefixlen} dev {gateway.name} nodad")
        inside += [
            f"address add {each} dev {UPLINK} nodad",
            f"route add default via {beyond} dev {UPLINK}",
        ]
    router.ip(*outside)
    edge.ip(*inside)
    if takes_redirected:
        router.call(world._far_ends.enter_context, takes_redirected_frames(gateway.name))
    for each in gateway.interfaces:
        until_answered(edge, str(each.network[1]))


def until_answered(namespace: Namespace, address: str) -> None:
    for _ in range(50):
        if not namespace.run(tool("ping"), "-c1", "-W1", address, check=False).returncode:
            return
        time.sleep(0.05)
    pytest.fail(f"{address} does not answer")


def mode_of(world: NumberedWorld) -> str:
    (interface,) = world.report()["fastpath"]["interfaces"]
    return str(interface["mode"])


def carried_by_the_program(world: NumberedWorld) -> None:
    """Hold it to that the program carries everything now, without loss."""
    before = world.report()
    outcome = During(world, "then")(lambda: None)
    after = world.report()
    assert outcome.missing == 0
    assert after["fastpath"]["carried"] - before["fastpath"]["carried"] >= outcome.packets * 0.95
    assert punted(after) - punted(before) <= outcome.packets / 20


def test_interface_that_is_made_anew_gets_the_fast_path_back(world: NumberedWorld) -> None:
    running(world)
    before = program_of(world)
    During(world, "deleted and made anew", settling=SOON)(lambda: remake(world))

    assert program_of(world) == before
    assert mode_of(world) == "native"
    carried_by_the_program(world)
    log = world.gateway.output()
    assert re.search(rf"no longer attached to {UPLINK}: the interface is gone", log)
    assert re.search(rf"attached to {UPLINK} again, native", log)


def test_program_that_is_detached_from_outside_is_back_soon(world: NumberedWorld) -> None:
    running(world)
    before = program_of(world)
    outcome = During(world, "detached", settling=SOON)(lambda: detach(world))

    assert outcome.missing <= RATE * ON_ITS_WAY
    assert program_of(world) == before
    carried_by_the_program(world)
    assert re.search(r'somebody has detached it.*engine = "python" switches it off', world.gateway.output())


@pytest.mark.parametrize(
    ("mode", "then"),
    [("auto", "generic"), pytest.param("native", "detached", marks=IN_THE_LONG_RUN)],
)
def test_far_end_that_takes_redirected_frames_no_longer_costs_what_is_sent_until_that_is_seen(
    world: NumberedWorld, mode: str, then: str
) -> None:
    world.write(change=lambda text: f'{text}\n[fastpath]\nmode = "{mode}"\n')
    running(world)
    assert mode_of(world) == "native"

    def lose_it() -> None:
        world._far_ends.close()
        time.sleep(LOOK_EVERY + SETTLING)  # the machine may be busy

    During(world, f"its far end takes no redirected frames, {mode}", settling=SOON)(lose_it)

    assert mode_of(world) == then
    status = world.isthmus("status").stdout
    show(status)
    assert f"{UPLINK} is a veth whose far end has neither GRO nor a program of XDP" in status
    log = world.gateway.output()
    assert re.search(rf"no longer attached to {UPLINK}: {LOSES}", log)
    if mode == "auto":
        assert re.search(rf"attached to {UPLINK} again, generic: {UPLINK} is a veth", log)
        carried_by_the_program(world)
        return
    # By itself, once the far end is as it was.
    gateway = world.plan.gateways[0]
    world.router.call(world._far_ends.enter_context, takes_redirected_frames(gateway.name))
    began = time.monotonic()
    while mode_of(world) != "native":
        assert time.monotonic() - began < LONGEST_WAIT
        time.sleep(0.2)
    carried_by_the_program(world)


@pytest.mark.interop
@pytest.mark.long
def test_whoever_detaches_it_again_and_again_has_longer_and_longer_rest(world: NumberedWorld) -> None:
    running(world)
    rests = []
    for times in range(3):
        detach(world)
        began = time.monotonic()
        while program_of(world) is None:
            assert time.monotonic() - began < 2**times + SOON
            time.sleep(0.1)
        rests.append(time.monotonic() - began)
    show(f"seconds until it was back: {', '.join(f'{each:.1f}' for each in rests)}")
    assert rests[2] > 2
    carried_by_the_program(world)


@pytest.mark.interop
@pytest.mark.long
def test_what_was_pinned_is_pinned_again(world: NumberedWorld) -> None:
    world.write(change=pinned)
    running(world)
    During(world, "deleted and made anew, pinned", settling=SOON)(lambda: remake(world))
    program = program_of(world)
    assert program is not None

    world.gateway.send_signal(signal.SIGKILL)
    world.gateway.wait(20)
    assert program_of(world) == program
    world.start_gateway()
    carried_by_the_program(world)


@pytest.mark.parametrize(
    ("mtu", "takes_redirected", "expected"),
    [
        pytest.param(None, False, "generic", marks=IN_THE_LONG_RUN, id="far end takes no redirected frames"),
        pytest.param(1400, True, "detached", marks=IN_THE_LONG_RUN, id="carries less than before"),
    ],
)
def test_interface_that_is_another_one_now_has_what_it_can_have(
    world: NumberedWorld, mtu: int | None, takes_redirected: bool, expected: str
) -> None:
    running(world)
    During(world, f"made anew: {expected}", settling=SOON)(
        lambda: remake(world, mtu=mtu, takes_redirected=takes_redirected)
    )
    assert mode_of(world) == expected
    assert During(world, "then")(lambda: None).missing == 0
    status = world.isthmus("status").stdout
    show(status)
    assert (f"fast path is {expected} on" if expected == "generic" else "its MTU is 1400") in status
