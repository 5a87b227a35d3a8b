"""The network compiled for forwarding: an immutable snapshot, replaced whole.

Subnets, routes, rules and the underlay's members are in it. Records are not:
they change one by one and live in the directory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, Protocol, Self, TypeVar

import msgspec

from policies.access import AccessRules
from policies.addresses import CustomerAddress, MacAddress, Prefix, ProviderAddress, Vsid, gateway_mac, nested
from policies.model import (
    AddressHop,
    CustomerRoute,
    FlowIdMode,
    Limits,
    Network,
    NextHop,
    ProviderGateway,
    ProviderHost,
    SiteHop,
    SubnetHop,
    Tenant,
    Translation,
    VirtualSubnet,
)

Value = TypeVar("Value")


class _HoldsTenants(Protocol):
    @property
    def tenants(self) -> tuple[str, ...]: ...


Host = TypeVar("Host", bound=_HoldsTenants)


def by_tenant(hosts: Iterable[Host]) -> dict[str, list[Host]]:
    """Return the hosts that may hold each tenant, by its name, for those that have any.

    Whoever searched the hosts for one tenant after the other would take tenants times hosts times tenants.
    """
    found: dict[str, list[Host]] = {}
    for host in hosts:
        for tenant in host.tenants:
            found.setdefault(tenant, []).append(host)
    return found


class PrefixTable(Generic[Value]):
    """Longest-prefix match over both families: one dictionary for each prefix length in use."""

    def __init__(self, entries: Iterable[tuple[Prefix, Value]]) -> None:
        self._prefixes = dict(entries)
        levels: dict[int, dict[int, dict[int, Value]]] = {4: {}, 6: {}}
        for prefix, value in self._prefixes.items():
            shift = prefix.max_prefixlen - prefix.prefixlen
            level = levels[prefix.version].setdefault(shift, {})
            level[int(prefix.network_address) >> shift] = value
        self._ipv4 = tuple(sorted(levels[4].items()))
        self._ipv6 = tuple(sorted(levels[6].items()))

    def lookup(self, address: bytes) -> Value | None:
        """Return what the longest prefix that holds `address` (4 or 16 octets) leads to."""
        number = int.from_bytes(address)
        for shift, level in self._ipv4 if len(address) == 4 else self._ipv6:
            value = level.get(number >> shift)
            if value is not None:
                return value
        return None

    def match(self, address: CustomerAddress) -> Prefix | None:
        """Return the longest prefix itself: for people, not for packets."""
        ip = address.ip
        holding = (prefix for prefix in self._prefixes if prefix.version == ip.version and ip in prefix)
        return max(holding, key=lambda prefix: prefix.prefixlen, default=None)

    def __iter__(self) -> Iterator[tuple[Prefix, Value]]:
        return iter(self._prefixes.items())


class RoutingDomain(msgspec.Struct, frozen=True, eq=False):
    """One tenant's isolated layer 3 world."""

    name: str
    routes: PrefixTable[NextHop]
    access: AccessRules
    gateway_addresses: frozenset[bytes]
    """The gateway CAs of all its subnets."""
    broadcast_addresses: frozenset[bytes]
    """Those of its IPv4 subnets, which are nobody's own."""
    host_addresses: frozenset[bytes]
    """The provider addresses of the hosts that may send for it."""
    hosts: frozenset[str]
    """Those hosts, by name."""
    gateway_provider_addresses: frozenset[bytes]
    gateways: tuple[tuple[str, tuple[ProviderAddress, ...]], ...]
    """Its gateways in order of preference, with their provider addresses."""
    site_gateways: dict[str, str]
    """Which gateway dials each of its sites, both by name."""
    vsids: frozenset[Vsid]
    limits: Limits | None

    def resolve(self, address: bytes) -> tuple[bytes, NextHop | None]:
        """Return the CA that a packet for `address` goes to next, and what that belongs to.

        A route through a VM, such as a firewall, leads to where the VM is; only once,
        or two such routes could lead to each other.
        """
        hop = self.routes.lookup(address)
        return (hop.ca, self.routes.lookup(hop.ca)) if isinstance(hop, AddressHop) else (address, hop)

    def home(self, address: bytes) -> Vsid | None:
        """Return by which VSID a CA's provider address is leased; None for a tenant without subnets."""
        hop = self.routes.lookup(address)
        return hop.vsid if isinstance(hop, SubnetHop) else min(self.vsids, default=None)


class SubnetEntry(msgspec.Struct, frozen=True, eq=False):
    """What a VSID stands for."""

    vsid: Vsid
    name: str
    domain: RoutingDomain
    gateway_mac: MacAddress
    gateway_ipv4: CustomerAddress | None
    gateway_ipv6: CustomerAddress | None
    broadcast: bool
    prefixes: tuple[Prefix, ...]
    dhcp: bool
    router_advertisements: bool
    translation: Translation
    """How VMs are carried that have no record yet."""
    proxied: PrefixTable[NextHop]
    """What a VM here may take for its neighbour although it is routed elsewhere: an
    address of the subnet that is at a site, or a site's prefix around the subnet."""

    @classmethod
    def compile(
        cls, subnet: VirtualSubnet, domain: RoutingDomain, proxied: Iterable[tuple[Prefix, NextHop]]
    ) -> Self:
        by_version = {address.version: address for address in subnet.gateway_addresses}
        return cls(
            vsid=subnet.vsid,
            name=subnet.name,
            domain=domain,
            gateway_mac=gateway_mac(subnet.vsid),
            gateway_ipv4=by_version.get(4),
            gateway_ipv6=by_version.get(6),
            broadcast=subnet.broadcast,
            prefixes=subnet.prefixes,
            dhcp=subnet.dhcp,
            router_advertisements=subnet.router_advertisements,
            translation=subnet.translation,
            proxied=PrefixTable(proxied),
        )

    def gateway_address(self, version: int) -> CustomerAddress | None:
        """The gateway's CA of an IP version, where the subnet has that family."""
        return self.gateway_ipv4 if version == 4 else self.gateway_ipv6


