from __future__ import annotations

import struct

import pytest

from gateway.packets import icmp, ip
from gateway.packets.checksum import internet_checksum, transport_checksum
from gateway.packets.rewriting import rewritten
from policies.addresses import Address
from policies.facts import ICMP, ICMPV6, TCP, UDP
from tests.gateway.packets.by_hand import (
    RECORD_ROUTE,
    ROUTER_ALERT,
    SEGMENT,
    V4,
    V6,
    extension,
    fragment_header,
    ipv4,
    ipv6,
)

V4_PROVIDER = (Address.parse("198.51.100.130"), Address.parse("203.0.113.7"))
V6_PROVIDER = (Address.parse("2001:db8:1::82"), Address.parse("2001:db8:2::7"))
PROVIDER = {4: V4_PROVIDER, 6: V6_PROVIDER}

BOTH = pytest.mark.parametrize("version", [4, 6])


def with_checksum(segment: bytes, at: int, ends: tuple[bytes, bytes], protocol: int) -> bytes:
    """The segment with its checksum put right behind the pseudo header of these ends."""
    cleared = segment[:at] + bytes(2) + segment[at + 2 :]
    checksum = transport_checksum(*ends, protocol, cleared)
    return segment[:at] + checksum.to_bytes(2) + segment[at + 2 :]


def segment(ends: tuple[bytes, bytes]) -> bytes:
    return with_checksum(SEGMENT, 16, ends, TCP)


def datagram(ends: tuple[bytes, bytes], data: bytes = b"data") -> bytes:
    unchecked = struct.pack("!HHHH", 49153, 53, 8 + len(data), 0) + data
    return with_checksum(unchecked, 6, ends, UDP)


def packet_of(version: int, protocol: int, payload: bytes) -> bytes:
    return ipv4(payload, protocol=protocol) if version == 4 else ipv6(payload, protocol)


def ends_of(version: int) -> tuple[bytes, bytes]:
    return V4 if version == 4 else V6


def payload_of(packet: bytes) -> bytes:
    return packet[ip.decode_untrusted(packet).header_length :]


@BOTH
def test_packet_has_the_new_addresses_and_right_checksums_and_is_the_same_otherwise(version: int) -> None:
    packet = packet_of(version, TCP, segment(ends_of(version)))

    changed = rewritten(packet, *PROVIDER[version])

    facts = ip.decode_untrusted(changed)  # which checks the header
    assert (facts.source, facts.destination) == PROVIDER[version]
    assert payload_of(changed) == segment(PROVIDER[version])
    addresses = slice(12, 20) if version == 4 else slice(8, 40)
    header_checksum = slice(10, 12) if version == 4 else slice(0)
    same = bytearray(changed)
    for part in (addresses, header_checksum):
        same[part] = packet[part]
    same[facts.header_length :] = payload_of(packet)
    assert same == packet


def test_update_is_equation_3_of_rfc_1624() -> None:
    """Section 4: from 0xDD2F by 0x5555 to 0x3285 it is 0x0000, and not the 0xFFFF of RFC 1141."""
    header = bytearray(ip.ipv4_header(b"\x55\x55\x00\x01", V4[1], 47, 0))
    (checksum,) = struct.unpack_from("!H", header, 10)
    identification = (0xFFFF - 0xDD2F - (0xFFFF - checksum)) % 0xFFFF
    struct.pack_into("!HH", header, 4, identification, 0x4000)
    struct.pack_into("!H", header, 10, 0xDD2F)
    ip.decode_untrusted(bytes(header))

    changed = rewritten(bytes(header), b"\x32\x85\x00\x01", V4[1])

    assert changed[10:12] == bytes(2)


@BOTH
@pytest.mark.parametrize("wrong_by", [1, 0x1234, 0xFFFE])
def test_wrong_checksum_is_wrong_by_as_much_afterwards(version: int, wrong_by: int) -> None:
    right = segment(ends_of(version))
    (checksum,) = struct.unpack_from("!H", right, 16)
    damaged = right[:16] + ((checksum + wrong_by) % 0xFFFF).to_bytes(2) + right[18:]

    changed = payload_of(rewritten(packet_of(version, TCP, damaged), *PROVIDER[version]))

    (expected,) = struct.unpack_from("!H", segment(PROVIDER[version]), 16)
    assert struct.unpack_from("!H", changed, 16)[0] == (expected + wrong_by) % 0xFFFF


@BOTH
@pytest.mark.parametrize("protocol", [UDP, 136])
def test_datagram_without_a_checksum_gets_none(version: int, protocol: int) -> None:
    """RFC 768, and RFC 6935 section 5 for IPv6."""
    unchecked = struct.pack("!HHHH", 49153, 53, 12, 0) + b"data"

    changed = rewritten(packet_of(version, protocol, unchecked), *PROVIDER[version])

    assert payload_of(changed) == unchecked


