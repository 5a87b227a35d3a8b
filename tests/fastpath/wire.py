"""Frames of the underlay as they come to edge-1 and leave it, octet by octet.

Nothing here is taken from the gateway's own codecs: this is what the cases hold those to.
"""

from __future__ import annotations

import struct

from scapy.compat import raw
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from policies.addresses import ProviderAddress
from tests import networks
from tests.fastpath.outcomes import Forwarded
from tests.fastpath.scenes import BEHIND, OWN_MACS, node_mac, pa, vsid

GRE = 47


def checksum(header: bytes) -> int:
    """The Internet checksum of octets of an even number."""
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(
    source: bytes,
    destination: bytes,
    payload: bytes,
    *,
    tos: int = 0,
    ttl: int = 64,
    protocol: int = GRE,
    identification: int = 0,
    fragment: int = 0x4000,
    options: bytes = b"",
    first: int | None = None,
    total: int | None = None,
    wrong_checksum: bool = False,
) -> bytes:
    """A packet of the underlay; `first` and `total` say something else than is so."""
    length = 20 + len(options)
    head = struct.pack(
        "!BBHHHBBH4s4s",
        (0x40 | length // 4) if first is None else first,
        tos,
        length + len(payload) if total is None else total,
        identification,
        fragment,
        ttl,
        protocol,
        0,
        source,
        destination,
    )
    head += options
    right = checksum(head)
    return head[:10] + struct.pack("!H", right ^ 0x0100 if wrong_checksum else right) + head[12:] + payload


def ipv6(
    source: bytes,
    destination: bytes,
    payload: bytes,
    *,
    traffic_class: int = 0,
    flow_label: int = 0,
    hop_limit: int = 64,
    next_header: int = GRE,
    length: int | None = None,
    version: int = 6,
) -> bytes:
    """The same in IPv6; `length` says something else than is so."""
    head = struct.pack(
        "!IHBB16s16s",
        version << 28 | traffic_class << 20 | flow_label,
        len(payload) if length is None else length,
        next_header,
        hop_limit,
        source,
        destination,
    )
    return head + payload


def ethernet(destination: bytes, source: bytes, payload: bytes, *, ethertype: int | None = None) -> bytes:
    """A frame of the underlay."""
    if ethertype is None:
        ethertype = 0x0800 if payload[0] >> 4 == 4 else 0x86DD
    return destination + source + ethertype.to_bytes(2) + payload


def gre(key: int, inner: bytes, *, flags: int = 0x2000, protocol: int = 0x6558) -> bytes:
    """A GRE packet whose key is there, whatever the flags say."""
    return struct.pack("!HHI", flags, protocol, key) + inner


def arriving(
    inner: Packet | bytes,
    *,
    sender: str = "hv1",
    to: str = "edge-1",
    tenant: str = "red",
    subnet: str = "web",
    version: int = 4,
    tos: int = 0,
    ttl: int = 64,
    key: int | None = None,
    flow_id: int = 0,
    flags: int = 0x2000,
    protocol: int = 0x6558,
    trailer: bytes = b"",
) -> bytes:
    """A frame that brings NVGRE from a node to edge-1. `tos` is the traffic class in IPv6."""
    number = vsid(tenant, subnet) << 8 | flow_id if key is None else key
    payload = gre(number, raw(inner), flags=flags, protocol=protocol)
    return arriving_with(payload, sender=sender, to=to, version=version, tos=tos, ttl=ttl) + trailer


def arriving_with(
    payload: bytes,
    *,
    sender: str = "hv1",
    to: str = "edge-1",
    version: int = 4,
    tos: int = 0,
    ttl: int = 64,
) -> bytes:
    """A frame that brings any payload of protocol 47 from a node to edge-1."""
    source, destination = pa(sender, version), pa(to, version)
    if version == 4:
        packet = ipv4(source, destination, payload, tos=tos, ttl=ttl)
    else:
        packet = ipv6(source, destination, payload, traffic_class=tos, hop_limit=ttl)
    return arriving_packet(packet, sender=sender)


def arriving_packet(packet: bytes, *, sender: str = "hv1", ethertype: int | None = None) -> bytes:
    """A frame that brings any IP packet of the underlay to edge-1."""
    return ethernet(OWN_MACS[BEHIND[sender]], node_mac(sender), packet, ethertype=ethertype)


def forwarded(
    inner: Packet | bytes,
    *,
    to: str = "hv2",
    tenant: str = "red",
    subnet: str = "db",
    sent: str | None = "web",
    version: int = 4,
    ecn: int = 0,
    ttl: int = 64,
    flow_id: int | None = None,
    source: ProviderAddress | None = None,
) -> Forwarded:
    """What leaves edge-1 with `inner` in it, for a node and a virtual subnet.

    The FlowID is the hash of the flow unless it is given.
    """
    octets = raw(inner)
    flow = flow_hash(octets) if flow_id is None else flow_id
    payload = gre(vsid(tenant, subnet) << 8 | flow, octets)
    own, theirs = source or pa("edge-1", version), pa(to, version)
    if version == 4:
        packet = ipv4(own, theirs, payload, tos=ecn, ttl=ttl)
    else:
        packet = ipv6(own, theirs, payload, traffic_class=ecn, hop_limit=ttl)
    interface = BEHIND[to]
    return Forwarded(
        frame=ethernet(node_mac(to), OWN_MACS[interface], packet),
        interface=interface,
        sent=vsid(tenant, sent) if sent is not None else None,
        received=vsid(tenant, subnet),
        octets=len(octets) - 14,
    )


def routed(
    inner: Packet, *, to: tuple[str, int] = ("db", 5), tenant: str = "red", **ip_fields: object
) -> Packet:
    """A frame as the gateway sends it on to a VM: its MACs, and one hop less to go.

    What is computed from its fields is computed anew. `ip_fields` are set besides.
    """
    copy = inner.copy()
    copy[Ether].dst = str(networks.mac(tenant, *to))
    copy[Ether].src = str(networks.router_mac(tenant, to[0]))
    layer = copy.payload
    if isinstance(layer, IP):
        layer.ttl -= 1
    else:
        layer.hlim -= 1
    for name, value in ip_fields.items():
        setattr(layer, name, value)
    return copy


def with_ip(inner: Packet, **fields: object) -> Packet:
    """A frame with other fields in its IP header, and what is computed from them."""
    copy = inner.copy()
    assert isinstance(copy.payload, IP | IPv6)
    for name, value in fields.items():
        setattr(copy.payload, name, value)
    return copy


def flow_hash(frame: bytes) -> int:
    """The FlowID of a frame without fragments: addresses, ports and protocol mixed."""
    packet = frame[14:]
    if packet[0] >> 4 == 4:
        addresses, protocol, upper = packet[12:20], packet[9], packet[(packet[0] & 15) * 4 :]
    else:
        addresses, protocol, upper = packet[8:40], packet[6], packet[40:]
    ports = upper[:4] if protocol in (6, 17) else bytes(4)
    return mixed(addresses + ports[::-1] + bytes((protocol, 0, 0, 0)))


def mixed(octets: bytes) -> int:
    """What names a flow by its octets, eight at a time."""
    so_far = 0
    for at in range(0, len(octets), 8):
        product = (so_far ^ int.from_bytes(octets[at : at + 8], "little")) * 0x9E3779B97F4A7C15 % 2**64
        so_far = product ^ product // 2**32
    return so_far % 256
