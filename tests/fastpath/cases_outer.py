"""Cases of what is in front of the inner frame: Ethernet, the outer IP header, GRE and the VSID."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from scapy.compat import raw

from gateway.forwarding.drops import DropReason
from tests.fastpath.cases_carried import ROUTED, SWITCHED, with_macs
from tests.fastpath.outcomes import Case, Dropped, NotDelivered, Passed, Why
from tests.fastpath.scenes import BEHIND, OWN_MACS, WORLD, node_mac, pa, world
from tests.fastpath.wire import (
    arriving,
    arriving_packet,
    arriving_with,
    ethernet,
    forwarded,
    gre,
    ipv4,
    ipv6,
    routed,
)

_KEY = 5001 << 8
_PAYLOAD = gre(_KEY, raw(ROUTED))
_FROM, _TO = pa("hv1"), pa("edge-1")
_FROM_V6, _TO_V6 = pa("hv1", 6), pa("edge-1", 6)
_GOES_ON = forwarded(routed(ROUTED))
_NOT_DELIVERED = Passed(Why.NOT_OURS, NotDelivered())
_BROKEN = Passed(Why.OUTER_FORM, NotDelivered())
_NOT_NVGRE = Dropped(DropReason.NOT_NVGRE, "")
_UNKNOWN_VSID = Dropped(DropReason.UNKNOWN_VSID, "")
_SPOOFED = Dropped(DropReason.SPOOFED_SOURCE)


def _ethernet() -> Iterator[Case]:
    whole = arriving(ROUTED)
    for words, destination in (
        ("another machine's MAC", b"\x02\xaa\0\0\0\x77"),
        ("everybody's MAC", b"\xff" * 6),
        ("a group's MAC", bytes.fromhex("01005e000001")),
        ("the MAC of our other interface", OWN_MACS["eth2"]),
    ):
        yield Case(f"to {words} in the underlay", destination + whole[6:], _NOT_DELIVERED, WORLD)
    tagged = whole[:12] + bytes.fromhex("81000064") + whole[12:]
    yield Case("with a VLAN tag in the underlay", tagged, _NOT_DELIVERED, WORLD)
    own, theirs = OWN_MACS["eth1"], node_mac("hv1")
    for words, ethertype, packet in (
        ("ARP of the underlay", 0x0806, bytes.fromhex("0001080006040001") + bytes(20)),
        ("an ethertype that nobody knows", 0x88B5, bytes(46)),
        ("IPv4 that says it is IPv6", 0x86DD, ipv4(_FROM, _TO, _PAYLOAD)),
        ("IPv6 that says it is IPv4", 0x0800, ipv6(_FROM_V6, _TO_V6, _PAYLOAD)),
    ):
        yield Case(words, ethernet(own, theirs, packet, ethertype=ethertype), _NOT_DELIVERED, WORLD)
    yield Case("an Ethernet header and nothing else", whole[:14], _NOT_DELIVERED, WORLD)


def _ipv4() -> Iterator[Case]:
    for words, packet, expected in (
        ("UDP to us", ipv4(_FROM, _TO, _PAYLOAD, protocol=17), _NOT_DELIVERED),
        ("ESP to us", ipv4(_FROM, _TO, _PAYLOAD, protocol=50), _NOT_DELIVERED),
        ("GRE to another provider address", ipv4(_FROM, pa("hv2"), _PAYLOAD), _NOT_DELIVERED),
        ("GRE to the other gateway's provider address", ipv4(_FROM, pa("edge-2"), _PAYLOAD), _NOT_DELIVERED),
        ("GRE to everybody", ipv4(_FROM, b"\xff" * 4, _PAYLOAD), _NOT_DELIVERED),
        ("a wrong checksum", ipv4(_FROM, _TO, _PAYLOAD, wrong_checksum=True), _BROKEN),
        ("a first fragment", ipv4(_FROM, _TO, _PAYLOAD, fragment=0x2000), _BROKEN),
        ("a later fragment", ipv4(_FROM, _TO, _PAYLOAD, fragment=0x0010), _BROKEN),
        ("a last fragment that may not be fragmented", ipv4(_FROM, _TO, _PAYLOAD, fragment=0x4001), _BROKEN),
        ("options", ipv4(_FROM, _TO, _PAYLOAD, options=b"\x01\x01\x01\0"), Passed(Why.OUTER_FORM, _GOES_ON)),
        (
            "forty octets of options",
            ipv4(_FROM, _TO, _PAYLOAD, options=b"\x01" * 40),
            Passed(Why.OUTER_FORM, _GOES_ON),
        ),
        ("a header length below the least", ipv4(_FROM, _TO, _PAYLOAD, first=0x44), _BROKEN),
        ("version 5", ipv4(_FROM, _TO, _PAYLOAD, first=0x55), _BROKEN),
        ("a length above the frame's", ipv4(_FROM, _TO, _PAYLOAD, total=20 + len(_PAYLOAD) + 1), _BROKEN),
        ("a length below the header's", ipv4(_FROM, _TO, _PAYLOAD, total=19), _BROKEN),
        ("no payload by its length", ipv4(_FROM, _TO, _PAYLOAD, total=20), _cut("")),
        ("seven octets of GRE by its length", ipv4(_FROM, _TO, _PAYLOAD, total=27), _cut("")),
        ("no inner frame by its length", ipv4(_FROM, _TO, _PAYLOAD, total=28), _cut()),
        ("an inner frame that its length cuts", ipv4(_FROM, _TO, _PAYLOAD, total=20 + 8 + 14 + 19), _cut()),
        (
            "an inner packet whose last octet its length leaves out",
            ipv4(_FROM, _TO, _PAYLOAD, total=20 + len(_PAYLOAD) - 1),
            _cut(),
        ),
        ("DSCP 46, which goes no further", ipv4(_FROM, _TO, _PAYLOAD, tos=46 << 2), _GOES_ON),
        ("an identification", ipv4(_FROM, _TO, _PAYLOAD, identification=0xBEEF), _GOES_ON),
        ("no DF", ipv4(_FROM, _TO, _PAYLOAD, fragment=0), _GOES_ON),
        ("the evil bit", ipv4(_FROM, _TO, _PAYLOAD, fragment=0x8000), _GOES_ON),
    ):
        yield Case(f"outer IPv4 with {words}", arriving_packet(packet), expected, WORLD)
    whole = arriving(ROUTED)
    for length in (15, 33, 34, 41):
        yield Case(f"outer IPv4, and the frame ends at octet {length}", whole[:length], _BROKEN, WORLD)


def _ipv6() -> Iterator[Case]:
    padding = bytes((47, 0, 1, 4, 0, 0, 0, 0))
    to_options, to_udp = bytes((60,)) + padding[1:], bytes((17,)) + padding[1:]
    long_options = bytes((60, 2, 1, 20)) + bytes(20)
    fragment, udp_part = (struct.pack("!BxHI", protocol, 1, 7) for protocol in (47, 17))
    for words, packet, expected in (
        ("UDP to us", ipv6(_FROM_V6, _TO_V6, _PAYLOAD, next_header=17), _NOT_DELIVERED),
        ("GRE to another provider address", ipv6(_FROM_V6, pa("hv2", 6), _PAYLOAD), _NOT_DELIVERED),
        (
            "hop-by-hop options",
            ipv6(_FROM_V6, _TO_V6, padding + _PAYLOAD, next_header=0),
            Passed(Why.OUTER_FORM, _GOES_ON),
        ),
        (
            "destination options",
            ipv6(_FROM_V6, _TO_V6, padding + _PAYLOAD, next_header=60),
            Passed(Why.OUTER_FORM, _GOES_ON),
        ),
        (
            "three extension headers",
            ipv6(_FROM_V6, _TO_V6, to_options + long_options + padding + _PAYLOAD, next_header=0),
            Passed(Why.OUTER_FORM, _GOES_ON),
        ),
        ("UDP behind options", ipv6(_FROM_V6, _TO_V6, to_udp + _PAYLOAD, next_header=60), _NOT_DELIVERED),
        ("a fragment header", ipv6(_FROM_V6, _TO_V6, fragment + _PAYLOAD, next_header=44), _BROKEN),
        ("a fragment of UDP", ipv6(_FROM_V6, _TO_V6, udp_part + _PAYLOAD, next_header=44), _NOT_DELIVERED),
        ("version 4", ipv6(_FROM_V6, _TO_V6, _PAYLOAD, version=4), _BROKEN),
        (
            "a length above the frame's",
            ipv6(_FROM_V6, _TO_V6, _PAYLOAD, length=len(_PAYLOAD) + 1),
            _BROKEN,
        ),
        ("no payload by its length", ipv6(_FROM_V6, _TO_V6, _PAYLOAD, length=0), _cut("")),
        ("seven octets of GRE by its length", ipv6(_FROM_V6, _TO_V6, _PAYLOAD, length=7), _cut("")),
        (
            "an inner packet whose last octet its length leaves out",
            ipv6(_FROM_V6, _TO_V6, _PAYLOAD, length=len(_PAYLOAD) - 1),
            _cut(),
        ),
        (
            "a flow label, which goes no further",
            ipv6(_FROM_V6, _TO_V6, _PAYLOAD, flow_label=0xFFFFF),
            _GOES_ON,
        ),
        ("DSCP 46", ipv6(_FROM_V6, _TO_V6, _PAYLOAD, traffic_class=46 << 2), _GOES_ON),
    ):
        yield Case(f"outer IPv6 with {words}", arriving_packet(packet), expected, WORLD)
    whole = arriving(ROUTED, version=6)
    for length in (15, 53, 54, 61):
        yield Case(f"outer IPv6, and the frame ends at octet {length}", whole[:length], _BROKEN, WORLD)
    alone = world(provider_addresses=(pa("edge-1"),))
    yield Case("outer IPv6 where we have IPv4 alone", arriving(ROUTED, version=6), _NOT_DELIVERED, alone)


def _gre() -> Iterator[Case]:
    for words, flags in (
        ("no key", 0x0000),
        ("a checksum", 0xA000),
        ("routing (RFC 1701), bit 1", 0x6000),
        ("a sequence number", 0x3000),
        ("strict source route (RFC 1701), bit 4", 0x2800),
        ("bit 5 set", 0x2400),
        ("version 1", 0x2001),
        ("version 2", 0x2002),
        ("version 4", 0x2004),
        ("version 7", 0x2007),
        ("every bit set", 0xFFFF),
    ):
        for version in (4, 6):
            yield Case(
                f"GRE with {words}, by IPv{version}",
                arriving(ROUTED, flags=flags, version=version),
                _NOT_NVGRE,
                WORLD,
            )
    for bit in range(6, 13):
        yield Case(
            f"GRE with bit {bit} set, which is ignored and goes no further",
            arriving(ROUTED, flags=0x2000 | 0x8000 >> bit),
            _GOES_ON,
            WORLD,
        )
    yield Case("GRE with bits 6 to 12 all set", arriving(ROUTED, flags=0x23F8), _GOES_ON, WORLD)
    for words, protocol in (("IPv4", 0x0800), ("nothing", 0), ("PPP", 0x880B), ("ERSPAN", 0x88BE)):
        yield Case(f"GRE that carries {words}", arriving(ROUTED, protocol=protocol), _NOT_NVGRE, WORLD)
    for length in range(0, 8, 3):
        yield Case(
            f"GRE of {length} octets, the last of the frame",
            arriving_with(_PAYLOAD[:length]),
            Passed(Why.MALFORMED, Dropped(DropReason.MALFORMED, "")),
            WORLD,
        )
    yield Case(
        "GRE of another kind from nobody whom we know",
        arriving(ROUTED, flags=0x2001, sender="stranger"),
        _NOT_NVGRE,
        WORLD,
    )
    yield Case(
        "GRE of another kind, in four octets",
        arriving_with(_PAYLOAD[:4]),
        Passed(Why.MALFORMED, Dropped(DropReason.MALFORMED, "")),
        WORLD,
    )


def _vsids() -> Iterator[Case]:
    for words, number in (
        ("0", 0),
        ("the last reserved", 0xFFF),
        ("NVE-to-NVE", 0xFFFFFF),
        ("of nobody", 5003),
        ("with our VSID in the lower octets, 0x893", 0x89),
        ("of nobody, with the octets of ours swapped", 0x891300),
    ):
        yield Case(f"VSID {words} ({number:#x})", arriving(ROUTED, key=number << 8), _UNKNOWN_VSID, WORLD)
    yield Case("VSID and FlowID as one number", arriving(ROUTED, key=5001), _UNKNOWN_VSID, WORLD)
    yield Case(
        "an unknown VSID, and no inner frame",
        arriving_with(gre(5003 << 8, b"")),
        _UNKNOWN_VSID,
        WORLD,
    )
    yield Case(
        "an unknown VSID from nobody whom we know",
        arriving(ROUTED, key=5003 << 8, sender="stranger"),
        _UNKNOWN_VSID,
        WORLD,
    )
    for flow in (0, 1, 0xFF):
        yield Case(
            f"FlowID {flow:#x} is no part of the VSID", arriving(ROUTED, flow_id=flow), _GOES_ON, WORLD
        )
    yield Case(
        "a VSID of a tenant that has another gateway",
        arriving(SWITCHED, tenant="green"),
        Passed(Why.NOT_OUR_TENANT, Dropped(DropReason.NOT_HERE, "green")),
        WORLD,
    )
    yield Case(
        "routed, in a VSID of a tenant that has another gateway",
        arriving(with_macs(ROUTED, bytes.fromhex("026973001b59"), ROUTED_SOURCE), tenant="green"),
        Passed(Why.NOT_OUR_TENANT, Dropped(DropReason.NOT_HERE, "green")),
        WORLD,
    )


ROUTED_SOURCE = raw(ROUTED)[6:12]


def _senders() -> Iterator[Case]:
    for version in (4, 6):
        yield Case(
            f"from an IPv{version} address that no node has",
            arriving(ROUTED, sender="stranger", version=version),
            _SPOOFED,
            WORLD,
        )
    yield Case(
        "from an address that no node has, and switched",
        arriving(SWITCHED, sender="stranger"),
        _SPOOFED,
        WORLD,
    )
    for words, inner in (
        ("nothing", b""),
        ("half an Ethernet header", bytes(7)),
        ("a broadcast", b"\xff" * 6 + raw(ROUTED)[6:]),
        ("a VLAN tag", raw(ROUTED)[:12] + bytes.fromhex("81000064") + raw(ROUTED)[12:]),
        ("half an IP header", raw(ROUTED)[:24]),
        ("ARP", raw(ROUTED)[:12] + bytes.fromhex("08060001080006040001") + bytes(20)),
    ):
        yield Case(
            f"from an address that no node has, with {words} inside",
            arriving(inner, sender="stranger"),
            _SPOOFED,
            WORLD,
        )
    for words, source in (
        ("0.0.0.0", bytes(4)),
        ("127.0.0.1", bytes((127, 0, 0, 1))),
        ("a tenant's own CA", bytes((10, 0, 1, 5))),
        ("our IPv6 address in four octets", _TO_V6[:4]),
    ):
        packet = ipv4(source, _TO, _PAYLOAD)
        yield Case(f"from {words} as a provider address", arriving_packet(packet), _SPOOFED, WORLD)
    yield Case(
        "from :: as a provider address",
        arriving_packet(ipv6(bytes(16), _TO_V6, _PAYLOAD)),
        _SPOOFED,
        WORLD,
    )
    yield Case(
        "from a host's IPv4 address, mapped into IPv6",
        arriving_packet(ipv6(bytes(10) + b"\xff\xff" + _FROM, _TO_V6, _PAYLOAD)),
        _SPOOFED,
        WORLD,
    )
    for words, payload in (
        ("well-formed NVGRE", _PAYLOAD),
        ("GRE with a checksum", gre(_KEY, raw(ROUTED), flags=0xA000)),
        ("an unknown VSID", gre(5003 << 8, raw(ROUTED))),
    ):
        packet = ipv4(_TO, _TO, payload)
        yield Case(
            f"from our own provider address, {words}",
            arriving_packet(packet),
            Passed(Why.LOOP, Dropped(DropReason.LOOP, "")),
            WORLD,
        )
    yield Case(
        "from our own IPv6 address to our IPv4 one's machine",
        arriving_packet(ipv6(_TO_V6, _TO_V6, _PAYLOAD)),
        Passed(Why.LOOP, Dropped(DropReason.LOOP, "")),
        WORLD,
    )
    yield Case(
        "from a host of another tenant",
        arriving(ROUTED, sender="hv3"),
        Passed(Why.SENDER, _SPOOFED),
        WORLD,
        BEHIND["hv3"],
    )
    yield Case(
        "from a host of another tenant, with a broken inner frame: that is not looked at",
        arriving(raw(ROUTED)[:24], sender="hv3"),
        Passed(Why.MALFORMED, _SPOOFED),
        WORLD,
    )
    yield Case(
        "from the tenant's other gateway, routed: it vouches for its senders",
        arriving(ROUTED, sender="edge-2"),
        Passed(Why.SENDER, _GOES_ON),
        WORLD,
    )
    yield Case(
        "from the tenant's other gateway, switched: no gateway switches for another",
        arriving(SWITCHED, sender="edge-2"),
        Passed(Why.SENDER, Dropped(DropReason.NOT_HERE)),
        WORLD,
    )


def _cut(tenant: str = "red") -> Passed:
    return Passed(Why.MALFORMED, Dropped(DropReason.MALFORMED, tenant))


CASES = (*_ethernet(), *_ipv4(), *_ipv6(), *_gre(), *_vsids(), *_senders())
