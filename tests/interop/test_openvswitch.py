"""Open vSwitch hosts and a real gateway.

    red, blue: web1, db1                              red, blue: web2    red: db2
    green: web1                                               |
            |                                                 |
    hv1 (Open vSwitch) ------- underlay (a router) ------- hv2 (Open vSwitch)
                                      |
                                   edge-1 (isthmus run)

Open vSwitch sends every frame to the gateway, so whatever arrives went through it. Links
carry 1600 octets and the gateway is told 1500: it is the gateway that finds a packet too large.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.packet import Raw

from gateway.lab import nodes
from gateway.lab.namespaces import Namespace
from gateway.lab.processes import Process
from gateway.lab.topology import VM_INTERFACE, Datacenter, Node, Plan, Vm, standard_plan
from policies.addresses import Vsid, gateway_mac
from tests.interop.captures import Encapsulated, read_with_scapy, read_with_tshark
from tests.interop.openvswitch import COMMANDS, Keys, OpenVswitch

pytestmark = [pytest.mark.netns, pytest.mark.interop]

MTU = 1500
CUSTOMER_MTU = {4: 1458, 6: 1438}
VSIDS = {"red": (5001, 5002), "blue": (6001, 6002), "green": (7001, 7002)}
ABSENT = {"blue-db2", "green-web2", "green-db1", "green-db2"}
PORT = 7637
FLOWS = 16
OCTETS = 5_000_000

ENGINES = ("python", pytest.param("xdp", marks=pytest.mark.long))

both_families = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])


class Site:
    """Hosts with Open vSwitch and a gateway, all running."""

    def __init__(self, lab: Datacenter, keys: Keys, underlay: int, switched: tuple[Node, ...]) -> None:
        self.lab = lab
        self.keys = keys
        self.underlay = underlay
        self.processes = {
            node.name: _start(lab, node, keys) for node in lab.plan.nodes if node not in switched
        }
        self.hosts = {host.name: OpenVswitch(lab, host, self.pa("edge-1"), keys) for host in switched}
        for process in self.processes.values():
            process.wait_for(r"\bready\b")

    @property
    def gateway(self) -> Process:
        return self.processes["edge-1"]

    def pa(self, name: str) -> str:
        return next(node for node in self.lab.plan.nodes if node.name == name).provider_addresses[0]

    def vm(self, name: str) -> Vm:
        return next(vm for vm in self.lab.plan.vms if vm.name == name)

    def ping(self, source: str, target: str, *options: str) -> str:
        """Ping twice and return what it said, whether or not anything came back."""
        command = ("ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", *options, target)
        return self.lab.vm(source).run(*command, check=False).stdout

    @contextlib.contextmanager
    def capture(self, name: str) -> Iterator[list[Encapsulated]]:
        """Capture what passes the router to a node and from it, and give it when the block has ended."""
        file = self.lab.directory / f"{name}-{time.monotonic_ns()}.pcap"
        process = self.lab.capture(self.lab.router, name, file)
        packets: list[Encapsulated] = []
        yield packets
        process.stop()
        packets += read_with_scapy(file, self.underlay)
        assert [packet.header for packet in packets] == read_with_tshark(file, self.underlay)

    @contextlib.contextmanager
    def dropping(self, reason: str, tenant: str) -> Iterator[None]:
        """Check that the gateway drops something for a reason while the block runs."""
        before = nodes.drops(self.gateway).get((reason, tenant), 0)
        yield
        after = nodes.drops(self.gateway)
        assert after.get((reason, tenant), 0) > before, after


def _start(lab: Datacenter, node: Node, keys: Keys) -> Process:
    text = nodes.configuration(lab.plan, node, state=lab.directory / node.name)
    text = text.replace("[underlay]\n", f"[underlay]\nmtu = {MTU}\n")
    # Green is no business of hv2.
    text = re.sub(r'(?m)(^name = "hv2"\n.*\ntenants = ).*', r'\1["red", "blue"]', text)
    if keys is Keys.FIXED:
        text = text.replace("[[provider_host]]\n", '[[provider_host]]\nflow_id = "zero"\n')
    file = lab.directory / f"{node.name}.toml"
    file.write_text(text)
    return lab.start(node.name, lab.node(node.name), *nodes.run_command(file))


def _plan(underlay: int, engine: str) -> Plan:
    """Tenants with the same addresses, but that 10.0.2.6 and fd00:2::6 are Red's alone."""
    plan = standard_plan(tenants=tuple(VSIDS), underlay=(underlay,), underlay_mtu=1600, engine=engine)
    return msgspec.structs.replace(plan, vms=tuple(vm for vm in plan.vms if vm.name not in ABSENT))


def _ways() -> Iterator[object]:
    """Both engines with every kind of keys and underlay; each is in the normal run somewhere."""
    usual = {("python", 4, Keys.FIXED), ("python", 6, Keys.FLOW), ("xdp", 4, Keys.FLOW)}
    for engine, underlay, keys in itertools.product(("python", "xdp"), (4, 6), Keys):
        marks = () if (engine, underlay, keys) in usual else pytest.mark.long
        yield pytest.param(
            (keys, underlay, engine), marks=marks, id=f"{keys} keys over IPv{underlay}, {engine}"
        )


