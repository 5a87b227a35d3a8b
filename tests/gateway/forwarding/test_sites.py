"""Packets to a site and from one: routed through the gateway as the one extra hop."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from gateway.forwarding.pipeline import Forwarder
from policies.addresses import CustomerAddress
from policies.model import AccessRule, Action, AddressHop, CustomerRoute, Endpoint, Limits, SiteHop
from tests import networks as n

DATAGRAM = UDP(sport=1111, dport=2222) / Raw(b"payload")


def at_seattle(
    destination: str | None = None,
    *,
    source: str | None = None,
    version: int = 4,
    upper: Packet = DATAGRAM,
    **fields: object,
) -> Packet:
    """A packet of a host at the site, to the first VM of web unless said otherwise."""
    layer = IP if version == 4 else IPv6
    ends = {"src": source or n.on_premise(version=version), "dst": destination or n.ca("web", 5, version)}
    return layer(**ends, **fields) / upper


def from_vm(
    destination: str | None = None,
    *,
    tenant: str = "red",
    version: int = 4,
    upper: Packet = DATAGRAM,
    **fields: object,
) -> Packet:
    """A frame of that VM for a host at the site, or for another address."""
    layer = IP if version == 4 else IPv6
    header = Ether(dst=str(n.router_mac(tenant, "web")), src=str(n.mac(tenant, "web", 5)))
    ends = {"src": n.ca("web", 5, version), "dst": destination or n.on_premise(version=version)}
    return header / layer(**ends, **fields) / upper


@pytest.mark.parametrize("version", [4, 6])
def test_packet_of_a_vm_goes_into_the_tunnel_one_hop_older(version: int) -> None:
    frame = from_vm(version=version)

    emission, packet = n.to_site(n.receive(n.connected(), frame))

    assert (emission.site, emission.tenant) == (("red", "seattle"), "red")
    assert (packet.ttl if version == 4 else packet.hlim) == 63
    assert bytes(packet.payload) == bytes(frame.payload.payload)


@pytest.mark.parametrize("version", [4, 6])
def test_packet_of_a_site_goes_to_its_vm_one_hop_older(version: int) -> None:
    sent = at_seattle(version=version)

    emission, frame = n.to_underlay(n.through_tunnel(n.connected(), sent))

    assert (emission.destination, emission.vsid, emission.tenant) == (n.pa("hv1"), 5001, "red")
    assert (frame.src, frame.dst) == (str(n.router_mac("red", "web")), str(n.mac("red", "web", 5)))
    packet = frame.payload
    assert (packet.ttl if version == 4 else packet.hlim) == 63
    assert (packet.src, packet.dst) == (sent.src, sent.dst)


def test_packet_from_a_site_is_given_by_its_host_to_the_vm() -> None:
    onward, _ = n.to_underlay(n.through_tunnel(n.connected(), at_seattle()))
    outer = n.from_host("edge-1", to="hv1")
    net = n.network(n.tenant("red", sites=(n.site("seattle", *n.SEATTLE),)))

    emission, _ = n.to_port(n.host("hv1", net).from_underlay(outer, onward.payload, 0))

    assert emission.port == n.port("red", "web", 5)


def test_what_selectors_read_goes_with_the_packet() -> None:
    emission, _ = n.to_site(n.receive(n.connected(), from_vm()))

    facts = emission.facts
    assert n.BY_SEATTLE.admit_outbound(facts)
    assert (facts.source_port, facts.destination_port) == (1111, 2222)


def test_padding_behind_the_packet_goes_no_further() -> None:
    """RFC 4303 section 2.7: traffic flow confidentiality padding."""
    sent = bytes(at_seattle())

    _, frame = n.to_underlay(n.through_tunnel(n.connected(), sent + bytes(200)))

    assert len(frame) == 14 + len(sent)


@pytest.mark.parametrize("tenant", ["red", "blue"])
def test_same_addresses_of_two_tenants_stay_apart(tenant: str) -> None:
    forwarder = n.connected()

    inward, _ = n.to_underlay(n.through_tunnel(forwarder, at_seattle(), tenant=tenant))
    outward, _ = n.to_site(n.receive(forwarder, from_vm(tenant=tenant), tenant=tenant))

    assert (inward.vsid, inward.tenant) == (n.VSIDS[tenant, "web"], tenant)
    assert (outward.site, outward.tenant) == ((tenant, "seattle"), tenant)


def test_packet_outside_the_child_sas_selectors_is_dropped() -> None:
    narrow = n.selectors(["172.16.9.0/24"])

    verdict = n.through_tunnel(n.connected(), at_seattle(), child=narrow)

    assert n.dropped(verdict, DropReason.SELECTOR_MISMATCH) == ()


EVERYTHING = n.selectors(["0.0.0.0/0", "::/0"], ["0.0.0.0/0", "::/0"])


@pytest.mark.parametrize(
    ("source", "version"),
    [
        pytest.param("10.0.1.6", 4, id="VM"),
        pytest.param("10.0.1.99", 4, id="nobody in a subnet"),
        pytest.param("10.0.1.1", 4, id="gateway"),
        pytest.param("10.0.1.255", 4, id="broadcast address of a subnet"),
        pytest.param("172.17.0.5", 4, id="another site"),
        pytest.param("8.8.8.8", 4, id="no route"),
        pytest.param("fd00:1::6", 6, id="VM in IPv6"),
        pytest.param("fd98::5", 6, id="another site in IPv6"),
        pytest.param("2001:db8:77::1", 6, id="no route in IPv6"),
    ],
)
def test_source_that_no_route_leads_to_the_site_for_is_spoofed(source: str, version: int) -> None:
    sites = n.site("seattle", *n.SEATTLE), n.site("oslo", *n.OSLO)
    forwarder = n.connected(n.tenant("red", sites=sites), child=EVERYTHING)
    packet = at_seattle(source=source, version=version)

    verdict = n.through_tunnel(forwarder, packet, child=EVERYTHING)

    assert n.dropped(verdict, DropReason.SPOOFED_SOURCE) == ()


@pytest.mark.parametrize(
    ("source", "version"),
    [
        ("0.0.0.0", 4),
        ("0.1.2.3", 4),
        ("127.0.0.1", 4),
        ("169.254.7.7", 4),
        ("224.0.0.5", 4),
        ("240.0.0.1", 4),
        ("255.255.255.255", 4),
        ("::", 6),
        ("::1", 6),
        ("fe80::1", 6),
        ("fe80::77", 6),
        ("ff02::1", 6),
    ],
)
def test_source_that_is_nobodys_is_spoofed_even_where_the_default_route_leads_to_the_site(
    source: str, version: int
) -> None:
    forwarder = n.connected(
        n.tenant("red", sites=(n.site("seattle", "0.0.0.0/0", "::/0"),)), child=EVERYTHING
    )
    packet = at_seattle(source=source, version=version)

    verdict = n.through_tunnel(forwarder, packet, child=EVERYTHING)

    assert n.dropped(verdict, DropReason.SPOOFED_SOURCE) == ()


@pytest.mark.parametrize(
    ("destination", "version"), [("224.0.0.251", 4), ("255.255.255.255", 4), ("ff02::1", 6), ("fe80::1", 6)]
)
def test_packet_from_a_site_to_a_group_or_to_the_link_is_not_routed(destination: str, version: int) -> None:
    forwarder = n.connected(child=EVERYTHING)
    packet = at_seattle(destination, version=version)

    verdict = n.through_tunnel(forwarder, packet, child=EVERYTHING)

    assert n.dropped(verdict, DropReason.NO_ROUTE) == ()


def test_source_behind_a_default_route_to_the_site_is_admitted() -> None:
    tenant = n.tenant("red", sites=(n.site("seattle", "0.0.0.0/0"),))
    packet = at_seattle(source="8.8.8.8")

    n.to_underlay(n.through_tunnel(n.connected(tenant), packet, child=EVERYTHING))


def test_source_behind_a_machine_at_the_site_is_admitted() -> None:
    """A route through a VM that has moved to the site."""
    router = CustomerAddress.parse("10.0.1.50")
    routes = (
        CustomerRoute(ip_network("10.0.1.50/32"), SiteHop("seattle")),
        CustomerRoute(ip_network("192.168.9.0/24"), AddressHop(router)),
    )
    forwarder = n.connected(
        n.tenant("red", sites=(n.site("seattle", *n.SEATTLE),), routes=routes), child=EVERYTHING
    )

    n.to_underlay(n.through_tunnel(forwarder, at_seattle(source="192.168.9.9"), child=EVERYTHING))
    n.to_site(n.receive(forwarder, from_vm("192.168.9.9")))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x45", bytes(40), bytes(at_seattle())[:-1], bytes(at_seattle(chksum=1))],
    ids=["empty", "one octet", "no version", "cut off", "checksum"],
)
def test_packet_that_is_none_is_malformed(data: bytes) -> None:
    n.dropped(n.through_tunnel(n.connected(), data), DropReason.MALFORMED)


@pytest.mark.parametrize("site", [("red", "oslo"), ("green", "seattle")])
def test_packet_from_a_site_that_is_not_configured_is_dropped(site: tuple[str, str]) -> None:
    forwarder = n.connected()

    verdict = forwarder.from_site(site, bytes(at_seattle()), n.BY_SEATTLE, 0, 0)

    n.dropped(verdict, DropReason.SITE_DOWN)


def test_access_rules_judge_both_ways() -> None:
    rule = AccessRule("in", Action.ALLOW, Endpoint(site="seattle"), Endpoint(subnet="web"))
    tenant = n.tenant("red", sites=(n.site("seattle", *n.SEATTLE),), access=(rule,))
    forwarder = n.connected(tenant)

    n.to_underlay(n.through_tunnel(forwarder, at_seattle()))
    n.to_site(n.receive(forwarder, from_vm()))  # as a reply
    n.dropped(n.through_tunnel(forwarder, at_seattle(n.ca("db", 5))), DropReason.ACCESS_DENIED)
    n.dropped(n.receive(forwarder, from_vm(upper=n.tcp("S"))), DropReason.ACCESS_DENIED)


def test_tenants_rate_holds_for_what_comes_from_its_site() -> None:
    limits = Limits(rate=8, burst=50)
    forwarder = n.connected(n.tenant("red", sites=(n.site("seattle", *n.SEATTLE),), limits=limits))

    n.to_underlay(n.through_tunnel(forwarder, at_seattle()))
    n.dropped(n.through_tunnel(forwarder, at_seattle()), DropReason.RATE_LIMITED)
    n.dropped(n.through_tunnel(forwarder, at_seattle(n.ca("web", 1), upper=ICMP())), DropReason.RATE_LIMITED)


def test_no_route_may_lead_back_into_the_site() -> None:
    forwarder = n.connected(n.tenant("red", sites=(n.site("seattle", *n.SEATTLE),)), child=EVERYTHING)

    verdict = n.through_tunnel(forwarder, at_seattle("172.16.9.9"), child=EVERYTHING)

    n.dropped(verdict, DropReason.LOOP)


def two_sites(*rules: AccessRule) -> Forwarder:
    sites = n.site("seattle", *n.SEATTLE), n.site("oslo", *n.OSLO)
    forwarder = n.connected(n.tenant("red", sites=sites, access=rules), child=EVERYTHING)
    forwarder.sites.site_is_up(("red", "oslo"), 1300, [n.selectors(n.OSLO, ["0.0.0.0/0", "::/0"])])
    return forwarder


@pytest.mark.parametrize(("destination", "version"), [("172.17.0.5", 4), ("fd98::5", 6)])
def test_two_sites_of_a_tenant_reach_each_other(destination: str, version: int) -> None:
    packet = at_seattle(destination, version=version)

    emission, onward = n.to_site(n.through_tunnel(two_sites(), packet, child=EVERYTHING))

    assert emission.site == ("red", "oslo")
    assert (onward.ttl if version == 4 else onward.hlim) == 63


def test_two_sites_reach_each_other_only_as_the_rules_say() -> None:
    rule = AccessRule("in", Action.ALLOW, Endpoint(site="seattle"), Endpoint(subnet="web"))

    verdict = n.through_tunnel(two_sites(rule), at_seattle("172.17.0.5"), child=EVERYTHING)

    n.dropped(verdict, DropReason.ACCESS_DENIED)


@pytest.mark.parametrize("version", [4, 6])
def test_gateway_answers_an_echo_request_through_the_tunnel(version: int) -> None:
    upper = ICMP(id=7) / Raw(b"ping") if version == 4 else ICMPv6EchoRequest(id=7, data=b"ping")
    packet = at_seattle(n.ca("db", 1, version), version=version, upper=upper)

    emission, reply = n.to_site(n.through_tunnel(n.connected(), packet))

    assert emission.site == ("red", "seattle")
    assert (reply.src, reply.dst) == (n.ca("db", 1, version), n.on_premise(version=version))
    assert reply.haslayer(ICMPv6EchoReply) if version == 6 else reply[ICMP].type == 0


def test_answer_that_the_tunnel_does_not_carry_is_not_given() -> None:
    forwarder = n.connected()
    forwarder.sites.site_is_up(("red", "seattle"), 1400, [n.selectors(["172.16.9.0/24"])])
    packet = at_seattle(n.ca("web", 1), upper=ICMP())

    n.dropped(n.through_tunnel(forwarder, packet), DropReason.OUTSIDE_SELECTORS)
    forwarder.sites.site_is_down(("red", "seattle"))
    n.dropped(n.through_tunnel(forwarder, packet), DropReason.SITE_DOWN)


def test_site_without_a_tunnel_is_wanted_by_each_packet_for_it() -> None:
    wanted: list[tuple[str, str]] = []
    forwarder = n.connected()
    forwarder.sites.on_wanted = wanted.append
    n.to_site(n.receive(forwarder, from_vm()))
    forwarder.sites.site_is_down(("red", "seattle"))

    for _ in range(2):
        n.dropped(n.receive(forwarder, from_vm()), DropReason.SITE_DOWN)

    assert wanted == [("red", "seattle")] * 2


def test_packet_that_may_not_pass_wants_no_site() -> None:
    wanted: list[tuple[str, str]] = []
    denied = AccessRule("nothing", Action.DENY)
    forwarder = n.gateway(
        n.network(n.tenant("red", sites=(n.site("seattle", *n.SEATTLE),), access=(denied,)))
    )
    forwarder.sites.on_wanted = wanted.append

    n.dropped(n.receive(forwarder, from_vm()), DropReason.ACCESS_DENIED)

    assert wanted == []


@pytest.mark.parametrize(("ecn", "outer", "goes"), [(2, 0, 2), (2, 3, 3), (1, 3, 3), (0, 0, 0), (2, 1, 1)])
def test_congestion_in_the_tunnel_is_seen_behind_it(ecn: int, outer: int, goes: int) -> None:
    """RFC 6040 section 4.2."""
    emission, frame = n.to_underlay(n.through_tunnel(n.connected(), at_seattle(tos=ecn), ecn=outer))

    assert (emission.ecn, frame[IP].tos & 3) == (goes, goes)


def test_congestion_that_a_packet_from_a_site_cannot_say_is_a_loss() -> None:
    n.dropped(n.through_tunnel(n.connected(), at_seattle(), ecn=3), DropReason.CONGESTION)


@pytest.mark.parametrize("ecn", range(4))
def test_congestion_field_is_copied_to_the_outside_of_the_tunnel(ecn: int) -> None:
    """RFC 6040 section 4.1, normal mode."""
    emission, packet = n.to_site(n.receive(n.connected(), from_vm(tos=ecn)))

    assert (emission.ecn, packet.tos & 3) == (ecn, ecn)


def test_meters_count_a_site_each_way() -> None:
    forwarder = n.connected()
    inward, outward = at_seattle(), from_vm()
    for _ in range(3):
        n.to_underlay(n.through_tunnel(forwarder, inward))
    n.to_site(n.receive(forwarder, outward))

    site, web = forwarder.site_meters["red", "seattle"], forwarder.meters[n.port("red", "web", 5)[0]]
    assert (site.sent_packets, site.sent_octets) == (3, 3 * len(inward))
    assert (site.received_packets, site.received_octets) == (1, len(outward) - 14)
    assert (web.sent_packets, web.received_packets) == (1, 3)
    assert forwarder.site_meters["blue", "seattle"].sent_packets == 0


def established(version: int = 4) -> Packet:
    return at_seattle(version=version, upper=n.tcp("A", size=8))


def test_known_flow_ends_with_its_tunnel_and_is_decided_anew_by_the_next() -> None:
    forwarder = n.connected()
    frame = from_vm(upper=n.tcp("A", size=1350), flags="DF")
    for _ in range(3):
        n.to_site(n.receive(forwarder, frame))
    assert len(forwarder.flows) == 1

    forwarder.sites.site_is_up(("red", "seattle"), 1300, [n.BY_SEATTLE])
    n.dropped(n.receive(forwarder, frame), DropReason.TOO_BIG)
    forwarder.sites.site_is_up(("red", "seattle"), 1400, [n.selectors(["172.16.9.0/24"])])
    n.dropped(n.receive(forwarder, frame), DropReason.OUTSIDE_SELECTORS)
    forwarder.sites.site_is_down(("red", "seattle"))
    n.dropped(n.receive(forwarder, frame), DropReason.SITE_DOWN)
    forwarder.sites.site_is_up(("red", "seattle"), 1400, [n.BY_SEATTLE])
    n.to_site(n.receive(forwarder, frame))


def test_saying_again_that_a_site_is_up_forgets_nothing() -> None:
    forwarder = n.connected()
    before = forwarder.sites.find(("red", "seattle"))

    forwarder.sites.site_is_up(("red", "seattle"), 1400, [n.selectors()])

    assert forwarder.sites.find(("red", "seattle")) is before


@pytest.mark.parametrize("version", [4, 6])
def test_known_flow_from_a_site_is_still_held_to_its_child_sa(version: int) -> None:
    forwarder = n.connected()
    for _ in range(3):
        n.to_underlay(n.through_tunnel(forwarder, established(version)))
    assert len(forwarder.flows) == 1

    other = n.selectors(["172.16.9.0/24"])
    n.dropped(n.through_tunnel(forwarder, established(version), child=other), DropReason.SELECTOR_MISMATCH)


def test_known_flow_of_one_tenants_site_is_none_of_the_others() -> None:
    forwarder = n.connected()
    for tenant in ("red", "blue") * 3:
        emission, _ = n.to_underlay(n.through_tunnel(forwarder, established(), tenant=tenant))
        assert emission.vsid == n.VSIDS[tenant, "web"]
