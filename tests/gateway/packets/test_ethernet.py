from __future__ import annotations

import pytest

from gateway.packets import ethernet
from policies.errors import MalformedPacket

HEADER = bytes.fromhex("020000000002 020000000001 0800")


def test_whole_header() -> None:
    header = ethernet.decode_untrusted(HEADER)

    assert header == ethernet.EthernetHeader(HEADER[:6], HEADER[6:12], ethernet.IPV4)
    assert header.encode() == HEADER


@pytest.mark.parametrize("length", range(ethernet.HEADER_LENGTH))
def test_truncated_header_is_malformed(length: int) -> None:
    with pytest.raises(MalformedPacket):
        ethernet.decode_untrusted(HEADER[:length])


def test_what_follows_the_header_is_left_to_others() -> None:
    assert ethernet.decode_untrusted(HEADER + b"payload") == ethernet.decode_untrusted(HEADER)


def test_a_tagged_frame_shows_the_type_of_its_tag() -> None:
    tagged = HEADER[:12] + bytes.fromhex("8100 0005 0800")

    assert ethernet.decode_untrusted(tagged).ethertype == ethernet.VLAN
