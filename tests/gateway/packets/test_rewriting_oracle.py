"""scapy as the oracle of IP rewrite: it builds every packet anew with the new addresses."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import TCP, UDP, IPOption_LSRR, IPOption_SSRR, fragment, in4_chksum
from scapy.layers.inet6 import (
    HAO,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    IPv6ExtHdrSegmentRouting,
    PadN,
    RouterAlert,
    fragment6,
    in6_chksum,
)
from scapy.packet import Raw

from gateway.packets import ip
from gateway.packets.rewriting import rewritten
from policies.addresses import Address
from tests.gateway.packets.scapy_packets import (
    OPTIONS,
    SOURCE_ROUTE,
    pings,
    stack,
    tcp_segments,
    udp_datagrams,
    v4_errors,
    v4_headers_with,
    v6_errors,
    v6_headers,
    v6_pings,
)

Ends = tuple[Address, Address]


class Pair(msgspec.Struct, frozen=True):
    """A packet, and what scapy builds where only the addresses are others."""

    before: bytes
    after: bytes
    ends: Ends
    quoted_ends: Ends | None = None


v4_provider_addresses = st.binary(min_size=3, max_size=3).map(lambda tail: Address(b"\xc6" + tail))
v6_provider_addresses = st.binary(min_size=15, max_size=15).map(lambda tail: Address(b"\x20" + tail))
v4_ends = st.tuples(v4_provider_addresses, v4_provider_addresses)
v6_ends = st.tuples(v6_provider_addresses, v6_provider_addresses)


def with_ends(built: Any, ends: Ends) -> Any:
    copy = built.copy()
    copy.src, copy.dst = map(str, ends)
    return copy


def pair(built: Any, ends: Ends) -> Pair:
    return Pair(bytes(built), bytes(with_ends(built, ends)), ends)


def is_routed_once(header: Any) -> bool:
    return sum(isinstance(option, (IPOption_LSRR, IPOption_SSRR)) for option in header.options) < 2


v4_headers = v4_headers_with(
    [*OPTIONS, SOURCE_ROUTE, IPOption_SSRR(routers=["10.9.8.7", "10.6.5.4"])]
).filter(is_routed_once)
extensions = st.tuples(
    st.lists(st.just(IPv6ExtHdrHopByHop(options=[RouterAlert(), PadN(optdata=b"\0" * 9)])), max_size=1),
    st.lists(
        st.sampled_from(
            [
                IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 20)]),
                IPv6ExtHdrDestOpt(options=[HAO(hoa="fd00::a")]),
                IPv6ExtHdrRouting(type=2, segleft=0, addresses=["fd00::9"]),
                IPv6ExtHdrRouting(type=2, segleft=1, addresses=["fd00::9"]),
                IPv6ExtHdrRouting(type=0, segleft=1, addresses=["fd00::9", "fd00::8"]),
                IPv6ExtHdrSegmentRouting(segleft=1, addresses=["fd00::9", "fd00::8"]),
                IPv6ExtHdrSegmentRouting(segleft=0, addresses=["fd00::9", "fd00::8"]),
            ]
        ),
        max_size=2,
        unique_by=type,
    ),
).map(lambda two: [*two[0], *two[1]])
chains = st.tuples(extensions, st.lists(st.just(IPv6ExtHdrFragment(id=7)), max_size=1)).map(
    lambda two: two[0] + two[1]
)
# A checksum of 0: there is none.
unchecked_datagrams = udp_datagrams.map(lambda datagram: UDP(chksum=0) / datagram.payload)
v4_uppers = st.one_of(tcp_segments, udp_datagrams, unchecked_datagrams, pings)
v6_uppers = st.one_of(tcp_segments, udp_datagrams, unchecked_datagrams, v6_pings)
v4_packets = st.builds(lambda header, upper: header / upper, v4_headers, v4_uppers)
v6_packets = st.builds(stack, v6_headers, chains, v6_uppers)
plain_packets = st.one_of(
    st.builds(
        lambda header, upper, ends: pair(header / upper, ends),
        v4_headers_with([]),
        st.one_of(tcp_segments, udp_datagrams, unchecked_datagrams),
        v4_ends,
    ),
    st.builds(
        lambda header, upper, ends: pair(header / upper, ends),
        v6_headers,
        st.one_of(tcp_segments, udp_datagrams, unchecked_datagrams),
        v6_ends,
    ),
)

long_payloads = st.integers(200, 3000).map(lambda size: bytes(i * 31 & 0xFF for i in range(size)))


@st.composite
def v4_pieces(draw: st.DrawFn) -> Pair:
    """One fragment of a packet of which scapy makes several."""
    built, ends, size = draw(v4_packets), draw(v4_ends), draw(st.integers(2, 200)) * 8
    built = built / Raw(draw(long_payloads))
    before, after = fragment(built, fragsize=size), fragment(with_ends(built, ends), fragsize=size)
    number = draw(st.integers(0, len(before) - 1))
    return Pair(bytes(before[number]), bytes(after[number]), ends)


@st.composite
def v6_pieces(draw: st.DrawFn) -> Pair:
    """One fragment of any size, in scapy's headers."""
    header, chain, upper, ends = draw(v6_headers), draw(extensions), draw(v6_uppers), draw(v6_ends)
    protocol = {TCP: 6, UDP: 17}.get(type(upper), 58)
    whole, other = stack(header, chain, upper), stack(with_ends(header, ends), chain, upper)
    first = len(bytes(stack(header, chain, Raw(b""))))
    length = len(bytes(whole)) - first
    # RFC 1858 section 3: the first has a TCP header's flags, and none begins before them.
    size = draw(st.integers(2, max(2, length // 8))) * 8
    start = draw(st.integers(0, (length - 1) // size)) * size
    piece = IPv6ExtHdrFragment(nh=protocol, id=7, offset=start // 8, m=start + size < length)
    before, after = (
        bytes(stack(each, chain, piece / Raw(bytes(built)[first + start : first + start + size])))
        for each, built in ((header, whole), (with_ends(header, ends), other))
    )
    return Pair(before, after, ends)


CHECKSUMS = {6: 16, 17: 6}


def quote(about: Pair, length: int) -> tuple[bytes, bytes]:
    """The first octets before and after; nothing is rewritten where not all of its IP headers are quoted."""
    before, after = about.before[:length], about.after[:length]
    facts = ip.decode_untrusted(about.before)
    if length < facts.header_length:
        return before, before
    checksums = CHECKSUMS if facts.version == 4 else CHECKSUMS | {58: 2}
    at = checksums.get(facts.protocol)
    if at is not None and not facts.fragment_offset and length == facts.header_length + at + 1:
        return before, after[:-1] + before[-1:]  # half of a checksum cannot be updated
    return before, after


@st.composite
def v4_error_pairs(draw: st.DrawFn) -> Pair:
    errors = st.builds(
        lambda header, error, about, ends: pair(header / error / Raw(bytes(about)), ends),
        v4_headers,
        v4_errors,
        v4_packets,
        v4_ends,
    )
    about = draw(st.one_of(st.builds(pair, v4_packets, v4_ends), v4_pieces(), errors))
    before, after = quote(about, draw(st.integers(0, min(len(about.before), 548))))
    header, error, ends = draw(v4_headers), draw(v4_errors), draw(v4_ends)
    return Pair(
        bytes(header / error / Raw(before)),
        bytes(with_ends(header, ends) / error / Raw(after)),
        ends,
        about.ends,
    )


@st.composite
def v6_error_pairs(draw: st.DrawFn) -> Pair:
    # The checksum of a quoted error covers its addresses, and what it quotes stays as it is.
    errors = st.builds(
        lambda header, error, about, ends: pair(header / error / Raw(bytes(about)), ends),
        v6_headers,
        v6_errors,
        v6_packets,
        v6_ends,
    )
    about = draw(st.one_of(st.builds(pair, v6_packets, v6_ends), v6_pieces(), errors))
    before, after = quote(about, draw(st.integers(0, min(len(about.before), 1232))))
    header, chain, error, ends = draw(v6_headers), draw(chains), draw(v6_errors), draw(v6_ends)
    return Pair(
        bytes(stack(header, chain, error / Raw(before))),
        bytes(stack(with_ends(header, ends), chain, error / Raw(after))),
        ends,
        about.ends,
    )


# The protocol, and where its checksum is if that covers the addresses.
OF_IPV4 = {33: 6, 136: 6, 139: 4, 4: None, 47: None, 50: None, 58: None, 89: None, 103: None, 132: None}
OF_IPV6 = {33: 6, 136: 6, 139: 4, 89: 12, 103: 2, 135: 4, 1: None, 41: None, 47: None, 50: None, 132: None}


@st.composite
def others(draw: st.DrawFn) -> Pair:
    """A packet of a protocol that scapy knows by its number alone; it computes the checksum for us."""
    version = draw(st.sampled_from([4, 6]))
    header = draw(v4_headers_with([]) if version == 4 else v6_headers)
    ends = draw(v4_ends if version == 4 else v6_ends)
    protocol, at = draw(st.sampled_from(sorted((OF_IPV4 if version == 4 else OF_IPV6).items())))
    segment = draw(st.binary(min_size=16, max_size=64))
    both = []
    for each in (header, with_ends(header, ends)):
        filled = segment
        if at is not None:
            cleared = segment[:at] + bytes(2) + segment[at + 2 :]
            checksum = (in4_chksum if version == 4 else in6_chksum)(protocol, each, cleared)
            if protocol == 136:
                checksum = checksum or 0xFFFF
            filled = segment[:at] + checksum.to_bytes(2) + segment[at + 2 :]
        each.setfieldval("proto" if version == 4 else "nh", protocol)
        both.append(bytes(each / Raw(filled)))
    return Pair(both[0], both[1], ends)


KINDS: dict[str, st.SearchStrategy[Pair]] = {
    "plain": plain_packets,
    "IPv4 with options": st.builds(pair, v4_packets, v4_ends),
    "IPv6 with extension headers": st.builds(pair, v6_packets, v6_ends),
    "IPv4 fragment": v4_pieces(),
    "IPv6 fragment": v6_pieces(),
    "ICMP error": v4_error_pairs(),
    "ICMPv6 error": v6_error_pairs(),
    "other protocol": others(),
}


def compare(pair: Pair) -> None:
    """Rewrite there and back, and to where it comes from."""
    before = ip.decode_untrusted(pair.before)
    after = ip.decode_untrusted(pair.after)
    quoted_ends = None if before.quoted is None else (before.quoted.source, before.quoted.destination)

    assert rewritten(pair.before, *pair.ends, pair.quoted_ends) == pair.after
    assert rewritten(pair.after, before.source, before.destination, quoted_ends) == pair.before
    assert (after.source, after.destination) == pair.ends


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_rewritten_packet_is_what_scapy_builds_with_the_new_addresses(kind: str, data: st.DataObject) -> None:
    compare(data.draw(KINDS[kind]))


@given(
    v6_headers,
    extensions,
    st.one_of(tcp_segments, udp_datagrams),
    long_payloads,
    st.integers(1280, 1500),
    v6_ends,
)
def test_rewritten_ipv6_fragments_are_those_that_scapy_makes_of_a_packet_with_the_new_addresses(
    header: Any, chain: list[Any], upper: Any, payload: bytes, size: int, ends: Ends
) -> None:
    whole = stack(header, [*chain, IPv6ExtHdrFragment(id=7)], upper / Raw(payload))

    for before, after in zip(fragment6(whole, size), fragment6(with_ends(whole, ends), size), strict=True):
        compare(Pair(bytes(before), bytes(after), ends))


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_many_rewritten_packets_are_what_scapy_builds(kind: str, data: st.DataObject) -> None:
    compare(data.draw(KINDS[kind]))
