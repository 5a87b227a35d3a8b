from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.packets import ethernet, ip, nvgre
from gateway.packets.checksum import internet_checksum, transport_checksum
from gateway.underlay.merged import MOST_PIECES, split_packet_untrusted, split_untrusted

SOURCE, DESTINATION = bytes([10, 0, 1, 5]), bytes([10, 0, 2, 5])
LARGEST = 1480
HEADER = nvgre.encode(5001, 9)
ETHERNET = ethernet.EthernetHeader(b"\2\0\0\0\0\1", b"\2\0\0\0\0\2", ethernet.IPV4).encode()


def tcp(data: bytes, options: bytes = b"", ip_options: bytes = b"") -> bytes:
    offset = (20 + len(options)) // 4 << 4
    header = (
        b"\x30\x39\x01\xbb" + bytes([0, 0, 0, 1]) + bytes(4) + bytes([offset, 0x10]) + b"\x10\0" + bytes(4)
    )
    segment = header + options + data
    checksum = transport_checksum(SOURCE, DESTINATION, 6, segment)
    segment = segment[:16] + checksum.to_bytes(2) + segment[18:]
    packet = ip.build(SOURCE, DESTINATION, 6, segment)
    if ip_options:
        header = bytes([0x45 + len(ip_options) // 4, 0]) + (len(packet) + len(ip_options)).to_bytes(2)
        header += packet[4:10] + bytes(2) + packet[12:20] + ip_options
        header = header[:10] + internet_checksum(header).to_bytes(2) + header[12:]
        packet = header + packet[20:]
    return HEADER + ETHERNET + packet


def tcp_over_ipv6(data: bytes, destination_options: int = 0) -> bytes:
    """A packet whose IPv6 header is followed by so many octets of destination options."""
    segment = bytes(12) + b"\x50\x10" + bytes(6) + data
    if destination_options:
        options = bytes([6, destination_options // 8 - 1]) + bytes(destination_options - 2)
        segment = options + segment
    following = 60 if destination_options else 6
    packet = b"\x60\0\0\0" + len(segment).to_bytes(2) + bytes([following, 64]) + bytes(32) + segment
    return HEADER + ETHERNET[:12] + b"\x86\xdd" + packet


def test_a_merged_packet_becomes_packets_that_fit_with_all_the_data_in_order() -> None:
    data = bytes(range(256)) * 40
    timestamps = bytes([1, 1, 8, 10]) + bytes(8)
    pieces = split_untrusted(tcp(data, timestamps), LARGEST)
    assert max(len(piece) for piece in pieces) == LARGEST
    assert b"".join(piece[8 + 14 + 20 + 32 :] for piece in pieces) == data
    assert all(piece.startswith(HEADER + ETHERNET) for piece in pieces)


def test_a_merged_packet_without_nvgre_around_it_is_cut_in_the_same_way() -> None:
    data = bytes(range(256)) * 40
    for merged, headers in ((tcp(data), 40), (tcp_over_ipv6(data), 60)):
        packet = merged[8 + 14 :]
        pieces = split_packet_untrusted(packet, 1500)
        assert max(len(piece) for piece in pieces) == 1500
        assert b"".join(piece[headers:] for piece in pieces) == data
        assert all(
            ip.decode_untrusted(piece).destination == ip.decode_untrusted(packet).destination
            for piece in pieces
        )
        assert split_packet_untrusted(packet[:-1], 1500) == [packet[:-1]]


def test_a_merged_packet_of_the_largest_size_is_cut_at_the_smallest_segments_that_are_usual() -> None:
    pieces = split_untrusted(tcp(bytes(65_000)), 536 + 20 + 20 + 14 + 8)
    assert len(pieces) == 122
    assert b"".join(piece[8 + 14 + 40 :] for piece in pieces) == bytes(65_000)


def test_a_packet_that_would_become_very_many_stays_whole() -> None:
    payload = tcp(bytes(100 * MOST_PIECES))
    assert len(split_untrusted(payload, 100 + 20 + 20 + 14 + 8)) == MOST_PIECES
    payload = tcp(bytes(100 * MOST_PIECES + 1))
    assert split_untrusted(payload, 100 + 20 + 20 + 14 + 8) == [payload]


def test_plain_ipv6_is_cut_and_extension_headers_which_nobody_merges_stay_whole() -> None:
    assert len(split_untrusted(tcp_over_ipv6(bytes(14_000)), LARGEST)) == 11
    for octets in (8, 1392):
        payload = tcp_over_ipv6(bytes(14_000), octets)
        ip.decode_untrusted(payload[22:])
        assert split_untrusted(payload, LARGEST) == [payload]


def test_ipv4_options_which_nobody_merges_stay_whole() -> None:
    payload = tcp(bytes(14_000), ip_options=b"\1\1\1\0")
    assert ip.decode_untrusted(payload[22:]).header_length == 24
    assert split_untrusted(payload, LARGEST) == [payload]


def test_a_large_datagram_was_reassembled_and_stays_whole() -> None:
    datagram = b"\0\1\0\2" + (8 + 4000).to_bytes(2) + bytes(2) + bytes(4000)
    payload = HEADER + ETHERNET + ip.build(SOURCE, DESTINATION, 17, datagram)
    assert split_untrusted(payload, LARGEST) == [payload]


def test_gre_of_another_kind_stays_whole() -> None:
    payload = b"\0\0\x08\0" + bytes(3000)
    assert split_untrusted(payload, LARGEST) == [payload]


def test_a_later_fragment_of_tcp_stays_whole() -> None:
    whole = bytearray(tcp(bytes(3000)))
    start = 8 + 14
    whole[start + 6 : start + 8] = (100).to_bytes(2)
    whole[start + 10 : start + 12] = bytes(2)
    header = bytes(whole[start : start + 20])
    whole[start + 10 : start + 12] = (0xFFFF - sum_words(header)).to_bytes(2)
    assert split_untrusted(bytes(whole), LARGEST) == [bytes(whole)]


def test_a_header_too_large_for_what_the_underlay_carries_stays_whole() -> None:
    payload = tcp(bytes(3000))
    assert split_untrusted(payload, 60) == [payload]


def sum_words(header: bytes) -> int:
    total = sum(int.from_bytes(header[at : at + 2]) for at in range(0, len(header), 2))
    return (total & 0xFFFF) + (total >> 16)


@given(st.binary(max_size=200))
def test_any_octets_are_split_or_returned_whole(payload: bytes) -> None:
    assert split_untrusted(payload, LARGEST)
    assert split_untrusted(HEADER + ETHERNET + payload, 80)


@given(st.integers(0, 8 + 14 + 20 + 20 + 100), st.integers(0, 255))
def test_a_changed_octet_raises_nothing(position: int, value: int) -> None:
    payload = bytearray(tcp(bytes(3000)))
    payload[position] = value
    assert split_untrusted(bytes(payload), LARGEST)
