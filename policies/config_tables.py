"""The tables of appliance.toml: what each may hold, and how it is read.

A value that is missing or wrong is None here, or absent from its tuple, and its
key is in `unsound`; everything else can still be checked against the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from policies import config_values as values
from policies.addresses import CustomerAddress, MacAddress, Prefix, ProviderAddress, Vsid
from policies.config_reader import Notes, Reader
from policies.model import Action, Engine, FlowIdMode, PortRange, Translation

DEFAULT_STATE = "/var/lib/isthmus"


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """One table, where it stands, and which of its keys are missing or wrong."""

    path: str
    unsound: frozenset[str] = frozenset()


class SubnetTable(Table, frozen=True):
    name: str | None
    vsid: Vsid | None
    prefixes: tuple[Prefix, ...]
    gateway: tuple[CustomerAddress, ...]
    translation: Translation
    broadcast: bool

    @property
    def gateway_addresses(self) -> tuple[CustomerAddress, ...]:
        """Those named, and for a family without one the first usable address of its first prefix.

        In IPv6 that is ::1, because ::0 is the anycast address of all routers (RFC 4291 section 2.6.1).
        """
        chosen = {address.version: address for address in reversed(self.gateway)}
        for prefix in self.prefixes:
            chosen.setdefault(prefix.version, CustomerAddress((prefix.network_address + 1).packed))
        return tuple(chosen[version] for version in sorted(chosen))

    def contains(self, address: CustomerAddress) -> bool:
        return any(address.ip in prefix for prefix in self.prefixes)


class RecordTable(Table, frozen=True):
    ca: CustomerAddress | None
    mac: MacAddress | None
    host: str | None
    pa: ProviderAddress | None


class IkeTable(Table, frozen=True):
    local_id: str | None
    remote_id: str | None
    psk_file: Path | None


class SiteTable(Table, frozen=True):
    name: str | None
    gateway: str | None
    prefixes: tuple[Prefix, ...]
    peer: ProviderAddress | str | None
    ike: IkeTable | None


class RouteTable(Table, frozen=True):
    prefix: Prefix | None
    via: tuple[str, str | CustomerAddress] | None


class AccessTable(Table, frozen=True):
    name: str | None
    action: Action | None
    source: tuple[str, str | Prefix]
    destination: tuple[str, str | Prefix]
    protocol: int | None
    ports: tuple[PortRange, ...]


class LimitsTable(Table, frozen=True):
    rate: int | None
    burst: int | None


class TenantTable(Table, frozen=True):
    name: str | None
    gateways: tuple[str, ...]
    rdid: str | None
    subnets: tuple[SubnetTable, ...]
    records: tuple[RecordTable, ...]
    sites: tuple[SiteTable, ...]
    routes: tuple[RouteTable, ...]
    access: tuple[AccessTable, ...]
    limits: LimitsTable | None


class ProviderHostTable(Table, frozen=True):
    name: str | None
    provider_addresses: tuple[ProviderAddress, ...]
    tenants: tuple[str, ...]
    flow_id: FlowIdMode


class ProviderGatewayTable(Table, frozen=True):
    name: str | None
    provider_addresses: tuple[ProviderAddress, ...]


class ApplianceTable(Table, frozen=True):
    name: str | None
    state: Path
    engine: Engine


class UnderlayTable(Table, frozen=True):
    provider_addresses: tuple[ProviderAddress, ...]
    interfaces: tuple[str, ...]
    mtu: int | None


class LookupTable(Table, frozen=True):
    listen: str
    store: str


class PortTable(Table, frozen=True):
    interface: str | None
    tenant: str | None
    subnet: str | None
    mac: MacAddress | None
    addresses: tuple[CustomerAddress, ...]


class HostTable(Table, frozen=True):
    name: str | None
    lookup: tuple[str, ...]
    token_file: Path | None
    driver: str
    ports: tuple[PortTable, ...]


class File(Table, frozen=True):
    """The whole file. `sections` are the names at its top level, whether sound or not."""

    sections: frozenset[str]
    appliance: ApplianceTable | None
    underlay: UnderlayTable | None
    gateway: bool
    lookup: LookupTable | None
    host: HostTable | None
    hosts: tuple[ProviderHostTable, ...]
    gateways: tuple[ProviderGatewayTable, ...]
    tenants: tuple[TenantTable, ...]


def own_gateway(file: File) -> tuple[str, tuple[ProviderAddress, ...]] | None:
    """The gateway that this appliance is: its name, and the underlay's addresses."""
    if not file.gateway or file.underlay is None or file.appliance is None or file.appliance.name is None:
        return None
    return file.appliance.name, file.underlay.provider_addresses


