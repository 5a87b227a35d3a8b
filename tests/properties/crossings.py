"""What crosses a gateway in NVGRE, from one host to another: mostly right, else wrong in one small thing.

`frames.throw` tries everything on every node; here most is what a fast path is there for.
"""

from __future__ import annotations

import random
import struct

import msgspec

from gateway.forwarding.admission import is_martian
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import OuterHeader
from gateway.packets import ip, nvgre
from gateway.packets.checksum import internet_checksum, transport_checksum
from gateway.packets.ethernet import IPV4, IPV6, EthernetHeader
from policies.addresses import CustomerAddress, Prefix, gateway_mac, is_group_address
from policies.facts import ICMP, ICMPV6, TCP, TCP_SYN, UDP
from policies.model import AddressHop, LookupRecord, SubnetHop, Translation
from policies.tables import RoutingDomain
from tests.properties.frames import from_underlay, mark
from tests.properties.wire import damaged, on_the_wire
from tests.properties.worlds import PORTS, World

_HOP_LIMITS = (64, 64, 64, 64, 128, 255, 3, 2, 1, 0)
_OUTER_HOP_LIMITS = (64, 64, 64, 255, 2, 1)
_OTHER_PROTOCOLS = (0, 2, 4, 41, 47, 50, 51, 89, 132, 255)
_STRANGE_PA = {4: b"\xc0\0\2\xee", 6: b"\x20\x01\x0d\xb8" + bytes(11) + b"\xee"}

# A default route by way of a VM leads there too; no packet may.
_NOBODYS = {
    4: (
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "169.254.1.1",
        "224.0.0.5",
        "239.1.2.3",
        "240.0.0.1",
        "255.255.255.255",
    ),
    6: ("::", "::1", "fe80::1", "fe80::5", "ff02::5", "ff05::2"),
}

_MSS = b"\x02\x04\x05\xb4"
_OPTIONS = (
    b"",
    _MSS,
    _MSS + b"\x01\x03\x03\x07",
    b"\x01" + _MSS + b"\x01\x01\x01",
    b"\x01\x01" + _MSS + b"\x00\x00",
    _MSS + b"\x04\x02\x08\x0a" + bytes(8) + b"\x01\x03\x03\x07",
    b"\x02\x04\xff\xff" + b"\x02\x04\x00\x00",
    b"\x04\x02\x02\x04\x23\x00\x00\x00",
    b"\x02\x03\x05\xb4",
    b"\x08\x00\x02\x04",
    b"\x03\xff" + _MSS + b"\x00\x00",
    b"\x00\x00" + _MSS + b"\x00\x00",
    b"\x01" * 36 + _MSS,
)


# A driver hands a larger frame over in pieces, of which the program sees the first.
_WITHIN_A_PAGE = 3000


class Crossing(msgspec.Struct, frozen=True):
    """A frame on the underlay's wire, on its way into a gateway."""

    frame: bytes
    tenant: str = ""
    """Whose mark it has."""
    source: LookupRecord | None = None
    destination: LookupRecord | None = None
    is_plain: bool = False
    """Whether it is between the VMs of these two records as a host sends it, and nothing is odd about it."""


class Gateway(msgspec.Struct):
    """One gateway of a world, and whom it carries for."""

    world: World
    forwarder: Forwarder
    name: str
    now: float = 0.0

    @classmethod
    def of(cls, chance: random.Random, world: World) -> Gateway:
        name = chance.choice([each.name for each in world.network.gateways])
        return cls(world, world.nodes[name], name)

    def domains(self) -> list[RoutingDomain]:
        """Of the tenants whose gateway it is."""
        domains = self.forwarder.tables.domains.values()
        return [each for each in domains if self.name in (name for name, _ in each.gateways)]

    def records(self) -> list[LookupRecord]:
        """Those that may lead from one host to another, in a fixed order."""
        vsids = {vsid for domain in self.domains() for vsid in domain.vsids}
        found = [
            each
            for each in self.forwarder.directory
            if each.vsid in vsids and each.translation is Translation.ENCAP
        ]
        return sorted(found, key=lambda each: (each.vsid, each.ca))


def cross(chance: random.Random, gateway: Gateway) -> Crossing | None:
    """Make one frame up; None where nobody could send any."""
    if not gateway.world.vms:
        return None
    crossing = _cross(chance, gateway)
    # No frame is shorter than its Ethernet header.
    return msgspec.structs.replace(crossing, frame=crossing.frame.ljust(14, b"\0"))


