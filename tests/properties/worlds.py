"""Whole networks, made up by chance: tenants and sites that overlap in every way, a node for each machine.

What is generated is what a configuration's checks accept. Besides, records may be
missing, old, or at a host that may no longer hold the tenant, and differ from node to
node, as they do while they are on their way.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterable, Iterator

import msgspec

from gateway.forwarding.directory import Delete, DeleteLease, Directory, Holder, Put, PutLease
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import PortKey
from policies.addresses import CustomerAddress, MacAddress, Prefix, ProviderAddress, Vsid
from policies.facts import ICMP, ICMPV6, TCP, UDP
from policies.model import (
    AccessRule,
    Action,
    AddressHop,
    CustomerRoute,
    Endpoint,
    FlowIdMode,
    IkeIdentity,
    Lease,
    Limits,
    LookupRecord,
    Network,
    Port,
    PortRange,
    ProviderGateway,
    ProviderHost,
    Site,
    SiteHop,
    Tenant,
    Translation,
    VirtualSubnet,
)
from policies.selectors import Selectors, TrafficSelector
from policies.tables import RoutingDomain, Tables
from tunnels.effects import SiteKey

# Every tenant draws from these, so that most addresses mean something to several of them.
_IPV4 = ("10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/28", "192.168.0.0/20")
_IPV6 = ("fd00:1::/64", "fd00:2::/64", "fd00:3::/64", "2001:db8:5::/48")
_AT_SITES = ("10.0.0.0/8", "172.16.0.0/16", "fd00::/16", "2001:db8:99::/48")
_BEHIND_A_VM = ("198.18.0.0/15", "0.0.0.0/0", "fd77::/32", "::/0")
_VSIDS = (0x1000, 0x1001, 0x10FF, 0x1100, 5001, 5002, 6001, 6002, 0x80_0000, 0xFFFF00, 0xFFFFFD, 0xFFFFFE)
_MTUS = (1500, 1500, 1500, 1600, 1342, 9000)
_SITE_MTUS = (1422, 1400, 1000, 9000)
_ALL = tuple(TrafficSelector.of(ipaddress.ip_network(prefix)) for prefix in ("0.0.0.0/0", "::/0"))
PORTS = (22, 53, 80, 5432)


class Vm(msgspec.Struct, frozen=True):
    """A virtual machine and the host where it really is."""

    tenant: str
    vsid: Vsid
    mac: MacAddress
    addresses: tuple[CustomerAddress, ...]
    host: str

    @property
    def port(self) -> PortKey:
        return self.vsid, self.mac


class World(msgspec.Struct):
    """A network and the pipelines of all its nodes."""

    network: Network
    tables: Tables
    vms: tuple[Vm, ...]
    nodes: dict[str, Forwarder]
    at: dict[bytes, str]
    """Which node has a provider address."""
    children: dict[SiteKey, tuple[Selectors, ...]]
    """The child SAs of each site, whether it is up or not."""
    holders: dict[bytes, Holder]
    """Whom each provider address of a pool has been given to, in truth."""
    bridges: frozenset[str]
    """The hosts that only encapsulate."""

    def tenant(self, name: str) -> Tenant:
        return next(tenant for tenant in self.network.tenants if tenant.name == name)

    def domain_of(self, vsid: int) -> RoutingDomain | None:
        entry = self.tables.subnets.get(Vsid(vsid))
        return entry.domain if entry is not None else None

    def lease(self, vsid: Vsid, ca: CustomerAddress) -> Lease:
        """Lease an address for a CA at its tenant's first gateway, and tell nobody."""
        (gateway, _), *_ = self.tables.subnets[vsid].domain.gateways
        pools = next(each.pools for each in self.network.gateways if each.name == gateway)
        pool = next(pool for pool in pools if pool.version == ca.version)
        lease = Lease(ProviderAddress(pool[0x8000 + len(self.holders)].packed), vsid, ca, gateway)
        self.holders[lease.pa] = lease
        return lease

    def vms_of(self, tenant: str) -> list[Vm]:
        return [vm for vm in self.vms if vm.tenant == tenant]


