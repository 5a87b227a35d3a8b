"""Which packets of an interface are for our pools: programs for the kernel's packet filter, classic BPF.

The kernel runs one for each packet of its protocol, so what is not ours costs no more than
that. A program sees a packet from its network header on. A load behind its end refuses it.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence
from ipaddress import collapse_addresses

import msgspec

from gateway.packets import arp, ip, ndp
from policies.addresses import Prefix
from policies.facts import ICMPV6

# <asm-generic/socket.h>
_SO_ATTACH_FILTER = 26

# Opcodes of <linux/filter.h> and <linux/bpf_common.h>.
LOAD_WORD = 0x20
LOAD_HALF = 0x28
LOAD_OCTET = 0x30
AND = 0x54
IF_EQUAL = 0x15
IF_GREATER = 0x25
RETURN = 0x06

WHOLE_PACKET = 0x40000
"""What an accepting program returns: how many octets are kept."""

# Where the kernel keeps what it knows beside a packet: SKF_AD_OFF + SKF_AD_PKTTYPE.
PACKET_TYPE = 0xFFFFF004

_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog

_VERSION_MASK = 0xF0
_IPV4_DESTINATION = 16
_IPV6_NEXT_HEADER = 6
_IPV6_DESTINATION = 24
_ICMPV6_TYPE = ip.IPV6_HEADER_LENGTH
_SOLICITED_TARGET = ip.IPV6_HEADER_LENGTH + 8
_ARP_OPERATION = 6
_ARP_TARGET = 24


class Instruction(msgspec.Struct, frozen=True, gc=False):
    """One step: what it does, how many are passed over if it holds and if it does not, and its operand."""

    code: int
    if_true: int
    if_false: int
    operand: int


Program = tuple[Instruction, ...]

_ACCEPT = Instruction(RETURN, 0, 0, WHOLE_PACKET)
_REFUSE = Instruction(RETURN, 0, 0, 0)

NOTHING: Program = (_REFUSE,)
"""Refuses every packet."""


def ipv4_packets(pools: Sequence[Prefix]) -> Program:
    """Accept IPv4 packets that were sent to this machine's MAC, for an address of a pool."""
    return (
        *_require(LOAD_OCTET, PACKET_TYPE, socket.PACKET_HOST),
        *_require(LOAD_OCTET, 0, 4 << 4, _VERSION_MASK),
        *_accept_within(_IPV4_DESTINATION, pools, 4),
    )


def ipv6_packets(pools: Sequence[Prefix]) -> Program:
    """Accept IPv6 packets that were sent to this machine's MAC, for an address of a pool.

    Not neighbour discovery: that is between machines of the link, and no VM's.
    """
    discovery = ndp.DISCOVERY
    return (
        *_require(LOAD_OCTET, PACKET_TYPE, socket.PACKET_HOST),
        *_require(LOAD_OCTET, 0, 6 << 4, _VERSION_MASK),
        Instruction(LOAD_OCTET, 0, 0, _IPV6_NEXT_HEADER),
        Instruction(IF_EQUAL, 0, 4, ICMPV6),
        Instruction(LOAD_OCTET, 0, 0, _ICMPV6_TYPE),
        Instruction(IF_GREATER, 2, 0, discovery[-1]),
        Instruction(IF_GREATER, 0, 1, discovery[0] - 1),
        _REFUSE,
        *_accept_within(_IPV6_DESTINATION, pools, 6),
    )


def arp_requests(pools: Sequence[Prefix]) -> Program:
    """Accept requests for the MAC of a pool's address, sent to everybody or to this machine (RFC 826)."""
    return (
        *_require_for_us_or(socket.PACKET_BROADCAST),
        *_require(LOAD_HALF, _ARP_OPERATION, arp.REQUEST),
        *_accept_within(_ARP_TARGET, pools, 4),
    )


def solicitations(pools: Sequence[Prefix]) -> Program:
    """Accept solicitations of a pool's address, sent to a group or to this machine (RFC 4861 section 4.3)."""
    return (
        *_require_for_us_or(socket.PACKET_MULTICAST),
        *_require(LOAD_OCTET, 0, 6 << 4, _VERSION_MASK),
        *_require(LOAD_OCTET, _IPV6_NEXT_HEADER, ICMPV6),
        *_require(LOAD_OCTET, _ICMPV6_TYPE, ndp.NEIGHBOUR_SOLICITATION),
        *_accept_within(_SOLICITED_TARGET, pools, 6),
    )


def attach(sock: socket.socket, program: Program) -> None:
    """Have a socket hear what a program accepts, in the place of the one before. Raises OSError."""
    octets = b"".join(
        _INSTRUCTION.pack(each.code, each.if_true, each.if_false, each.operand) for each in program
    )
    buffer = ctypes.create_string_buffer(octets, len(octets))
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(len(program), ctypes.addressof(buffer))
    )


def _require(load: int, position: int, value: int, mask: int | None = None) -> Program:
    masking = () if mask is None else (Instruction(AND, 0, 0, mask),)
    return (Instruction(load, 0, 0, position), *masking, Instruction(IF_EQUAL, 1, 0, value), _REFUSE)


def _require_for_us_or(packet_type: int) -> Program:
    return (
        Instruction(LOAD_OCTET, 0, 0, PACKET_TYPE),
        Instruction(IF_EQUAL, 2, 0, socket.PACKET_HOST),
        Instruction(IF_EQUAL, 1, 0, packet_type),
        _REFUSE,
    )


def _accept_within(position: int, pools: Sequence[Prefix], version: int) -> Program:
    """Accept packets that have an address of a pool at a position, and refuse the others."""
    steps: list[Instruction] = []
    for pool in collapse_addresses(each for each in pools if each.version == version):  # type: ignore[type-var]
        steps += _accept_prefix(position, pool)
    return (*steps, _REFUSE)


def _accept_prefix(position: int, pool: Prefix) -> list[Instruction]:
    comparisons: list[tuple[Instruction, ...]] = []
    network, mask = pool.network_address.packed, pool.netmask.packed
    for offset in range(0, len(network), 4):
        bits = int.from_bytes(mask[offset : offset + 4])
        if not bits:
            break
        load = Instruction(LOAD_WORD, 0, 0, position + offset)
        comparisons.append((load,) if bits == 0xFFFFFFFF else (load, Instruction(AND, 0, 0, bits)))
    steps: list[Instruction] = [_ACCEPT]
    for number in reversed(range(len(comparisons))):
        word = int.from_bytes(network[4 * number : 4 * number + 4])
        steps = [*comparisons[number], Instruction(IF_EQUAL, 0, len(steps), word), *steps]
    return steps