def gateway_names(file: File) -> list[str]:
    """All gateways that a tenant may name, this appliance included."""
    own = [file.appliance.name] if file.gateway and file.appliance else []
    return [name for name in dict.fromkeys([*own, *(gateway.name for gateway in file.gateways)]) if name]


def subnet_named(tenant: TenantTable, name: str | None) -> SubnetTable | None:
    return next((subnet for subnet in tenant.subnets if name is not None and subnet.name == name), None)


def subnet_with(tenant: TenantTable, address: CustomerAddress) -> SubnetTable | None:
    """The subnet of a tenant that an address is in."""
    return next((subnet for subnet in tenant.subnets if subnet.contains(address)), None)


def read_file(tree: Mapping[str, object], base: Path, notes: Notes) -> File:
    """Read every table of a parsed file; relative paths start at `base`."""
    keys = Reader(tree, "", notes)
    if not keys.has("appliance"):
        keys.note("appliance", 'is missing; write [appliance] with a name, such as name = "edge-1"')
    appliance, underlay, gateway = keys.table("appliance"), keys.table("underlay"), keys.table("gateway")
    lookup, host = keys.table("lookup"), keys.table("host")
    if gateway is not None:
        gateway.close()
    file = File(
        path="",
        sections=frozenset(tree),
        appliance=None if appliance is None else _appliance(appliance, base),
        underlay=None if underlay is None else _underlay(underlay),
        gateway=keys.has("gateway"),
        lookup=None if lookup is None else _lookup(lookup),
        host=None if host is None else _host(host, base),
        hosts=tuple(_provider_host(table) for table in keys.tables("provider_host")),
        gateways=tuple(_provider_gateway(table) for table in keys.tables("provider_gateway")),
        tenants=tuple(_tenant(table, base) for table in keys.tables("tenant")),
        unsound=keys.unsound(),
    )
    keys.close()
    return file


def _appliance(keys: Reader, base: Path) -> ApplianceTable:
    table = ApplianceTable(
        path=keys.path,
        name=keys.required("name", values.name),
        state=keys.optional("state", values.path_from(base), Path(DEFAULT_STATE)),
        engine=Engine(keys.optional("engine", values.one_of(Engine, not_yet=("xdp",)), Engine.AUTO)),
        unsound=keys.unsound(),
    )
    keys.close()
    return table


def _underlay(keys: Reader) -> UnderlayTable:
    table = UnderlayTable(
        path=keys.path,
        provider_addresses=keys.required_list("provider_addresses", values.provider_address),
        interfaces=keys.optional_list("interfaces", values.interface),
        mtu=keys.optional("mtu", values.mtu, None),
        unsound=keys.unsound(),
    )
    keys.close()
    return table


def _lookup(keys: Reader) -> LookupTable:
    for later in ("tls", "token", "etcd"):
        keys.not_yet(later)
    table = LookupTable(
        path=keys.path,
        listen=keys.optional("listen", values.listen, "127.0.0.1:7637"),
        store=keys.optional("store", values.one_of(("sqlite", "etcd"), not_yet=("etcd",)), "sqlite"),
        unsound=keys.unsound(),
    )
    keys.close()
    return table


def _host(keys: Reader, base: Path) -> HostTable:
    drivers = ("builtin", "openvswitch")
    table = HostTable(
        path=keys.path,
        name=keys.required("name", values.name),
        lookup=keys.optional_list("lookup", values.url),
        token_file=keys.optional("token_file", values.path_from(base), None),
        driver=keys.optional("driver", values.one_of(drivers, not_yet=("openvswitch",)), "builtin"),
        ports=tuple(_port(port) for port in keys.tables("port", named_by="interface")),
        unsound=keys.unsound(),
    )
    keys.close()
    return table


def _port(keys: Reader) -> PortTable:
    table = PortTable(
        path=keys.path,
        interface=keys.required("interface", values.interface),
        tenant=keys.required("tenant", values.name),
        subnet=keys.required("subnet", values.name),
        mac=keys.required("mac", values.vm_mac),
        addresses=keys.required_list("addresses", values.customer_address),
        unsound=keys.unsound(),
    )
    keys.close()
    return table