class Tables(msgspec.Struct, frozen=True, eq=False):
    """Everything but the records that a packet is decided by."""

    subnets: dict[Vsid, SubnetEntry]
    domains: dict[str, RoutingDomain]
    provider_addresses_of: dict[str, frozenset[bytes]]
    """Of each host, by its name."""
    zero_flow_id: frozenset[bytes]
    """Provider addresses that want a FlowID of 0."""
    members: frozenset[bytes]
    """Every provider address of a host or a gateway."""
    pools: PrefixTable[frozenset[str]]
    """Whose pool a provider address is in: the names of hosts that share it, or of one gateway."""

    @classmethod
    def compile(cls, network: Network) -> Self:
        """Compile a network that the configuration's checks have found sound."""
        gateways = {gateway.name: gateway.provider_addresses for gateway in network.gateways}
        hosts_of = by_tenant(network.hosts)
        domains: dict[str, RoutingDomain] = {}
        subnets: dict[Vsid, SubnetEntry] = {}
        for tenant in network.tenants:
            domain = _compile_domain(tenant, hosts_of.get(tenant.name, ()), gateways)
            domains[tenant.name] = domain
            proxied = _proxied(tenant, domain.routes)
            for subnet in tenant.subnets:
                subnets[subnet.vsid] = SubnetEntry.compile(subnet, domain, proxied[subnet.vsid])
        hosts = {host.name: frozenset[bytes](host.provider_addresses) for host in network.hosts}
        return cls(
            subnets=subnets,
            domains=domains,
            provider_addresses_of=hosts,
            zero_flow_id=frozenset(
                address
                for host in network.hosts
                if host.flow_id is FlowIdMode.ZERO
                for address in host.provider_addresses
            ),
            members=frozenset[bytes]().union(*hosts.values(), *gateways.values()),
            pools=_compile_pools(network),
        )


def _compile_pools(network: Network) -> PrefixTable[frozenset[str]]:
    nodes: tuple[ProviderHost | ProviderGateway, ...] = (*network.hosts, *network.gateways)
    pools: dict[Prefix, frozenset[str]] = {}
    for node in nodes:
        for pool in node.pools:
            pools[pool] = pools.get(pool, frozenset()) | {node.name}
    return PrefixTable(pools.items())


def _compile_domain(
    tenant: Tenant, hosts: Sequence[ProviderHost], gateways: dict[str, tuple[ProviderAddress, ...]]
) -> RoutingDomain:
    routes = PrefixTable((route.prefix, route.next_hop) for route in customer_routes(tenant))
    own_gateways = tuple((name, gateways[name]) for name in tenant.gateways)
    return RoutingDomain(
        name=tenant.name,
        routes=routes,
        access=AccessRules(tenant.access, routes.lookup),
        gateway_addresses=frozenset(ca for subnet in tenant.subnets for ca in subnet.gateway_addresses),
        broadcast_addresses=frozenset(
            prefix.broadcast_address.packed
            for subnet in tenant.subnets
            for prefix in subnet.prefixes
            if prefix.version == 4
        ),
        host_addresses=frozenset(address for host in hosts for address in host.provider_addresses),
        hosts=frozenset(host.name for host in hosts),
        gateway_provider_addresses=frozenset(
            address for _, addresses in own_gateways for address in addresses
        ),
        gateways=own_gateways,
        site_gateways={site.name: site.gateway for site in tenant.sites},
        vsids=frozenset(subnet.vsid for subnet in tenant.subnets),
        limits=tenant.limits,
    )


def _proxied(tenant: Tenant, routes: PrefixTable[NextHop]) -> dict[Vsid, list[tuple[Prefix, NextHop]]]:
    """What overlaps each subnet and leads elsewhere."""
    placed: list[tuple[Prefix, NextHop]] = [
        # A default route surrounds every subnet and makes nobody a neighbour.
        (prefix, hop)
        for prefix, hop in routes
        if not isinstance(hop, SubnetHop) and prefix.prefixlen > 0
    ]
    found: dict[Vsid, list[tuple[Prefix, NextHop]]] = {}
    for subnet in tenant.subnets:
        found[subnet.vsid] = []
        placed += ((prefix, SubnetHop(subnet.name, subnet.vsid)) for prefix in subnet.prefixes)
    for pair in nested(placed, lambda one: one[0]):
        for one, (_, hop) in (pair, reversed(pair)):
            if isinstance(hop, SubnetHop) and not isinstance(one[1], SubnetHop):
                found[hop.vsid].append(one)
    return found


def customer_routes(tenant: Tenant) -> Iterator[CustomerRoute]:
    """Every route of a tenant: those that follow from its subnets and sites, and its own."""
    for site in tenant.sites:
        for prefix in site.prefixes:
            yield CustomerRoute(prefix, SiteHop(site.name))
    for subnet in tenant.subnets:
        for prefix in subnet.prefixes:
            yield CustomerRoute(prefix, SubnetHop(subnet.name, subnet.vsid))
    yield from tenant.routes
