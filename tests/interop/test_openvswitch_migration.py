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
from gateway.lab.migration import Mover, Operator, Talkers
from gateway.lab.nodes import LookupPlan
from gateway.lab.topology import UPLINK, Datacenter, Vm, standard_plan
from tests.interop.openvswitch import COMMANDS, OpenVswitch

pytestmark = [pytest.mark.netns, pytest.mark.interop]

MOVING = "red-web2"
MOVES = 6


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


class World:
    """Everything at work, with every VM registered."""

    def __init__(self, lab: Datacenter, folder: Path) -> None:
        self.lab = lab
        lookup = LookupPlan(files=folder, moving=(MOVING,))
        edge = lab.plan.gateways[0].provider_addresses[0]
        self.bridges = {host.name: OpenVswitch(lab, host, edge, None) for host in lab.plan.hosts}
        # What Open vSwitch hands on to a host's own stack has to have its checksums.
        lab.node("edge-1").run("ethtool", "-K", UPLINK, "tx", "off", "tso", "off", "gso", "off")
        nodes.write_credentials(lab, lookup)
        self.processes = {}
        for name, file in nodes.write_configurations(lab, lookup=lookup).items():
            if name in self.bridges:
                directory = self.bridges[name].run_directory
                driver = f'driver = "openvswitch"\n[host.openvswitch]\nrun_directory = "{directory}"\n'
                text = file.read_text()
                file.write_text(re.sub(r"(?ms)^(\[host\]\n.*?)\n(?=\[)", rf"\1{driver}\n", text, count=1))
            self.processes[name] = lab.start(name, lab.node(name), *nodes.run_command(file))
        for process in self.processes.values():
            process.wait_for(r"\bready\b", 20)
        self.operator = Operator(lab, lookup)
        self.operator.wait_for_records(sum(len(vm.addresses) for vm in lab.plan.vms))
        self.mover = OpenVswitchMover(lab, self.processes, self.operator)
        self.mover.bridges = self.bridges

    def vm(self, name: str) -> Vm:
        return next(vm for vm in self.lab.plan.vms if vm.name == name)

    def ping(self, source: str, target: str) -> str:
        return (
            self.lab.vm(source)
            .run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", target, check=False)
            .stdout
        )

    def wait_for_ping(self, source: str, target: str) -> None:
        deadline = time.monotonic() + 10
        while "2 received" not in self.ping(source, target):
            assert time.monotonic() < deadline, f"{source} does not reach {target}"

    def host_of_record(self, vm: Vm) -> str:
        return str(self.operator.ask("GET", f"/v1/records/{vm.vsid}/{vm.address()}")["host"])


@pytest.fixture(scope="module")
def world(
    require_tools: Callable[..., None], require_tun: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    require_tools(*COMMANDS, "ping")
    with Datacenter(standard_plan(tenants=("red",), underlay=(4,), underlay_mtu=1600)) as lab:
        world = World(lab, tmp_path_factory.mktemp("lookup"))
        for source in ("red-web1", "red-db2"):
            for target in (MOVING, "red-db1", "red-db2"):
                world.wait_for_ping(source, world.vm(target).address())
        yield world


def test_orchestrated_moves_lose_nothing_but_while_the_vm_stands_still(world: World) -> None:
    vm = world.vm(MOVING)
    seen_by = {name: (world.lab.vm(name), world.vm(name).address()) for name in ("red-web1", "red-db2")}
    world.mover.stops.clear()
    talkers = Talkers(world.lab, vm, seen_by)
    time.sleep(1)
    for number in range(MOVES):
        host = "hv1" if number % 2 == 0 else "hv2"
        world.mover.orchestrated(vm, host, [talkers.inside])
        assert world.host_of_record(vm) == host
        time.sleep(0.5)
    outcome = talkers.end(world.mover.stops)

    gaps = {stream.name: (len(stream.lost), round(stream.longest_gap)) for stream in outcome.streams}
    assert outcome.lost == 0, gaps


def test_vm_that_announces_itself_is_claimed_where_it_has_gone(world: World) -> None:
    vm = world.vm(MOVING)
    for host in ("hv1", "hv2"):
        started = time.monotonic()
        world.mover.announced(vm, host)
        deadline = time.monotonic() + 5
        while world.host_of_record(vm) != host:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert time.monotonic() - started < 5
        for source in ("red-web1", "red-db2"):
            world.wait_for_ping(source, vm.address())