@BOTH
@pytest.mark.parametrize("protocol", [UDP, 136])
def test_datagram_whose_checksum_becomes_0_says_0xffff(version: int, protocol: int) -> None:
    """RFC 768; RFC 3828 section 3.1 for UDP-Lite."""
    unchecked = struct.pack("!HHHH", 49153, 53, 10, 0) + bytes(2)
    data = transport_checksum(*PROVIDER[version], protocol, unchecked).to_bytes(2)
    right = with_checksum(unchecked[:8] + data, 6, ends_of(version), protocol)

    changed = payload_of(rewritten(packet_of(version, protocol, right), *PROVIDER[version]))

    assert changed[6:8] == b"\xff\xff"
    assert transport_checksum(*PROVIDER[version], protocol, changed) in {0, 0xFFFF}


@BOTH
def test_tcp_checksum_becomes_0_and_is_no_longer_like_any_other_number(version: int) -> None:
    cleared = SEGMENT[:16] + bytes(4) + SEGMENT[20:]
    sequence = transport_checksum(*PROVIDER[version], TCP, cleared[:4] + bytes(2) + cleared[6:])
    cleared = cleared[:4] + sequence.to_bytes(2) + cleared[6:]
    packet = packet_of(version, TCP, with_checksum(cleared, 16, ends_of(version), TCP))

    changed = rewritten(packet, *PROVIDER[version])

    assert payload_of(changed) == cleared
    assert rewritten(changed, *ends_of(version)) == packet


@pytest.mark.parametrize("options", [RECORD_ROUTE, ROUTER_ALERT, bytes(40)])
def test_ipv4_options_stay_as_they_are(options: bytes) -> None:
    changed = rewritten(ipv4(segment(V4), protocol=TCP, options=options), *V4_PROVIDER)

    facts = ip.decode_untrusted(changed)
    assert changed[20 : 20 + len(options)] == options
    assert (facts.source, facts.destination) == V4_PROVIDER
    assert payload_of(changed) == segment(V4_PROVIDER)


@pytest.mark.parametrize("kind", [0x83, 0x89])
def test_source_route_that_goes_on_has_the_last_destination_in_the_checksum(kind: int) -> None:
    """RFC 791 section 3.1: it goes on as long as the pointer is not behind it."""
    last = Address.parse("10.9.8.7")
    option = bytes([kind, 7, 4]) + last
    packet = ipv4(segment((V4[0], last)), protocol=TCP, options=option)

    changed = rewritten(packet, *V4_PROVIDER)

    assert payload_of(changed) == segment((V4_PROVIDER[0], last))


def test_source_route_that_is_used_up_has_the_last_destination_in_the_header() -> None:
    option = bytes([0x83, 7, 8]) + Address.parse("10.9.8.7")

    changed = rewritten(ipv4(segment(V4), protocol=TCP, options=option), *V4_PROVIDER)

    assert payload_of(changed) == segment(V4_PROVIDER)


@pytest.mark.parametrize(
    ("version", "protocol"), [(4, ICMP), (4, ICMPV6), (4, 132), (6, 132), (4, 47), (6, 47), (4, 50), (6, 50)]
)
def test_what_has_no_pseudo_header_is_left_alone(version: int, protocol: int) -> None:
    """ICMP over IPv4 (RFC 792), SCTP (RFC 9260), GRE (RFC 2784), ESP (RFC 4303)."""
    payload = bytes([8, 0, 0x12, 0x34]) + bytes(range(32))

    changed = rewritten(packet_of(version, protocol, payload), *PROVIDER[version])

    assert payload_of(changed) == payload


@pytest.mark.parametrize(
    ("protocol", "at"), [(33, 6), (136, 6), (139, 4), (ICMPV6, 2), (89, 12), (103, 2), (135, 4)]
)
def test_every_upper_layer_with_a_pseudo_header_is_known(protocol: int, at: int) -> None:
    """DCCP, UDP-Lite, HIP; over IPv6 also ICMPv6, OSPF, PIM and Mobility."""
    message = bytes([128, 0]) + bytes(range(2, 40))
    for version in (4, 6) if protocol in {33, 136, 139} else (6,):
        right = with_checksum(message, at, ends_of(version), protocol)

        changed = rewritten(packet_of(version, protocol, right), *PROVIDER[version])

        assert payload_of(changed) == with_checksum(message, at, PROVIDER[version], protocol)


