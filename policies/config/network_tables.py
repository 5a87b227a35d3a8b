"""The tables of appliance.toml that describe the network: tenants, hosts and gateways."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property

from policies.addresses import CustomerAddress, MacAddress, Prefix, ProviderAddress, Vsid
from policies.config import values
from policies.config.reader import Reader
from policies.config.site_tables import SiteTable
from policies.config.tables import Table, by_name
from policies.model import (
    AccessRule,
    Action,
    CustomerRoute,
    Endpoint,
    FlowIdMode,
    Limits,
    LookupRecord,
    PortRange,
    ProviderHost,
    SiteHop,
    SubnetHop,
    Tenant,
    Translation,
    VirtualSubnet,
)

# How long a tenant may send above its rate before the rate applies, when no burst is given.
DEFAULT_BURST_MILLISECONDS = 100
SMALLEST_DEFAULT_BURST = 64 * 1024


class ProviderHostTable(Table, frozen=True, dict=True):
    """One `[[provider_host]]`."""

    name: str | None
    provider_addresses: tuple[ProviderAddress, ...]
    tenants: tuple[str, ...]
    flow_id: FlowIdMode
    pools: tuple[Prefix, ...]

    @classmethod
    def read(cls, keys: Reader) -> ProviderHostTable:
        return cls(
            path=keys.path,
            name=keys.required("name", values.name),
            provider_addresses=keys.required_list("provider_addresses", values.provider_address),
            tenants=keys.optional_list("tenants", values.name),
            flow_id=keys.optional("flow_id", values.member(FlowIdMode), FlowIdMode.HASH),
            pools=keys.optional_list("pools", values.pool),
            unsound=keys.finish(),
        )

    @cached_property
    def tenant_names(self) -> frozenset[str]:
        return frozenset(self.tenants)

    def model(self) -> ProviderHost:
        return ProviderHost(
            name=self.name or self.incomplete(),
            provider_addresses=self.provider_addresses,
            tenants=self.tenants,
            flow_id=self.flow_id,
            pools=self.pools,
        )


class ProviderGatewayTable(Table, frozen=True):
    """One `[[provider_gateway]]`."""

    name: str | None
    provider_addresses: tuple[ProviderAddress, ...]
    pools: tuple[Prefix, ...]

    @classmethod
    def read(cls, keys: Reader) -> ProviderGatewayTable:
        return cls(
            path=keys.path,
            name=keys.required("name", values.name),
            provider_addresses=keys.required_list("provider_addresses", values.provider_address),
            pools=keys.optional_list("pools", values.pool),
            unsound=keys.finish(),
        )


class SubnetTable(Table, frozen=True):
    """One `[[tenant.subnet]]`."""

    name: str | None
    vsid: Vsid | None
    prefixes: tuple[Prefix, ...]
    gateway: tuple[CustomerAddress, ...]
    translation: Translation
    broadcast: bool
    dhcp: bool
    router_advertisements: bool

    @classmethod
    def read(cls, keys: Reader) -> SubnetTable:
        return cls(
            path=keys.path,
            name=keys.required("name", values.name),
            vsid=keys.required("vsid", values.vsid),
            prefixes=keys.required_list("prefixes", values.subnet_prefix),
            gateway=keys.optional_list("gateway", values.customer_address),
            translation=keys.optional("translation", values.member(Translation), Translation.ENCAP),
            broadcast=keys.optional("broadcast", values.boolean, False),
            dhcp=keys.optional("dhcp", values.boolean, True),
            router_advertisements=keys.optional("router_advertisements", values.boolean, True),
            unsound=keys.finish(),
        )

    def model(self) -> VirtualSubnet:
        return VirtualSubnet(
            name=self.name or self.incomplete(),
            vsid=self.vsid or self.incomplete(),
            prefixes=self.prefixes,
            gateway_addresses=self.gateway_addresses,
            translation=self.translation,
            broadcast=self.broadcast,
            dhcp=self.dhcp,
            router_advertisements=self.router_advertisements,
        )

    @property
    def gateway_addresses(self) -> tuple[CustomerAddress, ...]:
        """Those named, and for a family without one the first usable address of its first prefix.

        In IPv6 that is ::1, for ::0 is the anycast address of all routers (RFC 4291 section 2.6.1).
        """
        chosen = {address.version: address for address in reversed(self.gateway)}
        for prefix in self.prefixes:
            chosen.setdefault(prefix.version, CustomerAddress((prefix.network_address + 1).packed))
        return tuple(chosen[version] for version in sorted(chosen))


class RecordTable(Table, frozen=True):
    """One `[[tenant.record]]`."""

    ca: CustomerAddress | None
    mac: MacAddress | None
    host: str | None
    pa: ProviderAddress | None
    translation: Translation | None
    """None: as its subnet has it."""

    @classmethod
    def read(cls, keys: Reader) -> RecordTable:
        return cls(
            path=keys.path,
            ca=keys.required("ca", values.customer_address),
            mac=keys.required("mac", values.vm_mac),
            host=keys.required("host", values.name),
            pa=keys.optional("pa", values.provider_address, None),
            translation=keys.optional("translation", values.member(Translation), None),
            unsound=keys.finish(),
        )

    def model(
        self, tenant: TenantTable, hosts: Mapping[str, ProviderHostTable], families: Collection[int]
    ) -> LookupRecord:
        """The record; without a `pa` it is at its host's first address of a family that the underlay has.

        One that is rewritten has a `pa` of its own.
        """
        ca = self.ca or self.incomplete()
        host = self.host or self.incomplete()
        subnet = tenant.subnet_with(ca) or self.incomplete()
        translation = self.translation or subnet.translation
        if translation is Translation.REWRITE and self.pa is None:
            self.incomplete()
        addresses = hosts[host].provider_addresses
        reachable = [pa for pa in addresses if pa.version in families]
        return LookupRecord(
            vsid=subnet.vsid or self.incomplete(),
            ca=ca,
            mac=self.mac or self.incomplete(),
            pa=self.pa or (reachable or addresses)[0],
            host=host,
            translation=translation,
        )


class RouteTable(Table, frozen=True):
    """One `[[tenant.route]]`."""

    prefix: Prefix | None
    via: values.Via | None

    @classmethod
    def read(cls, keys: Reader) -> RouteTable:
        return cls(
            path=keys.path,
            prefix=keys.required("prefix", values.prefix),
            via=keys.required("via", values.next_hop),
            unsound=keys.finish(),
        )

    def model(self, tenant: TenantTable) -> CustomerRoute:
        prefix = self.prefix or self.incomplete()
        via = self.via or self.incomplete()
        if isinstance(via, str):
            vsid = tenant.subnet_names[via].vsid or self.incomplete()
            return CustomerRoute(prefix, SubnetHop(via, vsid))
        return CustomerRoute(prefix, via)


class AccessTable(Table, frozen=True):
    """One `[[tenant.access]]`; `source` and `destination` are its `from` and `to`."""

    name: str | None
    action: Action | None
    source: Endpoint
    destination: Endpoint
    protocol: int | None
    ports: tuple[PortRange, ...]

    @classmethod
    def read(cls, keys: Reader) -> AccessTable:
        return cls(
            path=keys.path,
            name=keys.required("name", values.title),
            action=keys.required("action", values.member(Action)),
            source=keys.optional("from", values.endpoint, values.ANYWHERE),
            destination=keys.optional("to", values.endpoint, values.ANYWHERE),
            protocol=keys.optional("protocol", values.protocol, None),
            # An empty list would match no port where it is read, and every port where it is applied.
            ports=(keys.required_list if keys.has("ports") else keys.optional_list)("ports", values.ports),
            unsound=keys.finish(),
        )

    def model(self) -> AccessRule:
        return AccessRule(
            name=self.name or self.incomplete(),
            action=self.action or self.incomplete(),
            source=self.source,
            destination=self.destination,
            protocol=self.protocol,
            ports=self.ports,
        )


class LimitsTable(Table, frozen=True):
    """A `[tenant.limits]`."""

    rate: int | None
    burst: int | None

    @classmethod
    def read(cls, keys: Reader) -> LimitsTable:
        return cls(
            path=keys.path,
            rate=keys.required("rate", values.rate),
            burst=keys.optional("burst", values.burst, None),
            unsound=keys.finish(),
        )

    def model(self) -> Limits:
        rate = self.rate or self.incomplete()
        default = max(SMALLEST_DEFAULT_BURST, rate * DEFAULT_BURST_MILLISECONDS // 8000)
        return Limits(rate, self.burst or default)


class TenantTable(Table, frozen=True, dict=True):
    """One `[[tenant]]`."""

    name: str | None
    gateways: tuple[str, ...]
    rdid: str | None
    leases: int | None
    subnets: tuple[SubnetTable, ...]
    records: tuple[RecordTable, ...]
    sites: tuple[SiteTable, ...]
    routes: tuple[RouteTable, ...]
    access: tuple[AccessTable, ...]
    limits: LimitsTable | None

    @classmethod
    def read(cls, keys: Reader) -> TenantTable:
        return cls(
            path=keys.path,
            name=keys.required("name", values.name),
            gateways=keys.optional_list("gateways", values.name),
            rdid=keys.optional("rdid", values.guid, None),
            leases=keys.optional("leases", values.leases, None),
            subnets=keys.tables("subnet", SubnetTable.read),
            records=keys.tables("record", RecordTable.read, named_by="ca"),
            sites=keys.tables("site", SiteTable.read),
            routes=keys.tables("route", RouteTable.read, named_by="prefix"),
            access=keys.tables("access", AccessTable.read),
            limits=keys.table("limits", LimitsTable.read),
            unsound=keys.finish(),
        )

    def model(self, hosts: Mapping[str, ProviderHostTable], families: Collection[int]) -> Tenant:
        """The tenant, with its records at hosts of an underlay of these IP versions."""
        return Tenant(
            name=self.name or self.incomplete(),
            gateways=self.gateways,
            subnets=tuple(subnet.model() for subnet in self.subnets),
            records=tuple(record.model(self, hosts, families) for record in self.records),
            routes=tuple(route.model(self) for route in self.routes),
            sites=tuple(site.model() for site in self.sites),
            access=tuple(rule.model() for rule in self.access),
            limits=self.limits.model() if self.limits else None,
            leases=self.leases,
            rdid=self.rdid,
        )

    @cached_property
    def subnet_names(self) -> dict[str, SubnetTable]:
        return by_name(self.subnets)

    @cached_property
    def site_names(self) -> dict[str, SiteTable]:
        return by_name(self.sites)

    @cached_property
    def addresses_at_sites(self) -> dict[CustomerAddress, str]:
        """The single addresses that are routed to a site, and the path that says so."""
        routes = [(site.path, prefix) for site in self.sites for prefix in site.prefixes]
        routes += [
            (route.path, route.prefix)
            for route in self.routes
            if isinstance(route.via, SiteHop) and route.prefix
        ]
        return {
            CustomerAddress(prefix.network_address.packed): path
            for path, prefix in routes
            if prefix.prefixlen == prefix.max_prefixlen
        }

    @cached_property
    def gateway_addresses(self) -> tuple[CustomerAddress, ...]:
        """Those of all its subnets."""
        return tuple(address for subnet in self.subnets for address in subnet.gateway_addresses)

    @cached_property
    def site_prefixes(self) -> dict[str, list[Prefix]]:
        """What leads to each site: its own prefixes, and those of routes."""
        found: dict[str, list[Prefix]] = {}
        for site in self.sites:
            found.setdefault(site.name or "", []).extend(site.prefixes)
        for route in self.routes:
            if isinstance(route.via, SiteHop) and route.prefix is not None:
                found.setdefault(route.via.site, []).append(route.prefix)
        return found

    def translation_of(self, record: RecordTable) -> Translation | None:
        """How the packets of a record's VM are carried; None where that cannot be told."""
        if record.translation is not None:
            return record.translation
        subnet = None if record.ca is None else self.subnet_with(record.ca)
        if subnet is None or "translation" in record.unsound | subnet.unsound:
            return None
        return subnet.translation

    def translation_at(self, address: CustomerAddress) -> Translation | None:
        """How a VM's packets are carried, with a static record or without; None where that cannot be told."""
        record = self._records_by_address.get(address)
        if record is not None:
            return self.translation_of(record)
        subnet = self.subnet_with(address)
        return None if subnet is None or "translation" in subnet.unsound else subnet.translation

    def subnet_with(self, address: CustomerAddress) -> SubnetTable | None:
        """The subnet that an address is in."""
        bits, number = 8 * len(address), int.from_bytes(address)
        for length in self._prefix_lengths[address.version]:
            subnet = self._subnets_by_prefix.get((address.version, length, number >> bits - length))
            if subnet is not None:
                return subnet
        return None

    @cached_property
    def _records_by_address(self) -> dict[CustomerAddress, RecordTable]:
        return {record.ca: record for record in self.records if record.ca is not None}

    @cached_property
    def _subnets_by_prefix(self) -> dict[tuple[int, int, int], SubnetTable]:
        """By the family, the length and the leading bits of each prefix."""
        found: dict[tuple[int, int, int], SubnetTable] = {}
        for subnet in self.subnets:
            for prefix in subnet.prefixes:
                leading = int(prefix.network_address) >> prefix.max_prefixlen - prefix.prefixlen
                found.setdefault((prefix.version, prefix.prefixlen, leading), subnet)
        return found

    @cached_property
    def _prefix_lengths(self) -> dict[int, list[int]]:
        lengths: dict[int, set[int]] = {4: set(), 6: set()}
        for version, length, _ in self._subnets_by_prefix:
            lengths[version].add(length)
        return {version: sorted(found, reverse=True) for version, found in lengths.items()}
