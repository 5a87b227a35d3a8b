"""scapy as an independent oracle: we read what it builds, and it reads what we build."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scapy.layers.inet import (
    ICMP,
    IP,
    TCP,
    UDP,
    defragment,
    fragment,
)
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    defragment6,
    fragment6,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, GRE, Ether
from scapy.packet import NoPayload, Raw
from scapy.utils import checksum as scapy_checksum

from gateway.packets import arp, ethernet, fragmentation, icmp, ip, ndp, nvgre, segmentation, transport
from gateway.packets.checksum import internet_checksum
from policies.addresses import Address, MacAddress
from policies.errors import MalformedPacket
from policies.facts import PacketFacts
from tests.gateway.packets.scapy_packets import (
    SOURCE_ROUTE,
    direct_v4_headers,
    extensions,
    long_payloads,
    longs,
    macs,
    octets,
    packets,
    payloads,
    stack,
    tcp_segments,
    udp_datagrams,
    v4_addresses,
    v4_errors,
    v4_headers,
    v4_headers_with,
    v4_packets,
    v6_addresses,
    v6_errors,
    v6_headers,
    v6_packets,
    words,
)


def address(text: str) -> bytes:
    return Address.parse(text)


def scapy_reads(packet: bytes) -> Any:
    return (IP if packet[0] >> 4 == 4 else IPv6)(packet)


def with_checksums_computed_anew(packet: bytes) -> bytes:
    """Let scapy dissect a packet, forget every checksum and length, and build it again."""
    layer = parsed = scapy_reads(packet)
    while not isinstance(layer, NoPayload):
        for field in ("chksum", "cksum", "len", "plen"):
            if field in layer.fields and not type(layer).__name__.endswith("error"):
                del layer.fields[field]
        if isinstance(layer, (ICMP, ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6TimeExceeded)):
            break  # what an error quotes is not to be mended
        layer = layer.payload
    return bytes(parsed)


def facts_by_scapy(packet: bytes) -> PacketFacts:
    """Read the facts of a packet that is no ICMP error from scapy's dissection."""
    parsed = scapy_reads(packet)
    fields: dict[str, Any] = {}
    if parsed.version == 4:
        start = parsed.ihl * 4
        fields |= {
            "total_length": parsed.len,
            "traffic_class": parsed.tos,
            "hop_limit": parsed.ttl,
            "protocol": parsed.proto,
            "dont_fragment": bool(parsed.flags.DF),
            "more_fragments": bool(parsed.flags.MF),
            "fragment_offset": parsed.frag * 8,
            "identification": parsed.id,
        }
        upper = parsed.payload
    else:
        start, upper, protocol = 40, parsed.payload, parsed.nh
        while isinstance(
            upper, (IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt, IPv6ExtHdrRouting, IPv6ExtHdrFragment, AH)
        ):
            start += len(upper) - len(upper.payload)
            protocol = upper.nh
            if isinstance(upper, IPv6ExtHdrFragment):
                fields |= {
                    "more_fragments": bool(upper.m),
                    "fragment_offset": upper.offset * 8,
                    "identification": upper.id,
                }
            upper = upper.payload
            if isinstance(upper, Raw) and protocol == 17 and not fields.get("fragment_offset"):
                upper = UDP(bytes(upper))  # scapy does not look behind an authentication header
        fields |= {
            "total_length": parsed.plen + 40,
            "traffic_class": parsed.tc,
            "hop_limit": parsed.hlim,
            "protocol": protocol,
        }
    if isinstance(upper, (TCP, UDP)):
        fields |= {"source_port": upper.sport, "destination_port": upper.dport}
    if isinstance(upper, TCP):
        fields["tcp_flags"] = int(upper.flags) & 0xFF
    if isinstance(upper, (ICMP, ICMPv6EchoRequest)):
        fields |= {"icmp_type": upper.type, "icmp_code": upper.code}
    return PacketFacts(
        version=parsed.version,
        source=address(parsed.src),
        destination=address(parsed.dst),
        header_length=start,
        **fields,
    )


@given(packets, payloads)
def test_we_read_a_packet_as_scapy_does(built: Any, padding: bytes) -> None:
    packet = bytes(built)

    assert ip.decode_untrusted(packet + padding) == facts_by_scapy(packet)


