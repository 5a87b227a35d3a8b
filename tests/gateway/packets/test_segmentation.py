from __future__ import annotations

import struct

import pytest

from gateway.packets import ethernet, ip, segmentation
from gateway.packets.checksum import internet_checksum, transport_checksum
from policies.addresses import Address
from policies.errors import MalformedPacket
from policies.facts import ICMP, TCP, TCP_ACK, TCP_FIN, UDP

ENDS = [
    (Address.parse("10.0.1.5"), Address.parse("10.0.2.5")),
    (Address.parse("fd00:1::5"), Address.parse("fd00:2::5")),
]
MACS = bytes.fromhex("020000000002 020000000001")
TIMESTAMPS = bytes.fromhex("0101 080a 01020304 05060708")
PSH, CWR = 0x08, 0x80
FIN_AND_PSH = TCP_FIN | PSH
PAYLOAD = bytes(i * 7 & 0xFF for i in range(3500))


def frame(ends: tuple[bytes, bytes], protocol: int, segment: bytes) -> bytes:
    if len(ends[0]) == 16:
        return MACS + b"\x86\xdd" + ip.build(*ends, protocol, segment)
    header = ip.ipv4_header(*ends, protocol, len(segment), identification=0xFFFF, dont_fragment=False)
    return MACS + b"\x08\x00" + header + segment


def tcp_header(sequence: int, flags: int) -> bytes:
    header = struct.pack("!HHIIBBHHH", 49153, 80, sequence, 7, 8 << 4, flags, 512, 0xDEAD, 0)
    return header + TIMESTAMPS


def with_right_checksum(ends: tuple[bytes, bytes], protocol: int, segment: bytes, at: int) -> bytes:
    zeroed = segment[:at] + b"\0\0" + segment[at + 2 :]
    checksum = transport_checksum(*ends, protocol, zeroed)
    return zeroed[:at] + checksum.to_bytes(2) + zeroed[at + 2 :]


@pytest.mark.parametrize("ends", ENDS)
def test_tcp_super_packet_is_cut_as_its_sender_would_have(ends: tuple[bytes, bytes]) -> None:
    flags = TCP_ACK | TCP_FIN | PSH | CWR
    super_packet = frame(ends, TCP, tcp_header(0xFFFFFFFE, flags) + PAYLOAD)

    segments = segmentation.segment(super_packet, 1400)

    expected = [
        (0xFFFFFFFE, TCP_ACK | CWR, PAYLOAD[:1400]),
        (1398, TCP_ACK, PAYLOAD[1400:2800]),
        (2798, TCP_ACK | FIN_AND_PSH, PAYLOAD[2800:]),
    ]
    for got, (sequence, segment_flags, payload) in zip(segments, expected, strict=True):
        facts = ip.decode_untrusted(got[14:])
        assert got[:14] == super_packet[:14]
        assert facts.total_length == len(got) - 14
        upper = got[14 + facts.header_length :]
        assert upper == with_right_checksum(ends, TCP, tcp_header(sequence, segment_flags) + payload, 16)


def test_identifications_of_ipv4_count_up_and_wrap() -> None:
    segments = segmentation.segment(frame(ENDS[0], TCP, tcp_header(1, TCP_ACK) + PAYLOAD), 1400)

    assert [ip.decode_untrusted(each[14:]).identification for each in segments] == [0xFFFF, 0, 1]


@pytest.mark.parametrize("ends", ENDS)
def test_udp_super_packet_becomes_datagrams(ends: tuple[bytes, bytes]) -> None:
    header = struct.pack("!HHHH", 49153, 53, 8 + len(PAYLOAD), 0)

    segments = segmentation.segment(frame(ends, UDP, header + PAYLOAD), 1000)

    pieces = [PAYLOAD[at : at + 1000] for at in range(0, len(PAYLOAD), 1000)]
    for got, piece in zip(segments, pieces, strict=True):
        facts = ip.decode_untrusted(got[14:])
        expected = struct.pack("!HHHH", 49153, 53, 8 + len(piece), 0) + piece
        assert got[14 + facts.header_length :] == with_right_checksum(ends, UDP, expected, 6)


@pytest.mark.parametrize("payload", [b"", b"x", PAYLOAD[:1400]])
def test_what_fits_is_one_frame_with_its_flags_kept(payload: bytes) -> None:
    segment = tcp_header(5, TCP_ACK | TCP_FIN | PSH | CWR) + payload

    [got] = segmentation.segment(frame(ENDS[0], TCP, segment), 1400)

    assert got == frame(ENDS[0], TCP, with_right_checksum(ENDS[0], TCP, segment, 16))


