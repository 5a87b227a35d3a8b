"""The tables of appliance.toml that describe this node, and the file as a whole."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from policies.addresses import CustomerAddress, MacAddress, Prefix, ProviderAddress
from policies.config import values
from policies.config.lookup_tables import Asking, LookupTable
from policies.config.network_tables import ProviderGatewayTable, ProviderHostTable, RecordTable, TenantTable
from policies.config.reader import Reader
from policies.config.service_tables import ApiTable
from policies.config.tables import Table, by_name
from policies.model import (
    DEFAULT_BRIDGE,
    DEFAULT_RUN_DIRECTORY,
    Appliance,
    Engine,
    FastPathMode,
    FastPathSettings,
    HostPort,
    HostRole,
    LogFormat,
    Network,
    OpenVswitch,
    ProviderGateway,
    RecordsKept,
    Underlay,
)
from policies.services import LookupAccess

DEFAULT_STATE = Path("/var/lib/isthmus")


class ApplianceTable(Table, frozen=True):
    """The `[appliance]`."""

    name: str | None
    state: Path
    engine: Engine
    log: LogFormat
    user: str | None

    @classmethod
    def read(cls, keys: Reader) -> ApplianceTable:
        return cls(
            path=keys.path,
            name=keys.required("name", values.name),
            state=keys.optional("state", values.path_from(keys.base), DEFAULT_STATE),
            engine=keys.optional("engine", values.member(Engine), Engine.AUTO),
            log=keys.optional("log", values.member(LogFormat), LogFormat.CONSOLE),
            user=keys.optional("user", values.user, None),
            unsound=keys.finish(),
        )


class UnderlayTable(Table, frozen=True):
    """The `[underlay]`."""

    provider_addresses: tuple[ProviderAddress, ...]
    interfaces: tuple[str, ...]
    mtu: int | None

    @classmethod
    def read(cls, keys: Reader) -> UnderlayTable:
        return cls(
            path=keys.path,
            provider_addresses=keys.required_list("provider_addresses", values.provider_address),
            interfaces=keys.optional_list("interfaces", values.interface),
            mtu=keys.optional("mtu", values.mtu, None),
            unsound=keys.finish(),
        )

    def model(self) -> Underlay:
        return Underlay(self.provider_addresses, self.interfaces, self.mtu)


class FastPathTable(Table, frozen=True):
    """The `[fastpath]`."""

    pinned: bool
    mode: FastPathMode

    @classmethod
    def read(cls, keys: Reader) -> FastPathTable:
        return cls(
            path=keys.path,
            pinned=keys.optional("pinned", values.boolean, default=False),
            mode=keys.optional("mode", values.member(FastPathMode), FastPathMode.AUTO),
            unsound=keys.finish(),
        )

    def model(self) -> FastPathSettings:
        return FastPathSettings(self.pinned, self.mode)


class GatewayTable(Table, frozen=True):
    """The `[gateway]`."""

    site_addresses: tuple[ProviderAddress, ...]
    pools: tuple[Prefix, ...]
    asking: Asking

    @classmethod
    def read(cls, keys: Reader) -> GatewayTable:
        return cls(
            path=keys.path,
            asking=Asking.read(keys),
            site_addresses=keys.optional_list("site_addresses", values.provider_address),
            pools=keys.optional_list("pools", values.pool),
            unsound=keys.finish(),
        )


class PortTable(Table, frozen=True):
    """One `[[host.port]]`."""

    interface: str | None
    tenant: str | None
    subnet: str | None
    mac: MacAddress | None
    addresses: tuple[CustomerAddress, ...]

    @classmethod
    def read(cls, keys: Reader) -> PortTable:
        return cls(
            path=keys.path,
            interface=keys.required("interface", values.interface),
            tenant=keys.required("tenant", values.name),
            subnet=keys.required("subnet", values.name),
            mac=keys.required("mac", values.vm_mac),
            addresses=keys.required_list("addresses", values.customer_address),
            unsound=keys.finish(),
        )

    def model(self) -> HostPort:
        return HostPort(
            interface=self.interface or self.incomplete(),
            tenant=self.tenant or self.incomplete(),
            subnet=self.subnet or self.incomplete(),
            mac=self.mac or self.incomplete(),
            addresses=self.addresses,
        )


class OpenVswitchTable(Table, frozen=True):
    """The `[host.openvswitch]`."""

    bridge: str
    run_directory: Path

    @classmethod
    def read(cls, keys: Reader) -> OpenVswitchTable:
        directory = values.path_from(keys.base)
        return cls(
            path=keys.path,
            bridge=keys.optional("bridge", values.interface, DEFAULT_BRIDGE),
            run_directory=keys.optional("run_directory", directory, DEFAULT_RUN_DIRECTORY),
            unsound=keys.finish(),
        )

    def model(self) -> OpenVswitch:
        return OpenVswitch(self.bridge, self.run_directory)


class HostTable(Table, frozen=True):
    """The `[host]`."""

    name: str | None
    asking: Asking
    records: RecordsKept
    driver: str
    openvswitch: OpenVswitchTable | None
    ports: tuple[PortTable, ...]

    @classmethod
    def read(cls, keys: Reader) -> HostTable:
        return cls(
            path=keys.path,
            name=keys.required("name", values.name),
            asking=Asking.read(keys),
            records=keys.optional("records", values.member(RecordsKept), RecordsKept.ALL),
            driver=keys.optional("driver", values.word("builtin", "openvswitch"), "builtin"),
            openvswitch=keys.table("openvswitch", OpenVswitchTable.read),
            ports=keys.tables("port", PortTable.read, named_by="interface"),
            unsound=keys.finish(),
        )

    def model(self) -> HostRole:
        return HostRole(
            name=self.name or self.incomplete(),
            ports=tuple(port.model() for port in self.ports),
            driver=self.driver,
            records=self.records,
            openvswitch=self.openvswitch.model() if self.openvswitch else OpenVswitch(),
        )


class File(Table, frozen=True, dict=True):
    """The whole file. `sections` are the names at its top level, whether sound or not."""

    sections: frozenset[str]
    appliance: ApplianceTable | None
    underlay: UnderlayTable | None
    fastpath: FastPathTable | None
    gateway: GatewayTable | None
    lookup: LookupTable | None
    api: ApiTable | None
    host: HostTable | None
    hosts: tuple[ProviderHostTable, ...]
    gateways: tuple[ProviderGatewayTable, ...]
    tenants: tuple[TenantTable, ...]

    @classmethod
    def read(cls, keys: Reader) -> File:
        if not keys.has("appliance"):
            keys.note(
                "appliance", 'is missing; write [appliance] and under it a name, such as name = "edge-1"'
            )
        return cls(
            path=keys.path,
            sections=keys.names,
            appliance=keys.table("appliance", ApplianceTable.read),
            underlay=keys.table("underlay", UnderlayTable.read),
            fastpath=keys.table("fastpath", FastPathTable.read),
            gateway=keys.table("gateway", GatewayTable.read),
            lookup=keys.table("lookup", LookupTable.read),
            api=keys.table("api", ApiTable.read),
            host=keys.table("host", HostTable.read),
            hosts=keys.tables("provider_host", ProviderHostTable.read),
            gateways=keys.tables("provider_gateway", ProviderGatewayTable.read),
            tenants=keys.tables("tenant", TenantTable.read),
            unsound=keys.finish(),
        )

    def model(self) -> Appliance:
        """The appliance and its network. Every check has to have passed before."""
        appliance = self.appliance or self.incomplete()
        families = {pa.version for pa in self.underlay.provider_addresses} if self.underlay else set()
        return Appliance(
            name=appliance.name or appliance.incomplete(),
            state=appliance.state,
            engine=appliance.engine,
            underlay=self.underlay.model() if self.underlay else None,
            gateway="gateway" in self.sections,
            lookup=self.lookup.model() if self.lookup else None,
            host=self.host.model() if self.host else None,
            network=Network(
                hosts=tuple(host.model() for host in self.hosts),
                gateways=tuple(
                    ProviderGateway(name, addresses, self.gateway_pools[name])
                    for name, addresses in self.gateway_addresses.items()
                ),
                tenants=tuple(tenant.model(self.host_names, families) for tenant in self.tenants),
            ),
            site_addresses=self.site_addresses,
            lookup_access=self.lookup_access,
            api=self.api.model() if self.api else None,
            log=appliance.log,
            user=appliance.user,
            fastpath=self.fastpath.model() if self.fastpath else FastPathSettings(),
        )

    @property
    def lookup_access(self) -> LookupAccess | None:
        """How the lookup service is reached, if it is."""
        return next((asking.model() for _, asking in self.asking), None)

    @property
    def asking(self) -> tuple[tuple[str, Asking], ...]:
        """The roles that ask lookup services: their paths, and what they say of it."""
        roles = (role for role in (self.gateway, self.host) if role is not None)
        return tuple((role.path, role.asking) for role in roles if role.asking.is_given)

    @property
    def network_sections(self) -> tuple[str, ...]:
        """The tables of the network that the file has."""
        return tuple(
            name for name in ("provider_host", "provider_gateway", "tenant") if name in self.sections
        )

    @property
    def is_network_elsewhere(self) -> bool:
        """Whether the network is not in this file, but with the lookup services or in the store."""
        return bool(self.asking) or ("lookup" in self.sections and not self.network_sections)

    @cached_property
    def host_names(self) -> dict[str, ProviderHostTable]:
        return by_name(self.hosts)

    @cached_property
    def tenant_names(self) -> dict[str, TenantTable]:
        return by_name(self.tenants)

    @cached_property
    def gateway_names(self) -> dict[str, ProviderGatewayTable]:
        return by_name(self.gateways)

    @cached_property
    def gateway_addresses(self) -> dict[str, tuple[ProviderAddress, ...]]:
        """All gateways that a tenant may name: this appliance, if it is one, and the others."""
        found: dict[str, tuple[ProviderAddress, ...]] = {}
        if self.own_gateway is not None:
            found[self.own_gateway] = self.underlay.provider_addresses if self.underlay else ()
        for name, gateway in self.gateway_names.items():
            found.setdefault(name, gateway.provider_addresses)
        return found

    @cached_property
    def gateway_pools(self) -> dict[str, tuple[Prefix, ...]]:
        """What each of these gateways leases from."""
        found = {name: gateway.pools for name, gateway in self.gateway_names.items()}
        if self.own_gateway is not None:
            found[self.own_gateway] = self.gateway.pools if self.gateway else ()
        return found

    @cached_property
    def static_records(self) -> dict[tuple[str, CustomerAddress], RecordTable]:
        """By the tenant's name and the address."""
        return {
            (name, record.ca): record
            for name, tenant in self.tenant_names.items()
            for record in tenant.records
            if record.ca is not None
        }

    @property
    def site_addresses(self) -> tuple[ProviderAddress, ...]:
        """Where sites' peers call this gateway."""
        if self.gateway is None:
            return ()
        return self.gateway.site_addresses or (self.underlay.provider_addresses if self.underlay else ())

    @property
    def own_gateway(self) -> str | None:
        """The name of the gateway that this appliance is."""
        return self.appliance.name if self.appliance and "gateway" in self.sections else None

    @property
    def own_host(self) -> ProviderHostTable | None:
        """The network's entry for the host that this appliance is."""
        return self.host_names.get(self.host.name) if self.host and self.host.name else None
