"""Checks of the network's configuration: tenants, subnets, routes, records and rules against each other.

Each check yields what is wrong. It passes over what the reader has already noted,
and does not judge by a list of which a part could not be read.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

from policies.addresses import CustomerAddress, MacAddress, Prefix, gateway_mac
from policies.config_reader import suggestion
from policies.config_tables import (
    File,
    ProviderHostTable,
    RecordTable,
    SubnetTable,
    TenantTable,
    gateway_names,
    subnet_with,
)
from policies.errors import Problem
from policies.facts import ICMP, ICMPV6, TCP, UDP

T = TypeVar("T", bound=Hashable)

Placed = tuple[str, T | None]
"""Something, behind the path where it is written."""


def network_problems(file: File) -> Iterator[Problem]:
    """Everything that is wrong with the network's configuration."""
    for tables, what in ((file.hosts, "host"), (file.gateways, "gateway"), (file.tenants, "tenant")):
        yield from names_used_twice(((table.path, table.name) for table in tables), what)
    yield from vsids_used_twice(file)
    yield from rdids_used_twice(file)
    yield from identities_used_twice(file)
    yield from unknown_tenants(file)
    for tenant in file.tenants:
        for check in TENANT_CHECKS:
            yield from check(tenant)
        for check_within in TENANT_CHECKS_WITHIN_FILE:
            yield from check_within(tenant, file)


def used_twice(values: Iterable[Placed[T]]) -> Iterator[tuple[str, T, str]]:
    """Each value that came before: its path, the value, and the path where it was first."""
    first: dict[T, str] = {}
    for path, value in values:
        if value is None:
            continue
        if value in first:
            yield path, value, first[value]
        else:
            first[value] = path


def names_used_twice(names: Iterable[Placed[str]], what: str) -> Iterator[Problem]:
    for path, name, first in used_twice(names):
        yield Problem(f"{path}.name", f'"{name}" is already the name of {first}; give each {what} its own')


def vsids_used_twice(file: File) -> Iterator[Problem]:
    vsids = ((subnet.path, subnet.vsid) for tenant in file.tenants for subnet in tenant.subnets)
    for path, vsid, first in used_twice(vsids):
        message = f"{vsid} is already the VSID of {first}; each must be unique in the datacenter"
        yield Problem(f"{path}.vsid", message)


def rdids_used_twice(file: File) -> Iterator[Problem]:
    for path, rdid, first in used_twice((tenant.path, tenant.rdid) for tenant in file.tenants):
        yield Problem(f"{path}.rdid", f"{rdid} is already the routing domain of {first}")


def identities_used_twice(file: File) -> Iterator[Problem]:
    """The pair of identities is what tells a site from all others when its peer calls."""
    pairs: list[Placed[tuple[str, str]]] = []
    for tenant in file.tenants:
        for site in tenant.sites:
            if site.ike is not None and site.ike.local_id is not None and site.ike.remote_id is not None:
                pairs.append((site.path, (site.ike.local_id, site.ike.remote_id)))
    for path, (local, remote), first in used_twice(pairs):
        message = (
            f'{first} has the same pair of identities, "{local}" and "{remote}"; they tell the sites apart'
        )
        yield Problem(f"{path}.ike.remote_id", message)


def unknown_tenants(file: File) -> Iterator[Problem]:
    known = [tenant.name for tenant in file.tenants if tenant.name is not None]
    for host in file.hosts:
        for name in host.tenants:
            yield from unknown(f"{host.path}.tenants", "tenant", name, known)


def unknown(path: str, what: str, name: str | None, known: Iterable[str | None]) -> Iterator[Problem]:
    names = [one for one in known if one is not None]
    if name is not None and name not in names:
        yield Problem(path, f'there is no {what} "{name}"{suggestion(name, names)}')


def subnet_and_site_names(tenant: TenantTable) -> Iterator[Problem]:
    yield from names_used_twice(((subnet.path, subnet.name) for subnet in tenant.subnets), "subnet")
    yield from names_used_twice(((site.path, site.name) for site in tenant.sites), "site")
    yield from names_used_twice(((rule.path, rule.name) for rule in tenant.access), "rule")


def overlapping_subnets(tenant: TenantTable) -> Iterator[Problem]:
    owners: list[tuple[Prefix, str]] = []
    for subnet in tenant.subnets:
        for prefix in subnet.prefixes:
            for other, path in owners:
                if prefix.overlaps(other):
                    where = "itself" if path == subnet.path else path
                    message = f"{prefix} overlaps {other} of {where}; a tenant's subnets must be disjoint"
                    yield Problem(f"{subnet.path}.prefixes", message)
            owners.append((prefix, subnet.path))


def gateway_addresses(tenant: TenantTable) -> Iterator[Problem]:
    for subnet in tenant.subnets:
        path = f"{subnet.path}.gateway"
        for version in (4, 6):
            if len([address for address in subnet.gateway if address.version == version]) > 1:
                yield Problem(path, f"there are two IPv{version} addresses; give at most one of each family")
        for address in subnet.gateway:
            if "prefixes" not in subnet.unsound and not subnet.contains(address):
                yield Problem(path, f"{address} is outside {_prefixes(subnet)}")
            yield from unusable(path, address, subnet)


