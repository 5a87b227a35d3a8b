"""The longest prefix that the tables find is the longest there is."""

from __future__ import annotations

import ipaddress

import hypothesis
from hypothesis import strategies as st

from policies.addresses import CustomerAddress, Prefix, ProviderAddress, Vsid
from policies.model import CustomerRoute, Network, ProviderHost, SiteHop, SubnetHop, Tenant, VirtualSubnet
from policies.tables import PrefixTable, Tables

# Few different octets, so that prefixes hold each other and addresses fall into them.
octets = st.sampled_from((0, 1, 2, 3, 0x7F, 0x80, 0xFF))
addresses = st.one_of(
    st.lists(octets, min_size=4, max_size=4).map(bytes),
    st.tuples(st.lists(octets, min_size=4, max_size=4), st.lists(octets, min_size=2, max_size=2)).map(
        lambda parts: bytes(parts[0]) + bytes(10) + bytes(parts[1])
    ),
)


@st.composite
def prefixes(draw: st.DrawFn) -> Prefix:
    address = draw(addresses)
    longest = len(address) * 8
    length = draw(st.integers(0, longest) | st.sampled_from((0, 1, 8, 9, 31, longest - 1, longest)))
    return ipaddress.ip_network((address, length), strict=False)


def brute_force(entries: list[tuple[Prefix, int]], address: bytes) -> tuple[Prefix | None, int | None]:
    """Search all entries; of equal prefixes the last counts, as in a dictionary."""
    ip = ipaddress.ip_address(address)
    best: Prefix | None = None
    value = None
    for prefix, candidate in entries:
        if (
            prefix.version == ip.version
            and ip in prefix
            and (best is None or prefix.prefixlen >= best.prefixlen)
        ):
            best, value = prefix, candidate
    return best, value


@hypothesis.given(
    st.lists(st.tuples(prefixes(), st.integers(0, 9)), max_size=30),
    st.lists(addresses, min_size=1, max_size=20),
)
def test_lookup_finds_the_longest_prefix(entries: list[tuple[Prefix, int]], sought: list[bytes]) -> None:
    table = PrefixTable(entries)
    ends = [bytes(prefix[place].packed) for prefix, _ in entries for place in (0, -1)]

    for address in sought + ends:
        prefix, value = brute_force(entries, address)
        assert table.lookup(address) == value
        assert table.match(CustomerAddress(address)) == prefix


@hypothesis.given(st.lists(st.tuples(prefixes(), st.integers(0, 9)), max_size=30))
def test_table_gives_back_what_was_put_in(entries: list[tuple[Prefix, int]]) -> None:
    assert dict(PrefixTable(entries)) == dict(entries)


def test_addresses_just_outside_a_prefix_are_not_in_it() -> None:
    table = PrefixTable(
        [(ipaddress.ip_network("10.0.1.0/24"), "in"), (ipaddress.ip_network("fd00:1::/64"), "in")]
    )

    for inside in ("10.0.1.0", "10.0.1.255", "fd00:1::", "fd00:1:0:0:ffff:ffff:ffff:ffff"):
        assert table.lookup(CustomerAddress.parse(inside)) == "in"
    for outside in (
        "10.0.0.255",
        "10.0.2.0",
        "fd00:0:ffff:ffff:ffff:ffff:ffff:ffff",
        "fd00:1:0:1::",
        "::10.0.1.5",
    ):
        assert table.lookup(CustomerAddress.parse(outside)) is None


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Tenants with subnets and with routes that cross them in every way, and hosts that may hold some."""
    names = ("red", "blue", "green")
    hosts = tuple(
        ProviderHost(name, (ProviderAddress((10, 0, 0, number)),), tuple(tenants))
        for number, (name, tenants) in enumerate(
            draw(st.dictionaries(st.text("hv", min_size=1), st.sets(st.sampled_from(names)))).items()
        )
    )
    tenants = []
    for number, name in enumerate(names):
        found = draw(st.lists(prefixes(), max_size=8, unique=True))
        subnets = (
            VirtualSubnet(f"net{place}", Vsid(0x1000 * (number + 1) + place), (prefix,), ())
            for place, prefix in enumerate(found)
        )
        elsewhere = st.lists(
            prefixes().map(lambda prefix: CustomerRoute(prefix, SiteHop("site"))), max_size=8
        )
        tenants.append(Tenant(name, (), tuple(subnets), routes=tuple(draw(elsewhere))))
    return Network(hosts, (), tuple(tenants))


@hypothesis.given(networks())
def test_tenants_have_the_hosts_and_the_neighbours_that_a_search_through_all_finds(network: Network) -> None:
    tables = Tables.compile(network)

    for tenant in network.tenants:
        domain = tables.domains[tenant.name]
        hosts = [host for host in network.hosts if tenant.name in host.tenants]
        assert domain.hosts == {host.name for host in hosts}
        assert domain.host_addresses == {host.provider_addresses[0] for host in hosts}
        for subnet in tenant.subnets:
            assert dict(tables.subnets[subnet.vsid].proxied) == {
                prefix: hop
                for prefix, hop in domain.routes
                if not isinstance(hop, SubnetHop) and prefix.prefixlen > 0
                if any(own.version == prefix.version and own.overlaps(prefix) for own in subnet.prefixes)
            }
