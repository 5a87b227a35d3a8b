"""Makes the model out of the tables of appliance.toml.

An entry that lacks something it cannot be without is left out: the reader or a
check has noted that already, and what remains can still be looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from policies.addresses import CustomerAddress, Prefix
from policies.config_tables import (
    AccessTable,
    File,
    HostTable,
    LimitsTable,
    PortTable,
    ProviderHostTable,
    RecordTable,
    RouteTable,
    SiteTable,
    SubnetTable,
    TenantTable,
    own_gateway,
    subnet_named,
    subnet_with,
)
from policies.model import (
    AccessRule,
    AddressHop,
    Appliance,
    CustomerRoute,
    Endpoint,
    Engine,
    HostRole,
    IkeIdentity,
    Limits,
    LookupRecord,
    LookupSettings,
    Network,
    NextHop,
    Port,
    ProviderGateway,
    ProviderHost,
    Site,
    SiteHop,
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
    underlay, lookup = file.underlay, file.lookup
    return Appliance(
        name=(file.appliance and file.appliance.name) or "",
        state=file.appliance.state if file.appliance else Path(),
        engine=file.appliance.engine if file.appliance else Engine.AUTO,
        underlay=Underlay(underlay.provider_addresses, underlay.interfaces, underlay.mtu)
        if underlay
        else None,
        gateway=file.gateway,
        lookup=LookupSettings(lookup.listen, lookup.store) if lookup else None,
        host=_host_role(file.host, file) if file.host else None,
        network=Network(
            hosts=_present(_provider_host(table) for table in file.hosts),
            gateways=tuple(_provider_gateways(file)),
            tenants=_present(_tenant(table, file) for table in file.tenants),
        ),
    )


def _provider_host(table: ProviderHostTable) -> ProviderHost | None:
    if table.name is None:
        return None
    return ProviderHost(table.name, table.provider_addresses, table.tenants, table.flow_id)


def _provider_gateways(file: File) -> Iterator[ProviderGateway]:
    own = own_gateway(file)
    if own is not None:
        yield ProviderGateway(*own)
    for table in file.gateways:
        if table.name is not None and (own is None or table.name != own[0]):
            yield ProviderGateway(table.name, table.provider_addresses)


def _tenant(table: TenantTable, file: File) -> Tenant | None:
    if table.name is None:
        return None
    return Tenant(
        name=table.name,
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
    subnet = subnet_with(tenant, table.ca)
    host = next((host for host in file.hosts if host.name == table.host), None)
    if subnet is None or subnet.vsid is None or host is None or not host.provider_addresses:
        return None
    families = {pa.version for pa in file.underlay.provider_addresses} if file.underlay else set()
    reachable = [pa for pa in host.provider_addresses if pa.version in families]
    pa = table.pa or (reachable or host.provider_addresses)[0]
    return LookupRecord(subnet.vsid, table.ca, table.mac, pa, table.host, subnet.translation)


def _route(table: RouteTable, tenant: TenantTable) -> CustomerRoute | None:
    if table.prefix is None or table.via is None:
        return None
    kind, what = table.via
    hop: NextHop
    if isinstance(what, CustomerAddress):
        hop = AddressHop(what)
    elif kind == "site":
        hop = SiteHop(what)
    else:
        subnet = subnet_named(tenant, what)
        if subnet is None or subnet.vsid is None:
            return None
        hop = SubnetHop(what, subnet.vsid)
    return CustomerRoute(table.prefix, hop)


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
    source, destination = _endpoint(table.source), _endpoint(table.destination)
    return AccessRule(table.name, table.action, source, destination, table.protocol, table.ports)


def _endpoint(written: tuple[str, str | Prefix]) -> Endpoint:
    match written:
        case "subnet", str(name):
            return Endpoint(subnet=name)
        case "site", str(name):
            return Endpoint(site=name)
        case _, str():
            return Endpoint()
        case _, prefix:
            return Endpoint(prefix=prefix)


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
    tenant = next((tenant for tenant in file.tenants if tenant.name == table.tenant), None)
    if tenant is None or table.interface is None or table.tenant is None or table.mac is None:
        return None
    subnet = subnet_named(tenant, table.subnet)
    if subnet is None or subnet.vsid is None:
        return None
    return Port(table.interface, table.tenant, subnet.vsid, table.mac, table.addresses)


def _present(items: Iterable[T | None]) -> tuple[T, ...]:
    return tuple(item for item in items if item is not None)
