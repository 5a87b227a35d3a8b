"""Checks of the network's configuration: tenants, subnets, routes, records and rules against each other.

Each check yields what is wrong. It passes over what the reader has noted already,
and does not judge by a list of which a part could not be read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from policies.addresses import CustomerAddress, MacAddress, Prefix, gateway_mac, overlapping
from policies.config.network_tables import ProviderHostTable, RecordTable, SubnetTable, TenantTable
from policies.config.node_tables import File
from policies.config.reader import close_match, listed
from policies.errors import Problem
from policies.facts import ICMP, ICMPV6, TCP, UDP
from policies.model import AddressHop, SiteHop, Translation

T = TypeVar("T", bound=Hashable)

_WRITTEN_AS = {
    "tenant": "[[tenant]]",
    "subnet": "[[tenant.subnet]]",
    "site": "[[tenant.site]]",
    "host": "[[provider_host]]",
    "gateway": "[gateway] or [[provider_gateway]]",
}


def network_problems(file: File) -> Iterator[Problem]:
    """Everything that is wrong with the network's configuration."""
    yield from names_used_twice((table.path, table.name) for table in file.hosts)
    yield from names_used_twice((table.path, table.name) for table in file.gateways)
    yield from names_used_twice((table.path, table.name) for table in file.tenants)
    yield from vsids_used_twice(file)
    yield from rdids_used_twice(file)
    yield from unknown_tenants(file)
    for tenant in file.tenants:
        for check in TENANT_CHECKS:
            yield from check(tenant)
        for check_in_file in TENANT_CHECKS_IN_FILE:
            yield from check_in_file(tenant, file)


def used_twice(placed: Iterable[tuple[str, T | None]]) -> Iterator[tuple[str, T, str]]:
    """Of values behind their paths, each that came before: its path, itself, and the first path."""
    first: dict[T, str] = {}
    for path, value in placed:
        if value is not None and first.setdefault(value, path) != path:
            yield path, value, first[value]


def unknown(path: str, what: str, name: str | None, known: Collection[str]) -> Iterator[Problem]:
    """A reference to something that the file does not have."""
    if name is None or name in known:
        return
    meant = close_match(name, known)
    right = f'did you mean "{meant}"? ' if meant else ""
    right += f"known: {listed(known)}" if known else f"write {_WRITTEN_AS[what]}"
    yield Problem(path, f'there is no {what} "{name}"; {right}')


def names_used_twice(names: Iterable[tuple[str, str | None]]) -> Iterator[Problem]:
    """A name that two tables of an array have."""
    for path, name, first in used_twice(names):
        yield Problem(f"{path}.name", f'"{name}" is the name of {first} already; give each its own')


def vsids_used_twice(file: File) -> Iterator[Problem]:
    """A VSID that two subnets have, of one tenant or of two."""
    vsids = ((subnet.path, subnet.vsid) for tenant in file.tenants for subnet in tenant.subnets)
    for path, vsid, first in used_twice(vsids):
        message = f"{vsid} is the VSID of {first} already; each is unique in the datacenter"
        yield Problem(f"{path}.vsid", message)


def rdids_used_twice(file: File) -> Iterator[Problem]:
    """A routing domain's GUID that two tenants have."""
    for path, rdid, first in used_twice((tenant.path, tenant.rdid) for tenant in file.tenants):
        yield Problem(f"{path}.rdid", f"{rdid} is the routing domain of {first} already; give each its own")


def unknown_tenants(file: File) -> Iterator[Problem]:
    """A tenant that a host may hold, and that does not exist."""
    for host in file.hosts:
        for name in host.tenants:
            yield from unknown(f"{host.path}.tenants", "tenant", name, file.tenant_names)


def names_within_tenant(tenant: TenantTable) -> Iterator[Problem]:
    """A name that two of a tenant's subnets, sites or rules have."""
    yield from names_used_twice((subnet.path, subnet.name) for subnet in tenant.subnets)
    yield from names_used_twice((site.path, site.name) for site in tenant.sites)
    yield from names_used_twice((rule.path, rule.name) for rule in tenant.access)


class _Placed(NamedTuple):
    order: int
    prefix: Prefix
    path: str


def overlapping_subnets(tenant: TenantTable) -> Iterator[Problem]:
    """A prefix of a subnet that lies inside another of the tenant, or equals it."""
    pairs = ((prefix, subnet.path) for subnet in tenant.subnets for prefix in subnet.prefixes)
    placed = (_Placed(order, prefix, path) for order, (prefix, path) in enumerate(pairs))
    for pair in overlapping(placed, lambda one: one.prefix):
        first, second = sorted(pair)
        where = "the same subnet" if first.path == second.path else first.path
        message = f"{second.prefix} overlaps {first.prefix} of {where}; a tenant's subnets must be apart"
        yield Problem(f"{second.path}.prefixes", message)


