from __future__ import annotations

import pytest

from policies.errors import MalformedPacket
from policies.selectors import TrafficSelector
from tests.tunnels.ike import messages as m
from tunnels.ike import selector_wire

V4 = bytes.fromhex("07 00 0010 0000ffff 0a010000 0a01ffff")
V6 = bytes.fromhex("08 06 0028 00500050" + "fd000001" + "00" * 12 + "fd000001" + "ff" * 12)
BOTH = b"\2\0\0\0" + V4 + V6


def test_whole_selectors_are_read() -> None:
    assert selector_wire.decode_untrusted(BOTH) == (m.V4_SELECTOR, m.V6_SELECTOR)
    assert selector_wire.encode((m.V4_SELECTOR, m.V6_SELECTOR)) == BOTH


@pytest.mark.parametrize("length", range(len(BOTH)))
def test_truncated_selectors_are_malformed(length: int) -> None:
    with pytest.raises(MalformedPacket):
        selector_wire.decode_untrusted(BOTH[:length])


@pytest.mark.parametrize("tail", [b"\0", V4])
def test_selectors_with_a_tail_are_malformed(tail: bytes) -> None:
    with pytest.raises(MalformedPacket):
        selector_wire.decode_untrusted(BOTH + tail)


def test_reserved_octets_are_ignored() -> None:
    assert selector_wire.decode_untrusted(b"\2\xff\xff\xff" + BOTH[4:]) == (m.V4_SELECTOR, m.V6_SELECTOR)


def test_selectors_of_unknown_types_are_left_out() -> None:
    fibre_channel = bytes.fromhex("09 00 0018") + bytes(20)
    nothing_at_all = bytes.fromhex("f1 00 0004")

    assert selector_wire.decode_untrusted(b"\4\0\0\0" + fibre_channel + V4 + nothing_at_all + V6) == (
        m.V4_SELECTOR,
        m.V6_SELECTOR,
    )
    assert selector_wire.decode_untrusted(b"\1\0\0\0" + fibre_channel) == ()


@pytest.mark.parametrize("length", [0, 3, 15, 17, 0xFFFF])
def test_selector_of_another_length_than_its_type_has_is_malformed(length: int) -> None:
    selector = V4[:2] + length.to_bytes(2) + V4[4:]

    with pytest.raises(MalformedPacket):
        selector_wire.decode_untrusted(b"\1\0\0\0" + selector + bytes(max(0, length - len(V4))))


def test_selector_that_ends_inside_its_own_header_is_malformed() -> None:
    """Even of an unknown type: its last octet would be the first of another selector."""
    with pytest.raises(MalformedPacket):
        selector_wire.decode_untrusted(bytes.fromhex("02000000 f1000003 000004"))


def test_selector_that_ends_before_it_begins_is_malformed() -> None:
    backwards = TrafficSelector(m.V4_SELECTOR.end, m.V4_SELECTOR.start)

    with pytest.raises(MalformedPacket):
        selector_wire.decode_untrusted(selector_wire.encode((backwards,)))


@pytest.mark.parametrize("ports", [(2, 1), (0xFFFF, 1), (0xFFFE, 0)])
def test_ports_that_end_before_they_begin_are_malformed(ports: tuple[int, int]) -> None:
    with pytest.raises(MalformedPacket):
        selector_wire.decode_untrusted(
            selector_wire.encode((TrafficSelector(b"\1\2\3\4", b"\1\2\3\4", 6, *ports),))
        )


def test_opaque_ports_are_no_mistake() -> None:
    opaque = TrafficSelector(b"\1\2\3\4", b"\1\2\3\4", 6, 0xFFFF, 0)

    assert selector_wire.decode_untrusted(selector_wire.encode((opaque,))) == (opaque,)


def test_as_many_selectors_as_can_be_counted_are_read() -> None:
    most = (m.V4_SELECTOR,) * 255

    assert selector_wire.decode_untrusted(selector_wire.encode(most)) == most
