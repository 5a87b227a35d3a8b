"""Checks of what IP rewrite needs: pools that are nobody else's, and tenants that can be carried by it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from policies.addresses import CustomerAddress, Prefix, ProviderAddress, is_leased, overlapping
from policies.config.network_checks import used_twice
from policies.config.network_tables import (
    ProviderGatewayTable,
    ProviderHostTable,
    SubnetTable,
    TenantTable,
)
from policies.config.node_tables import File, GatewayTable
from policies.config.reader import listed
from policies.errors import Problem
from policies.model import MOST_POOLS, AddressHop, Translation
from policies.tables import PrefixTable, by_tenant


def pool_problems(file: File) -> Iterator[Problem]:
    """Everything that is wrong with pools, and with what is leased from them."""
    yield from too_many_pools(file)
    yield from own_pools_elsewhere(file)
    yield from overlapping_pools(file)
    yield from machines_in_pools(file)
    yield from rewritten_records_used_twice(file)
    for tenant in file.tenants:
        yield from rewritten_without_lookup_service(tenant, file)
        yield from rewritten_broadcast(tenant)
        yield from routes_through_rewritten(tenant)
        yield from rewritten_records(tenant, file)
        yield from gateways_without_pools(tenant, file)
    yield from hosts_without_pools(file)
    yield from rewritten_on_openvswitch(file)


class _Pool(NamedTuple):
    order: int
    prefix: Prefix
    path: str
    is_hosts: bool


def too_many_pools(file: File) -> Iterator[Problem]:
    """More pools than one node takes."""
    for node in _nodes(file):
        if len(node.pools) > MOST_POOLS:
            message = f"has {len(node.pools)} prefixes, and at most {MOST_POOLS} are taken; write larger ones"
            yield Problem(f"{node.path}.pools", message)


def own_pools_elsewhere(file: File) -> Iterator[Problem]:
    """Pools of this gateway that nobody would read, or that the list of all gateways has otherwise."""
    if file.gateway is None or "pools" in file.gateway.unsound:
        return
    if file.is_network_elsewhere:
        if file.gateway.pools:
            message = (
                "is not used where the network comes from elsewhere; "
                f'there, write it in the [[provider_gateway]] "{file.own_gateway}"'
            )
            yield Problem(f"{file.gateway.path}.pools", message)
        return
    own = file.gateway_names.get(file.own_gateway or "")
    if own is not None and "pools" not in own.unsound and set(own.pools) != set(file.gateway.pools):
        pools = f"{listed(map(str, file.gateway.pools)) or 'none'} in gateway.pools"
        yield Problem(f"{own.path}.pools", f"this appliance is that gateway, and has {pools}; write the same")


def overlapping_pools(file: File) -> Iterator[Problem]:
    """A pool that lies inside another, or equals it, unless both are hosts' and the very same."""
    first: dict[Prefix, _Pool] = {}
    for pool in _pools(file):
        other = first.setdefault(pool.prefix, pool)
        if other is not pool and not (pool.is_hosts and other.is_hosts):
            message = f"{pool.prefix} is in {other.path} already; only hosts can share a pool"
            yield Problem(pool.path, message)
    for pair in overlapping(first.values(), lambda pool: pool.prefix):
        before, after = sorted(pair)
        where = "the same pools" if before.path == after.path else before.path
        message = (
            f"{after.prefix} overlaps {before.prefix} of {where}; pools must be apart, "
            "or the very same at hosts that share it"
        )
        yield Problem(after.path, message)


def machines_in_pools(file: File) -> Iterator[Problem]:
    """An address of a machine, or of a site's peer, that a pool would have handed out."""
    pools = PrefixTable((pool.prefix, pool) for pool in _pools(file))
    told: set[_Pool] = set()
    for path, address in _machines(file):
        pool = pools.lookup(address)
        if pool is not None and pool not in told:
            told.add(pool)
            message = (
                f"{pool.prefix} holds {address!s} of {path}; a pool is apart from all machines' addresses"
            )
            yield Problem(pool.path, message)


