"""A small mixed world for IP rewrite: forwarders of hosts and a gateway, wired to each other in memory.

The network is that of `tests.networks`, on three hosts. What is rewritten differs by test: a set of (subnet,
number), each with an address of its host's pool. Leases are made at once, as a lookup service would
that answers before the next packet, unless a test takes `leasing` away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_network

import msgspec
from scapy.packet import Packet

from gateway.forwarding.directory import Change, DeleteLease, Directory, Put, PutLease
from gateway.forwarding.happenings import Happening, Wanted
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import (
    Emission,
    OuterHeader,
    ToPort,
    ToProvider,
    ToSite,
    ToUnderlay,
    Verdict,
)
from gateway.packets import ip
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.model import Lease, LookupRecord, Network, Translation
from policies.tables import Tables
from tests import networks as n

Vm = tuple[str, str, int]
"""A tenant, a subnet and a number."""

POOLS = {
    "hv1": ("100.64.1.0/24", "2001:db8:64:1::/112"),
    "hv2": ("100.64.2.0/24", "2001:db8:64:2::/112"),
    "edge-1": ("100.64.254.0/24", "2001:db8:64:fe::/112"),
}
SHARED = {**POOLS, "hv2": POOLS["hv1"]}


def network(net: Network, pools: Mapping[str, tuple[str, ...]] = POOLS) -> Network:
    """A network with pools."""
    replace = msgspec.structs.replace
    prefixes = {name: tuple(map(ip_network, each)) for name, each in pools.items()}
    return replace(
        net,
        hosts=tuple(replace(host, pools=prefixes.get(host.name, ())) for host in net.hosts),
        gateways=tuple(replace(gateway, pools=prefixes.get(gateway.name, ())) for gateway in net.gateways),
    )


class World:
    """Forwarders, and what lies between them."""

    def __init__(
        self,
        rewritten: Iterable[Vm],
        *,
        net: Network | None = None,
        pools: Mapping[str, tuple[str, ...]] = POOLS,
        mtu: int = 1500,
    ) -> None:
        self.network = network(net or n.network(), pools)
        self.rewritten = set(rewritten)
        self.now = 0.0
        self.leasing = True
        self.asked: list[tuple[str, Vsid, CustomerAddress]] = []
        self.at_ports: list[tuple[str, ToPort]] = []
        self.at_sites: list[tuple[str, ToSite]] = []
        self.on_wire: list[ToUnderlay | ToProvider] = []
        self.verdicts: list[tuple[str, Verdict]] = []
        self._pools = {name: tuple(map(ip_network, each)) for name, each in pools.items()}
        self._handed: dict[str, int] = {}
        tables = Tables.compile(self.network)
        self.records = {(each.vsid, each.ca): each for each in self._records()}
        self.nodes: dict[str, Forwarder] = {}
        for name in ("hv1", "hv2", "edge-1"):
            is_gateway = name == "edge-1"
            node = Node(
                name,
                (n.pa(name), n.pa(name, 6)),
                mtu,
                is_gateway,
                {} if is_gateway else n.ports_of(name, self.network),
                None if is_gateway else name,
            )
            forwarder = Forwarder(node, tables, Directory(self.records.values()))
            forwarder.happenings.on_happening = self._listener(name)
            self.nodes[name] = forwarder
        self._to_lease: deque[tuple[Vsid, CustomerAddress]] = deque()

    def send(self, vm: Vm, frame: Packet) -> None:
        """Have a VM send a frame where its port is, and carry it to its end."""
        name = n.PLACES[vm[1], vm[2]]
        self.carry(name, self.nodes[name].from_port(n.port(*vm), bytes(frame), self.now))

    def from_site(self, packet: Packet, tenant: str = "red", name: str = "seattle") -> None:
        """Have a site send a packet, and carry it to its end."""
        edge = self.nodes["edge-1"]
        self.carry("edge-1", n.through_tunnel(edge, bytes(packet), tenant=tenant, name=name, now=self.now))

    def carry(self, name: str, verdict: Verdict) -> None:
        """Carry what a node has decided to where it ends, with leases that are wanted meanwhile."""
        self.verdicts.append((name, verdict))
        self._emit(name, verdict.emissions)
        while self.leasing and self._to_lease:
            self.lease(*self._to_lease.popleft())

    def lease(self, vsid: Vsid, ca: CustomerAddress, node: str = "edge-1") -> Lease:
        """Lease an address of a gateway's pool, and tell every node."""
        held = self.nodes[node].directory.leases(vsid, ca)
        lease = next((each for each in held if each.node == node), None)
        if lease is None:
            lease = Lease(self.address(node, ca.version), vsid, ca, node)
            self.tell([PutLease(lease)])
        return lease

    def give_back(self, lease: Lease) -> None:
        """End a lease, and tell every node."""
        self.tell([DeleteLease(lease.pa)])

    def move(self, record: LookupRecord) -> None:
        """Have a record be as given, and tell every node."""
        self.records[record.vsid, record.ca] = record
        self.tell([Put(record)])

    def tell(self, changes: list[Change]) -> None:
        """Tell every node of changes."""
        for name in self.nodes:
            self.tell_one(name, changes)

    def tell_one(self, name: str, changes: list[Change]) -> None:
        """Tell one node of changes."""
        self._emit(name, self.nodes[name].apply(changes, self.now))

    def address(self, node: str, version: int) -> ProviderAddress:
        """Return an address of a node's pool that nobody has had."""
        pool = next(each for each in self._pools[node] if each.version == version)
        number = self._handed[str(pool)] = self._handed.get(str(pool), 0) + 1
        return ProviderAddress((pool.network_address + number).packed)

    def record(self, vm: Vm, version: int = 4) -> LookupRecord:
        """Return the record of a VM."""
        tenant, subnet, number = vm
        return self.records[
            Vsid(n.VSIDS[tenant, subnet]), CustomerAddress.parse(n.ca(subnet, number, version))
        ]

    def _records(self) -> Iterable[LookupRecord]:
        for record in n.directory(self.network):
            vm = next(
                (tenant, subnet, number)
                for (tenant, subnet), vsid in n.VSIDS.items()
                for number in (5, 6)
                if vsid == record.vsid and n.mac(tenant, subnet, number) == record.mac
            )
            if vm in self.rewritten:
                yield msgspec.structs.replace(
                    record,
                    translation=Translation.REWRITE,
                    pa=self.address(record.host, record.ca.version),
                    epoch=1,
                    revision=1,
                )
            else:
                yield record

    def _listener(self, name: str) -> Callable[[Happening], None]:
        def heard(happening: Happening) -> None:
            if isinstance(happening, Wanted):
                self.asked.append((name, happening.vsid, happening.ca))
                self._to_lease.append((happening.vsid, happening.ca))

        return heard

    def _emit(self, name: str, emissions: Iterable[Emission]) -> None:
        for emission in emissions:
            if isinstance(emission, ToPort):
                self.at_ports.append((name, emission))
            elif isinstance(emission, ToSite):
                self.at_sites.append((name, emission))
            else:
                self.on_wire.append(emission)
                self._across(emission)

    def _across(self, emission: ToUnderlay | ToProvider) -> None:
        if isinstance(emission, ToUnderlay):
            target = next(name for name in self.nodes if emission.destination in addresses_of(name))
            outer = OuterHeader(emission.source, emission.destination, emission.ecn, emission.hop_limit)
            self.carry(target, self.nodes[target].from_underlay(outer, emission.payload, self.now))
            return
        destination = ip.decode_untrusted(emission.packet).destination
        for name, forwarder in self.nodes.items():
            if forwarder.answers_for(destination, self.now):
                self.carry(name, forwarder.from_provider(emission.packet, self.now))
                return
        raise AssertionError(f"nobody answers for {ProviderAddress(destination)}")


def addresses_of(name: str) -> tuple[ProviderAddress, ...]:
    """A node's provider addresses."""
    return n.pa(name), n.pa(name, 6)
