"""The programs are run by the kernel, on datagrams between two sockets that need no privilege.

All of these look as if they had been sent to this machine; tests/netns/test_provider.py has others.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import pytest

from gateway.packets import arp, ip, ndp
from gateway.underlay.packet_filter import (
    NOTHING,
    Program,
    arp_requests,
    attach,
    ipv4_packets,
    ipv6_packets,
    solicitations,
)
from policies.addresses import Prefix
from policies.facts import ICMPV6, UDP

MAC = b"\x02\0\0\0\0\x01"
SOMEBODY = {4: ip_address("192.0.2.1").packed, 6: ip_address("2001:db8::1").packed}
POOLS: list[Prefix] = [
    ip_network(each)
    for each in ("198.51.100.64/26", "203.0.113.7/32", "10.0.0.0/8", "2001:db8:1::/112", "2001:db8:2::/48")
]
INSIDE = [
    "198.51.100.64",
    "198.51.100.127",
    "203.0.113.7",
    "10.255.255.255",
    "2001:db8:1::",
    "2001:db8:1::ffff",
]
INSIDE += ["2001:db8:2:ffff::1"]
OUTSIDE = ["198.51.100.63", "198.51.100.128", "203.0.113.6", "11.0.0.0", "2001:db8:1::1:0", "2001:db8:3::1"]


def accepted(program: Program, packets: Sequence[bytes]) -> list[bytes]:
    """Return those that a socket with this filter receives, whole."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        receiver.setblocking(False)
        attach(receiver, program)
        found = []
        for packet in packets:
            sender.send(packet)
            try:
                found.append(receiver.recv(65535))
            except BlockingIOError:
                continue
        return found


def packet_for(address: str, payload: bytes = bytes(8), protocol: int = UDP) -> bytes:
    destination = ip_address(address)
    return ip.build(SOMEBODY[destination.version], destination.packed, protocol, payload)


def request_for(address: str, operation: int = arp.REQUEST) -> bytes:
    return arp.ArpPacket(operation, MAC, SOMEBODY[4], bytes(6), ip_address(address).packed).encode()


def solicitation_of(address: str) -> bytes:
    target = ip_address(address).packed
    return ndp.encode_solicitation(SOMEBODY[6], ndp.solicited_node(target), target, MAC)


def of_version(addresses: list[str], version: int) -> list[str]:
    return [each for each in addresses if ip_address(each).version == version]


@pytest.mark.parametrize(("version", "program"), [(4, ipv4_packets(POOLS)), (6, ipv6_packets(POOLS))])
def test_packets_for_the_pools_of_its_family_are_accepted_whole_and_no_others(
    version: int, program: Program
) -> None:
    inside = [packet_for(each) for each in of_version(INSIDE, version)]
    outside = [packet_for(each) for each in of_version(OUTSIDE, version)]
    other_family = [packet_for(each) for each in of_version(INSIDE, 10 - version)]
    assert accepted(program, [*outside, *inside, *other_family]) == inside


def test_any_pools_and_addresses_are_told_apart() -> None:
    dice = random.Random(7637)
    for version, bits, program in ((4, 32, ipv4_packets), (6, 128, ipv6_packets)):
        for _ in range(20):
            numbers = [dice.getrandbits(bits) for _ in range(6)]
            pools: list[Prefix] = [
                ip_network((ip_address(number.to_bytes(bits // 8)), dice.randint(1, bits)), strict=False)
                for number in numbers
            ]
            # Some that differ in one bit only.
            numbers += [number ^ 1 << dice.randrange(bits) for number in numbers for _ in range(8)]
            addresses = [ip_address(number.to_bytes(bits // 8)) for number in numbers]
            packets = {each: packet_for(str(each)) for each in addresses}
            wanted = [packets[each] for each in addresses if any(each in pool for pool in pools)]
            assert accepted(program(pools), [packets[each] for each in addresses]) == wanted
            assert all(packet[0] >> 4 == version for packet in wanted)


def test_neighbour_discovery_between_machines_is_no_packet_for_a_pool() -> None:
    program = ipv6_packets(POOLS)
    kinds = range(256)
    messages = [packet_for("2001:db8:1::5", bytes([kind]) + bytes(23), ICMPV6) for kind in kinds]
    expected = [message for kind, message in zip(kinds, messages, strict=True) if kind not in ndp.DISCOVERY]
    assert accepted(program, messages) == expected
    assert accepted(program, [packet_for("2001:db8:1::5", b"", ICMPV6)]) == []


def test_arp_requests_for_pools_are_accepted_and_no_other_arp() -> None:
    program = arp_requests(POOLS)
    inside = [request_for(each) for each in of_version(INSIDE, 4)]
    others = [request_for(each) for each in of_version(OUTSIDE, 4)]
    others += [request_for("10.0.0.1", arp.REPLY), request_for("10.0.0.1")[:27]]
    assert accepted(program, [*others, *inside]) == inside


def test_solicitations_of_pools_are_accepted_and_no_other_packet() -> None:
    program = solicitations(POOLS)
    inside = [solicitation_of(each) for each in of_version(INSIDE, 6)]
    others = [solicitation_of(each) for each in of_version(OUTSIDE, 6)]
    others += [packet_for("2001:db8:1::5"), packet_for("10.0.0.1"), inside[0][:60]]
    advertised = ip_address("2001:db8:1::5").packed
    others.append(ndp.advertisement(advertised, SOMEBODY[6], advertised, MAC, router=False, solicited=True))
    assert accepted(program, [*others, *inside]) == inside


@pytest.mark.parametrize(
    "program", [ipv4_packets([]), ipv6_packets([]), arp_requests([]), solicitations([]), NOTHING]
)
def test_without_pools_nothing_is_accepted(program: Program) -> None:
    packets = [packet_for("10.0.0.1"), packet_for("2001:db8:1::5")]
    packets += [request_for("10.0.0.1"), solicitation_of("2001:db8:1::5")]
    assert accepted(program, packets) == []


def test_the_kernel_takes_as_many_pools_as_a_node_may_have() -> None:
    # The longest comparisons, of which none can be joined with its neighbour.
    pools: list[Prefix] = [ip_network(f"2001:db8:{number:x}::1/128") for number in range(64)]
    last = packet_for("2001:db8:3f::1")
    assert accepted(ipv6_packets(pools), [last]) == [last]
