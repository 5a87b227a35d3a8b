"""VMs move live between hosts in different underlay subnets, and nothing is lost outside their pause."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.netns.moving import World, plan_with_third_host, world

pytestmark = pytest.mark.netns

MOVING = ("red-web1", "red-db2")
OBSERVERS = ("observer-web", "observer-db", "red-web2")


@pytest.fixture(
    scope="module", params=["python", pytest.param("xdp", marks=[pytest.mark.interop, pytest.mark.long])]
)
def datacenter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if request.param == "xdp":
        request.getfixturevalue("require_bpf")
    folder: Path = tmp_path_factory.mktemp("lookup")
    plan = msgspec.structs.replace(plan_with_third_host(), engine=request.param)
    with world(plan, MOVING, folder) as built:
        yield built


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("how", ["announced", "orchestrated"])
def test_nothing_is_lost_outside_the_pause_of_a_vm_that_moves(datacenter: World, name: str, how: str) -> None:
    vm = datacenter.vm(name)
    talkers = datacenter.talk(name, OBSERVERS)
    time.sleep(0.3)
    for _ in range(2):
        if how == "announced":
            datacenter.mover.announced(vm, datacenter.beyond(name), [talkers.inside])
        else:
            answer = datacenter.mover.orchestrated(vm, datacenter.beyond(name), [talkers.inside])
            assert all(answer["learned"].values()), answer
        datacenter.wait_until_at(name, datacenter.lab.host_of(name))
        time.sleep(0.5)
    outcome = datacenter.end(talkers)

    assert len(outcome.pauses) == 2
    assert {stream.name: stream.lost for stream in outcome.streams if stream.lost} == {}
    assert all(stream.duplicates == 0 for stream in outcome.streams)
    assert all(stream.sent > 500 for stream in outcome.streams)
