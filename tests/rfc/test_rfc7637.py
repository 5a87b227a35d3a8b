"""RFC 7637, NVGRE: what crosses the underlay, section by section."""

from __future__ import annotations

import struct

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from gateway.forwarding.verdicts import Answer, Forward, ToUnderlay
from policies.model import FlowIdMode
from tests import networks as n

ROUTED = n.frame("red", ("web", 5), ("db", 5))
SWITCHED = n.frame("red", ("web", 5), ("web", 6))


def all_emissions() -> list[ToUnderlay]:
    """Of each kind: routed, switched, replicated, fragmented, answered, told of; by a gateway and a host."""
    net = n.network(n.tenant("red", broadcast=True))
    gateway, host = n.gateway(net), n.host("hv1", net)
    group = SWITCHED.copy()
    group.dst, group[IP].dst = n.BROADCAST, "255.255.255.255"
    large = n.frame("red", ("web", 5), ("db", 5), upper=UDP() / Raw(bytes(4000)))
    expiring = n.frame("red", ("web", 5), ("db", 5), ttl=1)
    request = n.arp_request("red", ("web", 5), n.ca("web", 6))
    frames = (ROUTED, SWITCHED, group, large, expiring, request)
    verdicts = [n.receive(gateway, frame) for frame in frames]
    verdicts += [n.send(host, ("red", "web", 5), frame) for frame in frames]
    return [
        emission for verdict in verdicts for emission in verdict.emissions if isinstance(emission, ToUnderlay)
    ]


def test_section_3_2_gre_header_has_key_but_neither_checksum_nor_sequence() -> None:
    """C and S MUST be zero, K MUST be one, the protocol type is 0x6558."""
    emissions = all_emissions()

    assert len(emissions) > 10
    assert {emission.payload[:4] for emission in emissions} == {bytes.fromhex("20006558")}


def test_section_3_2_key_is_24_bits_of_vsid_and_8_of_flow_id() -> None:
    for emission in all_emissions():
        (key,) = struct.unpack_from("!I", emission.payload, 4)
        assert key >> 8 == emission.vsid
        assert key >> 8 in (n.VSIDS["red", "web"], n.VSIDS["red", "db"])


def test_section_3_2_flow_id_gives_entropy() -> None:
    forwarder = n.gateway()
    ids = set()
    for port in range(1000):
        frame = n.frame("red", ("web", 5), ("db", 5), upper=UDP(sport=port, dport=53))
        ids.add(n.to_underlay(n.receive(forwarder, frame))[0].payload[7])

    assert len(ids) > 200


def test_section_3_2_flow_id_that_is_not_generated_is_zero() -> None:
    net = n.network(n.tenant("red"), flow_id=FlowIdMode.ZERO)

    emission, _ = n.to_underlay(n.receive(n.gateway(net), ROUTED))

    assert emission.payload[7] == 0


def test_section_3_2_frame_check_sequence_is_not_encapsulated() -> None:
    emission, _ = n.to_underlay(n.receive(n.gateway(), SWITCHED))

    assert emission.payload[8:] == bytes(SWITCHED)


@pytest.mark.parametrize("inner", [4, 6])
@pytest.mark.parametrize("outer", [4, 6])
def test_section_3_2_either_family_carries_either(inner: int, outer: int) -> None:
    frame = n.frame("red", ("web", 5), ("db", 5), version=inner)

    emission, received = n.to_underlay(n.receive(n.gateway(pa_version=outer), frame, version=outer))

    assert (emission.source.version, emission.destination.version) == (outer, outer)
    assert (IP if inner == 4 else IPv6) in received


@pytest.mark.parametrize("tag", [Dot1Q(vlan=5), Dot1Q(vlan=0, prio=5), Dot1AD(vlan=5) / Dot1Q(vlan=6)])
def test_section_3_3_tagged_inner_frame_is_dropped(tag: Packet) -> None:
    tagged = Ether(dst=SWITCHED.dst, src=SWITCHED.src) / tag / SWITCHED[IP]

    n.dropped(n.receive(n.gateway(), tagged), DropReason.VLAN_TAGGED)
    n.dropped(n.send(n.host("hv1"), ("red", "web", 5), tagged), DropReason.VLAN_TAGGED)