def generate(chance: random.Random, *, encapsulating: float = 0.0) -> World:
    """Make up a network with two to four tenants, and start its nodes.

    Of the hosts that are no gateways a share only encapsulates, as Open vSwitch does, and has no pools.
    """
    tenants = [f"tenant-{letter}" for letter in "abcd"[: chance.randint(2, 4)]]
    hosts = tuple(_host(chance, number, tenants) for number in range(1, chance.randint(2, 4) + 1))
    gateways = tuple(_gateway(chance, number, hosts) for number in range(1, chance.randint(1, 3) + 1))
    bridges = {host.name for host in hosts if chance.random() < encapsulating} if encapsulating else set()
    bridges -= {gateway.name for gateway in gateways}
    hosts = tuple(msgspec.structs.replace(host, pools=()) if host.name in bridges else host for host in hosts)
    vsids = chance.sample(_VSIDS, len(_VSIDS))
    network = Network(hosts, gateways, tuple(_tenant(chance, name, gateways, vsids) for name in tenants))
    vms = tuple(vm for tenant in network.tenants for vm in _vms(chance, tenant, hosts))
    tables = Tables.compile(network)
    addresses = Addresses(network)
    truth = [record for vm in vms for record in _records(chance, vm, network, addresses)]
    leases = [lease for tenant in network.tenants for lease in _leases(chance, tenant, truth, addresses)]
    rumours = chance.random() < 0.5
    nodes = {}
    for node in _nodes(chance, network, vms):
        directory = Directory(truth)
        for lease in leases:
            directory.apply(PutLease(lease))
        if rumours:
            make_stale(chance, directory, hosts)
        nodes[node.name] = Forwarder(node, tables, directory)
    at: dict[bytes, str] = {}
    for name, forwarder in nodes.items():
        at.update(dict.fromkeys(forwarder.node.provider_addresses, name))
    children = {
        (tenant.name, site.name): tuple(_selectors(chance, tenant, site))
        for tenant in network.tenants
        for site in tenant.sites
    }
    holders: dict[bytes, Holder] = {lease.pa: lease for lease in leases}
    holders |= {record.pa: record for record in truth if record.translation is Translation.REWRITE}
    world = World(network, tables, vms, nodes, at, children, holders, frozenset(bridges))
    for key in children:
        if chance.random() < 0.85:
            bring_up(chance, world, key, nodes[gateway_of(world, key)])
    return world


def gateway_of(world: World, site: SiteKey) -> str:
    """Which node has a site's tunnel."""
    return world.tables.domains[site[0]].site_gateways[site[1]]


def bring_up(chance: random.Random, world: World, site: SiteKey, *nodes: Forwarder) -> None:
    """Have a site's tunnel stand at a node, or at twins of it."""
    mtu, children = chance.choice(_SITE_MTUS), world.children[site]
    for node in nodes:
        node.sites.site_is_up(site, mtu, children)


class Addresses:
    """Gives out the provider addresses of pools, each once."""

    def __init__(self, network: Network) -> None:
        self._pools_of_gateways = {gateway.name: gateway.pools for gateway in network.gateways}
        self._given: dict[Prefix, int] = {}

    def of_host(self, name: str, version: int, hosts: Iterable[ProviderHost]) -> ProviderAddress:
        """Return the next address of a host's pool."""
        return self._next(next(host.pools for host in hosts if host.name == name), version)

    def of_gateway(self, name: str, version: int) -> ProviderAddress:
        """Return the next address of a gateway's pool."""
        return self._next(self._pools_of_gateways[name], version)

    def _next(self, pools: Iterable[Prefix], version: int) -> ProviderAddress:
        pool = next(pool for pool in pools if pool.version == version)
        self._given[pool] = self._given.get(pool, 0) + 1
        return ProviderAddress(pool[self._given[pool]].packed)


def make_stale(chance: random.Random, directory: Directory, hosts: tuple[ProviderHost, ...]) -> None:
    """Lose some records, and have others point to where their VM is not."""
    for lease in list(directory.all_leases()):
        if chance.random() < 0.1:
            directory.apply(DeleteLease(lease.pa))
    for record in list(directory):
        fate = chance.random()
        if fate < 0.1:
            directory.apply(Delete(record.vsid, record.ca))
        elif fate < 0.3:
            directory.apply(Put(moved(chance, record, hosts)))


def moved(chance: random.Random, record: LookupRecord, hosts: tuple[ProviderHost, ...]) -> LookupRecord:
    """The record at any host, also at one that may not hold its tenant."""
    is_rewritten = record.translation is Translation.REWRITE
    host = chance.choice([host for host in hosts if host.pools or not is_rewritten])
    pa = chance.choice(host.provider_addresses)
    if is_rewritten:
        # It has kept its address, or it has one that was nobody's; or of a pool that its host has no longer.
        pools = host.pools if chance.random() < 0.9 else _pools(99)
        pool = next(pool for pool in pools if pool.version == record.ca.version)
        # Nobody else ever has had it, or will: the store sees to that.
        number = (1 + _VSIDS.index(record.vsid)) << 8 | record.ca[-1]
        pa = chance.choice((record.pa, ProviderAddress(pool[number].packed)))
    return msgspec.structs.replace(record, host=host.name, pa=pa, epoch=record.epoch + 1)


