"""What the store's network must not say of IP rewrite: pools that are not a node's own, VMs without any."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice

from policies.addresses import CustomerAddress, Prefix, ProviderAddress, is_leased, overlapping
from policies.config import values
from policies.model import (
    MOST_POOLS,
    AddressHop,
    LookupRecord,
    Network,
    ProviderGateway,
    ProviderHost,
    Tenant,
    Translation,
    VirtualSubnet,
)
from policies.tables import PrefixTable

Node = ProviderHost | ProviderGateway

_TOLD = 8
"""Of the machines in one network's pools, so many are told."""


def pool_faults(network: Network) -> Iterator[str]:
    """Yield what is wrong with the pools of a network, in words for an operator."""
    nodes: tuple[Node, ...] = (*network.hosts, *network.gateways)
    owners: dict[Prefix, Node] = {}
    for node in nodes:
        if len(node.pools) > MOST_POOLS:
            yield f"{node.name} has {len(node.pools)} pools, and at most {MOST_POOLS} are taken"
        for pool in node.pools:
            try:
                values.pool(str(pool))
            except ValueError as error:
                yield f"{node.name}: {error}"
            other = owners.setdefault(pool, node)
            if other is not node and not (isinstance(node, ProviderHost) and isinstance(other, ProviderHost)):
                yield f"pool {pool} of {node.name} is {other.name}'s already; only hosts can share one"
    for around, pool in overlapping(owners, lambda each: each):
        yield f"pool {pool} of {owners[pool].name} overlaps {around} of {owners[around].name}"
    pools = PrefixTable((pool, pool) for pool in owners)
    within = ((name, pa, pools.lookup(pa)) for name, pa in _machines(network))
    for name, pa, found in islice((each for each in within if each[2] is not None), _TOLD):
        yield f"{pa} of {name} is in pool {found}; a pool is apart from all machines' addresses"


def rewriting_faults(
    tenant: Tenant, hosts: Collection[ProviderHost], gateways: Iterable[ProviderGateway]
) -> Iterator[str]:
    """Yield why the rewritten VMs of a tenant could not be carried, by its hosts and all gateways."""
    if tenant.leases is not None and tenant.leases < 1:
        yield "leases are above zero"
    rewritten = [subnet for subnet in tenant.subnets if subnet.translation is Translation.REWRITE]
    for subnet in rewritten:
        if subnet.broadcast:
            yield f"subnet {subnet.name}: broadcast cannot be carried with translation rewrite"
    records = {record.ca: record for record in tenant.records}
    for route in tenant.routes:
        if isinstance(route.next_hop, AddressHop) and _is_rewritten(route.next_hop.ca, records, rewritten):
            yield f"route {route.prefix}: {route.next_hop.ca} is rewritten, and is sent nothing for others"
    families: set[int] = {prefix.version for subnet in rewritten for prefix in subnet.prefixes}
    for version in sorted(families - _pooled(*hosts)) if hosts and families else ():
        yield f"none of its hosts has a pool of IPv{version}, which translation rewrite needs"
    families |= {record.ca.version for record in tenant.records if record.translation is Translation.REWRITE}
    for gateway in gateways if families else ():
        for version in sorted(families - _pooled(gateway)) if gateway.name in tenant.gateways else ():
            yield f"gateway {gateway.name} has no pool of IPv{version}, which translation rewrite needs"


def lease_fault(ca: CustomerAddress, pa: ProviderAddress, host: ProviderHost) -> str | None:
    """Return why a rewritten VM at a host cannot have a provider address, or None."""
    if pa.version != ca.version:
        return f"{pa} is not of the family of {ca}"
    pool = next((pool for pool in host.pools if pa.ip in pool), None)
    if pool is None:
        return f"{pa} is in no pool of {host.name}"
    return None if is_leased(pool, pa) else f"{pa} is the first or the last of {pool}, which is nobody's"


def _machines(network: Network) -> Iterator[tuple[str, ProviderAddress]]:
    """Every address of the underlay that a machine has, or a site's VPN device."""
    nodes: tuple[Node, ...] = (*network.hosts, *network.gateways)
    for node in nodes:
        yield from ((node.name, pa) for pa in node.provider_addresses)
    for tenant in network.tenants:
        yield from (
            (f"{tenant.name}/{site.name}", site.peer) for site in tenant.sites if site.peer is not None
        )


def _is_rewritten(
    ca: CustomerAddress, records: Mapping[CustomerAddress, LookupRecord], rewritten: list[VirtualSubnet]
) -> bool:
    """Whether a VM is, as its static record says, or else its subnet."""
    if ca in records:
        return records[ca].translation is Translation.REWRITE
    return any(ca.ip in prefix for subnet in rewritten for prefix in subnet.prefixes)


def _pooled(*nodes: Node) -> set[int]:
    return {pool.version for node in nodes for pool in node.pools}
