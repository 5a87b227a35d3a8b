"""What of the network and its records a role may see."""

from __future__ import annotations

from collections.abc import Callable, Container

import msgspec

from gateway.http.principals import Principal
from gateway.lookup.entries import Grant, Kind, LeaseKey, NamedKey, RecordKey, Stored
from policies.addresses import Vsid
from policies.model import IkeIdentity, Network, ProviderHost, Tenant
from policies.services import ALL_TENANTS, Role

HIDDEN = IkeIdentity(local_id="", remote_id="")
"""What is shown of how a site's peer is known, to those who do not dial it."""


class View(msgspec.Struct, frozen=True, eq=False):
    """What somebody sees. None is everything of that sort."""

    tenants: frozenset[str] | None = None
    vsids: frozenset[Vsid] | None = None
    hosts: frozenset[str] | None = None
    gateways: bool = True
    identities: bool = True
    """Whether the identities of sites are shown."""

    def sees(self, vsid: Vsid) -> bool:
        """Whether a virtual subnet's records are shown."""
        return self.vsids is None or vsid in self.vsids

    def entry(self, entry: Stored) -> Stored | None:
        """Return what is shown of an entry or a tombstone, or None."""
        key = entry.key
        if isinstance(key, RecordKey):
            return entry if self.vsids is None or key.vsid in self.vsids else None
        if isinstance(key, LeaseKey):
            return entry if isinstance(entry.value, Grant) and self.sees(entry.value.vsid) else None
        if not self._names(key):
            return None
        value = entry.value
        if isinstance(value, Tenant):
            value = self.tenant(value)
        elif isinstance(value, ProviderHost):
            value = self.host(value)
        return entry if value is entry.value else msgspec.structs.replace(entry, value=value)

    def host(self, host: ProviderHost) -> ProviderHost:
        """Return a host as it is shown: with the tenants that are."""
        if self.tenants is None or self.tenants.issuperset(host.tenants):
            return host
        shown = tuple(name for name in host.tenants if name in self.tenants)
        return msgspec.structs.replace(host, tenants=shown)

    def tenant(self, tenant: Tenant) -> Tenant:
        """Return a tenant as it is shown."""
        if self.identities or not tenant.sites:
            return tenant
        sites = tuple(msgspec.structs.replace(site, ike=HIDDEN) for site in tenant.sites)
        return msgspec.structs.replace(tenant, sites=sites)

    def network(self, network: Network) -> Network:
        """Return the part of a network that is shown."""
        return Network(
            hosts=tuple(
                self.host(each) for each in network.hosts if self.hosts is None or each.name in self.hosts
            ),
            gateways=network.gateways if self.gateways else (),
            tenants=tuple(
                self.tenant(each)
                for each in network.tenants
                if self.tenants is None or each.name in self.tenants
            ),
        )

    def _names(self, key: NamedKey) -> bool:
        match key.kind:
            case Kind.TENANT:
                return self.tenants is None or key.name in self.tenants
            case Kind.HOST:
                return self.hosts is None or key.name in self.hosts
            case _:
                return self.gateways


EVERYTHING = View()

MOST_VIEWS = 8192
"""Views kept at once: a hint may name any host at all."""


def view(principal: Principal, network: Network) -> View:
    """Return what somebody sees of a network.

    A host sees its tenants, all gateways, and the hosts that share a tenant with it;
    a reader its tenants and their records alone.
    """
    if principal.role in {Role.OPERATOR, Role.GATEWAY}:
        return EVERYTHING
    if principal.role is Role.READER:
        tenants = principal.tenants
        if ALL_TENANTS in tenants:
            tenants = frozenset(tenant.name for tenant in network.tenants)
        return _narrow(network, tenants, frozenset(), gateways=False)
    own = next((host for host in network.hosts if host.name == principal.name), None)
    tenants = frozenset(own.tenants) if own is not None else frozenset()
    hosts = {host.name for host in network.hosts if not tenants.isdisjoint(host.tenants)}
    return _narrow(network, tenants, frozenset(hosts | {principal.name}), gateways=True)


class Views:
    """The views of everybody who asks, each made once for each state of the network.

    Equal ones are one object, so that what is made for one is found for the others.
    """

    def __init__(self, network: Callable[[], Network]) -> None:
        self._network = network
        self._of: Network | None = None
        self._views: dict[Principal, View] = {}
        self._same: dict[tuple[object, ...], View] = {}

    def of(self, principal: Principal) -> View:
        """Return what somebody sees now."""
        if principal.role in {Role.OPERATOR, Role.GATEWAY}:
            return EVERYTHING
        network = self._network()
        if network is not self._of or len(self._views) >= MOST_VIEWS:
            self._of = network
            self._views.clear()
            self._same.clear()
        found = self._views.get(principal)
        if found is None:
            fresh = view(principal, network)
            same = fresh.tenants, fresh.vsids, fresh.hosts, fresh.gateways
            found = self._views[principal] = self._same.setdefault(same, fresh)
        return found


def vsids_of(network: Network, tenants: Container[str]) -> frozenset[Vsid]:
    """Return the virtual subnets of some tenants."""
    return frozenset(
        subnet.vsid for tenant in network.tenants if tenant.name in tenants for subnet in tenant.subnets
    )


def _narrow(network: Network, tenants: frozenset[str], hosts: frozenset[str], *, gateways: bool) -> View:
    vsids = vsids_of(network, tenants)
    return View(tenants=tenants, vsids=vsids, hosts=hosts, gateways=gateways, identities=False)
