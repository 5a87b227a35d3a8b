"""Echo requests and what comes back, as octets."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.doctor.echo import SMALLEST, Reply, TooBig, Unreachable, decode_untrusted, request
from gateway.packets.checksum import internet_checksum

TARGET = {4: ipaddress.ip_address("198.51.100.11").packed, 6: ipaddress.ip_address("2001:db8::11").packed}


def quoted(version: int) -> bytes:
    """The beginning of a packet of ours, as an ICMP error quotes it."""
    if version == 4:
        return b"\x45" + bytes(15) + TARGET[4] + bytes(8)
    return b"\x60" + bytes(23) + TARGET[6] + bytes(8)


def received(version: int, message: bytes) -> bytes:
    """As a raw socket gives it: IPv4 with its header."""
    return b"\x46" + bytes(23) + message if version == 4 else message


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [48, 576, 1500, 9000])
def test_a_request_makes_a_packet_of_the_size_that_is_asked_for(version: int, size: int) -> None:
    packet = request(version, 7, 9, max(size, SMALLEST[version]))
    assert len(packet) + {4: 20, 6: 40}[version] == max(size, SMALLEST[version])
    if version == 4:
        assert internet_checksum(packet) == 0


@pytest.mark.parametrize("version", [4, 6])
def test_a_reply_is_known_by_its_numbers(version: int) -> None:
    reply = bytes({4: [0], 6: [129]}[version]) + bytes(3) + (7).to_bytes(2) + (9).to_bytes(2) + bytes(100)
    assert decode_untrusted(version, received(version, reply)) == Reply(7, 9)


@pytest.mark.parametrize(
    ("version", "head", "found"),
    [
        (4, bytes([3, 4, 0, 0, 0, 0]) + (1400).to_bytes(2), TooBig(TARGET[4], 1400)),
        (6, bytes([2, 0, 0, 0]) + (1400).to_bytes(4), TooBig(TARGET[6], 1400)),
        (4, bytes([3, 1, 0, 0, 0, 0, 0, 0]), Unreachable(TARGET[4])),
        (6, bytes([1, 3, 0, 0, 0, 0, 0, 0]), Unreachable(TARGET[6])),
        (4, bytes([11, 0, 0, 0, 0, 0, 0, 0]), None),
        (6, bytes([135, 0, 0, 0, 0, 0, 0, 0]), None),
    ],
)
def test_what_a_router_says_is_read_with_whose_packet_it_was(
    version: int, head: bytes, found: TooBig | Unreachable | None
) -> None:
    octets = received(version, head + quoted(version))
    assert decode_untrusted(version, octets) == found
    assert decode_untrusted(version, octets[: 24 + 8 + 10] if version == 4 else octets[:20]) is None


@given(st.sampled_from([4, 6]), st.binary(max_size=80))
def test_any_octets_are_read(version: int, octets: bytes) -> None:
    found = decode_untrusted(version, octets)
    assert found is None or isinstance(found, Reply | TooBig | Unreachable)
