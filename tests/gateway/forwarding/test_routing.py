"""Between virtual subnets of a tenant: longest match, one hop, and what cannot be routed."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.layers.l2 import ARP
from scapy.packet import Packet

from gateway.forwarding.directory import Delete, Put
from gateway.forwarding.drops import DropReason
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Answer
from policies.addresses import CustomerAddress, MacAddress, Vsid
from policies.model import AddressHop, CustomerRoute, LookupRecord, Network, NextHop, SiteHop, SubnetHop
from tests import networks as n


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("pa_version", [4, 6])
def test_gateway_routes_between_subnets_in_every_mix_of_families(version: int, pa_version: int) -> None:
    frame = n.frame("red", ("web", 5), ("db", 5), version=version)

    verdict = n.receive(n.gateway(pa_version=pa_version), frame, version=pa_version)

    emission, inner = n.to_underlay(verdict)
    assert emission.vsid == n.VSIDS["red", "db"]
    assert emission.source == n.pa("edge-1", pa_version)
    assert emission.destination == n.pa("hv2", pa_version)
    assert inner.dst == str(n.mac("red", "db", 5))
    assert inner.src == str(n.router_mac("red", "db"))
    expected = frame.copy()
    if version == 4:
        expected[IP].ttl -= 1
    else:
        expected[IPv6].hlim -= 1
    assert bytes(inner.payload) == bytes(expected.payload)


def test_red_and_blue_with_the_same_addresses_never_meet() -> None:
    forwarder = n.gateway()
    for name in ("red", "blue"):
        emission, inner = n.to_underlay(
            n.receive(forwarder, n.frame(name, ("web", 5), ("db", 5)), tenant=name)
        )
        assert (emission.tenant, emission.vsid) == (name, n.VSIDS[name, "db"])
        assert inner.dst == str(n.mac(name, "db", 5))


def test_record_of_another_tenant_is_never_used() -> None:
    forwarder = n.gateway()
    ca = CustomerAddress.parse("10.0.2.77")
    forwarder.directory.apply(
        Put(
            LookupRecord(Vsid(n.VSIDS["blue", "db"]), ca, MacAddress(b"\x02\0\0\1\1\x77"), n.pa("hv2"), "hv2")
        )
    )
    frame = n.frame("red", ("web", 5), ("db", 0x77))
    frame[IP].dst = str(ca)

    told = n.dropped(n.receive(forwarder, frame), DropReason.NO_RECORD)

    emission, inner = n.to_underlay(Answer(told))
    assert emission.tenant == "red"
    assert (inner[ICMP].type, inner[ICMP].code) == (3, 1)


def test_each_packet_follows_the_record_as_it_is_now() -> None:
    forwarder = n.gateway()
    frame = n.frame("red", ("web", 5), ("db", 5))
    vsid, ca = Vsid(n.VSIDS["red", "db"]), CustomerAddress.parse(n.ca("db", 5))
    record = forwarder.directory.find(vsid, ca)
    assert record is not None

    assert n.to_underlay(n.receive(forwarder, frame))[0].destination == n.pa("hv2")
    forwarder.directory.apply(Put(LookupRecord(vsid, ca, record.mac, n.pa("hv1"), "hv1", epoch=1)))
    assert n.to_underlay(n.receive(forwarder, frame))[0].destination == n.pa("hv1")
    forwarder.directory.apply(Delete(vsid, ca))
    n.dropped(n.receive(forwarder, frame), DropReason.NO_RECORD)


UNREACHABLE = [
    pytest.param("10.0.2.99", DropReason.NO_RECORD, 1, id="nobody has it"),
    pytest.param("192.168.7.7", DropReason.NO_ROUTE, 0, id="no route"),
    pytest.param("172.16.0.5", DropReason.SITE_DOWN, 0, id="site without a tunnel"),
]


@pytest.mark.parametrize(("destination", "reason", "code"), UNREACHABLE)
def test_sender_is_told_what_cannot_be_reached(destination: str, reason: DropReason, code: int) -> None:
    forwarder = n.gateway(n.network(n.tenant("red", sites=(n.site("seattle", "172.16.0.0/16"),))))
    frame = n.frame("red", ("web", 5), ("db", 5))
    frame[IP].dst = destination

    emission, inner = n.to_underlay(Answer(n.dropped(n.receive(forwarder, frame), reason)))

    assert (emission.destination, emission.vsid) == (n.pa("hv1"), n.VSIDS["red", "web"])
    assert (inner.src, inner.dst) == (str(n.router_mac("red", "web")), str(n.mac("red", "web", 5)))
    assert (inner[IP].src, inner[IP].dst) == (n.ca("web", 1), n.ca("web", 5))
    assert (inner[ICMP].type, inner[ICMP].code) == (3, code)
    assert bytes(inner[ICMP].payload) == bytes(frame[IP])


@pytest.mark.parametrize(
    ("destination", "reason", "code"),
    [
        pytest.param("fd00:2::99", DropReason.NO_RECORD, 3, id="nobody has it"),
        pytest.param("2001:db8::99", DropReason.NO_ROUTE, 0, id="no route"),
        pytest.param("fd00:99::5", DropReason.SITE_DOWN, 0, id="site without a tunnel"),
    ],
)
def test_ipv6_sender_is_told_what_cannot_be_reached(destination: str, reason: DropReason, code: int) -> None:
    forwarder = n.gateway(n.network(n.tenant("red", sites=(n.site("seattle", "fd00:99::/48"),))))
    frame = n.frame("red", ("web", 5), ("db", 5), version=6)
    frame[IPv6].dst = destination

    _, inner = n.to_underlay(Answer(n.dropped(n.receive(forwarder, frame), reason)))

    assert (inner[IPv6].src, inner[IPv6].dst) == (n.ca("web", 1, 6), n.ca("web", 5, 6))
    assert inner[ICMPv6DestUnreach].code == code


@pytest.mark.parametrize("destination", ["fe80::99", "ff02::1"])
def test_what_belongs_to_a_link_is_not_routed_and_nobody_is_told(destination: str) -> None:
    frame = n.frame("red", ("web", 5), ("db", 5), version=6)
    frame[IPv6].dst = destination

    assert n.dropped(n.receive(n.gateway(), frame), DropReason.NO_ROUTE) == ()


@pytest.mark.parametrize("destination", ["224.0.0.251", "255.255.255.255"])
def test_ipv4_group_is_not_routed_and_nobody_is_told(destination: str) -> None:
    frame = n.frame("red", ("web", 5), ("db", 5))
    frame[IP].dst = destination

    assert n.dropped(n.receive(n.gateway(), frame), DropReason.NO_ROUTE) == ()


FIREWALL = AddressHop(CustomerAddress.parse(n.ca("db", 5)))


def behind_a_firewall() -> Network:
    """192.168.0.0/16 lies behind Red's db .5, a VM on hv2."""
    route = CustomerRoute(ip_network("192.168.0.0/16"), FIREWALL)
    return n.network(n.tenant("red", routes=(route,)), n.tenant("blue"))


