"""Cases of what is changed inside: the ECN field by RFC 6040, and the segment size that a SYN offers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scapy.compat import raw
from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from policies.model import AccessRule, Action
from tests.fastpath.cases_carried import DB, OTHER_DB, OTHER_WEB, ROUTED, WEB
from tests.fastpath.outcomes import Case, Dropped, Passed, Why
from tests.fastpath.scenes import WORLD, pa, tenant, world
from tests.fastpath.wire import arriving, forwarded, routed, with_ip
from tests.networks import frame

_NAMES = ("Not-ECT", "ECT(1)", "ECT(0)", "CE")

# RFC 6040 section 4.2, figure 4: rows are the inner field, columns the outer; None is a drop.
_ON_ARRIVAL: Sequence[Sequence[int | None]] = (
    (0, 0, 0, None),
    (1, 1, 1, 3),
    (2, 1, 2, 3),
    (3, 3, 3, 3),
)


def _ecn() -> Iterator[Case]:
    for version in (4, 6):
        field = "tos" if version == 4 else "tc"
        for inner in range(4):
            for outer in range(4):
                sent = frame("red", WEB, DB, version=version, **{field: 46 << 2 | inner})
                result = _ON_ARRIVAL[inner][outer]
                words = f"IPv{version} {_NAMES[inner]} inside {_NAMES[outer]}"
                if result is None:
                    expected = Dropped(DropReason.CONGESTION)
                    yield Case(f"{words}: dropped", arriving(sent, tos=outer), expected, WORLD)
                    continue
                yield Case(
                    f"{words}: {_NAMES[result]} inside and outside, and the DSCP inside alone",
                    arriving(sent, tos=0x60 | outer),
                    forwarded(with_ip(routed(sent), **{field: 46 << 2 | result}), ecn=result),
                    WORLD,
                )
    sent = frame("red", WEB, OTHER_WEB, tos=2)
    yield Case(
        "a mark is set on what is switched, too, and nothing else changes",
        arriving(sent, tos=3),
        forwarded(with_ip(sent, tos=3), subnet="web", ttl=63, ecn=3),
        WORLD,
    )
    sent = frame("red", WEB, OTHER_WEB)
    yield Case(
        "switched, and a mark that cannot be set",
        arriving(sent, tos=3),
        Dropped(DropReason.CONGESTION),
        WORLD,
    )
    sent = frame("red", WEB, DB, version=6, tc=1, fl=0x54321)
    to_ipv6 = world(pa_version=6)
    yield Case(
        "a mark goes from an outer IPv6 header to an outer IPv6 header",
        arriving(sent, tos=3, version=6),
        forwarded(with_ip(routed(sent), tc=3), ecn=3, version=6),
        to_ipv6,
    )
    yield Case(
        "a mark goes from an outer IPv4 header to an outer IPv6 header",
        arriving(sent, tos=3),
        forwarded(with_ip(routed(sent), tc=3), ecn=3, version=6),
        to_ipv6,
    )
    for identification in (0, 0x8001, 0xFFFF):
        sent = frame("red", WEB, DB, tos=2, id=identification)
        yield Case(
            f"an IPv4 header's sum is kept right when it is marked, identification {identification:#06x}",
            arriving(sent, tos=3),
            forwarded(with_ip(routed(sent), tos=3), ecn=3),
            WORLD,
        )
    denying = world(tenant(access=(AccessRule(name="nothing", action=Action.DENY),)))
    yield Case(
        "marked beyond what it can say, and denied besides: the mark is seen first",
        arriving(ROUTED, tos=3),
        Dropped(DropReason.CONGESTION),
        denying,
    )
    yield Case(
        "marked beyond what it can say, and for nobody",
        arriving(ROUTED, tos=3),
        Dropped(DropReason.CONGESTION),
        world(without=("10.0.2.5",)),
    )
    yield Case(
        "marked beyond what it can say, and at its last hop",
        arriving(frame("red", WEB, DB, ttl=1), tos=3),
        Dropped(DropReason.CONGESTION),
        WORLD,
    )
    yield Case(
        "marked beyond what it can say, and larger than the way carries",
        arriving(frame("red", WEB, DB, upper=Raw(bytes(1460)), proto=61), tos=3),
        Dropped(DropReason.CONGESTION),
        WORLD,
    )


_NOP, _SCALE = ("NOP", None), ("WScale", 7)


def _offering(sizes: Sequence[int], before: Sequence[tuple] = (), **fields: object) -> TCP:
    fields = {"flags": "S", **fields}
    options = [*before, *(("MSS", size) for size in sizes)]
    return TCP(sport=1111, dport=5432, options=options, **fields)


def _segment_sizes() -> Iterator[Case]:
    for version, limit in ((4, 1418), (6, 1398)):
        for words, before in (
            ("first", ()),
            ("after a no-operation, at an odd octet", (_NOP,)),
            ("after two", (_NOP, _NOP)),
            ("after a window scale, at an odd octet", (_SCALE,)),
            ("after timestamps and SACK", (("SAckOK", b""), ("Timestamp", (1, 0)))),
        ):
            sent = frame("red", WEB, DB, version=version, upper=_offering([1460], before))
            lowered = frame("red", WEB, DB, version=version, upper=_offering([limit], before))
            yield Case(
                f"a SYN in IPv{version} offers too much, {words}",
                arriving(sent),
                forwarded(routed(lowered)),
                WORLD,
            )
        for size in (limit, limit - 1, 536, 0):
            sent = frame("red", WEB, DB, version=version, upper=_offering([size]))
            yield Case(
                f"a SYN in IPv{version} that offers {size} octets is left alone",
                arriving(sent),
                forwarded(routed(sent)),
                WORLD,
            )
        sent = frame("red", WEB, DB, version=version, upper=_offering([limit + 1]))
        lowered = frame("red", WEB, DB, version=version, upper=_offering([limit]))
        yield Case(
            f"a SYN in IPv{version} that offers one octet too many",
            arriving(sent),
            forwarded(routed(lowered)),
            WORLD,
        )
        sent = frame("red", WEB, DB, version=version, upper=_offering([9000, 1400 - 10 * version, 65535]))
        lowered = frame("red", WEB, DB, version=version, upper=_offering([limit, 1400 - 10 * version, limit]))
        yield Case(
            f"a SYN in IPv{version} that offers several sizes: each is lowered that is too much",
            arriving(sent),
            forwarded(routed(lowered)),
            WORLD,
        )
    for flags in ("SA", "SAE", "SF", "SFR", "SPU"):
        sent, lowered = (
            frame("red", WEB, DB, upper=_offering([size], flags=flags) / Raw(b"x")) for size in (1460, 1418)
        )
        yield Case(
            f"TCP flags {flags} and an octet of data", arriving(sent), forwarded(routed(lowered)), WORLD
        )
    for flags in ("A", "F", "R", ""):
        sent = frame("red", WEB, DB, upper=_offering([1460], flags=flags))
        yield Case(
            f"TCP flags {flags or 'none'}: no size is offered",
            arriving(sent),
            forwarded(routed(sent)),
            WORLD,
        )
    sent = frame("red", WEB, DB, upper=_offering([]))
    yield Case("a SYN without options", arriving(sent), forwarded(routed(sent)), WORLD)
    many = frame("red", WEB, DB, upper=_offering([1460] * 10))
    lowered = frame("red", WEB, DB, upper=_offering([1418] * 10))
    yield Case("a SYN full of offers", arriving(many), forwarded(routed(lowered)), WORLD)
    last = [_NOP] * 36
    sent = frame("red", WEB, DB, upper=_offering([1460], last))
    lowered = frame("red", WEB, DB, upper=_offering([1418], last))
    yield Case("a SYN that offers in its very last octets", arriving(sent), forwarded(routed(lowered)), WORLD)
    for words, options in (
        ("an end of options before the offer", bytes.fromhex("00 02 04 05b4 000000")),
        ("an option of length 0 before the offer", bytes.fromhex("08 00 02 04 05b4 0000")),
        ("an option of length 1 before the offer", bytes.fromhex("08 01 02 04 05b4 0000")),
        ("an option that reaches beyond the header", bytes.fromhex("08 20 02 04 05b4 0000")),
        ("an offer of length 3", bytes.fromhex("02 03 05 02 03 b4 0000")),
        ("an offer of length 2", bytes.fromhex("02 02 01 00")),
        ("an offer of length 6", bytes.fromhex("02 06 05b4 05b4 0000")),
        ("an offer that is cut off", bytes.fromhex("01 02 04 05")),
        ("a kind without a length as its last octet", bytes.fromhex("01 01 01 02")),
        ("a kind of its own without a length as its last octet", bytes.fromhex("01 01 01 ff")),
    ):
        sent = frame("red", WEB, DB, upper=_with_options(options))
        yield Case(f"a SYN with {words}", arriving(sent), forwarded(routed(sent)), WORLD)
    sent = frame(
        "red", WEB, DB, upper=_with_options(bytes.fromhex("fe 0c 02 04 05b4 02 04 05b4 0000 02 04 05b4"))
    )
    lowered = frame(
        "red", WEB, DB, upper=_with_options(bytes.fromhex("fe 0c 02 04 05b4 02 04 05b4 0000 02 04 058a"))
    )
    yield Case(
        "a SYN with an offer within another option, which is none, and one behind it",
        arriving(sent),
        forwarded(routed(lowered)),
        WORLD,
    )
    sent = frame(
        "red", WEB, DB, upper=TCP(sport=1111, dport=5432, flags="S") / Raw(bytes.fromhex("020405b4"))
    )
    yield Case("what looks like an offer in the data is none", arriving(sent), forwarded(routed(sent)), WORLD)
    padded = frame("red", WEB, DB, upper=_offering([]))
    yield Case(
        "what looks like an offer behind the packet is none",
        arriving(raw(padded) + bytes.fromhex("020405b4")),
        forwarded(routed(padded)),
        WORLD,
    )
    sent, lowered = (frame("red", WEB, OTHER_WEB, upper=_offering([size])) for size in (1460, 1418))
    yield Case(
        "a SYN that is switched offers too much",
        arriving(sent),
        forwarded(lowered, subnet="web", ttl=63),
        WORLD,
    )
    # The checksum is only carried over: what was wrong stays wrong, by as much.
    sent = with_wrong_checksum(frame("red", WEB, DB, upper=_offering([1460])))
    lowered = with_wrong_checksum(frame("red", WEB, DB, upper=_offering([1418])))
    yield Case(
        "a SYN with a wrong checksum keeps it wrong", arriving(sent), forwarded(routed(lowered)), WORLD
    )


def _ways_of_segments() -> Iterator[Case]:
    for inner, headers in ((4, 40), (6, 60)):
        for way_in, way_out in ((4, 6), (6, 4), (6, 6)):
            limit = 1500 - 62 - headers
            sent, lowered = (
                frame("red", WEB, DB, version=inner, upper=_offering([size])) for size in (1460, limit)
            )
            yield Case(
                f"a SYN in IPv{inner} comes by IPv{way_in} and goes by IPv{way_out}: the narrower way counts",
                arriving(sent, version=way_in),
                forwarded(routed(lowered), version=way_out),
                world(pa_version=way_out),
            )
    for words, narrow, to, place in (
        ("on", "hv2", "hv2", DB),
        ("back", "hv1", "hv2", DB),
        ("on and back", "hv1", "hv1", OTHER_DB),
    ):
        sent, lowered = (frame("red", WEB, place, upper=_offering([size])) for size in (1460, 1400 - 42 - 40))
        yield Case(
            f"a SYN offers more than the path {words} has been reported to carry",
            arriving(sent),
            forwarded(routed(lowered, to=place), to=to),
            world(reported=((pa(narrow), 1400),)),
        )
    sent = frame("red", WEB, DB, upper=_offering([9000]))
    lowered = frame("red", WEB, DB, upper=_offering([8918]))
    yield Case(
        "a SYN in an underlay of 9000 octets",
        arriving(sent),
        forwarded(routed(lowered)),
        world(mtu=9000),
    )
    sent = frame("red", WEB, DB, upper=_offering([1460]))
    yield Case(
        "a SYN whose way back has no next hop yet, so that the program may not know its MTU",
        arriving(sent),
        Passed(Why.NEXT_HOP, forwarded(routed(frame("red", WEB, DB, upper=_offering([1418]))))),
        world(hops={pa("hv2"): WORLD.hops[pa("hv2")]}),
    )
    yield Case(
        "what is no SYN needs no way back",
        arriving(ROUTED),
        forwarded(routed(ROUTED)),
        world(hops={pa("hv2"): WORLD.hops[pa("hv2")]}),
    )


def with_wrong_checksum(sent: Packet) -> Packet:
    """A frame whose TCP checksum is less by one than it should be."""
    octets = bytearray(raw(sent))
    at = 14 + 20 + 16
    octets[at : at + 2] = (int.from_bytes(octets[at : at + 2]) - 1).to_bytes(2)
    packet = Ether(bytes(octets))
    packet.payload.chksum = None
    return packet


def _with_options(options: bytes) -> Packet:
    """A SYN with options as they are, which may make no sense."""
    header = TCP(sport=1111, dport=5432, flags="S", dataofs=5 + len(options) // 4)
    return header / Raw(options)


CASES = (*_ecn(), *_segment_sizes(), *_ways_of_segments())
