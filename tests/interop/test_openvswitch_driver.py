"""Open vSwitch hosts that our driver programs, and a real gateway for what OpenFlow cannot do.

    red, blue, green: web1, db1                        red, blue, green: web2, db2
            |                                                 |
    hv1 (Open vSwitch) ------- underlay (a router) ------- hv2 (Open vSwitch)
                                      |
                                   edge-1 (isthmus run)

Green has access rules. Links carry 1600 octets and everybody is told 1500, so that what is too large can
reach the gateway, which says so.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.lab import nodes
from gateway.lab.processes import Process
from gateway.lab.topology import VM_INTERFACE, Datacenter, Node, Vm, standard_plan
from gateway.packets import arp, ethernet
from gateway.packets.arp import ArpPacket
from gateway.packets.ethernet import EthernetHeader
from policies.addresses import BROADCAST_MAC, CustomerAddress, MacAddress, Vsid, gateway_mac
from tests.interop.captures import Encapsulated, read_with_scapy
from tests.interop.openvswitch import COMMANDS, OpenVswitch

pytestmark = [pytest.mark.netns, pytest.mark.interop]

MTU = 1500
CUSTOMER_MTU = 1458
PORT = 7637
OCTETS = 2_000_000
TENANTS = ("red", "blue", "green")

GREEN_RULES = """
[[tenant.access]]
name = "icmp to db"
action = "allow"
to = "subnet:db"
protocol = "icmp"
"""

MOVING = "blue-web2"

both_families = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])


class Site:
    """The hosts, their agents and the gateway, all running."""

    def __init__(self, lab: Datacenter) -> None:
        self.lab = lab
        gateway = lab.plan.gateways[0]
        self.hosts: dict[str, OpenVswitch] = {}
        self.gateway = lab.start("edge-1", lab.node("edge-1"), *nodes.run_command(self._write(gateway)))
        edge = gateway.provider_addresses[0]
        self.hosts = {host.name: OpenVswitch(lab, host, edge, None) for host in lab.plan.hosts}
        self.tell(MOVING, "hv2", 10, "hv1", "hv2")
        self.agents = {host.name: self._start_agent(host) for host in lab.plan.hosts}
        self.gateway.wait_for(r"\bready\b")
        for agent in self.agents.values():
            agent.wait_for(r"flows, [1-9]\d* ports")
        # Open vSwitch loses the first packet to a next hop in the underlay whose MAC it has to ask for.
        wait_for_ping(self, "red-web1", self.vm("red-db2").address())

    def _start_agent(self, host: Node) -> Process:
        command = (sys.executable, "-m", "tests.interop.openvswitch_agent", str(self._write(host)))
        return self.lab.start(
            f"{host.name}-agent", self.lab.node(host.name), *command, str(self._records(host.name))
        )

    def _write(self, node: Node) -> Path:
        state = self.lab.directory / node.name
        text = nodes.configuration(self.lab.plan, node, state=state, knows=_has_record) + GREEN_RULES
        text = text.replace("[underlay]\n", f"[underlay]\nmtu = {MTU}\n")
        if node in self.lab.plan.hosts:
            directory = self.hosts[node.name].run_directory
            driver = f'driver = "openvswitch"\n[host.openvswitch]\nrun_directory = "{directory}"\n'
            text = re.sub(r"(?m)^(\[host\]\nname = .*\n)", rf"\1{driver}", text)
            text = _with_port(text, self.vm(MOVING))
        file = self.lab.directory / f"{node.name}.toml"
        file.write_text(text)
        return file

    def _records(self, host: str) -> Path:
        return self.lab.directory / f"{host}.records"

    def pa(self, name: str) -> str:
        return next(node for node in self.lab.plan.nodes if node.name == name).provider_addresses[0]

    def vm(self, name: str) -> Vm:
        return next(vm for vm in self.lab.plan.vms if vm.name == name)

    def tell(self, name: str, host: str, revision: int, *hosts: str) -> None:
        """Have hosts learn that a VM is somewhere."""
        vm = self.vm(name)
        for each in hosts:
            with self._records(each).open("a") as file:
                for version in (4, 6):
                    record = {"vsid": vm.vsid, "ca": vm.address(version), "mac": vm.mac}
                    record |= {"pa": self.pa(host), "host": host, "revision": revision}
                    file.write(json.dumps(record) + "\n")

    def move(self, name: str, host: str) -> None:
        """Take a VM's port from the bridge of one host to that of another."""
        vm, before = self.vm(name), self.lab.host_of(name)
        self.hosts[before].detach(vm.port)
        self.lab.move(name, host)
        self.lab.node(host).ip(f"link set {vm.port} up")
        self.hosts[host].attach(vm.port)

    def ping(self, source: str, target: str, *options: str, count: int = 2) -> str:
        command = ("ping", "-n", "-c", str(count), "-i", "0.2", "-W", "1", *options, target)
        return self.lab.vm(source).run(*command, check=False).stdout

    @contextlib.contextmanager
    def capture(self, name: str) -> Iterator[list[Encapsulated]]:
        """Capture what passes the router to a node and from it, and give it when the block has ended."""
        file = self.lab.directory / f"{name}-{time.monotonic_ns()}.pcap"
        process = self.lab.capture(self.lab.router, name, file)
        packets: list[Encapsulated] = []
        yield packets
        process.stop()
        packets += read_with_scapy(file, 4)


