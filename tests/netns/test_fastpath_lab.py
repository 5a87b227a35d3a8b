"""The laboratory's network behind a gateway with the fast path, as its guests and its operator see it.

red: web1, db1                              red: web2, db2
blue: web1, db1                             blue: web2, db2
       |                                           |
   hv1 (isthmus run) ------- underlay ------- hv2 (isthmus run)
                                |
                             edge-1 (isthmus run)

A host knows its own VMs only, so all that one sends to the other's passes the gateway.
"""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.lab import nodes, tools
from gateway.lab.namespaces import tool
from gateway.lab.processes import Process
from gateway.lab.topology import UPLINK, Datacenter, Node, Vm, standard_plan
from tests.netns.rewriting import show

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("require_bpf")]

PORT = 7637
OCTETS = 5_000_000
CUSTOMER_MTU = 1458
PINGS = 20

both_families = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])


def knows(node: Node, vm: Vm) -> bool:
    """Whether a node has a VM's record."""
    return node.name in ("edge-1", vm.host)


class World(Datacenter):
    """Everything at work."""

    nodes: dict[str, Process]

    def start_all(self) -> None:
        """Start every node; the gateway can be asked for its metrics too."""
        files = nodes.write_configurations(self, knows)
        files["edge-1"].write_text(f"{files['edge-1'].read_text()}\n[api]\n")
        self.nodes = {
            name: self.start(name, self.node(name), *nodes.run_command(file)) for name, file in files.items()
        }
        for process in self.nodes.values():
            process.wait_for(r"\bready\b", 20)

    def planned(self, name: str) -> Vm:
        """A VM's plan."""
        return next(vm for vm in self.plan.vms if vm.name == name)

    def ping(self, source: str, target: str, *options: str, count: int = 2) -> str:
        """Ping, and return what it said."""
        command = ("ping", "-n", "-c", str(count), "-i", "0.05", "-W", "1", *options, target)
        return self.vm(source).run(*command, check=False).stdout

    def fast(self) -> dict[str, Any]:
        """How the fast path is."""
        found: dict[str, Any] = nodes.counters(self.nodes["edge-1"])["fastpath"]
        return found

    def says(self, command: str, *options: str) -> str:
        """What the command line prints of the gateway."""
        file = str(self.directory / "edge-1.toml")
        return self.node("edge-1").run(sys.executable, "-m", "gateway.cli", command, file, *options).stdout


@pytest.fixture(scope="module")
def world(require_tools: Callable[..., None]) -> Iterator[World]:
    require_tools("ping")
    with World(standard_plan(engine="xdp")) as built:
        built.start_all()
        for vm in built.plan.vms:
            for version in (4, 6):  # until every next hop is known, and every neighbour
                others = [other for other in built.plan.vms if other.tenant == vm.tenant and other is not vm]
                assert all(" received" in built.ping(vm.name, other.address(version)) for other in others)
        yield built


def test_program_is_in_the_driver(world: World) -> None:
    assert [(each["interface"], each["mode"]) for each in world.fast()["interfaces"]] == [(UPLINK, "native")]
    (link,) = json.loads(world.node("edge-1").run(tool("ip"), "-json", "link", "show", UPLINK).stdout)
    assert link["xdp"]["mode"] == 1


@both_families
def test_vms_reach_each_other_and_python_sees_nothing_of_it(world: World, version: int) -> None:
    before = world.fast()
    for source, target, hops in (("red-web1", "red-web2", 64), ("red-web1", "red-db2", 63)):
        said = world.ping(source, world.planned(target).address(version), count=PINGS)
        assert f"{PINGS} received" in said
        assert said.count(f"ttl={hops}") == PINGS
    after = world.fast()

    # Requests and replies.
    assert after["carried"] - before["carried"] >= 4 * PINGS
    assert sum(after["passed"].values()) - sum(before["passed"].values()) <= PINGS / 4


@both_families
def test_gateway_is_one_hop(world: World, version: int) -> None:
    source, target = world.planned("red-web1"), world.planned("red-db2")
    traceroute = tools.find("traceroute").command("-n", "-q", "1", "-w", "2", target.address(version))
    hops = world.vm(source.name).run(*traceroute).stdout.splitlines()[1:]
    assert [hop.split()[1] for hop in hops] == [source.gateway(version), target.address(version)]


@both_families
def test_what_is_too_large_is_answered_with_the_mtu(world: World, version: int) -> None:
    source, target = world.planned("blue-web1"), world.planned("blue-db2")
    headers = 28 if version == 4 else 48
    address = target.address(version)
    said = world.ping(source.name, address, "-M", "do", "-s", str(1500 - headers))
    assert re.search(rf"mtu ?= ?{CUSTOMER_MTU}\b", said), said
    assert "2 received" in world.ping(source.name, address, "-M", "do", "-s", str(CUSTOMER_MTU - headers))