@given(v6_headers, udp_datagrams)
def test_we_read_an_authentication_header_as_scapy_does(header: Any, datagram: Any) -> None:
    packet = bytes(header / AH(nh=17, payloadlen=4, spi=1, seq=2, icv=bytes(12)) / datagram)

    assert ip.decode_untrusted(packet) == facts_by_scapy(packet)


@given(packets, octets)
def test_another_hop_limit_is_what_scapy_would_have_built(built: Any, hop_limit: int) -> None:
    packet = bytes(built)
    built.setfieldval("ttl" if built.version == 4 else "hlim", hop_limit)

    assert ip.with_hop_limit(packet, hop_limit) == bytes(built)


@given(packets, st.integers(0, 3))
def test_another_ecn_is_what_scapy_would_have_built(built: Any, ecn: int) -> None:
    packet = bytes(built)
    field = "tos" if built.version == 4 else "tc"
    built.setfieldval(field, built.getfieldval(field) & 0xFC | ecn)

    assert ip.with_ecn(packet, ecn) == bytes(built)


@given(st.data(), st.sampled_from([v4_addresses, v6_addresses]), octets, payloads)
def test_scapy_reads_what_we_build(data: st.DataObject, family: Any, hop_limit: int, payload: bytes) -> None:
    source, destination = data.draw(family), data.draw(family)

    packet = ip.build(source, destination, 253, payload, hop_limit=hop_limit)

    parsed = scapy_reads(packet)
    assert (parsed.src, parsed.dst) == (str(source), str(destination))
    assert (parsed.ttl if parsed.version == 4 else parsed.hlim) == hop_limit
    assert bytes(parsed.payload) == payload
    assert with_checksums_computed_anew(packet) == packet


@given(v4_addresses, v4_addresses, octets, octets, words, st.booleans(), octets)
def test_scapy_reads_our_ipv4_headers(
    source: Address,
    destination: Address,
    traffic_class: int,
    ttl: int,
    identification: int,
    dont_fragment: bool,
    protocol: int,
) -> None:
    header = ip.ipv4_header(
        source,
        destination,
        protocol,
        0,
        ttl=ttl,
        traffic_class=traffic_class,
        identification=identification,
        dont_fragment=dont_fragment,
    )

    assert header == bytes(
        IP(
            src=str(source),
            dst=str(destination),
            tos=traffic_class,
            ttl=ttl,
            id=identification,
            flags="DF" if dont_fragment else 0,
            proto=protocol,
        )
    )


@given(v6_addresses, v6_addresses, octets, octets, octets)
def test_scapy_reads_our_ipv6_headers(
    source: Address, destination: Address, traffic_class: int, hop_limit: int, following: int
) -> None:
    header = ip.ipv6_header(
        source, destination, following, 0, hop_limit=hop_limit, traffic_class=traffic_class
    )

    assert header == bytes(
        IPv6(src=str(source), dst=str(destination), tc=traffic_class, hlim=hop_limit, nh=following)
    )


@given(v4_headers, long_payloads, st.integers(2, 200))
def test_we_read_scapys_ipv4_fragments(header: Any, payload: bytes, eighths: int) -> None:
    for piece in fragment(header / UDP(sport=1, dport=2) / Raw(payload), fragsize=eighths * 8):
        assert ip.decode_untrusted(bytes(piece)) == facts_by_scapy(bytes(piece))


@given(v6_headers, long_payloads, st.integers(1280, 1500))
def test_we_read_scapys_ipv6_fragments(header: Any, payload: bytes, size: int) -> None:
    whole = header / IPv6ExtHdrFragment(id=7) / UDP(sport=1, dport=2) / Raw(payload)
    pieces = fragment6(whole, size)

    for piece in pieces:
        assert ip.decode_untrusted(bytes(piece)) == facts_by_scapy(bytes(piece))
    assert len(pieces) == 1 or bytes(defragment6(pieces)[UDP]) == bytes(whole[UDP])


