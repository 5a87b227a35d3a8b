"""The tenants of a replica's network as forwarding sees them, each compiled once for each state of it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.lookup.lease_limits import lease_limits
from policies.addresses import CustomerAddress, Prefix, Vsid, is_group_address
from policies.model import Network, ProviderGateway, SiteHop, SubnetHop, Tenant
from policies.tables import RoutingDomain, Tables


class Domain(msgspec.Struct, frozen=True, eq=False):
    """A tenant, and what its routes come to."""

    tenant: Tenant
    routing: RoutingDomain

    def is_own(self, ca: CustomerAddress) -> bool:
        """Whether an address is a gateway's own in one of the virtual subnets."""
        return ca in self.routing.gateway_addresses

    def is_inside(self, ca: CustomerAddress) -> bool:
        """Whether packets to an address go to a virtual subnet, and so to whoever is recorded there."""
        return isinstance(self.routing.routes.lookup(ca), SubnetHop)

    def is_beyond(self, ca: CustomerAddress) -> bool:
        """Whether packets to an address go to a site, or through a VM."""
        if self.routing.routes.lookup(ca) is None or self.is_inside(ca):
            return False
        ip = ca.ip
        is_station = not (is_group_address(ca) or ip.is_unspecified or ip.is_loopback or ip.is_link_local)
        return is_station and ca not in self.routing.broadcast_addresses

    def gateways(self, ca: CustomerAddress) -> tuple[str, ...]:
        """Return by which gateways an address is reached, in order of preference: a site has one alone."""
        hop = self.routing.routes.lookup(ca)
        if isinstance(hop, SiteHop) and hop.site in self.routing.site_gateways:
            return (self.routing.site_gateways[hop.site],)
        return self.tenant.gateways


class Domains:
    """Finds domains by their virtual subnets, and gateways' pools."""

    def __init__(self, network: Callable[[], Network]) -> None:
        self._network = network
        self._of: Network | None = None
        self._tenants: dict[Vsid, Tenant] = {}
        self._compiled: dict[str, Domain] = {}
        self._gateways: dict[str, ProviderGateway] = {}
        self._lease_limits: dict[str, int] = {}

    def find(self, vsid: Vsid) -> Domain | None:
        """Return the domain of a virtual subnet."""
        self._refresh()
        tenant = self._tenants.get(vsid)
        if tenant is None:
            return None
        domain = self._compiled.get(tenant.name)
        if domain is None:
            own = tuple(each for name in tenant.gateways if (each := self._gateways.get(name)) is not None)
            alone = Network(gateways=own, tenants=(tenant,))
            domain = Domain(tenant, Tables.compile(alone).domains[tenant.name])
            self._compiled[tenant.name] = domain
        return domain

    def pools(self, gateway: str, version: int) -> tuple[Prefix, ...]:
        """Return the pools of a gateway that are of an IP version."""
        self._refresh()
        found = self._gateways.get(gateway)
        return tuple(pool for pool in found.pools if pool.version == version) if found is not None else ()

    def lease_limit(self, tenant: Tenant) -> int:
        """Return how many addresses of a gateway's pools a tenant may hold at once."""
        self._refresh()
        return self._lease_limits.get(tenant.name, 0)

    def _refresh(self) -> None:
        network = self._network()
        if network is self._of:
            return
        self._of = network
        self._gateways = {gateway.name: gateway for gateway in network.gateways}
        self._tenants = {subnet.vsid: tenant for tenant in network.tenants for subnet in tenant.subnets}
        self._lease_limits = lease_limits(network)
        same = {tenant.name: tenant for tenant in network.tenants}
        self._compiled = {
            name: domain for name, domain in self._compiled.items() if domain.tenant == same.get(name)
        }
