"""IP rewrite: both addresses of a packet exchanged for others, and what covers them put right.

Only the addresses change, so a checksum is not computed again: it gains what the old
words of the addresses were more than the new ones, modulo 0xFFFF. This is equation 3 of RFC 1624 for all
those words at once, since the sum of 16-bit words is the number that they spell (see
gateway.packets.checksum). A checksum that was wrong is wrong by as much afterwards, so the
damage is still found where it should be.
"""

from __future__ import annotations

import struct

import msgspec

from gateway.packets import ip
from policies.errors import MalformedPacket
from policies.facts import ICMP, ICMPV6, TCP, UDP

_WORD = struct.Struct("!H")

_UDP_LITE = 136

# Where the upper layer has a checksum that covers a pseudo header with the addresses. What is missing covers
# no address: ICMP over IPv4 (RFC 792), GRE, SCTP, ESP and others.
_IPV4_CHECKSUMS = {
    TCP: 16,  # RFC 9293 section 3.1
    UDP: 6,  # RFC 768
    33: 6,  # DCCP (RFC 4340 section 9.1)
    _UDP_LITE: 6,  # RFC 3828 section 3.1
    139: 4,  # HIP (RFC 7401 section 5.1.1)
}
_IPV6_CHECKSUMS = _IPV4_CHECKSUMS | {
    ICMPV6: 2,  # RFC 4443 section 2.3
    89: 12,  # OSPF (RFC 5340 section A.3.1)
    103: 2,  # PIM (RFC 7761 section 4.9)
    135: 4,  # Mobility (RFC 6275 section 6.1.1)
}

# What a sum of 0 is written as, where a checksum of 0 says that there is none (RFC 768, RFC 6935
# section 5; RFC 3828 section 3.1 wants the first alone).
_ZEROS = {UDP: 0xFFFF, _UDP_LITE: 0xFFFF}

# Most packets are TCP or UDP without options or extension headers, and no later fragments. Their octets
# up to flags and fragment offset, up to the header's checksum, that checksum, the addresses, what is up to
# the upper layer's checksum, that checksum; to read and to write. Then where they end.
_PLAIN_IPV4 = 0x45
_PLAIN_IPV4_LAYOUTS = {
    protocol: (
        struct.Struct(f"!6sH2sHQ{at}sH"),
        struct.Struct(f"!6sH2sH8s{at}sH"),
        ip.IPV4_HEADER_LENGTH + at + 2,
        _ZEROS.get(protocol, 0),
    )
    for protocol, at in ((TCP, 16), (UDP, 6))
}
_FRAGMENT_OFFSET = 0x1FFF
_PLAIN_IPV6_LAYOUTS = {
    protocol: (struct.Struct(f"!8s32s{at}sH"), ip.IPV6_HEADER_LENGTH + at + 2, _ZEROS.get(protocol, 0))
    for protocol, at in ((TCP, 16), (UDP, 6))
}

_SOURCE_ROUTES = (0x83, 0x89)  # loose and strict (RFC 791 section 3.1)
_HOME_ADDRESS = 0xC9  # an option of RFC 6275 section 6.3
_QUOTE = 8  # where an ICMP error has it


class _UpperLayer(msgspec.Struct, frozen=True, gc=False):
    """What is behind the IP headers, and which of their addresses its checksum covers."""

    protocol: int
    start: int
    fragment_offset: int
    """How many octets of it are in earlier fragments."""
    covers_source: bool = True
    covers_destination: bool = True


def rewritten(
    packet: bytes, source: bytes, destination: bytes, quoted: tuple[bytes, bytes] | None = None
) -> bytes:
    """Return the packet from `source` to `destination`, with every checksum that covers them updated.

    `packet` is one that `ip.decode_untrusted` accepted, without padding behind it, and all addresses are of
    its family. `quoted` are the new source and destination of the packet that an ICMP error is
    about, as far as it is quoted; for other packets they mean nothing. An ICMP error that is
    quoted itself keeps what it quotes. Options with addresses in them stay as they are.
    """
    if packet[0] == _PLAIN_IPV4:
        ipv4 = _PLAIN_IPV4_LAYOUTS.get(packet[9])
        if ipv4 is not None and len(packet) >= ipv4[2]:
            read, write, end, zero = ipv4
            before, fragment, time_to_live, header_checksum, old, between, checksum = read.unpack_from(packet)
            if not fragment & _FRAGMENT_OFFSET:
                addresses = source + destination
                difference = old - int.from_bytes(addresses)
                header_checksum = (header_checksum + difference) % 0xFFFF
                if checksum or not zero:
                    checksum = (checksum + difference) % 0xFFFF or zero
                return (
                    write.pack(before, fragment, time_to_live, header_checksum, addresses, between, checksum)
                    + packet[end:]
                )
    elif (ipv6 := _PLAIN_IPV6_LAYOUTS.get(packet[6])) is not None and packet[0] >> 4 == 6:
        layout, end, zero = ipv6
        before, old_addresses, between, checksum = layout.unpack_from(packet)
        addresses = source + destination
        if checksum or not zero:
            difference = int.from_bytes(old_addresses) - int.from_bytes(addresses)
            checksum = (checksum + difference) % 0xFFFF or zero
        return layout.pack(before, addresses, between, checksum) + packet[end:]
    upper = _find_upper_layer(packet)
    changed = _readdressed(packet, source, destination, upper)
    if quoted is not None and _is_error(packet, upper):
        _readdress_quote(changed, upper.start, quoted)
    return bytes(changed)


