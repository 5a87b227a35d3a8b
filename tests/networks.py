"""A small network that most tests of forwarding share, and frames to throw at it.

Red and Blue use the same customer addresses on the same two hosts:

    hv1 198.51.100.11, 2001:db8::11      hv2 203.0.113.12, 2001:db8::12      edge-1 192.0.2.254, 2001:db8::254
    web VSID 5001 / 6001: .5 (and fd00:1::5) on hv1, .6 on hv2
    db  VSID 5002 / 6002: .5 (and fd00:2::5) on hv2, .6 on hv1
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, GRE, Ether
from scapy.packet import Packet, Raw

from gateway.forwarding.directory import Directory
from gateway.forwarding.drops import DropReason
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import (
    Answer,
    Drop,
    Emission,
    Forward,
    OuterHeader,
    PortKey,
    ToPort,
    ToSite,
    ToUnderlay,
    Verdict,
)
from gateway.packets.ndp import solicited_node
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid, gateway_mac
from policies.model import (
    AccessRule,
    CustomerRoute,
    FlowIdMode,
    IkeIdentity,
    Limits,
    LookupRecord,
    Network,
    Port,
    ProviderGateway,
    ProviderHost,
    Site,
    Tenant,
    VirtualSubnet,
)
from policies.selectors import Selectors, TrafficSelector
from policies.tables import Tables

BROADCAST = "ff:ff:ff:ff:ff:ff"

PROVIDER = {
    "hv1": ("198.51.100.11", "2001:db8::11"),
    "hv2": ("203.0.113.12", "2001:db8::12"),
    "edge-1": ("192.0.2.254", "2001:db8::254"),
}
VSIDS = {("red", "web"): 5001, ("red", "db"): 5002, ("blue", "web"): 6001, ("blue", "db"): 6002}
PLACES = {("web", 5): "hv1", ("web", 6): "hv2", ("db", 5): "hv2", ("db", 6): "hv1"}


def pa(node: str, version: int = 4) -> ProviderAddress:
    """A node's provider address of an IP version."""
    return ProviderAddress.parse(PROVIDER[node][0 if version == 4 else 1])


def ca(subnet: str, host: int, version: int = 4) -> str:
    """A customer address, in text: the same for both tenants."""
    number = 1 if subnet == "web" else 2
    return f"10.0.{number}.{host}" if version == 4 else f"fd00:{number}::{host:x}"


def mac(tenant: str, subnet: str, host: int) -> MacAddress:
    """A VM's MAC: unlike its address, it tells the tenant."""
    return MacAddress(bytes((2, 0, 0, tenant == "blue", subnet == "db", host)))


def records(tenant: str, pa_version: int = 4) -> Iterable[LookupRecord]:
    """A tenant's four VMs, in both families."""
    for (subnet, number), host in PLACES.items():
        for version in (4, 6):
            yield LookupRecord(
                vsid=Vsid(VSIDS[tenant, subnet]),
                ca=CustomerAddress.parse(ca(subnet, number, version)),
                mac=mac(tenant, subnet, number),
                pa=pa(host, pa_version),
                host=host,
            )


def tenant(
    name: str,
    *,
    access: tuple[AccessRule, ...] = (),
    routes: tuple[CustomerRoute, ...] = (),
    sites: tuple[Site, ...] = (),
    limits: Limits | None = None,
    broadcast: bool = False,
) -> Tenant:
    """Red or Blue, which differ in their VSIDs only."""
    subnets = tuple(
        VirtualSubnet(
            name=subnet,
            vsid=Vsid(VSIDS[name, subnet]),
            prefixes=(ip_network(f"10.0.{number}.0/24"), ip_network(f"fd00:{number}::/64")),
            gateway_addresses=(
                CustomerAddress.parse(f"10.0.{number}.1"),
                CustomerAddress.parse(f"fd00:{number}::1"),
            ),
            broadcast=broadcast,
        )
        for number, subnet in ((1, "web"), (2, "db"))
    )
    return Tenant(
        name=name,
        gateways=("edge-1",),
        subnets=subnets,
        access=access,
        routes=routes,
        sites=sites,
        limits=limits,
    )


def network(*tenants: Tenant, flow_id: FlowIdMode = FlowIdMode.HASH) -> Network:
    """Red and Blue, unless others are given, on two hosts and behind one gateway."""
    tenants = tenants or (tenant("red"), tenant("blue"))
    names = tuple(each.name for each in tenants)
    return Network(
        hosts=tuple(
            ProviderHost(
                name=host, provider_addresses=(pa(host), pa(host, 6)), tenants=names, flow_id=flow_id
            )
            for host in ("hv1", "hv2")
        ),
        gateways=(ProviderGateway(name="edge-1", provider_addresses=(pa("edge-1"), pa("edge-1", 6))),),
        tenants=tenants,
    )


def directory(net: Network, pa_version: int = 4) -> Directory:
    """All VMs of all tenants of a network."""
    return Directory(record for each in net.tenants for record in records(each.name, pa_version))


