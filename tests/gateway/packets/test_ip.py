from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.packets import ip
from policies.errors import MalformedPacket
from policies.facts import ICMP, ICMPV6, TCP, TCP_ACK, TCP_SYN, UDP, PacketFacts
from tests.gateway.packets.by_hand import (
    DATAGRAM,
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

BOTH = pytest.mark.parametrize("ends", [V4, V6])


@pytest.mark.parametrize("packet", [ipv4(DATAGRAM), ipv6(DATAGRAM)])
def test_whole_udp_packet(packet: bytes) -> None:
    facts = ip.decode_untrusted(packet)
    version = packet[0] >> 4

    assert facts == PacketFacts(
        version=version,
        source=V4[0] if version == 4 else V6[0],
        destination=V4[1] if version == 4 else V6[1],
        protocol=UDP,
        traffic_class=0x2E,
        hop_limit=9,
        header_length=20 if version == 4 else 40,
        total_length=len(packet),
        source_port=49153,
        destination_port=53,
        identification=77 if version == 4 else 0,
    )


@pytest.mark.parametrize("packet", [ipv4(SEGMENT, protocol=TCP), ipv6(SEGMENT, TCP)])
def test_whole_tcp_packet(packet: bytes) -> None:
    facts = ip.decode_untrusted(packet)

    assert (facts.source_port, facts.destination_port) == (49153, 80)
    assert facts.tcp_flags == TCP_SYN | TCP_ACK
    assert not facts.is_bare_syn


@pytest.mark.parametrize(
    "packet", [ipv4(b"\x08\x01" + bytes(6), protocol=ICMP), ipv6(b"\x80\x01" + bytes(6), ICMPV6)]
)
def test_whole_icmp_packet(packet: bytes) -> None:
    facts = ip.decode_untrusted(packet)

    assert facts.icmp_type == (8 if facts.version == 4 else 128)
    assert facts.icmp_code == 1
    assert facts.quoted is None


@pytest.mark.parametrize("packet", [ipv4(b"\x08" * 8, protocol=ICMPV6), ipv6(b"\x08" * 8, ICMP)])
def test_icmp_of_the_other_family_is_not_icmp(packet: bytes) -> None:
    assert ip.decode_untrusted(packet).icmp_type == -1


@pytest.mark.parametrize(
    "packet",
    [
        ipv4(SEGMENT, protocol=TCP, options=ROUTER_ALERT),
        ipv6(extension(ip.FRAGMENT) + fragment_header(TCP, 0, False) + SEGMENT, ip.HOP_BY_HOP),
        ipv4(b"\x03\x04" + bytes(6) + ipv4(DATAGRAM), protocol=ICMP),
    ],
)
def test_truncated_packet_is_malformed(packet: bytes) -> None:
    ip.decode_untrusted(packet)
    for length in range(len(packet)):
        with pytest.raises(MalformedPacket):
            ip.decode_untrusted(packet[:length])


@pytest.mark.parametrize("packet", [ipv4(DATAGRAM), ipv6(DATAGRAM)])
def test_ethernet_padding_is_not_part_of_the_packet(packet: bytes) -> None:
    assert ip.decode_untrusted(packet + bytes(18)) == ip.decode_untrusted(packet)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"\x50" + ipv4(DATAGRAM)[1:], id="version 5"),
        pytest.param(ipv4(DATAGRAM, ihl=4), id="IPv4 header of 16 octets"),
        pytest.param(ipv4(b"", ihl=6), id="IPv4 header beyond the packet"),
        pytest.param(ipv4(DATAGRAM, total=19), id="total length within the header"),
        pytest.param(ipv4(DATAGRAM, total=33), id="total length beyond the packet"),
        pytest.param(ipv6(DATAGRAM, length=13), id="payload length beyond the packet"),
        pytest.param(ipv4(DATAGRAM[:4] + b"\0\x07" + DATAGRAM[6:]), id="UDP length within its header"),
        pytest.param(ipv6(DATAGRAM[:4] + b"\0\x0d" + DATAGRAM[6:]), id="UDP length beyond the packet"),
        pytest.param(ipv4(SEGMENT[:12] + b"\x40" + SEGMENT[13:], protocol=TCP), id="TCP header of 16 octets"),
        pytest.param(ipv6(SEGMENT[:12] + b"\x70" + SEGMENT[13:], TCP), id="TCP header beyond the packet"),
    ],
)
def test_lengths_that_contradict_each_other_are_malformed(packet: bytes) -> None:
    with pytest.raises(MalformedPacket):
        ip.decode_untrusted(packet)


