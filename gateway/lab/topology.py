"""The datacenter that the demo, the tests and the benchmarks share.

      hv1                                   hv2
   vnet0, vnet2 .. <- VMs' ports ->      vnet1, vnet3 ..
        eth1 |                        | eth1
             +------- underlay -------+
                         |
                         | eth1
                      edge-1

Every host and gateway is in a subnet of its own, and `underlay` is a plain
router between them; or all are on one link, and `underlay` is a switch and the
way out. Each box, and each VM, is a network namespace.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gateway.lab.far_end import takes_redirected_frames
from gateway.lab.laboratory import Laboratory
from gateway.lab.namespaces import Namespace, connect

UPLINK = "eth1"
VM_INTERFACE = "eth0"
LINK = "switch"
"""The bridge of the underlay, where all nodes are on one link."""
# Linux 5.16 and later.
_EVICTIONS = ("net/ipv4/conf/{}/arp_evict_nocarrier", "net/ipv6/conf/{}/ndisc_evict_nocarrier")


class Node(msgspec.Struct, frozen=True):
    """A host or a gateway: its name, and its underlay addresses with prefix lengths.

    `pools` are on its link too, beside its addresses: for what is rewritten.
    """

    name: str
    addresses: tuple[str, ...]
    pools: tuple[str, ...] = ()

    @property
    def interfaces(self) -> tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...]:
        return tuple(ipaddress.ip_interface(address) for address in self.addresses)

    @property
    def provider_addresses(self) -> tuple[str, ...]:
        """The addresses alone."""
        return tuple(str(interface.ip) for interface in self.interfaces)


class Vm(msgspec.Struct, frozen=True):
    """A virtual machine: where it is, and what it is told about its network.

    `addresses` have prefix lengths. With `detect_duplicates` it behaves as a
    default guest does and probes for its IPv6 addresses before it uses them.
    """

    name: str
    tenant: str
    subnet: str
    vsid: int
    host: str
    port: str
    mac: str
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    mtu: int = 1500
    detect_duplicates: bool = False

    def address(self, version: int = 4) -> str:
        """Return its customer address of one IP version, without the prefix length. Raises LookupError."""
        return _of_version(self.addresses, version)

    def gateway(self, version: int = 4) -> str:
        """Return its subnet's gateway address of one IP version. Raises LookupError."""
        return _of_version(self.gateways, version)


class Subnet(msgspec.Struct, frozen=True):
    """A virtual subnet of a tenant."""

    tenant: str
    name: str
    vsid: int
    prefixes: tuple[str, ...]
    gateways: tuple[str, ...]
    translation: str = "encap"


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """An on-premise network of a tenant, in the words of appliance.toml: `ike` and others are its keys."""

    tenant: str
    name: str
    prefixes: tuple[str, ...]
    peer: str
    ike: Mapping[str, Any]
    others: Mapping[str, Any] = {}
    gateway: str = "edge-1"


class Plan(msgspec.Struct, frozen=True):
    """All of a datacenter, as values."""

    hosts: tuple[Node, ...]
    gateways: tuple[Node, ...]
    subnets: tuple[Subnet, ...]
    vms: tuple[Vm, ...]
    sites: tuple[Site, ...] = ()
    underlay_mtu: int = 1500
    one_link: bool = False
    leases: Mapping[str, int] = {}
    """How many addresses of the gateways' pools a tenant may have at once, where the plan says so."""
    engine: str = "python"
    """The gateways'. Hosts decide by Python: only what passes from one to another is the fast path's."""

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self.hosts + self.gateways

    def vms_on(self, host: str) -> tuple[Vm, ...]:
        return tuple(vm for vm in self.vms if vm.host == host)


HOSTS = (
    Node(
        "hv1", ("198.51.100.11/24", "2001:db8:1::11/64"), pools=("198.51.100.128/25", "2001:db8:1::1:0/112")
    ),
    Node("hv2", ("203.0.113.12/24", "2001:db8:2::12/64"), pools=("203.0.113.128/25", "2001:db8:2::1:0/112")),
)
GATEWAYS = (
    Node("edge-1", ("192.0.2.254/24", "2001:db8::254/64"), pools=("192.0.2.128/26", "2001:db8::1:0/112")),
)

