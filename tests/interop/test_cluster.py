"""The cluster of docs/cluster.md, from its own files: what it is for, and what may happen to it.

Throughout each fault, readers, writers and watchers are at work: see tests.interop.cluster_load. No
reader ever fails, no acknowledged write ever vanishes, and at the end of each test all lookup nodes
and all followers have the very same.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.interop.cluster import COMMANDS, LOOKUPS, MOVING, Cluster
from tests.interop.cluster_load import Load, nodes_behind, status
from tests.interop.etcd import READY

pytestmark = [pytest.mark.netns, pytest.mark.interop]

# Until another member leads, by etcd's own defaults, and until a node that waits has found that out.
FAILOVER_SECONDS = 8.0
LISTENS = r"\[lookup\] listens"


@pytest.fixture(scope="module")
def cluster(require_tools: Callable[..., None]) -> Iterator[Cluster]:
    require_tools(*COMMANDS)
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def load(cluster: Cluster) -> Iterator[Load]:
    """At work throughout a test, and compared after it; so are the hosts and gateways."""
    with Load(cluster) as load:
        yield load
    revision = max(status(cluster, node.name)["revision"] for node in LOOKUPS)
    cluster.wait_until(
        lambda: not nodes_behind(cluster, revision),
        f"{nodes_behind(cluster, revision)} have not learned revision {revision}",
    )


def test_network_is_written_from_the_document_s_file_once(cluster: Cluster) -> None:
    assert cluster.applied.stdout.splitlines()[-1] == "6 changes"
    again = cluster.isthmus("apply", str(cluster.folder / "network.toml"))
    assert again.stdout == "0 changes\n"


def test_every_host_and_gateway_is_shown_whichever_node_it_follows(cluster: Cluster) -> None:
    def shown() -> list[str]:
        lines = cluster.isthmus("nodes").stdout.splitlines()
        return [line.split()[1] for line in lines if "up to date" in line]

    cluster.wait_until(lambda: shown() == ["edge-1", "edge-2", "hv1", "hv2"], f"only {shown()} are shown")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("red-web1", "red-web2"),  # across hosts, switched
        ("red-web1", "red-db1"),  # across subnets, on one host
        ("red-db2", "red-web1"),  # across both
        ("blue-web1", "blue-web2"),  # with the same addresses as Red's
    ],
)
def test_vms_of_a_tenant_reach_each_other(cluster: Cluster, one: str, other: str) -> None:
    assert cluster.reaches(one, other)


@pytest.mark.parametrize("name", [MOVING[0], pytest.param(MOVING[1], marks=pytest.mark.long)])
def test_orchestrated_move_loses_nothing_and_is_known_to_both_hosts(cluster: Cluster, name: str) -> None:
    vm = cluster.planned(name)
    observers = ("red-db1", "red-db2")
    talkers = cluster.talk(name, observers)
    time.sleep(0.3)
    for _ in range(2):
        answer = cluster.mover.orchestrated(vm, cluster.beyond(name), [talkers.inside])
        assert all(answer["learned"].values()), answer
        time.sleep(0.5)
    outcome = cluster.end(talkers)
    assert {stream.name: stream.lost for stream in outcome.streams if stream.lost} == {}
    assert all(stream.sent > 500 for stream in outcome.streams)


def test_leader_of_etcd_killed_and_back(cluster: Cluster, load: Load) -> None:
    leader = cluster.leader()
    began = time.monotonic()
    cluster.kill(f"etcd-{leader}")
    load.go_on(30)
    assert load.slowest_write(began) < FAILOVER_SECONDS
    assert load.slowest_read(began) < 1.0
    cluster.start_member(leader)
    cluster.daemons[f"etcd-{leader}"].wait_for(READY, 20)
    load.go_on()
    measured("leader killed", slowest_write=load.slowest_write(began), slowest_read=load.slowest_read(began))


def test_lookup_node_cut_from_etcd_goes_on_answering_and_says_how_stale_it_is(
    cluster: Cluster, load: Load
) -> None:
    began = time.monotonic()
    cluster.cut_from_etcd("lookup-1")
    try:
        load.go_on(20)
        cluster.wait_until(
            lambda: status(cluster, "lookup-1")["stale_seconds"] > 1, "lookup-1 does not say that it is stale"
        )
        address = cluster.planned("red-web2").address()
        there = cluster.operator.ask_node("lookup-1", "GET", f"/v1/records/5001/{address}")
        assert there["host"] == cluster.host_of("red-web2")
        assert status(cluster, "lookup-2")["stale_seconds"] < 1
        load.go_on(5)
    finally:
        cluster.heal("lookup-1")
    cluster.wait_until(
        lambda: status(cluster, "lookup-1")["stale_seconds"] == 0, "lookup-1 does not find etcd again", 20
    )
    measured("cut from etcd", slowest_write=load.slowest_write(began), slowest_read=load.slowest_read(began))


def test_lookup_node_killed_in_mid_write_and_mid_watch(cluster: Cluster, load: Load) -> None:
    began = time.monotonic()
    cluster.kill("lookup-1")
    load.go_on(20)
    cluster.run_node("lookup-1").wait_for(LISTENS, 20)
    load.go_on()
    slowest = load.slowest_read(began)
    assert slowest < 3.0
    measured("lookup node killed", slowest_write=load.slowest_write(began), slowest_read=slowest)


def test_all_lookup_nodes_down_while_vms_talk_and_one_moves(cluster: Cluster) -> None:
    """By itself, without readers: there is nobody to ask."""
    name = "red-web1"
    vm, target = cluster.planned(name), cluster.beyond(name)
    talkers = cluster.talk(name, ("red-db1", "red-db2"))
    time.sleep(0.3)
    cluster.kill(*(node.name for node in LOOKUPS))
    time.sleep(0.5)
    assert cluster.reaches("red-web2", "red-db1")
    cluster.mover.announced(vm, target, [talkers.inside])
    time.sleep(1.0)
    began = time.monotonic()
    for node in LOOKUPS:
        cluster.run_node(node.name)
    for node in LOOKUPS:
        cluster.daemons[node.name].wait_for(LISTENS, 20)

    def is_there() -> bool:
        found = cluster.operator.ask("GET", f"/v1/records/{vm.vsid}/{vm.address()}")
        return bool(found["host"] == target)

    cluster.wait_until(is_there, f"{name} is not registered at {target}", 30)
    registered = time.monotonic() - began
    for observer in ("red-db1", "red-db2"):
        cluster.wait_until(partial(cluster.reaches, observer, name), f"{observer} does not reach {name}", 30)
    reached = time.monotonic() - began
    outcome = cluster.end(talkers)
    measured("all lookup nodes down", registered=registered, reached=reached, lost=outcome.lost)
    with Load(cluster) as load:
        load.go_on()


@pytest.mark.long
@pytest.mark.parametrize("who", ["leader", "another"])
def test_member_of_etcd_paused(cluster: Cluster, load: Load, who: str) -> None:
    leader = cluster.leader()
    member = cluster.daemons[f"etcd-{leader if who == 'leader' else leader % 3 + 1}"]
    began = time.monotonic()
    member.send_signal(signal.SIGSTOP)
    try:
        load.go_on(30)
    finally:
        member.send_signal(signal.SIGCONT)
    load.go_on()
    assert load.slowest_write(began) < FAILOVER_SECONDS
    measured(f"{who} paused", slowest_write=load.slowest_write(began), slowest_read=load.slowest_read(began))


@pytest.mark.long
def test_all_members_of_etcd_down_and_back(cluster: Cluster, load: Load) -> None:
    began = time.monotonic()
    cluster.kill("etcd-1", "etcd-2", "etcd-3")
    cluster.wait_until(
        lambda: all(status(cluster, node.name)["stale_seconds"] > 2 for node in LOOKUPS),
        "not all lookup nodes say that they are stale",
        20,
    )
    assert cluster.reaches("red-web1", "red-db2")
    slowest = load.slowest_read(began)
    up = time.monotonic()
    for number in (1, 2, 3):
        cluster.start_member(number)
    for number in (1, 2, 3):
        cluster.daemons[f"etcd-{number}"].wait_for(READY, 20)
    load.go_on()
    measured("all members down", back=time.monotonic() - up, slowest_read=slowest)


@pytest.mark.long
def test_followers_of_a_node_that_is_cut_from_etcd_for_long_go_to_another(cluster: Cluster) -> None:
    """Else they would be told nothing for as long as it lasts, and a moved VM would be lost to them."""
    with Load(cluster) as load:
        cluster.cut_from_etcd("lookup-1")
        try:
            time.sleep(30)
            load.go_on()
            for name in ("red-web1", "red-web1"):
                vm, target = cluster.planned(name), cluster.beyond(name)
                answer = cluster.mover.orchestrated(vm, target)
                assert all(answer["learned"].values()), answer
                assert cluster.reaches("red-db1", name)
                assert cluster.reaches("red-db2", name)
        finally:
            cluster.heal("lookup-1")


@pytest.mark.long
def test_lookup_nodes_killed_one_after_the_other(cluster: Cluster, load: Load) -> None:
    for _ in range(2):
        for node in LOOKUPS:
            cluster.kill(node.name)
            load.go_on(10)
            cluster.run_node(node.name).wait_for(LISTENS, 20)
            load.go_on(5)


@pytest.mark.long
def test_network_of_a_thousand_tenants_is_applied_through_etcd(cluster: Cluster) -> None:
    file = cluster.folder / "large.toml"
    text = (cluster.folder / "network.toml").read_text()
    file.write_text(text + "".join(tenant(number) for number in range(1000)))
    with Load(cluster) as load:
        began = time.monotonic()
        done = cluster.isthmus("apply", str(file))
        seconds = time.monotonic() - began
        assert done.stdout.splitlines()[-1] == "1000 changes", done.stderr
    measured("apply of 1000 tenants", seconds=seconds, slowest_read=load.slowest_read(began))
    again = cluster.isthmus("apply", str(cluster.folder / "network.toml"))
    assert again.stdout.splitlines()[-1] == "1000 changes", again.stderr


def tenant(number: int) -> str:
    """A tenant of two virtual subnets, with the addresses that all have."""
    subnets = "".join(
        f"""
[[tenant.subnet]]
name = "{name}"
vsid = {100_000 + 2 * number + place}
prefixes = ["10.{place}.0.0/24", "fd00:{place}::/64"]
"""
        for place, name in enumerate(("web", "db"))
    )
    return f"""
[[tenant]]
name = "tenant-{number}"
gateways = ["edge-1"]
{subnets}"""


def measured(what: str, **figures: float) -> None:
    """Print a line of figures, for docs/cluster.md: `pytest -s`."""
    sys.stdout.write(json.dumps({"fault": what, **{name: round(each, 3) for name, each in figures.items()}}))
    sys.stdout.write("\n")
