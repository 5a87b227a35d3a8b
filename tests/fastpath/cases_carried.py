"""Cases of what is carried: between all families, routed and switched, with whatever protocol."""

from __future__ import annotations

from collections.abc import Iterator

from scapy.compat import raw
from scapy.layers.inet import ICMP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest
from scapy.packet import Packet, Raw

from policies.addresses import ProviderAddress
from tests.fastpath.outcomes import Case, GoesOn, Passed, Why
from tests.fastpath.scenes import OWN_MACS, WORLD, pa, record, world
from tests.fastpath.wire import arriving, arriving_packet, forwarded, gre, ipv4, routed, with_ip
from tests.networks import ca, frame, mac, router_mac

WEB, OTHER_WEB, DB, OTHER_DB = ("web", 5), ("web", 6), ("db", 5), ("db", 6)

ROUTED = frame("red", WEB, DB)
SWITCHED = frame("red", WEB, OTHER_WEB)
ROUTED_V6 = frame("red", WEB, DB, version=6)
SWITCHED_V6 = frame("red", WEB, OTHER_WEB, version=6)


def _between_families() -> Iterator[Case]:
    for pa_version in (4, 6):
        at = world(pa_version=pa_version)
        for outer in (4, 6):
            for inner in (4, 6):
                words = f"IPv{inner} in from an IPv{outer} host and out to an IPv{pa_version} one"
                sent = frame("red", WEB, DB, version=inner)
                yield Case(
                    f"{words}, routed",
                    arriving(sent, version=outer),
                    forwarded(routed(sent), version=pa_version),
                    at,
                )
                sent = frame("red", WEB, OTHER_WEB, version=inner)
                yield Case(
                    f"{words}, switched",
                    arriving(sent, version=outer),
                    forwarded(sent, subnet="web", version=pa_version, ttl=63),
                    at,
                )


def _protocols() -> Iterator[Case]:
    for words, protocol, payload in (
        ("SCTP", 132, bytes.fromhex("0457162e000000000000000000000000")),
        ("ESP", 50, bytes(range(40))),
        ("GRE of a tenant's own", 47, bytes.fromhex("20006558aabbcc00") + bytes(20)),
        ("a protocol that nobody has heard of, with a single octet", 253, b"\x01"),
        ("a protocol with nothing behind the IP header", 59, b""),
        ("IGMP to a single host", 2, bytes(8)),
    ):
        sent = frame("red", WEB, DB, upper=Raw(payload), proto=protocol)
        yield Case(f"{words} in IPv4", arriving(sent), forwarded(routed(sent)), WORLD)
    for words, protocol, payload in (
        ("SCTP", 132, bytes.fromhex("0457162e000000000000000000000000")),
        ("ESP", 50, bytes(range(40))),
        ("no next header at all", 59, b""),
        ("a next header that is no extension Python walks (mobility)", 135, bytes(8)),
    ):
        sent = frame("red", WEB, DB, version=6, upper=Raw(payload), nh=protocol)
        yield Case(f"{words} in IPv6", arriving(sent), forwarded(routed(sent)), WORLD)
    for words, upper in (
        ("a TCP segment in the middle of a connection", TCP(sport=1, dport=65535, flags="A") / Raw(b"x")),
        ("a TCP segment with timestamps", TCP(flags="PA", options=[("Timestamp", (1, 2))]) / Raw(b"xyz")),
        ("a TCP reset with an odd number of octets", TCP(flags="R") / Raw(b"x")),
        ("an empty UDP datagram", UDP(sport=5, dport=6)),
        ("a UDP datagram without a checksum", UDP(sport=5, dport=6, chksum=0) / Raw(b"x")),
        ("a UDP datagram with a wrong checksum, which only its receiver looks at", UDP(chksum=1) / Raw(b"x")),
        ("a UDP datagram shorter than its packet", UDP(sport=5, dport=6, len=9) / Raw(b"abcdef")),
        ("an echo request to a VM", ICMP(type=8) / Raw(b"ping")),
        ("an echo reply", ICMP(type=0) / Raw(b"ping")),
        ("an ICMP timestamp request", ICMP(type=13) / Raw(b"ping")),
        ("an ICMP error in a tenant without access rules", ICMP(type=3, code=1) / Raw(bytes(28))),
        ("an ICMP error that quotes nothing", ICMP(type=11)),
    ):
        sent = frame("red", WEB, DB, upper=upper)
        yield Case(f"{words} in IPv4", arriving(sent), forwarded(routed(sent)), WORLD)
    for words, upper in (
        ("an echo request", ICMPv6EchoRequest(data=b"ping")),
        ("an echo reply", ICMPv6EchoReply(data=b"ping")),
        ("a TCP segment", TCP(flags="A") / Raw(b"xyz")),
    ):
        sent = frame("red", WEB, DB, version=6, upper=upper)
        yield Case(f"{words} in IPv6", arriving(sent), forwarded(routed(sent)), WORLD)
    sent = frame("red", WEB, DB, version=6, upper=Raw(bytes.fromhex("0104 0000 0000 0000")), nh=58)
    yield Case("an ICMPv6 error without rules", arriving(sent), forwarded(routed(sent)), WORLD)


