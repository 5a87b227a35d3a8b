"""What an NVGRE packet must be before anybody looks at whose it is."""

from __future__ import annotations

import struct

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from gateway.forwarding.verdicts import Forward, OuterHeader
from tests import networks as n

FRAME = n.frame("red", ("web", 5), ("db", 5))
WEB = n.VSIDS["red", "web"]


def gre(
    flags: int = 0x2000, protocol: int = 0x6558, key: int = WEB << 8, inner: bytes | None = None
) -> bytes:
    return struct.pack("!HHI", flags, protocol, key) + (bytes(FRAME) if inner is None else inner)


@pytest.mark.parametrize("bit", range(6, 13))
def test_gre_flag_bits_6_to_12_are_ignored(bit: int) -> None:
    verdict = n.gateway().from_underlay(n.from_host("hv1"), gre(0x2000 | 1 << 15 - bit), now=0)

    emission, _ = n.to_underlay(verdict)
    # What is sent has them cleared again.
    assert emission.payload[:4] == bytes.fromhex("20006558")


@pytest.mark.parametrize(
    ("flags", "protocol"),
    [
        pytest.param(0x0000, 0x6558, id="no key"),
        pytest.param(0xA000, 0x6558, id="checksum"),
        pytest.param(0x6000, 0x6558, id="routing"),
        pytest.param(0x3000, 0x6558, id="sequence number"),
        pytest.param(0x2800, 0x6558, id="strict source route"),
        pytest.param(0x2400, 0x6558, id="bit 5"),
        *(pytest.param(0x2000 | version, 0x6558, id=f"version {version}") for version in range(1, 8)),
        pytest.param(0x2000, 0x0800, id="IPv4 in GRE"),
        pytest.param(0x2000, 0x86DD, id="IPv6 in GRE"),
        pytest.param(0x2000, 0x0000, id="keepalive"),
    ],
)
def test_gre_of_another_kind_is_not_nvgre(flags: int, protocol: int) -> None:
    verdict = n.gateway().from_underlay(n.from_host("hv1"), gre(flags, protocol), now=0)

    assert n.dropped(verdict, DropReason.NOT_NVGRE) == ()


@pytest.mark.parametrize("vsid", [0, 1, 0xFFF, 0xFFFFFF])
def test_reserved_vsid_is_unknown(vsid: int) -> None:
    verdict = n.gateway().from_underlay(n.from_host("hv1"), gre(key=vsid << 8), now=0)

    assert n.dropped(verdict, DropReason.UNKNOWN_VSID) == ()


def test_vsid_that_no_tenant_has_is_unknown() -> None:
    verdict = n.gateway().from_underlay(n.from_host("hv1"), gre(key=0x123456 << 8), now=0)

    assert n.dropped(verdict, DropReason.UNKNOWN_VSID) == ()


@pytest.mark.parametrize("flow_id", [0, 1, 0x80, 0xFF])
def test_flow_id_is_no_part_of_the_vsid(flow_id: int) -> None:
    emission, _ = n.to_underlay(
        n.gateway().from_underlay(n.from_host("hv1"), gre(key=WEB << 8 | flow_id), now=0)
    )

    assert emission.vsid == n.VSIDS["red", "db"]


@pytest.mark.parametrize("version", [4, 6])
def test_packet_from_our_own_provider_address_is_a_loop(version: int) -> None:
    outer = n.from_host("edge-1", version=version)

    assert n.dropped(n.gateway().from_underlay(outer, gre(), now=0), DropReason.LOOP) == ()


def test_customer_address_that_equals_a_provider_address_is_no_loop() -> None:
    inner = n.frame("red", ("web", 5), ("db", 5))
    inner[IP].dst = "192.0.2.254"  # edge-1, if it were a provider address

    told = n.dropped(n.receive(n.gateway(), inner), DropReason.NO_ROUTE)

    assert len(told) == 1


