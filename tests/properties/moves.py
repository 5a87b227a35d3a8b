"""Hosts between which VMs move: directories learn of it late, and the network delivers in any order.

Some of the VMs are rewritten. Their hosts share a pool, so that they keep their addresses, or each has its
own. What is sent to such an address goes where the link believes it to be at that moment.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterator
from ipaddress import ip_network
from itertools import count, islice

import msgspec

from gateway.forwarding.directory import Directory, Put, PutLease
from gateway.forwarding.happenings import Happening, Heard, Stale, Wanted
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Emission, Held, OuterHeader, PortKey, ToPort, ToProvider, ToUnderlay
from gateway.packets import arp, ethernet, ip
from gateway.packets.arp import ArpPacket
from gateway.packets.ethernet import EthernetHeader
from policies.addresses import (
    BROADCAST_MAC,
    CustomerAddress,
    MacAddress,
    Prefix,
    ProviderAddress,
    Vsid,
    gateway_mac,
)
from policies.facts import UDP
from policies.model import (
    Lease,
    LookupRecord,
    Network,
    Port,
    ProviderGateway,
    ProviderHost,
    Tenant,
    Translation,
    VirtualSubnet,
)
from policies.tables import Tables

GATEWAY = "edge"
_UDP_PORTS = b"\x10\x00\x10\x01"


class Vm(msgspec.Struct, frozen=True):
    """A VM: the other tenant's has the same addresses and MAC."""

    tenant: str
    vsid: Vsid
    mac: MacAddress
    addresses: tuple[CustomerAddress, ...]
    number: int

    @property
    def key(self) -> PortKey:
        return self.vsid, self.mac


class Flight(msgspec.Struct, frozen=True, eq=False):
    """What is on its way to a node; None: to whichever answers for its address, once one does."""

    node: str | None
    emission: ToUnderlay | ToProvider


class Trace(msgspec.Struct):
    """What became of one frame so far."""

    sender: Vm
    receiver: Vm
    delivered: int = 0
    crossings: int = 0