def _ways() -> Iterator[Case]:
    yield Case(
        "the FlowID of a known flow, made of its addresses, protocol and ports",
        arriving(ROUTED, flow_id=0x55),
        forwarded(routed(ROUTED), flow_id=0xCE),
        WORLD,
    )
    to_zero = frame("red", WEB, ("db", 9))
    yield Case(
        "to a host that wants a FlowID of zero, whatever came in",
        arriving(to_zero, flow_id=0xAB),
        forwarded(routed(to_zero, to=("db", 9)), to="hv4", flow_id=0),
        WORLD,
    )
    sent = frame("red", WEB, OTHER_DB)
    yield Case(
        "back to the host that it came from, for another of its VMs: out where it came in",
        arriving(sent),
        forwarded(routed(sent, to=OTHER_DB), to="hv1"),
        WORLD,
    )
    sent = frame("red", OTHER_WEB, WEB)
    yield Case(
        "from the other interface",
        arriving(sent, sender="hv2"),
        forwarded(sent, to="hv1", subnet="web", ttl=63),
        WORLD,
        "eth2",
    )
    yield Case(
        "in by an interface that its sender is not behind: it is addressed to us there",
        OWN_MACS["eth2"] + arriving(SWITCHED)[6:],
        forwarded(SWITCHED, subnet="web", ttl=63),
        WORLD,
        "eth2",
    )
    sent = frame("blue", WEB, DB)
    yield Case(
        "the same addresses in another tenant, which has others behind them",
        arriving(sent, tenant="blue"),
        forwarded(routed(sent, tenant="blue"), tenant="blue"),
        WORLD,
    )
    moved = world(more=(record("db", 5, "hv1"),))
    yield Case(
        "the same address in two tenants at two hosts: Red's is on hv1",
        arriving(ROUTED),
        forwarded(routed(ROUTED), to="hv1"),
        moved,
    )
    yield Case(
        "the same address in two tenants at two hosts: Blue's is on hv2",
        arriving(sent, tenant="blue"),
        forwarded(routed(sent, tenant="blue"), tenant="blue"),
        moved,
    )
    host_routed = with_macs(frame("red", WEB, DB), mac("red", *DB), router_mac("red", "db"))
    yield Case(
        "routed by the sender's host, in the destination's VSID: switched, and sent by web to db",
        arriving(host_routed, subnet="db"),
        forwarded(host_routed, ttl=63),
        WORLD,
    )
    in_db = with_macs(frame("red", WEB, DB), router_mac("red", "db"), mac("red", *WEB))
    yield Case(
        "to the gateway's MAC of another subnet than its sender's",
        arriving(in_db, subnet="db"),
        forwarded(routed(in_db)),
        WORLD,
    )
    same = with_macs(frame("red", WEB, OTHER_WEB), router_mac("red", "web"), mac("red", *WEB))
    yield Case(
        "within one subnet, and to the gateway's MAC: routed",
        arriving(same),
        forwarded(routed(same, to=OTHER_WEB), subnet="web"),
        WORLD,
    )
    yield Case(
        "to a provider address whose next hop has not been found yet",
        arriving(ROUTED),
        Passed(Why.NEXT_HOP, GoesOn()),
        world(hops={pa("hv1"): WORLD.hops[pa("hv1")]}),
    )
    several = tuple(ProviderAddress.parse(f"192.0.2.{number}") for number in range(201, 209))
    own = world(provider_addresses=(pa("edge-1"), *several))
    packet = ipv4(pa("hv1"), several[0], gre(5001 << 8, raw(ROUTED)))
    yield Case(
        "to our second address: what goes on comes from our first",
        arriving_packet(packet),
        forwarded(routed(ROUTED)),
        own,
    )
    packet = ipv4(pa("hv1"), several[-1], gre(5001 << 8, raw(ROUTED)))
    yield Case(
        "to our ninth address, which is one more than the program knows",
        arriving_packet(packet),
        Passed(Why.NOT_OURS, forwarded(routed(ROUTED))),
        own,
    )
    only = world(provider_addresses=(pa("edge-1"),))
    yield Case("by a node with an IPv4 address alone", arriving(ROUTED), forwarded(routed(ROUTED)), only)


