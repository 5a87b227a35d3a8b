"""Cases of what a tenant's access rules allow."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

import msgspec
from scapy.compat import raw
from scapy.layers.inet import ICMP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, ICMPv6PacketTooBig
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from policies.addresses import CustomerAddress
from policies.model import (
    AccessRule,
    Action,
    AddressHop,
    CustomerRoute,
    Endpoint,
    PortRange,
    Tenant,
)
from tests.fastpath.cases_carried import DB, OTHER_DB, ROUTED, ROUTED_V6, SWITCHED, WEB
from tests.fastpath.outcomes import ByPython, Case, Dropped, Expected, Passed, Why, World
from tests.fastpath.scenes import WORLD, pa, tenant, world
from tests.fastpath.wire import arriving, forwarded, routed, with_ip
from tests.networks import SEATTLE, frame, site

_DENIED = Dropped(DropReason.ACCESS_DENIED)
_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58


def allow(
    source: str = "any", to: str = "any", protocol: int | None = None, *ports: int | tuple[int, int]
) -> AccessRule:
    """A rule in the words of the configuration; ports are numbers or ranges."""
    ranges = tuple(PortRange(*((each, each) if isinstance(each, int) else each)) for each in ports)
    return AccessRule(
        name="allow",
        action=Action.ALLOW,
        source=_end(source),
        destination=_end(to),
        protocol=protocol,
        ports=ranges,
    )


def deny(
    source: str = "any", to: str = "any", protocol: int | None = None, *ports: int | tuple[int, int]
) -> AccessRule:
    """The same, but denied."""
    return msgspec.structs.replace(allow(source, to, protocol, *ports), name="deny", action=Action.DENY)


def _end(words: str) -> Endpoint:
    kind, _, name = words.partition(":")
    if kind == "subnet":
        return Endpoint(subnet=name)
    if kind == "site":
        return Endpoint(site=name)
    return Endpoint() if words == "any" else Endpoint(prefix=ip_network(words))


def _segment(sport: int, dport: int, flags: str) -> Packet:
    return TCP(sport=sport, dport=dport, flags=flags) / Raw(b"x")


def _datagram(sport: int, dport: int) -> Packet:
    return UDP(sport=sport, dport=dport) / Raw(b"x")


TO_5432 = frame("red", WEB, DB, upper=_segment(40000, 5432, "A"))
_FROM_5432 = frame("red", WEB, DB, upper=_segment(5432, 40000, "A"))
_PING, _PONG = (frame("red", WEB, DB, upper=ICMP(type=kind)) for kind in (8, 0))
_PING_V6 = frame("red", WEB, DB, version=6, upper=ICMPv6EchoRequest())


def _rules() -> Iterator[Case]:
    any_tcp, any_udp = allow("any", "any", _TCP), allow("any", "any", _UDP)
    for words, rules, sent, passes in (
        ("everything is allowed", (allow(),), ROUTED, True),
        ("everything is allowed, in IPv6", (allow(),), ROUTED_V6, True),
        ("everything is denied", (deny(),), ROUTED, False),
        ("only other things are allowed", (any_tcp,), ROUTED, False),
        ("the first that matches allows", (allow(), deny()), ROUTED, True),
        ("the first that matches denies, both ways", (deny(), allow()), ROUTED, False),
        ("its protocol", (any_udp,), ROUTED, True),
        ("its protocol, in IPv6", (any_udp,), ROUTED_V6, True),
        ("ICMP", (allow("any", "any", _ICMP),), _PING, True),
        ("ICMP's number, and it is IPv6", (allow("any", "any", _ICMP),), _PING_V6, False),
        ("ICMPv6", (allow("any", "any", _ICMPV6),), _PING_V6, True),
        ("protocol 0 alone", (allow("any", "any", 0),), ROUTED, False),
        ("another protocol by its number", (allow("any", "any", 253),), _of_protocol(253), True),
        ("another protocol by another's number", (allow("any", "any", 254),), _of_protocol(253), False),
        ("its source's prefix", (allow("10.0.1.0/24"),), ROUTED, True),
        ("its source's own address", (allow("10.0.1.5/32"),), ROUTED, True),
        ("its neighbour's address", (allow("10.0.1.4/32"),), ROUTED, False),
        ("half of its prefix", (allow("10.0.1.0/29"),), ROUTED, True),
        ("the other half", (allow("10.0.1.8/29"),), ROUTED, False),
        ("all of IPv4", (allow("0.0.0.0/0", "0.0.0.0/0"),), ROUTED, True),
        ("all of IPv6, and it is IPv4", (allow("::/0", "::/0"),), ROUTED, False),
        ("all of IPv4, and it is IPv6", (allow("0.0.0.0/0", "0.0.0.0/0"),), ROUTED_V6, False),
        ("all of IPv6", (allow("::/0", "::/0"),), ROUTED_V6, True),
        ("from IPv6 to IPv4", (allow("::/0", "0.0.0.0/0"),), ROUTED, False),
        ("its destination's prefix", (allow("any", "10.0.2.0/24"),), ROUTED, True),
        ("both prefixes in IPv6", (allow("fd00:1::/64", "fd00:2::/64"),), ROUTED_V6, True),
        ("a long prefix in IPv6", (allow("fd00:1::4/126", "fd00:2::5/128"),), ROUTED_V6, True),
        ("a long prefix in IPv6 that ends before it", (allow("fd00:1::/126"),), ROUTED_V6, False),
        ("its subnets", (allow("subnet:web", "subnet:db"),), ROUTED, True),
        ("its subnets, in IPv6", (allow("subnet:web", "subnet:db"),), ROUTED_V6, True),
        ("its source's subnet", (allow("subnet:web"),), ROUTED, True),
        ("another source's subnet", (allow("subnet:db", "10.0.1.0/24", _TCP),), ROUTED, False),
        ("within its subnet", (allow("subnet:web", "subnet:web"),), SWITCHED, True),
        ("within another subnet", (allow("subnet:db", "subnet:db"),), SWITCHED, False),
        ("nothing of what is switched", (deny(),), SWITCHED, False),
        ("a port", (allow("any", "any", _TCP, 5432),), TO_5432, True),
        ("the port above", (allow("any", "any", _TCP, 5433),), TO_5432, False),
        ("the port below", (allow("any", "any", _TCP, 5431),), TO_5432, False),
        ("a range that begins with it", (allow("any", "any", _TCP, (5432, 6000)),), TO_5432, True),
        ("a range that ends with it", (allow("any", "any", _TCP, (1, 5432)),), TO_5432, True),
        ("ranges around it", (allow("any", "any", _TCP, (1, 5431), (5433, 39999)),), TO_5432, False),
        ("the second of its ranges", (allow("any", "any", _TCP, 22, (5000, 6000)),), TO_5432, True),
        ("every port", (allow("any", "any", _TCP, (0, 65535)),), TO_5432, True),
        ("a port of any protocol", (allow("any", "any", None, 5432),), TO_5432, True),
        ("a port, and it has none", (allow("any", "any", None, 5432),), _PING, False),
        ("port 0, as of what has none", (allow("any", "any", None, 0),), _PING, True),
        ("a port of the other protocol", (allow("any", "any", _UDP, 5432),), TO_5432, False),
        ("a port is denied, the rest allowed", (deny("any", "any", _TCP, 5432), allow()), _FROM_5432, True),
        ("only what a site sends", (allow("site:seattle"),), ROUTED, False),
        ("only what goes to a site", (allow("any", "site:seattle"),), ROUTED, False),
        ("nothing that a site sends", (deny("site:seattle"),), ROUTED, False),
        ("nothing that a site sends, but the rest", (deny("site:seattle"), allow()), ROUTED, True),
    ):
        yield _judged(f"by access rules: {words}", rules, sent, passes)


def _replies() -> Iterator[Case]:
    to_web = (allow("subnet:db", "subnet:web", _TCP, 5432),)
    for flags, passes in (
        ("A", True),
        ("SA", True),
        ("FA", True),
        ("R", True),
        ("", True),
        ("S", False),
        ("SF", False),
        ("SEC", False),
        ("SU", False),
        ("SAU", True),
    ):
        sent = frame("red", WEB, DB, upper=_segment(5432, 40000, flags))
        yield _judged(f"TCP flags {flags or 'none'} from a port that may be asked", to_web, sent, passes)
    sent = frame("red", WEB, DB, version=6, upper=_segment(5432, 40000, "SA"))
    yield _judged("a reply of a TCP in IPv6", to_web, sent, True)
    sent = frame("red", WEB, DB, version=6, upper=_segment(5432, 40000, "S"))
    yield _judged("a TCP opened from a port that may be asked, in IPv6", to_web, sent, False)
    yield _judged("a TCP from another port", to_web, TO_5432, False)
    opening = frame("red", WEB, DB, upper=_segment(40000, 5432, "S"))
    yield _judged("a TCP is opened to a port that may be", (allow("any", "any", _TCP, 5432),), opening, True)
    to_53 = (allow("subnet:db", "subnet:web", _UDP, 53),)
    sent = frame("red", WEB, DB, upper=_datagram(53, 40000))
    yield _judged("a UDP reply", to_53, sent, True)
    sent = frame("red", WEB, DB, upper=_datagram(53, 22))
    yield _judged(
        "a datagram nobody asked for, from a port that may be asked: the known hole", to_53, sent, True
    )
    sent = frame("red", WEB, DB, upper=_datagram(54, 40000))
    yield _judged("a datagram from another port", to_53, sent, False)
    yield _judged("a ping's answer", (allow("subnet:db", "subnet:web", _ICMP),), _PONG, True)
    yield _judged(
        "a ping against the rule's direction passes as an answer",
        (allow("subnet:db", "any", _ICMP),),
        _PING,
        True,
    )
    yield _judged(
        "denied one way, and allowed the other: passes as a reply",
        (deny("subnet:web"), allow("subnet:db")),
        _FROM_5432,
        True,
    )
    yield _judged(
        "denied one way, and allowed the other: does not pass if it opens a connection",
        (deny("subnet:web"), allow("subnet:db")),
        frame("red", WEB, DB, upper=_segment(5432, 40000, "S")),
        False,
    )
    yield _judged(
        "a reply from a prefix that may be asked",
        (allow("10.0.2.5/32", "10.0.1.4/30", _TCP, 5432),),
        _FROM_5432,
        True,
    )


def _behind_vms() -> Iterator[Case]:
    route = CustomerRoute(ip_network("198.18.0.0/15"), AddressHop(CustomerAddress.parse("10.0.2.6")))
    sent = with_ip(ROUTED, dst="198.18.0.5")
    going = forwarded(routed(sent, to=OTHER_DB), to="hv1")
    for words, rules, expected in (
        ("its VM's subnet, which it is not in", (allow("subnet:web", "subnet:db"),), _DENIED),
        ("its prefix", (allow("any", "198.18.0.0/15"),), going),
        ("anywhere", (allow("subnet:web"),), going),
        ("its VM's address", (allow("any", "10.0.2.6/32"),), _DENIED),
    ):
        at = world(tenant(access=rules, routes=(route,)))
        yield Case(f"to what is behind a VM, and only {words} is allowed", arriving(sent), expected, at)
    sent = with_ip(frame("red", WEB, DB), src="198.18.0.5")
    going = forwarded(routed(sent), sent=None)
    for words, rules, expected in (
        ("from its VM's subnet", (allow("subnet:db", "subnet:db"),), _DENIED),
        ("from its prefix", (allow("198.18.0.0/15"),), going),
    ):
        at = world(tenant(access=rules, routes=(route,)))
        yield Case(f"from behind a VM, and only {words} is allowed", arriving(sent), expected, at)


def _errors() -> Iterator[Case]:
    anything = (allow(),)
    quoting = raw(with_ip(frame("red", DB, WEB, upper=_datagram(1, 2))).payload)[:28]
    foreign = raw(with_ip(frame("red", OTHER_DB, WEB, upper=_datagram(1, 2))).payload)[:28]
    at = world(tenant(access=anything))
    only_udp = world(tenant(access=(allow("subnet:web", "subnet:db", _ICMP),)))
    for kind, words in (
        (3, "unreachable"),
        (4, "source quench"),
        (5, "redirect"),
        (11, "time exceeded"),
        (12, "parameter problem"),
    ):
        sent = frame("red", WEB, DB, upper=ICMP(type=kind) / Raw(quoting))
        yield _left(f"ICMP {words} about what its receiver sent", sent, forwarded(routed(sent)), at)
    sent = frame("red", WEB, DB, upper=ICMP(type=3) / Raw(foreign))
    yield _left("ICMP unreachable about what another sent", sent, _DENIED, at)
    sent = frame("red", WEB, DB, upper=ICMP(type=3) / Raw(quoting))
    yield _left("ICMP unreachable about what was not allowed, though ICMP is", sent, _DENIED, only_udp)
    sent = frame("red", WEB, DB, upper=ICMP(type=3))
    yield _left("ICMP unreachable that quotes nothing", sent, forwarded(routed(sent)), only_udp)
    quoting = raw(frame("red", DB, WEB, version=6, upper=_datagram(1, 2)).payload)
    for words, upper in (
        ("unreachable", ICMPv6DestUnreach()),
        ("too big", ICMPv6PacketTooBig(mtu=1280)),
        ("of an unknown kind", ICMPv6DestUnreach(type=100)),
    ):
        sent = frame("red", WEB, DB, version=6, upper=upper / Raw(quoting))
        yield _left(f"ICMPv6 {words}", sent, forwarded(routed(sent)), at)


def _many() -> Iterator[Case]:
    last = allow("any", "any", _UDP)
    for words, rules, passes in (
        ("64 rules, of which the last allows", (*[allow("any", "any", _TCP)] * 63, last), True),
        ("64 rules, of which none matches", (*[allow("any", "any", _TCP)] * 64,), False),
        ("one rule with 64 ports, of which none matches", (allow("any", "any", _UDP, *range(1, 65)),), False),
        (
            "64 rules, and more that are about sites",
            (*[allow("site:seattle")] * 9, *[deny("any", "any", _TCP)] * 63, last),
            True,
        ),
    ):
        yield _judged(f"by {words}", rules, ROUTED, passes)
    for words, rules, python in (
        (
            "65 rules, of which the last allows",
            (*[allow("any", "any", _TCP)] * 64, last),
            forwarded(routed(ROUTED)),
        ),
        ("65 rules, of which none matches", (*[allow("any", "any", _TCP)] * 65,), _DENIED),
        ("one rule with 65 ports", (allow("any", "any", _UDP, *range(1, 66)),), _DENIED),
    ):
        at = world(_with_site(rules))
        yield Case(f"by {words}: too many", arriving(ROUTED), Passed(Why.RULES, python), at)


def _order() -> Iterator[Case]:
    at = world(tenant(access=(deny(),)))
    too_big = frame("red", WEB, DB, upper=Raw(bytes(1439)), proto=61, flags="DF")
    for words, sent, why in (
        ("at its last hop", with_ip(ROUTED, ttl=1), Why.HOP_LIMIT),
        ("larger than the way carries", too_big, Why.TOO_BIG),
        ("for nobody", with_ip(ROUTED, dst="10.0.2.77"), Why.DESTINATION),
        ("for no subnet", with_ip(ROUTED, dst="8.8.8.8"), Why.DESTINATION),
    ):
        yield Case(f"denied, and {words}", arriving(sent), Passed(why, _DENIED), at)
    yield Case(
        "denied, and by a next hop that is not known",
        arriving(ROUTED),
        Passed(Why.NEXT_HOP, _DENIED),
        world(tenant(access=(deny(),)), hops={pa("hv1"): WORLD.hops[pa("hv1")]}),
    )
    yield Case(
        "another tenant's rules",
        arriving(frame("blue", WEB, DB), tenant="blue"),
        forwarded(routed(frame("blue", WEB, DB), tenant="blue"), tenant="blue"),
        at,
    )


def _judged(description: str, rules: tuple[AccessRule, ...], sent: Packet, passes: bool) -> Case:
    expected: Expected = _DENIED
    if passes and sent is SWITCHED:
        expected = forwarded(sent, subnet="web", ttl=63)
    elif passes:
        expected = forwarded(routed(sent))
    return Case(description, arriving(sent), expected, world(_with_site(rules)))


def _with_site(rules: tuple[AccessRule, ...]) -> Tenant:
    return tenant(access=rules, sites=(site("seattle", *SEATTLE),))


def _of_protocol(number: int) -> Packet:
    return frame("red", WEB, DB, upper=Raw(bytes(8)), proto=number)


def _left(description: str, sent: Packet, python: ByPython, at: World) -> Case:
    return Case(description, arriving(sent), Passed(Why.ICMP_ERROR, python), at)


CASES = (
    *_rules(),
    *_replies(),
    *_behind_vms(),
    *_errors(),
    *_many(),
    *_order(),
)
