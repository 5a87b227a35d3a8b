"""When a packet's sender is told what became of it, and when nobody is."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.packet import Packet, Raw

from gateway.forwarding.directory import Delete
from gateway.forwarding.drops import DropReason
from gateway.forwarding.notices import BURST, RATE, Notices
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Answer, Drop
from gateway.packets import ip
from policies.addresses import CustomerAddress, Vsid
from policies.model import Network, Tenant, VirtualSubnet
from tests import networks as n

QUOTE = IP(src=n.ca("db", 5), dst=n.ca("web", 5)) / UDP(sport=1, dport=2) / Raw(bytes(8))
QUOTE6 = IPv6(src=n.ca("db", 5, 6), dst=n.ca("web", 5, 6)) / UDP(sport=1, dport=2)


def expiring(upper: Packet, version: int = 4, **fields: object) -> Packet:
    field = "ttl" if version == 4 else "hlim"
    return n.frame("red", ("web", 5), ("db", 5), version=version, upper=upper, **{field: 1}, **fields)


@pytest.mark.parametrize("icmp_type", [3, 4, 5, 11, 12])
def test_no_error_is_sent_about_an_icmp_error(icmp_type: int) -> None:
    frame = expiring(ICMP(type=icmp_type, code=0) / QUOTE)

    assert n.dropped(n.receive(n.gateway(), frame), DropReason.HOP_LIMIT) == ()


@pytest.mark.parametrize("message", [ICMPv6TimeExceeded(), ICMPv6PacketTooBig(mtu=1280)])
def test_no_error_is_sent_about_an_icmpv6_error(message: Packet) -> None:
    assert n.dropped(n.receive(n.gateway(), expiring(message / QUOTE6, 6)), DropReason.HOP_LIMIT) == ()


@pytest.mark.parametrize("upper", [ICMP(type=8), UDP(sport=1, dport=2)])
def test_errors_are_sent_about_echo_requests_and_data(upper: Packet) -> None:
    assert len(n.dropped(n.receive(n.gateway(), expiring(upper)), DropReason.HOP_LIMIT)) == 1


def test_errors_are_sent_about_icmpv6_echo_requests() -> None:
    frame = expiring(ICMPv6EchoRequest(), 6)

    assert len(n.dropped(n.receive(n.gateway(), frame), DropReason.HOP_LIMIT)) == 1


def test_no_error_is_sent_about_a_later_fragment() -> None:
    frame = expiring(Raw(bytes(32)), frag=4, proto=17)

    assert n.dropped(n.receive(n.gateway(), frame), DropReason.HOP_LIMIT) == ()


def test_error_is_sent_about_a_first_fragment() -> None:
    frame = expiring(UDP(sport=1, dport=2, len=100) / Raw(bytes(24)), flags="MF")

    assert len(n.dropped(n.receive(n.gateway(), frame), DropReason.HOP_LIMIT)) == 1


def test_no_error_is_sent_about_a_later_ipv6_fragment() -> None:
    frame = expiring(IPv6ExtHdrFragment(nh=17, offset=4, m=0, id=9) / Raw(bytes(32)), 6)

    assert n.dropped(n.receive(n.gateway(), frame), DropReason.HOP_LIMIT) == ()


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("to", ["group", "machine"])
def test_no_error_is_sent_about_a_frame_to_everybody(version: int, to: str) -> None:
    """Also where only the frame is for everybody and the packet in it is not."""
    net = n.network(n.tenant("red", broadcast=True))
    frame = n.frame(
        "red", ("web", 5), ("web", 6), version=version, upper=UDP(sport=1, dport=2) / Raw(bytes(1452))
    )
    frame.dst = n.BROADCAST if version == 4 else "33:33:00:00:00:fb"
    if version == 4:
        frame[IP].flags = "DF"
    if to == "group":
        frame[IP if version == 4 else IPv6].dst = "224.0.0.251" if version == 4 else "ff02::fb"

    assert n.dropped(n.receive(n.gateway(net), frame), DropReason.TOO_BIG) == ()
    assert n.dropped(n.send(n.host("hv1", net), ("red", "web", 5), frame), DropReason.TOO_BIG) == ()


def test_frame_that_was_routed_before_is_told_of_in_its_senders_subnet() -> None:
    """A notice to the router's MAC would reach nobody."""
    frame = n.frame("red", ("web", 5), ("db", 5), upper=UDP(sport=1, dport=2) / Raw(bytes(1472)), flags="DF")
    frame.src, frame.dst = str(n.router_mac("red", "db")), str(n.mac("red", "db", 5))

    told = n.dropped(n.receive(n.gateway(), frame, subnet="db"), DropReason.TOO_BIG)

    emission, inner = n.to_underlay(Answer(told))
    assert (emission.destination, emission.vsid) == (n.pa("hv1"), n.VSIDS["red", "web"])
    assert (inner.dst, inner[IP].dst) == (str(n.mac("red", "web", 5)), n.ca("web", 5))

    # Whoever has no record is told nothing.
    forwarder = n.gateway()
    forwarder.directory.apply(Delete(Vsid(n.VSIDS["red", "web"]), CustomerAddress.parse(n.ca("web", 5))))
    assert n.dropped(n.receive(forwarder, frame, subnet="db"), DropReason.TOO_BIG) == ()