@pytest.mark.parametrize("position", range(20))
def test_an_ipv4_header_with_a_changed_bit_is_malformed(position: int) -> None:
    packet = bytearray(ipv4(DATAGRAM))
    packet[position] ^= 0x08

    with pytest.raises(MalformedPacket):
        ip.decode_untrusted(bytes(packet))


def test_ipv4_options_are_part_of_the_header() -> None:
    facts = ip.decode_untrusted(ipv4(DATAGRAM, options=RECORD_ROUTE))

    assert facts.header_length == 28
    assert facts.destination_port == 53


def test_dont_fragment_is_told() -> None:
    assert ip.decode_untrusted(ipv4(DATAGRAM, fragment=0x4000)).dont_fragment
    assert not ip.decode_untrusted(ipv4(DATAGRAM)).dont_fragment


def test_extension_headers_in_any_order_are_skipped() -> None:
    chain = (
        extension(ip.DESTINATION_OPTIONS)
        + extension(ip.ROUTING)
        + extension(ip.AUTHENTICATION, bytes(14))
        + bytes([ip.DESTINATION_OPTIONS, 4])
        + bytes(22)  # AH counts its length in 4 octets, less 2
        + extension(UDP)
    )

    facts = ip.decode_untrusted(ipv6(chain + DATAGRAM, ip.HOP_BY_HOP))

    assert facts.protocol == UDP
    assert facts.header_length == 40 + len(chain)
    assert facts.destination_port == 53


@pytest.mark.parametrize("following", [50, 59, 135, 253])
def test_what_is_no_known_extension_header_is_the_upper_layer(following: int) -> None:
    facts = ip.decode_untrusted(ipv6(extension(following), ip.DESTINATION_OPTIONS))

    assert (facts.protocol, facts.header_length) == (following, 48)


def test_an_upper_layer_without_octets_is_well_formed() -> None:
    assert ip.decode_untrusted(ipv6(b"", 59)).total_length == 40
    assert ip.decode_untrusted(ipv4(b"", protocol=47)).total_length == 20


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(
            ipv6(extension(ip.HOP_BY_HOP) + extension(UDP) + DATAGRAM, ip.DESTINATION_OPTIONS),
            id="hop-by-hop options in the second place",
        ),
        pytest.param(
            ipv6(extension(ip.DESTINATION_OPTIONS) * 6 + extension(UDP) + DATAGRAM, ip.DESTINATION_OPTIONS),
            id="seven headers",
        ),
        pytest.param(
            ipv6(
                fragment_header(ip.FRAGMENT, 0, False) + fragment_header(UDP, 0, False) + DATAGRAM,
                ip.FRAGMENT,
            ),
            id="two fragment headers",
        ),
        pytest.param(ipv6(bytes([UDP, 2]) + bytes(14), ip.ROUTING), id="header beyond the packet"),
        pytest.param(ipv6(bytes([UDP, 0, 0, 0]), ip.ROUTING), id="half a header"),
        pytest.param(ipv6(bytes([59, 2]) + bytes(14), ip.ROUTING), id="beyond it, and nothing behind"),
        pytest.param(ipv6(bytes([59, 0, 0, 0]), ip.FRAGMENT), id="half a fragment header"),
        pytest.param(ipv6(b"", ip.HOP_BY_HOP), id="jumbogram"),
    ],
)
def test_a_chain_that_is_no_good_is_malformed(packet: bytes) -> None:
    with pytest.raises(MalformedPacket):
        ip.decode_untrusted(packet)


@pytest.mark.parametrize(
    "packet",
    [
        ipv4(DATAGRAM[:8] + bytes(8), fragment=0x2000),
        ipv6(fragment_header(UDP, 0, True) + DATAGRAM[:8] + bytes(8), ip.FRAGMENT),
    ],
)
def test_first_fragment_has_ports(packet: bytes) -> None:
    facts = ip.decode_untrusted(packet)

    assert facts.is_fragment
    assert not facts.is_later_fragment
    assert facts.more_fragments
    assert (facts.source_port, facts.destination_port) == (49153, 53)
    assert facts.identification == 77


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("version", [4, 6])
def test_later_fragment_has_no_ports_and_its_offset_counts_octets(version: int, last: bool) -> None:
    if version == 4:
        packet = ipv4(SEGMENT, protocol=TCP, fragment=185 | (0 if last else 0x2000))
    else:
        packet = ipv6(fragment_header(TCP, 1480, not last) + SEGMENT, ip.FRAGMENT)

    facts = ip.decode_untrusted(packet)

    assert facts.is_later_fragment
    assert facts.fragment_offset == 1480
    assert facts.more_fragments is not last
    assert (facts.source_port, facts.destination_port, facts.tcp_flags) == (0, 0, 0)
    assert facts.protocol == TCP
    assert packet[facts.header_length : facts.total_length] == SEGMENT


