"""One VM with a rewritten address and an encapsulated one, and VMs at a node that is a gateway too."""

from __future__ import annotations

import msgspec
import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RS, ICMPv6NDOptMTU, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from gateway.forwarding.directory import Put
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import ToProvider, ToUnderlay
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.model import LookupRecord, Network, Port, ProviderGateway, ProviderHost, Translation
from policies.tables import Tables
from tests import networks as n
from tests.rewriting import POOLS, Vm, World, network

WEB5: Vm = ("red", "web", 5)
WEB6: Vm = ("red", "web", 6)
SITED = n.network(n.tenant("red", sites=(n.site("seattle", *n.SEATTLE),)))
EDGE_2 = ProviderAddress.parse("192.0.2.253")
WEB = Vsid(n.VSIDS["red", "web"])
HERE: Vm = ("red", "web", 8)


@pytest.fixture
def world() -> World:
    """Both VMs of web are rewritten in IPv4, and encapsulated in IPv6."""
    world = World([WEB5, WEB6], net=SITED)
    world.nodes["edge-1"].sites.site_is_up(("red", "seattle"), 1400, [n.BY_SEATTLE])
    for vm in (WEB5, WEB6):
        record = world.record(vm, 6)
        pa = n.pa(record.host)
        world.move(msgspec.structs.replace(record, translation=Translation.ENCAP, pa=pa, revision=2))
    return world


@pytest.mark.parametrize(("version", "way"), [(4, ToProvider), (6, ToUnderlay)])
def test_each_of_a_vms_addresses_goes_its_own_way(world: World, version: int, way: type) -> None:
    world.send(WEB5, n.frame("red", ("web", 5), ("web", 6), version=version))
    assert [type(each) for each in world.on_wire] == [way]
    assert [frame.port for _, frame in world.at_ports] == [n.port(*WEB6)]


@pytest.mark.parametrize(("version", "way"), [(4, ToProvider), (6, ToUnderlay)])
def test_each_of_a_vms_addresses_reaches_a_site_its_own_way(world: World, version: int, way: type) -> None:
    layer = IP if version == 4 else IPv6
    header = Ether(dst=str(n.router_mac("red", "web")), src=str(n.mac(*WEB5)))
    world.send(WEB5, header / layer(src=n.ca("web", 5, version), dst=n.on_premise(version=version)) / UDP())
    assert [type(each) for each in world.on_wire] == [way]
    assert len(world.at_sites) == 1


def test_a_vm_is_told_the_mtu_of_each_of_its_addresses_ways(world: World) -> None:
    own = str(n.mac(*WEB5))
    header = Ether(dst="33:33:00:00:00:02", src=own)
    world.send(WEB5, header / IPv6(src="fe80::5", dst="ff02::2", hlim=255) / ICMPv6ND_RS())
    ((_, advertised),) = world.at_ports
    assert Ether(advertised.frame)[ICMPv6NDOptMTU].mtu == 1458

    world.at_ports.clear()
    request = BOOTP(chaddr=bytes(n.mac(*WEB5)), xid=1) / DHCP(options=[("message-type", "discover"), "end"])
    asked = IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / request
    world.send(WEB5, Ether(dst=n.BROADCAST, src=own) / asked)
    ((_, offered),) = world.at_ports
    options: dict[str, int] = dict(
        each[:2] for each in Ether(offered.frame)[DHCP].options if isinstance(each, tuple)
    )
    assert options["interface-mtu"] == 1500


def gateway_with_a_rewritten_vm() -> Forwarder:
    """edge-1, which is a host too, with Red's web 8; Oslo is at edge-2."""
    sites = n.site("seattle", *n.SEATTLE), n.site("oslo", *n.OSLO, gateway="edge-2")
    red = msgspec.structs.replace(n.tenant("red", sites=sites), gateways=("edge-1", "edge-2"))
    base = n.network(red)
    addresses = n.pa("edge-1"), n.pa("edge-1", 6)
    itself = ProviderHost("hv9", addresses, ("red",))
    gateways = (*base.gateways, ProviderGateway("edge-2", (EDGE_2,)))
    net = network(
        Network((*base.hosts, itself), gateways, base.tenants), {**POOLS, "hv9": ("100.64.9.0/24",)}
    )
    ca, mac = CustomerAddress.parse(n.ca("web", 8)), n.mac(*HERE)
    pa = ProviderAddress.parse("100.64.9.1")
    record = LookupRecord(WEB, ca, mac, pa, "hv9", translation=Translation.REWRITE, epoch=1, revision=1)
    directory = n.directory(net)
    directory.apply(Put(record))
    ports = {(WEB, mac): Port("red-web8", "red", WEB, mac, (ca,))}
    return Forwarder(Node("edge-1", addresses, 1500, True, ports, "hv9"), Tables.compile(net), directory)


def from_here(destination: str) -> Packet:
    header = Ether(dst=str(n.router_mac("red", "web")), src=str(n.mac(*HERE)))
    return header / IP(src=n.ca("web", 8), dst=destination) / UDP()


def test_rewritten_vm_at_a_gateway_reaches_another_gateways_site_by_that() -> None:
    emission, inner = n.to_underlay(n.send(gateway_with_a_rewritten_vm(), HERE, from_here("172.17.0.5")))
    assert emission.destination == EDGE_2
    assert inner[IP].ttl == 64


def test_rewritten_vm_at_a_gateway_reaches_encapsulated_ones_by_nvgre() -> None:
    emission, inner = n.to_underlay(n.send(gateway_with_a_rewritten_vm(), HERE, from_here(n.ca("db", 5))))
    assert emission.destination == n.pa("hv2")
    assert inner[IP].ttl == 63
