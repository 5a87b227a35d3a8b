from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.packets import fragmentation, ip
from tests.gateway.packets.by_hand import DATAGRAM, RECORD_ROUTE, ROUTER_ALERT, STREAM, ipv4, ipv6


def reassemble(fragments: list[bytes]) -> bytes:
    """Join the data of fragments, which may come in any order but may not overlap or leave holes."""
    data = b""
    for packet in sorted(fragments, key=lambda each: ip.decode_untrusted(each).fragment_offset):
        facts = ip.decode_untrusted(packet)
        assert facts.fragment_offset == len(data)
        data += packet[facts.header_length : facts.total_length]
    return data


LARGE = struct.pack("!HHHH", 49153, 53, 3008, 0) + bytes(i * 11 & 0xFF for i in range(3000))


def split(packet: bytes, mtu: int) -> list[bytes]:
    return fragmentation.fragment(packet, ip.decode_untrusted(packet), mtu)


@given(mtu=st.integers(68, 3100), options=st.sampled_from([b"", ROUTER_ALERT, RECORD_ROUTE + STREAM]))
def test_fragments_fit_and_join_to_what_they_were(mtu: int, options: bytes) -> None:
    packet = ipv4(LARGE, options=options)

    fragments = split(packet, mtu)

    assert reassemble(fragments) == LARGE
    facts = [ip.decode_untrusted(each) for each in fragments]
    assert all(each.total_length == len(data) <= mtu for each, data in zip(facts, fragments, strict=True))
    assert [each.more_fragments for each in facts] == [True] * (len(facts) - 1) + [False]
    assert {each.identification for each in facts} == {77}
    assert {(each.traffic_class, each.hop_limit) for each in facts} == {(0x2E, 9)}


@given(first_mtu=st.integers(84, 1500), second_mtu=st.integers(84, 600))
def test_fragments_are_fragmented_further(first_mtu: int, second_mtu: int) -> None:
    smaller = [piece for each in split(ipv4(LARGE), first_mtu) for piece in split(each, second_mtu)]

    assert reassemble(smaller) == LARGE
    assert [ip.decode_untrusted(each).more_fragments for each in smaller].count(False) == 1


def test_only_copied_options_are_in_later_fragments() -> None:
    options = RECORD_ROUTE + b"\x01" + ROUTER_ALERT + b"\x01\x01" + STREAM
    first, *later = split(ipv4(LARGE, options=options), 1400)

    assert first[20:40] == options + bytes(2)
    assert {each[20 : ip.decode_untrusted(each).header_length] for each in later} == {ROUTER_ALERT + STREAM}


@pytest.mark.parametrize("options", [b"\x94\x00\x00\x00", b"\x94\x09\x00\x00", b"\x01\x01\x01\x94"])
def test_options_that_make_no_sense_are_not_copied(options: bytes) -> None:
    first, *later = split(ipv4(LARGE, options=options), 1400)

    assert first[20:24] == options
    assert {ip.decode_untrusted(each).header_length for each in later} == {20}


def test_what_fits_is_not_fragmented_and_loses_its_padding() -> None:
    packet = ipv4(DATAGRAM)

    assert split(packet + bytes(14), 68) == [packet]


@pytest.mark.parametrize(
    ("packet", "mtu"),
    [
        pytest.param(ipv4(LARGE, fragment=0x4000), 1400, id="DF"),
        pytest.param(ipv6(LARGE), 1400, id="IPv6"),
        pytest.param(ipv4(LARGE), 67, id="an MTU below 68"),
    ],
)
def test_what_may_not_be_fragmented_is_refused(packet: bytes, mtu: int) -> None:
    with pytest.raises(ValueError):
        split(packet, mtu)
