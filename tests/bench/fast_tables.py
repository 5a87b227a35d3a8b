"""The fast path's program with the tables of many tenants and records, as the engine would write them."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_network

from gateway.fastpath.blocks import blocks_for
from gateway.fastpath.images import images_of
from gateway.fastpath.instance import Instance
from gateway.fastpath.layout import CARRIES, HOP
from gateway.fastpath.sizes import Sizes
from gateway.forwarding.node import Node
from gateway.forwarding.pmtu import OVERHEAD_IPV4
from gateway.lab.namespaces import Namespace
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.facts import TCP
from policies.model import (
    AccessRule,
    Action,
    Endpoint,
    Limits,
    LookupRecord,
    Network,
    PortRange,
    ProviderGateway,
    ProviderHost,
    Tenant,
    VirtualSubnet,
)
from policies.tables import Tables
from tests.bench.fast_frames import CLIENT, CLIENT_MAC, CLIENTS, FIRST, SERVERS, VSID
from tests.bench.fast_line import EDGE, MACS, SENDER

WEB, DB = ip_network(CLIENTS), ip_network(SERVERS)
RULES = (
    AccessRule(
        name="no-ssh",
        action=Action.DENY,
        destination=Endpoint(subnet="db"),
        protocol=TCP,
        ports=(PortRange(22, 22),),
    ),
    AccessRule(
        name="web-to-db",
        action=Action.ALLOW,
        source=Endpoint(subnet="web"),
        destination=Endpoint(subnet="db"),
    ),
)
LIMITS = Limits(rate=10**12, burst=10**9)

HOSTS = 500
FEWEST_HOSTS = 8
"""So many each tenant has its VMs on at least; one alone has them on all."""
_UNDERLAY_MTU = 1500
_SEED = 0x7637_7637_7637_7637


def network(tenants: int) -> Network:
    """Tenants with two subnets, two rules and a rate each, and the hosts of all."""
    names = tuple(f"tenant-{n}" for n in range(tenants))
    of_hosts: dict[int, list[str]] = {}
    for n, name in enumerate(names):
        for host in _hosts_of(n, tenants):
            of_hosts.setdefault(host, []).append(name)
    return Network(
        hosts=(
            ProviderHost(name="hv1", provider_addresses=(SENDER,), tenants=names),
            *(
                ProviderHost(name=name, provider_addresses=(pa,), tenants=tuple(of_hosts[n]))
                for n, (name, pa) in enumerate(_hosts())
                if n in of_hosts
            ),
        ),
        gateways=(ProviderGateway(name="edge-1", provider_addresses=(EDGE,)),),
        tenants=tuple(
            Tenant(
                name=name,
                gateways=("edge-1",),
                subnets=(
                    VirtualSubnet("web", Vsid(VSID + 2 * n), (WEB,), (CustomerAddress.parse("10.0.0.1"),)),
                    VirtualSubnet("db", Vsid(VSID + 2 * n + 1), (DB,), (CustomerAddress.parse("64.0.0.1"),)),
                ),
                access=RULES,
                limits=LIMITS,
            )
            for n, name in enumerate(names)
        ),
    )


def records(tenants: int, each: int, stride: int) -> Iterator[LookupRecord]:
    """Where each tenant's packets come from, and so many that they go to, so far apart."""
    hosts = list(_hosts())
    for tenant in range(tenants):
        web, db = Vsid(VSID + 2 * tenant), Vsid(VSID + 2 * tenant + 1)
        yield LookupRecord(vsid=web, ca=CLIENT, mac=CLIENT_MAC, pa=SENDER, host="hv1")
        own = _hosts_of(tenant, tenants)
        for number, ca in enumerate(_addresses(each, stride)):
            host, pa = hosts[own[number * 7 % len(own)]]
            mac = MacAddress(b"\x02\1" + number.to_bytes(4))
            yield LookupRecord(vsid=db, ca=ca, mac=mac, pa=pa, host=host)


def load(edge: Namespace, tenants: int, each: int, stride: int) -> Instance:
    """Load the program, for packets from `to-sender`, and write its tables. Raises BpfRefused."""
    prefixes, alone = blocks_for(_addresses(each, stride))
    tables = Tables.compile(network(tenants))
    node = Node(
        name="edge-1", provider_addresses=(EDGE,), underlay_mtu=_UNDERLAY_MTU, is_gateway=True, ports={}
    )
    images = images_of(tables, node)
    hosts: dict[bytes, str | None] = {EDGE: None, SENDER: "hv1"}
    hosts.update((pa, name) for name, pa in _hosts())
    instance = Instance.load(
        Sizes.for_network(images, tenants * (alone + 1), 0, len(hosts), tenants * len(prefixes)), _SEED
    )
    indices = {name: edge.call(socket.if_nametoindex, name) for name in ("to-sender", "to-receiver")}
    edge.call(instance.settle, node, {index: MACS[name] for name, index in indices.items()})
    instance.peers.know(hosts)
    for name, image in images.items():
        instance.write(image)
        instance.carry(name)
    for tenant in range(tenants):
        instance.expect(Vsid(VSID + 2 * tenant + 1), prefixes)
    for address, host in hosts.items():
        if host is not None:
            way = ("sender", "to-sender") if host == "hv1" else ("receiver", "to-receiver")
            port = instance.port_of(indices[way[1]])
            mtu = _UNDERLAY_MTU - OVERHEAD_IPV4
            own, there = bytes(EDGE).ljust(16, b"\0"), address.ljust(16, b"\0")
            instance.peers.reach(
                ProviderAddress(address),
                HOP.pack(0, port, mtu, mtu, MACS[way[0]], MACS[way[1]], own, there),
                0.0,
            )
    for record in records(tenants, each, stride):
        instance.put(record, tables, node)
    if instance.without_place:
        raise AssertionError(f"{instance.without_place} records found no place")
    instance.switch(CARRIES)
    return instance


class Counted:
    """Counts packets that the program carries, and makes sure that it does nothing else."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._dropped: Counter[str] = Counter()
        self.carried()

    def carried(self) -> int:
        """Return how many since the last look."""
        counts = self._instance.counts
        before = counts.carried
        counts.take(lambda reason, _, more: self._dropped.update({reason: more}), lambda _: None)
        if self._dropped or counts.passed:
            raise AssertionError(f"not all was carried: dropped {self._dropped}, passed {counts.passed}")
        return counts.carried - before


def _hosts_of(tenant: int, tenants: int) -> list[int]:
    count = max(FEWEST_HOSTS, HOSTS // tenants)
    return [(tenant * FEWEST_HOSTS + n) % HOSTS for n in range(count)]


def _addresses(count: int, stride: int) -> Iterator[CustomerAddress]:
    first = int.from_bytes(FIRST)
    for number in range(count):
        yield CustomerAddress((first + number * stride).to_bytes(4))


def _hosts() -> Iterator[tuple[str, ProviderAddress]]:
    """Those that packets go to; all are behind the receiver."""
    for number in range(HOSTS):
        yield f"host-{number}", ProviderAddress(b"\xc6\x12" + number.to_bytes(2))