def test_an_atomic_fragment_is_a_whole_packet() -> None:
    facts = ip.decode_untrusted(ipv6(fragment_header(UDP, 0, False) + DATAGRAM, ip.FRAGMENT))

    assert not facts.is_fragment  # RFC 6946
    assert facts.destination_port == 53


def test_the_chain_of_a_later_fragment_ends_with_its_fragment_header() -> None:
    packet = ipv6(fragment_header(ip.DESTINATION_OPTIONS, 1480, False) + b"\xff" * 8, ip.FRAGMENT)

    assert ip.decode_untrusted(packet).protocol == ip.DESTINATION_OPTIONS


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(ipv4(SEGMENT[:8], protocol=TCP, fragment=0x2000), id="first without TCP's flags"),
        pytest.param(ipv6(fragment_header(TCP, 0, True) + SEGMENT[:8], ip.FRAGMENT), id="the same in IPv6"),
        pytest.param(ipv4(SEGMENT, protocol=TCP, fragment=1), id="overwrites TCP's flags"),
        pytest.param(
            ipv6(fragment_header(TCP, 8, False) + SEGMENT, ip.FRAGMENT), id="overwrites them in IPv6"
        ),
        pytest.param(ipv4(bytes(12), fragment=0x2000 | 5), id="not a multiple of 8, and more to follow"),
        pytest.param(ipv6(fragment_header(UDP, 40, True) + bytes(12), ip.FRAGMENT), id="the same as IPv6"),
        pytest.param(ipv4(bytes(9), fragment=0x1FFF), id="ends beyond the largest packet"),
        pytest.param(
            ipv6(fragment_header(UDP, 0xFFF8, False) + bytes(8), ip.FRAGMENT), id="ends beyond it in IPv6"
        ),
        pytest.param(
            ipv6(fragment_header(ip.DESTINATION_OPTIONS, 0, True) + bytes([UDP, 1]) + bytes(6), ip.FRAGMENT),
            id="first without the whole chain",
        ),
    ],
)
def test_fragments_made_to_deceive_are_malformed(packet: bytes) -> None:
    with pytest.raises(MalformedPacket):
        ip.decode_untrusted(packet)


def icmp_error(quote: bytes, version: int = 4) -> bytes:
    if version == 4:
        return ipv4(b"\x0b\x00" + bytes(6) + quote, protocol=ICMP)
    return ipv6(b"\x03\x00" + bytes(6) + quote, ICMPV6)


@pytest.mark.parametrize(
    "quote",
    [ipv4(SEGMENT, protocol=TCP, options=RECORD_ROUTE), ipv6(extension(TCP) + SEGMENT, ip.HOP_BY_HOP)],
)
def test_an_icmp_error_tells_what_it_quotes(quote: bytes) -> None:
    facts = ip.decode_untrusted(icmp_error(quote, quote[0] >> 4))

    assert facts.quoted == ip.decode_untrusted(quote)


def test_an_unknown_icmpv6_error_quotes_too() -> None:
    packet = ipv6(b"\x7f\x00" + bytes(6) + ipv6(DATAGRAM), ICMPV6)

    assert ip.decode_untrusted(packet).quoted == ip.decode_untrusted(ipv6(DATAGRAM))


def test_a_quote_of_eight_octets_of_tcp_has_ports_and_no_flags() -> None:
    quoted = ip.decode_untrusted(icmp_error(ipv4(SEGMENT, protocol=TCP)[:28])).quoted

    assert quoted is not None
    assert (quoted.source_port, quoted.destination_port, quoted.tcp_flags) == (49153, 80, 0)
    assert quoted.total_length == 44


@pytest.mark.parametrize("quote", [ipv4(SEGMENT, protocol=TCP), ipv6(extension(TCP) + SEGMENT, ip.ROUTING)])
def test_a_quote_may_be_cut_anywhere(quote: bytes) -> None:
    for length in range(len(quote)):
        quoted = ip.decode_untrusted(icmp_error(quote[:length], quote[0] >> 4)).quoted
        flags_are_there = length >= len(quote) - len(SEGMENT) + 14

        assert flags_are_there is (quoted is not None and quoted.tcp_flags != 0)


