"""Access rules over facts: who may speak to whom."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from policies.access import DEFAULT_DENY, FOREIGN_QUOTE, NO_RULES, AccessRules
from policies.addresses import CustomerAddress, Vsid
from policies.facts import ICMP, TCP, TCP_ACK, TCP_FIN, TCP_SYN, UDP, PacketFacts
from policies.model import (
    AccessRule,
    Action,
    AddressHop,
    Endpoint,
    NextHop,
    PortRange,
    SiteHop,
    SubnetHop,
)
from policies.tables import PrefixTable

WEB_HOST, DB_HOST, SITE_HOST, MOVED = "10.0.1.5", "10.0.2.5", "172.16.0.5", "10.0.2.50"

ROUTES: PrefixTable[NextHop] = PrefixTable(
    [
        (ip_network("10.0.1.0/24"), SubnetHop("web", Vsid(5001))),
        (ip_network("fd00:1::/64"), SubnetHop("web", Vsid(5001))),
        (ip_network("10.0.2.0/24"), SubnetHop("db", Vsid(5002))),
        (ip_network("172.16.0.0/16"), SiteHop("seattle")),
        (ip_network("10.0.2.50/32"), SiteHop("seattle")),
        (ip_network("192.168.0.0/16"), AddressHop(CustomerAddress.parse("10.0.2.5"))),
    ]
)


def packet(
    source: str = WEB_HOST,
    destination: str = DB_HOST,
    protocol: int = TCP,
    ports: tuple[int, int] = (1111, 5432),
    flags: int = TCP_ACK,
    quoted: PacketFacts | None = None,
) -> PacketFacts:
    return PacketFacts(
        version=ip_address(source).version,
        source=ip_address(source).packed,
        destination=ip_address(destination).packed,
        protocol=protocol,
        traffic_class=0,
        hop_limit=64,
        header_length=20,
        total_length=60,
        source_port=ports[0],
        destination_port=ports[1],
        tcp_flags=flags if protocol == TCP else 0,
        quoted=quoted,
    )


def allow(
    source: Endpoint = Endpoint(),  # noqa: B008 (a frozen value)
    destination: Endpoint = Endpoint(),  # noqa: B008
    protocol: int | None = None,
    *ports: tuple[int, int],
    action: Action = Action.ALLOW,
) -> AccessRule:
    ranges = tuple(PortRange(first, last) for first, last in ports)
    return AccessRule("a rule", action, source, destination, protocol, ranges)


def rules(*all_rules: AccessRule) -> AccessRules:
    return AccessRules(all_rules, ROUTES.lookup)


def subnet(name: str) -> Endpoint:
    return Endpoint(subnet=name)


def prefix(text: str) -> Endpoint:
    return Endpoint(prefix=ip_network(text))


def test_without_rules_a_tenants_own_traffic_is_allowed() -> None:
    assert rules().decide(packet()) == NO_RULES
    assert not rules()


@pytest.mark.parametrize("action", list(Action))
def test_any_rule_at_all_denies_the_rest(action: Action) -> None:
    """Even where every rule denies, what none matches is denied."""
    elsewhere = allow(prefix("192.0.2.0/24"), prefix("192.0.2.0/24"), action=action)

    assert rules(elsewhere).decide(packet()) == DEFAULT_DENY


def test_first_rule_that_matches_decides() -> None:
    permit, refuse = allow(), allow(action=Action.DENY)

    assert rules(permit, refuse).decide(packet()).allowed
    assert not rules(refuse, permit).decide(packet(flags=TCP_SYN)).allowed


def test_narrow_denial_before_a_wide_permission() -> None:
    decide = rules(allow(subnet("web"), subnet("db"), TCP, (22, 22), action=Action.DENY), allow()).decide

    assert decide(packet(ports=(1111, 5432), flags=TCP_SYN)).allowed
    assert not decide(packet(ports=(1111, 22), flags=TCP_SYN)).allowed


@pytest.mark.parametrize(
    ("source", "destination", "endpoints", "matches"),
    [
        pytest.param(WEB_HOST, DB_HOST, (subnet("web"), subnet("db")), True, id="subnets"),
        pytest.param(WEB_HOST, WEB_HOST, (subnet("web"), subnet("db")), False, id="another subnet"),
        pytest.param(WEB_HOST, SITE_HOST, (subnet("web"), Endpoint(site="seattle")), True, id="site"),
        pytest.param(WEB_HOST, SITE_HOST, (subnet("web"), Endpoint(site="oslo")), False, id="another site"),
        pytest.param(WEB_HOST, MOVED, (subnet("web"), subnet("db")), False, id="moved out of its subnet"),
        pytest.param(
            WEB_HOST, MOVED, (subnet("web"), Endpoint(site="seattle")), True, id="moved to the site"
        ),
        pytest.param(
            WEB_HOST, "192.168.1.1", (subnet("web"), subnet("db")), False, id="behind a VM of the subnet"
        ),
        pytest.param(WEB_HOST, "8.8.8.8", (subnet("web"), Endpoint()), True, id="any"),
        pytest.param(WEB_HOST, "8.8.8.8", (subnet("web"), Endpoint(site="seattle")), False, id="nowhere"),
        pytest.param(WEB_HOST, DB_HOST, (prefix("10.0.1.0/24"), prefix("10.0.2.5/32")), True, id="prefixes"),
        pytest.param(
            WEB_HOST, DB_HOST, (prefix("10.0.1.0/24"), prefix("10.0.2.6/32")), False, id="next address"
        ),
        pytest.param(WEB_HOST, DB_HOST, (prefix("0.0.0.0/0"), prefix("0.0.0.0/0")), True, id="all of IPv4"),
        pytest.param(WEB_HOST, DB_HOST, (prefix("::/0"), Endpoint()), False, id="all of IPv6"),
        pytest.param("fd00:1::5", "fd00:1::6", (subnet("web"), subnet("web")), True, id="IPv6 in a subnet"),
        pytest.param("fd00:1::5", "fd00:1::6", (prefix("fd00:1::/64"), Endpoint()), True, id="IPv6 prefix"),
        pytest.param(
            "fd00:1::5", "fd00:1::6", (prefix("fd00::/32"), Endpoint()), False, id="another IPv6 prefix"
        ),
        pytest.param(
            "fd00:1::5", "fd00:1::6", (prefix("0.0.0.0/0"), Endpoint()), False, id="IPv4 prefix for IPv6"
        ),
    ],
)
def test_endpoints(
    source: str, destination: str, endpoints: tuple[Endpoint, Endpoint], matches: bool
) -> None:
    facts = packet(source, destination, flags=TCP_SYN)

    assert rules(allow(*endpoints)).decide(facts).allowed is matches


@pytest.mark.parametrize(
    ("protocol", "port", "matches"),
    [
        (TCP, 79, False),
        (TCP, 80, True),
        (TCP, 90, True),
        (TCP, 91, False),
        (TCP, 443, True),
        (UDP, 80, False),
    ],
)
def test_ports_include_both_ends(protocol: int, port: int, matches: bool) -> None:
    decide = rules(allow(Endpoint(), Endpoint(), TCP, (80, 90), (443, 443))).decide

    assert decide(packet(protocol=protocol, ports=(1111, port), flags=TCP_SYN)).allowed is matches


def test_rule_for_any_protocol_may_name_ports() -> None:
    decide = rules(allow(Endpoint(), Endpoint(), None, (53, 53))).decide

    assert decide(packet(protocol=UDP, ports=(1111, 53))).allowed
    assert decide(packet(protocol=TCP, ports=(1111, 53), flags=TCP_SYN)).allowed
    assert not decide(packet(protocol=ICMP, ports=(0, 0))).allowed


TCP_RST = 0x04
TO_DB = allow(subnet("web"), subnet("db"), TCP, (5432, 5432))


@pytest.mark.parametrize(
    ("flags", "passes"),
    [
        pytest.param(TCP_SYN | TCP_ACK, True, id="SYN/ACK"),
        pytest.param(TCP_ACK, True, id="ACK"),
        pytest.param(TCP_FIN | TCP_ACK, True, id="FIN"),
        pytest.param(TCP_RST, True, id="RST"),
        pytest.param(TCP_SYN, False, id="bare SYN"),
        pytest.param(TCP_SYN | TCP_FIN, False, id="SYN/FIN"),
        pytest.param(TCP_SYN | TCP_RST, False, id="SYN/RST"),
        pytest.param(0, True, id="no flags"),
    ],
)
def test_reply_passes_unless_it_opens_a_connection(flags: int, passes: bool) -> None:
    reply = packet(DB_HOST, WEB_HOST, ports=(5432, 1111), flags=flags)

    assert rules(TO_DB).decide(reply).allowed is passes


@pytest.mark.parametrize(
    ("source", "destination", "ports"),
    [
        pytest.param(DB_HOST, WEB_HOST, (5433, 1111), id="from another port"),
        pytest.param(DB_HOST, WEB_HOST, (1111, 5432), id="to that port"),
        pytest.param(SITE_HOST, WEB_HOST, (5432, 1111), id="from elsewhere"),
        pytest.param(DB_HOST, SITE_HOST, (5432, 1111), id="to elsewhere"),
    ],
)
def test_only_the_reversed_tuple_is_a_reply(source: str, destination: str, ports: tuple[int, int]) -> None:
    assert not rules(TO_DB).decide(packet(source, destination, ports=ports)).allowed


def test_udp_reply_passes_and_so_does_whoever_uses_its_port() -> None:
    """The documented hole: nothing in UDP tells an answer from a question."""
    dns = rules(allow(subnet("web"), subnet("db"), UDP, (53, 53)))

    assert dns.decide(packet(DB_HOST, WEB_HOST, UDP, (53, 1111))).allowed
    assert dns.decide(packet(DB_HOST, WEB_HOST, UDP, (53, 22))).allowed
    assert not dns.decide(packet(DB_HOST, WEB_HOST, UDP, (54, 1111))).allowed


def test_denial_of_one_direction_denies_no_replies() -> None:
    """A rule that denies db to web says who may begin, not who may answer."""
    decide = rules(allow(subnet("db"), subnet("web"), action=Action.DENY), allow()).decide

    assert decide(packet(DB_HOST, WEB_HOST, ports=(5432, 1111), flags=TCP_ACK)).allowed
    assert not decide(packet(DB_HOST, WEB_HOST, ports=(5432, 1111), flags=TCP_SYN)).allowed


def error(quoted: PacketFacts | None, source: str = DB_HOST, destination: str = WEB_HOST) -> PacketFacts:
    return packet(source, destination, ICMP, (0, 0), quoted=quoted)


@pytest.mark.parametrize("source", [DB_HOST, "10.0.1.1", "8.8.8.8"], ids=["destination", "gateway", "router"])
def test_icmp_error_about_an_allowed_packet_passes_from_anywhere(source: str) -> None:
    assert rules(TO_DB).decide(error(packet(flags=TCP_SYN), source)).allowed


@pytest.mark.parametrize(
    "quoted",
    [
        pytest.param(packet(ports=(1111, 22), flags=TCP_SYN), id="denied packet"),
        pytest.param(packet(protocol=UDP), id="denied protocol"),
    ],
)
def test_icmp_error_about_a_denied_packet_is_denied(quoted: PacketFacts) -> None:
    assert not rules(TO_DB).decide(error(quoted)).allowed


def test_icmp_error_about_a_reply_passes() -> None:
    quoted = packet(DB_HOST, WEB_HOST, ports=(5432, 1111))

    assert rules(TO_DB).decide(error(quoted, WEB_HOST, DB_HOST)).allowed


def test_icmp_error_that_quotes_what_its_receiver_did_not_send_is_denied() -> None:
    """Else a forged quote would carry anything past the rules."""
    assert rules(TO_DB, allow()).decide(error(packet(SITE_HOST, DB_HOST))) == FOREIGN_QUOTE


def test_icmp_error_without_a_readable_quote_is_judged_by_itself() -> None:
    assert not rules(TO_DB).decide(error(None)).allowed
    assert rules(allow(Endpoint(), Endpoint(), ICMP)).decide(error(None)).allowed


def test_ruling_names_the_rule() -> None:
    named = AccessRule("db from web", Action.ALLOW, subnet("web"), subnet("db"))

    assert "db from web" in rules(named).decide(packet(flags=TCP_SYN)).reason
    assert "reply" in rules(named).decide(packet(DB_HOST, WEB_HOST)).reason
