"""ICMP (RFC 792) and ICMPv6 (RFC 4443): the errors and the echo replies that a gateway sends.

Every function takes a packet that `ip.decode_untrusted` accepted, and its facts.
Ask `may_be_told` before making an error, and limit how many are sent.
"""

from __future__ import annotations

import struct
from enum import Enum

from gateway.packets import ip
from gateway.packets.checksum import internet_checksum, transport_checksum, update
from policies.addresses import is_group_address
from policies.facts import ICMP, ICMPV6, PacketFacts

ECHO_REPLY = 0
UNREACHABLE = 3
ECHO_REQUEST = 8
TIME_EXCEEDED = 11
PARAMETER_PROBLEM = 12
FRAGMENTATION_NEEDED = 4  # a code of UNREACHABLE

V6_UNREACHABLE = 1
V6_TOO_BIG = 2
V6_TIME_EXCEEDED = 3
V6_PARAMETER_PROBLEM = 4
V6_ECHO_REQUEST = 128
V6_ECHO_REPLY = 129
V6_REDIRECT = 137

LONGEST_ERROR = 576  # RFC 1812 section 4.3.2.3, with the IP header
LONGEST_V6_ERROR = 1280  # RFC 4443 section 2.4 (c)

# RFC 1812 section 4.3.2.5: errors travel with precedence 6, internetwork control.
_ERROR_PRECEDENCE = 6 << 5

_HEADER = struct.Struct("!BBHI")  # type, code, checksum, and four octets of the type's own
_WORD = struct.Struct("!H")

_ABOUT_DELIVERY = frozenset({UNREACHABLE, TIME_EXCEEDED, PARAMETER_PROBLEM})
_LOOPBACK = bytes(15) + b"\x01"


class Unreachable(Enum):
    """Why a packet cannot be delivered: type and code of ICMP, then of ICMPv6."""

    NETWORK = (UNREACHABLE, 0, V6_UNREACHABLE, 0)
    HOST = (UNREACHABLE, 1, V6_UNREACHABLE, 3)
    PORT = (UNREACHABLE, 3, V6_UNREACHABLE, 4)
    PROHIBITED = (UNREACHABLE, 13, V6_UNREACHABLE, 1)
    """Administratively (RFC 4301 section 5.1.1)."""


def unreachable(source: bytes, packet: bytes, facts: PacketFacts, what: Unreachable) -> bytes:
    """Return the IP packet from `source` that tells the sender of `packet` why it is not delivered."""
    icmp_type, code, v6_type, v6_code = what.value
    if facts.version == 4:
        return _error(source, packet, facts, icmp_type, code)
    return _error(source, packet, facts, v6_type, v6_code)


def time_exceeded(source: bytes, packet: bytes, facts: PacketFacts) -> bytes:
    """Return the IP packet from `source` that tells the sender of `packet` that its hops are used up."""
    icmp_type = TIME_EXCEEDED if facts.version == 4 else V6_TIME_EXCEEDED
    return _error(source, packet, facts, icmp_type, 0)


def too_big(source: bytes, packet: bytes, facts: PacketFacts, mtu: int) -> bytes:
    """Return the IP packet from `source` that tells the sender of `packet` the MTU, in octets.

    RFC 1191 section 4 puts it into 16 bits for IPv4, RFC 4443 section 3.2 into 32 for IPv6.
    """
    if facts.version == 4:
        return _error(source, packet, facts, UNREACHABLE, FRAGMENTATION_NEEDED, min(mtu, 0xFFFF))
    return _error(source, packet, facts, V6_TOO_BIG, 0, mtu)


def is_about_delivery(facts: PacketFacts) -> bool:
    """Whether this says why a packet was not delivered; redirects and what else quotes one do not."""
    if facts.version == 4:
        return facts.protocol == ICMP and facts.icmp_type in _ABOUT_DELIVERY
    return facts.protocol == ICMPV6 and V6_UNREACHABLE <= facts.icmp_type <= V6_PARAMETER_PROBLEM