@pytest.fixture(scope="module", params=_ways())
def site(
    request: pytest.FixtureRequest, require_tools: Callable[..., None], require_tun: None
) -> Iterator[Site]:
    require_tools(*COMMANDS, "ping", "traceroute", "tshark")
    keys, underlay, engine = request.param
    if engine == "xdp":
        request.getfixturevalue("require_bpf")
    with Datacenter(_plan(underlay, engine)) as lab:
        yield Site(lab, keys, underlay, lab.plan.hosts)


@pytest.fixture(scope="module", params=ENGINES)
def mixed(
    request: pytest.FixtureRequest, require_tools: Callable[..., None], require_tun: None
) -> Iterator[Site]:
    """Open vSwitch on hv1 only; hv2 is a host of our own, with every record."""
    require_tools(*COMMANDS, "ping", "tshark")
    if request.param == "xdp":
        request.getfixturevalue("require_bpf")
    with Datacenter(_plan(4, request.param)) as lab:
        yield Site(lab, Keys.FLOW, 4, lab.plan.hosts[:1])


@both_families
def test_vms_of_two_subnets_reach_each_other_through_the_gateway(site: Site, version: int) -> None:
    said = site.ping("red-web1", site.vm("red-db2").address(version))
    assert "2 received" in said
    assert said.count("ttl=63") == 2


@both_families
def test_vms_of_one_subnet_on_two_hosts_reach_each_other_without_a_hop(site: Site, version: int) -> None:
    said = site.ping("red-web1", site.vm("red-web2").address(version))
    assert "2 received" in said
    assert said.count("ttl=64") == 2


@both_families
def test_gateway_answers_for_itself_and_for_vms_on_other_hosts(site: Site, version: int) -> None:
    asking, other = site.vm("red-web1"), site.vm("red-web2")
    guest = site.lab.vm(asking.name)
    guest.ip(f"neighbour flush dev {VM_INTERFACE}")

    assert "2 received" in site.ping(asking.name, asking.gateway(version))
    assert "2 received" in site.ping(asking.name, other.address(version))

    neighbours = json.loads(guest.run("ip", "-json", "neighbour", "show", "dev", VM_INTERFACE).stdout)
    known = {neighbour["dst"]: neighbour.get("lladdr") for neighbour in neighbours}
    assert known[asking.gateway(version)] == str(gateway_mac(Vsid(asking.vsid)))
    assert known[other.address(version)] == other.mac


@both_families
def test_gateway_is_exactly_one_hop(site: Site, version: int) -> None:
    source, target = site.vm("red-web1"), site.vm("red-db2")
    command = ("traceroute", "-n", "-q", "1", "-w", "2", target.address(version))
    hops = site.lab.vm(source.name).run(*command).stdout.splitlines()[1:]
    assert [hop.split()[1] for hop in hops] == [source.gateway(version), target.address(version)]


@both_families
def test_transfer_by_tcp_from_a_vm_left_at_mtu_1500_arrives_whole(site: Site, version: int) -> None:
    source, target = site.lab.vm("red-web1"), site.lab.vm("red-db2")
    receiver = site.lab.start_python("receiver", target, "gateway.lab.probe", "receive", str(PORT))
    receiver.wait_for("listening")
    address = site.vm("red-db2").address(version)
    sender = (sys.executable, "-m", "gateway.lab.probe", "send", address, str(PORT), str(OCTETS))
    assert "the receiver has the same" in source.run(*sender).stdout


@both_families
def test_packet_that_is_too_large_is_answered_with_the_mtu(site: Site, version: int) -> None:
    source, target = site.vm("blue-web1"), site.vm("blue-db1")
    mtu = CUSTOMER_MTU[site.underlay]
    headers = 28 if version == 4 else 48

    said = site.ping(source.name, target.address(version), "-M", "do", "-s", str(1500 - headers))
    assert f"From {source.gateway(version)} icmp_seq=1 " in said
    assert re.search(rf"mtu ?= ?{mtu}\b", said)
    assert "2 received" in site.ping(
        source.name, target.address(version), "-M", "do", "-s", str(mtu - headers)
    )


@both_families
def test_the_same_address_is_each_tenants_own_vm(site: Site, version: int) -> None:
    address = site.vm("red-db1").address(version)
    assert address == site.vm("blue-db1").address(version)
    with (
        contextlib.closing(_listen(site.lab.vm("red-db1"), address)) as red,
        contextlib.closing(_listen(site.lab.vm("blue-db1"), address)) as blue,
    ):
        _tell(site.lab.vm("red-web2"), red, b"red")
        _tell(site.lab.vm("blue-web2"), blue, b"blue")
        for server in (red, blue):
            server.setblocking(False)
            with pytest.raises(BlockingIOError):
                server.accept()