def unusable(path: str, address: CustomerAddress, subnet: SubnetTable) -> Iterator[Problem]:
    """The first address of a prefix is the network's, or all its routers'; the last of IPv4 is broadcast."""
    for prefix in subnet.prefixes:
        if address == prefix.network_address.packed:
            what = (
                "the network's own address" if prefix.version == 4 else "the anycast address of its routers"
            )
            yield Problem(path, f"{address} is {what} in {prefix}; use another")
        elif prefix.version == 4 and address == prefix.broadcast_address.packed:
            yield Problem(path, f"{address} is the broadcast address of {prefix}; use another")


def misplaced_routes(tenant: TenantTable) -> Iterator[Problem]:
    """A subnet may lie inside a route's prefix; inside a subnet only single addresses go to a site."""
    subnets = {prefix: subnet for subnet in tenant.subnets for prefix in subnet.prefixes}
    taken = {prefix: subnet.path for prefix, subnet in subnets.items()}
    for path, prefix, to_site in _routes(tenant):
        if prefix in taken:
            what = "the default route" if prefix.prefixlen == 0 else str(prefix)
            yield Problem(path, f"{what} is already that of {taken[prefix]}; a prefix leads to one place")
            continue
        taken[prefix] = path.rpartition(".")[0]
        around = next((subnets[other] for other in subnets if _inside(prefix, other)), None)
        if around is None:
            continue
        if prefix.prefixlen < prefix.max_prefixlen:
            single = f"/{prefix.max_prefixlen}"
            yield Problem(
                path, f"{prefix} cuts {around.path}; inside a subnet only {single} can go to a site"
            )
        elif not to_site:
            yield Problem(
                path, f"{prefix} is inside {around.path}; a single address of a subnet can only go to a site"
            )
        elif prefix.network_address.packed in around.gateway_addresses:
            yield Problem(
                path, f"{prefix.network_address} is the gateway of {around.path}, which cannot move"
            )


def moved_records(tenant: TenantTable) -> Iterator[Problem]:
    moved = {
        p.network_address.packed: path
        for path, p, site in _routes(tenant)
        if site and p.prefixlen == p.max_prefixlen
    }
    for record in tenant.records:
        if record.ca in moved:
            yield Problem(
                f"{record.path}.ca", f"{record.ca} is at a site, says {moved[record.ca]}; keep one of the two"
            )


def unknown_next_hops(tenant: TenantTable) -> Iterator[Problem]:
    for route in tenant.routes:
        path = f"{route.path}.via"
        match route.via:
            case "site", str(name):
                yield from unknown(path, "site", name, (site.name for site in tenant.sites))
            case "subnet", str(name):
                yield from unknown(path, "subnet", name, (subnet.name for subnet in tenant.subnets))
            case _, CustomerAddress() as address:
                if route.prefix is not None and route.prefix.version != address.version:
                    yield Problem(path, f"{address} is not of the family of {route.prefix}")
                yield from outside(path, address, tenant)
                yield from gateways_own(path, address, tenant)


def record_addresses(tenant: TenantTable) -> Iterator[Problem]:
    for record in tenant.records:
        if record.ca is not None:
            yield from vm_address(f"{record.path}.ca", record.ca, tenant)
    for path, ca, first in used_twice((record.path, record.ca) for record in tenant.records):
        yield Problem(f"{path}.ca", f"{ca} is already recorded by {first}; an address has one record")


def vm_address(path: str, address: CustomerAddress, tenant: TenantTable) -> Iterator[Problem]:
    """What keeps an address from being a VM's."""
    yield from outside(path, address, tenant)
    yield from gateways_own(path, address, tenant)
    if subnet := subnet_with(tenant, address):
        yield from unusable(path, address, subnet)


def outside(path: str, address: CustomerAddress, tenant: TenantTable) -> Iterator[Problem]:
    complete = "subnet" not in tenant.unsound and not any("prefixes" in one.unsound for one in tenant.subnets)
    if complete and subnet_with(tenant, address) is None:
        prefixes = [str(prefix) for subnet in tenant.subnets for prefix in subnet.prefixes]
        known = f"; use an address of {', '.join(prefixes[:12])}" if prefixes else ", which has none"
        yield Problem(path, f"{address} is outside the tenant's subnets{known}")


def gateways_own(path: str, address: CustomerAddress, tenant: TenantTable) -> Iterator[Problem]:
    subnet = subnet_with(tenant, address)
    if subnet is not None and "gateway" not in subnet.unsound and address in subnet.gateway_addresses:
        yield Problem(path, f"{address} is the gateway's own address in {subnet.path}; use another")


def record_macs(tenant: TenantTable) -> Iterator[Problem]:
    hosts: dict[tuple[str, bytes], RecordTable] = {}
    for record in tenant.records:
        subnet = None if record.ca is None else subnet_with(tenant, record.ca)
        if record.mac is None or subnet is None:
            continue
        yield from gateways_mac(f"{record.path}.mac", record.mac, subnet)
        first = hosts.setdefault((subnet.path, record.mac), record)
        if None not in (first.host, record.host) and first.host != record.host:
            message = f'{record.mac} is at host "{first.host}", says {first.path}; a VM is at one host'
            yield Problem(f"{record.path}.host", message)


