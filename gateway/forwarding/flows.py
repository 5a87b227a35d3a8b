"""The decision for one flow as a value, and its application to each packet.

Who may send, which rule and which route decided, and where the destination is:
all that is the same for every packet of a flow until a table, one of its records
or its tunnel changes. What differs from packet to packet is done in `delivery`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from struct import Struct

import msgspec

from gateway.forwarding.buckets import TenantBucket
from gateway.forwarding.directory import Directory, Holder
from gateway.forwarding.metering import Meter
from gateway.forwarding.node import Origin, SiteArrival
from gateway.forwarding.sites import Sites
from gateway.forwarding.verdicts import OuterHeader
from gateway.forwarding.ways import Plain, Tunnel, Way
from gateway.packets import ethernet, ip, nvgre
from policies.facts import TCP, TCP_SYN, UDP, PacketFacts
from policies.model import LookupRecord
from policies.selectors import Selectors

# The most flows that are remembered; then all are forgotten at once, which costs
# one slow decision each and bounds what a port scan can take.
CAPACITY = 65_536


class Came(msgspec.Struct, frozen=True, gc=False):
    """What stands behind the provider addresses of a rewritten packet that has come."""

    sender: Holder
    receiver: Holder
    outer: OuterHeader
    """What NVGRE would have brought it in."""


class Flow(msgspec.Struct, frozen=True, eq=False):
    """How packets like this one go on."""

    tenant: str
    ethernet: bytes
    """The inner Ethernet header that it leaves with."""
    routed: bool
    """Whether this node is the hop that counts."""
    way: Way
    sent: Meter | None
    """Of where it comes from; None where it was counted already."""
    received: Meter | None
    """Of where it goes; None where another node carries it there."""
    bucket: TenantBucket | None
    source_record: LookupRecord | None
    destination_record: LookupRecord | None
    admitted_by: Selectors | None = None
    """For what comes from a site: those of the child SA that it came by."""
    came: Came | None = None
    """For what comes rewritten."""
    until: float = math.inf
    """When it is decided anew, so that whoever still sends it this way is taught once more."""


def as_it_is(
    arrival: Origin, facts: PacketFacts, way: Way, sent: Meter | None, received: Meter | None = None
) -> Flow:
    """Make the flow of what goes on as it came: whoever it goes to decides it, or somebody has before."""
    if isinstance(way, Plain):
        header = b""
    elif isinstance(arrival, SiteArrival):
        # As if it came from the router of the virtual subnet in which it is passed on.
        mac = arrival.subnets[0].gateway_mac
        header = ethernet.EthernetHeader(mac, mac, ethernet.OF_IP_VERSION[facts.version]).encode()
    else:
        header = arrival.frame[: ethernet.HEADER_LENGTH]
    return Flow(
        tenant=arrival.tenant,
        ethernet=header,
        routed=False,
        way=way,
        sent=sent,
        received=received,
        bucket=None,
        source_record=None,
        destination_record=None,
    )


_PORTS = 4

# The GRE header, less its last octet: the FlowID.
_GRE = slice(nvgre.HEADER_LENGTH - 1)

_IPV4_WITHOUT_OPTIONS = 0x45
_MAY_BE_FRAGMENT = 0x3FFF  # more fragments, or an offset
_IPV4_SHAPE = Struct("!xxHxxHxB")  # total length, fragment, protocol
_IPV4_CLASS_LENGTH_TTL = Struct("!xBHxxxxB")

_IPV6_SHAPE = Struct("!4xHB")  # payload length, next header
_IPV6_CLASS_LENGTH_HOP_LIMIT = Struct("!HxxHxB")

_Key = Callable[[bytes, bytes], bytes | None]
_Known = Callable[[bytes], tuple[bytes, int, int]]


def _readers(before: slice, ethernet_header: slice) -> tuple[_Key, _Known]:
    """Make the functions that read packets which stand behind an Ethernet header, or behind nothing.

    What else is before them is a part of the key too. Made for one place each,
    for every packet goes through them.
    """
    inner = ethernet_header.stop
    ethernet_and_first = slice(ethernet_header.start, inner + 1)  # that octet says there are no options
    ipv4_upper = inner + ip.IPV4_HEADER_LENGTH
    ipv4_header = slice(inner, ipv4_upper)
    ipv4_protocol = slice(inner + 9, inner + 10)
    ipv4_addresses_and_ports = slice(inner + 12, ipv4_upper + _PORTS)
    ipv6_upper = inner + ip.IPV6_HEADER_LENGTH
    ipv6_next_header = slice(inner + 6, inner + 7)
    ipv6_addresses_and_ports = slice(inner + 8, ipv6_upper + _PORTS)
    shortest = ipv4_upper + 8

    def key(origin: bytes, payload: bytes) -> bytes | None:
        if len(payload) < shortest:
            return None
        first = payload[inner]
        if first == _IPV4_WITHOUT_OPTIONS:
            total_length, fragment, protocol = _IPV4_SHAPE.unpack_from(payload, inner)
            # The words of a right header sum up to 0xFFFF (see gateway.packets.checksum).
            if fragment & _MAY_BE_FRAGMENT or int.from_bytes(payload[ipv4_header]) % 0xFFFF:
                return None
            upper, length = ipv4_upper, total_length - ip.IPV4_HEADER_LENGTH
            fixed = payload[ethernet_and_first] + payload[ipv4_protocol] + payload[ipv4_addresses_and_ports]
        elif first >> 4 == 6:
            length, protocol = _IPV6_SHAPE.unpack_from(payload, inner)
            upper, total_length = ipv6_upper, length + ip.IPV6_HEADER_LENGTH
            fixed = payload[ethernet_header] + payload[ipv6_next_header] + payload[ipv6_addresses_and_ports]
        else:
            return None
        if total_length > len(payload) - inner or length < 8:
            return None
        if protocol == UDP:
            if not 8 <= (payload[upper + 4] << 8 | payload[upper + 5]) <= length:
                return None
        elif protocol == TCP:
            opens = payload[upper + 13] & TCP_SYN if length >= 20 else TCP_SYN
            if opens or not 20 <= payload[upper + 12] >> 4 << 2 <= length:
                return None
        else:
            return None
        return origin + payload[before] + fixed

    def known_packet(payload: bytes) -> tuple[bytes, int, int]:
        if payload[inner] == _IPV4_WITHOUT_OPTIONS:
            traffic_class, total_length, hop_limit = _IPV4_CLASS_LENGTH_TTL.unpack_from(payload, inner)
            return payload[inner : inner + total_length], traffic_class, hop_limit
        first, length, hop_limit = _IPV6_CLASS_LENGTH_HOP_LIMIT.unpack_from(payload, inner)
        return payload[inner : ipv6_upper + length], first >> 4 & 0xFF, hop_limit

    return key, known_packet


key_untrusted, known_packet_untrusted = _readers(
    _GRE, slice(nvgre.HEADER_LENGTH, nvgre.HEADER_LENGTH + ethernet.HEADER_LENGTH)
)
"""Two functions for NVGRE packets.