def from_behind(sender: tuple[str, int]) -> Packet:
    frame = n.frame("red", sender, ("web", 5))
    frame[IP].src = "192.168.7.7"
    return frame


def test_vm_that_routes_lead_to_sends_for_what_lies_behind_it() -> None:
    net = behind_a_firewall()

    emission, inner = n.to_underlay(n.send(n.host("hv2", net), ("red", "db", 5), from_behind(("db", 5))))

    assert (emission.destination, inner[IP].src) == (n.pa("hv1"), "192.168.7.7")
    delivered, _ = n.to_port(n.receive(n.host("hv1", net), inner, sender="hv2", subnet="web"))
    assert delivered.port == n.port("red", "web", 5)


def test_no_other_vm_sends_for_what_lies_behind_a_firewall() -> None:
    net = behind_a_firewall()

    verdict = n.send(n.host("hv2", net), ("red", "web", 6), from_behind(("web", 6)))

    n.dropped(verdict, DropReason.SPOOFED_SOURCE)
    without_route = n.send(n.host("hv2"), ("red", "db", 5), from_behind(("db", 5)))
    n.dropped(without_route, DropReason.SPOOFED_SOURCE)


@pytest.mark.parametrize(
    "nobody", ["224.0.0.5", "255.255.255.255", "127.0.0.1", "0.1.2.3", "169.254.1.1", "240.0.0.1"]
)
def test_vm_behind_which_everything_lies_is_no_group_and_nobody_all_the_same(nobody: str) -> None:
    route = CustomerRoute(ip_network("0.0.0.0/0"), FIREWALL)
    net = n.network(n.tenant("red", routes=(route,)), n.tenant("blue"))
    frame = from_behind(("db", 5))
    frame[IP].src = nobody

    n.dropped(n.send(n.host("hv2", net), ("red", "db", 5), frame), DropReason.SPOOFED_SOURCE)
    n.dropped(n.receive(n.gateway(net), frame, sender="hv2", subnet="db"), DropReason.SPOOFED_SOURCE)


def test_firewall_asks_its_neighbours_with_an_address_of_its_own() -> None:
    net = behind_a_firewall()
    request = n.arp_request("red", ("db", 5), n.ca("db", 1))
    n.to_port(n.send(n.host("hv2", net), ("red", "db", 5), request))

    request[ARP].psrc = "192.168.7.7"

    n.dropped(n.send(n.host("hv2", net), ("red", "db", 5), request), DropReason.SPOOFED_SOURCE)


