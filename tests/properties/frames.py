"""What is thrown at a network: frames that are right, that deceive, and that are broken."""

from __future__ import annotations

import random
import struct

import msgspec

from gateway.forwarding.verdicts import OuterHeader, PortKey
from gateway.packets import arp, icmp, ip, ndp
from gateway.packets.checksum import internet_checksum, transport_checksum
from gateway.packets.ethernet import ARP, IPV4, IPV6, EthernetHeader
from policies.addresses import BROADCAST_MAC, ROUTER_LINK_LOCAL, CustomerAddress, gateway_mac
from policies.facts import ICMP, ICMPV6, TCP, UDP
from policies.model import SiteHop, Tenant
from policies.selectors import Selectors
from tests.fuzz.mutation import ipv4_checksum_at, mutations
from tests.properties.worlds import PORTS, Vm, World, gateway_of
from tunnels.effects import SiteKey

_MARK = b"\xfa\xce this belongs to %s \xfa\xce"

_SIZES = (0, 40, 1200, 1390, 1430, 1480, 2900, 6000)
_HOP_LIMITS = (64, 64, 64, 64, 255, 2, 1, 0)
_GROUPS = {4: ("224.0.0.251", "255.255.255.255"), 6: ("ff02::1", "ff05::2")}
_OUTSIDE = {4: ("203.0.113.9", "198.18.0.7", "172.16.3.4"), 6: ("2001:db8:ffff::1", "fd77::5", "fd00:77::1")}
_ODD_SOURCES = {4: ("0.0.0.0", "127.0.0.1", "224.0.0.1"), 6: ("::", "::1", "ff02::5", "fe80::77", "fe80::1")}


class Sent(msgspec.Struct, frozen=True):
    """A frame at a VM's port, an NVGRE packet from the underlay, or a packet from a site: on its way in."""

    node: str
    data: bytes
    port: PortKey | None = None
    outer: OuterHeader | None = None
    site: SiteKey | None = None
    child: Selectors | None = None
    """The selectors of the child SA that a site's packet comes by."""
    outer_ecn: int = 0
    """Of what comes from a site."""
    is_plain: bool = False
    """Whether it is a rewritten packet from the underlay."""


def mark(tenant: str) -> bytes:
    """The octets that show whose data a payload is."""
    return _MARK % tenant.encode()


def throw(chance: random.Random, world: World) -> Sent | None:
    """Make one frame up and choose where it comes in; None if the network has no VM at all."""
    if not world.vms:
        return None
    if world.children and chance.random() < 0.3:
        return from_site(chance, world)
    if chance.random() < 0.4:
        vm = chance.choice(world.vms)
        return Sent(vm.host, _maybe_damaged(chance, frame(chance, world, vm), 14), port=vm.port)
    if world.holders and chance.random() < 0.4:
        return from_provider(chance, world)
    return from_underlay(chance, world)


def frame(chance: random.Random, world: World, vm: Vm) -> bytes:
    """An Ethernet frame such as a VM could send, or should not."""
    tenant = world.tenant(vm.tenant)
    address = chance.choice(vm.addresses)
    destination = _destination(chance, world, tenant, address.version)
    source = address if chance.random() < 0.93 else _false_source(chance, world, address)
    kind = chance.random()
    mac = vm.mac if chance.random() < 0.97 else chance.choice((chance.choice(world.vms).mac, b"\1\0\0\0\0\5"))
    if kind < 0.12 and address.version == 4:
        return _arp(chance, vm, source, destination, mac)
    if kind < 0.12:
        return _neighbour_discovery(chance, vm, source, destination, mac)
    if kind < 0.15:
        other = chance.choice((0x8100, 0x88A8, 0x8847, 0x88CC, 0x0600))
        return EthernetHeader(BROADCAST_MAC, mac, other).encode() + mark(vm.tenant)
    header = EthernetHeader(
        destination=_towards(chance, world, vm, destination),
        source=mac,
        ethertype=IPV4 if address.version == 4 else IPV6,
    )
    padding = bytes(chance.choice((0, 0, 18)))
    return header.encode() + _packet(chance, vm.tenant, source, destination) + padding


