"""Access rules where packets meet them: ICMP errors, fragments, the order of things."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, fragment6
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from gateway.forwarding.fragments import LIFETIME, FirstFragments
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Answer, Verdict
from gateway.packets import ip
from policies.facts import TCP as PROTOCOL_TCP
from policies.facts import UDP as PROTOCOL_UDP
from policies.model import AccessRule, Action, Endpoint, PortRange
from tests import networks as n

WEB, DB = Endpoint(subnet="web"), Endpoint(subnet="db")
DB_FROM_WEB = AccessRule("db from web", Action.ALLOW, WEB, DB, PROTOCOL_TCP, (PortRange(5432, 5432),))
DNS = AccessRule("dns", Action.ALLOW, WEB, DB, PROTOCOL_UDP, (PortRange(53, 53),))


def ruled(*rules: AccessRule) -> Forwarder:
    return n.gateway(n.network(n.tenant("red", access=rules or (DB_FROM_WEB, DNS)), n.tenant("blue")))


def to_db(upper: Packet, version: int = 4, **fields: object) -> Packet:
    return n.frame("red", ("web", 5), ("db", 5), version=version, upper=upper, **fields)


def to_web(upper: Packet, version: int = 4, **fields: object) -> Packet:
    return n.frame("red", ("db", 5), ("web", 5), version=version, upper=upper, **fields)


def from_db(forwarder: Forwarder, frame: Packet, now: float = 0) -> Verdict:
    return n.receive(forwarder, frame, sender="hv2", subnet="db", now=now)


@pytest.mark.parametrize("version", [4, 6])
def test_connection_that_a_rule_allows_works_both_ways(version: int) -> None:
    forwarder = ruled()
    for flags in ("S", "A", "PA", "FA"):
        n.to_underlay(n.receive(forwarder, to_db(TCP(sport=1111, dport=5432, flags=flags), version)))
    for flags in ("SA", "A", "PA", "FA", "R"):
        n.to_underlay(from_db(forwarder, to_web(TCP(sport=5432, dport=1111, flags=flags), version)))


@pytest.mark.parametrize("version", [4, 6])
def test_what_no_rule_allows_is_denied_in_silence(version: int) -> None:
    forwarder = ruled()
    denied = [
        to_db(TCP(sport=1111, dport=22, flags="S"), version),
        to_db(UDP(sport=1111, dport=5432), version),
        n.frame("red", ("web", 5), ("web", 6), version=version),
    ]
    for frame in denied:
        assert n.dropped(n.receive(forwarder, frame), DropReason.ACCESS_DENIED) == ()
    opened_backwards = to_web(TCP(sport=5432, dport=1111, flags="S"), version)
    assert n.dropped(from_db(forwarder, opened_backwards), DropReason.ACCESS_DENIED) == ()


def test_rules_of_one_tenant_are_none_of_the_others() -> None:
    frame = n.frame("blue", ("web", 5), ("db", 5), upper=TCP(sport=1, dport=22, flags="S"))

    n.to_underlay(n.receive(ruled(), frame, tenant="blue"))


def test_host_judges_what_its_vm_sends_before_it_leaves() -> None:
    host = n.host("hv1", n.network(n.tenant("red", access=(DB_FROM_WEB,))))

    n.to_underlay(n.send(host, ("red", "web", 5), to_db(TCP(sport=1, dport=5432, flags="S"))))
    n.dropped(n.send(host, ("red", "web", 5), to_db(TCP(sport=1, dport=22))), DropReason.ACCESS_DENIED)


def test_neighbours_and_the_gateway_need_no_rule() -> None:
    forwarder = ruled()

    n.to_underlay(n.receive(forwarder, n.arp_request("red", ("web", 5), n.ca("web", 6))))
    n.to_underlay(n.receive(forwarder, n.frame("red", ("web", 5), ("db", 1), upper=ICMP(type=8))))


def test_denied_packet_is_not_told_of_its_hop_limit_or_route() -> None:
    forwarder = ruled()
    expiring = to_db(TCP(sport=1, dport=22), ttl=1)
    nowhere = n.frame("red", ("web", 5), ("db", 99), upper=TCP(sport=1, dport=22))

    assert n.dropped(n.receive(forwarder, expiring), DropReason.ACCESS_DENIED) == ()
    assert n.dropped(n.receive(forwarder, nowhere), DropReason.ACCESS_DENIED) == ()


def error_about(quoted: Packet) -> Packet:
    return to_web(ICMP(type=3, code=3) / quoted)


ALLOWED = IP(src=n.ca("web", 5), dst=n.ca("db", 5)) / UDP(sport=1111, dport=53)


@pytest.mark.parametrize(
    ("quoted", "passes"),
    [
        pytest.param(ALLOWED, True, id="packet that a rule allows"),
        pytest.param(
            IP(src=n.ca("web", 5), dst=n.ca("db", 5)) / UDP(sport=53, dport=99), False, id="denied packet"
        ),
        pytest.param(
            IP(src=n.ca("web", 6), dst=n.ca("db", 5)) / UDP(sport=1111, dport=53),
            False,
            id="packet of another",
        ),
        pytest.param(
            IP(src=n.ca("db", 5), dst=n.ca("web", 5)) / UDP(sport=53, dport=1111),
            False,
            id="packet of its sender",
        ),
        pytest.param(Raw(b"\x45\x00"), False, id="nothing that can be read"),
    ],
)
def test_icmp_error_is_judged_by_the_packet_that_it_quotes(quoted: Packet, passes: bool) -> None:
    verdict = from_db(ruled(), error_about(quoted))

    if passes:
        n.to_underlay(verdict)
    else:
        assert n.dropped(verdict, DropReason.ACCESS_DENIED) == ()


def test_icmpv6_error_is_judged_by_the_packet_that_it_quotes() -> None:
    forwarder = ruled()
    quoted = IPv6(src=n.ca("web", 5, 6), dst=n.ca("db", 5, 6)) / UDP(sport=1111, dport=53)
    forged = IPv6(src=n.ca("web", 6, 6), dst=n.ca("db", 5, 6)) / UDP(sport=1111, dport=53)

    n.to_underlay(from_db(forwarder, to_web(ICMPv6DestUnreach(code=4) / quoted, 6)))
    n.dropped(from_db(forwarder, to_web(ICMPv6DestUnreach(code=4) / forged, 6)), DropReason.ACCESS_DENIED)


def test_echo_needs_a_rule_of_its_own() -> None:
    n.dropped(n.receive(ruled(), to_db(ICMP(type=8))), DropReason.ACCESS_DENIED)
    n.to_underlay(n.receive(ruled(AccessRule("ping", Action.ALLOW, protocol=1)), to_db(ICMP(type=8))))


def test_gateways_own_error_passes_the_receiving_host() -> None:
    """It quotes the VM's own packet, which the rules allowed."""
    net = n.network(n.tenant("red", access=(DNS,)))
    frame = to_db(UDP(sport=1111, dport=53), ttl=1)
    answer, _ = n.to_underlay(Answer(n.dropped(n.receive(n.gateway(net), frame), DropReason.HOP_LIMIT)))

    verdict = n.host("hv1", net).from_underlay(n.from_host("edge-1", to="hv1"), answer.payload, now=0)

    assert n.to_port(verdict)[0].port == n.port("red", "web", 5)


