"""The tables of appliance.toml, as they are written and before they are known to agree.

A value that is missing or wrong is None here, or absent from its tuple, and its
key is in `unsound`; everything else can still be checked against the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from policies.addresses import CustomerAddress, MacAddress, Prefix, ProviderAddress, Vsid
from policies.config import values
from policies.model import Action, Endpoint, Engine, FlowIdMode, PortRange, SiteHop, Translation

DEFAULT_STATE = Path("/var/lib/isthmus")


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """One table, where it stands, and which of its keys are missing or wrong."""

    path: str
    unsound: frozenset[str] = frozenset()


class SubnetTable(Table, frozen=True):
    """One `[[tenant.subnet]]`."""

    name: str | None
    vsid: Vsid | None
    prefixes: tuple[Prefix, ...]
    gateway: tuple[CustomerAddress, ...]
    translation: Translation
    broadcast: bool

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


class IkeTable(Table, frozen=True):
    """A site's `ike`."""

    local_id: str | None
    remote_id: str | None
    psk_file: Path | None


class SiteTable(Table, frozen=True):
    """One `[[tenant.site]]`."""

    name: str | None
    gateway: str | None
    prefixes: tuple[Prefix, ...]
    peer: values.Peer | None
    ike: IkeTable | None


class RouteTable(Table, frozen=True):
    """One `[[tenant.route]]`."""

    prefix: Prefix | None
    via: values.Via | None


class AccessTable(Table, frozen=True):
    """One `[[tenant.access]]`; `source` and `destination` are its `from` and `to`."""

    name: str | None
    action: Action | None
    source: Endpoint
    destination: Endpoint
    protocol: int | None
    ports: tuple[PortRange, ...]


class LimitsTable(Table, frozen=True):
    """A `[tenant.limits]`."""

    rate: int | None
    burst: int | None


class TenantTable(Table, frozen=True, dict=True):
    """One `[[tenant]]`."""

    name: str | None
    gateways: tuple[str, ...]
    rdid: str | None
    subnets: tuple[SubnetTable, ...]
    records: tuple[RecordTable, ...]
    sites: tuple[SiteTable, ...]
    routes: tuple[RouteTable, ...]
    access: tuple[AccessTable, ...]
    limits: LimitsTable | None

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

    def subnet_with(self, address: CustomerAddress) -> SubnetTable | None:
        """The subnet that an address is in."""
        bits, number = 8 * len(address), int.from_bytes(address)
        for length in self._prefix_lengths[address.version]:
            subnet = self._subnets_by_prefix.get((address.version, length, number >> bits - length))
            if subnet is not None:
                return subnet
        return None

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


class ProviderHostTable(Table, frozen=True):
    """One `[[provider_host]]`."""

    name: str | None
    provider_addresses: tuple[ProviderAddress, ...]
    tenants: tuple[str, ...]
    flow_id: FlowIdMode


class ProviderGatewayTable(Table, frozen=True):
    """One `[[provider_gateway]]`."""

    name: str | None
    provider_addresses: tuple[ProviderAddress, ...]


class ApplianceTable(Table, frozen=True):
    """The `[appliance]`."""

    name: str | None
    state: Path
    engine: Engine


class UnderlayTable(Table, frozen=True):
    """The `[underlay]`."""

    provider_addresses: tuple[ProviderAddress, ...]
    interfaces: tuple[str, ...]
    mtu: int | None


class LookupTable(Table, frozen=True):
    """The `[lookup]`."""

    listen: str
    store: str


class PortTable(Table, frozen=True):
    """One `[[host.port]]`."""

    interface: str | None
    tenant: str | None
    subnet: str | None
    mac: MacAddress | None
    addresses: tuple[CustomerAddress, ...]


class HostTable(Table, frozen=True):
    """The `[host]`."""

    name: str | None
    lookup: tuple[str, ...]
    token_file: Path | None
    driver: str
    ports: tuple[PortTable, ...]


class File(Table, frozen=True, dict=True):
    """The whole file. `sections` are the names at its top level, whether sound or not."""

    sections: frozenset[str]
    appliance: ApplianceTable | None
    underlay: UnderlayTable | None
    lookup: LookupTable | None
    host: HostTable | None
    hosts: tuple[ProviderHostTable, ...]
    gateways: tuple[ProviderGatewayTable, ...]
    tenants: tuple[TenantTable, ...]

    @cached_property
    def host_names(self) -> dict[str, ProviderHostTable]:
        return by_name(self.hosts)

    @cached_property
    def tenant_names(self) -> dict[str, TenantTable]:
        return by_name(self.tenants)

    @cached_property
    def gateway_addresses(self) -> dict[str, tuple[ProviderAddress, ...]]:
        """All gateways that a tenant may name: this appliance, if it is one, and the others."""
        found: dict[str, tuple[ProviderAddress, ...]] = {}
        if self.own_gateway is not None:
            found[self.own_gateway] = self.underlay.provider_addresses if self.underlay else ()
        for name, gateway in by_name(self.gateways).items():
            found.setdefault(name, gateway.provider_addresses)
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
    def own_gateway(self) -> str | None:
        """The name of the gateway that this appliance is."""
        return self.appliance.name if self.appliance and "gateway" in self.sections else None

    @property
    def own_host(self) -> ProviderHostTable | None:
        """The network's entry for the host that this appliance is."""
        return self.host_names.get(self.host.name) if self.host and self.host.name else None


class _Named(Protocol):
    @property
    def name(self) -> str | None: ...


N = TypeVar("N", bound=_Named)


def by_name(tables: Iterable[N]) -> dict[str, N]:
    """The tables that have a name; where two have the same, the first."""
    found: dict[str, N] = {}
    for table in tables:
        if table.name is not None:
            found.setdefault(table.name, table)
    return found
