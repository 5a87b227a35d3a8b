"""VMs that move between Open vSwitch hosts, claimed at the lookup service by each host's agent.

red: web1, db1            red: web2, db2
    |                         |
hv1 (Open vSwitch) ------ hv2 (Open vSwitch)
                  |
               edge-1 (gateway and lookup service)
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.lab import nodes
from gateway.lab.migration import Mover
from gateway.lab.nodes import LookupPlan
from gateway.lab.processes import Process
from gateway.lab.topology import UPLINK, Datacenter, Vm, standard_plan
from tests.interop.openvswitch import COMMANDS, OpenVswitch
from tests.netns.moving import World

pytestmark = [pytest.mark.netns, pytest.mark.interop]

MOVING = "red-web2"
MOVES = 6
OBSERVERS = ("red-web1", "red-db2")


class OpenVswitchMover(Mover):
    """Moves VMs from bridge to bridge."""

    bridges: dict[str, OpenVswitch]

    def _take_over(self, vm: Vm, host: str) -> None:
        process = self._processes[host]
        mark = process.size()
        self.bridges[self._lab.host_of(vm.name)].detach(vm.port)
        self._lab.move(vm.name, host)
        self._lab.node(host).ip(f"link set {vm.port} up")
        self.bridges[host].attach(vm.port)
        process.wait_for(rf"port {vm.port} is open", start=mark)


class OpenVswitchWorld(World):
    """Everything at work, with every VM registered."""

    def start(self) -> dict[str, Process]:
        lab = self.lab
        edge = lab.plan.gateways[0].provider_addresses[0]
        self.bridges = {host.name: OpenVswitch(lab, host, edge, None) for host in lab.plan.hosts}
        # What Open vSwitch hands on to a host's own stack has to have its checksums.
        lab.node("edge-1").run("ethtool", "-K", UPLINK, "tx", "off", "tso", "off", "gso", "off")
        nodes.write_credentials(lab, self.lookup)
        processes = {}
        for name, file in nodes.write_configurations(lab, lookup=self.lookup).items():
            if name in self.bridges:
                directory = self.bridges[name].run_directory
                driver = f'driver = "openvswitch"\n[host.openvswitch]\nrun_directory = "{directory}"\n'
                text = file.read_text()
                file.write_text(re.sub(r"(?ms)^(\[host\]\n.*?)\n(?=\[)", rf"\1{driver}\n", text, count=1))
            processes[name] = lab.start(name, lab.node(name), *nodes.run_command(file))
        for process in processes.values():
            process.wait_for(r"\bready\b", 20)
        return processes


@pytest.fixture(scope="module", params=["python", pytest.param("xdp", marks=pytest.mark.long)])
def world(
    request: pytest.FixtureRequest,
    require_tools: Callable[..., None],
    require_tun: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    if request.param == "xdp":
        request.getfixturevalue("require_bpf")
    require_tools(*COMMANDS)
    folder: Path = tmp_path_factory.mktemp("lookup")
    plan = standard_plan(tenants=("red",), underlay=(4,), underlay_mtu=1600, engine=request.param)
    with Datacenter(plan) as lab:
        world = OpenVswitchWorld(lab, LookupPlan(files=folder, moving=(MOVING,)))
        mover = world.mover = OpenVswitchMover(lab, world.processes, world.operator)
        mover.bridges = world.bridges
        for observer in OBSERVERS:
            for name in (MOVING, "red-db1", "red-db2"):
                world.wait_until_reached(observer, name, timeout=10)
        yield world


def test_orchestrated_moves_lose_nothing_but_while_the_vm_stands_still(world: World) -> None:
    talkers = world.talk(MOVING, OBSERVERS)
    time.sleep(1)
    for _ in range(MOVES):
        host = world.beyond(MOVING)
        world.mover.orchestrated(world.vm(MOVING), host, [talkers.inside])
        assert world.place(MOVING) == host
        time.sleep(0.5)
    outcome = world.end(talkers)

    gaps = {stream.name: (len(stream.lost), round(stream.longest_gap)) for stream in outcome.streams}
    assert outcome.lost == 0, gaps


def test_vm_that_announces_itself_is_claimed_where_it_has_gone(world: World) -> None:
    for host in ("hv1", "hv2"):
        world.mover.announced(world.vm(MOVING), host)
        world.wait_until_at(MOVING, host)
        for observer in OBSERVERS:
            world.wait_until_reached(observer, MOVING)
