from __future__ import annotations

import pytest

from gateway.packets import arp
from policies.errors import MalformedPacket

REQUEST = bytes.fromhex("0001 0800 06 04 0001 020000000105 0a000105 000000000000 0a000101")


def test_whole_request() -> None:
    request = arp.decode_untrusted(REQUEST)

    assert request.operation == arp.REQUEST
    assert request.sender_mac == bytes.fromhex("020000000105")
    assert request.sender_address == bytes([10, 0, 1, 5])
    assert request.target_mac == bytes(6)
    assert request.target_address == bytes([10, 0, 1, 1])
    assert request.encode() == REQUEST


@pytest.mark.parametrize("length", range(len(REQUEST)))
def test_truncated_packet_is_malformed(length: int) -> None:
    with pytest.raises(MalformedPacket):
        arp.decode_untrusted(REQUEST[:length])


def test_ethernet_padding_behind_it_is_ignored() -> None:
    assert arp.decode_untrusted(REQUEST + bytes(18)) == arp.decode_untrusted(REQUEST)


@pytest.mark.parametrize("position", range(6))
def test_other_hardware_or_protocols_are_malformed(position: int) -> None:
    other = bytearray(REQUEST)
    other[position] ^= 0x10

    with pytest.raises(MalformedPacket):
        arp.decode_untrusted(bytes(other))