The first returns what tells a packet's flow from all others; None where it is to be
decided in full. Only well-formed TCP and UDP in IP without options, fragments or
extension headers has a key, and no segment that opens a connection. It holds the
outer source, the GRE header without the FlowID, the inner Ethernet header, the
addresses, the protocol and the ports: everything that the decision for a flow reads.

The second returns the inner IP packet, its traffic class and its hop limit, of
what the first has given a key, and so knows to be whole.
"""

site_key_untrusted, known_site_packet_untrusted = _readers(slice(0), slice(0, 0))
"""The same for an IP packet from a site, whose origin has four octets, or for a rewritten one.

So a site's keys have 18 or 41 octets, and NVGRE's 39 or more, but never 41.
"""

REWRITTEN = b"plain"
"""The origin of rewritten packets: their keys have 19 or 42 octets, as nothing else's have."""


def _stand(directory: Directory, holders: Iterable[Holder]) -> bool:
    """Whether provider addresses still stand for whom they did."""
    return all(directory.holder(holder.pa) is holder for holder in holders)


class FlowCache:
    """Decisions that still stand. Whoever replaces the tables makes a new one."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._flows: dict[bytes, Flow] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def find(self, key: bytes, directory: Directory, sites: Sites) -> Flow | None:
        """Return the decision, if the records and the tunnel that it was made by are still the same."""
        flow = self._flows.get(key)
        if flow is None:
            return None
        source, destination, way = flow.source_record, flow.destination_record, flow.way
        if (
            (source is None or directory.find(source.vsid, source.ca) is source)
            and (destination is None or directory.find(destination.vsid, destination.ca) is destination)
            and (type(way) is not Tunnel or sites.find(way.site) is way.state)
            and (type(way) is not Plain or _stand(directory, way.leases))
            and (flow.came is None or _stand(directory, (flow.came.sender, flow.came.receiver)))
        ):
            return flow
        del self._flows[key]
        return None

    def remember(self, key: bytes, flow: Flow) -> None:
        """Keep a decision: its source is a record's, or a site's, and so is its destination."""
        if len(self._flows) >= self._capacity:
            self._flows.clear()
        self._flows[key] = flow
