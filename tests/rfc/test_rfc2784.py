"""RFC 2784, GRE: what a receiver must look at, and what it must not."""

from __future__ import annotations

import pytest

from gateway.forwarding.drops import DropReason
from gateway.forwarding.verdicts import Forward, Verdict
from tests import networks as n


def with_header(first: int, protocol: int = 0x6558) -> Verdict:
    """Decide a packet with other first octets of its GRE header."""
    payload = n.nvgre("red", "web", n.frame("red", ("web", 5), ("db", 5)))
    header = first.to_bytes(2) + protocol.to_bytes(2)
    return n.gateway().from_underlay(n.from_host("hv1"), header + payload[4:], now=0)


def bit(number: int) -> int:
    """Bit 0 is the most significant (section 2.1)."""
    return 1 << 15 - number


KEY = bit(2)


def test_section_2_2_packet_with_a_checksum_is_not_read_as_if_it_had_none() -> None:
    """RFC 7637 section 3.2 does not allow one, and it would move the key."""
    n.dropped(with_header(KEY | bit(0)), DropReason.NOT_NVGRE)


@pytest.mark.parametrize("number", [1, 3, 4, 5])
def test_section_2_3_packet_with_one_of_bits_1_to_5_is_discarded(number: int) -> None:
    """Bit 2 is the key that RFC 2890 gave back its meaning."""
    n.dropped(with_header(KEY | bit(number)), DropReason.NOT_NVGRE)


@pytest.mark.parametrize("number", range(6, 13))
def test_section_2_3_bits_6_to_12_are_ignored_on_receipt(number: int) -> None:
    assert isinstance(with_header(KEY | bit(number)), Forward)


def test_section_2_3_bits_6_to_12_are_ignored_all_at_once_and_sent_as_zero() -> None:
    emission, _ = n.to_underlay(with_header(KEY | 0x03F8))

    assert emission.payload[:2] == KEY.to_bytes(2)


@pytest.mark.parametrize("version", range(1, 8))
def test_section_2_3_1_version_must_be_zero(version: int) -> None:
    n.dropped(with_header(KEY | version), DropReason.NOT_NVGRE)


@pytest.mark.parametrize("protocol", [0x0000, 0x0800, 0x86DD, 0x880B, 0x6559, 0xFFFF])
def test_section_2_4_packet_of_an_unknown_protocol_type_is_discarded(protocol: int) -> None:
    n.dropped(with_header(KEY, protocol), DropReason.NOT_NVGRE)