def _cross(chance: random.Random, gateway: Gateway) -> Crossing:
    forwarder = gateway.forwarder
    records = gateway.records()
    if not records or chance.random() < 0.15:
        return _anything(chance, gateway)
    source = chance.choice(records)
    domain = forwarder.tables.subnets[source.vsid].domain
    others = [each for each in records if each.vsid in domain.vsids and len(each.ca) == len(source.ca)]
    destination = chance.choice(others)
    outer = _outer(chance, gateway, source)
    if outer is None:
        return _anything(chance, gateway)
    packet, is_odd = _packet(chance, gateway, domain, source, destination)
    vsid, header = _link(chance, source, destination)
    # Switched, it goes by a record of its own alone.
    is_odd |= header[:6] == destination.mac and destination.ca not in (packet[16:20], packet[24:40])
    is_odd |= outer.hop_limit <= 1 or not _is_usual(gateway, domain, outer.source, source)
    is_odd |= not _is_usual(gateway, domain, destination.pa, destination) or len(packet) > _WITHIN_A_PAGE
    payload = nvgre.encode(vsid, chance.randrange(256)) + header + packet
    if chance.random() < 0.3:
        return Crossing(damaged(chance, outer, payload), domain.name, source, destination)
    padding = bytes(chance.choice((0, 0, 0, 1, 18)))
    frame = on_the_wire(outer, payload + padding, chance.choice((0, 0, 0, 7)))
    return Crossing(frame, domain.name, source, destination, is_plain=not is_odd)


def _anything(chance: random.Random, gateway: Gateway) -> Crossing:
    sent = from_underlay(chance, gateway.world, gateway.name)
    assert sent.outer is not None
    return Crossing(on_the_wire(sent.outer, sent.data, chance.choice((0, 0, 18))))


def _is_usual(gateway: Gateway, domain: RoutingDomain, address: bytes, record: LookupRecord) -> bool:
    """Whether a record's VM is at a host that may have it, whose address this is, and that is no gateway."""
    tables, node = gateway.forwarder.tables, gateway.forwarder.node
    own = tables.provider_addresses_of.get(record.host, frozenset())
    gateways = {pa for each in tables.domains.values() for pa in each.gateway_provider_addresses}
    hop = domain.routes.lookup(record.ca)
    return (
        {address, record.pa} <= own
        and record.host in domain.hosts
        and own.isdisjoint(gateways)
        and node.address_towards(record.pa) is not None
        and isinstance(hop, SubnetHop)
        and hop.vsid == record.vsid
        and (record.vsid, record.mac) not in node.ports
        and not record.mac.is_group
        and record.mac != gateway_mac(record.vsid)
    )


def _outer(chance: random.Random, gateway: Gateway, source: LookupRecord) -> OuterHeader | None:
    """As the host of the source sends it, or rarely another."""
    tables, node = gateway.forwarder.tables, gateway.forwarder.node
    own = sorted(tables.provider_addresses_of.get(source.host, ()))
    if chance.random() < 0.06:
        own = [*sorted(tables.members), *_STRANGE_PA.values()]
    own = [each for each in own if node.address_towards(each) is not None]
    if not own:
        return None
    address = chance.choice(own)
    here = node.address_towards(address)
    assert here is not None
    ecn = chance.choice((0, 0, 0, 0, 1, 2, 3))
    return OuterHeader(address, here, ecn, chance.choice(_OUTER_HOP_LIMITS))


def _link(chance: random.Random, source: LookupRecord, destination: LookupRecord) -> tuple[int, bytes]:
    """VSID and Ethernet header: for the router, for the neighbour, or from a host that has routed it."""
    ethertype = IPV4 if len(source.ca) == 4 else IPV6
    kind = chance.random()
    if source.vsid == destination.vsid and kind < 0.6:
        return source.vsid, EthernetHeader(destination.mac, source.mac, ethertype).encode()
    if source.vsid != destination.vsid and kind < 0.15:
        header = EthernetHeader(destination.mac, gateway_mac(destination.vsid), ethertype)
        return destination.vsid, header.encode()
    return source.vsid, EthernetHeader(gateway_mac(source.vsid), source.mac, ethertype).encode()


def _packet(
    chance: random.Random,
    gateway: Gateway,
    domain: RoutingDomain,
    source: LookupRecord,
    destination: LookupRecord,
) -> tuple[bytes, bool]:
    """An IP packet, and whether there is something about it that a fast path may leave to others."""
    version = source.ca.version
    ends: list[CustomerAddress] = [source.ca, destination.ca]
    is_odd = False
    for number, chosen in ((0, 0.1), (1, 0.2)):
        behind = _behind(chance, domain, ends[number])
        if behind is not None and chance.random() < chosen:
            ends[number] = behind
            is_odd |= number == 0 or domain.resolve(behind)[0] != destination.ca or _is_nobodys(behind)
    if chance.random() < 0.03:
        ends[chance.randrange(2)], is_odd = chance.choice(gateway.records()).ca, True
    if len(ends[0]) != len(ends[1]):
        ends = [source.ca, destination.ca]
    source_ca, destination_ca = ends
    protocol, upper = _upper(chance, version, source_ca, destination_ca, mark(domain.name))
    hop_limit = chance.choice(_HOP_LIMITS)
    mtu = gateway.forwarder.paths.customer_mtu(destination.pa, version, gateway.now)
    if protocol not in (TCP, ICMP, ICMPV6) and chance.random() < 0.15:
        room = mtu - (20 if version == 4 else 40) + chance.choice((-1, 0, 1, 200))
        upper = (
            _udp(chance, upper[8:].ljust(room - 8, b"\0")) if protocol == UDP else upper.ljust(room, b"\0")
        )
    packet = _ip(chance, source_ca, destination_ca, protocol, hop_limit, upper)
    is_odd |= hop_limit <= 1 or len(packet) > mtu or protocol in _OTHER_PROTOCOLS
    return packet, is_odd


