"""RFC 1191, path MTU discovery: what the tenants' senders are told, and what of the underlay is believed."""

from __future__ import annotations

import struct

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.pmtu import LIFETIME
from gateway.forwarding.verdicts import Answer, Forward
from tests import networks as n


def sized(octets: int, flags: str = "DF") -> Packet:
    return n.frame(
        "red", ("web", 5), ("db", 5), upper=UDP(sport=1, dport=2) / Raw(bytes(octets - 28)), flags=flags
    )


def told(forwarder: Forwarder, octets: int = 1459, now: float = 0) -> bytes:
    """The ICMP message about a packet that is too big."""
    verdict = n.receive(forwarder, sized(octets), now=now)
    emission, _ = n.to_underlay(Answer(n.dropped(verdict, DropReason.TOO_BIG)))
    return emission.payload[8 + 14 + 20 :]


def next_hop_mtu(message: bytes) -> int:
    return int(struct.unpack_from("!H", message, 6)[0])


def test_section_2_packet_with_df_is_dropped_and_one_without_is_not() -> None:
    n.dropped(n.receive(n.gateway(), sized(1459)), DropReason.TOO_BIG)
    assert isinstance(n.receive(n.gateway(), sized(1459, flags="")), Forward)


def test_section_4_message_has_the_next_hop_mtu_in_its_low_16_bits_and_zero_above() -> None:
    message = told(n.gateway())

    assert message[:2] == bytes((3, 4))
    assert message[4:6] == bytes(2)
    assert next_hop_mtu(message) == 1458


@pytest.mark.parametrize("underlay", [600, 1280, 1500, 9000])
def test_section_4_mtu_is_the_largest_packet_that_is_forwarded_without_fragmenting(underlay: int) -> None:
    """It counts the tenant's IP header, and nothing that carries it."""
    forwarder = n.gateway(mtu=underlay)
    mtu = next_hop_mtu(told(forwarder, underlay))

    n.to_underlay(n.receive(forwarder, sized(mtu)))
    n.dropped(n.receive(forwarder, sized(mtu + 1)), DropReason.TOO_BIG)


def test_section_3_sender_that_heeds_the_message_gets_through() -> None:
    forwarder = n.gateway()
    forwarder.path_mtu_reported(bytes(n.pa("hv2")), 5001, 1300, 0)

    n.to_underlay(n.receive(forwarder, sized(next_hop_mtu(told(forwarder)))))


def test_section_3_1_segment_size_is_kept_within_the_path() -> None:
    syn = TCP(flags="S", options=[("MSS", 1460)])

    _, inner = n.to_underlay(n.receive(n.gateway(), n.frame("red", ("web", 5), ("db", 5), upper=syn)))

    assert dict(inner[TCP].options)["MSS"] == 1458 - 40


def test_section_6_3_estimate_is_kept_for_ten_minutes_and_not_less_than_five() -> None:
    forwarder = n.gateway()
    forwarder.path_mtu_reported(bytes(n.pa("hv2")), 5001, 1300, now=0)

    assert LIFETIME == 600
    assert next_hop_mtu(told(forwarder, now=300)) == 1258
    assert next_hop_mtu(told(forwarder, now=599)) == 1258
    assert next_hop_mtu(told(forwarder, now=600)) == 1458


def test_section_6_3_report_that_is_repeated_begins_a_new_time() -> None:
    forwarder = n.gateway()
    for now in (0, 500):
        forwarder.path_mtu_reported(bytes(n.pa("hv2")), 5001, 1300, now)

    assert next_hop_mtu(told(forwarder, now=1099)) == 1258
    assert next_hop_mtu(told(forwarder, now=1100)) == 1458


@pytest.mark.parametrize("mtu", [0, 68, 575, 1500, 65_535])
def test_section_8_false_message_neither_strangles_nor_opens_a_path(mtu: int) -> None:
    forwarder = n.gateway()

    assert not forwarder.path_mtu_reported(bytes(n.pa("hv2")), 5001, mtu, 0)
    assert next_hop_mtu(told(forwarder)) == 1458


def test_section_8_message_about_a_stranger_is_not_remembered() -> None:
    assert not n.gateway().path_mtu_reported(bytes((8, 8, 8, 8)), 5001, 1300, 0)


def test_message_quotes_the_header_that_the_sender_knows() -> None:
    frame = sized(1459)

    verdict = n.receive(n.gateway(), frame)

    emission, _ = n.to_underlay(Answer(n.dropped(verdict, DropReason.TOO_BIG)))
    assert emission.payload[8 + 14 + 28 :][:28] == bytes(frame[IP])[:28]