@pytest.fixture(scope="module", params=["python", pytest.param("xdp", marks=pytest.mark.long)])
def site(
    request: pytest.FixtureRequest, require_tools: Callable[..., None], require_tun: None
) -> Iterator[Site]:
    if request.param == "xdp":
        request.getfixturevalue("require_bpf")
    require_tools(*COMMANDS, "ping", "traceroute")
    plan = standard_plan(tenants=TENANTS, underlay=(4,), underlay_mtu=1600, engine=request.param)
    with Datacenter(plan) as lab:
        yield Site(lab)


@both_families
def test_vms_of_two_subnets_reach_each_other_directly_and_by_one_hop(site: Site, version: int) -> None:
    assert "2 received" in site.ping("red-web1", site.vm("red-db2").address(version))
    with site.capture("hv1") as packets:
        said = site.ping("red-web1", site.vm("red-db2").address(version))
    assert said.count("ttl=63") == 2
    ways = {(packet.header.source, packet.header.destination) for packet in packets}
    assert ways == {(site.pa("hv1"), site.pa("hv2")), (site.pa("hv2"), site.pa("hv1"))}


@both_families
@pytest.mark.parametrize("target", ["red-web2", "red-db1"])
def test_vms_reach_neighbours_elsewhere_and_others_on_their_host(
    site: Site, target: str, version: int
) -> None:
    said = site.ping("red-web1", site.vm(target).address(version))

    assert "2 received" in said
    assert said.count("ttl=64" if target == "red-web2" else "ttl=63") == 2


def test_flows_alone_answer_arp_and_route(site: Site) -> None:
    asking, other = site.vm("red-web1"), site.vm("red-web2")
    guest = site.lab.vm(asking.name)
    guest.ip(f"neighbour flush dev {VM_INTERFACE}")
    with site.capture("edge-1") as packets:
        assert "2 received" in site.ping(asking.name, other.address())
        assert "2 received" in site.ping(asking.name, site.vm("red-db2").address())
    assert packets == []
    neighbours = json.loads(guest.run("ip", "-json", "neighbour", "show", "dev", VM_INTERFACE).stdout)
    known = {neighbour["dst"]: neighbour.get("lladdr") for neighbour in neighbours}
    assert known[asking.gateway()] == str(gateway_mac(Vsid(asking.vsid)))
    assert known[other.address()] == other.mac


