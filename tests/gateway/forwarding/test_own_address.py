"""What is sent to the gateway itself."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from gateway.forwarding.verdicts import Answer
from policies.model import Limits
from tests import networks as n


def echo(destination: str, version: int = 4, **ip_fields: object) -> Packet:
    """An echo request from web 5, through the router of its subnet."""
    request = ICMP(type=8, id=7, seq=3) if version == 4 else ICMPv6EchoRequest(id=7, seq=3)
    frame = n.frame(
        "red", ("web", 5), ("db", 1), version=version, upper=request / Raw(b"are you there?"), **ip_fields
    )
    frame[IP if version == 4 else IPv6].dst = destination
    return frame


def test_echo_counts_against_the_tenants_rate() -> None:
    request = echo(n.ca("web", 1))
    size = len(request[IP])
    net = n.network(n.tenant("red", limits=Limits(rate=8, burst=2 * size)), n.tenant("blue"))
    forwarder = n.gateway(net)

    for _ in range(2):
        n.to_underlay(n.receive(forwarder, request))
    n.dropped(n.receive(forwarder, request), DropReason.RATE_LIMITED)


@pytest.mark.parametrize("destination", [n.ca("web", 1), n.ca("db", 1)])
@pytest.mark.parametrize("ttl", [64, 1])
@pytest.mark.parametrize("at", ["gateway", "host"])
def test_echo_of_the_gateways_address_in_each_subnet_is_answered(destination: str, ttl: int, at: str) -> None:
    """A last hop is enough: nothing is forwarded (RFC 1812 section 5.3.1)."""
    request = echo(destination, ttl=ttl)

    if at == "gateway":
        emission, reply = n.to_underlay(n.receive(n.gateway(), request))
        assert (emission.destination, emission.vsid) == (n.pa("hv1"), n.VSIDS["red", "web"])
    else:
        delivered, reply = n.to_port(n.send(n.host("hv1"), ("red", "web", 5), request))
        assert delivered.port == n.port("red", "web", 5)

    assert (reply.src, reply.dst) == (str(n.router_mac("red", "web")), str(n.mac("red", "web", 5)))
    assert (reply[IP].src, reply[IP].dst, reply[IP].ttl) == (destination, n.ca("web", 5), 64)
    assert (reply[ICMP].type, reply[ICMP].id, reply[ICMP].seq) == (0, 7, 3)
    assert bytes(reply[ICMP].payload) == b"are you there?"
    rebuilt = reply.copy()
    del rebuilt[IP].chksum, rebuilt[ICMP].chksum
    assert bytes(rebuilt) == bytes(reply)


@pytest.mark.parametrize("destination", [n.ca("web", 1, 6), n.ca("db", 1, 6), "fe80::1"])
@pytest.mark.parametrize("at", ["gateway", "host"])
def test_ipv6_echo_of_the_gateways_address_is_answered(destination: str, at: str) -> None:
    request = echo(destination, 6)

    _, reply = (
        n.to_underlay(n.receive(n.gateway(), request))
        if at == "gateway"
        else n.to_port(n.send(n.host("hv1"), ("red", "web", 5), request))
    )

    assert (reply[IPv6].src, reply[IPv6].dst) == (destination, n.ca("web", 5, 6))
    assert (reply[ICMPv6EchoReply].id, reply[ICMPv6EchoReply].seq) == (7, 3)
    assert reply[ICMPv6EchoReply].data == b"are you there?"
    rebuilt = reply.copy()
    del rebuilt[ICMPv6EchoReply].cksum
    assert bytes(rebuilt) == bytes(reply)


def test_options_of_a_request_are_not_repeated() -> None:
    _, reply = n.to_underlay(n.receive(n.gateway(), echo(n.ca("web", 1), options=[IPOption_NOP()] * 4)))

    assert reply[IP].ihl == 5
    assert bytes(reply[ICMP].payload) == b"are you there?"


def test_both_tenants_get_their_own_answer() -> None:
    forwarder = n.gateway()
    for name in ("red", "blue"):
        frame = n.frame(name, ("web", 5), ("db", 1), upper=ICMP(type=8))
        emission, reply = n.to_underlay(n.receive(forwarder, frame, tenant=name))
        assert (emission.tenant, emission.vsid) == (name, n.VSIDS[name, "web"])
        assert reply.dst == str(n.mac(name, "web", 5))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("upper", [UDP(sport=33434, dport=33435), TCP(sport=1, dport=22, flags="S")])
@pytest.mark.parametrize("subnet", ["web", "db"])
def test_port_of_the_gateway_is_unreachable_from_the_address_that_was_asked(
    version: int, upper: Packet, subnet: str
) -> None:
    frame = n.frame("red", ("web", 5), ("db", 1), version=version, upper=upper)
    asked = n.ca(subnet, 1, version)
    frame[IP if version == 4 else IPv6].dst = asked

    _, told = n.to_underlay(Answer(n.dropped(n.receive(n.gateway(), frame), DropReason.TO_GATEWAY)))

    if version == 4:
        assert (told[IP].src, told[IP].dst) == (asked, n.ca("web", 5))
        assert (told[ICMP].type, told[ICMP].code) == (3, 3)
    else:
        assert (told[IPv6].src, told[IPv6].dst) == (asked, n.ca("web", 5, 6))
        assert told[ICMPv6DestUnreach].code == 4


@pytest.mark.parametrize(
    "upper",
    [
        pytest.param(ICMP(type=0, id=7), id="echo reply"),
        pytest.param(ICMP(type=13), id="timestamp"),
        pytest.param(ICMP(type=5) / IP(src="10.0.1.5", dst="10.0.1.1"), id="redirect"),
        pytest.param(Raw(bytes(40)), id="another protocol"),
    ],
)
def test_anything_else_for_the_gateway_is_dropped_in_silence(upper: Packet) -> None:
    frame = n.frame("red", ("web", 5), ("db", 1), upper=upper)
    if isinstance(upper, Raw):
        frame[IP].proto = 89

    assert n.dropped(n.receive(n.gateway(), frame), DropReason.TO_GATEWAY) == ()


def test_fragment_of_an_echo_request_is_not_answered() -> None:
    first = n.frame("red", ("web", 5), ("db", 1), upper=ICMP(type=8) / Raw(bytes(16)), flags="MF")

    assert n.dropped(n.receive(n.gateway(), first), DropReason.TO_GATEWAY) == ()


def test_gateways_address_of_another_tenant_is_just_an_address() -> None:
    """Here one that Red routes nowhere."""
    frame = echo("10.77.0.1")

    n.dropped(n.receive(n.gateway(), frame), DropReason.NO_ROUTE)


def test_host_is_the_router_of_its_own_vms_only() -> None:
    n.dropped(n.receive(n.host("hv2"), echo(n.ca("web", 1))), DropReason.NOT_HERE)