# The same on one link, where the hosts share a pool: a VM keeps its provider address when it moves.
SHARED = ("198.51.100.128/26", "2001:db8:1::1:0/112")
HOSTS_OF_ONE_LINK = (
    Node("hv1", ("198.51.100.11/24", "2001:db8:1::11/64"), pools=SHARED),
    Node("hv2", ("198.51.100.12/24", "2001:db8:1::12/64"), pools=SHARED),
)
GATEWAYS_OF_ONE_LINK = (
    Node(
        "edge-1",
        ("198.51.100.254/24", "2001:db8:1::254/64"),
        pools=("198.51.100.192/27", "2001:db8:1::2:0/112"),
    ),
)


def standard_plan(
    *,
    tenants: Sequence[str] = ("red", "blue"),
    subnets: Sequence[str] = ("web", "db"),
    vms_per_subnet: int = 2,
    underlay: Sequence[int] = (4, 6),
    underlay_mtu: int = 1500,
    detect_duplicates: bool = False,
    rewritten: Sequence[str] = (),
    one_link: bool = False,
    engine: str = "python",
) -> Plan:
    """Plan two hosts and a gateway, and tenants that all use the very same addresses.

    Every tenant's first subnet is 10.0.1.0/24 and fd00:1::/64, its second
    10.0.2.0/24 and fd00:2::/64, and so on; the VMs `red-web1`, `red-web2` ...
    have .5, .6 ... and lie alternately on hv1 and hv2, MACs included. VSIDs are
    5001, 5002 ... for the first tenant, 6001, 6002 ... for the second.
    `underlay` names the IP versions that the nodes have provider addresses of, `rewritten` the subnets whose
    VMs are carried by IP rewrite. With `one_link` the nodes are on one link, and the hosts share their pools.
    `engine` is the gateways'.
    """
    hosts, gateways = (HOSTS_OF_ONE_LINK, GATEWAYS_OF_ONE_LINK) if one_link else (HOSTS, GATEWAYS)
    planned_subnets: list[Subnet] = []
    vms: list[Vm] = []
    for t, tenant in enumerate(tenants):
        for s, name in enumerate(subnets, start=1):
            subnet = Subnet(
                tenant=tenant,
                name=name,
                vsid=5000 + 1000 * t + s,
                prefixes=(f"10.0.{s}.0/24", f"fd00:{s:x}::/64"),
                gateways=(f"10.0.{s}.1", f"fd00:{s:x}::1"),
                translation="rewrite" if name in rewritten else "encap",
            )
            planned_subnets.append(subnet)
            for v in range(vms_per_subnet):
                host = hosts[v % len(hosts)].name
                octet = 5 + v
                vms.append(
                    Vm(
                        name=f"{tenant}-{name}{v + 1}",
                        tenant=tenant,
                        subnet=name,
                        vsid=subnet.vsid,
                        host=host,
                        port=f"vnet{len(vms)}",
                        mac=f"02:00:00:00:{s:02x}:{octet:02x}",
                        addresses=(f"10.0.{s}.{octet}/24", f"fd00:{s:x}::{octet:x}/64"),
                        gateways=subnet.gateways,
                        detect_duplicates=detect_duplicates,
                    )
                )
    return Plan(
        hosts=tuple(_with_versions(node, underlay, bool(rewritten)) for node in hosts),
        gateways=tuple(_with_versions(node, underlay, bool(rewritten)) for node in gateways),
        subnets=tuple(planned_subnets),
        vms=tuple(vms),
        underlay_mtu=underlay_mtu,
        one_link=one_link,
        engine=engine,
    )