def from_site(chance: random.Random, world: World) -> Sent:
    """A packet out of a site's tunnel, true or false, by one of its child SAs."""
    site = chance.choice(sorted(world.children))
    tenant = world.tenant(site[0])
    version = chance.choice([prefix.version for subnet in tenant.subnets for prefix in subnet.prefixes])
    there = [
        CustomerAddress(prefix[chance.choice((0, 5, 260))].packed)
        for prefix, hop in world.tables.domains[tenant.name].routes
        if hop == SiteHop(site[1]) and prefix.version == version and prefix.num_addresses > 260
    ]
    moved = [
        CustomerAddress(route.prefix.network_address.packed)
        for route in tenant.routes
        if route.next_hop == SiteHop(site[1]) and route.prefix.version == version
    ]
    strange = CustomerAddress.parse(chance.choice(_ODD_SOURCES[version] + _OUTSIDE[version]))
    true = there + moved
    source = chance.choice(true) if true and chance.random() < 0.9 else _false_source(chance, world, strange)
    destination = _destination(chance, world, tenant, version)
    packet = _packet(chance, tenant.name, source, destination) + bytes(chance.choice((0, 0, 100)))
    name = gateway_of(world, site) if chance.random() < 0.98 else chance.choice(sorted(world.nodes))
    return Sent(
        name,
        _maybe_damaged(chance, packet, 0),
        site=site,
        child=chance.choice(world.children[site]),
        outer_ecn=chance.choice((0, 0, 0, 0, 1, 2, 3)),
    )


def _destination(chance: random.Random, world: World, tenant: Tenant, version: int) -> CustomerAddress:
    """Mostly a VM of the tenant; else whatever else its routes may lead to, and what they may not."""
    addresses = [ca for vm in world.vms_of(tenant.name) for ca in vm.addresses if ca.version == version]
    if addresses and chance.random() < 0.6:
        return chance.choice(addresses)
    prefixes = [prefix for one in tenant.subnets for prefix in one.prefixes if prefix.version == version]
    remote = [prefix for site in tenant.sites for prefix in site.prefixes if prefix.version == version]
    if remote and chance.random() < 0.5:
        return CustomerAddress(chance.choice(remote)[chance.choice((5, 300))].packed)
    moved = [
        CustomerAddress(route.prefix.network_address.packed)
        for route in tenant.routes
        if isinstance(route.next_hop, SiteHop) and route.prefix.version == version
    ]
    inside = chance.choice(prefixes)
    return chance.choice(
        [
            CustomerAddress(inside[1].packed),
            CustomerAddress(inside[12].packed),
            CustomerAddress(inside[-1].packed),
            ROUTER_LINK_LOCAL if version == 6 else CustomerAddress(inside[1].packed),
            CustomerAddress.parse(chance.choice(_GROUPS[version])),
            CustomerAddress.parse(chance.choice(_OUTSIDE[version])),
            *moved,
        ]
    )


def _false_source(chance: random.Random, world: World, own: CustomerAddress) -> CustomerAddress:
    others = [ca for vm in world.vms for ca in vm.addresses if ca.version == own.version] or [own]
    texts = _ODD_SOURCES[own.version] + _OUTSIDE[own.version]
    return chance.choice([chance.choice(others), CustomerAddress.parse(chance.choice(texts))])


def _towards(chance: random.Random, world: World, vm: Vm, destination: CustomerAddress) -> bytes:
    """The MAC that a VM would use, or sometimes any other."""
    router = gateway_mac(vm.vsid)
    if chance.random() < 0.15:
        others = BROADCAST_MAC, b"\x33\x33\0\0\0\1", b"\1\0\x5e\0\0\xfb", b"\2\xff\xff\xff\xff\xff"
        return chance.choice((*others, router, chance.choice(world.vms).mac))
    if destination in (ROUTER_LINK_LOCAL, *(ca for one in world.vms if one is vm for ca in one.addresses)):
        return router
    for other in world.vms_of(vm.tenant):
        if destination in other.addresses:
            return other.mac if other.vsid == vm.vsid else router
    if destination[0] == 0xFF or destination[0] >> 4 == 14:
        return chance.choice((BROADCAST_MAC, b"\x33\x33\0\0\0\1"))
    return router


def _packet(
    chance: random.Random, tenant: str, source: CustomerAddress, destination: CustomerAddress
) -> bytes:
    version = 4 if len(source) == 4 else 6
    if len(destination) != len(source):
        destination = source
    body = mark(tenant) + bytes(chance.choice(_SIZES) if chance.random() < 0.3 else 20)
    kind = chance.random()
    protocol: int
    if kind < 0.4:
        protocol, upper = UDP, struct.pack("!HHHH", *_ports(chance), 8 + len(body), 0) + body
    elif kind < 0.6:
        flags = chance.choice((0x02, 0x12, 0x10, 0x18, 0x04))
        options = b"\2\4\5\xb4" if flags & 2 else b""
        header = struct.pack(
            "!HHIIBBHHH", *_ports(chance), 1, 2, 5 + len(options) // 4 << 4, flags, 512, 0, 0
        )
        protocol, upper = TCP, header + options + body
    elif kind < 0.95:
        protocol = ICMP if version == 4 else ICMPV6
        upper = _icmp(chance, version, source, destination, body)
    else:
        protocol, upper = chance.choice((47, 50, 89, 132)), body
    return _in_ip(chance, source, destination, protocol, upper)


