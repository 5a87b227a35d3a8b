"""The packet that a trace asks about: in words, and in octets."""

from __future__ import annotations

import struct

import msgspec

from gateway.packets import ip
from gateway.packets.checksum import internet_checksum, transport_checksum
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.errors import ConfigurationError, Problem
from policies.facts import ICMP, ICMPV6, TCP, TCP_ACK, TCP_SYN, UDP

PROTOCOLS = ("tcp", "udp", "icmp")

_TCP = struct.Struct("!HHIIBBHHH")
_UDP = struct.Struct("!HHHH")
_ECHO = struct.Struct("!BBHHH")
_ECHO_REQUEST = {4: 8, 6: 128}


class Question(msgspec.Struct, frozen=True):
    """A packet in words: `size` is the IP packet's in octets, `via` the outer source if not its record's."""

    source: CustomerAddress
    destination: CustomerAddress
    tenant: str | None = None
    vsid: Vsid | None = None
    protocol: str = "icmp"
    source_port: int = 49152
    destination_port: int = 0
    size: int = 100
    hop_limit: int = 64
    dont_fragment: bool = True
    established: bool = False
    """For TCP: not the segment that opens the connection."""
    via: ProviderAddress | None = None
    site: str | None = None
    """The site that it comes from, if not the one that routes lead to its source by."""
    is_rewritten: bool = False
    """It comes from the underlay as it is: its source and destination are provider addresses."""


def unfit(path: str, message: str) -> ConfigurationError:
    """Say that a question does not fit."""
    return ConfigurationError([Problem(path, message)])


def packet(question: Question) -> bytes:
    """Return the IP packet, as whoever sends it would. Raises ConfigurationError where it cannot be."""
    source, destination = question.source, question.destination
    if len(source) != len(destination):
        raise unfit("to", f"{destination} is not of the same family as {source}")
    header_length = ip.IPV4_HEADER_LENGTH if source.version == 4 else ip.IPV6_HEADER_LENGTH
    protocol, header, checksum_at = _upper_layer(question, question.size - header_length)
    padding = question.size - header_length - len(header)
    if padding < 0:
        least = question.size - padding
        raise unfit("size", f"this {question.protocol} packet has at least {least} octets")
    segment = header + bytes(padding)
    if protocol == ICMP:
        checksum = internet_checksum(segment)
    else:
        checksum = transport_checksum(source, destination, protocol, segment)
    segment = segment[:checksum_at] + checksum.to_bytes(2) + segment[checksum_at + 2 :]
    if source.version == 6:
        return ip.build(source, destination, protocol, segment, hop_limit=question.hop_limit)
    return (
        ip.ipv4_header(
            source,
            destination,
            protocol,
            len(segment),
            ttl=question.hop_limit,
            dont_fragment=question.dont_fragment,
        )
        + segment
    )


def _upper_layer(question: Question, length: int) -> tuple[int, bytes, int]:
    """Return the protocol's number, its header, and where the checksum belongs in that."""
    ports = question.source_port, question.destination_port
    match question.protocol:
        case "tcp":
            flags = TCP_ACK if question.established else TCP_SYN
            return TCP, _TCP.pack(*ports, 0, 0, _TCP.size // 4 << 4, flags, 0xFFFF, 0, 0), 16
        case "udp":
            return UDP, _UDP.pack(*ports, max(length, _UDP.size), 0), 6
        case "icmp":
            version = question.source.version
            return ICMP if version == 4 else ICMPV6, _ECHO.pack(_ECHO_REQUEST[version], 0, 0, 1, 1), 2
        case other:
            raise unfit("protocol", f"{other!r} is none of {', '.join(PROTOCOLS)}")
