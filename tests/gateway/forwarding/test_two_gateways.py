"""A tenant with two gateways: each site's tunnel ends at one of them, and the other passes packets on."""

from __future__ import annotations

import msgspec
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import OuterHeader, ToUnderlay
from policies.addresses import ProviderAddress
from policies.model import Network, ProviderGateway
from policies.tables import Tables
from tests import networks as n

EDGE_2 = ProviderAddress.parse("192.0.2.253")
ANYWHERE = n.selectors(n.OSLO, ["0.0.0.0/0", "::/0"])


def network() -> Network:
    """Seattle is at edge-1 and Oslo at edge-2."""
    sites = n.site("seattle", *n.SEATTLE), n.site("oslo", *n.OSLO, gateway="edge-2")
    red = msgspec.structs.replace(n.tenant("red", sites=sites), gateways=("edge-1", "edge-2"))
    net = n.network(red)
    return msgspec.structs.replace(net, gateways=(*net.gateways, ProviderGateway("edge-2", (EDGE_2,))))


def edge_1() -> Forwarder:
    forwarder = n.gateway(network())
    forwarder.sites.site_is_up(("red", "seattle"), 1400, [n.selectors(local=["0.0.0.0/0"])])
    return forwarder


def edge_2() -> Forwarder:
    net = network()
    forwarder = Forwarder(Node("edge-2", (EDGE_2,), 1500, True, {}), Tables.compile(net), n.directory(net))
    forwarder.sites.site_is_up(("red", "oslo"), 1300, [ANYWHERE])
    return forwarder


def for_oslo(size: int = 20, **fields: object) -> Packet:
    header = Ether(dst=str(n.router_mac("red", "web")), src=str(n.mac("red", "web", 5)))
    datagram = UDP(sport=1, dport=2) / Raw(bytes(size))
    return header / IP(src=n.ca("web", 5), dst="172.17.0.5", **fields) / datagram


def from_edge_1(emission: ToUnderlay) -> OuterHeader:
    return OuterHeader(emission.source, emission.destination)


def test_host_sends_to_the_gateway_that_has_the_tunnel() -> None:
    host = n.host("hv1", network())

    emission, inner = n.to_underlay(n.send(host, ("red", "web", 5), for_oslo()))

    assert emission.destination == EDGE_2
    assert bytes(inner) == bytes(for_oslo())


def test_gateway_passes_on_to_the_one_that_has_the_tunnel_which_is_the_one_hop() -> None:
    passed_on, inner = n.to_underlay(n.receive(edge_1(), for_oslo()))
    assert passed_on.destination == EDGE_2
    assert bytes(inner) == bytes(for_oslo())

    emission, packet = n.to_site(edge_2().from_underlay(from_edge_1(passed_on), passed_on.payload, 0))

    assert (emission.site, packet.ttl) == (("red", "oslo"), 63)


def test_sender_is_told_by_the_gateway_that_has_the_tunnel() -> None:
    passed_on, _ = n.to_underlay(n.receive(edge_1(), for_oslo(1300, flags="DF")))

    verdict = edge_2().from_underlay(from_edge_1(passed_on), passed_on.payload, 0)

    (told,) = n.dropped(verdict, DropReason.TOO_BIG)
    assert isinstance(told, ToUnderlay)
    assert (told.source, told.destination) == (EDGE_2, n.pa("hv1"))
    frame = Ether(told.payload[8:])
    assert (frame.dst, frame[ICMP].nexthopmtu) == (str(n.mac("red", "web", 5)), 1300)


def test_two_gateways_that_disagree_do_not_throw_a_packet_at_each_other() -> None:
    outer = OuterHeader(EDGE_2, n.pa("edge-1"))

    verdict = edge_1().from_underlay(outer, n.nvgre("red", "web", for_oslo()), 0)

    n.dropped(verdict, DropReason.SITE_DOWN)


def test_sites_of_two_gateways_reach_each_other_one_hop_apart() -> None:
    child = n.selectors(local=["0.0.0.0/0"])
    packet = bytes(IP(src=n.on_premise(), dst="172.17.0.5") / UDP())
    passed_on, inner = n.to_underlay(edge_1().from_site(("red", "seattle"), packet, child, 0, 0))
    assert bytes(inner.payload) == packet

    emission, onward = n.to_site(edge_2().from_underlay(from_edge_1(passed_on), passed_on.payload, 0))

    assert (emission.site, onward.ttl) == (("red", "oslo"), 63)


def test_site_of_a_tenant_without_virtual_subnets_cannot_be_passed_on() -> None:
    (red,) = network().tenants
    net = msgspec.structs.replace(network(), tenants=(msgspec.structs.replace(red, subnets=()),))
    forwarder = n.gateway(net)
    child = n.selectors(local=["0.0.0.0/0"])
    packet = bytes(IP(src=n.on_premise(), dst="172.17.0.5") / UDP())

    verdict = forwarder.from_site(("red", "seattle"), packet, child, 0, 0)

    n.dropped(verdict, DropReason.SITE_DOWN)


def test_site_of_another_gateway_may_not_come_in_here() -> None:
    packet = bytes(IP(src="172.17.0.5", dst=n.ca("web", 5)) / UDP())

    verdict = edge_1().from_site(("red", "oslo"), packet, ANYWHERE, 0, 0)

    n.dropped(verdict, DropReason.SITE_DOWN)