def gateway(net: Network | None = None, *, pa_version: int = 4, mtu: int = 1500) -> Forwarder:
    """The pipeline of edge-1."""
    net = net or network()
    node = Node(
        name="edge-1",
        provider_addresses=(pa("edge-1"), pa("edge-1", 6)),
        underlay_mtu=mtu,
        is_gateway=True,
        ports={},
    )
    return Forwarder(node, Tables.compile(net), directory(net, pa_version))


def ports_of(name: str, net: Network) -> dict[PortKey, Port]:
    """A port for each VM of a host."""
    ports = {}
    for each in net.tenants:
        for (subnet, number), place in PLACES.items():
            if place == name:
                port = Port(
                    interface=f"{each.name}-{subnet}{number}",
                    tenant=each.name,
                    vsid=Vsid(VSIDS[each.name, subnet]),
                    mac=mac(each.name, subnet, number),
                    addresses=tuple(CustomerAddress.parse(ca(subnet, number, version)) for version in (4, 6)),
                )
                ports[port.vsid, port.mac] = port
    return ports


def own_records(name: str, net: Network | None = None) -> Directory:
    """What a host knows by itself: the records of its own ports."""
    return Directory(record for record in directory(net or network()) if record.host == name)


def host(
    name: str, net: Network | None = None, *, known: Directory | None = None, mtu: int = 1500
) -> Forwarder:
    """The pipeline of hv1 or hv2, with a port for each of its VMs."""
    net = net or network()
    node = Node(
        name=name,
        provider_addresses=(pa(name), pa(name, 6)),
        underlay_mtu=mtu,
        is_gateway=False,
        ports=ports_of(name, net),
    )
    return Forwarder(node, Tables.compile(net), known if known is not None else directory(net))


def port(tenant_name: str, subnet: str, number: int) -> tuple[Vsid, MacAddress]:
    """What names a VM's port."""
    return Vsid(VSIDS[tenant_name, subnet]), mac(tenant_name, subnet, number)


def router_mac(tenant_name: str, subnet: str) -> MacAddress:
    """The gateway's MAC in a virtual subnet."""
    return gateway_mac(Vsid(VSIDS[tenant_name, subnet]))


def frame(
    tenant_name: str,
    source: tuple[str, int],
    destination: tuple[str, int],
    *,
    version: int = 4,
    upper: Packet | None = None,
    **ip_fields: object,
) -> Packet:
    """A frame from one VM to another: to the gateway's MAC where the subnets differ."""
    routed = source[0] != destination[0]
    to = router_mac(tenant_name, source[0]) if routed else mac(tenant_name, *destination)
    layer = IP if version == 4 else IPv6
    if upper is None:
        upper = UDP(sport=1111, dport=2222) / Raw(b"payload")
    return (
        Ether(dst=str(to), src=str(mac(tenant_name, *source)))
        / layer(src=ca(*source, version), dst=ca(*destination, version), **ip_fields)
        / upper
    )


def tcp(flags: str, *, options: tuple[tuple[str, int], ...] = (), size: int = 0) -> Packet:
    """A TCP segment between fixed ports."""
    return TCP(sport=1111, dport=5432, flags=flags, options=list(options)) / Raw(bytes(size))


def nvgre(tenant_name: str, subnet: str, inner: Packet | bytes, flow_id: int = 0) -> bytes:
    """What follows the outer IP header: GRE and the frame, as scapy builds them."""
    key = VSIDS[tenant_name, subnet] << 8 | flow_id
    return bytes(GRE(key_present=1, proto=0x6558, key=key) / Raw(bytes(inner)))


def receive(
    forwarder: Forwarder,
    inner: Packet | bytes,
    *,
    sender: str = "hv1",
    tenant: str = "red",
    subnet: str = "web",
    version: int = 4,
    ecn: int = 0,
    now: float = 0,
) -> Verdict:
    """Bring a frame across the underlay, in NVGRE from a node to `forwarder`."""
    outer = from_host(sender, to=forwarder.node.name, version=version, ecn=ecn)
    return forwarder.from_underlay(outer, nvgre(tenant, subnet, inner), now)


def send(
    forwarder: Forwarder, source: tuple[str, str, int], inner: Packet | bytes, now: float = 0
) -> Verdict:
    """Have a VM, named by tenant, subnet and number, send a frame at its port."""
    return forwarder.from_port(port(*source), bytes(inner), now)


def arp_request(
    tenant_name: str, asker: tuple[str, int], target: str, *, source: str | None = None, to: str = BROADCAST
) -> Packet:
    """Who has `target`? Asked by a VM, from its own address unless said otherwise."""
    own = str(mac(tenant_name, *asker))
    psrc = ca(*asker) if source is None else source
    return Ether(src=own, dst=to) / ARP(op=1, hwsrc=own, psrc=psrc, hwdst="00:00:00:00:00:00", pdst=target)


