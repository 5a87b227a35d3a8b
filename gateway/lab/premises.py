"""Enterprises' premises, and the internet between them and the datacenter.

    server ----- device ---(nat)--- internet ----- underlay ----- edge-1
    172.16.0.10    172.16.0.1

All premises have the very same addresses inside, as tenants have. The device
is where a VPN peer runs; a NAT router may stand before it, and before several.
"""

from __future__ import annotations

import ipaddress

from pyroute2 import NFCTSocket

from gateway.lab.namespaces import Namespace
from gateway.lab.topology import UPLINK, VM_INTERFACE, Datacenter, Node, Plan, Site, Subnet, Vm

PREFIXES = ("172.16.0.0/16", "fd16::/64")
SERVER = ("172.16.0.10", "fd16::10")
SERVER_MAC = "02:00:00:00:ac:10"
DEVICE = ("172.16.0.1", "fd16::1")

# What the datacenter's underlay knows as the internet, and what it uses between the two routers.
INTERNET = ("198.18.0.0/15", "2001:db8:f000::/36")
LAN = "lan"

_LENGTHS = {False: 24, True: 64}  # of the device's outer network, by whether it is IPv6


class Nat:
    """A router that hides what is behind it: IPv4 only, many devices, one public address."""

    def __init__(self, namespace: Namespace, address: str) -> None:
        self.namespace = namespace
        self.address = address
        self._devices = 0
        namespace.sysctl({"net/ipv4/ip_forward": 1})
        self._translate("masquerade")

    def reboot(self, first_port: int = 30000) -> None:
        """Forget every translation; new ones have ports from another range."""
        self._translate(f"meta l4proto udp masquerade to :{first_port}-{first_port + 999}")
        self.namespace.call(_flush_connections)

    def next_network(self) -> tuple[str, ipaddress.IPv4Network]:
        """Return the name of the next interface inside, and its private network."""
        self._devices += 1
        return f"inside{self._devices}", ipaddress.IPv4Network(f"192.168.{self._devices}.0/24")

    def _translate(self, statement: str) -> None:
        rules = (
            "table ip nat",
            "delete table ip nat",
            "table ip nat {",
            "  chain postrouting {",
            "    type nat hook postrouting priority srcnat",
            f"    oifname {UPLINK} {statement}",
            "  }",
            "}",
        )
        self.namespace.run("nft", "-f", "-", stdin="\n".join(rules) + "\n")


class Premises:
    """One enterprise's network: its VPN device, and a server behind it."""

    def __init__(
        self, name: str, device: Namespace, server: Namespace, addresses: tuple[str, ...], public: str
    ) -> None:
        self.name = name
        self.device = device
        self.server = server
        self.addresses = addresses
        """The device's own, outside; behind a NAT router of IPv4 only."""
        self.public = public
        """What others see of it: a NAT router's, where there is one."""


def as_datacenter(place: Premises, tenant: str, vsid: int, datacenter: Site) -> Plan:
    """Plan the premises for an isthmus as the device: a gateway that is its own one host, of the server."""
    node = Node(place.name, tuple(f"{address}/{_LENGTHS[':' in address]}" for address in place.addresses))
    lan = Subnet(tenant, "lan", vsid, PREFIXES, DEVICE)
    server = Vm(
        name=place.server.name,
        tenant=tenant,
        subnet=lan.name,
        vsid=vsid,
        host=place.name,
        port=LAN,
        mac=SERVER_MAC,
        addresses=SERVER,
        gateways=DEVICE,
    )
    return Plan(hosts=(node,), gateways=(node,), subnets=(lan,), vms=(server,), sites=(datacenter,))


class Internet:
    """A router beside the datacenter's, on which premises and NAT routers hang."""

    def __init__(self, lab: Datacenter) -> None:
        self.lab = lab
        self.router = lab.namespace("internet")
        self._attached = 0
        self.router.sysctl({"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1})
        lab.link(lab.router, "internet", self.router, "datacenter")
        lab.router.ip(
            "address add 198.18.0.1/24 dev internet",
            "address add 2001:db8:f000::1/64 dev internet",
            f"route add {INTERNET[0]} via 198.18.0.2",
            f"route add {INTERNET[1]} via 2001:db8:f000::2",
        )
        self.router.ip(
            "address add 198.18.0.2/24 dev datacenter",
            "address add 2001:db8:f000::2/64 dev datacenter",
            "route add 0.0.0.0/0 via 198.18.0.1",
            "route add ::/0 via 2001:db8:f000::1",
        )

    def nat(self, name: str = "nat") -> Nat:
        """Attach a NAT router."""
        namespace = self.lab.namespace(name)
        return Nat(namespace, self._attach(namespace)[0])

    def premises(self, name: str, behind: Nat | None = None, *, routed: bool = True) -> Premises:
        """Attach an enterprise's premises, directly or behind a NAT router.

        With `routed` the device's own kernel routes; else its LAN interface is left to what runs there.
        """
        device, server = self.lab.namespace(name), self.lab.namespace(f"{name}-server")
        addresses = self._attach(device) if behind is None else self._attach_behind(behind, device)
        self.lab.link(server, VM_INTERFACE, device, LAN)
        server.ip(f"link set {VM_INTERFACE} address {SERVER_MAC}")
        if routed:
            device.sysctl({"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1})
        else:
            device.sysctl({f"net/ipv6/conf/{LAN}/disable_ipv6": 1})
            device.ip(f"link set {LAN} arp off")
        for own, gateway, prefix in zip(SERVER, DEVICE, PREFIXES, strict=True):
            length = prefix.partition("/")[2]
            everything = "::/0" if ":" in own else "0.0.0.0/0"
            if routed:
                device.ip(f"address add {gateway}/{length} dev {LAN}")
            server.ip(f"address add {own}/{length} dev {VM_INTERFACE}")
            server.ip(f"route add {everything} via {gateway}")
        self.lab.wait_until_ready([device, server])
        return Premises(name, device, server, addresses, behind.address if behind else addresses[0])

    def _attach(self, namespace: Namespace) -> tuple[str, ...]:
        self._attached += 1
        n = self._attached
        self.lab.link(namespace, UPLINK, self.router, namespace.name)
        self.router.ip(
            f"address add 198.18.{n}.1/24 dev {namespace.name}",
            f"address add 2001:db8:f{n:03x}::1/64 dev {namespace.name}",
        )
        namespace.ip(
            f"address add 198.18.{n}.2/24 dev {UPLINK}",
            f"address add 2001:db8:f{n:03x}::2/64 dev {UPLINK}",
            f"route add 0.0.0.0/0 via 198.18.{n}.1",
            f"route add ::/0 via 2001:db8:f{n:03x}::1",
        )
        return f"198.18.{n}.2", f"2001:db8:f{n:03x}::2"

    def _attach_behind(self, nat: Nat, device: Namespace) -> tuple[str, ...]:
        interface, network = nat.next_network()
        self.lab.link(device, UPLINK, nat.namespace, interface)
        nat.namespace.ip(f"address add {network[1]}/24 dev {interface}")
        device.ip(f"address add {network[2]}/24 dev {UPLINK}", f"route add 0.0.0.0/0 via {network[1]}")
        return (str(network[2]),)


def _flush_connections() -> None:
    with NFCTSocket() as connections:
        connections.flush()
