"""Makes the model out of the tables of an appliance.toml in which nothing is wrong."""

from __future__ import annotations

from typing import TypeVar

from policies.config.tables import (
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
    """The appliance of a file that every check has passed."""
    appliance, underlay, lookup = _certain(file.appliance), file.underlay, file.lookup
    gateways = file.gateway_addresses.items()
    return Appliance(
        name=_certain(appliance.name),
        state=appliance.state,
        engine=appliance.engine,
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
        subnets=tuple(_subnet(subnet) for subnet in table.subnets),
        records=tuple(_record(record, table, file) for record in table.records),
        routes=tuple(_route(route, table) for route in table.routes),
        sites=tuple(_site(site) for site in table.sites),
        access=tuple(_access_rule(rule) for rule in table.access),
        limits=_limits(table.limits) if table.limits else None,
        rdid=table.rdid,
    )


def _subnet(table: SubnetTable) -> VirtualSubnet:
    return VirtualSubnet(
        _certain(table.name),
        _certain(table.vsid),
        table.prefixes,
        table.gateway_addresses,
        table.translation,
        table.broadcast,
    )


def _record(table: RecordTable, tenant: TenantTable, file: File) -> LookupRecord:
    ca, mac, host = _certain(table.ca), _certain(table.mac), _certain(table.host)
    subnet, addresses = _certain(tenant.subnet_with(ca)), file.host_names[host].provider_addresses
    families = {pa.version for pa in file.underlay.provider_addresses} if file.underlay else set()
    reachable = [pa for pa in addresses if pa.version in families]
    pa = table.pa or (reachable or addresses)[0]
    return LookupRecord(_certain(subnet.vsid), ca, mac, pa, host, subnet.translation)


def _route(table: RouteTable, tenant: TenantTable) -> CustomerRoute:
    via = _certain(table.via)
    next_hop = SubnetHop(via, _certain(tenant.subnet_names[via].vsid)) if isinstance(via, str) else via
    return CustomerRoute(_certain(table.prefix), next_hop)


def _site(table: SiteTable) -> Site:
    ike = _certain(table.ike)
    peer = _certain(table.peer)
    return Site(
        name=_certain(table.name),
        gateway=_certain(table.gateway),
        prefixes=table.prefixes,
        peer=None if isinstance(peer, str) else peer,
        ike=IkeIdentity(_certain(ike.local_id), _certain(ike.remote_id), ike.psk_file),
    )


def _access_rule(table: AccessTable) -> AccessRule:
    name, action = _certain(table.name), _certain(table.action)
    return AccessRule(name, action, table.source, table.destination, table.protocol, table.ports)


def _limits(table: LimitsTable) -> Limits:
    rate = _certain(table.rate)
    default = max(SMALLEST_DEFAULT_BURST, rate * DEFAULT_BURST_MILLISECONDS // 8000)
    return Limits(rate, table.burst or default)


def _host_role(table: HostTable, file: File) -> HostRole:
    ports = tuple(_port(port, file) for port in table.ports)
    return HostRole(_certain(table.name), ports, table.driver, table.lookup, table.token_file)


def _port(table: PortTable, file: File) -> Port:
    tenant = _certain(table.tenant)
    subnet = file.tenant_names[tenant].subnet_names[_certain(table.subnet)]
    return Port(
        _certain(table.interface), tenant, _certain(subnet.vsid), _certain(table.mac), table.addresses
    )


def _certain(value: T | None) -> T:
    """A value that the reader or a check would have noted as missing.

    Going on without it could leave out an access rule, so a check that is missing is a bug to be seen.
    """
    if value is None:
        raise RuntimeError("a configuration is incomplete, and no check has said so")
    return value