def _readdressed(packet: bytes, source: bytes, destination: bytes, upper: _UpperLayer) -> bytearray:
    """Exchange the addresses of a packet that may be cut off anywhere behind its IP headers."""
    changed = bytearray(packet)
    version, start = (4, 12) if packet[0] >> 4 == 4 else (6, 8)
    middle, end = start + len(source), start + 2 * len(source)
    from_source = int.from_bytes(packet[start:middle]) - int.from_bytes(source)
    from_destination = int.from_bytes(packet[middle:end]) - int.from_bytes(destination)
    changed[start:end] = source + destination
    if version == 4:
        _add(changed, 10, from_source + from_destination)
    within = (_IPV4_CHECKSUMS if version == 4 else _IPV6_CHECKSUMS).get(upper.protocol, -1)
    # A first fragment of TCP may end before the checksum, which then begins the second one.
    at = upper.start + within - upper.fragment_offset
    if within >= upper.fragment_offset and at + 2 <= len(packet):
        difference = from_source * upper.covers_source + from_destination * upper.covers_destination
        _add(changed, at, difference, _ZEROS.get(upper.protocol, 0))
    return changed


def _readdress_quote(packet: bytearray, start: int, addresses: tuple[bytes, bytes]) -> None:
    """Exchange the addresses of the packet that an ICMP error quotes, if all of its IP headers are there."""
    quote = bytes(packet[start + _QUOTE :])
    if not quote or quote[0] >> 4 != packet[0] >> 4:
        return
    try:
        upper = _find_upper_layer(quote)
    except MalformedPacket:
        return
    changed = _readdressed(quote, *addresses, upper)
    packet[start + _QUOTE :] = changed
    # An odd last octet counts as the first of its word (RFC 1071 section 1).
    _add(packet, start + 2, (int.from_bytes(quote) - int.from_bytes(changed)) << 8 * (len(quote) & 1))


def _add(packet: bytearray, at: int, difference: int, zero: int = 0) -> None:
    """Update a checksum: `difference` is what the old words were more than the new ones."""
    (checksum,) = _WORD.unpack_from(packet, at)
    if checksum or not zero:
        _WORD.pack_into(packet, at, (checksum + difference) % 0xFFFF or zero)


def _is_error(packet: bytes, upper: _UpperLayer) -> bool:
    if upper.fragment_offset:
        return False
    if packet[0] >> 4 == 4:
        return upper.protocol == ICMP and packet[upper.start] in ip.ICMP_ERRORS
    return upper.protocol == ICMPV6 and packet[upper.start] < 128


def _find_upper_layer(packet: bytes) -> _UpperLayer:
    """Raise MalformedPacket where not all IP headers are there."""
    return _find_behind_ipv4(packet) if packet[0] >> 4 == 4 else _find_behind_ipv6(packet)


def _find_behind_ipv4(packet: bytes) -> _UpperLayer:
    start = (packet[0] & 0xF) * 4
    if not ip.IPV4_HEADER_LENGTH <= start <= len(packet):
        raise MalformedPacket(f"IPv4 header of {start} octets in {len(packet)}")
    # A sender puts the last destination into the pseudo header, which is the one that the receiver will
    # see. The header has it once the route is used up: its pointer is behind it (RFC 791 section 3.1).
    routed = start > ip.IPV4_HEADER_LENGTH and any(
        option[0] in _SOURCE_ROUTES and 2 < len(option) >= option[2]
        for option in ip.ipv4_options(packet[:start])
    )
    offset = ((packet[6] << 8 | packet[7]) & _FRAGMENT_OFFSET) * 8
    return _UpperLayer(packet[9], start, offset, covers_destination=not routed)


def _find_behind_ipv6(packet: bytes) -> _UpperLayer:
    if len(packet) < ip.IPV6_HEADER_LENGTH:
        raise MalformedPacket(f"{len(packet)} octets are too short for an IPv6 header")
    protocol, start, offset = packet[6], ip.IPV6_HEADER_LENGTH, 0
    covers_source = covers_destination = True
    for kind, header in ip.ipv6_extensions(packet, len(packet)):
        protocol = header[0]
        start += len(header)
        if kind == ip.FRAGMENT:
            offset = (header[2] << 8 | header[3]) & 0xFFF8
        elif kind == ip.ROUTING and header[3]:
            covers_destination = False  # but the last segment (RFC 8200 section 8.1)
        elif kind == ip.DESTINATION_OPTIONS and _has_home_address(header):
            covers_source = False  # but the home address (RFC 6275 section 11.3.1)
    return _UpperLayer(protocol, start, offset, covers_source, covers_destination)


def _has_home_address(header: bytes) -> bool:
    position = 2
    while position + 1 < len(header):
        if header[position] == _HOME_ADDRESS:
            return True
        # All options but one octet of padding have a length (RFC 8200 section 4.2).
        position += 1 if header[position] == 0 else 2 + header[position + 1]
    return False