def test_a_quote_with_a_wrong_checksum_and_length_is_still_read() -> None:
    quote = bytearray(ipv4(DATAGRAM))
    quote[8] = 0  # as a router leaves it that counts the TTL down first
    quote[2:4] = b"\xff\xff"

    quoted = ip.decode_untrusted(icmp_error(bytes(quote))).quoted

    assert quoted is not None
    assert (quoted.hop_limit, quoted.total_length, quoted.destination_port) == (0, 0xFFFF, 53)


@pytest.mark.parametrize(
    ("quote", "version"),
    [
        pytest.param(b"", 4, id="nothing"),
        pytest.param(ipv4(DATAGRAM)[:19], 4, id="half an IPv4 header"),
        pytest.param(ipv4(DATAGRAM, options=RECORD_ROUTE)[:24], 4, id="half the IPv4 options"),
        pytest.param(b"\x41" + ipv4(DATAGRAM)[1:], 4, id="header length of 4"),
        pytest.param(ipv6(DATAGRAM)[:39], 6, id="half an IPv6 header"),
        pytest.param(ipv6(extension(UDP), ip.ROUTING)[:44], 6, id="half an extension header"),
        pytest.param(b"\x65" + ipv6(DATAGRAM)[1:], 4, id="IPv6 in ICMP"),
        pytest.param(ipv4(DATAGRAM) + DATAGRAM, 6, id="IPv4 in ICMPv6"),
    ],
)
def test_a_quote_without_whole_headers_tells_nothing(quote: bytes, version: int) -> None:
    assert ip.decode_untrusted(icmp_error(quote, version)).quoted is None


def test_a_quoted_later_fragment_has_no_ports() -> None:
    quoted = ip.decode_untrusted(icmp_error(ipv4(DATAGRAM, fragment=185))).quoted

    assert quoted is not None
    assert quoted.is_later_fragment
    assert quoted.destination_port == 0


def test_a_quoted_icmp_error_is_not_followed() -> None:
    quoted = ip.decode_untrusted(icmp_error(icmp_error(ipv4(DATAGRAM)))).quoted

    assert quoted is not None
    assert quoted.icmp_type == 11
    assert quoted.quoted is None


@given(st.integers(0, 255), st.integers(0, 255))
def test_another_hop_limit_changes_nothing_else(before: int, after: int) -> None:
    for ends, start in ((V4, 20), (V6, 40)):
        packet = ip.build(*ends, UDP, DATAGRAM, hop_limit=before)

        assert ip.with_hop_limit(packet, after) == ip.build(*ends, UDP, DATAGRAM, hop_limit=after)
        assert ip.with_hop_limit(packet, after)[start:] == DATAGRAM


@given(st.integers(0, 255), st.integers(0, 3))
def test_another_ecn_changes_nothing_else(traffic_class: int, ecn: int) -> None:
    changed = traffic_class & 0xFC | ecn
    before = ip.ipv4_header(*V4, UDP, 12, traffic_class=traffic_class) + DATAGRAM
    assert ip.with_ecn(before, ecn) == ip.ipv4_header(*V4, UDP, 12, traffic_class=changed) + DATAGRAM

    before = ip.ipv6_header(*V6, UDP, 12, traffic_class=traffic_class) + DATAGRAM
    assert ip.with_ecn(before, ecn) == ip.ipv6_header(*V6, UDP, 12, traffic_class=changed) + DATAGRAM


def test_the_flow_label_survives_another_ecn() -> None:
    assert ip.with_ecn(ipv6(DATAGRAM), 3)[2:4] == ipv6(DATAGRAM)[2:4]


@BOTH
def test_built_packet_says_what_it_was_given(ends: tuple[bytes, bytes]) -> None:
    packet = ip.build(*ends, UDP, DATAGRAM, hop_limit=3)
    facts = ip.decode_untrusted(packet)

    assert (facts.source, facts.destination, facts.protocol, facts.hop_limit) == (*ends, UDP, 3)
    assert packet[facts.header_length : facts.total_length] == DATAGRAM
    assert facts.dont_fragment is (facts.version == 4)


def test_built_ipv4_header_says_what_it_was_given() -> None:
    header = ip.ipv4_header(
        *V4, UDP, 12, ttl=5, traffic_class=0x2E, identification=0xBEEF, dont_fragment=False
    )
    expected = ip.decode_untrusted(ipv4(DATAGRAM, identification=0xBEEF))

    assert ip.decode_untrusted(header + DATAGRAM) == msgspec.structs.replace(expected, hop_limit=5)


@given(st.binary(max_size=120))
def test_any_bytes_are_decoded_or_malformed(packet: bytes) -> None:
    try:
        facts = ip.decode_untrusted(packet)
    except MalformedPacket:
        return
    assert facts.header_length <= facts.total_length <= len(packet)