def _provider_host(keys: Reader) -> ProviderHostTable:
    table = ProviderHostTable(
        path=keys.path,
        name=keys.required("name", values.name),
        provider_addresses=keys.required_list("provider_addresses", values.provider_address),
        tenants=keys.optional_list("tenants", values.name),
        flow_id=FlowIdMode(keys.optional("flow_id", values.one_of(FlowIdMode), FlowIdMode.HASH)),
        unsound=keys.unsound(),
    )
    keys.close()
    return table


def _provider_gateway(keys: Reader) -> ProviderGatewayTable:
    table = ProviderGatewayTable(
        path=keys.path,
        name=keys.required("name", values.name),
        provider_addresses=keys.required_list("provider_addresses", values.provider_address),
        unsound=keys.unsound(),
    )
    keys.close()
    return table


def _tenant(keys: Reader, base: Path) -> TenantTable:
    limits = keys.table("limits")
    table = TenantTable(
        path=keys.path,
        name=keys.required("name", values.name),
        gateways=keys.optional_list("gateways", values.name),
        rdid=keys.optional("rdid", values.guid, None),
        subnets=tuple(_subnet(subnet) for subnet in keys.tables("subnet")),
        records=tuple(_record(record) for record in keys.tables("record", named_by="ca")),
        sites=tuple(_site(site, base) for site in keys.tables("site")),
        routes=tuple(_route(route) for route in keys.tables("route", named_by="prefix")),
        access=tuple(_access(rule) for rule in keys.tables("access")),
        limits=None if limits is None else _limits(limits),
        unsound=keys.unsound(),
    )
    keys.close()
    return table


def _subnet(keys: Reader) -> SubnetTable:
    translations = values.one_of(Translation, not_yet=("rewrite",))
    table = SubnetTable(
        path=keys.path,
        name=keys.required("name", values.name),
        vsid=keys.required("vsid", values.vsid),
        prefixes=keys.required_list("prefixes", values.subnet_prefix),
        gateway=keys.optional_list("gateway", values.customer_address),
        translation=Translation(keys.optional("translation", translations, Translation.ENCAP)),
        broadcast=keys.optional("broadcast", values.boolean, False),
        unsound=keys.unsound(),
    )
    keys.close()
    return table


def _record(keys: Reader) -> RecordTable:
    table = RecordTable(
        path=keys.path,
        ca=keys.required("ca", values.customer_address),
        mac=keys.required("mac", values.vm_mac),
        host=keys.required("host", values.name),
        pa=keys.optional("pa", values.provider_address, None),
        unsound=keys.unsound(),
    )
    keys.close()
    return table


def _site(keys: Reader, base: Path) -> SiteTable:
    ike = keys.table("ike")
    if not keys.has("ike"):
        keys.note("ike", "is missing; write ike = { local_id = ..., remote_id = ..., psk_file = ... }")
    table = SiteTable(
        path=keys.path,
        name=keys.required("name", values.name),
        gateway=keys.required("gateway", values.name),
        prefixes=keys.optional_list("prefixes", values.prefix),
        peer=keys.required("peer", values.peer),
        ike=None if ike is None else _ike(ike, base),
        unsound=keys.unsound(),
    )
    keys.close()
    return table


def _ike(keys: Reader, base: Path) -> IkeTable:
    table = IkeTable(
        path=keys.path,
        local_id=keys.required("local_id", values.identity),
        remote_id=keys.required("remote_id", values.identity),
        psk_file=keys.optional("psk_file", values.path_from(base), None),
        unsound=keys.unsound(),
    )
    keys.close()
    return table


def _route(keys: Reader) -> RouteTable:
    table = RouteTable(
        path=keys.path,
        prefix=keys.required("prefix", values.prefix),
        via=keys.required("via", values.next_hop),
        unsound=keys.unsound(),
    )
    keys.close()
    return table


def _access(keys: Reader) -> AccessTable:
    anywhere: tuple[str, str | Prefix] = ("any", "")
    action = keys.required("action", values.one_of(Action))
    table = AccessTable(
        path=keys.path,
        name=keys.required("name", values.title),
        action=None if action is None else Action(action),
        source=keys.optional("from", values.endpoint, anywhere),
        destination=keys.optional("to", values.endpoint, anywhere),
        protocol=keys.optional("protocol", values.protocol, None),
        ports=keys.optional_list("ports", values.ports),
        unsound=keys.unsound(),
    )
    keys.close()
    return table


def _limits(keys: Reader) -> LimitsTable:
    table = LimitsTable(
        path=keys.path,
        rate=keys.required("rate", values.rate),
        burst=keys.optional("burst", values.burst, None),
        unsound=keys.unsound(),
    )
    keys.close()
    return table