def gateway_addresses(tenant: TenantTable) -> Iterator[Problem]:
    """A subnet's named gateway that cannot be its gateway."""
    for subnet in tenant.subnets:
        path = f"{subnet.path}.gateway"
        for version in (4, 6):
            if sum(address.version == version for address in subnet.gateway) > 1:
                yield Problem(path, f"names two IPv{version} addresses; give at most one of each family")
        for address in subnet.gateway:
            if "prefixes" not in subnet.unsound and not any(address.ip in p for p in subnet.prefixes):
                prefixes = " and ".join(str(prefix) for prefix in subnet.prefixes)
                yield Problem(path, f"{address!s} is outside the subnet; use an address of {prefixes}")
            yield from not_a_unicast_address(path, address, subnet)


def not_a_unicast_address(path: str, address: CustomerAddress, subnet: SubnetTable) -> Iterator[Problem]:
    """The first address of a prefix is the network's, or all its routers'; the last of IPv4 is broadcast."""
    for prefix in subnet.prefixes:
        what = None
        if address == prefix.network_address.packed:
            what = "the network's own address" if prefix.version == 4 else "the routers' anycast address"
        elif prefix.version == 4 and address == prefix.broadcast_address.packed:
            what = "the broadcast address"
        if what:
            yield Problem(path, f"{address!s} is {what} of {prefix}; use another")


def misplaced_routes(tenant: TenantTable) -> Iterator[Problem]:
    """A prefix that leads to two places, or that cuts a subnet.

    A subnet may lie inside a route's prefix. Inside a subnet, only single addresses may be at a site.
    """
    taken = {prefix: subnet.path for subnet in tenant.subnets for prefix in subnet.prefixes}
    for path, key, prefix, to_site in _routes(tenant):
        if taken.setdefault(prefix, path) != path:
            what = "the default route" if prefix.prefixlen == 0 else str(prefix)
            yield Problem(f"{path}.{key}", f"{what} is that of {taken[prefix]} already; keep one of the two")
            continue
        address = CustomerAddress(prefix.network_address.packed)
        subnet = tenant.subnet_with(address)
        if subnet is None or all(prefix.prefixlen <= p.prefixlen for p in subnet.prefixes if address.ip in p):
            continue
        single = f"/{prefix.max_prefixlen}"
        if prefix.prefixlen < prefix.max_prefixlen:
            message = f"{prefix} cuts {subnet.path}; only its single addresses ({single}) can be at a site"
            yield Problem(f"{path}.{key}", message)
        elif not to_site:
            message = f"{prefix} is inside {subnet.path}; there a single address can only lead to a site"
            yield Problem(f"{path}.{key}", message)
        elif address in subnet.gateway_addresses:
            message = f"{address!s} is the gateway of {subnet.path}, which cannot be at a site"
            yield Problem(f"{path}.{key}", message)


def unknown_next_hops(tenant: TenantTable) -> Iterator[Problem]:
    """A route to something that the tenant does not have."""
    for route in tenant.routes:
        path = f"{route.path}.via"
        match route.via:
            case SiteHop(name):
                yield from unknown(path, "site", name, tenant.site_names)
            case AddressHop(ca):
                if route.prefix is not None and route.prefix.version != ca.version:
                    yield Problem(path, f"{ca!s} is not of the family of {route.prefix}")
                yield from not_a_vm(path, ca, tenant)
            case name:
                yield from unknown(path, "subnet", name, tenant.subnet_names)


def record_addresses(tenant: TenantTable) -> Iterator[Problem]:
    """A record for an address that no VM can have, or that another record has."""
    for record in tenant.records:
        if record.ca is not None:
            yield from not_a_vm(f"{record.path}.ca", record.ca, tenant)
    for path, ca, first in used_twice((record.path, record.ca) for record in tenant.records):
        yield Problem(f"{path}.ca", f"{ca!s} is the address of {first} already; an address has one record")


def not_a_vm(path: str, address: CustomerAddress, tenant: TenantTable) -> Iterator[Problem]:
    """What keeps an address from being that of a VM in one of the tenant's subnets."""
    subnet = tenant.subnet_with(address)
    if subnet is None:
        if "subnet" not in tenant.unsound and not any("prefixes" in one.unsound for one in tenant.subnets):
            prefixes = listed(str(prefix) for one in tenant.subnets for prefix in one.prefixes)
            right = f"use an address of {prefixes}" if prefixes else "there are none; write [[tenant.subnet]]"
            yield Problem(path, f"{address!s} is outside the tenant's subnets; {right}")
        return
    yield from not_a_unicast_address(path, address, subnet)
    if "gateway" not in subnet.unsound and address in subnet.gateway_addresses:
        yield Problem(path, f"{address!s} is the gateway of {subnet.path}; use another")
    if address in tenant.addresses_at_sites:
        at = tenant.addresses_at_sites[address]
        yield Problem(path, f"{address!s} is at a site, says {at}; it cannot be in both places")


def record_macs(tenant: TenantTable) -> Iterator[Problem]:
    """A record's MAC that is the gateway's, or that a VM at another host has in the same subnet."""
    first_with: dict[tuple[str, MacAddress], RecordTable] = {}
    for record in tenant.records:
        subnet = None if record.ca is None else tenant.subnet_with(record.ca)
        if record.mac is None or subnet is None:
            continue
        yield from gateways_mac(f"{record.path}.mac", record.mac, subnet)
        first = first_with.setdefault((subnet.path, record.mac), record)
        if None not in (first.host, record.host) and first.host != record.host:
            message = f'{record.mac!s} is at host "{first.host}", says {first.path}; a VM is at one host'
            yield Problem(f"{record.path}.host", message)


