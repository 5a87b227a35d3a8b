"""RFC 3948, ESP in UDP: markers and keepalives, and what must not be inferred from them."""

from __future__ import annotations

import math

import pytest

from tests.tunnels.esp.pairs import OUR_SPI, PATH, SITE, back, child, joined, opened, sealed
from tests.tunnels.esp.scripted import ScriptedSocket, receive_batch, with_recorder
from tunnels.effects import Endpoint, Path


def test_section_2_1_packet_in_udp_has_no_octets_before_its_spi() -> None:
    sockets, recorder = with_recorder()
    _, peer = joined(child())
    result = sealed(peer, back())
    sockets.send_esp(type(result)(PATH, True, result.packet), 0)
    sockets.flush()
    assert recorder.sent[0][1] == [result.packet]
    assert result.packet.startswith(OUR_SPI.to_bytes(4))


def test_section_2_2_message_has_four_zero_octets_before_it_on_port_4500_only() -> None:
    sockets, recorder = with_recorder()
    sockets.send_ike(PATH, b"message")
    sockets.send_ike(Path(Endpoint(PATH.local.address, 500), Endpoint(PATH.remote.address, 500)), b"message")
    assert [packets for _, packets, _ in recorder.sent] == [[bytes(4) + b"message"], [b"message"]]


def test_section_2_3_keepalive_is_one_octet_and_is_ignored() -> None:
    sockets, recorder = with_recorder()
    sockets.send_keepalive(PATH)
    assert recorder.sent[0][1] == [b"\xff"]
    assert receive_batch(ScriptedSocket(4500, [b"\xff"]))[1] == []


@pytest.mark.parametrize("size", range(4))
def test_section_4_keepalive_and_what_else_is_too_short_is_no_sign_of_life(size: int) -> None:
    us, _ = joined(child())
    us.open_untrusted(PATH, b"\xff" * size, 5.0)
    assert us.traffic(SITE).last_received == -math.inf


def test_packets_in_udp_and_outside_it_are_taken_alike() -> None:
    """RFC 7296 section 2.23: both have to be processed, whether a NAT was found or not."""
    for in_udp in (True, False):
        us, peer = joined(child(in_udp=in_udp))
        for port in (4500, 0):
            way = Path(Endpoint(PATH.local.address, port), Endpoint(PATH.remote.address, port))
            assert opened(us, sealed(peer, back()).packet, came_by=way) == back()[1]
        assert us.take_moved() == []