def twin(forwarder: Forwarder, kind: type[Forwarder] = Forwarder) -> Forwarder:
    """The same node with the same records, and nothing that it has learned or counted."""
    same = kind(forwarder.node, forwarder.tables, Directory(forwarder.directory))
    for lease in forwarder.directory.all_leases():
        same.directory.apply(PutLease(lease))
    for site, state in forwarder.sites:
        same.sites.site_is_up(site, state.mtu, state.selectors)
    return same


def _addresses(chance: random.Random, number: int) -> tuple[ProviderAddress, ...]:
    both = (f"192.0.2.{number}", f"2001:db8::{number:x}")
    families = chance.choice((both, both, both[:1], both[1:]))
    return tuple(ProviderAddress.parse(address) for address in families)


def _host(chance: random.Random, number: int, tenants: list[str]) -> ProviderHost:
    return ProviderHost(
        name=f"hv{number}",
        provider_addresses=_addresses(chance, number),
        tenants=tuple(chance.sample(tenants, chance.randint(1, len(tenants)))),
        flow_id=chance.choice(list(FlowIdMode)),
        pools=_pools(number if chance.random() < 0.6 else 9),
    )


def _pools(number: int) -> tuple[Prefix, ...]:
    """Pools of both families; hosts that have the same number share them."""
    texts = f"100.{number}.0.0/16", f"2001:db8:64:{number:x}::/112"
    return tuple(ipaddress.ip_network(text) for text in texts)


def _gateway(chance: random.Random, number: int, hosts: tuple[ProviderHost, ...]) -> ProviderGateway:
    """A machine of its own, or one that is a host besides."""
    if chance.random() < 0.3 and number <= len(hosts):
        host = hosts[number - 1]
        return ProviderGateway(host.name, host.provider_addresses, _pools(100 + number))
    return ProviderGateway(f"edge-{number}", _addresses(chance, 100 + number), _pools(100 + number))


def _tenant(
    chance: random.Random, name: str, gateways: tuple[ProviderGateway, ...], vsids: list[int]
) -> Tenant:
    ipv4, ipv6 = list(_IPV4), list(_IPV6)
    subnets = []
    for number in range(chance.randint(1, 3)):
        families = chance.choice(((4,), (6,), (4, 6), (4, 6)))
        prefixes = tuple(
            ipaddress.ip_network(pool.pop(chance.randrange(len(pool))))
            for version, pool in ((4, ipv4), (6, ipv6))
            if version in families
        )
        translation = chance.choice((Translation.ENCAP, Translation.ENCAP, Translation.REWRITE))
        subnets.append(
            VirtualSubnet(
                name=f"subnet-{number}",
                vsid=Vsid(vsids.pop()),
                prefixes=prefixes,
                gateway_addresses=tuple(_nth(prefix, 1) for prefix in prefixes),
                broadcast=chance.random() < 0.5 and translation is Translation.ENCAP,
                translation=translation,
            )
        )
    own = tuple(gateway.name for gateway in chance.sample(gateways, chance.randint(1, len(gateways))))
    sites = _sites(chance, own)
    return Tenant(
        name=name,
        gateways=own,
        subnets=tuple(subnets),
        routes=tuple(_routes(chance, subnets, sites)),
        sites=sites,
        access=_access(chance, subnets, sites) if chance.random() < 0.4 else (),
        limits=Limits(rate=8_000, burst=2_000) if chance.random() < 0.2 else None,
    )


def _sites(chance: random.Random, gateways: tuple[str, ...]) -> tuple[Site, ...]:
    prefixes = [
        ipaddress.ip_network(prefix) for prefix in chance.sample(_AT_SITES, chance.choice((0, 1, 2, 3)))
    ]
    return tuple(
        Site(f"site-{n}", chance.choice(gateways), (prefix,), None, IkeIdentity("us", f"them-{n}"))
        for n, prefix in enumerate(prefixes)
    )


def _selectors(chance: random.Random, tenant: Tenant, site: Site) -> Iterator[Selectors]:
    """Those of a site's child SAs: for everything, for what the configuration says, or for less."""
    kind = chance.random()
    if kind < 0.5:
        yield Selectors(_ALL, _ALL)
        return
    remote = tuple(TrafficSelector.of(prefix) for prefix in site.prefixes)
    for subnet in tenant.subnets:
        local = tuple(TrafficSelector.of(prefix) for prefix in subnet.prefixes)
        if kind < 0.8:
            yield Selectors(local, remote)
        else:
            yield Selectors(
                tuple(msgspec.structs.replace(each, protocol=chance.choice((0, UDP, TCP))) for each in local),
                tuple(msgspec.structs.replace(each, start_port=0, end_port=1023) for each in remote),
            )