@both_families
def test_transfer_by_tcp_arrives_whole(world: World, version: int) -> None:
    before = world.fast()
    receiver = world.start_python("receiver", world.vm("red-db2"), "gateway.lab.probe", "receive", str(PORT))
    receiver.wait_for("listening")
    address = world.planned("red-db2").address(version)
    sender = (sys.executable, "-m", "gateway.lab.probe", "send", address, str(PORT), str(OCTETS))
    assert "the receiver has the same" in world.vm("red-web1").run(*sender).stdout
    receiver.wait(10)
    assert world.fast()["carried"] - before["carried"] > OCTETS / CUSTOMER_MTU


def test_capture_sees_a_tenant_that_the_fast_path_carries_otherwise(world: World) -> None:
    target = world.planned("red-db2").address()
    file = str(world.directory / "edge-1.toml")
    words = (sys.executable, "-m", "gateway.cli", "capture", file, "--tenant", "red", "--frames", "40")
    capture = world.start("capture", world.node("edge-1"), *words)
    capture.wait_for("^capturing")
    during = world.fast()
    assert during["left_to_python"] == [{"tenant": "red", "why": "somebody captures its packets"}]
    assert "10 received" in world.ping("red-web1", target, count=10)
    assert f"{PINGS} received" in world.ping("blue-web1", target, count=PINGS)
    after = world.fast()
    capture.wait(20)

    lines = re.findall(r"^\d\d:\d\d:\d\d\.\d{6} (\S+) (in|out) ", capture.output(), re.MULTILINE)
    assert {place: lines.count((place, way)) for place, way in set(lines)} == {"red/web": 10, "red/db": 10}
    assert len(lines) == 40
    assert "0 lost" in capture.output()
    # Blue's packets went their usual way meanwhile.
    assert after["carried"] - during["carried"] >= 2 * PINGS

    time.sleep(0.5)
    before = world.fast()
    assert before["left_to_python"] == []
    assert f"{PINGS} received" in world.ping("red-web1", target, count=PINGS)
    assert world.fast()["carried"] - before["carried"] >= 2 * PINGS


@pytest.mark.interop
@pytest.mark.long
def test_capture_that_writes_shows_all_of_a_ping_both_sides(world: World) -> None:
    target = world.planned("red-db2").address()
    file = world.directory / "both.pcapng"
    config = str(world.directory / "edge-1.toml")
    words = ("capture", config, "--tenant", "red", "--side", "both", "--write", str(file), "--frames", "40")
    capture = world.start("capture", world.node("edge-1"), sys.executable, "-m", "gateway.cli", *words)
    capture.wait_for("^capturing")
    assert "5 received" in world.ping("red-web1", target, count=5)
    capture.wait(20)
    assert "40 packets captured, 0 lost" in capture.output()


def meters(world: World) -> dict[tuple[str, str], tuple[int, int]]:
    """How many packets each subnet has sent, and received."""
    found = nodes.counters(world.nodes["edge-1"])["meters"]
    return {
        (each["tenant"], each["subnet"]): (each["sent_packets"], each["received_packets"]) for each in found
    }


def metrics(world: World) -> dict[str, float]:
    """What monitoring reads, by name and labels."""

    def read() -> str:
        with urllib.request.urlopen("http://127.0.0.1:7638/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    text = world.node("edge-1").call(read)
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_status_metrics_and_counters_count_what_the_fast_path_carries(world: World) -> None:
    before, measured = meters(world), metrics(world)
    world.ping("red-web1", world.planned("red-db2").address(), count=PINGS)
    after, measured_after = meters(world), metrics(world)

    changed = {
        subnet: tuple(b - a for a, b in zip(before[subnet], after[subnet], strict=True)) for subnet in after
    }
    assert changed == {
        ("red", "web"): (PINGS, PINGS),
        ("red", "db"): (PINGS, PINGS),
        ("blue", "web"): (0, 0),
        ("blue", "db"): (0, 0),
    }
    rose = {name for name, value in measured_after.items() if value - measured.get(name, 0) == PINGS}
    assert len([name for name in rose if 'tenant="red"' in name and "packets" in name]) == 4, rose
    assert measured_after['isthmus_engine_info{engine="xdp"}'] == 1
    assert measured_after["isthmus_fastpath_carried_packets_total{}"] >= 2 * PINGS

    status = json.loads(world.says("status", "--json"))
    assert status["engine"] == "xdp"
    said = world.says("status")
    show(said)
    assert "native on eth1" in said


@pytest.mark.interop
@pytest.mark.long
def test_top_shows_what_the_fast_path_carries(world: World) -> None:
    address = world.planned("red-db2").address()
    ping = world.start("ping", world.vm("red-web1"), "ping", "-q", "-i", "0.01", "-s", "972", address)
    time.sleep(0.5)
    rows = {
        row["name"]: row
        for row in json.loads(world.says("top", "--once", "--json", "--tenant", "red"))["rows"]
    }
    ping.stop()
    for name in ("web", "db"):
        assert 40 < rows[name]["from_packets"] <= 130, rows
        assert rows[name]["from_bits"] == pytest.approx(8000 * rows[name]["from_packets"], rel=0.1)
