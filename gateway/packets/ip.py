"""IPv4 (RFC 791) and IPv6 (RFC 8200): read into facts, changed on the way, and built.

Only `decode_untrusted` looks at bytes that nobody has checked. The functions
that change a packet expect one that it has accepted, with the facts it gave.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from gateway.packets.checksum import internet_checksum, update
from policies.errors import MalformedPacket
from policies.facts import ICMP, ICMPV6, TCP, UDP, PacketFacts

IPV4_HEADER_LENGTH = 20
IPV6_HEADER_LENGTH = 40

# Version and header length, type of service, total length, identification, flags and
# fragment offset, time to live, protocol, header checksum, source, destination.
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_DONT_FRAGMENT = 0x4000
_MORE_FRAGMENTS = 0x2000
_OFFSET = 0x1FFF

# Version, traffic class and flow label; payload length, next header, hop limit, addresses.
_IPV6 = struct.Struct("!IHBB16s16s")
_FRAGMENT = struct.Struct("!BxHI")  # next header, offset and M, identification

HOP_BY_HOP = 0
ROUTING = 43
FRAGMENT = 44
AUTHENTICATION = 51
DESTINATION_OPTIONS = 60
_EXTENSIONS = frozenset({HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS})

# RFC 8200 section 4.1 asks a receiver to take the headers in any order; a chain
# longer than every header once, and destination options twice, only serves an attack.
_LONGEST_CHAIN = 6

_TCP = struct.Struct("!HH8xBB")  # ports, data offset, flags
_UDP = struct.Struct("!HHH")  # ports, length
_PORTS = struct.Struct("!HH")
_TTL_AND_CHECKSUM = struct.Struct("!BBH")
_WORD = struct.Struct("!H")

# RFC 792; an ICMPv6 error is any type below 128 (RFC 4443 section 2.1).
ICMP_ERRORS = frozenset({3, 4, 5, 11, 12})

# Source port, destination port, TCP flags, ICMP type, ICMP code, packet quoted.
_UpperLayer = tuple[int, int, int, int, int, PacketFacts | None]
_NO_UPPER_LAYER: _UpperLayer = (0, 0, 0, -1, -1, None)


def decode_untrusted(packet: bytes) -> PacketFacts:
    """Return the facts of the IP packet that `packet` begins with; what follows it is padding.

    Raises MalformedPacket and nothing else, whatever the bytes are. Checksums behind
    the IP header are not looked at.
    """
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        return _decode_ipv4(packet)
    if version == 6:
        return _decode_ipv6(packet)
    raise MalformedPacket(f"neither IPv4 nor IPv6: {packet[:1].hex() or 'no octets'}")


def _decode_ipv4(packet: bytes) -> PacketFacts:
    size = len(packet)
    if size < IPV4_HEADER_LENGTH:
        raise MalformedPacket(f"{size} octets are too short for an IPv4 header")
    first, service, total, identification, fragment, ttl, protocol, _, source, destination = (
        _IPV4.unpack_from(packet)
    )
    start = (first & 0xF) * 4
    if not IPV4_HEADER_LENGTH <= start <= total <= size:
        raise MalformedPacket(f"IPv4 header of {start} octets, packet of {total}, in {size}")
    # The words of a right header sum up to 0xFFFF (see gateway.packets.checksum).
    if int.from_bytes(packet[:start]) % 0xFFFF:
        raise MalformedPacket("IPv4 header with a wrong checksum")
    more = fragment & _MORE_FRAGMENTS != 0
    offset = (fragment & _OFFSET) * 8
    if more or offset:
        _check_fragment(protocol, offset, more, total - start)
    source_port, destination_port, tcp_flags, icmp_type, icmp_code, quoted = (
        _NO_UPPER_LAYER if offset else _decode_upper_layer(packet, 4, protocol, start, total, more)
    )
    return PacketFacts(
        4,
        source,
        destination,
        protocol,
        service,
        ttl,
        start,
        total,
        source_port,
        destination_port,
        tcp_flags,
        icmp_type,
        icmp_code,
        fragment & _DONT_FRAGMENT != 0,
        more,
        offset,
        identification,
        quoted,
    )


def _decode_ipv6(packet: bytes) -> PacketFacts:
    size = len(packet)
    if size < IPV6_HEADER_LENGTH:
        raise MalformedPacket(f"{size} octets are too short for an IPv6 header")
    first, payload_length, protocol, hop_limit, source, destination = _IPV6.unpack_from(packet)
    total = IPV6_HEADER_LENGTH + payload_length
    if total > size:
        raise MalformedPacket(f"IPv6 packet of {total} octets in {size}")
    start, more, offset, identification = IPV6_HEADER_LENGTH, False, 0, 0
    if protocol in _EXTENSIONS:
        protocol, start, more, offset, identification = _walk_extensions(packet, protocol, total)
        if more or offset:
            _check_fragment(protocol, offset, more, total - start)
    source_port, destination_port, tcp_flags, icmp_type, icmp_code, quoted = (
        _NO_UPPER_LAYER if offset else _decode_upper_layer(packet, 6, protocol, start, total, more)
    )
    return PacketFacts(
        6,
        source,
        destination,
        protocol,
        first >> 20 & 0xFF,
        hop_limit,
        start,
        total,
        source_port,
        destination_port,
        tcp_flags,
        icmp_type,
        icmp_code,
        False,
        more,
        offset,
        identification,
        quoted,
    )


def _walk_extensions(packet: bytes, following: int, end: int) -> tuple[int, int, bool, int, int]:
    """Return the upper-layer protocol, where it begins, and M, offset and identification of a fragment."""
    position = IPV6_HEADER_LENGTH
    more, offset, identification = False, 0, 0
    for kind, header in ipv6_extensions(packet, end):
        following = header[0]
        position += len(header)
        if kind == FRAGMENT:
            _, fragment, identification = _FRAGMENT.unpack(header)
            more, offset = fragment & 1 != 0, fragment & 0xFFF8
    return following, position, more, offset, identification


def _check_fragment(protocol: int, offset: int, more: bool, length: int) -> None:
    # RFC 8200 section 4.5 has both for IPv6; what breaks them in IPv4 cannot be reassembled either.
    if more and length % 8:
        raise MalformedPacket(f"fragment with {length} octets, and more to follow")
    if offset + length > 0xFFFF:
        raise MalformedPacket(f"fragment that ends at octet {offset + length}")
    # RFC 1858 section 3.2: it would overwrite the flags of a TCP header that was judged without them.
    if protocol == TCP and offset == 8:
        raise MalformedPacket("TCP fragment that begins within the TCP header")


def _decode_upper_layer(
    packet: bytes, version: int, protocol: int, start: int, end: int, more: bool
) -> _UpperLayer:
    length = end - start
    if protocol == UDP:
        if length < 8:
            raise MalformedPacket(f"{length} octets are too short for a UDP header")
        source_port, destination_port, claimed = _UDP.unpack_from(packet, start)
        if claimed < 8 or (claimed > length and not more):
            raise MalformedPacket(f"UDP datagram of {claimed} octets in {length}")
        return source_port, destination_port, 0, -1, -1, None
    if protocol == TCP:
        # RFC 1858 section 3.1: a first fragment without the flags hides what it opens.
        if length < 16:
            raise MalformedPacket(f"{length} octets are too short for a TCP header")
        source_port, destination_port, data_offset, tcp_flags = _TCP.unpack_from(packet, start)
        header_length = data_offset >> 4 << 2
        if header_length < 20 or (header_length > length and not more):
            raise MalformedPacket(f"TCP header of {header_length} octets in {length}")
        return source_port, destination_port, tcp_flags, -1, -1, None
    if protocol == (ICMP if version == 4 else ICMPV6):
        if length < 8:
            raise MalformedPacket(f"{length} octets are too short for an ICMP message")
        icmp_type, icmp_code = packet[start], packet[start + 1]
        quoted = None
        if icmp_type in ICMP_ERRORS if version == 4 else icmp_type < 128:
            quoted = _decode_quote(packet[start + 8 : end], version)
        return 0, 0, 0, icmp_type, icmp_code, quoted
    return _NO_UPPER_LAYER


def _decode_quote(quote: bytes, version: int) -> PacketFacts | None:
    """Return the facts of the packet that an ICMP error quotes, or None where it has not all IP headers.

    A quote is cut where its router pleased and was changed on the way, so lengths and
    checksums prove nothing, and fields that are cut off are left at their defaults. A quoted
    ICMP error is not followed further.
    """
    if not quote or quote[0] >> 4 != version:
        return None
    size = len(quote)
    dont_fragment = more = False
    offset = identification = 0
    if version == 4:
        if size < IPV4_HEADER_LENGTH:
            return None
        first, service, total, identification, fragment, hop_limit, protocol, _, source, destination = (
            _IPV4.unpack_from(quote)
        )
        start = (first & 0xF) * 4
        if not IPV4_HEADER_LENGTH <= start <= size:
            return None
        dont_fragment = fragment & _DONT_FRAGMENT != 0
        more = fragment & _MORE_FRAGMENTS != 0
        offset = (fragment & _OFFSET) * 8
    else:
        if size < IPV6_HEADER_LENGTH:
            return None
        first, payload_length, protocol, hop_limit, source, destination = _IPV6.unpack_from(quote)
        service, total = first >> 20 & 0xFF, IPV6_HEADER_LENGTH + payload_length
        try:
            protocol, start, more, offset, identification = _walk_extensions(quote, protocol, size)
        except MalformedPacket:
            return None
    source_port = destination_port = tcp_flags = 0
    icmp_type = icmp_code = -1
    if not offset:
        if protocol in (TCP, UDP) and size >= start + 4:
            source_port, destination_port = _PORTS.unpack_from(quote, start)
            if protocol == TCP and size >= start + 14:
                tcp_flags = quote[start + 13]
        elif protocol == (ICMP if version == 4 else ICMPV6) and size >= start + 2:
            icmp_type, icmp_code = quote[start], quote[start + 1]
    return PacketFacts(
        version,
        source,
        destination,
        protocol,
        service,
        hop_limit,
        start,
        total,
        source_port,
        destination_port,
        tcp_flags,
        icmp_type,
        icmp_code,
        dont_fragment,
        more,
        offset,
        identification,
    )


def with_hop_limit(packet: bytes, hop_limit: int) -> bytes:
    """Return the packet with another TTL or hop limit, from 0 to 255."""
    if packet[0] >> 4 == 6:
        return b"%b%c%b" % (packet[:7], hop_limit, packet[8:])
    ttl, protocol, checksum = _TTL_AND_CHECKSUM.unpack_from(packet, 8)
    checksum = update(checksum, ttl << 8, hop_limit << 8)
    return packet[:8] + _TTL_AND_CHECKSUM.pack(hop_limit, protocol, checksum) + packet[12:]


def with_ecn(packet: bytes, ecn: int) -> bytes:
    """Return the packet with another ECN field, the two bits of RFC 3168."""
    (first,) = _WORD.unpack_from(packet)
    if packet[0] >> 4 == 6:
        return _WORD.pack(first & 0xFFCF | ecn << 4) + packet[2:]
    changed = first & 0xFFFC | ecn
    (checksum,) = _WORD.unpack_from(packet, 10)
    checksum = update(checksum, first, changed)
    return _WORD.pack(changed) + packet[2:10] + _WORD.pack(checksum) + packet[12:]


def ipv4_options(header: bytes) -> Iterator[bytes]:
    """Yield the options of an IPv4 header, each from its type on, up to the first that makes no sense."""
    position = IPV4_HEADER_LENGTH
    while position < len(header) and header[position] != 0:
        if header[position] == 1:
            position += 1
            continue
        length = header[position + 1] if position + 1 < len(header) else 0
        if length < 2 or position + length > len(header):
            return
        yield header[position : position + length]
        position += length


def ipv6_extensions(packet: bytes, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the octets of each extension header of an IPv6 packet that ends at `end`.

    In a later fragment the chain ends with the fragment header; RFC 7112 section 5 wants the
    whole chain in the first. Raises MalformedPacket at a header that makes no sense.
    """
    kind, position = packet[6], IPV6_HEADER_LENGTH
    seen: list[int] = []
    while kind in _EXTENSIONS:
        if len(seen) == _LONGEST_CHAIN:
            raise MalformedPacket(f"more than {_LONGEST_CHAIN} IPv6 extension headers")
        if kind == HOP_BY_HOP and seen:
            raise MalformedPacket("IPv6 hop-by-hop options that are not the first header")
        if position + 8 > end:
            raise MalformedPacket(f"IPv6 header {kind} is cut off")
        if kind == FRAGMENT:
            if kind in seen:
                raise MalformedPacket("IPv6 packet with two fragment headers")
            length = 8
        elif kind == AUTHENTICATION:
            length = (packet[position + 1] + 2) * 4  # RFC 4302 section 2.2
        else:
            length = (packet[position + 1] + 1) * 8
        if position + length > end:
            raise MalformedPacket("IPv6 extension header is cut off")
        header = packet[position : position + length]
        yield kind, header
        seen.append(kind)
        if kind == FRAGMENT and (header[2] << 8 | header[3]) & 0xFFF8:
            return
        kind = header[0]
        position += length