def rewritten_without_lookup_service(tenant: TenantTable, file: File) -> Iterator[Problem]:
    """A tenant that is rewritten in a network that nobody leases addresses in."""
    if "lookup" in file.sections or file.asking:
        return
    rewritten = [each.path for each in tenant.subnets if each.translation is Translation.REWRITE]
    rewritten += [each.path for each in tenant.records if each.translation is Translation.REWRITE]
    right = "needs the lookup service, which leases the addresses; write [lookup], or leave it out"
    for path in rewritten:
        yield Problem(f"{path}.translation", f'"rewrite" {right}')


def rewritten_broadcast(tenant: TenantTable) -> Iterator[Problem]:
    """A rewritten subnet that wants what only goes in NVGRE: a group address cannot be rewritten."""
    for subnet in tenant.subnets:
        if subnet.broadcast and subnet.translation is Translation.REWRITE:
            message = 'cannot be carried with translation = "rewrite"; leave it out, or write "encap"'
            yield Problem(f"{subnet.path}.broadcast", message)


def routes_through_rewritten(tenant: TenantTable) -> Iterator[Problem]:
    """A route through a VM that cannot be given packets for others: they would lose where they are going."""
    for route in tenant.routes:
        if isinstance(route.via, AddressHop) and tenant.translation_at(route.via.ca) is Translation.REWRITE:
            message = (
                f"{route.via.ca!s} is rewritten, and gets packets for its own address alone; "
                'give it a [[tenant.record]] with translation = "encap", or another subnet'
            )
            yield Problem(f"{route.path}.via", message)


def rewritten_records(tenant: TenantTable, file: File) -> Iterator[Problem]:
    """A static record that is rewritten, and has no provider address that can be its own."""
    for record in tenant.records:
        if record.ca is None or tenant.translation_of(record) is not Translation.REWRITE:
            continue
        path = f"{record.path}.pa"
        host = file.host_names.get(record.host) if record.host is not None else None
        if record.pa is None:
            if "pa" not in record.unsound:
                yield Problem(
                    path, f"is missing; a rewritten VM has one of its own, {_of_pools(host, record.ca)}"
                )
        elif record.pa.version != record.ca.version:
            message = (
                f"{record.pa!s} is not of the family of {record.ca!s}; use one {_of_pools(host, record.ca)}"
            )
            yield Problem(path, message)
        elif host is not None and "pools" not in host.unsound:
            pool = next((pool for pool in host.pools if record.pa.ip in pool), None)
            if pool is None:
                message = (
                    f'{record.pa!s} is in no pool of "{host.name}"; use one {_of_pools(host, record.ca)}'
                )
                yield Problem(path, message)
            elif not is_leased(pool, record.pa):
                yield Problem(path, f"{record.pa!s} is the first or the last of {pool}, which is nobody's")


def rewritten_records_used_twice(file: File) -> Iterator[Problem]:
    """A provider address that two rewritten VMs have, of one tenant or of two."""
    addresses = (
        (record.path, record.pa)
        for tenant in file.tenants
        for record in tenant.records
        if tenant.translation_of(record) is Translation.REWRITE
    )
    for path, pa, first in used_twice(addresses):
        message = f"{pa!s} is that of {first} already; a rewritten VM has one of its own"
        yield Problem(f"{path}.pa", message)


def hosts_without_pools(file: File) -> Iterator[Problem]:
    """A rewritten subnet that none of the hosts that may hold its tenant has a pool for."""
    if any({"pools", "tenants"} & host.unsound for host in file.hosts):
        return
    hosts_of = by_tenant(file.hosts)
    for tenant in file.tenants:
        hosts = hosts_of.get(tenant.name or "", ())
        pooled = {pool.version for host in hosts for pool in host.pools}
        for subnet in tenant.subnets if hosts else ():
            for version in sorted(_rewritten_families(subnet) - pooled):
                message = (
                    f'"rewrite" needs a pool of IPv{version} at a host of this tenant; '
                    f"write pools in {listed(host.path for host in hosts)}"
                )
                yield Problem(f"{subnet.path}.translation", message)