@given(v4_headers, long_payloads, st.integers(6, 200))
def test_scapy_fragments_as_we_do(header: Any, payload: bytes, eighths: int) -> None:
    header.options = []
    whole = header / UDP(sport=1, dport=2) / Raw(payload)
    packet = bytes(whole)

    ours = fragmentation.fragment(packet, ip.decode_untrusted(packet), 20 + eighths * 8)

    assert ours == [bytes(piece) for piece in fragment(IP(packet), fragsize=eighths * 8)]


@given(v4_headers, long_payloads, st.integers(124, 1500), st.integers(124, 700))
def test_scapy_joins_our_fragments_of_fragments(header: Any, payload: bytes, first: int, second: int) -> None:
    packet = bytes(header / UDP(sport=1, dport=2) / Raw(payload))
    pieces = [
        smaller
        for larger in fragmentation.fragment(packet, ip.decode_untrusted(packet), first)
        for smaller in fragmentation.fragment(larger, ip.decode_untrusted(larger), second)
    ]
    assume(len(pieces) > 1)

    assert all(with_checksums_computed_anew(each) == each for each in pieces)
    [joined] = defragment([IP(each) for each in pieces])
    assert bytes(joined.payload) == bytes(IP(packet).payload)


ERRORS = list(icmp.Unreachable)


@given(v4_packets, v4_addresses, st.sampled_from(ERRORS), words)
def test_scapy_reads_our_icmp_errors(about: Any, source: Address, what: icmp.Unreachable, mtu: int) -> None:
    packet = bytes(about)
    facts = ip.decode_untrusted(packet)
    for error, icmp_type, code in (
        (icmp.time_exceeded(source, packet, facts), 11, 0),
        (icmp.too_big(source, packet, facts, mtu), 3, 4),
        (icmp.unreachable(source, packet, facts, what), what.value[0], what.value[1]),
    ):
        parsed = IP(error)
        assert (parsed.src, parsed.dst, parsed.ttl) == (str(source), about.src, 64)
        assert (parsed[ICMP].type, parsed[ICMP].code) == (icmp_type, code)
        if code == 4:
            assert parsed[ICMP].nexthopmtu == mtu
        assert parsed["IPerror"].dst == about.dst
        assert bytes(parsed[ICMP])[8:] == packet
        assert with_checksums_computed_anew(error) == error


@given(v6_packets, v6_addresses, st.sampled_from(ERRORS), longs)
def test_scapy_reads_our_icmpv6_errors(about: Any, source: Address, what: icmp.Unreachable, mtu: int) -> None:
    packet = bytes(about)
    facts = ip.decode_untrusted(packet)
    for error, layer, code in (
        (icmp.time_exceeded(source, packet, facts), ICMPv6TimeExceeded, 0),
        (icmp.too_big(source, packet, facts, mtu), ICMPv6PacketTooBig, 0),
        (icmp.unreachable(source, packet, facts, what), ICMPv6DestUnreach, what.value[3]),
    ):
        parsed = IPv6(error)
        assert (parsed.src, parsed.dst, parsed.hlim) == (str(source), about.src, 64)
        assert parsed[layer].code == code
        if layer is ICMPv6PacketTooBig:
            assert parsed[layer].mtu == mtu
        assert bytes(parsed[layer])[8:] == packet
        assert with_checksums_computed_anew(error) == error


@given(v4_headers, v4_errors, v4_packets)
def test_we_read_what_scapys_icmp_errors_quote(header: Any, error: Any, about: Any) -> None:
    facts = ip.decode_untrusted(bytes(header / error / Raw(bytes(about))))

    assert (facts.icmp_type, facts.icmp_code) == (error.type, error.code)
    assert facts.quoted == facts_by_scapy(bytes(about))
    assert icmp.is_error(facts)


@given(v6_headers, v6_errors, v6_packets)
def test_we_read_what_scapys_icmpv6_errors_quote(header: Any, error: Any, about: Any) -> None:
    facts = ip.decode_untrusted(bytes(header / error / Raw(bytes(about))))

    assert (facts.icmp_type, facts.icmp_code) == (error.type, error.code)
    assert facts.quoted == facts_by_scapy(bytes(about))
    assert icmp.is_error(facts)