def _ports(chance: random.Random) -> tuple[int, int]:
    return chance.choice(((49152, chance.choice(PORTS)), (chance.choice(PORTS), 49152)))


def _icmp(
    chance: random.Random, version: int, source: CustomerAddress, destination: CustomerAddress, body: bytes
) -> bytes:
    if chance.random() < 0.6:
        message = struct.pack(
            "!BBHHH", icmp.ECHO_REQUEST if version == 4 else icmp.V6_ECHO_REQUEST, 0, 0, 1, 1
        )
        message += body
    else:
        quoted = ip.build(
            destination, source, UDP, struct.pack("!HHHH", *_ports(chance), 8 + len(body), 0) + body
        )
        kind = chance.choice((3, 5, 11, 0) if version == 4 else (1, 2, 3, 137, 129, 133))
        message = struct.pack("!BBHI", kind, 0, 0, 0) + quoted
    checksum = (
        internet_checksum(message)
        if version == 4
        else transport_checksum(source, destination, ICMPV6, message)
    )
    return message[:2] + checksum.to_bytes(2) + message[4:]


def _in_ip(
    chance: random.Random, source: CustomerAddress, destination: CustomerAddress, protocol: int, upper: bytes
) -> bytes:
    hop_limit = chance.choice(_HOP_LIMITS)
    ecn = chance.choice((0, 0, 0, 1, 2, 3))
    fragmented = chance.random() < 0.08 and len(upper) >= 48
    later = chance.random() < 0.5
    if len(source) == 4:
        header = bytearray(
            ip.ipv4_header(
                source, destination, protocol, 0, ttl=hop_limit, traffic_class=ecn, identification=9
            )
        )
        whole = len(upper)
        word = chance.choice((0x4000, 0))
        if fragmented:
            whole = 24 if not later else len(upper) - 24
            upper = upper[:24] if not later else upper[24:]
            word = 3 if later else 0x2000
        struct.pack_into("!H", header, 2, 20 + whole)
        struct.pack_into("!HHH", header, 6, word, hop_limit << 8 | protocol, 0)
        struct.pack_into("!H", header, 10, internet_checksum(header))
        return bytes(header) + upper
    if fragmented:
        offset = 24 if later else 0
        piece = upper[24:] if later else upper[:24]
        upper = struct.pack("!BBHI", protocol, 0, offset | (not later), 9) + piece
        protocol = ip.FRAGMENT
    elif chance.random() < 0.1:
        upper = bytes((protocol, 0, 1, 4, 0, 0, 0, 0)) + upper
        protocol = chance.choice((ip.HOP_BY_HOP, ip.DESTINATION_OPTIONS))
    return (
        ip.ipv6_header(source, destination, protocol, len(upper), hop_limit=hop_limit, traffic_class=ecn)
        + upper
    )


def _arp(
    chance: random.Random, vm: Vm, source: CustomerAddress, target: CustomerAddress, mac: bytes
) -> bytes:
    operation = chance.choice((arp.REQUEST,) * 5 + (arp.REPLY,))
    sender = chance.choice((source, source, source, bytes(4)))
    asked = chance.choice((target, target, source))
    to = chance.choice((BROADCAST_MAC, BROADCAST_MAC, gateway_mac(vm.vsid)))
    body = arp.ArpPacket(operation, chance.choice((mac, mac, mac, vm.mac)), sender, bytes(6), asked)
    return EthernetHeader(to, mac, ARP).encode() + body.encode() + bytes(chance.choice((0, 18, 3000)))


def _neighbour_discovery(
    chance: random.Random, vm: Vm, source: CustomerAddress, target: CustomerAddress, mac: bytes
) -> bytes:
    group = ndp.solicited_node(target)
    kind = chance.random()
    to: bytes = b"\x33\x33" + group[12:]
    if kind < 0.6:
        packet = ndp.encode_solicitation(source, group, chance.choice((target, target, source)), mac)
    elif kind < 0.8:
        probed = chance.choice((source, target))
        packet = ndp.encode_solicitation(bytes(16), ndp.solicited_node(probed), probed, None)
    else:
        packet = ndp.advertisement(source, target, source, mac, router=False, solicited=False)
        to = gateway_mac(vm.vsid)
    return EthernetHeader(to, mac, IPV6).encode() + packet


