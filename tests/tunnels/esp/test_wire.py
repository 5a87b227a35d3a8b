from __future__ import annotations

import pytest

from policies.errors import MalformedPacket
from tests.tunnels.esp.pairs import packet
from tunnels.esp import wire

V4 = packet(61)[1]
V6 = packet(63, source="fd00:1::5", destination="fd00:2::5")[1]


@pytest.mark.parametrize("length", range(wire.HEADER_LENGTH))
def test_truncated_header_is_malformed(length: int) -> None:
    with pytest.raises(MalformedPacket):
        wire.decode_header_untrusted(bytes(length))


@pytest.mark.parametrize("alignment", [4, 16])
@pytest.mark.parametrize("octets", [V4, V6])
def test_trailers_fill_any_packet_up_to_the_alignment_with_a_counting_pattern(
    octets: bytes, alignment: int
) -> None:
    version = octets[0] >> 4
    for remainder, trailer in enumerate(wire.trailers(alignment)[version]):
        assert (remainder + len(trailer)) % alignment == 0
        assert trailer[:-2] == bytes(range(1, len(trailer) - 1))
        assert trailer[-2:] == bytes([len(trailer) - 2, {4: 4, 6: 41}[version]])


@pytest.mark.parametrize("octets", [V4, V6])
@pytest.mark.parametrize("padding", [0, 1, 3, 255])
def test_payload_gives_back_the_packet(octets: bytes, padding: int) -> None:
    trailer = bytes(range(1, padding + 1)) + bytes([padding, 4 if octets[0] < 0x60 else 41])
    assert wire.decode_payload(octets + trailer) == octets


@pytest.mark.parametrize("octets", [V4, V6])
def test_traffic_flow_confidentiality_padding_is_skipped(octets: bytes) -> None:
    next_header = 4 if octets[0] < 0x60 else 41
    assert wire.decode_payload(octets + b"\xa5" * 700 + bytes([1, 2, 2, next_header])) == octets


def test_dummy_packet_is_nothing_whatever_it_holds() -> None:
    assert wire.decode_payload(b"\xff" * 40 + bytes([1, 1, wire.DUMMY])) is None
    assert wire.decode_payload(bytes([0, wire.DUMMY])) is None


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x04", id="half a trailer"),
        pytest.param(bytes([0, 4]), id="no packet"),
        pytest.param(bytes([1, 0, 4]), id="only padding"),
        pytest.param(V4 + bytes([200, 4]), id="more padding than there is"),
        pytest.param(V4 + bytes([1, 3, 2, 4]), id="padding that does not count"),
        pytest.param(V4 + bytes([0, 0, 2, 4]), id="padding of zeros"),
        pytest.param(V4 + bytes([0, 41]), id="IPv4 announced as IPv6"),
        pytest.param(V6 + bytes([0, 4]), id="IPv6 announced as IPv4"),
        pytest.param(V4 + bytes([0, 6]), id="transport mode"),
        pytest.param(V4[:19] + bytes([0, 4]), id="IPv4 header cut off"),
        pytest.param(V6[:39] + bytes([0, 41]), id="IPv6 header cut off"),
        pytest.param(V4[:-1] + bytes([0, 4]), id="IPv4 packet cut off"),
        pytest.param(V6[:-1] + bytes([0, 41]), id="IPv6 packet cut off"),
        pytest.param(V4[:2] + bytes([0, 19]) + V4[4:] + bytes([0, 4]), id="IPv4 packet of 19 octets"),
    ],
)
def test_payload_without_a_whole_packet_is_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedPacket):
        wire.decode_payload(payload)