def with_route(prefix: str, hop: NextHop) -> Forwarder:
    route = CustomerRoute(ip_network(prefix), hop)
    return n.gateway(n.network(n.tenant("red", routes=(route,), sites=(n.site("seattle", "172.16.0.0/16"),))))


def to(destination: str) -> Packet:
    frame = n.frame("red", ("web", 5), ("db", 5))
    frame[IP].dst = destination
    return frame


def test_next_hop_that_is_a_vm_gets_the_packet_unchanged_but_for_one_hop() -> None:
    forwarder = with_route("192.168.0.0/16", AddressHop(CustomerAddress.parse(n.ca("db", 5))))

    emission, inner = n.to_underlay(n.receive(forwarder, to("192.168.7.7")))

    assert (emission.vsid, emission.destination) == (n.VSIDS["red", "db"], n.pa("hv2"))
    assert inner.dst == str(n.mac("red", "db", 5))
    assert (inner[IP].dst, inner[IP].ttl) == ("192.168.7.7", 63)


def test_host_gives_a_vm_that_is_a_next_hop_what_is_for_others() -> None:
    hop = AddressHop(CustomerAddress.parse(n.ca("db", 5)))
    net = n.network(n.tenant("red", routes=(CustomerRoute(ip_network("192.168.0.0/16"), hop),)))

    emission, _ = n.to_underlay(n.send(n.host("hv1", net), ("red", "web", 5), to("192.168.7.7")))
    verdict = n.host("hv2", net).from_underlay(n.from_host("hv1", to="hv2"), emission.payload, now=0)

    delivered, inner = n.to_port(verdict)
    assert delivered.port == n.port("red", "db", 5)
    assert inner[IP].dst == "192.168.7.7"


@pytest.mark.parametrize(
    ("hop", "reason"),
    [
        pytest.param("10.0.2.99", DropReason.NO_RECORD, id="that nobody has"),
        pytest.param("172.16.0.5", DropReason.SITE_DOWN, id="at a site"),
        pytest.param("192.168.9.9", DropReason.NO_ROUTE, id="behind itself"),
        pytest.param("203.0.113.99", DropReason.NO_ROUTE, id="that no route reaches"),
    ],
)
def test_next_hop_address_is_resolved_once(hop: str, reason: DropReason) -> None:
    forwarder = with_route("192.168.0.0/16", AddressHop(CustomerAddress.parse(hop)))

    assert len(n.dropped(n.receive(forwarder, to("192.168.7.7")), reason)) == 1


def test_longest_prefix_decides() -> None:
    """The site has 10.0.0.0/16, the virtual subnets are inside it, and one address is back at the site."""
    address = CustomerRoute(ip_network("10.0.2.6/32"), SiteHop("seattle"))
    forwarder = n.gateway(
        n.network(n.tenant("red", sites=(n.site("seattle", "10.0.0.0/16"),), routes=(address,)))
    )

    assert n.to_underlay(n.receive(forwarder, to("10.0.2.5")))[0].destination == n.pa("hv2")
    n.dropped(n.receive(forwarder, to("10.0.2.6")), DropReason.SITE_DOWN)
    n.dropped(n.receive(forwarder, to("10.0.3.5")), DropReason.SITE_DOWN)


def test_address_of_a_sites_prefix_may_be_in_a_subnet() -> None:
    """The other way round: one address of a site lives in the datacenter."""
    hop = SubnetHop("db", Vsid(n.VSIDS["red", "db"]))
    forwarder = with_route("172.16.0.5/32", hop)
    ca = CustomerAddress.parse("172.16.0.5")
    forwarder.directory.apply(
        Put(LookupRecord(hop.vsid, ca, MacAddress(b"\x02\0\0\0\1\x55"), n.pa("hv2"), "hv2"))
    )

    emission, inner = n.to_underlay(n.receive(forwarder, to("172.16.0.5")))

    assert (emission.vsid, inner.dst) == (hop.vsid, "02:00:00:00:01:55")


def test_record_at_the_gateways_own_address_is_a_loop() -> None:
    forwarder = n.gateway()
    vsid, ca = Vsid(n.VSIDS["red", "db"]), CustomerAddress.parse(n.ca("db", 5))
    forwarder.directory.apply(Put(LookupRecord(vsid, ca, n.mac("red", "db", 5), n.pa("edge-1"), "edge-1")))

    assert n.dropped(n.receive(forwarder, to(n.ca("db", 5))), DropReason.LOOP) == ()


def test_provider_address_of_a_family_that_we_have_none_of_is_not_reached() -> None:
    forwarder = n.gateway(pa_version=6)
    node = type(forwarder.node)("edge-1", (n.pa("edge-1"),), 1500, True, {})
    forwarder = Forwarder(node, forwarder.tables, forwarder.directory)

    n.dropped(n.receive(forwarder, to(n.ca("db", 5))), DropReason.NO_PROVIDER_ADDRESS)
