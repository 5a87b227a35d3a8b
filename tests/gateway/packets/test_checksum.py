from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.packets.checksum import internet_checksum, transport_checksum, update
from policies.facts import ICMPV6, TCP, UDP


def sum_by_words(data: bytes) -> int:
    """RFC 1071 section 4.1, as the RFC writes it."""
    if len(data) % 2:
        data += b"\0"
    total = sum(word for (word,) in struct.iter_unpack("!H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_the_example_of_rfc_1071_section_3() -> None:
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


def test_no_octets_and_zeros_have_the_checksum_of_zero() -> None:
    assert internet_checksum(b"") == 0xFFFF
    assert internet_checksum(bytes(20)) == 0xFFFF


def test_words_that_sum_up_to_all_ones_have_the_checksum_zero() -> None:
    assert internet_checksum(b"\xff\xff") == 0
    assert internet_checksum(b"\x12\x34\xed\xcb") == 0


def test_an_odd_octet_counts_as_the_high_one_of_its_word() -> None:
    assert internet_checksum(b"\x01") == internet_checksum(b"\x01\x00") == 0xFEFF


@given(st.binary(max_size=200))
def test_it_is_the_sum_of_the_words(data: bytes) -> None:
    assert internet_checksum(data) == sum_by_words(data)
    assert internet_checksum(bytearray(data)) == sum_by_words(data)


def test_the_example_of_rfc_1624_section_4() -> None:
    assert update(0xDD2F, 0x5555, 0x3285) == 0x0000


@given(st.binary(min_size=4, max_size=60), st.integers(0, 0xFFFF), st.data())
def test_an_update_is_the_same_as_computing_anew(data: bytes, new: int, draw: st.DataObject) -> None:
    position = draw.draw(st.integers(0, len(data) // 2 - 1)) * 2
    (old,) = struct.unpack_from("!H", data, position)
    changed = data[:position] + new.to_bytes(2) + data[position + 2 :]
    if any(data) and any(changed):  # all zeros has a checksum of its own, which no packet does
        assert update(internet_checksum(data), old, new) == internet_checksum(changed)


def test_a_carry_from_the_carry_is_counted() -> None:
    assert update(0, 0, 1) == 0xFFFE


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_an_update_is_always_sixteen_bits(checksum: int, old: int, new: int) -> None:
    assert 0 <= update(checksum, old, new) <= 0xFFFF


@pytest.mark.parametrize("length", [4, 16])
@given(data=st.data())
def test_a_transport_checksum_is_the_sum_over_the_pseudo_header(length: int, data: st.DataObject) -> None:
    source = data.draw(st.binary(min_size=length, max_size=length))
    destination = data.draw(st.binary(min_size=length, max_size=length))
    segment = data.draw(st.binary(max_size=80))
    protocol = data.draw(st.sampled_from([TCP, ICMPV6]))
    layout = "!BBH" if length == 4 else "!I3xB"
    tail = (0, protocol, len(segment)) if length == 4 else (len(segment), protocol)
    pseudo_header = source + destination + struct.pack(layout, *tail)

    assert transport_checksum(source, destination, protocol, segment) == sum_by_words(pseudo_header + segment)


def test_a_udp_checksum_of_zero_is_written_as_all_ones() -> None:
    source, destination = bytes(4), bytes(4)
    segment = struct.pack("!HHHH", 0, 0xFFFF - UDP - 8 - 8, 8, 0)

    assert transport_checksum(source, destination, TCP, segment) == UDP - TCP
    assert transport_checksum(source, destination, UDP, segment) == 0xFFFF
