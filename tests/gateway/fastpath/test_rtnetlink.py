"""rtnetlink's messages, as the kernel writes and reads them."""

from __future__ import annotations

import struct
from contextlib import suppress

import hypothesis
import pytest
from hypothesis import strategies as st

from gateway.fastpath import rtnetlink
from gateway.fastpath.rtnetlink import Link, Neighbour, Refused, Route, Unspecific, decode
from policies.errors import MalformedPacket

UP = 1 | 0x40 | 0x10000
MAC = bytes.fromhex("020000000001")


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes, sequence: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body


def link(
    *attributes: bytes, kind: int = 16, family: int = 0, device: int = 1, flags: int = UP, changed: int = 0
) -> bytes:
    body = struct.pack("=BxHiII", family, device, 7, flags, changed)
    return message(kind, body + attribute(3, b"u0\0") + attribute(1, MAC) + b"".join(attributes))


def neighbour(
    kind: int = 28, family: int = 2, state: int = 2, flags: int = 0, address: bytes = b"\n\0\0\1"
) -> bytes:
    body = struct.pack("=BxxxiHBB", family, 7, state, flags, 0)
    return message(kind, body + attribute(1, address) + attribute(2, MAC))


def route(*attributes: bytes, kind: int = 24, family: int = 2, length: int = 24, type: int = 1) -> bytes:
    body = struct.pack("=BBBBBBBBI", family, length, 0, 0, 254, 3, 0, type, 0)
    return message(kind, body + b"".join(attributes))


PREFIX = attribute(1, b"\n\1\0\0")
OUT = attribute(4, struct.pack("=I", 7))
GATEWAY = attribute(5, b"\n\0\0\xfe")
ROUTER6 = bytes.fromhex("fe80" + "00" * 13 + "01")


@pytest.mark.parametrize(
    ("octets", "meaning"),
    [
        (link(), Link(7, True, MAC, False)),
        (link(flags=UP & ~0x10000, changed=0x10000), Link(7, False, MAC, True)),  # no carrier
        (link(flags=UP & ~0x40), Link(7, False, MAC, False)),
        (link(kind=17), Link(7, False, MAC, True)),
        (link(device=772), Link(7, True, b"", False)),  # loopback is no Ethernet
        (link(attribute(4, struct.pack("=I", 1400))), Link(7, True, MAC, False, 1400)),
        (link(attribute(4, struct.pack("=I", 1 << 20))), Link(7, True, MAC, False, 0xFFFF)),
        (link(kind=17, family=7), None),  # it left a bridge
        (neighbour(), Neighbour(7, b"\n\0\0\1", MAC, 2)),
        (neighbour(kind=29), Neighbour(7, b"\n\0\0\1", MAC, 0)),
        (neighbour(family=10, address=ROUTER6), Neighbour(7, ROUTER6, MAC, 2)),
        (neighbour(family=7), None),  # a bridge's forwarding entry
        (neighbour(flags=8), None),  # a proxy's
        (route(PREFIX, OUT, GATEWAY), Route(False, b"\n\1\0\0", 24, 1, 7, b"\n\0\0\xfe", True)),
        (route(OUT, kind=25, length=0), Route(True, bytes(4), 0, 1, 7, b"", True)),
        (route(family=10, length=0, type=7), Route(False, bytes(16), 0, 7, 0, b"", True)),
        (
            route(PREFIX, OUT, attribute(18, struct.pack("=H", 10) + ROUTER6)),  # RFC 8950
            Route(False, b"\n\1\0\0", 24, 1, 7, ROUTER6, True),
        ),
        (route(PREFIX, attribute(0x8009, bytes(16))), Route(False, b"\n\1\0\0", 24, 1, 0, b"", False)),
        (route(PREFIX, OUT, attribute(21, b"\1\0")), Route(False, b"\n\1\0\0", 24, 1, 7, b"", False)),
        (route(family=28), None),  # MPLS
        (message(32, b""), Unspecific()),  # a rule
        (message(21, b""), Unspecific()),  # an address is gone
        (message(104, b""), Unspecific()),  # a nexthop object
        (message(2, struct.pack("=i", -101)), Refused(101)),
        (message(2, bytes(4)), Refused(0)),
        (message(99, b""), None),
    ],
)
def test_each_message_means_what_the_kernel_says(octets: bytes, meaning: rtnetlink.Message | None) -> None:
    assert [found for _sequence, found in decode(octets)] == ([] if meaning is None else [meaning])


def test_several_messages_of_a_datagram_are_read_with_their_numbers() -> None:
    datagram = message(2, bytes(4), 5) + neighbour() + message(2, struct.pack("=i", -2), 6)

    assert [sequence for sequence, _ in decode(datagram)] == [5, 0, 6]


@pytest.mark.parametrize(
    "octets",
    [
        b"\x10",
        link()[:-1],
        message(2, b""),
        message(16, bytes(15)),
        message(28, bytes(11)),
        message(24, b"\2" + bytes(10)),
        neighbour(address=b"\n\0\0"),
        route(attribute(1, b"\n")),
        route(attribute(4, b"\n")),
        route(attribute(5, b"\n")),
        route(length=33),
        route(struct.pack("=HH", 3, 1)),
        route(struct.pack("=HH", 9, 1) + bytes(4)),
    ],
)
def test_damaged_message_is_malformed(octets: bytes) -> None:
    with pytest.raises(MalformedPacket):
        list(decode(octets))


@hypothesis.given(
    st.sampled_from([link(), neighbour(), route(PREFIX, OUT, GATEWAY), route(attribute(18, ROUTER6))]),
    st.integers(0, 80),
    st.binary(max_size=80),
)
def test_any_octets_decode_or_are_malformed(whole: bytes, position: int, damage: bytes) -> None:
    with suppress(MalformedPacket):
        list(decode(whole[:position] + damage + whole[position + len(damage) :]))


def test_route_is_asked_for_by_its_destination_and_the_source() -> None:
    asked = rtnetlink.ask_route(b"\n\1\0\5", b"\n\0\0\1", 9)

    assert asked == (
        struct.pack("=IHHII", len(asked), 26, 1, 9, 0)
        + struct.pack("=BBBBBBBBI", 2, 32, 32, 0, 0, 0, 0, 0, 0)
        + attribute(1, b"\n\1\0\5")
        + attribute(2, b"\n\0\0\1")
    )


def test_neighbour_is_used_without_anything_being_said_of_it() -> None:
    asked = rtnetlink.use_neighbour(7, ROUTER6, 9)

    assert asked == (
        struct.pack("=IHHII", len(asked), 28, 0x405, 9, 0)
        + struct.pack("=BxxxiHBB", 10, 7, 0, 1, 0)
        + attribute(1, ROUTER6)
    )
