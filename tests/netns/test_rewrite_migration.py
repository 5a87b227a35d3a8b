"""A rewritten VM moves live, and nothing is lost outside its pause: its provider address stays, or changes.

    red-web1 ---- moves to and fro ----                                   seattle-server
            |                          |                                        |
           hv1 ------ underlay ------ hv2, with red-app2 and red-db2         seattle
                         |                                                      |
                      edge-1 -------------------- internet ---------------------+

On one link the hosts share a pool, and it keeps its provider address; each in a network of its own, it
gets another one. Those who talk with it are rewritten, encapsulated, and at the site.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from gateway.lab import nodes
from gateway.lab.migration import Outcome
from tests.netns.moving import World
from tests.netns.pings import EVERY, Pings, lost
from tests.netns.rewriting import SITE, address_of, mixed_plan, mixed_world, ping, provider_address_of, show

pytestmark = pytest.mark.netns

MOVING = "red-web1"
OBSERVERS = ("red-app2", "red-db2", SITE)

A_TENTH_OF_A_SECOND = 10  # of such pings

SETTLING = 1.0
"""Seconds between moves: what the new host itself had sent to the old one may wait there for half of it."""


@pytest.fixture(scope="module", params=[True, False], ids=["its address stays", "its address changes"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    plan = mixed_plan(one_link=request.param, tenants=("red",))
    with mixed_world(plan, tmp_path_factory.mktemp("lookup"), moving=(MOVING,)) as built:
        yield built


@pytest.mark.parametrize("how", ["announced", "orchestrated"])
def test_nothing_is_lost_outside_the_pause_of_a_rewritten_vm_that_moves(world: World, how: str) -> None:
    vm = world.vm(MOVING)
    addresses = {provider_address_of(world, MOVING)}
    for name in OBSERVERS:
        ping(world, MOVING, address_of(world, name))  # so that none waits for a lease
    talkers = world.talk_with(
        MOVING, {name: (world.lab.vm(name), address_of(world, name)) for name in OBSERVERS}
    )
    by_ipv6 = {name: Pings(world.lab, world.lab.vm(name), address_of(world, MOVING, 6)) for name in OBSERVERS}
    time.sleep(0.4)
    for _ in range(2):
        if how == "announced":
            world.mover.announced(vm, world.beyond(MOVING), [talkers.inside])
        else:
            answer = world.mover.orchestrated(vm, world.beyond(MOVING), [talkers.inside])
            assert all(answer["learned"].values()), answer
        world.wait_until_at(MOVING, world.lab.host_of(MOVING))
        time.sleep(SETTLING)
        addresses.add(provider_address_of(world, MOVING))
    pings = {name: each.end() for name, each in by_ipv6.items()}
    outcome = world.end(talkers)

    show(*told(how, outcome), f"its provider addresses: {', '.join(sorted(addresses))}")
    show(
        *(
            f"100 Hz IPv6 ping from {name}: {sent} sent, lost {missing}"
            for name, (sent, missing) in pings.items()
        )
    )
    show(*(f"{name} has dropped {nodes.drops(process)}" for name, process in world.processes.items()))
    assert (len(addresses) == 1) is world.lab.plan.one_link
    assert len(outcome.pauses) == 2
    assert {stream.name: stream.lost for stream in outcome.streams if stream.lost} == {}
    # A busy machine takes longer to plug the VM in elsewhere: what was pinged meanwhile has nowhere to go.
    plugging = sum(pause.milliseconds / 1000 / EVERY for pause in outcome.pauses)
    most = A_TENTH_OF_A_SECOND if plugging < A_TENTH_OF_A_SECOND else plugging + 2 * len(outcome.pauses)
    assert {name for name, missing in lost(pings).items() if missing >= most} == set()
    assert all(stream.duplicates == 0 for stream in outcome.streams)
    assert all(stream.sent > 500 for stream in outcome.streams)


def told(how: str, outcome: Outcome) -> Iterator[str]:
    """What the moves have cost, in words."""
    yield f"{how}: pauses {', '.join(f'{pause.milliseconds:.0f} ms' for pause in outcome.pauses)}"
    for stream in outcome.streams:
        yield (
            f"1 kHz {stream.name:22} {stream.sent:5} sent, lost outside the pauses {len(stream.lost)}, "
            f"twice {stream.duplicates}, longest gap {stream.longest_gap:.0f} ms"
        )
