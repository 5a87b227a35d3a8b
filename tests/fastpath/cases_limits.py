"""Cases of how far a packet may go, and how large it may be."""

from __future__ import annotations

from collections.abc import Iterator

from scapy.compat import raw
from scapy.layers.inet import UDP
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from tests.fastpath.cases_carried import DB, OTHER_DB, OTHER_WEB, ROUTED, SWITCHED, WEB
from tests.fastpath.outcomes import Case, Dropped, GoesOn, Passed, Told, Why
from tests.fastpath.scenes import WORLD, pa, world
from tests.fastpath.wire import arriving, forwarded, routed
from tests.networks import frame

_LARGEST = {4: 1500 - 42, 6: 1500 - 62}
"""By the family of the provider addresses: what an underlay of 1500 octets carries in one piece."""


def _hop_limits() -> Iterator[Case]:
    for version in (4, 6):
        field = "ttl" if version == 4 else "hlim"
        sent = frame("red", WEB, DB, version=version, **{field: 2})
        yield Case(
            f"IPv{version} with two hops left is routed with one",
            arriving(sent),
            forwarded(routed(sent)),
            WORLD,
        )
        sent = frame("red", WEB, DB, version=version, **{field: 255})
        yield Case(f"IPv{version} with 255 hops left", arriving(sent), forwarded(routed(sent)), WORLD)
        for left in (1, 0):
            sent = frame("red", WEB, DB, version=version, **{field: left})
            yield Case(
                f"IPv{version} with {left} left to be routed: its sender is told",
                arriving(sent),
                Passed(Why.HOP_LIMIT, Told(DropReason.HOP_LIMIT)),
                WORLD,
            )
            sent = frame("red", WEB, OTHER_WEB, version=version, **{field: left})
            yield Case(
                f"IPv{version} with {left} left is switched: no router is on its way",
                arriving(sent),
                forwarded(sent, subnet="web", ttl=63),
                WORLD,
            )
    for outer in (4, 6):
        yield Case(
            f"switched, with two hops left in the underlay of IPv{outer}",
            arriving(SWITCHED, ttl=2, version=outer),
            forwarded(SWITCHED, subnet="web", ttl=1),
            WORLD,
        )
        yield Case(
            f"switched, with one hop left in the underlay of IPv{outer}",
            arriving(SWITCHED, ttl=1, version=outer),
            Passed(Why.HOP_LIMIT, Dropped(DropReason.HOP_LIMIT)),
            WORLD,
        )
        yield Case(
            f"routed, with one hop left in the underlay of IPv{outer}: that ends here anyway",
            arriving(ROUTED, ttl=1, version=outer),
            forwarded(routed(ROUTED)),
            WORLD,
        )
    yield Case(
        "switched, with no hop left in the underlay",
        arriving(SWITCHED, ttl=0),
        Passed(Why.HOP_LIMIT, Dropped(DropReason.HOP_LIMIT)),
        WORLD,
    )
    # The sum of an IPv4 header with its fields so chosen passes 0xFFFF when the TTL falls.
    for identification in (0x0000, 0x0100, 0x8F35, 0xFFFF):
        sent = frame("red", WEB, DB, id=identification, ttl=1 + (identification & 0x3F or 1))
        yield Case(
            f"an IPv4 header's sum is kept right when its TTL changes, identification {identification:#06x}",
            arriving(sent),
            forwarded(routed(sent)),
            WORLD,
        )