def cut(port: int, identification: int = 7) -> list[Packet]:
    whole = to_db(UDP(sport=1111, dport=port) / Raw(bytes(200)), id=identification)
    return [whole.__class__(bytes(piece)) for piece in fragment(whole, 96)]


def cut6(port: int, *, hidden: bool = False) -> list[Packet]:
    """Fragments, where asked with a header before UDP that only the first has."""
    upper = UDP(sport=1111, dport=port) / Raw(bytes(3000))
    if hidden:
        upper = IPv6ExtHdrDestOpt() / upper
    whole = to_db(IPv6ExtHdrFragment(id=9) / upper, 6)
    return [whole.__class__(whole.build()[:14] + bytes(piece)) for piece in fragment6(whole[IPv6], 1280)]


@pytest.mark.parametrize(
    "pieces", [cut(53), cut6(53), cut6(53, hidden=True)], ids=["4", "6", "6 with options"]
)
def test_later_fragments_follow_a_first_that_is_allowed(pieces: list[Packet]) -> None:
    forwarder = ruled()

    assert len(pieces) > 2
    for piece in pieces:
        n.to_underlay(n.receive(forwarder, piece))


@pytest.mark.parametrize("pieces", [cut(99), cut6(99)], ids=["4", "6"])
def test_later_fragments_follow_a_first_that_is_denied(pieces: list[Packet]) -> None:
    forwarder = ruled()

    for piece in pieces:
        n.dropped(n.receive(forwarder, piece), DropReason.ACCESS_DENIED)


@pytest.mark.parametrize("pieces", [cut(53), cut6(53)], ids=["4", "6"])
def test_later_fragment_without_its_first_is_an_orphan(pieces: list[Packet]) -> None:
    assert n.dropped(n.receive(ruled(), pieces[1]), DropReason.ORPHAN_FRAGMENT) == ()


@pytest.mark.parametrize("pieces", [cut(53), cut6(53)], ids=["4", "6"])
def test_without_rules_fragments_pass_in_any_order(pieces: list[Packet]) -> None:
    forwarder = n.gateway()
    for piece in reversed(pieces):
        n.to_underlay(n.receive(forwarder, piece))


def test_fragment_of_another_packet_does_not_follow() -> None:
    forwarder = ruled()
    n.to_underlay(n.receive(forwarder, cut(53, 7)[0]))

    n.dropped(n.receive(forwarder, cut(53, 8)[1]), DropReason.ORPHAN_FRAGMENT)


def test_first_fragment_is_forgotten_in_time() -> None:
    forwarder = ruled()
    first, *later = cut(53)
    n.to_underlay(n.receive(forwarder, first, now=0))

    n.to_underlay(n.receive(forwarder, later[0], now=LIFETIME - 0.1))
    n.dropped(n.receive(forwarder, later[1], now=LIFETIME), DropReason.ORPHAN_FRAGMENT)


def test_table_of_first_fragments_is_bounded_and_the_oldest_makes_room() -> None:
    table = FirstFragments(capacity=3)
    facts = [ip.decode_untrusted(bytes(cut(53, number)[0][IP])) for number in range(1, 5)]

    for now, each in enumerate(facts):
        table.remember(each, True, now)

    assert len(table) == 3
    assert [table.recall(each, now=4) for each in facts] == [None, True, True, True]


def test_repeated_first_fragment_replaces_the_ruling() -> None:
    """Whoever sends the first twice, allowed and denied, gets the later one judged by the last."""
    forwarder = ruled()
    denied, allowed = cut(99), cut(53)
    n.to_underlay(n.receive(forwarder, allowed[0]))
    n.dropped(n.receive(forwarder, denied[0]), DropReason.ACCESS_DENIED)

    n.dropped(n.receive(forwarder, allowed[1]), DropReason.ACCESS_DENIED)