@given(v4_headers, words, words, payloads)
def test_our_echo_reply_is_scapys(header: Any, identifier: int, sequence: int, payload: bytes) -> None:
    request = bytes(header / ICMP(type=8, id=identifier, seq=sequence) / Raw(payload))
    reply = ICMP(type=0, id=identifier, seq=sequence) / Raw(payload)

    assert icmp.echo_reply(request, ip.decode_untrusted(request)) == bytes(
        IP(src=header.dst, dst=header.src, id=0, flags="DF", ttl=64) / reply
    )


@given(v6_headers, extensions, words, words, payloads)
def test_our_icmpv6_echo_reply_is_scapys(
    header: Any, chain: list[Any], identifier: int, sequence: int, payload: bytes
) -> None:
    echo = ICMPv6EchoRequest(id=identifier, seq=sequence, data=payload)
    request = bytes(stack(header.copy(), chain, echo))
    reply = ICMPv6EchoReply(id=identifier, seq=sequence, data=payload)

    assert icmp.echo_reply(request, ip.decode_untrusted(request)) == bytes(
        IPv6(src=header.dst, dst=header.src, hlim=64) / reply
    )


@given(st.one_of(v4_headers, v6_headers), tcp_segments, words)
def test_a_clamped_mss_is_what_scapy_would_have_built(header: Any, segment: Any, limit: int) -> None:
    packet = bytes(header / segment)
    if segment.flags.S:
        segment.options = [
            (name, min(value, limit) if name == "MSS" else value) for name, value in segment.options
        ]

    assert transport.clamp_mss(packet, ip.decode_untrusted(packet), limit) == bytes(header / segment)


@given(v6_addresses, v6_addresses, v6_addresses, macs, st.booleans())
def test_solicitations_both_ways(
    source: Address, destination: Address, target: Address, mac: MacAddress, named: bool
) -> None:
    ours = ndp.encode_solicitation(source, destination, target, mac if named else None)
    theirs = IPv6(src=str(source), dst=str(destination), hlim=255) / ICMPv6ND_NS(tgt=str(target))
    if named:
        theirs /= ICMPv6NDOptSrcLLAddr(lladdr=str(mac))

    assert ours == bytes(theirs)
    assert ndp.decode_solicitation_untrusted(ours, ip.decode_untrusted(ours)) == ndp.NeighbourSolicitation(
        source, destination, target, mac if named else None
    )


@given(v6_addresses, v6_addresses, macs, st.booleans(), st.booleans(), st.booleans())
def test_advertisements_both_ways(
    target: Address, destination: Address, mac: MacAddress, router: bool, solicited: bool, override: bool
) -> None:
    ours = ndp.advertisement(
        target, destination, target, mac, router=router, solicited=solicited, override=override
    )
    theirs = (
        IPv6(src=str(target), dst=str(destination), hlim=255)
        / ICMPv6ND_NA(tgt=str(target), R=router, S=solicited, O=override)
        / ICMPv6NDOptDstLLAddr(lladdr=str(mac))
    )

    assert ours == bytes(theirs)
    assert ndp.decode_advertisement_untrusted(ours, ip.decode_untrusted(ours)) == ndp.NeighbourAdvertisement(
        target, destination, target, mac, router=router, solicited=solicited, override=override
    )


@given(words, macs, v4_addresses, macs, v4_addresses, payloads)
def test_arp_both_ways(
    operation: int,
    sender_mac: MacAddress,
    sender: Address,
    target_mac: MacAddress,
    target: Address,
    padding: bytes,
) -> None:
    ours = arp.ArpPacket(operation, sender_mac, sender, target_mac, target)
    theirs = ARP(
        op=operation, hwsrc=str(sender_mac), psrc=str(sender), hwdst=str(target_mac), pdst=str(target)
    )

    assert ours.encode() == bytes(theirs)
    assert arp.decode_untrusted(bytes(theirs) + padding) == ours


@given(macs, macs, words, payloads)
def test_ethernet_both_ways(destination: MacAddress, source: MacAddress, kind: int, payload: bytes) -> None:
    theirs = bytes(Ether(dst=str(destination), src=str(source), type=kind) / Raw(payload))
    header = ethernet.EthernetHeader(destination, source, kind)

    assert header.encode() + payload == theirs
    assert ethernet.decode_untrusted(theirs) == header


