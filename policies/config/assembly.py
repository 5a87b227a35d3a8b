"""Makes the model out of the tables of appliance.toml.

An entry that lacks something it cannot be without is left out: the reader or a
check has noted that already, and what remains can still be looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from policies.config.tables import (
    DEFAULT_STATE,
    AccessTable,
    File,
    HostTable,
    LimitsTable,
    PortTable,
    RecordTable,
    RouteTable,
    SiteTable,
    SubnetTable,
    TenantTable,
)
from policies.model import (
    AccessRule,
    Appliance,
    CustomerRoute,
    Engine,
    HostRole,
    IkeIdentity,
    Limits,
    LookupRecord,
    LookupSettings,
    Network,
    Port,
    ProviderGateway,
    ProviderHost,
    Site,
    SubnetHop,
    Tenant,
    Underlay,
    VirtualSubnet,
)

T = TypeVar("T")

# How long a tenant may send above its rate before the rate applies, when no burst is given.
DEFAULT_BURST_MILLISECONDS = 100
SMALLEST_DEFAULT_BURST = 64 * 1024


def appliance_model(file: File) -> Appliance:
    """The appliance as far as its file is sound."""
    appliance, underlay, lookup = file.appliance, file.underlay, file.lookup
    gateways = file.gateway_addresses.items()
    return Appliance(
        name=appliance.name or "" if appliance else "",
        state=appliance.state if appliance else DEFAULT_STATE,
        engine=appliance.engine if appliance else Engine.AUTO,
        underlay=Underlay(underlay.provider_addresses, underlay.interfaces, underlay.mtu)
        if underlay
        else None,
        gateway="gateway" in file.sections,
        lookup=LookupSettings(lookup.listen, lookup.store) if lookup else None,
        host=_host_role(file.host, file) if file.host else None,
        network=Network(
            hosts=tuple(
                ProviderHost(name, host.provider_addresses, host.tenants, host.flow_id)
                for name, host in file.host_names.items()
            ),
            gateways=tuple(ProviderGateway(name, addresses) for name, addresses in gateways),
            tenants=tuple(_tenant(name, tenant, file) for name, tenant in file.tenant_names.items()),
        ),
    )


def _tenant(name: str, table: TenantTable, file: File) -> Tenant:
    return Tenant(
        name=name,
        gateways=table.gateways,
        subnets=_present(_subnet(subnet) for subnet in table.subnets),
        records=_present(_record(record, table, file) for record in table.records),
        routes=_present(_route(route, table) for route in table.routes),
        sites=_present(_site(site) for site in table.sites),
        access=_present(_access_rule(rule) for rule in table.access),
        limits=_limits(table.limits) if table.limits else None,
        rdid=table.rdid,
    )


def _subnet(table: SubnetTable) -> VirtualSubnet | None:
    if table.name is None or table.vsid is None:
        return None
    return VirtualSubnet(
        table.name, table.vsid, table.prefixes, table.gateway_addresses, table.translation, table.broadcast
    )


def _record(table: RecordTable, tenant: TenantTable, file: File) -> LookupRecord | None:
    if table.ca is None or table.mac is None or table.host is None:
        return None
    subnet, host = tenant.subnet_with(table.ca), file.host_names.get(table.host)
    if subnet is None or subnet.vsid is None or host is None or not host.provider_addresses:
        return None
    families = {pa.version for pa in file.underlay.provider_addresses} if file.underlay else set()
    reachable = [pa for pa in host.provider_addresses if pa.version in families]
    pa = table.pa or (reachable or host.provider_addresses)[0]
    return LookupRecord(subnet.vsid, table.ca, table.mac, pa, table.host, subnet.translation)


def _route(table: RouteTable, tenant: TenantTable) -> CustomerRoute | None:
    if table.prefix is None or table.via is None:
        return None
    if not isinstance(table.via, str):
        return CustomerRoute(table.prefix, table.via)
    subnet = tenant.subnet_names.get(table.via)
    if subnet is None or subnet.vsid is None:
        return None
    return CustomerRoute(table.prefix, SubnetHop(table.via, subnet.vsid))


def _site(table: SiteTable) -> Site | None:
    ike = table.ike
    if table.name is None or table.gateway is None or table.peer is None or ike is None:
        return None
    if ike.local_id is None or ike.remote_id is None:
        return None
    return Site(
        name=table.name,
        gateway=table.gateway,
        prefixes=table.prefixes,
        peer=None if isinstance(table.peer, str) else table.peer,
        ike=IkeIdentity(ike.local_id, ike.remote_id, ike.psk_file),
    )


def _access_rule(table: AccessTable) -> AccessRule | None:
    if table.name is None or table.action is None:
        return None
    return AccessRule(table.name, table.action, table.source, table.destination, table.protocol, table.ports)


def _limits(table: LimitsTable) -> Limits | None:
    if table.rate is None:
        return None
    default = max(SMALLEST_DEFAULT_BURST, table.rate * DEFAULT_BURST_MILLISECONDS // 8000)
    return Limits(table.rate, table.burst or default)


def _host_role(table: HostTable, file: File) -> HostRole | None:
    if table.name is None:
        return None
    ports = _present(_port(port, file) for port in table.ports)
    return HostRole(table.name, ports, table.driver, table.lookup, table.token_file)


def _port(table: PortTable, file: File) -> Port | None:
    if table.interface is None or table.tenant is None or table.subnet is None or table.mac is None:
        return None
    tenant = file.tenant_names.get(table.tenant)
    subnet = tenant.subnet_names.get(table.subnet) if tenant else None
    if subnet is None or subnet.vsid is None:
        return None
    return Port(table.interface, table.tenant, subnet.vsid, table.mac, table.addresses)


def _present(items: Iterable[T | None]) -> tuple[T, ...]:
    return tuple(item for item in items if item is not None)
