from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.host.vnet import HEADER_LENGTH, MOST_SEGMENTS, NOTHING_LEFT, frames_untrusted
from gateway.packets import ethernet, ip
from gateway.packets.checksum import internet_checksum, transport_checksum
from policies.errors import MalformedPacket
from policies.facts import TCP, UDP

SOURCE, DESTINATION = bytes([10, 0, 1, 5]), bytes([10, 0, 2, 5])
ETHERNET = ethernet.EthernetHeader(b"\2\0\0\0\0\1", b"\2\0\0\0\0\2", ethernet.IPV4).encode()


def vnet_header(
    flags: int = 0, gso_type: int = 0, segment_size: int = 0, start: int = 0, offset: int = 0
) -> bytes:
    return struct.pack("=BBHHHH", flags, gso_type, 0, segment_size, start, offset)


def auxdata(status: int, tag: int = 0, tag_type: int = 0) -> list[tuple[int, int, bytes]]:
    return [(263, 8, struct.pack("=IIIHHHH", status, 0, 0, 0, 0, tag, tag_type))]


def test_a_finished_frame_is_itself() -> None:
    assert frames_untrusted(NOTHING_LEFT + b"frame", auxdata(1)) == [b"frame"]


def test_a_checksum_that_was_verified_already_leaves_the_frame_alone() -> None:
    assert frames_untrusted(vnet_header(flags=2) + b"frame", ()) == [b"frame"]


def test_an_unfinished_checksum_is_finished() -> None:
    datagram = b"\0\1\0\2\0\x0c" + bytes(2) + b"data"
    pseudo_header = SOURCE + DESTINATION + bytes([0, UDP]) + len(datagram).to_bytes(2)
    partial = datagram[:6] + (0xFFFF - internet_checksum(pseudo_header)).to_bytes(2) + datagram[8:]
    frame = ETHERNET + ip.build(SOURCE, DESTINATION, UDP, partial)
    (finished,) = frames_untrusted(vnet_header(flags=1, start=34, offset=6) + frame, auxdata(1))
    # Over a right checksum the sum is 0, which for UDP is written as 0xFFFF.
    assert transport_checksum(SOURCE, DESTINATION, UDP, finished[34:]) == 0xFFFF
    assert finished[:40] == frame[:40]


def test_a_super_packet_is_cut_into_segments_also_with_ecn() -> None:
    header = b"\x30\x39\x01\xbb" + bytes(8) + b"\x50\x10\x10\x00" + bytes(4)
    frame = ETHERNET + ip.build(SOURCE, DESTINATION, TCP, header + bytes(2500))
    for gso_type in (1, 1 | 0x80):
        received = vnet_header(1, gso_type, segment_size=1000, start=34, offset=16) + frame
        assert [len(each) for each in frames_untrusted(received, auxdata(1))] == [1054, 1054, 554]


def tcp_super_packet(octets: int) -> bytes:
    header = b"\x30\x39\x01\xbb" + bytes(8) + b"\x50\x10\x10\x00" + bytes(4)
    return ETHERNET + ip.build(SOURCE, DESTINATION, TCP, header + bytes(octets))


@pytest.mark.parametrize(("octets", "segment_size"), [(65_000, 536), (12_800, 100), (128, 1)])
def test_as_many_segments_as_honest_vms_send_are_cut(octets: int, segment_size: int) -> None:
    received = vnet_header(1, 1, segment_size, start=34, offset=16) + tcp_super_packet(octets)
    frames = frames_untrusted(received, ())
    assert len(frames) == -(-octets // segment_size) <= MOST_SEGMENTS


@pytest.mark.parametrize("segment_size", [0, 1, 88, 500])
def test_a_super_packet_of_very_many_segments_is_malformed(segment_size: int) -> None:
    received = vnet_header(1, 1, segment_size, start=34, offset=16) + tcp_super_packet(65_000)
    with pytest.raises(MalformedPacket, match=f"of 65054 octets in segments of {segment_size}"):
        frames_untrusted(received, ())


def test_a_stripped_tag_is_put_back_with_its_type() -> None:
    frame = ETHERNET + b"data"
    tagged = frames_untrusted(NOTHING_LEFT + frame, auxdata(0x51, tag=0x2005, tag_type=0x88A8))
    assert tagged == [frame[:12] + b"\x88\xa8\x20\x05" + frame[12:]]


def test_a_stripped_tag_without_a_type_is_an_802_1q_tag() -> None:
    frame = ETHERNET + b"data"
    assert frames_untrusted(NOTHING_LEFT + frame, auxdata(0x11, tag=5)) == [
        frame[:12] + b"\x81\x00\x00\x05" + frame[12:]
    ]


def test_an_offload_that_makes_no_sense_leaves_the_frame_to_be_judged() -> None:
    for header in (
        vnet_header(flags=1, start=5000, offset=6),
        vnet_header(gso_type=1, segment_size=0),
        vnet_header(gso_type=77, segment_size=100),
    ):
        assert frames_untrusted(header + b"frame", ()) == [b"frame"]


@given(
    st.binary(max_size=100), st.lists(st.tuples(st.just(263), st.just(8), st.binary(max_size=24)), max_size=2)
)
def test_any_octets_raise_nothing(received: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
    assert frames_untrusted(received, ancillary)  # too short to be many segments


@given(st.binary(min_size=HEADER_LENGTH, max_size=HEADER_LENGTH), st.integers(0, 120))
def test_any_offload_of_a_frame_cut_anywhere_raises_nothing(header: bytes, length: int) -> None:
    segment = b"\x30\x39\x01\xbb" + bytes(8) + b"\x50\x10\x10\x00" + bytes(70)
    frame = ETHERNET + ip.build(SOURCE, DESTINATION, TCP, segment)
    assert frames_untrusted(header + frame[:length], ())
