"""Cases of a tenant's rate: what it has left, and what takes nothing of it."""

from __future__ import annotations

from collections.abc import Iterator

from scapy.compat import raw
from scapy.packet import Raw

from gateway.forwarding.drops import DropReason
from policies.model import (
    AccessRule,
    Limits,
)
from tests.fastpath.cases_carried import DB, ROUTED, ROUTED_V6, SWITCHED, WEB
from tests.fastpath.cases_permitted import TO_5432, allow, deny
from tests.fastpath.outcomes import Case, Dropped, Passed, Told, Why, World
from tests.fastpath.scenes import tenant, world
from tests.fastpath.wire import arriving, forwarded, routed, with_ip
from tests.networks import frame

_DENIED = Dropped(DropReason.ACCESS_DENIED)
_OVER_RATE = Dropped(DropReason.RATE_LIMITED)
_TCP = 6


def _rates() -> Iterator[Case]:
    octets = len(raw(ROUTED)) - 14
    for words, burst, sent, expected in (
        ("just enough", octets, ROUTED, forwarded(routed(ROUTED))),
        ("one octet too little", octets - 1, ROUTED, _OVER_RATE),
        ("just enough, in IPv6", octets + 20, ROUTED_V6, forwarded(routed(ROUTED_V6))),
        ("one octet too little, in IPv6", octets + 19, ROUTED_V6, _OVER_RATE),
        ("just enough, switched", octets, SWITCHED, forwarded(SWITCHED, subnet="web", ttl=63)),
        ("one octet too little, switched", octets - 1, SWITCHED, _OVER_RATE),
    ):
        yield Case(f"of the rate there is {words}", arriving(sent), expected, _limited(burst))
    yield Case(
        "of the rate there is just enough, and padding does not count",
        arriving(raw(ROUTED) + bytes(100)),
        forwarded(routed(ROUTED)),
        _limited(octets),
    )
    for rate in (1_000, 1_000_000_000, 7_777_777):
        yield Case(
            f"just enough at {rate} bit/s",
            arriving(ROUTED),
            forwarded(routed(ROUTED)),
            _limited(octets, rate=rate),
        )
    yield Case(
        "what one packet took is not there for the next",
        arriving(ROUTED),
        _OVER_RATE,
        _limited(2 * octets - 1),
        before=(arriving(ROUTED),),
    )
    yield Case(
        "what one packet left is there for the next",
        arriving(ROUTED),
        forwarded(routed(ROUTED)),
        _limited(2 * octets),
        before=(arriving(ROUTED),),
    )
    small = frame("red", WEB, DB, upper=Raw(b"x"), proto=61)
    yield Case(
        "what was too much for the rate took nothing",
        arriving(small),
        forwarded(routed(small)),
        _limited(21),
        before=(arriving(ROUTED),),
    )
    denied = _limited(octets, access=(deny("any", "any", _TCP), allow()))
    yield Case(
        "what was denied took nothing",
        arriving(ROUTED),
        forwarded(routed(ROUTED)),
        denied,
        before=(arriving(TO_5432),),
    )
    yield Case("denied, and over the rate", arriving(TO_5432), _DENIED, _limited(1, access=(deny(),)))
    yield Case(
        "marked beyond what it can say, and over the rate",
        arriving(ROUTED, tos=3),
        Dropped(DropReason.CONGESTION),
        _limited(1),
    )
    other = frame("blue", WEB, DB)
    yield Case(
        "another tenant's rate",
        arriving(other, tenant="blue"),
        forwarded(routed(other, tenant="blue"), tenant="blue"),
        _limited(octets),
        before=(arriving(ROUTED), arriving(ROUTED)),
    )
    for words, sent, why, python in (
        ("at its last hop", with_ip(ROUTED, ttl=1), Why.HOP_LIMIT, Told(DropReason.HOP_LIMIT)),
        ("for nobody", with_ip(ROUTED, dst="10.0.2.77"), Why.DESTINATION, Told(DropReason.NO_RECORD)),
    ):
        yield Case(f"{words}, and within the rate", arriving(sent), Passed(why, python), _limited(octets))
        yield Case(
            f"{words}, and over the rate: nothing is told",
            arriving(sent),
            Passed(why, _OVER_RATE),
            _limited(octets - 1),
        )
    by_mac = Dropped(DropReason.UNKNOWN_MAC)
    sent = with_ip(SWITCHED)
    sent.dst = "02:77:00:00:00:01"
    yield Case(
        "switched to nobody, and over the rate", arriving(sent), Passed(Why.UNKNOWN_MAC, by_mac), _limited(1)
    )


def _limited(burst: int, *, rate: int = 8, access: tuple[AccessRule, ...] = ()) -> World:
    """A network in which Red may send so much at once, in octets, and as good as nothing more later."""
    return world(tenant(limits=Limits(rate=rate, burst=burst), access=access))


CASES = tuple(_rates())
