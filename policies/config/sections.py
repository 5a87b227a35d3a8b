"""How each table of appliance.toml is read: its keys, which of them must be there, and their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from policies.config import values
from policies.config.reader import Notes, Parse, Reader
from policies.config.tables import (
    DEFAULT_STATE,
    AccessTable,
    ApplianceTable,
    File,
    HostTable,
    IkeTable,
    LimitsTable,
    LookupTable,
    PortTable,
    ProviderGatewayTable,
    ProviderHostTable,
    RecordTable,
    RouteTable,
    SiteTable,
    SubnetTable,
    TenantTable,
    UnderlayTable,
)
from policies.model import Action, Engine, FlowIdMode, Translation

DEFAULT_LISTEN = "127.0.0.1:7637"


def read_file(tree: Mapping[str, object], base: Path, notes: Notes) -> File:
    """Read every table of a parsed file; relative paths start at `base`."""
    keys = Reader(tree, "", notes)
    path = values.path_from(base)
    if not keys.has("appliance"):
        keys.note("appliance", 'is missing; write [appliance] and under it a name, such as name = "edge-1"')
    keys.table("gateway", Reader.finish)
    return File(
        path=keys.path,
        sections=frozenset(tree),
        appliance=keys.table("appliance", lambda table: _appliance(table, path)),
        underlay=keys.table("underlay", _underlay),
        lookup=keys.table("lookup", _lookup),
        host=keys.table("host", lambda table: _host(table, path)),
        hosts=keys.tables("provider_host", _provider_host),
        gateways=keys.tables("provider_gateway", _provider_gateway),
        tenants=keys.tables("tenant", lambda table: _tenant(table, path)),
        unsound=keys.finish(),
    )


def _appliance(keys: Reader, path: Parse[Path]) -> ApplianceTable:
    return ApplianceTable(
        path=keys.path,
        name=keys.required("name", values.name),
        state=keys.optional("state", path, DEFAULT_STATE),
        engine=keys.optional("engine", values.member(Engine, not_yet=Engine.XDP), Engine.AUTO),
        unsound=keys.finish(),
    )


def _underlay(keys: Reader) -> UnderlayTable:
    return UnderlayTable(
        path=keys.path,
        provider_addresses=keys.required_list("provider_addresses", values.provider_address),
        interfaces=keys.optional_list("interfaces", values.interface),
        mtu=keys.optional("mtu", values.mtu, None),
        unsound=keys.finish(),
    )


def _lookup(keys: Reader) -> LookupTable:
    for later in ("tls", "token", "etcd"):
        keys.not_yet(later)
    return LookupTable(
        path=keys.path,
        listen=keys.optional("listen", values.listen, DEFAULT_LISTEN),
        store=keys.optional("store", values.word("sqlite", not_yet=("etcd",)), "sqlite"),
        unsound=keys.finish(),
    )


def _host(keys: Reader, path: Parse[Path]) -> HostTable:
    return HostTable(
        path=keys.path,
        name=keys.required("name", values.name),
        lookup=keys.optional_list("lookup", values.url),
        token_file=keys.optional("token_file", path, None),
        driver=keys.optional("driver", values.word("builtin", not_yet=("openvswitch",)), "builtin"),
        ports=keys.tables("port", _port, named_by="interface"),
        unsound=keys.finish(),
    )


def _port(keys: Reader) -> PortTable:
    return PortTable(
        path=keys.path,
        interface=keys.required("interface", values.interface),
        tenant=keys.required("tenant", values.name),
        subnet=keys.required("subnet", values.name),
        mac=keys.required("mac", values.vm_mac),
        addresses=keys.required_list("addresses", values.customer_address),
        unsound=keys.finish(),
    )


def _provider_host(keys: Reader) -> ProviderHostTable:
    return ProviderHostTable(
        path=keys.path,
        name=keys.required("name", values.name),
        provider_addresses=keys.required_list("provider_addresses", values.provider_address),
        tenants=keys.optional_list("tenants", values.name),
        flow_id=keys.optional("flow_id", values.member(FlowIdMode), FlowIdMode.HASH),
        unsound=keys.finish(),
    )


def _provider_gateway(keys: Reader) -> ProviderGatewayTable:
    return ProviderGatewayTable(
        path=keys.path,
        name=keys.required("name", values.name),
        provider_addresses=keys.required_list("provider_addresses", values.provider_address),
        unsound=keys.finish(),
    )


def _tenant(keys: Reader, path: Parse[Path]) -> TenantTable:
    return TenantTable(
        path=keys.path,
        name=keys.required("name", values.name),
        gateways=keys.optional_list("gateways", values.name),
        rdid=keys.optional("rdid", values.guid, None),
        subnets=keys.tables("subnet", _subnet),
        records=keys.tables("record", _record, named_by="ca"),
        sites=keys.tables("site", lambda table: _site(table, path)),
        routes=keys.tables("route", _route, named_by="prefix"),
        access=keys.tables("access", _access),
        limits=keys.table("limits", _limits),
        unsound=keys.finish(),
    )


def _subnet(keys: Reader) -> SubnetTable:
    translation = values.member(Translation, not_yet=Translation.REWRITE)
    return SubnetTable(
        path=keys.path,
        name=keys.required("name", values.name),
        vsid=keys.required("vsid", values.vsid),
        prefixes=keys.required_list("prefixes", values.subnet_prefix),
        gateway=keys.optional_list("gateway", values.customer_address),
        translation=keys.optional("translation", translation, Translation.ENCAP),
        broadcast=keys.optional("broadcast", values.boolean, False),
        unsound=keys.finish(),
    )


def _record(keys: Reader) -> RecordTable:
    return RecordTable(
        path=keys.path,
        ca=keys.required("ca", values.customer_address),
        mac=keys.required("mac", values.vm_mac),
        host=keys.required("host", values.name),
        pa=keys.optional("pa", values.provider_address, None),
        unsound=keys.finish(),
    )


def _site(keys: Reader, path: Parse[Path]) -> SiteTable:
    if not keys.has("ike"):
        keys.note("ike", "is missing; write ike = { local_id = ..., remote_id = ..., psk_file = ... }")
    return SiteTable(
        path=keys.path,
        name=keys.required("name", values.name),
        gateway=keys.required("gateway", values.name),
        prefixes=keys.optional_list("prefixes", values.prefix),
        peer=keys.required("peer", values.peer),
        ike=keys.table("ike", lambda table: _ike(table, path)),
        unsound=keys.finish(),
    )


def _ike(keys: Reader, path: Parse[Path]) -> IkeTable:
    return IkeTable(
        path=keys.path,
        local_id=keys.required("local_id", values.identity),
        remote_id=keys.required("remote_id", values.identity),
        psk_file=keys.optional("psk_file", path, None),
        unsound=keys.finish(),
    )


def _route(keys: Reader) -> RouteTable:
    return RouteTable(
        path=keys.path,
        prefix=keys.required("prefix", values.prefix),
        via=keys.required("via", values.next_hop),
        unsound=keys.finish(),
    )


def _access(keys: Reader) -> AccessTable:
    return AccessTable(
        path=keys.path,
        name=keys.required("name", values.title),
        action=keys.required("action", values.member(Action)),
        source=keys.optional("from", values.endpoint, values.ANYWHERE),
        destination=keys.optional("to", values.endpoint, values.ANYWHERE),
        protocol=keys.optional("protocol", values.protocol, None),
        ports=keys.optional_list("ports", values.ports),
        unsound=keys.finish(),
    )


def _limits(keys: Reader) -> LimitsTable:
    return LimitsTable(
        path=keys.path,
        rate=keys.required("rate", values.rate),
        burst=keys.optional("burst", values.burst, None),
        unsound=keys.finish(),
    )