def solicitation(
    tenant_name: str,
    asker: tuple[str, int],
    target: str,
    *,
    source: str | None = None,
    to: str | None = None,
    hop_limit: int = 255,
) -> Packet:
    """The same in IPv6: to the solicited-node group, with the asker's MAC unless it has no address yet."""
    own = str(mac(tenant_name, *asker))
    asked = CustomerAddress.parse(target)
    group = str(CustomerAddress(solicited_node(asked)))
    src = ca(*asker, 6) if source is None else source
    message = ICMPv6ND_NS(tgt=target)
    if src != "::":
        message /= ICMPv6NDOptSrcLLAddr(lladdr=own)
    if to is None:
        to, destination = f"33:33:ff:{asked[13:].hex(':')}", group
    else:
        destination = target
    return Ether(src=own, dst=to) / IPv6(src=src, dst=destination, hlim=hop_limit) / message


def site(name: str, *prefixes: str, gateway: str = "edge-1") -> Site:
    """An on-premise network behind a gateway."""
    return Site(
        name=name,
        gateway=gateway,
        prefixes=tuple(ip_network(prefix) for prefix in prefixes),
        peer=ProviderAddress.parse("203.0.113.7"),
        ike=IkeIdentity(local_id="edge-1.example", remote_id=f"{name}.example"),
    )


SEATTLE = "172.16.0.0/16", "fd99::/16"
OSLO = "172.17.0.0/16", "fd98::/16"


def selectors(
    remote: Iterable[str] = SEATTLE, local: Iterable[str] = ("10.0.0.0/16", "fd00::/16")
) -> Selectors:
    """Those of a child SA: all that a tenant has here, and a site's prefixes."""
    return Selectors(
        tuple(TrafficSelector.of(ip_network(prefix)) for prefix in local),
        tuple(TrafficSelector.of(ip_network(prefix)) for prefix in remote),
    )


BY_SEATTLE = selectors()


def connected(
    *tenants: Tenant, mtu: int = 1400, child: Selectors = BY_SEATTLE, underlay_mtu: int = 1500
) -> Forwarder:
    """The pipeline of edge-1, with each tenant's site seattle up; Red and Blue have one unless given."""
    tenants = tenants or tuple(tenant(name, sites=(site("seattle", *SEATTLE),)) for name in ("red", "blue"))
    forwarder = gateway(network(*tenants), mtu=underlay_mtu)
    for each in tenants:
        forwarder.sites.site_is_up((each.name, "seattle"), mtu, [child])
    return forwarder


def on_premise(host: int = 5, version: int = 4) -> str:
    """A host's address at seattle: the same for both tenants."""
    return f"172.16.0.{host}" if version == 4 else f"fd99::{host:x}"


def through_tunnel(
    forwarder: Forwarder,
    packet: Packet | bytes,
    *,
    tenant: str = "red",
    name: str = "seattle",
    child: Selectors = BY_SEATTLE,
    ecn: int = 0,
    now: float = 0,
) -> Verdict:
    """Bring a decrypted packet from a site."""
    return forwarder.from_site((tenant, name), bytes(packet), child, ecn, now)


def to_site(verdict: Verdict) -> tuple[ToSite, Packet]:
    """The one emission into a tunnel, and the packet as scapy reads it."""
    emission = only(verdict)
    assert isinstance(emission, ToSite), emission
    return emission, (IP if emission.packet[0] >> 4 == 4 else IPv6)(emission.packet)


def from_host(name: str, *, to: str = "edge-1", version: int = 4, ecn: int = 0) -> OuterHeader:
    """The outer header of a packet between two nodes."""
    return OuterHeader(source=bytes(pa(name, version)), destination=bytes(pa(to, version)), ecn=ecn)


def only(verdict: Verdict) -> Emission:
    """The one emission of a packet that goes on or is answered."""
    assert isinstance(verdict, Forward | Answer), verdict
    assert len(verdict.emissions) == 1, verdict
    return verdict.emissions[0]


def to_underlay(verdict: Verdict) -> tuple[ToUnderlay, Ether]:
    """The one emission towards the underlay, and the frame in it as scapy reads it."""
    emission = only(verdict)
    assert isinstance(emission, ToUnderlay), emission
    gre = GRE(emission.payload)
    assert (gre.key_present, gre.proto) == (1, 0x6558)
    assert gre.key >> 8 == emission.vsid
    return emission, Ether(bytes(gre.payload))


def to_port(verdict: Verdict) -> tuple[ToPort, Ether]:
    """The one emission towards a port, and its frame as scapy reads it."""
    emission = only(verdict)
    assert isinstance(emission, ToPort), emission
    return emission, Ether(emission.frame)


def dropped(verdict: Verdict, reason: DropReason) -> tuple[Emission, ...]:
    """What a sender is told of a packet that was dropped for a reason."""
    assert isinstance(verdict, Drop), verdict
    assert verdict.reason is reason, verdict
    return verdict.emissions