def gateways_mac(path: str, mac: MacAddress, subnet: SubnetTable) -> Iterator[Problem]:
    """A VM's MAC that is the gateway's."""
    if subnet.vsid is not None and mac == gateway_mac(subnet.vsid):
        yield Problem(path, f"{mac!s} is the MAC of the gateway in {subnet.path}; give the VM another")


def record_hosts(tenant: TenantTable, file: File) -> Iterator[Problem]:
    """A record at a host that does not exist, may not hold it, or is not at that address."""
    for record in tenant.records:
        yield from unknown(f"{record.path}.host", "host", record.host, file.host_names)
        host = file.host_names.get(record.host) if record.host is not None else None
        if host is None:
            continue
        yield from not_authorised(f"{record.path}.host", host, tenant)
        complete = (
            "provider_addresses" not in host.unsound and tenant.translation_of(record) is Translation.ENCAP
        )
        if complete and record.pa is not None and record.pa not in host.provider_addresses:
            known = listed(str(pa) for pa in host.provider_addresses)
            yield Problem(f"{record.path}.pa", f'{record.pa!s} is not one of "{host.name}"; use {known}')


def not_authorised(path: str, host: ProviderHostTable, tenant: TenantTable) -> Iterator[Problem]:
    """A tenant that a host may not hold."""
    if tenant.name is not None and "tenants" not in host.unsound and tenant.name not in host.tenant_names:
        message = f'host "{host.name}" may not hold tenant "{tenant.name}"; add it to {host.path}.tenants'
        yield Problem(path, message)


def tenant_gateways(tenant: TenantTable, file: File) -> Iterator[Problem]:
    """A gateway of the tenant that does not exist, or none where there are some."""
    known = file.gateway_addresses
    for name in tenant.gateways:
        yield from unknown(f"{tenant.path}.gateways", "gateway", name, known)
    if known and not tenant.gateways and "gateways" not in tenant.unsound:
        yield Problem(f"{tenant.path}.gateways", f"names none; name at least one of {listed(known)}")


def site_gateways(tenant: TenantTable, file: File) -> Iterator[Problem]:
    """A site's gateway that does not exist, or is not the tenant's."""
    for site in tenant.sites:
        path = f"{site.path}.gateway"
        yield from unknown(path, "gateway", site.gateway, file.gateway_addresses)
        known = site.gateway in file.gateway_addresses
        if known and site.gateway not in tenant.gateways and "gateways" not in tenant.unsound:
            yield Problem(path, f'"{site.gateway}" is not the tenant\'s; add it to {tenant.path}.gateways')


def access_rules(tenant: TenantTable) -> Iterator[Problem]:
    """A rule about something that does not exist, or that no packet can match."""
    for rule in tenant.access:
        for key, side in (("from", rule.source), ("to", rule.destination)):
            yield from unknown(f"{rule.path}.{key}", "subnet", side.subnet, tenant.subnet_names)
            yield from unknown(f"{rule.path}.{key}", "site", side.site, tenant.site_names)
        if rule.ports and rule.protocol not in (TCP, UDP) and "protocol" not in rule.unsound:
            yield Problem(f"{rule.path}.ports", 'are for tcp and udp only; write protocol = "tcp" or "udp"')
        families = {
            side.prefix.version for side in (rule.source, rule.destination) if side.prefix is not None
        }
        if len(families) == 2:
            yield Problem(f"{rule.path}.to", "is not of the family of from, so that no packet could match")
        elif rule.protocol == ICMP and 6 in families:
            yield Problem(f"{rule.path}.protocol", 'icmp is for IPv4, and the prefix is IPv6; write "icmpv6"')
        elif rule.protocol == ICMPV6 and 4 in families:
            yield Problem(f"{rule.path}.protocol", 'icmpv6 is for IPv6, and the prefix is IPv4; write "icmp"')


TENANT_CHECKS: tuple[Callable[[TenantTable], Iterator[Problem]], ...] = (
    names_within_tenant,
    overlapping_subnets,
    gateway_addresses,
    misplaced_routes,
    unknown_next_hops,
    record_addresses,
    record_macs,
    access_rules,
)

TENANT_CHECKS_IN_FILE: tuple[Callable[[TenantTable, File], Iterator[Problem]], ...] = (
    record_hosts,
    tenant_gateways,
    site_gateways,
)


def _routes(tenant: TenantTable) -> Iterator[tuple[str, str, Prefix, bool]]:
    """Every prefix that leads elsewhere: its table's path, its key, and whether to a site."""
    for site in tenant.sites:
        for prefix in site.prefixes:
            yield site.path, "prefixes", prefix, True
    for route in tenant.routes:
        if route.prefix is not None:
            yield route.path, "prefix", route.prefix, isinstance(route.via, SiteHop) or route.via is None