@both_families
def test_gateway_answers_where_a_hop_limit_ends(site: Site, version: int) -> None:
    source, target = site.vm("red-web1"), site.vm("red-db2")
    command = ("traceroute", "-n", "-q", "1", "-w", "2", target.address(version))
    hops = site.lab.vm(source.name).run(*command).stdout.splitlines()[1:]
    assert [hop.split()[1] for hop in hops] == [source.gateway(version), target.address(version)]


@both_families
def test_gateway_answers_for_itself_and_for_who_is_not_there(site: Site, version: int) -> None:
    source = site.vm("red-web1")
    assert "2 received" in site.ping(source.name, source.gateway(version))
    nobody = "10.0.2.99" if version == 4 else "fd00:2::99"
    said = site.ping(source.name, nobody)
    assert f"From {source.gateway(version)}" in said
    assert re.search("unreachable", said, re.IGNORECASE)


@both_families
def test_gateway_tells_the_mtu(site: Site, version: int) -> None:
    source, target = site.vm("red-web1"), site.vm("red-db2")
    headers = 28 if version == 4 else 48

    said = site.ping(source.name, target.address(version), "-M", "do", "-s", str(1500 - headers))
    assert re.search(rf"mtu ?= ?{CUSTOMER_MTU}\b", said)
    fits = ("-M", "do", "-s", str(CUSTOMER_MTU - headers))
    assert "2 received" in site.ping(source.name, target.address(version), *fits)


@both_families
def test_transfer_by_tcp_arrives_whole(site: Site, version: int) -> None:
    source, target = site.lab.vm("red-web1"), site.lab.vm("red-db2")
    # As guests are told by DHCP.
    for guest in (source, target):
        guest.ip(f"link set {VM_INTERFACE} mtu {CUSTOMER_MTU}")
    receiver = site.lab.start_python("receiver", target, "gateway.lab.probe", "receive", str(PORT))
    receiver.wait_for("listening")
    address = site.vm("red-db2").address(version)
    sender = (sys.executable, "-m", "gateway.lab.probe", "send", address, str(PORT), str(OCTETS))
    assert "the receiver has the same" in source.run(*sender).stdout


def test_the_same_address_is_each_tenants_own_vm(site: Site) -> None:
    before = {name: received(site, name) for name in ("red-db2", "blue-db2")}
    assert "5 received" in site.ping("blue-web1", site.vm("blue-db2").address(), count=5)
    assert received(site, "red-db2") - before["red-db2"] <= 1
    assert received(site, "blue-db2") - before["blue-db2"] >= 5


def received(site: Site, name: str) -> int:
    links = json.loads(site.lab.vm(name).run("ip", "-json", "-s", "link", "show", "dev", VM_INTERFACE).stdout)
    return int(links[0]["stats64"]["rx"]["packets"])


def test_vm_may_use_no_address_but_its_own(site: Site) -> None:
    guest = site.lab.vm("blue-web1")
    guest.ip(f"address add 10.0.1.77/24 dev {VM_INTERFACE}")
    try:
        with site.capture("hv1") as packets:
            assert "0 received" in site.ping("blue-web1", "10.0.2.6", "-I", "10.0.1.77")
        assert packets == []
    finally:
        guest.ip(f"address del 10.0.1.77/24 dev {VM_INTERFACE}")


def test_tenant_with_access_rules_is_judged_by_its_gateway_also_within_a_host(site: Site) -> None:
    for target in ("green-db1", "green-db2"):
        with site.capture("edge-1") as packets:
            assert "2 received" in site.ping("green-web1", site.vm(target).address())
        assert len(packets) >= 8
    guest = site.lab.vm("green-db1")
    receiver = site.lab.start_python("denied", guest, "gateway.lab.probe", "receive", str(PORT))
    receiver.wait_for("listening")
    before = nodes.drops(site.gateway).get(("access-denied", "green"), 0)
    attempt = f"import socket; socket.create_connection(('{site.vm('green-db1').address()}', {PORT}), 1.5)"
    said = site.lab.vm("green-web1").run(sys.executable, "-c", attempt, check=False)
    assert "TimeoutError" in said.stderr
    assert nodes.drops(site.gateway)["access-denied", "green"] > before
    receiver.stop()