def test_extension_headers_are_passed_by() -> None:
    """RFC 8200 section 4.1; what an authentication header covers cannot be put right."""
    authentication = bytes([ip.DESTINATION_OPTIONS, 4]) + bytes(22)
    chain = extension(ip.ROUTING) + extension(ip.AUTHENTICATION) + authentication
    chain += extension(ip.FRAGMENT, bytes(14)) + fragment_header(TCP, 0, False)
    packet = ipv6(chain + segment(V6), ip.HOP_BY_HOP)

    changed = rewritten(packet, *V6_PROVIDER)

    assert changed[40:] == chain + segment(V6_PROVIDER)


def test_packet_with_segments_left_has_the_last_segment_in_the_checksum() -> None:
    """RFC 8200 section 8.1."""
    last = Address.parse("fd00:9::9")
    routing = extension(TCP, bytes([0, 1]) + bytes(4) + last)

    changed = rewritten(ipv6(routing + segment((V6[0], last)), ip.ROUTING), *V6_PROVIDER)

    assert changed[40:] == routing + segment((V6_PROVIDER[0], last))


@pytest.mark.parametrize("padding", [b"\x01\x02\x00\x00", b"\x00" * 4, b"\x00\x01\x01\x00"])
def test_packet_of_a_mobile_node_has_its_home_address_in_the_checksum(padding: bytes) -> None:
    """RFC 6275 section 11.3.1."""
    home = Address.parse("fd00:9::9")
    options = extension(TCP, padding + bytes([0xC9, 16]) + home)

    changed = rewritten(ipv6(options + segment((home, V6[1])), ip.DESTINATION_OPTIONS), *V6_PROVIDER)

    assert changed[40:] == options + segment((home, V6_PROVIDER[1]))


@pytest.mark.parametrize("options", [bytes([1, 255, 0, 0, 0, 0]), bytes([0, 0, 0, 0, 0, 0xC9])])
def test_destination_options_that_make_no_sense_hold_no_home_address(options: bytes) -> None:
    changed = rewritten(ipv6(extension(TCP, options) + segment(V6), ip.DESTINATION_OPTIONS), *V6_PROVIDER)

    assert changed[48:] == segment(V6_PROVIDER)


def fragments(version: int, protocol: int, payload: bytes, *cuts: int) -> list[bytes]:
    pieces = []
    for start, end in zip((0, *cuts), (*cuts, len(payload)), strict=True):
        more = end < len(payload)
        if version == 4:
            fragment = start // 8 | (0x2000 if more else 0)
            pieces.append(ipv4(payload[start:end], protocol=protocol, fragment=fragment))
        else:
            header = fragment_header(protocol, start, more)
            pieces.append(ipv6(header + payload[start:end], ip.FRAGMENT))
    return pieces


@BOTH
@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("cuts", [(16, 24), (24,), (24, 48, 80), (40,)])
def test_fragments_are_those_of_the_packet_with_the_new_addresses(
    version: int, protocol: int, cuts: tuple[int, ...]
) -> None:
    """Also where TCP's first fragment ends before the checksum, as RFC 1858 section 3.1 permits."""

    def whole(ends: tuple[bytes, bytes]) -> bytes:
        data = bytes(range(100))
        if protocol == UDP:
            return datagram(ends, data)
        return with_checksum(SEGMENT + data, 16, ends, TCP)

    changed = [
        rewritten(piece, *PROVIDER[version])
        for piece in fragments(version, protocol, whole(ends_of(version)), *cuts)
    ]

    assert b"".join(map(payload_of, changed)) == whole(PROVIDER[version])
    for piece in changed:
        facts = ip.decode_untrusted(piece)
        assert (facts.source, facts.destination) == PROVIDER[version]


def error_about(version: int, quote: bytes) -> bytes:
    """Time exceeded, with a right checksum."""
    source, destination = ends_of(version)
    message = bytes([icmp.TIME_EXCEEDED if version == 4 else icmp.V6_TIME_EXCEEDED]) + bytes(7) + quote
    if version == 4:
        checksum = internet_checksum(message)
    else:
        checksum = transport_checksum(source, destination, ICMPV6, message)
    message = message[:2] + checksum.to_bytes(2) + message[4:]
    return ip.build(source, destination, ICMP if version == 4 else ICMPV6, message)


def has_right_icmp_checksum(packet: bytes) -> bool:
    facts = ip.decode_untrusted(packet)
    if facts.version == 4:
        return internet_checksum(payload_of(packet)) == 0
    return transport_checksum(facts.source, facts.destination, ICMPV6, payload_of(packet)) == 0