@pytest.mark.parametrize("vsid", [0, 0x800, 0xFFF, 0xFFFFFF])
def test_section_3_4_reserved_vsid_is_refused(vsid: int) -> None:
    payload = struct.pack("!HHI", 0x2000, 0x6558, vsid << 8) + bytes(ROUTED)

    n.dropped(n.gateway().from_underlay(n.from_host("hv1"), payload, now=0), DropReason.UNKNOWN_VSID)


def test_section_4_1_all_packets_of_a_flow_go_one_way() -> None:
    """Whoever hashes the outer header and the key keeps them in order."""
    forwarder = n.gateway()
    segments = [
        TCP(sport=1, dport=2, flags=flags, seq=seq) for seq, flags in enumerate(("S", "A", "PA", "FA"))
    ]
    frames = [n.frame("red", ("web", 5), ("db", 5), upper=segment) for segment in segments]

    ways = {
        (emission.source, emission.destination, emission.payload[:8])
        for emission, _ in (n.to_underlay(n.receive(forwarder, frame)) for frame in frames)
    }

    assert len(ways) == 1


def test_section_4_2_n_way_unicast_sends_one_packet_to_each_other_endpoint() -> None:
    net = n.network(n.tenant("red", broadcast=True))
    group = SWITCHED.copy()
    group.dst, group[IP].dst = "01:00:5e:00:00:fb", "224.0.0.251"

    emission, inner = n.to_underlay(n.receive(n.gateway(net), group))

    assert (emission.destination, emission.vsid) == (n.pa("hv2"), n.VSIDS["red", "web"])
    assert bytes(inner) == bytes(group)


def test_section_4_3_unicast_goes_to_the_endpoint_of_its_destination() -> None:
    emission, _ = n.to_underlay(n.send(n.host("hv1"), ("red", "web", 5), SWITCHED))

    assert (emission.source, emission.destination) == (n.pa("hv1"), n.pa("hv2"))


@pytest.mark.parametrize("pa_version", [4, 6])
@pytest.mark.parametrize("size", [1400, 1458, 1500, 9000])
def test_section_4_4_nvgre_packet_is_never_larger_than_the_underlay_carries(
    pa_version: int, size: int
) -> None:
    frame = n.frame("red", ("web", 5), ("db", 5), upper=UDP() / Raw(bytes(size - 28)))

    verdict = n.receive(n.gateway(pa_version=pa_version), frame, version=pa_version)

    assert isinstance(verdict, Forward)
    outer = 20 if pa_version == 4 else 40
    for emission in verdict.emissions:
        assert isinstance(emission, ToUnderlay)
        assert outer + len(emission.payload) <= 1500


def test_section_4_4_sender_is_told_what_fits() -> None:
    frame = n.frame("red", ("web", 5), ("db", 5), upper=UDP() / Raw(bytes(1472)), flags="DF")

    told = n.dropped(n.receive(n.gateway(), frame), DropReason.TOO_BIG)

    assert n.to_underlay(Answer(told))[1].payload.payload.nexthopmtu == 1458


def test_section_4_6_gateway_routes_between_virtual_subnets_of_a_tenant() -> None:
    emission, inner = n.to_underlay(n.receive(n.gateway(), ROUTED))

    assert (emission.vsid, emission.destination) == (n.VSIDS["red", "db"], n.pa("hv2"))
    assert (inner.src, inner.dst) == (str(n.router_mac("red", "db")), str(n.mac("red", "db", 5)))


def test_section_5_frame_from_an_endpoint_that_does_not_hold_the_tenant_is_refused() -> None:
    outer = n.from_host("hv1")
    stranger = type(outer)(bytes((198, 51, 100, 99)), outer.destination)

    n.dropped(
        n.gateway().from_underlay(stranger, n.nvgre("red", "web", ROUTED), now=0), DropReason.SPOOFED_SOURCE
    )