def _padding() -> Iterator[Case]:
    for words, sent, trailing in (
        ("IPv4 with", ROUTED, b"\xaa" * 18),
        ("IPv4 with one odd octet of", ROUTED, b"\xff"),
        ("IPv6 with", ROUTED_V6, b"\xaa" * 18),
    ):
        yield Case(
            f"{words} padding behind the inner packet, routed: it goes no further",
            arriving(raw(sent) + trailing),
            forwarded(routed(sent)),
            WORLD,
        )
    yield Case(
        "padding behind the inner packet, switched",
        arriving(raw(SWITCHED) + bytes(100)),
        forwarded(SWITCHED, subnet="web", ttl=63),
        WORLD,
    )
    yield Case(
        "padding inside, and the other family outside",
        arriving(raw(ROUTED) + bytes(100), version=6),
        forwarded(routed(ROUTED)),
        WORLD,
    )
    yield Case(
        "padding behind the outer packet",
        arriving(ROUTED, trailer=bytes(40)),
        forwarded(routed(ROUTED)),
        WORLD,
    )
    yield Case(
        "padding behind the outer IPv6 packet",
        arriving(ROUTED, version=6, trailer=bytes(40)),
        forwarded(routed(ROUTED)),
        WORLD,
    )


def _headers_kept() -> Iterator[Case]:
    for words, fields in (
        ("identification and DF", {"id": 0x1234, "flags": "DF"}),
        ("no DF", {"id": 0x4321, "flags": 0}),
        ("the evil bit", {"flags": "evil"}),
        ("DSCP 46", {"tos": 46 << 2}),
    ):
        sent = frame("red", WEB, DB, **fields)
        yield Case(f"the inner IPv4 header keeps {words}", arriving(sent), forwarded(routed(sent)), WORLD)
    for words, fields in (("flow label", {"fl": 0xABCDE}), ("DSCP 46", {"tc": 46 << 2})):
        sent = frame("red", WEB, DB, version=6, **fields)
        yield Case(f"the inner IPv6 header keeps its {words}", arriving(sent), forwarded(routed(sent)), WORLD)
    other_mac = with_macs(frame("red", WEB, OTHER_WEB), mac("red", *OTHER_WEB), b"\x02\x99\0\0\0\x01")
    yield Case(
        "a source MAC that is not its record's: that is judged at the VM's port, and kept",
        arriving(other_mac),
        forwarded(other_mac, subnet="web", ttl=63),
        WORLD,
    )
    yield Case(
        "a VM sends to itself by its gateway",
        arriving(with_ip(frame("red", WEB, DB), dst=ca(*WEB))),
        forwarded(routed(with_ip(frame("red", WEB, DB), dst=ca(*WEB)), to=WEB), to="hv1", subnet="web"),
        WORLD,
    )


def with_macs(sent: Packet, destination: bytes, source: bytes) -> Packet:
    """A frame between other MACs."""
    copy = sent.copy()
    copy.dst, copy.src = destination.hex(":"), source.hex(":")
    return copy


CASES = (
    *_between_families(),
    *_ways(),
    *_protocols(),
    *_padding(),
    *_headers_kept(),
)