@BOTH
@pytest.mark.parametrize("protocol", [TCP, UDP, ICMP, ICMPV6])
def test_error_quotes_the_packet_as_its_sender_sent_it_however_short_the_quote(
    version: int, protocol: int
) -> None:
    """RFC 5508 section 4.2: quoted addresses, quoted checksums, and the error's own."""
    ends, new = ends_of(version), PROVIDER[version]
    quoted_ends, quoted_new = ends[::-1], (new[1], new[0])

    def about(some: tuple[bytes, bytes]) -> bytes:
        if protocol == TCP:
            payload = with_checksum(SEGMENT, 16, some, TCP)
        elif protocol == UDP:
            payload = datagram(some)
        else:
            payload = b"\x80\x00\x00\x00" + bytes(range(9))
            if version == 6 and protocol == ICMPV6:
                payload = with_checksum(payload, 2, some, ICMPV6)
        return ip.build(*some, protocol, payload)

    at = {TCP: 16, UDP: 6}.get(protocol, 2)
    start = 20 if version == 4 else 40
    for length in range(len(about(ends)) + 1):
        expected = about(quoted_new)[:length]
        if length < start:
            expected = about(quoted_ends)[:length]
        elif length == start + at + 1:  # half a checksum cannot be updated
            expected = expected[:-1] + about(quoted_ends)[length - 1 : length]

        changed = rewritten(error_about(version, about(quoted_ends)[:length]), *new, quoted_new)

        assert payload_of(changed)[8:] == expected
        assert has_right_icmp_checksum(changed)


@BOTH
def test_error_whose_quote_nobody_names_keeps_it(version: int) -> None:
    quote = ip.build(*ends_of(version), UDP, datagram(ends_of(version)))

    changed = rewritten(error_about(version, quote), *PROVIDER[version])

    assert payload_of(changed)[8:] == quote
    assert has_right_icmp_checksum(changed)


@BOTH
def test_echo_that_looks_like_an_error_keeps_its_data(version: int) -> None:
    data = ip.build(*ends_of(version), UDP, datagram(ends_of(version)))
    message = bytes([8 if version == 4 else 128]) + bytes(7) + data
    packet = packet_of(version, ICMP if version == 4 else ICMPV6, message)

    changed = rewritten(packet, *PROVIDER[version], PROVIDER[version])

    assert payload_of(changed)[4:] == message[4:]


@BOTH
def test_later_fragment_that_looks_like_an_error_keeps_its_data(version: int) -> None:
    protocol = ICMP if version == 4 else ICMPV6
    quote = ip.build(*ends_of(version), UDP, datagram(ends_of(version)))
    looks = payload_of(error_about(version, quote))
    _, later = fragments(version, protocol, bytes(8) + looks, 8)

    changed = rewritten(later, *PROVIDER[version], PROVIDER[version])

    assert payload_of(changed) == looks


@BOTH
def test_error_about_an_error_stops_at_the_second_quote(version: int) -> None:
    ends, new = ends_of(version), PROVIDER[version]
    inmost = ip.build(*ends, UDP, datagram(ends))
    quote = error_about(version, inmost)

    changed = rewritten(error_about(version, quote), *new, new)

    inner = payload_of(changed)[8:]
    assert ip.decode_untrusted(inner).source == new[0]
    assert has_right_icmp_checksum(inner)
    assert inner[-len(inmost) :] == inmost


@BOTH
@pytest.mark.parametrize(
    "quote",
    [
        b"\x00" * 60,
        b"\x4f" + bytes(50),  # options that are cut off
        b"\x44" + bytes(50),  # a header that ends within itself
        b"\x60" + bytes(5) + b"\x2b" + bytes(34) + b"\xff\xff",  # a routing header that is cut off
    ],
)
def test_quote_that_is_no_packet_is_left_alone(version: int, quote: bytes) -> None:
    changed = rewritten(error_about(version, quote), *PROVIDER[version], PROVIDER[version])

    assert payload_of(changed)[8:] == quote
    assert has_right_icmp_checksum(changed)


@BOTH
def test_quote_of_the_other_family_is_left_alone(version: int) -> None:
    other = 10 - version
    quote = packet_of(other, TCP, segment(ends_of(other)))

    changed = rewritten(error_about(version, quote), *PROVIDER[version], PROVIDER[version])

    assert payload_of(changed)[8:] == quote


def test_damaged_header_in_a_quote_is_as_damaged_afterwards() -> None:
    """What routers made of it on the way is theirs: here a TTL that was changed without the checksum."""
    quote = bytearray(ip.build(*V4, UDP, datagram(V4)))
    quote[8] -= 1

    changed = payload_of(rewritten(error_about(4, bytes(quote)), *V4_PROVIDER, V4_PROVIDER))[8:]

    expected = bytearray(ip.build(*V4_PROVIDER, UDP, datagram(V4_PROVIDER)))
    expected[8] -= 1
    assert changed == expected