def gateways_without_pools(tenant: TenantTable, file: File) -> Iterator[Problem]:
    """A gateway of a tenant that has no address to lease to what is behind it."""
    families = {version for subnet in tenant.subnets for version in _rewritten_families(subnet)}
    rewritten = (each for each in tenant.records if tenant.translation_of(each) is Translation.REWRITE)
    families |= {record.ca.version for record in rewritten if record.ca is not None}
    for name in tenant.gateways:
        own = name == file.own_gateway and file.gateway is not None
        table: GatewayTable | ProviderGatewayTable | None = (
            file.gateway if own else file.gateway_names.get(name)
        )
        if table is None or "pools" in table.unsound:
            continue
        for version in sorted(families - {pool.version for pool in table.pools}):
            message = (
                f'"{name}" has no pool of IPv{version}, which rewritten VMs of tenant "{tenant.name}" '
                f"reach everything else by; write pools in {table.path}"
            )
            yield Problem(f"{tenant.path}.gateways", message)


def rewritten_on_openvswitch(file: File) -> Iterator[Problem]:
    """A VM on a bridge that only encapsulates."""
    if file.host is None or file.host.driver != "openvswitch":
        return
    for port in file.host.ports:
        tenant = None if port.tenant is None else file.tenant_names.get(port.tenant)
        found = {} if tenant is None else {ca: tenant.translation_at(ca) for ca in port.addresses}
        rewritten = [ca for ca, translation in found.items() if translation is Translation.REWRITE]
        if rewritten:
            message = (
                f'{rewritten[0]!s} is rewritten, which driver = "openvswitch" cannot; '
                'give it a [[tenant.record]] with translation = "encap", or another host'
            )
            yield Problem(f"{port.path}.addresses", message)


def _rewritten_families(subnet: SubnetTable) -> set[int]:
    if subnet.translation is not Translation.REWRITE:
        return set()
    return {prefix.version for prefix in subnet.prefixes}


def _of_pools(host: ProviderHostTable | None, ca: CustomerAddress) -> str:
    """Where a rewritten VM's address is from, for whoever has to choose one."""
    if host is None:
        return "of its host's pools"
    pools = listed(str(pool) for pool in host.pools if pool.version == ca.version)
    return f"of {pools}" if pools else f"of {host.path}.pools, where there is no IPv{ca.version} yet"


def _nodes(file: File) -> Iterator[GatewayTable | ProviderGatewayTable | ProviderHostTable]:
    """Everyone who may have pools; this gateway once, also where it is among all others."""
    if file.gateway is not None:
        yield file.gateway
    yield from (gateway for gateway in file.gateways if gateway.name != file.own_gateway)
    yield from file.hosts


def _pools(file: File) -> Iterator[_Pool]:
    """All pools that there are, in an order that stays."""
    pools = ((prefix, node) for node in _nodes(file) for prefix in node.pools)
    for order, (prefix, node) in enumerate(pools):
        yield _Pool(order, prefix, f"{node.path}.pools", isinstance(node, ProviderHostTable))


def _machines(file: File) -> Iterator[tuple[str, ProviderAddress]]:
    """Every address of the underlay that a machine has, and where that is written."""
    if file.underlay is not None:
        yield from (
            (f"{file.underlay.path}.provider_addresses", pa) for pa in file.underlay.provider_addresses
        )
    if file.gateway is not None:
        yield from ((f"{file.gateway.path}.site_addresses", pa) for pa in file.gateway.site_addresses)
    nodes: tuple[ProviderGatewayTable | ProviderHostTable, ...] = (*file.gateways, *file.hosts)
    for node in nodes:
        yield from ((f"{node.path}.provider_addresses", pa) for pa in node.provider_addresses)
    for tenant in file.tenants:
        for site in tenant.sites:
            if isinstance(site.peer, ProviderAddress):
                yield f"{site.path}.peer", site.peer
