"""The gateway is one hop, whoever takes it."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6TimeExceeded, IPv6
from scapy.packet import Packet

from gateway.forwarding.directory import Directory
from gateway.forwarding.drops import DropReason
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Answer, ToUnderlay
from tests import networks as n


def routed(version: int, hop_limit: int) -> Packet:
    field = "ttl" if version == 4 else "hlim"
    return n.frame("red", ("web", 5), ("db", 5), version=version, **{field: hop_limit})


def hop_limit_of(frame: Packet) -> int:
    return int(frame[IP].ttl if IP in frame else frame[IPv6].hlim)


def is_expiry(told: Packet, version: int, hop_limit: int) -> None:
    """From the gateway of the sender's subnet, about the packet as it came."""
    if version == 4:
        assert (told[IP].src, told[IP].dst) == (n.ca("web", 1), n.ca("web", 5))
        assert (told[ICMP].type, told[ICMP].code) == (11, 0)
        assert bytes(told[ICMP].payload) == bytes(routed(4, hop_limit)[IP])
    else:
        assert (told[IPv6].src, told[IPv6].dst) == (n.ca("web", 1, 6), n.ca("web", 5, 6))
        assert told[ICMPv6TimeExceeded].code == 0
    assert told.src == str(n.router_mac("red", "web"))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("hop_limit", [0, 1])
def test_gateway_tells_of_a_hop_limit_that_ends_there(version: int, hop_limit: int) -> None:
    verdict = n.receive(n.gateway(), routed(version, hop_limit))

    emission, told = n.to_underlay(Answer(n.dropped(verdict, DropReason.HOP_LIMIT)))

    assert (emission.destination, emission.vsid) == (n.pa("hv1"), n.VSIDS["red", "web"])
    is_expiry(told, version, hop_limit)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("hop_limit", [0, 1])
def test_host_that_routes_tells_its_vm(version: int, hop_limit: int) -> None:
    verdict = n.send(n.host("hv1"), ("red", "web", 5), routed(version, hop_limit))

    delivered, told = n.to_port(Answer(n.dropped(verdict, DropReason.HOP_LIMIT)))

    assert delivered.port == n.port("red", "web", 5)
    is_expiry(told, version, hop_limit)


@pytest.mark.parametrize("version", [4, 6])
def test_host_without_the_record_leaves_the_hop_to_the_gateway(version: int) -> None:
    host = n.host("hv1", known=n.own_records("hv1"))

    emission, passed = n.to_underlay(n.send(host, ("red", "web", 5), routed(version, 1)))
    assert hop_limit_of(passed) == 1
    verdict = n.gateway().from_underlay(n.from_host("hv1"), emission.payload, now=0)
    answer, _ = n.to_underlay(Answer(n.dropped(verdict, DropReason.HOP_LIMIT)))
    delivered, told = n.to_port(host.from_underlay(n.from_host("edge-1", to="hv1"), answer.payload, now=0))

    assert delivered.port == n.port("red", "web", 5)
    is_expiry(told, version, 1)


def carry(first: Forwarder, frame: Packet) -> tuple[list[str], Packet]:
    """Follow a frame from web 5's port through every node until it is delivered; say who it passed."""
    nodes = {n.pa("edge-1"): n.gateway(), n.pa("hv2"): n.host("hv2")}
    verdict, passed, here = n.send(first, ("red", "web", 5), frame), [first.node.name], first
    while isinstance(emission := n.only(verdict), ToUnderlay):
        there = nodes[emission.destination]
        outer = n.from_host(here.node.name, to=there.node.name)
        verdict, here = there.from_underlay(outer, emission.payload, now=0), there
        passed.append(here.node.name)
    return passed, n.to_port(verdict)[1]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("records", "path"),
    [
        pytest.param(n.directory(n.network()), ["hv1", "hv2"], id="host has the record"),
        pytest.param(n.own_records("hv1"), ["hv1", "edge-1", "hv2"], id="only the gateway has"),
    ],
)
def test_between_subnets_there_is_exactly_one_hop(version: int, records: Directory, path: list[str]) -> None:
    passed, delivered = carry(n.host("hv1", known=records), routed(version, 64))

    assert passed == path
    assert hop_limit_of(delivered) == 63


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("records", [n.directory(n.network()), n.own_records("hv1")])
def test_within_a_subnet_there_is_no_hop(version: int, records: Directory) -> None:
    field = "ttl" if version == 4 else "hlim"
    frame = n.frame("red", ("web", 5), ("web", 6), version=version, **{field: 1})

    _, delivered = carry(n.host("hv1", known=records), frame)

    assert bytes(delivered) == bytes(frame)


@pytest.mark.parametrize("version", [4, 6])
def test_between_subnets_on_one_host_there_is_exactly_one_hop(version: int) -> None:
    frame = n.frame("red", ("web", 5), ("db", 6), version=version)

    delivered, inner = n.to_port(n.send(n.host("hv1"), ("red", "web", 5), frame))

    assert delivered.port == n.port("red", "db", 6)
    assert (inner.src, inner.dst) == (str(n.router_mac("red", "db")), str(n.mac("red", "db", 6)))
    assert hop_limit_of(inner) == 63