def _routes(
    chance: random.Random, subnets: list[VirtualSubnet], sites: tuple[Site, ...]
) -> Iterator[CustomerRoute]:
    inside = [prefix for subnet in subnets for prefix in subnet.prefixes]
    if sites and chance.random() < 0.7:
        address = _nth(chance.choice(inside), 9)
        yield CustomerRoute(ipaddress.ip_network(address.ip), SiteHop(chance.choice(sites).name))
    for text in chance.sample(_BEHIND_A_VM, chance.choice((0, 1, 2))):
        prefix: Prefix = ipaddress.ip_network(text)
        firewalls = [_nth(own, 5) for own in inside if own.version == prefix.version]
        if firewalls:
            yield CustomerRoute(prefix, AddressHop(chance.choice(firewalls)))
        elif sites:
            yield CustomerRoute(prefix, SiteHop(chance.choice(sites).name))


def _access(
    chance: random.Random, subnets: list[VirtualSubnet], sites: tuple[Site, ...]
) -> tuple[AccessRule, ...]:
    endpoints = [Endpoint(), Endpoint(), *(Endpoint(subnet=subnet.name) for subnet in subnets)]
    endpoints += [Endpoint(site=site.name) for site in sites]
    endpoints += [Endpoint(prefix=prefix) for prefix in subnets[0].prefixes]
    rules = []
    for number in range(chance.randint(1, 4)):
        protocol = chance.choice((None, TCP, UDP, ICMP, ICMPV6))
        ports = (PortRange(0, 1023),) if protocol in (TCP, UDP) and chance.random() < 0.5 else ()
        action = Action.ALLOW if chance.random() < 0.75 else Action.DENY
        ends = chance.choice(endpoints), chance.choice(endpoints)
        rules.append(AccessRule(f"rule-{number}", action, *ends, protocol, ports))
    return tuple(rules)


def _vms(chance: random.Random, tenant: Tenant, hosts: tuple[ProviderHost, ...]) -> Iterator[Vm]:
    """VMs .5, .6 and so on of each subnet; those of other tenants have the same MACs."""
    places = [host.name for host in hosts if tenant.name in host.tenants]
    for number, subnet in enumerate(tenant.subnets if places else ()):
        for last in range(5, 5 + chance.randint(1, 4)):
            addresses = tuple(_nth(prefix, last) for prefix in subnet.prefixes)
            mac = MacAddress(bytes((2, 0, 0, 0, number, last)))
            yield Vm(tenant.name, subnet.vsid, mac, addresses, chance.choice(places))


def _records(chance: random.Random, vm: Vm, network: Network, addresses: Addresses) -> Iterable[LookupRecord]:
    """Carried as their virtual subnet says, or not: that is each record's own."""
    host = next(host for host in network.hosts if host.name == vm.host)
    subnet = next(each for tenant in network.tenants for each in tenant.subnets if each.vsid == vm.vsid)
    translation = subnet.translation
    if chance.random() < 0.1:
        translation = chance.choice(list(Translation))
    if not host.pools:
        translation = Translation.ENCAP
    for ca in vm.addresses:
        pa = chance.choice(host.provider_addresses)
        if translation is Translation.REWRITE:
            pa = addresses.of_host(vm.host, ca.version, network.hosts)
        yield LookupRecord(vm.vsid, ca, vm.mac, pa, vm.host, translation, epoch=1)


def _leases(
    chance: random.Random, tenant: Tenant, records: Iterable[LookupRecord], addresses: Addresses
) -> Iterator[Lease]:
    """Some of those that a tenant may have: for what is at sites, for encapsulated VMs and for gateways."""
    own = {subnet.vsid for subnet in tenant.subnets}
    distant = [(each.vsid, each.ca) for each in records if each.vsid in own]
    distant += [(subnet.vsid, ca) for subnet in tenant.subnets for ca in subnet.gateway_addresses]
    remote = [prefix for site in tenant.sites for prefix in site.prefixes]
    distant += [(min(own), _nth(prefix, number)) for prefix in remote for number in (5, 300)]
    for vsid, ca in distant:
        for name in tenant.gateways:
            if chance.random() < 0.7:
                yield Lease(addresses.of_gateway(name, ca.version), vsid, ca, name)


def _nodes(chance: random.Random, network: Network, vms: tuple[Vm, ...]) -> Iterator[Node]:
    machines = {host.name: host.provider_addresses for host in network.hosts}
    machines |= {gateway.name: gateway.provider_addresses for gateway in network.gateways}
    gateways = {gateway.name for gateway in network.gateways}
    for name, addresses in machines.items():
        here = [vm for vm in vms if vm.host == name]
        ports = {
            vm.port: Port(f"tap{n}", vm.tenant, vm.vsid, vm.mac, vm.addresses) for n, vm in enumerate(here)
        }
        host = name if any(host.name == name for host in network.hosts) else None
        yield Node(name, addresses, chance.choice(_MTUS), name in gateways, ports, host)


def _nth(prefix: Prefix, number: int) -> CustomerAddress:
    return CustomerAddress(prefix[number].packed)
