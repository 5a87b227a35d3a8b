"""What the program is told of a tenant, and of which records it is told at all."""

from __future__ import annotations

from ipaddress import ip_network

import msgspec
import pytest

from gateway.fastpath.images import (
    NOBODYS_PREFIXES,
    TenantImage,
    images_of,
    is_carried,
    packed_rules,
    routes_of,
)
from gateway.fastpath.layout import END, IPV6_PLACE, MOST_RULES, RULE_HEAD, RULE_OCTETS
from policies.addresses import CustomerAddress, MacAddress, gateway_mac
from policies.facts import TCP
from policies.model import (
    AccessRule,
    Action,
    AddressHop,
    CustomerRoute,
    Endpoint,
    LookupRecord,
    PortRange,
    Tenant,
    Translation,
)
from tests.fastpath.oracle import Oracle
from tests.fastpath.scenes import pa, record, tenant, vsid, world

WEB, DB = 3, 4
NUMBERS = {"web": WEB, "db": DB}


def image_of(red: Tenant | None = None, name: str = "red") -> TenantImage:
    forwarder = Oracle(world(red)).forwarder
    return images_of(forwarder.tables, forwarder.node)[name]


def is_told(given: LookupRecord) -> bool:
    forwarder = Oracle(world()).forwarder
    domain = forwarder.tables.subnets[given.vsid].domain
    return is_carried(given, domain, forwarder.tables, forwarder.node)


def with_rules(*rules: AccessRule) -> Tenant:
    return tenant(access=rules)


def rule(
    source: Endpoint | None = None, ports: tuple[PortRange, ...] = (), protocol: int | None = TCP
) -> AccessRule:
    return AccessRule(
        name="one",
        action=Action.DENY,
        source=source or Endpoint(),
        destination=Endpoint(),
        protocol=protocol,
        ports=ports,
    )


def test_same_tenant_has_the_same_image_and_another_rule_makes_another() -> None:
    assert image_of() == image_of()
    assert image_of() != image_of(with_rules(rule()))


def test_tenant_of_other_gateways_is_left_to_python() -> None:
    assert image_of().left_because == ""
    assert image_of(name="green").left_because == "this gateway is none of its own"


def test_each_range_of_ports_is_an_entry_and_too_many_are_left_to_python() -> None:
    ranges = tuple(PortRange(number, number) for number in range(1, MOST_RULES + 1))

    assert image_of(with_rules(rule(ports=ranges))).left_because == ""
    assert "65" in image_of(with_rules(rule(ports=ranges), rule())).left_because


@pytest.mark.parametrize(
    "change",
    [
        {"translation": Translation.REWRITE},
        {"host": "hv2"},
        {"host": "hv3", "pa": pa("hv3")},
        {"pa": pa("stranger")},
        {"pa": pa("edge-1")},
        {"mac": gateway_mac(vsid("red", "web"))},
        {"mac": MacAddress(b"\x01\0\0\0\0\1")},
        {"ca": CustomerAddress.parse("10.0.1.1")},
        {"ca": CustomerAddress.parse("10.0.2.5")},
        {"ca": CustomerAddress.parse("203.0.113.5")},
        {"ca": CustomerAddress.parse("fe80::5")},
        {"ca": CustomerAddress.parse("224.0.0.5")},
    ],
)
def test_record_that_python_decides_by_otherwise_is_not_told(change: dict[str, object]) -> None:
    right = record("web", 5, "hv1")

    assert is_told(right)
    assert not is_told(msgspec.structs.replace(right, **change))


def test_routes_through_a_vm_lead_to_nobodys_addresses_by_python_alone() -> None:
    everything = ip_network("0.0.0.0/0")
    through = AddressHop(CustomerAddress.parse("10.0.1.5"))
    red = tenant(routes=(CustomerRoute(prefix=everything, next_hop=through),))

    routes = dict(routes_of(image_of(red)))

    assert routes[everything] == through
    assert all(routes[prefix] is None for prefix in NOBODYS_PREFIXES)
    assert not set(NOBODYS_PREFIXES) & dict(routes_of(image_of())).keys()


def test_rules_are_packed_by_range_and_by_end() -> None:
    prefix = ip_network("10.0.0.0/8")
    rules = (
        rule(Endpoint(subnet="db"), (PortRange(80, 80), PortRange(443, 444))),
        rule(Endpoint(prefix=prefix), protocol=None),
        rule(Endpoint(prefix=ip_network("2001:db8::/32"))),
    )

    first, second, third, fourth = packed_rules(rules, NUMBERS)

    assert {len(each) for each in (first, second, third, fourth)} == {RULE_OCTETS}
    assert RULE_HEAD.unpack_from(first) == (80, 80, TCP, 0xFF, 0)
    assert RULE_HEAD.unpack_from(second) == (443, 444, TCP, 0xFF, 0)
    assert END.unpack_from(first, RULE_HEAD.size) == (bytes(16), bytes(16), DB, IPV6_PLACE - 1)
    assert RULE_HEAD.unpack_from(third) == (0, 0xFFFF, 0, 0, 0)
    network, mask, place, of_place = END.unpack_from(third, RULE_HEAD.size)
    assert (network[:4], mask[:4], place, of_place) == (b"\x0a\0\0\0", b"\xff\0\0\0", 0, IPV6_PLACE)
    assert END.unpack_from(fourth, RULE_HEAD.size)[2:] == (IPV6_PLACE, IPV6_PLACE)


def test_rules_about_sites_are_not_packed() -> None:
    assert not list(packed_rules((rule(Endpoint(site="berlin")),), NUMBERS))