@pytest.mark.parametrize("tag", [Dot1Q(vlan=7), Dot1Q(vlan=0), Dot1AD(vlan=7)])
def test_vlan_tagged_inner_frame_is_dropped(tag: Packet) -> None:
    tagged = Ether(dst=FRAME.dst, src=FRAME.src) / tag / FRAME[IP]

    assert n.dropped(n.receive(n.gateway(), tagged), DropReason.VLAN_TAGGED) == ()


@pytest.mark.parametrize("ethertype", [0x8035, 0x88CC, 0x8847, 0x0026, 0xFFFF])
def test_what_is_neither_ip_nor_arp_is_dropped(ethertype: int) -> None:
    other = Ether(dst=FRAME.dst, src=FRAME.src, type=ethertype) / Raw(bytes(50))

    assert n.dropped(n.receive(n.gateway(), other), DropReason.NOT_IP) == ()


@pytest.mark.parametrize("length", range(8 + len(bytes(FRAME))))
def test_truncated_packet_is_malformed(length: int) -> None:
    verdict = n.gateway().from_underlay(n.from_host("hv1"), gre()[:length], now=0)

    assert n.dropped(verdict, DropReason.MALFORMED) == ()


@pytest.mark.parametrize("ethertype", [0x0800, 0x86DD])
def test_ip_of_the_other_version_than_the_frame_says_is_malformed(ethertype: int) -> None:
    inner = n.frame("red", ("web", 5), ("db", 5), version=6 if ethertype == 0x0800 else 4)
    inner.type = ethertype

    assert n.dropped(n.receive(n.gateway(), inner), DropReason.MALFORMED) == ()


def test_wrong_ip_header_checksum_is_malformed() -> None:
    inner = n.frame("red", ("web", 5), ("db", 5), chksum=0x1234)

    assert n.dropped(n.receive(n.gateway(), inner), DropReason.MALFORMED) == ()


def test_ethernet_padding_is_not_sent_on() -> None:
    small = n.frame("red", ("web", 5), ("db", 5), upper=UDP(sport=1, dport=2))
    padded = bytes(small) + bytes(18)

    emission, inner = n.to_underlay(n.receive(n.gateway(), padded))

    assert len(emission.payload) == 8 + len(bytes(small))
    assert inner[IP].len == 28


def test_packet_larger_than_any_ip_packet_keeps_what_its_header_says() -> None:
    verdict = n.receive(n.gateway(), bytes(FRAME) + bytes(70_000))

    emission, _ = n.to_underlay(verdict)
    assert len(emission.payload) == 8 + len(bytes(FRAME))


def test_ip_packet_of_65535_octets_is_fragmented_and_nothing_else() -> None:
    huge = n.frame("red", ("web", 5), ("db", 5), upper=UDP(sport=1, dport=2) / Raw(bytes(65_535 - 28)))

    verdict = n.receive(n.gateway(), huge)

    assert isinstance(verdict, Forward)
    assert len(verdict.emissions) == 46


def test_tenant_is_counted_where_it_is_known() -> None:
    forwarder = n.gateway()

    n.receive(forwarder, bytes(FRAME)[:20])
    n.receive(forwarder, bytes(FRAME)[:20], tenant="blue")
    forwarder.from_underlay(n.from_host("hv1"), b"", now=0)

    assert forwarder.drops.counts == {
        (DropReason.MALFORMED, "red"): 1,
        (DropReason.MALFORMED, "blue"): 1,
        (DropReason.MALFORMED, ""): 1,
    }
    assert forwarder.drops.total(DropReason.MALFORMED) == 3


def test_outer_source_of_nobody_is_refused_before_anything_is_answered() -> None:
    stranger = OuterHeader(source=bytes((198, 51, 100, 99)), destination=bytes(n.pa("edge-1")))
    request = n.arp_request("red", ("web", 5), n.ca("web", 1))

    verdict = n.gateway().from_underlay(stranger, n.nvgre("red", "web", request), now=0)

    assert n.dropped(verdict, DropReason.SPOOFED_SOURCE) == ()