def _behind(chance: random.Random, domain: RoutingDomain, ca: CustomerAddress) -> CustomerAddress | None:
    """An address that a customer route leads to by way of a VM."""
    prefixes: list[Prefix] = [
        prefix for prefix, hop in domain.routes if isinstance(hop, AddressHop) and hop.ca == ca
    ]
    if not prefixes:
        return None
    prefix = chance.choice(prefixes)
    if prefix.prefixlen == 0 and chance.random() < 0.3:
        return CustomerAddress.parse(chance.choice(_NOBODYS[prefix.version]))
    address = CustomerAddress(prefix[min(prefix.num_addresses - 1, 0x0B00_0005)].packed)
    return address if isinstance(domain.routes.lookup(address), AddressHop | SubnetHop) else None


def _is_nobodys(address: CustomerAddress) -> bool:
    return is_group_address(address) or is_martian(address)


def _upper(
    chance: random.Random,
    version: int,
    source: CustomerAddress,
    destination: CustomerAddress,
    body: bytes,
) -> tuple[int, bytes]:
    kind = chance.random()
    body += bytes(chance.choice((0, 0, 1, 20, 333, 1000)))
    if kind < 0.4:
        return UDP, _udp(chance, body)
    if kind < 0.75:
        return TCP, _tcp(chance, source, destination, body)
    if kind < 0.95:
        return _echo(chance, version, source, destination, body)
    return chance.choice(_OTHER_PROTOCOLS), body


def _ports(chance: random.Random) -> tuple[int, int]:
    ports = chance.choice(PORTS), chance.randrange(1024, 65536)
    return ports if chance.getrandbits(1) else (ports[1], ports[0])


def _udp(chance: random.Random, body: bytes) -> bytes:
    source, destination = _ports(chance)
    if chance.random() < 0.02:
        source, destination = chance.choice(((68, 67), (67, 68), (546, 547)))
    return struct.pack("!HHHH", source, destination, 8 + len(body), chance.getrandbits(16)) + body


def _tcp(chance: random.Random, source: CustomerAddress, destination: CustomerAddress, body: bytes) -> bytes:
    flags = chance.choice((TCP_SYN, TCP_SYN, 0x12, 0x12, 0x10, 0x18, 0x11, 0x04, 0xC2, 0))
    options = chance.choice(_OPTIONS) if flags & TCP_SYN else b""
    options += bytes(-len(options) % 4)
    offset = 5 + len(options) // 4
    header = struct.pack("!HHIIBBHHH", *_ports(chance), 1, 2, offset << 4, flags, 512, 0, 0)
    segment = bytearray(header + options + (b"" if flags & TCP_SYN else body))
    checksum = transport_checksum(source, destination, TCP, segment)
    segment[16:18] = (checksum if chance.random() < 0.9 else chance.getrandbits(16)).to_bytes(2)
    return bytes(segment)


def _echo(
    chance: random.Random,
    version: int,
    source: CustomerAddress,
    destination: CustomerAddress,
    body: bytes,
) -> tuple[int, bytes]:
    protocol = ICMP if version == 4 else ICMPV6
    kind = chance.choice((8, 0) if version == 4 else (128, 129))
    message = struct.pack("!BBHHH", kind, 0, 0, 1, chance.getrandbits(16)) + body
    checksum = (
        internet_checksum(message)
        if version == 4
        else transport_checksum(source, destination, ICMPV6, message)
    )
    return protocol, message[:2] + checksum.to_bytes(2) + message[4:]


def _ip(
    chance: random.Random,
    source: CustomerAddress,
    destination: CustomerAddress,
    protocol: int,
    hop_limit: int,
    upper: bytes,
) -> bytes:
    traffic_class = chance.choice((0, 0, 0, 1, 2, 3, 0xB8, 0xFD))
    if len(source) == 4:
        return (
            ip.ipv4_header(
                source,
                destination,
                protocol,
                len(upper),
                ttl=hop_limit,
                traffic_class=traffic_class,
                identification=chance.choice((0, 9, 0xFFFF)),
                dont_fragment=chance.random() < 0.7,
            )
            + upper
        )
    header = bytearray(
        ip.ipv6_header(
            source, destination, protocol, len(upper), hop_limit=hop_limit, traffic_class=traffic_class
        )
    )
    header[2:4] = chance.choice((0, 0x1234)).to_bytes(2)  # of the flow label
    return bytes(header) + upper