class Datacenter(Laboratory):
    """A plan, built: `with Datacenter(standard_plan()) as lab: lab.vm("red-web1").run("ping", ...)`."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self._hosts: dict[str, str] = {}
        self._far_ends = contextlib.ExitStack()

    def build(self) -> None:
        router = self.namespace("underlay")
        router.sysctl({"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1})
        if self.plan.one_link:
            router.ip(f"link add {LINK} type bridge mcast_snooping 0", f"link set {LINK} up")
        for node in self.plan.nodes:
            self._build_node(node, router)
        for vm in self.plan.vms:
            self.add_vm(vm)
        self.wait_until_ready(self.namespaces.values())

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._far_ends.close()

    @property
    def router(self) -> Namespace:
        """The underlay's router; its interfaces are named after the nodes behind them."""
        return self.namespaces["underlay"]

    def node(self, name: str) -> Namespace:
        """Return the namespace of a host or a gateway."""
        return self.namespaces[name]

    def vm(self, name: str) -> Namespace:
        """Return the namespace of a VM."""
        return self.namespaces[name]

    def host_of(self, name: str) -> str:
        """Return the name of the host that a VM is on now."""
        return self._hosts[name]

    def move(self, name: str, host: str) -> None:
        """Take a VM's port to another host, which has to bring it up. The VM sees its carrier go and come.

        Its addresses and its neighbours stay as they are, as in a guest that is migrated live.
        """
        vm = next(vm for vm in self.plan.vms if vm.name == name)
        target = self.namespaces[host]
        self.namespaces[self._hosts[name]].ip(f"link set {vm.port} netns {target.path}")
        self._hosts[name] = host

    def add_vm(self, vm: Vm) -> None:
        """Build a VM at its host.

        Offloads stay on, as in a default guest: its host sees unfinished checksums and super-packets.
        """
        self._hosts[vm.name] = vm.host
        host, guest = self.namespaces[vm.host], self.namespace(vm.name)
        connect(host, vm.port, guest, VM_INTERFACE)
        # The host's own stack has no business on a VM's wire: it neither speaks nor answers there.
        host.sysctl({f"net/ipv6/conf/{vm.port}/disable_ipv6": 1})
        host.ip(f"link set {vm.port} mtu {vm.mtu} arp off up")
        if vm.detect_duplicates:
            guest.sysctl({f"net/ipv6/conf/{scope}/accept_dad": 1 for scope in ("all", VM_INTERFACE)})
        # A guest that moves keeps its neighbours: its own link never goes down, as this one does here.
        guest.sysctl({pattern.format(VM_INTERFACE): 0 for pattern in _EVICTIONS if _exists(pattern)})
        lines = [f"link set {VM_INTERFACE} address {vm.mac} mtu {vm.mtu} up"]
        lines += [f"address add {address} dev {VM_INTERFACE}" for address in vm.addresses]
        lines += [_default_route(gateway, VM_INTERFACE) for gateway in vm.gateways]
        guest.ip(*lines)

    def _build_node(self, node: Node, router: Namespace) -> None:
        namespace = self.namespace(node.name)
        connect(namespace, UPLINK, router, node.name)
        inside = [f"link set {UPLINK} mtu {self.plan.underlay_mtu} up"]
        outside = [f"link set {node.name} mtu {self.plan.underlay_mtu} up"]
        if self.plan.one_link:
            outside.append(f"link set {node.name} master {LINK}")
        for interface in node.interfaces:
            gateway = interface.network[1]
            inside.append(f"address add {interface} dev {UPLINK}")
            inside.append(_default_route(str(gateway), UPLINK))
            to_it = LINK if self.plan.one_link else node.name
            outside.append(f"address replace {gateway}/{interface.network.prefixlen} dev {to_it}")
        router.ip(*outside)
        namespace.ip(*inside)
        if self.plan.engine != "python" and node in self.plan.gateways:
            router.call(self._far_ends.enter_context, takes_redirected_frames(node.name))


def _exists(pattern: str) -> bool:
    return Path("/proc/sys", pattern.format("all")).exists()


def _default_route(gateway: str, interface: str) -> str:
    everything = "0.0.0.0/0" if ipaddress.ip_address(gateway).version == 4 else "::/0"
    return f"route add {everything} via {gateway} dev {interface}"


def _with_versions(node: Node, versions: Sequence[int], has_pools: bool) -> Node:
    kept = (str(interface) for interface in node.interfaces if interface.version in versions)
    return Node(node.name, tuple(kept), node.pools if has_pools else ())


def _of_version(addresses: Sequence[str], version: int) -> str:
    for address in addresses:
        interface = ipaddress.ip_interface(address)
        if interface.version == version:
            return str(interface.ip)
    raise LookupError(f"no IPv{version} address among {', '.join(addresses)}")