@pytest.mark.parametrize(
    ("first", "chain"),
    [
        (ip.HOP_BY_HOP, bytes([TCP, 0, 1, 4, 0, 0, 0, 0])),
        (ip.ROUTING, bytes([TCP, 2, 4, 0, 0, 0, 0, 0]) + ENDS[1][0]),  # no segments are left
        (ip.AUTHENTICATION, bytes([ip.FRAGMENT, 4]) + bytes(22) + bytes([TCP, 0, 0, 0, 0, 0, 0, 7])),
    ],
)
def test_extension_headers_are_repeated(first: int, chain: bytes) -> None:
    segment = chain + tcp_header(1, TCP_ACK) + PAYLOAD

    segments = segmentation.segment(frame(ENDS[1], first, segment), 1400)

    assert len(segments) == 3
    for got in segments:
        facts = ip.decode_untrusted(got[14:])
        assert got[54 : 54 + len(chain)] == chain
        assert transport_checksum(*ENDS[1], TCP, got[14 + facts.header_length :]) == 0


def test_padding_of_the_frame_is_not_sent_on() -> None:
    [got] = segmentation.segment(frame(ENDS[0], TCP, tcp_header(1, TCP_ACK)) + bytes(10), 1400)

    assert len(got) == 14 + 20 + 32


@pytest.mark.parametrize(
    "super_packet",
    [
        pytest.param(frame(ENDS[0], ICMP, bytes(64)), id="neither TCP nor UDP"),
        pytest.param(frame(ENDS[1], ip.FRAGMENT, bytes([TCP, 0, 5, 1]) + bytes(68)), id="a fragment"),
        pytest.param(MACS + b"\x86\xdd" + frame(ENDS[0], TCP, tcp_header(1, 0))[14:], id="of another family"),
        pytest.param(MACS + b"\x81\x00" + frame(ENDS[0], TCP, tcp_header(1, 0))[14:], id="tagged"),
        pytest.param(MACS, id="truncated"),
        pytest.param(
            frame(ENDS[1], ip.ROUTING, bytes([TCP, 2, 4, 1, 0, 0, 0, 0]) + ENDS[1][0] + tcp_header(1, 0)),
            id="source-routed",
        ),
        pytest.param(
            frame(
                ENDS[1],
                ip.DESTINATION_OPTIONS,
                bytes([ip.AUTHENTICATION, 0, 1, 4, 0, 0, 0, 0])
                + bytes([ip.ROUTING, 4])
                + bytes(22)
                + bytes([TCP, 2, 4, 1, 0, 0, 0, 0])
                + ENDS[1][0]
                + tcp_header(1, 0),
            ),
            id="source-routed behind other headers",
        ),
    ],
)
def test_what_cannot_be_cut_is_malformed(super_packet: bytes) -> None:
    with pytest.raises(MalformedPacket):
        segmentation.segment(super_packet, 1000)


def test_segments_of_nothing_are_malformed() -> None:
    with pytest.raises(MalformedPacket):
        segmentation.segment(frame(ENDS[0], TCP, tcp_header(1, TCP_ACK) + PAYLOAD), 0)


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("payload", [b"", b"odd", b"even"])
def test_checksum_over_the_pseudo_headers_sum_is_finished(ends: tuple[bytes, bytes], payload: bytes) -> None:
    datagram = struct.pack("!HHHH", 49153, 53, 8 + len(payload), 0) + payload
    pseudo_header_sum = 0xFFFF - internet_checksum(ends[0] + ends[1] + struct.pack("!HH", UDP, len(datagram)))
    unfinished = frame(ends, UDP, datagram[:6] + pseudo_header_sum.to_bytes(2) + datagram[8:])
    start = len(unfinished) - len(datagram)

    finished = segmentation.finish_checksum(unfinished, start, 6)

    assert finished == frame(ends, UDP, with_right_checksum(ends, UDP, datagram, 6))


def test_a_finished_checksum_is_never_zero() -> None:
    assert segmentation.finish_checksum(b"\xff\xff\x00\x00", 0, 2) == b"\xff\xff\xff\xff"


@pytest.mark.parametrize("start", [3, 4, 100])
def test_checksum_beyond_the_frame_is_malformed(start: int) -> None:
    with pytest.raises(MalformedPacket):
        segmentation.finish_checksum(bytes(6), start, 2)


def test_the_frame_before_the_checksummed_part_is_untouched() -> None:
    assert segmentation.finish_checksum(MACS + bytes(4), ethernet.HEADER_LENGTH - 2, 0)[:12] == MACS
