"""Which interfaces the kernel's link events are about."""

from __future__ import annotations

import struct

import hypothesis
from hypothesis import strategies as st

from gateway.host.links import names


def event(name: str, kind: int = 16) -> bytes:
    attribute = struct.pack("=HH", 5 + len(name), 3) + name.encode() + b"\0"
    padded = attribute + bytes(-len(attribute) % 4)
    mtu = struct.pack("=HHI", 8, 4, 1500)
    body = struct.pack("=BxHiII", 0, 1, 7, 0x1043, 0xFFFFFFFF) + mtu + padded
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_events_of_new_and_gone_interfaces_name_them() -> None:
    assert list(names(event("vnet0") + event("a", 17))) == ["vnet0", "a"]


def test_other_messages_name_nothing() -> None:
    assert list(names(event("vnet0", 20) + event("vnet1"))) == ["vnet1"]


@hypothesis.given(st.binary(max_size=80))
def test_any_octets_come_to_an_end(datagram: bytes) -> None:
    assert len(list(names(datagram))) <= len(datagram)


@hypothesis.given(st.integers(0, 60), st.binary(min_size=1, max_size=4))
def test_damaged_event_comes_to_an_end(position: int, damage: bytes) -> None:
    whole = event("vnet0")
    damaged = whole[:position] + damage + whole[position + len(damage) :]
    assert len(list(names(damaged))) <= 2
