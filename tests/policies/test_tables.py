"""The network compiled: longest match, and what each tenant's domain holds."""

from __future__ import annotations

import random
from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest

from policies.addresses import CustomerAddress, ProviderAddress, Vsid, gateway_mac
from policies.model import (
    AddressHop,
    CustomerRoute,
    FlowIdMode,
    Network,
    ProviderHost,
    SiteHop,
    SubnetHop,
)
from policies.tables import PrefixTable, Tables, customer_routes
from tests import networks as n


def table(*prefixes: str) -> PrefixTable[str]:
    return PrefixTable((ip_network(prefix), prefix) for prefix in prefixes)


def find(prefixes: PrefixTable[str], address: str) -> str | None:
    return prefixes.lookup(CustomerAddress.parse(address))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.1.5", "10.0.1.5/32"),
        ("10.0.1.6", "10.0.1.0/24"),
        ("10.0.2.6", "10.0.0.0/16"),
        ("10.1.0.0", "0.0.0.0/0"),
        ("255.255.255.255", "0.0.0.0/0"),
        ("0.0.0.0", "0.0.0.0/0"),
        ("fd00::1", "fd00::1/128"),
        ("fd00::2", "fd00::/64"),
        ("fd00:0:0:1::", "fd00::/32"),
        ("2001:db8::1", None),
    ],
)
def test_longest_prefix_that_holds_the_address_is_found(address: str, expected: str | None) -> None:
    prefixes = table(
        "0.0.0.0/0", "10.0.0.0/16", "10.0.1.0/24", "10.0.1.5/32", "fd00::/32", "fd00::/64", "fd00::1/128"
    )

    assert find(prefixes, address) == expected
    match = prefixes.match(CustomerAddress.parse(address))
    assert (str(match) if match else None) == expected


def test_families_are_strangers_to_each_other() -> None:
    """0.0.0.0/0 and ::/0 have the same number for a prefix."""
    assert find(table("0.0.0.0/0"), "::") is None
    assert find(table("::/0"), "0.0.0.0") is None


def test_empty_table_finds_nothing() -> None:
    assert find(table(), "10.0.0.1") is None
    assert table().match(CustomerAddress.parse("10.0.0.1")) is None


