"""The network's configuration in the store: taken apart, put together, and changed step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from gateway.lookup.entries import Key, Kind, NamedKey, Placement, RecordKey, Value
from policies.addresses import Vsid
from policies.model import (
    CustomerRoute,
    Network,
    ProviderGateway,
    ProviderHost,
    SiteHop,
    SubnetHop,
    Tenant,
)

Named = TypeVar("Named", ProviderHost, ProviderGateway, Tenant)


def entries_of(network: Network) -> dict[Key, Value]:
    """Return what the store holds of a network: hosts, gateways, tenants, and static records, pinned."""
    entries: dict[Key, Value] = {}
    for host in network.hosts:
        entries[NamedKey(Kind.HOST, host.name)] = host
    for gateway in network.gateways:
        entries[NamedKey(Kind.GATEWAY, gateway.name)] = gateway
    for tenant in network.tenants:
        entries[NamedKey(Kind.TENANT, tenant.name)] = msgspec.structs.replace(tenant, records=())
        for record in tenant.records:
            entries[RecordKey(record.vsid, record.ca)] = Placement(
                record.mac, record.pa, record.host, record.translation, pinned=True
            )
    return entries


def assemble(values: Iterable[Value]) -> Network:
    """Put a network together from any part of its entries, in the order of names, without static records.

    Whatever refers to something that is not there is left out, so that a network of which
    a part is written still compiles.
    """
    found = list(values)
    tenants = _by_name(found, Tenant)
    gateways = _by_name(found, ProviderGateway)
    claimed = Counter(subnet.vsid for tenant in tenants for subnet in tenant.subnets)
    # While a virtual subnet goes from one tenant to another it is nobody's: packets of the
    # one would reach the other's VMs.
    clear = {vsid for vsid, count in claimed.items() if count == 1}
    tenant_names = {tenant.name for tenant in tenants}
    gateway_names = {gateway.name for gateway in gateways}
    return Network(
        hosts=tuple(
            msgspec.structs.replace(
                host, tenants=tuple(name for name in host.tenants if name in tenant_names)
            )
            for host in _by_name(found, ProviderHost)
        ),
        gateways=gateways,
        tenants=tuple(_sound(tenant, gateway_names, clear) for tenant in tenants),
    )


def _by_name(values: Iterable[Value], kind: type[Named]) -> tuple[Named, ...]:
    return tuple(sorted((value for value in values if isinstance(value, kind)), key=lambda value: value.name))


def _sound(tenant: Tenant, gateways: set[str], vsids: set[Vsid]) -> Tenant:
    """Leave out of a tenant what refers to nothing.

    Access rules stay, whatever they name: one that names nothing matches nothing, and
    a tenant without any rule would be open.
    """
    subnets = tuple(subnet for subnet in tenant.subnets if subnet.vsid in vsids)
    return msgspec.structs.replace(
        tenant,
        gateways=tuple(name for name in tenant.gateways if name in gateways),
        subnets=subnets,
        records=(),
        routes=tuple(
            route
            for route in tenant.routes
            if _leads_somewhere(route, {subnet.vsid for subnet in subnets}, {s.name for s in tenant.sites})
        ),
    )


def _leads_somewhere(route: CustomerRoute, vsids: set[Vsid], sites: set[str]) -> bool:
    match route.next_hop:
        case SubnetHop(vsid=vsid):
            return vsid in vsids
        case SiteHop(site=site):
            return site in sites
        case _:
            return True