@both_families
def test_vm_of_one_tenant_does_not_exist_for_the_other(site: Site, version: int) -> None:
    asking = site.vm("blue-web1")
    with site.dropping("no-record", "blue"), site.capture("edge-1") as packets:
        said = site.ping(asking.name, site.vm("red-db2").address(version))
    assert "0 received" in said
    assert f"From {asking.gateway(version)}" in said
    assert re.search("unreachable", said, re.IGNORECASE)
    if version == 4:
        assert {packet.header.vsid for packet in packets if ICMP in packet.frame} == {asking.vsid}


def test_host_cannot_reach_a_tenant_that_it_does_not_serve(site: Site) -> None:
    confused = site.vm("red-db2")
    host = site.hosts[confused.host]
    host.send_as(confused, VSIDS["green"][0])
    try:
        with site.dropping("spoofed-source", "green"):
            assert "0 received" in site.ping(confused.name, site.vm("green-web1").address())
    finally:
        host.send_as(confused, confused.vsid)
    site.ping(confused.name, site.vm("red-web1").address())  # until the switch has let go of its old flows
    assert "2 received" in site.ping(confused.name, site.vm("red-web1").address())


def test_capture_of_the_underlay_is_nvgre_and_each_tenants_frames_are_in_its_own_vsids(site: Site) -> None:
    with site.capture("edge-1") as packets:
        for tenant in ("red", "blue"):
            source, target = site.lab.vm(f"{tenant}-web2"), site.lab.vm(f"{tenant}-db1")
            with contextlib.closing(_listen(target, site.vm(f"{tenant}-db1").address())) as server:
                for _ in range(FLOWS):
                    _tell(source, server, f"I am {tenant}".encode())
            assert "2 received" in site.ping(source.name, site.vm(f"{tenant}-db1").address())

    assert {packet.header.flags for packet in packets} == {0x2000}
    assert {packet.header.protocol for packet in packets} == {0x6558}
    hv1, hv2, edge = (site.pa(name) for name in ("hv1", "hv2", "edge-1"))
    for tenant in ("red", "blue"):
        web, db = VSIDS[tenant]
        told = [
            each
            for each in packets
            if Raw in each.frame and f"I am {tenant}".encode() in each.frame[Raw].load
        ]
        assert {(each.header.source, each.header.destination, each.header.vsid) for each in told} == {
            (hv2, edge, web),
            (edge, hv1, db),
        }
        for each in told:
            routed = each.header.source == edge
            assert each.frame[IP].ttl == (63 if routed else 64)
            ours = each.frame.src if routed else each.frame.dst
            assert ours == str(gateway_mac(Vsid(each.header.vsid)))
        echoes = [each.header for each in packets if ICMP in each.frame and each.header.vsid in VSIDS[tenant]]
        assert {(each.source, each.destination, each.vsid) for each in echoes} == {
            (hv2, edge, web),
            (edge, hv1, db),
            (hv1, edge, db),
            (edge, hv2, web),
        }

    for sender in (hv1, hv2, edge):
        flow_ids = {
            each.header.flow_id for each in packets if each.header.source == sender and TCP in each.frame
        }
        if site.keys is Keys.FIXED:
            assert flow_ids == {0}
        else:
            assert len(flow_ids) > FLOWS / 2


@both_families
def test_hosts_of_both_kinds_serve_one_tenant(mixed: Site, version: int) -> None:
    with mixed.capture("hv1") as packets:
        for source, target in (("red-web1", "red-db2"), ("red-web2", "red-db1"), ("red-web1", "red-web2")):
            assert "2 received" in mixed.ping(source, mixed.vm(target).address(version))
        with contextlib.closing(
            _listen(mixed.lab.vm("red-db2"), mixed.vm("red-db2").address(version))
        ) as server:
            _tell(mixed.lab.vm("red-web1"), server, bytes(100_000))
        with contextlib.closing(
            _listen(mixed.lab.vm("red-db1"), mixed.vm("red-db1").address(version))
        ) as server:
            _tell(mixed.lab.vm("red-web2"), server, bytes(100_000))
    ways = {(packet.header.source, packet.header.destination) for packet in packets}
    # Open vSwitch knows the gateway only; our host has the records, and sends to it directly.
    assert (mixed.pa("hv1"), mixed.pa("edge-1")) in ways
    assert (mixed.pa("hv2"), mixed.pa("hv1")) in ways
    assert (mixed.pa("hv1"), mixed.pa("hv2")) not in ways


def _listen(namespace: Namespace, address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = namespace.call(socket.create_server, (address, PORT), family=family)
    server.settimeout(5)
    return server


def _tell(client: Namespace, server: socket.socket, message: bytes) -> None:
    """Connect to a server by its address, and have that very server receive a message."""
    with client.call(socket.create_connection, server.getsockname()[:2], timeout=5) as sent:
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(5)
            sent.sendall(message)
            sent.shutdown(socket.SHUT_WR)
            with accepted.makefile("rb") as stream:
                assert stream.read() == message
