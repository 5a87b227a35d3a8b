"""The cluster of docs/cluster.md, from its own files, and what it is for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.interop.cluster import COMMANDS, MOVING, Cluster

pytestmark = [pytest.mark.netns, pytest.mark.interop]


@pytest.fixture(scope="module")
def cluster(require_tools: Callable[..., None]) -> Iterator[Cluster]:
    require_tools(*COMMANDS)
    with Cluster() as cluster:
        yield cluster


def test_network_is_written_from_the_document_s_file_once(cluster: Cluster) -> None:
    assert cluster.applied.stdout.splitlines()[-1] == "6 changes"
    again = cluster.isthmus("apply", str(cluster.folder / "network.toml"), node="lookup-3")
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


@pytest.mark.parametrize("name", MOVING)
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
