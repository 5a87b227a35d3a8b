"""What may happen to three etcd members under writers and watchers, and harms neither.

Each test ends with the checks of tests.interop.etcd_storm: acknowledged writes are there, no
comparison is won twice, and every watcher was told one whole history in order.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest

from tests.interop.etcd import COMMANDS, NODE, Cluster
from tests.interop.etcd_storm import Storm

pytestmark = [pytest.mark.netns, pytest.mark.interop]

# Until another member leads, by etcd's own defaults, and until those who wait have found that out.
FAILOVER_SECONDS = 8.0


@pytest.fixture
def cluster(require_tools: Callable[..., None]) -> Iterator[Cluster]:
    require_tools(*COMMANDS, "nft")
    with Cluster() as cluster:
        yield cluster


def test_leader_killed_and_back(cluster: Cluster) -> None:
    with Storm(cluster) as storm:
        storm.go_on()
        leader = cluster.leader()
        leader.kill()
        assert storm.go_on() < FAILOVER_SECONDS
        leader.start()
        leader.ready()
        storm.go_on()


def test_member_paused_while_everybody_is_connected_to_it(cluster: Cluster) -> None:
    paused = cluster.others(cluster.leader())[0]
    order = [paused, *cluster.others(paused)]
    with Storm(cluster, [cluster.settings(members=order)] * 2) as storm:
        storm.go_on()
        paused.pause()
        assert storm.go_on() < FAILOVER_SECONDS
        paused.go_on()
        storm.go_on()


@pytest.mark.long
def test_leader_paused_and_back(cluster: Cluster) -> None:
    leader = cluster.leader()
    with Storm(cluster, [cluster.settings(members=[leader, *cluster.others(leader)])] * 2) as storm:
        storm.go_on()
        leader.pause()
        assert storm.go_on() < FAILOVER_SECONDS
        leader.go_on()
        storm.go_on()


def test_all_members_down_and_back(cluster: Cluster) -> None:
    with Storm(cluster) as storm:
        storm.go_on()
        for member in cluster.members:
            member.kill()
        for member in cluster.members:
            member.start()
        for member in cluster.members:
            member.ready()
        storm.go_on()


def test_node_cut_off_from_all_members_and_back(cluster: Cluster) -> None:
    with Storm(cluster) as storm:
        storm.go_on()
        for member in cluster.members:
            member.cut_off([NODE])
        deadline = time.monotonic() + 20
        while not storm.outages:
            assert time.monotonic() < deadline, "nobody has noticed"
            time.sleep(0.05)
        assert "etcd does not answer" in storm.outages[0]
        for member in cluster.members:
            member.heal()
        assert storm.go_on() < FAILOVER_SECONDS


def test_member_that_has_lost_the_others_is_left(cluster: Cluster) -> None:
    """It still answers the node, and would tell nothing for ever."""
    lonely = cluster.others(cluster.leader())[0]
    order = [lonely, *cluster.others(lonely)]
    with Storm(cluster, [cluster.settings(members=order)] * 2) as storm:
        storm.go_on()
        lonely.cut_off(member.address for member in cluster.others(lonely))
        assert storm.go_on() < FAILOVER_SECONDS
        lonely.heal()
        storm.go_on()


@pytest.mark.long
def test_leader_that_has_lost_the_others_is_left(cluster: Cluster) -> None:
    leader = cluster.leader()
    with Storm(cluster, [cluster.settings(members=[leader, *cluster.others(leader)])] * 2) as storm:
        storm.go_on()
        leader.cut_off(member.address for member in cluster.others(leader))
        assert storm.go_on() < FAILOVER_SECONDS
        leader.heal()
        storm.go_on()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_one_fault_after_the_other(cluster: Cluster, seed: int) -> None:
    chosen = random.Random(seed)
    with Storm(cluster, writers=6, watchers=4) as storm:
        for _ in range(8):
            member = chosen.choice([cluster.leader(), *cluster.members])
            others = [each.address for each in cluster.others(member)]
            storm.go_on(chosen.randrange(1, 30))
            match chosen.choice(["killed", "paused", "lonely", "unreachable"]):
                case "killed":
                    member.kill()
                    storm.go_on(20)
                    member.start()
                    member.ready()
                case "paused":
                    member.pause()
                    time.sleep(chosen.uniform(0, 3))
                    member.go_on()
                case "lonely":
                    member.cut_off(others)
                    time.sleep(chosen.uniform(0, 3))
                    member.heal()
                case _:
                    member.cut_off([NODE])
                    storm.go_on(20)
                    member.heal()
            storm.go_on(20)