def test_traffic_follows_a_vm_that_has_moved_and_its_old_host_sends_on(site: Site) -> None:
    name, agent = MOVING, site.agents["hv1"]
    vm = site.vm(name)
    assert "2 received" in site.ping("blue-db1", vm.address())

    mark = agent.size()
    site.move(name, "hv1")
    try:
        # Only the old host knows: what comes to it is sent on, and the new one hears the VM first.
        agent.wait_for(rf"opened {vm.vsid} {vm.mac}", start=mark)
        site.tell(name, "hv1", 100, "hv2")
        heard = rf"heard {vm.vsid} {vm.mac}: it announced {vm.address()}\n"
        deadline = time.monotonic() + 10
        # The first may outrun the flows of a port that has just come.
        while not re.search(heard, agent.output(mark)):
            assert time.monotonic() < deadline
            site.lab.vm(name).call(announce, vm)
            time.sleep(0.2)
        with site.capture("hv2") as packets:
            wait_for_ping(site, "blue-db2", vm.address())
        ways = {(each.header.source, each.header.destination) for each in packets}
        assert (site.pa("hv2"), site.pa("hv1")) in ways
        site.tell(name, "hv1", 100, "hv1")
        for source in ("blue-db1", "blue-db2"):
            assert "2 received" in site.ping(source, vm.address())
    finally:
        site.move(name, "hv2")
        site.tell(name, "hv2", 200, "hv1", "hv2")
    wait_for_ping(site, "blue-db1", vm.address())


def announce(vm: Vm) -> None:
    """Send what a guest sends that has been taken over by another host: a gratuitous ARP."""
    mac, address = MacAddress.parse(vm.mac), CustomerAddress.parse(vm.address())
    said = ArpPacket(arp.REQUEST, mac, address, bytes(6), address)
    frame = EthernetHeader(BROADCAST_MAC, mac, ethernet.ARP).encode() + said.encode()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((VM_INTERFACE, 0))
        raw.send(frame)


def _has_record(node: Node, vm: Vm) -> bool:
    """Hosts are told where the one is that moves."""
    return vm.name != MOVING or node.name == "edge-1"


def _with_port(text: str, vm: Vm) -> str:
    """Have a host serve a VM's port, if it does not."""
    if f'interface = "{vm.port}"' in text:
        return text
    addresses = json.dumps([vm.address(version) for version in (4, 6)])
    return (
        f'{text}\n[[host.port]]\ninterface = "{vm.port}"\ntenant = "{vm.tenant}"\nsubnet = "{vm.subnet}"\n'
        f'mac = "{vm.mac}"\naddresses = {addresses}\n'
    )


def wait_for_ping(site: Site, source: str, target: str) -> None:
    deadline = time.monotonic() + 10
    while "2 received" not in site.ping(source, target):
        assert time.monotonic() < deadline


def test_switch_that_was_started_anew_is_programmed_anew(site: Site) -> None:
    host = site.hosts["hv1"]
    before = flows_of_vms(host)
    mark = site.agents["hv1"].size()

    host.restart_switch(site.lab)
    site.agents["hv1"].wait_for(r"flows, [1-9]\d* ports", 20, start=mark)

    assert flows_of_vms(host) == before
    wait_for_ping(site, "red-web1", site.vm("red-db2").address())


def flows_of_vms(host: OpenVswitch) -> set[str]:
    """The matches by which the host's VMs reach others."""
    found = (re.search(r"table=6,.*(?<= )(priority=\S+)", line) for line in host.flows())
    return {match[1] for match in found if match}


def test_agent_that_stops_leaves_nothing_behind(site: Site) -> None:
    agent, host = site.agents["hv2"], site.hosts["hv2"]
    assert len(host.flows()) > 100

    agent.stop()

    assert host.flows() == []
    assert not any(port.startswith("isthmus") for port in host.ports())
