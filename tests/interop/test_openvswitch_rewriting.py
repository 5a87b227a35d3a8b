"""An Open vSwitch host, which only encapsulates, in a tenant with rewritten VMs on another.

red: web1 (refused), db1       red: web2 (rewritten), db2
            |                              |
hv1 (Open vSwitch) ------ underlay ------ hv2 (builtin)
                             |
                  edge-1 (gateway and lookup service)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import GRE
from scapy.utils import rdpcap

from gateway.lab import echo, nodes
from gateway.lab.migration import Operator
from gateway.lab.nodes import LookupPlan
from gateway.lab.processes import Process
from gateway.lab.topology import UPLINK, Datacenter, Vm, standard_plan
from tests.interop.openvswitch import COMMANDS, OpenVswitch

pytestmark = [pytest.mark.netns, pytest.mark.interop]

REFUSED = "red-web1"

both_families = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])


class World:
    """Everything at work, but for the VM that its host cannot serve."""

    def __init__(self, lab: Datacenter, lookup: LookupPlan) -> None:
        self.lab = lab
        edge = lab.plan.gateways[0].provider_addresses[0]
        bridge = OpenVswitch(lab, next(host for host in lab.plan.hosts if host.name == "hv1"), edge, None)
        # What Open vSwitch hands on to a host's own stack has to have its checksums.
        lab.node("edge-1").run("ethtool", "-K", UPLINK, "tx", "off", "tso", "off", "gso", "off")
        nodes.write_credentials(lab, lookup)
        self.processes: dict[str, Process] = {}
        for name, file in nodes.write_configurations(lab, lookup=lookup).items():
            if name == "hv1":
                settings = f'[host.openvswitch]\nrun_directory = "{bridge.run_directory}"\n'
                driver = f'driver = "openvswitch"\n{settings}'
                text = re.sub(r"(?ms)^(\[host\]\n.*?)\n(?=\[)", rf"\1{driver}\n", file.read_text(), count=1)
                file.write_text(text)
            self.processes[name] = lab.start(name, lab.node(name), *nodes.run_command(file))
        for process in self.processes.values():
            process.wait_for(r"\bready\b", 20)
        served = [vm for vm in lab.plan.vms if vm.name != REFUSED]
        Operator(lab, lookup).wait_for_records(sum(len(vm.addresses) for vm in served))

    def vm(self, name: str) -> Vm:
        return next(vm for vm in self.lab.plan.vms if vm.name == name)

    def pa(self, name: str) -> str:
        return next(node for node in self.lab.plan.nodes if node.name == name).provider_addresses[0]

    def ping(self, source: str, target: str, version: int) -> str:
        command = ("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", self.vm(target).address(version))
        return self.lab.vm(source).run(*command, check=False).stdout


@pytest.fixture(scope="module")
def world(
    require_tools: Callable[..., None], require_tun: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    require_tools(*COMMANDS, "ping")
    folder: Path = tmp_path_factory.mktemp("lookup")
    plan = standard_plan(tenants=("red",), rewritten=("web",), underlay_mtu=1600)
    with Datacenter(plan) as lab:
        world = World(lab, LookupPlan(files=folder))
        for version in (4, 6):
            # Open vSwitch loses the first packet to a next hop in the underlay whose MAC it has to ask for.
            address = world.vm("red-web2").address(version)
            assert lab.vm("red-db1").call(echo.reachable_soon, address, 20.0)
        yield world


@both_families
@pytest.mark.parametrize("ends", [("red-db1", "red-web2"), ("red-web2", "red-db1")])
def test_encapsulated_vm_of_the_switch_and_a_rewritten_one_reach_each_other(
    world: World, ends: tuple[str, str], version: int
) -> None:
    assert "2 received" in world.ping(*ends, version)


def test_the_switch_sends_to_the_gateway_what_is_for_a_rewritten_vm(world: World) -> None:
    file = world.lab.directory / "hv1.pcap"
    capture = world.lab.capture(world.lab.router, "hv1", file)
    assert "2 received" in world.ping("red-db1", "red-web2", 4)
    capture.stop()

    ways = {(packet[IP].src, packet[IP].dst) for packet in rdpcap(str(file)) if GRE in packet}
    hv1, edge = (world.pa(name) for name in ("hv1", "edge-1"))
    assert ways == {(hv1, edge), (edge, hv1)}


def test_rewritten_vm_of_the_switch_is_refused_in_words_and_not_served(world: World) -> None:
    words = r"host\.port\[\w+\]: a VM in red that is rewritten: Open vSwitch hosts only encapsulate"
    world.processes["hv1"].wait_for(words)
    assert "0 received" in world.ping(REFUSED, "red-db1", 4)