def _sizes() -> Iterator[Case]:
    for pa_version, largest in _LARGEST.items():
        at = world(pa_version=pa_version)
        for version in (4, 6):
            headers = (20 if version == 4 else 40) + 8
            words = f"IPv{version} to an IPv{pa_version} host"
            flags: dict[str, object] = {"flags": "DF"} if version == 4 else {}
            sent = frame("red", WEB, DB, version=version, upper=_datagram(largest - headers), **flags)
            yield Case(
                f"{words}, just as large as the way carries",
                arriving(sent, version=pa_version),
                forwarded(routed(sent), version=pa_version),
                at,
            )
            sent = frame("red", WEB, DB, version=version, upper=_datagram(largest - headers + 1), **flags)
            yield Case(
                f"{words}, one octet more than the way carries: its sender is told",
                arriving(sent, version=pa_version),
                Passed(Why.TOO_BIG, Told(DropReason.TOO_BIG)),
                at,
            )
            sent = frame(
                "red", WEB, OTHER_WEB, version=version, upper=_datagram(largest - headers + 1), **flags
            )
            yield Case(
                f"{words}, one octet too many and switched: its sender is told by whom it was to",
                arriving(sent, version=pa_version),
                Passed(Why.TOO_BIG, Told(DropReason.TOO_BIG)),
                at,
            )
        sent = frame("red", WEB, DB, upper=_datagram(largest - 28 + 1))
        yield Case(
            f"IPv4 to an IPv{pa_version} host that may be fragmented, and is one octet too large",
            arriving(sent, version=pa_version),
            Passed(Why.TOO_BIG, GoesOn(2)),
            at,
        )
    padded = frame("red", WEB, DB, upper=_datagram(_LARGEST[4] - 28), flags="DF")
    yield Case(
        "just as large as the way carries, and padding behind that does not count",
        arriving(raw(padded) + bytes(20)),
        forwarded(routed(padded)),
        WORLD,
    )
    narrow = world(mtu=1300)
    sent = frame("red", WEB, DB, version=6, upper=_datagram(1280 - 48))
    yield Case(
        "IPv6 of 1280 octets always goes, even by an underlay that carries less",
        arriving(sent),
        Passed(Why.TOO_BIG, forwarded(routed(sent))),
        narrow,
    )
    sent = frame("red", WEB, DB, version=6, upper=_datagram(1281 - 48))
    yield Case(
        "IPv6 of 1281 octets does not",
        arriving(sent),
        Passed(Why.TOO_BIG, Told(DropReason.TOO_BIG)),
        narrow,
    )
    sent = frame("red", WEB, DB, upper=_datagram(1259 - 28), flags="DF")
    yield Case(
        "IPv4 has no such floor",
        arriving(sent),
        Passed(Why.TOO_BIG, Told(DropReason.TOO_BIG)),
        narrow,
    )
    wide = world(mtu=9000)
    sent = frame("red", WEB, DB, upper=_datagram(3000), flags="DF")
    yield Case("a large frame in an underlay of 9000 octets", arriving(sent), forwarded(routed(sent)), wide)
    reported = world(reported=((pa("hv2"), 1400),))
    sent = frame("red", WEB, DB, upper=_datagram(1400 - 42 - 28), flags="DF")
    yield Case(
        "just as large as the path to its host has been reported to carry",
        arriving(sent),
        forwarded(routed(sent)),
        reported,
    )
    sent = frame("red", WEB, DB, upper=_datagram(1400 - 42 - 28 + 1), flags="DF")
    yield Case(
        "one octet more than that",
        arriving(sent),
        Passed(Why.TOO_BIG, Told(DropReason.TOO_BIG)),
        reported,
    )
    yield Case(
        "the same to another host, whose path has not been reported",
        arriving(frame("red", WEB, OTHER_DB, upper=_datagram(1400 - 42 - 28 + 1), flags="DF")),
        forwarded(
            routed(frame("red", WEB, OTHER_DB, upper=_datagram(1400 - 42 - 28 + 1), flags="DF"), to=OTHER_DB),
            to="hv1",
        ),
        reported,
    )
    reported = world(reported=((pa("hv2"), 1300),))
    sent = frame("red", WEB, DB, version=6, upper=_datagram(1280 - 48))
    yield Case(
        "IPv6 of 1280 octets always goes, even where less has been reported, for reports can be forged",
        arriving(sent),
        forwarded(routed(sent)),
        reported,
    )
    sent = frame("red", WEB, DB, version=6, upper=_datagram(1281 - 48))
    yield Case(
        "IPv6 of 1281 octets does not where less has been reported",
        arriving(sent),
        Passed(Why.TOO_BIG, Told(DropReason.TOO_BIG)),
        reported,
    )
    yield Case(
        "the least that a frame may hold: an IPv4 header alone",
        arriving(frame("red", WEB, DB, upper=Raw(b""), proto=61)),
        forwarded(routed(frame("red", WEB, DB, upper=Raw(b""), proto=61))),
        WORLD,
    )


def _datagram(size: int) -> Packet:
    return UDP(sport=1111, dport=2222) / Raw(bytes(size))


CASES = (*_hop_limits(), *_sizes())