def burst_of(forwarder: Forwarder, count: int, now: float, tenant: str = "red") -> int:
    """How many of so many expiring packets are told of."""
    frame = n.frame(tenant, ("web", 5), ("db", 5), ttl=1)
    verdicts = [n.receive(forwarder, frame, tenant=tenant, now=now) for _ in range(count)]
    return sum(len(verdict.emissions) for verdict in verdicts if isinstance(verdict, Drop))


def test_errors_are_limited_for_each_tenant_and_every_packet_is_still_counted() -> None:
    forwarder = n.gateway()

    assert burst_of(forwarder, 300, now=0) == BURST
    assert burst_of(forwarder, 10, now=0, tenant="blue") == 10
    assert burst_of(forwarder, 300, now=1) == RATE
    assert forwarder.drops.counts[DropReason.HOP_LIMIT, "red"] == 600
    assert (forwarder.notices.sent, forwarder.notices.suppressed) == (
        BURST + RATE + 10,
        300 - BURST + 300 - RATE,
    )


def test_subnet_without_a_gateway_address_of_the_family_tells_nothing() -> None:
    red = n.tenant("red")
    subnets = tuple(
        VirtualSubnet(each.name, each.vsid, each.prefixes, each.gateway_addresses[1:]) for each in red.subnets
    )
    net = n.network(Tenant(red.name, red.gateways, subnets))
    assert isinstance(net, Network)

    assert n.dropped(n.receive(n.gateway(net), expiring(UDP())), DropReason.HOP_LIMIT) == ()
    assert len(n.dropped(n.receive(n.gateway(net), expiring(UDP(), 6)), DropReason.HOP_LIMIT)) == 1


@pytest.mark.parametrize(
    ("version", "size", "quoted"),
    [(4, 100, 128), (4, 520, 548), (4, 1200, 548), (6, 100, 148), (6, 1184, 1232), (6, 1300, 1232)],
)
def test_error_quotes_as_much_as_its_size_allows(version: int, size: int, quoted: int) -> None:
    """576 octets for IPv4 (RFC 1812 section 4.3.2.3), 1280 for IPv6 (RFC 4443 section 2.4 (c))."""
    frame = expiring(UDP(sport=1, dport=2) / Raw((bytes(range(256)) * 6)[:size]), version)
    headers = 8 + 14 + (20 if version == 4 else 40) + 8

    emission, _ = n.to_underlay(Answer(n.dropped(n.receive(n.gateway(), frame), DropReason.HOP_LIMIT)))

    assert emission.payload[headers:] == bytes(frame.payload)[:quoted]


def test_tenant_that_is_gone_is_forgotten() -> None:
    notices = Notices()
    for tenant in ("red", "blue"):
        facts = ip.decode_untrusted(bytes(QUOTE))
        assert (
            notices.compose(tenant, facts, CustomerAddress.parse(n.ca("web", 1)), lambda _: b"told", 0.0)
            == b"told"
        )

    notices.keep_only({"blue"})

    assert list(notices._buckets) == ["blue"]