@pytest.mark.parametrize("version", [4, 6])
def test_longest_match_agrees_with_a_search_through_all_prefixes(version: int) -> None:
    source = random.Random(7637)
    bits = 32 if version == 4 else 128
    kind = IPv4Network if version == 4 else IPv6Network
    # Crowded into the lowest bits, so that prefixes overlap and addresses are often found.
    prefixes = {
        kind((source.getrandbits(16), source.randint(bits - 16, bits)), strict=False) for _ in range(300)
    }
    lookup = PrefixTable((prefix, str(prefix)) for prefix in prefixes).lookup

    for _ in range(2000):
        number = source.getrandbits(17)
        holding = [
            prefix
            for prefix in prefixes
            if number >> (bits - prefix.prefixlen) == int(prefix.network_address) >> (bits - prefix.prefixlen)
        ]
        expected = max(holding, key=lambda prefix: prefix.prefixlen, default=None)
        assert lookup(number.to_bytes(bits // 8)) == (str(expected) if expected else None)


def compiled(net: Network | None = None) -> Tables:
    return Tables.compile(net or n.network())


def test_each_tenant_has_its_own_routes_to_the_same_prefixes() -> None:
    tables = compiled()
    address = CustomerAddress.parse("10.0.1.5")

    assert tables.domains["red"].routes.lookup(address) == SubnetHop("web", Vsid(5001))
    assert tables.domains["blue"].routes.lookup(address) == SubnetHop("web", Vsid(6001))
    assert tables.domains["red"].vsids == {5001, 5002}
    assert tables.subnets.keys() == {5001, 5002, 6001, 6002}


def test_subnet_knows_its_gateway() -> None:
    entry = compiled().subnets[Vsid(5001)]

    assert (entry.name, entry.domain.name) == ("web", "red")
    assert entry.gateway_mac == gateway_mac(Vsid(5001))
    assert entry.gateway_address(4) == CustomerAddress.parse("10.0.1.1")
    assert entry.gateway_address(6) == CustomerAddress.parse("fd00:1::1")


def test_gateway_macs_are_local_unicast_and_differ_in_each_subnet() -> None:
    macs = {entry.gateway_mac for entry in compiled().subnets.values()}

    assert len(macs) == 4
    assert all(mac[0] & 0b11 == 0b10 for mac in macs)


def test_domain_knows_the_gateway_addresses_of_all_its_subnets() -> None:
    expected = {CustomerAddress.parse(text) for text in ("10.0.1.1", "10.0.2.1", "fd00:1::1", "fd00:2::1")}

    assert compiled().domains["red"].gateway_addresses == expected


def test_only_hosts_that_may_send_for_a_tenant_are_in_its_domain() -> None:
    net = n.network()
    blue_only = ProviderHost("hv9", (ProviderAddress.parse("198.51.100.99"),), ("blue",), FlowIdMode.ZERO)
    tables = compiled(Network((*net.hosts, blue_only), net.gateways, net.tenants))

    assert blue_only.provider_addresses[0] not in tables.domains["red"].host_addresses
    assert blue_only.provider_addresses[0] in tables.domains["blue"].host_addresses
    assert tables.domains["red"].gateway_provider_addresses == {n.pa("edge-1"), n.pa("edge-1", 6)}
    assert tables.zero_flow_id == {blue_only.provider_addresses[0]}
    assert tables.members == {
        *(n.pa(node, version) for node in ("hv1", "hv2", "edge-1") for version in (4, 6)),
        *blue_only.provider_addresses,
    }
    assert tables.provider_addresses_of["hv1"] == {n.pa("hv1"), n.pa("hv1", 6)}


def test_routes_follow_from_subnets_and_sites_and_are_named() -> None:
    hop = AddressHop(CustomerAddress.parse("10.0.2.5"))
    red = n.tenant(
        "red",
        sites=(n.site("seattle", "172.16.0.0/16"),),
        routes=(CustomerRoute(ip_network("0.0.0.0/0"), hop),),
    )

    assert {str(route.prefix): str(route.next_hop) for route in customer_routes(red)} == {
        "172.16.0.0/16": "site:seattle",
        "10.0.1.0/24": "subnet:web",
        "fd00:1::/64": "subnet:web",
        "10.0.2.0/24": "subnet:db",
        "fd00:2::/64": "subnet:db",
        "0.0.0.0/0": "via:10.0.2.5",
    }


@pytest.mark.parametrize(
    ("prefix", "address", "proxied"),
    [
        pytest.param("10.0.1.50/32", "10.0.1.50", True, id="address inside"),
        pytest.param("10.0.1.128/25", "10.0.1.200", True, id="part of the subnet"),
        pytest.param("10.0.0.0/16", "10.0.77.7", True, id="around the subnet"),
        pytest.param("172.16.0.0/16", "172.16.0.5", False, id="beside the subnet"),
        pytest.param("0.0.0.0/0", "8.8.8.8", False, id="default route"),
        pytest.param("::/0", "2001:db8::1", False, id="IPv6 default route"),
        pytest.param("10.0.2.50/32", "10.0.2.50", False, id="inside another subnet"),
    ],
)
def test_what_overlaps_a_subnet_and_is_at_a_site_is_proxied_there(
    prefix: str, address: str, proxied: bool
) -> None:
    route = CustomerRoute(ip_network(prefix), SiteHop("seattle"))
    net = n.network(n.tenant("red", sites=(n.site("seattle", "192.168.0.0/16"),), routes=(route,)))

    hop = compiled(net).subnets[Vsid(5001)].proxied.lookup(CustomerAddress.parse(address))

    assert (hop == SiteHop("seattle")) is proxied


def test_subnets_carry_groups_only_where_told() -> None:
    tables = compiled(n.network(n.tenant("red", broadcast=True), n.tenant("blue")))

    assert tables.subnets[Vsid(5001)].broadcast
    assert not tables.subnets[Vsid(6001)].broadcast