def ipv4_header(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload_length: int,
    *,
    ttl: int = 64,
    traffic_class: int = 0,
    identification: int = 0,
    dont_fragment: bool = True,
) -> bytes:
    """Return a header without options. Without DF, give each packet its own identification (RFC 6864)."""
    header = _IPV4.pack(
        0x45,
        traffic_class,
        IPV4_HEADER_LENGTH + payload_length,
        identification,
        _DONT_FRAGMENT if dont_fragment else 0,
        ttl,
        protocol,
        0,
        source,
        destination,
    )
    return header[:10] + _WORD.pack(internet_checksum(header)) + header[12:]


def ipv6_header(
    source: bytes,
    destination: bytes,
    next_header: int,
    payload_length: int,
    *,
    hop_limit: int = 64,
    traffic_class: int = 0,
) -> bytes:
    """Return a header with flow label 0."""
    return _IPV6.pack(
        6 << 28 | traffic_class << 20, payload_length, next_header, hop_limit, source, destination
    )


def build(source: bytes, destination: bytes, protocol: int, payload: bytes, *, hop_limit: int = 64) -> bytes:
    """Return a whole packet of the addresses' family; IPv4 with DF set."""
    if len(source) == 4:
        return ipv4_header(source, destination, protocol, len(payload), ttl=hop_limit) + payload
    return ipv6_header(source, destination, protocol, len(payload), hop_limit=hop_limit) + payload