class Moves:
    """A datacenter in which everything happens in an order that chance chooses."""

    def __init__(self, chance: random.Random, *, hosts: int) -> None:
        self.chance = chance
        self.now = 0.0
        self.hosts = [f"hv{number}" for number in range(1, hosts + 1)]
        self.pa = {name: ProviderAddress.parse(f"192.0.2.{n}") for n, name in enumerate(self.hosts, 1)}
        self.pa[GATEWAY] = ProviderAddress.parse("192.0.2.254")
        self.node_at = {address: name for name, address in self.pa.items()}
        self.is_shared = chance.random() < 0.5
        network = _network(self.pa, self.hosts, is_shared=self.is_shared)
        self.network = network
        self.tables = Tables.compile(network)
        self.vms = tuple(_vms(network))
        share = chance.choice((0.0, 0.5, 1.0))
        self.rewritten = {vm for vm in self.vms if chance.random() < share}
        self.place: dict[Vm, str | None] = {vm: chance.choice(self.hosts) for vm in self.vms}
        """Where each runs: nowhere during its pause."""
        self.revision = 0
        self.log: list[LookupRecord | Lease] = []
        self.learned = dict.fromkeys(self.pa, 0)
        self.claims: deque[tuple[Vm, str]] = deque()
        self.wanted: list[tuple[Vsid, CustomerAddress]] = []
        self.leased: dict[tuple[Vsid, CustomerAddress], Lease] = {}
        self.believed: dict[bytes, str] = {}
        """Where the link takes each address of a pool to be."""
        self.flights: list[Flight] = []
        self.seen: Counter[str] = Counter()
        self.traces: dict[bytes, Trace] = {}
        self.follows: dict[str, set[PortKey]] = {
            name: {
                vm.key for vm in self.vms if name == GATEWAY or vm in self.rewritten or chance.random() < 0.6
            }
            for name in self.pa
        }
        """Whose records each node is told."""
        self.lessons: list[tuple[str, PortKey]] = []
        self.taught = 0
        self.nodes = {name: self._node(name) for name in self.pa}
        for vm in self.vms:
            place = self.place[vm] or self.hosts[0]
            self.commit(vm, place)
            for name in self.hosts:
                if name == place:
                    self.nodes[name].moves.port_opened(vm.key, 0.0)
                else:
                    self.nodes[name].moves.port_closed(vm.key)
        for name in self.pa:
            self.learn_all(name)

    def _node(self, name: str) -> Forwarder:
        """Every host has a port for every VM: its interface is there while the VM is."""
        ports = {vm.key: Port(f"tap{n}", vm.tenant, *vm.key, vm.addresses) for n, vm in enumerate(self.vms)}
        is_gateway = name == GATEWAY
        host = None if is_gateway else name
        node = Node(name, (self.pa[name],), 1500, is_gateway, {} if is_gateway else ports, host)
        forwarder = Forwarder(node, self.tables, Directory())

        def hear(happening: Happening) -> None:
            if isinstance(happening, Heard):
                vm = self.vm_at(happening.port)
                assert self.place[vm] == name, "heard where it is not"
                self.claims.append((vm, name))
            elif isinstance(happening, Wanted):
                self.wanted.append((happening.vsid, happening.ca))
            else:
                assert isinstance(happening, Stale)
                record = happening.record
                self.lessons.append((self.node_at[happening.sender], (record.vsid, record.mac)))

        forwarder.happenings.on_happening = hear
        return forwarder

    def vm_at(self, key: PortKey) -> Vm:
        return next(vm for vm in self.vms if vm.key == key)

    def commit(self, vm: Vm, host: str) -> None:
        """The store moves a VM's records; nobody has learned it yet."""
        for ca in vm.addresses:
            self.revision += 1
            self.log.append(
                LookupRecord(
                    vm.vsid,
                    ca,
                    vm.mac,
                    self.address_of(vm, ca, host) if vm in self.rewritten else self.pa[host],
                    host,
                    Translation.REWRITE if vm in self.rewritten else Translation.ENCAP,
                    epoch=self.revision,
                    revision=self.revision,
                )
            )

    def address_of(self, vm: Vm, ca: CustomerAddress, host: str) -> ProviderAddress:
        """A VM's own at a host: it is nobody else's ever, and it has it back whenever it comes back."""
        pools = next(each.pools for each in self.network.hosts if each.name == host)
        pool = next(pool for pool in pools if pool.version == ca.version)
        return ProviderAddress(pool[vm.number].packed)

    def lease(self) -> None:
        """The store leases an address for a CA, unless it has one by now; nobody has learned it yet."""
        vsid, ca = self.wanted.pop(0)
        if (vsid, ca) not in self.leased:
            pool = next(pool for pool in self.network.gateways[0].pools if pool.version == ca.version)
            lease = Lease(ProviderAddress(pool[len(self.leased) + 1].packed), vsid, ca, GATEWAY)
            self.leased[vsid, ca] = lease
            self.log.append(lease)

    def records(self) -> Iterator[LookupRecord]:
        return (each for each in self.log if isinstance(each, LookupRecord))

    def recorded(self, vm: Vm) -> str:
        """Where the store says that a VM is."""
        return [each.host for each in self.records() if (each.vsid, each.mac) == vm.key][-1]

    def claim(self) -> None:
        """Carry the oldest claim out, unless all is as it says already, or its host has taken it back."""
        vm, host = self.claims.popleft()
        if self.recorded(vm) != host and self.place[vm] == host:
            self.commit(vm, host)

    def learn(self, name: str) -> None:
        """A node hears of the next change."""
        if self.learned[name] < len(self.log):
            record = self.log[self.learned[name]]
            self.learned[name] += 1
            if isinstance(record, Lease):
                self.send(name, self.nodes[name].apply([PutLease(record)], self.now))
                return
            if record.host == name:
                self.follows[name].add((record.vsid, record.mac))
            if (record.vsid, record.mac) in self.follows[name]:
                self.send(name, self.nodes[name].apply([Put(record)], self.now))
            if record.translation is Translation.REWRITE and record.host == name:
                self.believed[record.pa] = name  # it announces the address

    def teach(self) -> None:
        """A node is told a record as it is where its watch has got to, and follows it from there."""
        name, key = self.lessons.pop(0)
        if key in self.follows[name]:
            return
        self.follows[name].add(key)
        self.taught += 1
        behind = sum(isinstance(each, LookupRecord) for each in self.log[: self.learned[name]])
        known = [each for each in islice(self.records(), behind) if (each.vsid, each.mac) == key]
        self.send(name, self.nodes[name].apply([*map(Put, known[-2:])], self.now))

    def learn_all(self, name: str) -> None:
        while self.learned[name] < len(self.log):
            self.learn(name)

    def pause(self, vm: Vm) -> None:
        """A VM stops at its host, and its interface goes."""
        name = self.place[vm]
        assert name is not None
        self.place[vm] = None
        self.nodes[name].moves.port_closed(vm.key)

    def resume(self, vm: Vm, host: str, *, announces: bool) -> None:
        """It goes on at a host, where its interface has come; and says so itself, or its hypervisor does."""
        self.place[vm] = host
        self.send(host, self.nodes[host].moves.port_opened(vm.key, self.now))
        if announces:
            self.from_vm(vm, self.chance.choice((_reverse_arp(vm), _gratuitous_arp(vm))))

    def talk(self, sender: Vm, receiver: Vm) -> None:
        """A VM sends another a packet that is like no other."""
        mark = len(self.traces).to_bytes(8)
        version = self.chance.choice((4, 6))
        source, destination = (
            next(ca for ca in vm.addresses if ca.version == version) for vm in (sender, receiver)
        )
        payload = sender.tenant.encode().ljust(8) + mark
        segment = _UDP_PORTS + (8 + len(payload)).to_bytes(2) + bytes(2) + payload
        to = receiver.mac if receiver.vsid == sender.vsid else gateway_mac(sender.vsid)
        header = EthernetHeader(to, sender.mac, ethernet.OF_IP_VERSION[version])
        self.traces[mark] = Trace(sender, receiver)
        self.from_vm(sender, header.encode() + ip.build(source, destination, UDP, segment))

    def from_vm(self, vm: Vm, frame: bytes) -> None:
        name = self.place[vm]
        assert name is not None
        self.send(name, self.nodes[name].from_port(vm.key, frame, self.now).emissions)

    def land(self, flight: Flight) -> None:
        """A packet reaches its node."""
        emission = flight.emission
        name = flight.node or self._answering(emission)
        if name is None:
            return
        self.flights.remove(flight)
        node = self.nodes[name]
        data = emission.payload if isinstance(emission, ToUnderlay) else emission.packet
        trace = self.traces.get(data[-8:])
        if trace is not None:
            trace.crossings += 1
        if isinstance(emission, ToProvider):
            verdict = node.from_provider(data, self.now)
            self.seen["rewritten"] += 1
            self.seen["after a moved VM, by its host's own address"] += emission.via is not None
            self.seen["waited for news"] += isinstance(verdict, Held)
        else:
            # The routers on the way take their hops, too.
            outer = OuterHeader(emission.source, emission.destination, emission.ecn, emission.hop_limit - 2)
            verdict = node.from_underlay(outer, data, self.now)
        self.send(name, verdict.emissions)

    def send(self, name: str, emissions: tuple[Emission, ...]) -> None:
        for emission in emissions:
            if isinstance(emission, ToUnderlay):
                self.flights.append(Flight(self.node_at[emission.destination], emission))
            elif isinstance(emission, ToProvider):
                self.flights.append(Flight(self._next_on_link(name, emission), emission))
            else:
                assert isinstance(emission, ToPort)
                self._to_port(name, emission)

    def _next_on_link(self, sender: str, emission: ToProvider) -> str | None:
        """Who gets what is sent to an address of a pool, as far as its sender's kernel knows.

        That is whoever has announced it last: a node itself, then, knows of no other.
        """
        if emission.via is not None:
            return self.node_at[emission.via]
        believed = self.believed.get(ip.decode_untrusted(emission.packet).destination)
        return believed if believed != sender else None

    def _answering(self, emission: ToUnderlay | ToProvider) -> str | None:
        assert isinstance(emission, ToProvider)
        destination = ip.decode_untrusted(emission.packet).destination
        names = [name for name in self.nodes if self.nodes[name].answers_for(destination, self.now)]
        return self.chance.choice(names) if names else None

    def _to_port(self, name: str, emission: ToPort) -> None:
        vm = self.vm_at(emission.port)
        assert vm.tenant == emission.tenant
        if self.place[vm] != name:
            self.nodes[name].moves.hold(emission, self.now)
            return
        trace = self.traces.get(emission.frame[-8:])
        if trace is not None:
            assert trace.receiver is vm, "given to another VM"
            assert emission.frame[-16:-8].strip() == vm.tenant.encode(), "it left its tenant"
            trace.delivered += 1
            assert trace.delivered == 1, "delivered twice"

    def settle(self) -> None:
        """Let everything that is under way arrive, and everybody learn everything."""
        while not self._is_quiet() or any(
            len(each.moves.holding) or len(each.waiting) for each in self.nodes.values()
        ):
            while self.claims:
                self.claim()
            while self.lessons:
                self.teach()
            while self.wanted:
                self.lease()
            for name in self.pa:
                self.learn_all(name)
            for flight in list(self.flights):
                self.land(flight)
            if self._is_quiet():
                self._probe()
            if self._is_quiet():
                self.now += 1.0
                for name, node in self.nodes.items():
                    self.send(name, node.expire(self.now))

    def _is_quiet(self) -> bool:
        """Whether nothing happens until a time is over."""
        is_learned = all(n == len(self.log) for n in self.learned.values())
        return is_learned and not (self.claims or self.flights or self.wanted)

    def _probe(self) -> None:
        """Each host asks who is at its ports whose records are elsewhere: a VM that came back too soon."""
        for vm, name in self.place.items():
            if name is None or self.recorded(vm) == name:
                continue
            self.now += 1.0
            probe = self.nodes[name].probe(vm.key, vm.addresses[0])
            assert isinstance(probe, ToPort)
            request = arp.decode_untrusted(probe.frame[ethernet.HEADER_LENGTH :])
            reply = ArpPacket(
                arp.REPLY, vm.mac, request.target_address, request.sender_mac, request.sender_address
            )
            header = EthernetHeader(request.sender_mac, vm.mac, ethernet.ARP)
            self.from_vm(vm, header.encode() + reply.encode())
            assert self.claims, "its answer is not taken for one"

    def drops(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for node in self.nodes.values():
            for (reason, _), number in node.drops.counts.items():
                found[reason.value] += number
        return found

    def peers(self, vm: Vm) -> list[Vm]:
        return [other for other in self.vms if other.tenant == vm.tenant and other is not vm]


def _network(pa: dict[str, ProviderAddress], hosts: list[str], *, is_shared: bool) -> Network:
    def pools(number: int) -> tuple[Prefix, ...]:
        texts = f"100.64.{number}.0/24", f"2001:db8:64:{number}::/112"
        return tuple(ip_network(text) for text in texts)

    def tenant(name: str, vsid: int) -> Tenant:
        return Tenant(
            name,
            (GATEWAY,),
            tuple(
                VirtualSubnet(
                    f"s{number}",
                    Vsid(vsid + number),
                    (ip_network(f"10.0.{number}.0/24"), ip_network(f"fd00:{number}::/64")),
                    (
                        CustomerAddress.parse(f"10.0.{number}.1"),
                        CustomerAddress.parse(f"fd00:{number}::1"),
                    ),
                )
                for number in (1, 2)
            ),
        )

    tenants = tenant("red", 5000), tenant("blue", 6000)
    return Network(
        tuple(
            ProviderHost(name, (pa[name],), ("red", "blue"), pools=pools(0 if is_shared else number))
            for number, name in enumerate(hosts, 1)
        ),
        (ProviderGateway(GATEWAY, (pa[GATEWAY],), pools(254)),),
        tenants,
    )


def _vms(network: Network) -> Iterator[Vm]:
    numbers = count(1)
    for tenant in network.tenants:
        for number, subnet in enumerate(tenant.subnets, 1):
            for last in (5, 6):
                yield Vm(
                    tenant.name,
                    subnet.vsid,
                    MacAddress(bytes((2, 0, 0, 0, number, last))),
                    (
                        CustomerAddress.parse(f"10.0.{number}.{last}"),
                        CustomerAddress.parse(f"fd00:{number}::{last}"),
                    ),
                    next(numbers),
                )


def _reverse_arp(vm: Vm) -> bytes:
    """As QEMU says it for a VM that it has taken over."""
    packet = ArpPacket(arp.REVERSE_REQUEST, vm.mac, bytes(4), vm.mac, bytes(4))
    return (EthernetHeader(BROADCAST_MAC, vm.mac, ethernet.RARP).encode() + packet.encode()).ljust(60, b"\0")


def _gratuitous_arp(vm: Vm) -> bytes:
    ca = vm.addresses[0]
    packet = ArpPacket(arp.REQUEST, vm.mac, ca, bytes(6), ca)
    return EthernetHeader(BROADCAST_MAC, vm.mac, ethernet.ARP).encode() + packet.encode()