def gateways_mac(path: str, mac: MacAddress, subnet: SubnetTable) -> Iterator[Problem]:
    if subnet.vsid is not None and mac == gateway_mac(subnet.vsid):
        yield Problem(path, f"{mac} is the MAC of the gateway in {subnet.path}; give the VM another")


def record_hosts(tenant: TenantTable, file: File) -> Iterator[Problem]:
    hosts = {host.name: host for host in file.hosts}
    for record in tenant.records:
        yield from unknown(f"{record.path}.host", "provider_host", record.host, hosts)
        host = hosts.get(record.host)
        if host is None or record.host is None:
            continue
        yield from not_authorised(f"{record.path}.host", host, tenant.name)
        complete = "provider_addresses" not in host.unsound
        if complete and record.pa is not None and record.pa not in host.provider_addresses:
            known = ", ".join(str(pa) for pa in host.provider_addresses)
            yield Problem(
                f"{record.path}.pa", f'{record.pa} is not an address of host "{host.name}"; use {known}'
            )


def not_authorised(path: str, host: ProviderHostTable, tenant: str | None) -> Iterator[Problem]:
    if tenant is not None and "tenants" not in host.unsound and tenant not in host.tenants:
        yield Problem(
            path, f'host "{host.name}" may not hold tenant "{tenant}"; add it to {host.path}.tenants'
        )


def tenant_gateways(tenant: TenantTable, file: File) -> Iterator[Problem]:
    known = gateway_names(file)
    for name in tenant.gateways:
        yield from unknown(f"{tenant.path}.gateways", "gateway", name, known)
    if known and not tenant.gateways and "gateways" not in tenant.unsound:
        names = ", ".join(f'"{name}"' for name in known)
        yield Problem(f"{tenant.path}.gateways", f"is empty; name at least one of {names}")


def site_gateways(tenant: TenantTable, file: File) -> Iterator[Problem]:
    known = gateway_names(file)
    for site in tenant.sites:
        path = f"{site.path}.gateway"
        yield from unknown(path, "gateway", site.gateway, known)
        if site.gateway in known and site.gateway not in tenant.gateways and "gateways" not in tenant.unsound:
            yield Problem(
                path, f'"{site.gateway}" is not a gateway of the tenant; add it to {tenant.path}.gateways'
            )


def access_rules(tenant: TenantTable) -> Iterator[Problem]:
    for rule in tenant.access:
        for key, endpoint in (("from", rule.source), ("to", rule.destination)):
            match endpoint:
                case "subnet", str(name):
                    yield from unknown(f"{rule.path}.{key}", "subnet", name, (s.name for s in tenant.subnets))
                case "site", str(name):
                    yield from unknown(f"{rule.path}.{key}", "site", name, (s.name for s in tenant.sites))
        if rule.ports and rule.protocol not in (TCP, UDP) and "protocol" not in rule.unsound:
            yield Problem(
                f"{rule.path}.ports", 'only tcp and udp have ports; write protocol = "tcp" or "udp"'
            )
        versions = {what.version for _, what in (rule.source, rule.destination) if not isinstance(what, str)}
        if len(versions) > 1:
            yield Problem(f"{rule.path}.to", "is of another family than from, so no packet would ever match")
        elif versions & {4 if rule.protocol == ICMPV6 else 6 if rule.protocol == ICMP else 0}:
            right = "icmp" if rule.protocol == ICMPV6 else "icmpv6"
            yield Problem(f"{rule.path}.protocol", f'the prefix is of the other family; write "{right}"')


TENANT_CHECKS: tuple[Callable[[TenantTable], Iterator[Problem]], ...] = (
    subnet_and_site_names,
    overlapping_subnets,
    gateway_addresses,
    misplaced_routes,
    moved_records,
    unknown_next_hops,
    record_addresses,
    record_macs,
    access_rules,
)

TENANT_CHECKS_WITHIN_FILE: tuple[Callable[[TenantTable, File], Iterator[Problem]], ...] = (
    record_hosts,
    tenant_gateways,
    site_gateways,
)


def _routes(tenant: TenantTable) -> Iterator[tuple[str, Prefix, bool]]:
    """Every prefix that leads elsewhere: its path, and whether it leads to a site."""
    for site in tenant.sites:
        for prefix in site.prefixes:
            yield f"{site.path}.prefixes", prefix, True
    for route in tenant.routes:
        if route.prefix is not None:
            yield f"{route.path}.prefix", route.prefix, route.via is None or route.via[0] == "site"


def _inside(inner: Prefix, outer: Prefix) -> bool:
    return inner.version == outer.version and inner.prefixlen > outer.prefixlen and inner.overlaps(outer)


def _prefixes(subnet: SubnetTable) -> str:
    return " and ".join(str(prefix) for prefix in subnet.prefixes) or "the subnet"
