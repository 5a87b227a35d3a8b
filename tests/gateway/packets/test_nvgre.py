from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.packets import nvgre
from policies.errors import MalformedPacket

HEADER = bytes.fromhex("2000 6558 001389 5a")


def test_whole_header() -> None:
    assert nvgre.decode_untrusted(HEADER) == nvgre.NvgreHeader(vsid=5001, flow_id=0x5A)
    assert nvgre.encode(5001, 0x5A) == HEADER


def test_the_flow_id_is_zero_unless_given() -> None:
    assert nvgre.encode(5001) == HEADER[:-1] + b"\0"


@pytest.mark.parametrize("length", range(nvgre.HEADER_LENGTH))
def test_truncated_header_is_malformed_and_not_another_kind_of_gre(length: int) -> None:
    with pytest.raises(MalformedPacket) as raised:
        nvgre.decode_untrusted(HEADER[:length])

    assert not isinstance(raised.value, nvgre.NotNvgre)


def test_the_frame_behind_the_header_is_left_to_others() -> None:
    assert nvgre.decode_untrusted(HEADER + b"frame") == nvgre.decode_untrusted(HEADER)


@pytest.mark.parametrize("bit", range(6, 13))
def test_reserved_flag_bits_are_ignored(bit: int) -> None:
    flags = 0x2000 | 0x8000 >> bit

    assert nvgre.decode_untrusted(flags.to_bytes(2) + HEADER[2:]).vsid == 5001


@pytest.mark.parametrize("bit", [0, 1, 2, 3, 4, 5, 13, 14, 15])
def test_any_other_flag_bit_or_version_is_not_nvgre(bit: int) -> None:
    flags = 0x2000 ^ 0x8000 >> bit

    with pytest.raises(nvgre.NotNvgre):
        nvgre.decode_untrusted(flags.to_bytes(2) + HEADER[2:])


def test_gre_that_carries_ip_is_not_nvgre() -> None:
    with pytest.raises(nvgre.NotNvgre):
        nvgre.decode_untrusted(HEADER[:2] + b"\x08\x00" + HEADER[4:])


@given(st.integers(0, 0xFFFFFF), st.integers(0, 0xFF))
def test_what_is_encoded_is_decoded(vsid: int, flow_id: int) -> None:
    assert nvgre.decode_untrusted(nvgre.encode(vsid, flow_id)) == nvgre.NvgreHeader(vsid, flow_id)