@given(st.integers(0, 0xFFFFFF), octets, macs, macs, v4_packets)
def test_nvgre_both_ways(
    vsid: int, flow: int, destination: MacAddress, source: MacAddress, inner: Any
) -> None:
    frame = Ether(dst=str(destination), src=str(source)) / inner
    theirs = bytes(GRE(key_present=1, key=vsid << 8 | flow, proto=0x6558) / frame)
    ours = nvgre.encode(vsid, flow) + bytes(frame)

    assert ours == theirs
    assert nvgre.decode_untrusted(theirs) == nvgre.NvgreHeader(vsid, flow)
    parsed = GRE(ours)
    assert (parsed.key_present, parsed.chksum_present, parsed.seqnum_present) == (1, 0, 0)
    assert (parsed.key >> 8, parsed.key & 0xFF) == (vsid, flow)
    assert parsed[Ether].src == str(source)
    assert bytes(parsed[IP]) == bytes(inner)


@given(st.binary(max_size=300))
def test_checksums_are_scapys(data: bytes) -> None:
    assert internet_checksum(data) == scapy_checksum(data)


@given(st.one_of(direct_v4_headers, v6_headers), st.one_of(tcp_segments, udp_datagrams))
def test_a_finished_checksum_is_scapys(header: Any, upper: Any) -> None:
    packet = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / header / upper)
    start = 14 + ip.decode_untrusted(packet[14:]).header_length
    offset = 16 if isinstance(upper, TCP) else 6
    ends = b"".join(address(text) for text in (header.src, header.dst))
    protocol = 6 if isinstance(upper, TCP) else 17
    partial = 0xFFFF - internet_checksum(ends + struct.pack("!HH", protocol, len(packet) - start))
    field = start + offset
    unfinished = packet[:field] + partial.to_bytes(2) + packet[field + 2 :]

    finished = segmentation.finish_checksum(unfinished, start, offset)

    # The two zeros of the one's complement say the same of TCP; scapy writes 0 and the kernel 0xFFFF.
    if isinstance(upper, TCP) and packet[field : field + 2] == bytes(2):
        packet = packet[:field] + b"\xff\xff" + packet[field + 2 :]
    assert finished == packet


@given(v4_headers_with([SOURCE_ROUTE]), st.one_of(tcp_segments, udp_datagrams))
def test_a_packet_with_a_source_route_is_not_cut(header: Any, upper: Any) -> None:
    assume(header.options)
    whole = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / header / upper

    with pytest.raises(MalformedPacket, match="source route"):
        segmentation.segment(bytes(whole), 100)


@pytest.mark.parametrize("headers", [direct_v4_headers, v6_headers])
@given(data=st.data(), size=st.integers(100, 1400))
def test_tcp_segments_are_what_scapy_would_have_built(headers: Any, data: st.DataObject, size: int) -> None:
    header, segment, payload = data.draw(headers), data.draw(tcp_segments), data.draw(long_payloads)
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    segment.remove_payload()
    flags = int(segment.flags)
    whole = ether / header / segment / Raw(payload)

    expected = []
    for position in range(0, len(payload), size):
        last, first = position + size >= len(payload), position == 0
        segment.flags = flags & (0xFF if last else ~0x09) & (0xFF if first else ~0x80)
        each = ether / header / segment / Raw(payload[position : position + size])
        each[TCP].seq = (segment.seq + position) & 0xFFFFFFFF
        if IP in each:
            each[IP].id = (header.id + position // size) & 0xFFFF
        expected.append(bytes(each))

    segment.flags = flags
    assert segmentation.segment(bytes(whole), size) == expected


@pytest.mark.parametrize("headers", [direct_v4_headers, v6_headers])
@given(data=st.data(), size=st.integers(100, 1400))
def test_udp_segments_are_what_scapy_would_have_built(headers: Any, data: st.DataObject, size: int) -> None:
    header, payload = data.draw(headers), data.draw(long_payloads)
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    whole = ether / header / UDP(sport=1, dport=2) / Raw(payload)

    expected = []
    for position in range(0, len(payload), size):
        each = ether / header / UDP(sport=1, dport=2) / Raw(payload[position : position + size])
        if IP in each:
            each[IP].id = (header.id + position // size) & 0xFFFF
        expected.append(bytes(each))

    assert segmentation.segment(bytes(whole), size) == expected
