"""RFC 4301: what a security gateway does with packets that it tunnels."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from gateway.forwarding.verdicts import Forward, ToSite, ToUnderlay, Verdict
from tests import networks as n


def outward(version: int = 4, size: int = 20, **fields: object) -> Packet:
    layer = IP if version == 4 else IPv6
    header = Ether(dst=str(n.router_mac("red", "web")), src=str(n.mac("red", "web", 5)))
    ends = {"src": n.ca("web", 5, version), "dst": n.on_premise(version=version)}
    return header / layer(**ends, **fields) / UDP(sport=1, dport=2) / Raw(bytes(size))


def told(verdict: Verdict, reason: DropReason) -> Packet:
    (emission,) = n.dropped(verdict, reason)
    assert isinstance(emission, ToUnderlay)
    return Ether(emission.payload[8:]).payload


@pytest.mark.parametrize("version", [4, 6])
def test_section_5_2_packet_outside_its_sas_selectors_is_discarded(version: int) -> None:
    layer = IP if version == 4 else IPv6
    packet = layer(src=n.on_premise(version=version), dst=n.ca("web", 5, version)) / UDP()

    inside = n.through_tunnel(n.connected(), packet)
    outside = n.through_tunnel(n.connected(), packet, child=n.selectors(["172.16.9.0/24"]))

    assert isinstance(inside, Forward)
    n.dropped(outside, DropReason.SELECTOR_MISMATCH)


@pytest.mark.parametrize("version", [4, 6])
def test_section_6_packet_that_no_sa_is_for_is_administratively_prohibited(version: int) -> None:
    forwarder = n.connected(child=n.selectors(["172.16.9.0/24"]))

    error = told(n.receive(forwarder, outward(version)), DropReason.OUTSIDE_SELECTORS)

    if version == 4:
        assert (error[ICMP].type, error[ICMP].code) == (3, 13)
    else:
        assert (error[ICMPv6DestUnreach].type, error[ICMPv6DestUnreach].code) == (1, 1)


def test_section_8_2_1_packet_that_may_not_be_fragmented_is_discarded_and_its_sender_told() -> None:
    forwarder = n.connected(mtu=1380)

    ipv4 = told(n.receive(forwarder, outward(4, 1400, flags="DF")), DropReason.TOO_BIG)
    ipv6 = told(n.receive(forwarder, outward(6, 1400)), DropReason.TOO_BIG)

    assert (ipv4[ICMP].type, ipv4[ICMP].code, ipv4[ICMP].nexthopmtu) == (3, 4, 1380)
    assert ipv6[ICMPv6PacketTooBig].mtu == 1380


def test_section_8_2_1_packet_that_may_be_fragmented_is_fragmented() -> None:
    verdict = n.receive(n.connected(mtu=1380), outward(4, 1400))

    assert isinstance(verdict, Forward)
    sizes = [len(each.packet) for each in verdict.emissions if isinstance(each, ToSite)]
    assert len(sizes) == 2
    assert max(sizes) <= 1380


def test_section_5_1_2_1_tunnel_counts_no_hop_besides_the_gateways() -> None:
    """The inner header is decremented by the gateway as it forwards, and by nobody else."""
    _, packet = n.to_site(n.receive(n.connected(), outward(ttl=2)))

    assert packet.ttl == 1