def from_underlay(chance: random.Random, world: World, at: str | None = None) -> Sent:
    """An NVGRE packet with a true or a forged outer source, in any virtual subnet; `at` one node or any."""
    vm = chance.choice(world.vms)
    inner = frame(chance, world, vm)
    elsewhere = [name for name in sorted(world.nodes) if name != vm.host]
    node = world.nodes[at or chance.choice([*(elsewhere * 10), vm.host])].node
    destination = chance.choice(node.provider_addresses)
    family = [address for address in world.at if len(address) == len(destination)]
    true = [address for address in family if world.at[address] == vm.host]
    tenants_gateways = world.tables.domains[vm.tenant].gateway_provider_addresses.difference(
        node.provider_addresses
    )
    gateways = [address for address in family if address in tenants_gateways]
    nobody = b"\xc0\0\2\xee" if len(destination) == 4 else bytes(15) + b"\xee"
    outer = OuterHeader(
        source=chance.choice([*(true * 6), *(gateways * 2), chance.choice(family), nobody]),
        destination=destination,
        ecn=chance.choice((0, 0, 0, 0, 1, 2, 3)),
        hop_limit=chance.choice((64, 255, 1)),
    )
    vsids = sorted(world.tables.subnets)
    own = sorted(world.tables.domains[vm.tenant].vsids)
    strange = chance.choice((0, 0xFFF, 0xFFFFFF, 0x4242, *vsids))
    vsid = chance.choice((vm.vsid,) * 8 + (chance.choice(own), chance.choice(own), strange))
    flags = chance.choice((0x2000,) * 24 + (0x2008, 0x23F8, 0xA000, 0x3000, 0x2001, 0x2400, 0x0000))
    protocol = chance.choice((0x6558,) * 50 + (0x0800, 0x6559))
    payload = struct.pack("!HHI", flags, protocol, vsid << 8 | chance.randrange(256)) + inner
    return Sent(node.name, _maybe_damaged(chance, payload, 22), outer=outer)


def from_provider(chance: random.Random, world: World) -> Sent:
    """A packet between two provider addresses, true or forged, with the mark of whom it is from in truth."""
    holders = sorted(world.holders)
    source = chance.choice(holders)
    vsid = world.holders[source].vsid
    same = [
        pa for pa in holders if len(pa) == len(source) and (chance.random() < 0.1 or _same(world, vsid, pa))
    ]
    destination = chance.choice(same)
    tenant = world.tables.subnets[vsid].domain.name
    if chance.random() < 0.1:
        other = b"\xc6\x33\x64\xee" if len(source) == 4 else b"\x20\x01\x0d\xb8" + bytes(11) + b"\xee"
        source, destination = chance.choice(((source, other), (other, destination), (destination, source)))
    packet = _packet(chance, tenant, CustomerAddress(source), CustomerAddress(destination))
    if chance.random() < 0.04:
        packet, destination = _of_a_router(packet, source), source
    answering = [name for name in sorted(world.nodes) if world.nodes[name].answers_for(destination, 0)]
    name = chance.choice(answering if answering and chance.random() < 0.9 else sorted(world.nodes))
    return Sent(name, _maybe_damaged(chance, packet + bytes(chance.choice((0, 0, 18))), 0), is_plain=True)


def _of_a_router(packet: bytes, sender: bytes) -> bytes:
    """What a router of the underlay says of a packet to its sender: that its hops were used up."""
    facts = ip.decode_untrusted(packet)
    router = b"\xc0\x00\x02\x63" if facts.version == 4 else b"\x20\x01\x0d\xb8" + bytes(11) + b"\x63"
    return icmp.time_exceeded(router, packet, facts) if facts.source == sender else packet


def _same(world: World, vsid: int, pa: bytes) -> bool:
    """Whether a provider address is of a virtual subnet's tenant."""
    return world.domain_of(world.holders[pa].vsid) is world.domain_of(vsid)


def _maybe_damaged(chance: random.Random, data: bytes, where_ip_begins: int) -> bytes:
    if chance.random() >= 0.2:
        return data
    return next(mutations([data], chance.getrandbits(32), 1, ipv4_checksum_at(where_ip_begins)))
