"""Whether what is asked for may be, and can be, by the network that is known here. Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.http.principals import Principal
from gateway.lookup.claims import Mode
from gateway.lookup.domains import Domain, Domains
from gateway.lookup.entries import Placement
from gateway.lookup.granting import Granting
from gateway.lookup.outcomes import Forbidden, Unacceptable
from gateway.lookup.pool_soundness import lease_fault
from gateway.lookup.replica import Replica
from gateway.lookup.soundness import address_fault, mac_fault
from gateway.lookup.visibility import Views
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import ProviderHost, Tenant, Translation, VirtualSubnet
from policies.services import Role


class Judgement:
    """Answers with what is concerned, or raises Forbidden or Unacceptable."""

    def __init__(self, replica: Replica, views: Views, granting: Granting, domains: Domains) -> None:
        self._replica = replica
        self._views = views
        self._granting = granting
        self._domains = domains

    def claimant(
        self,
        principal: Principal,
        host: str | None,
        pa: ProviderAddress,
        mode: Mode,
        vsid: Vsid,
        mac: MacAddress,
        addresses: tuple[CustomerAddress, ...],
    ) -> tuple[ProviderHost, VirtualSubnet]:
        """Return for whom a claim is, and where. An operator need not say for whom."""
        if principal.role is not Role.OPERATOR:
            if principal.role is not Role.HOST:
                raise Forbidden(f"a {principal.role} claims nothing")
            if host is not None and host != principal.name:
                raise Forbidden(f"{principal.name} claims for itself only")
            if mode is Mode.ORCHESTRATE:
                raise Forbidden("only an operator orchestrates")
            host = principal.name
        owner = self._owner(host, pa)
        tenant, subnet = self._subnet(vsid)
        _check_tenant(owner, tenant)
        _check(subnet, mac, addresses)
        return owner, subnet

    def lessee(
        self, principal: Principal, vsid: Vsid, ca: CustomerAddress, gateway: str | None
    ) -> tuple[Domain, str | None]:
        """Return whose CA it is that a lease is for, and of which gateway, unless that is open."""
        if principal.role is Role.READER:
            raise Forbidden("a reader leases nothing")
        if principal.role is Role.GATEWAY and gateway in (None, principal.name):
            gateway = principal.name
        elif gateway is not None and principal.role is not Role.OPERATOR:
            raise Forbidden("only an operator says at which gateway")
        domain = self._domains.find(vsid)
        if domain is None or not self._views.of(principal).sees(vsid):
            raise Unacceptable(f"no virtual subnet has VSID {vsid}")
        if gateway is not None and gateway not in domain.tenant.gateways:
            raise Unacceptable(f"{gateway} is no gateway of this tenant")
        if domain.routing.home(ca) != vsid:
            raise Unacceptable(f"{ca} belongs to VSID {domain.routing.home(ca)}, not {vsid}")
        return domain, gateway

    def placement(
        self, host: str, vsid: Vsid, ca: CustomerAddress, mac: MacAddress
    ) -> tuple[ProviderHost, VirtualSubnet]:
        """Return where a record would be that an operator writes."""
        tenant, subnet = self._subnet(vsid)
        owner = self._host(host)
        _check_tenant(owner, tenant)
        _check(subnet, mac, [ca])
        return owner, subnet

    def address(
        self,
        host: ProviderHost,
        ca: CustomerAddress,
        way: Translation,
        wanted: ProviderAddress | None,
        kept: Placement | None,
    ) -> ProviderAddress | None:
        """Return the provider address of a record that is `kept`, or new; None: any free one of the host."""
        if way is Translation.ENCAP:
            first = next(iter(host.provider_addresses), None)
            if first is None:
                raise Unacceptable(f"{host.name} has no provider address")
            return first if wanted is None else _own_address(host, wanted)
        if wanted is None:
            if kept is None or kept.translation is not way or self._lease_fault(host, ca, kept.pa):
                return None
            return kept.pa
        if fault := self._lease_fault(host, ca, wanted):
            raise Unacceptable(fault)
        return wanted

    def _lease_fault(self, host: ProviderHost, ca: CustomerAddress, pa: ProviderAddress) -> str | None:
        """Return why a rewritten record at a host cannot have an address, whoever has it, or None."""
        if (fault := lease_fault(ca, pa, host)) is not None:
            return fault
        return None if self._granting.is_usable(host.pools, pa) else f"{pa} is a machine's own"

    def tenant_of(self, vsid: Vsid) -> str:
        """Return whose a virtual subnet is, or nothing where there is none."""
        try:
            return self._subnet(vsid)[0].name
        except Unacceptable:
            return ""

    def _owner(self, name: str | None, pa: ProviderAddress) -> ProviderHost:
        if name is not None:
            host = self._host(name)
            _own_address(host, pa)
            return host
        for host in self._replica.network.hosts:
            if pa in host.provider_addresses:
                return host
        raise Unacceptable(f"no host has {pa}")

    def _host(self, name: str) -> ProviderHost:
        for host in self._replica.network.hosts:
            if host.name == name:
                return host
        raise Unacceptable(f"there is no host {name}")

    def _subnet(self, vsid: Vsid) -> tuple[Tenant, VirtualSubnet]:
        for tenant in self._replica.network.tenants:
            for subnet in tenant.subnets:
                if subnet.vsid == vsid:
                    return tenant, subnet
        raise Unacceptable(f"no virtual subnet has VSID {vsid}")


def _check_tenant(host: ProviderHost, tenant: Tenant) -> None:
    if tenant.name not in host.tenants:
        # A host is not told whose the virtual subnets of others are.
        raise Unacceptable(f"{host.name} is not allowed the tenant of this virtual subnet")


def _own_address(host: ProviderHost, pa: ProviderAddress) -> ProviderAddress:
    if pa not in host.provider_addresses:
        raise Unacceptable(f"{pa} is no provider address of {host.name}")
    return pa


def _check(subnet: VirtualSubnet, mac: MacAddress, addresses: Iterable[CustomerAddress]) -> None:
    """Raise Unacceptable where a VM of a virtual subnet cannot have a MAC or an address."""
    for fault in (mac_fault(subnet.vsid, mac), *(address_fault(subnet, ca) for ca in addresses)):
        if fault is not None:
            raise Unacceptable(fault)
