"""Hosts that keep only the records that they use: taught by the gateway, and put right by the watch.

As in test_migration.py, with `records = "used"` on every host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.lab import nodes
from tests.netns.moving import World, plan_with_third_host, world

pytestmark = pytest.mark.netns

MOVING = ("red-web1", "red-web2", "red-db2")
OBSERVERS = ("observer-web", "observer-db", "red-web2")
HOSTS = ("hv1", "hv2", "hv3")


@pytest.fixture(scope="module")
def datacenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("lookup")
    with world(plan_with_third_host(), MOVING, folder, records="used") as built:
        yield built


def kept(world: World, host: str) -> int:
    """Return how many records a host has."""
    return int(nodes.counters(world.processes[host])["records"])


def test_a_host_learns_what_its_vms_use_and_no_more(datacenter: World) -> None:
    datacenter.wait_until_followed(HOSTS)
    own = 2 * sum(datacenter.lab.host_of(vm.name) == "hv3" for vm in datacenter.lab.plan.vms)
    assert kept(datacenter, "hv3") == own

    datacenter.wait_until_reached("observer-db", "red-db1")

    # One record says where the VM's MAC is, so the other address needs none.
    datacenter.wait_until(lambda: kept(datacenter, "hv3") > own, "hv3 is not taught")
    assert kept(datacenter, "hv3") <= own + 2


@pytest.mark.parametrize(
    "name", ["red-web1", pytest.param("red-db2", marks=[pytest.mark.interop, pytest.mark.long])]
)
def test_nothing_is_lost_outside_the_pause_of_a_vm_whose_move_is_orchestrated(
    datacenter: World, name: str
) -> None:
    vm = datacenter.vm(name)
    talkers = datacenter.talk(name, OBSERVERS)
    time.sleep(0.5)
    for _ in range(2):
        answer = datacenter.mover.orchestrated(vm, datacenter.beyond(name), [talkers.inside])
        assert all(answer["learned"].values()), answer
        time.sleep(0.5)
    outcome = datacenter.end(talkers)

    assert len(outcome.pauses) == 2
    assert {stream.name: stream.lost for stream in outcome.streams if stream.lost} == {}
    assert all(stream.sent > 500 for stream in outcome.streams)


def test_a_move_that_is_announced_is_learned_by_those_who_use_the_vm(
    datacenter: World, record_property: Callable[[str, object], None]
) -> None:
    name = "red-web1"
    talkers = datacenter.talk(name, OBSERVERS)
    time.sleep(0.5)
    datacenter.mover.announced(datacenter.vm(name), datacenter.beyond(name), [talkers.inside])
    time.sleep(1.5)
    outcome = datacenter.end(talkers)

    record_property("lost outside the pause", outcome.lost)
    # Whatever was lost while the news went round, none of the last half second was.
    late = {stream.name: stream.lost[-1] for stream in outcome.streams if stream.lost}
    sent = {stream.name: stream.sent for stream in outcome.streams}
    assert {each: number for each, number in late.items() if number >= sent[each] - 500} == {}