def reported_mtu(packet: bytes, facts: PacketFacts) -> int | None:
    """Return the MTU that a "too big" reports, in octets; None for any other message, or if it names none."""
    if facts.version == 4:
        is_report = facts.protocol == ICMP and (facts.icmp_type, facts.icmp_code) == (
            UNREACHABLE,
            FRAGMENTATION_NEEDED,
        )
    else:
        is_report = facts.protocol == ICMPV6 and facts.icmp_type == V6_TOO_BIG
    if not is_report or facts.is_fragment:
        return None
    rest: int = _HEADER.unpack_from(packet, facts.header_length)[3]
    return (rest & 0xFFFF if facts.version == 4 else rest) or None


def echo_reply(packet: bytes, facts: PacketFacts) -> bytes:
    """Return the whole IP packet that answers an echo request, from the address that was asked.

    Options and extension headers of the request are not repeated. The checksum is carried
    over, so that a request that was damaged gets an answer that is dropped.
    """
    message = bytearray(packet[facts.header_length : facts.total_length])
    reply = ECHO_REPLY if facts.version == 4 else V6_ECHO_REPLY
    # Swapping the addresses leaves the sum of ICMPv6's pseudo header as it was.
    checksum = update(_WORD.unpack_from(message, 2)[0], message[0] << 8, reply << 8)
    message[0] = reply
    message[2:4] = bytes(2)
    if checksum == 0 and not any(message):
        checksum = 0xFFFF  # all zeros are beyond an update
    _WORD.pack_into(message, 2, checksum)
    return ip.build(facts.destination, facts.source, facts.protocol, bytes(message))


def is_echo_request(facts: PacketFacts) -> bool:
    """Whether this is a whole echo request; a fragment of one cannot be answered."""
    if facts.is_fragment:
        return False
    if facts.version == 4:
        return facts.protocol == ICMP and facts.icmp_type == ECHO_REQUEST
    return facts.protocol == ICMPV6 and facts.icmp_type == V6_ECHO_REQUEST


def is_error(facts: PacketFacts) -> bool:
    """Whether this is an ICMP error; redirects of IPv4 count, as in RFC 1122 section 3.2.2."""
    if facts.version == 4:
        return facts.protocol == ICMP and facts.icmp_type in ip.ICMP_ERRORS
    return facts.protocol == ICMPV6 and 0 <= facts.icmp_type < 128


def may_be_told(facts: PacketFacts) -> bool:
    """Whether an ICMP error about this packet may be sent to its source.

    Never about an ICMP error, a redirect, a later fragment, a packet to a group, or one whose source is
    not a single host (RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e)).
    RFC 4443 lets "packet too big" be sent about multicast; we do not, because one packet to a
    group with a forged source would have every gateway on its way answer the victim.
    What facts cannot show, a broadcast address of a subnet or of its frame, is left to the caller.
    """
    if facts.fragment_offset or is_group_address(facts.destination):
        return False
    if is_error(facts) or (facts.protocol == ICMPV6 and facts.icmp_type == V6_REDIRECT):
        return False
    return _is_single_host(facts.source)


def _is_single_host(source: bytes) -> bool:
    if len(source) == 4:
        # This network, loopback, and from 224.0.0.0 up multicast, reserved and broadcast.
        return source[0] not in (0, 127) and source[0] < 224
    return source[0] != 0xFF and source != _LOOPBACK and any(source)


def _error(
    source: bytes, packet: bytes, facts: PacketFacts, icmp_type: int, code: int, rest: int = 0
) -> bytes:
    if facts.version == 4:
        room = LONGEST_ERROR - ip.IPV4_HEADER_LENGTH - _HEADER.size
        quote = packet[: min(facts.total_length, room)]
        message = _HEADER.pack(icmp_type, code, 0, rest) + quote
        message = _HEADER.pack(icmp_type, code, internet_checksum(message), rest) + quote
        header = ip.ipv4_header(source, facts.source, ICMP, len(message), traffic_class=_ERROR_PRECEDENCE)
        return header + message
    room = LONGEST_V6_ERROR - ip.IPV6_HEADER_LENGTH - _HEADER.size
    quote = packet[: min(facts.total_length, room)]
    message = _HEADER.pack(icmp_type, code, 0, rest) + quote
    checksum = transport_checksum(source, facts.source, ICMPV6, message)
    message = _HEADER.pack(icmp_type, code, checksum, rest) + quote
    return ip.build(source, facts.source, ICMPV6, message)
