"""The decision for one flow as a value, and its application to each packet.

Who may send, which rule and which route decided, and where the destination is:
all that is the same for every packet of a flow until a table or one of its two
records changes. What differs from packet to packet is done in `pipeline`.
"""

from __future__ import annotations

from struct import Struct

import msgspec

from gateway.forwarding.directory import Directory
from gateway.forwarding.metering import Meter, TokenBucket
from gateway.forwarding.ways import Way
from gateway.packets import ethernet, ip, nvgre
from policies.facts import TCP, TCP_SYN, UDP
from policies.model import LookupRecord

# The most flows that are remembered; then all are forgotten at once, which costs
# one slow decision each and bounds what a port scan can take.
CAPACITY = 65_536


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
    bucket: TokenBucket | None
    source_record: LookupRecord | None
    destination_record: LookupRecord | None


# Where the inner IP packet begins, behind the GRE and the inner Ethernet header.
_INNER = nvgre.HEADER_LENGTH + ethernet.HEADER_LENGTH
_PORTS = 4

# The GRE header, less its last octet: the FlowID.
_GRE = slice(nvgre.HEADER_LENGTH - 1)

_IPV4_WITHOUT_OPTIONS = 0x45
_MAY_BE_FRAGMENT = 0x3FFF  # more fragments, or an offset
_IPV4_SHAPE = Struct("!xxHxxHxB")  # total length, fragment, protocol
_IPV4_CLASS_LENGTH_TTL = Struct("!xBHxxxxB")
_IPV4_UPPER = _INNER + ip.IPV4_HEADER_LENGTH
_IPV4_HEADER = slice(_INNER, _IPV4_UPPER)
_ETHERNET_AND_FIRST = slice(nvgre.HEADER_LENGTH, _INNER + 1)  # with the octet that says there are no options
_IPV4_PROTOCOL = slice(_INNER + 9, _INNER + 10)
_IPV4_ADDRESSES_AND_PORTS = slice(_INNER + 12, _IPV4_UPPER + _PORTS)

_IPV6_SHAPE = Struct("!4xHB")  # payload length, next header
_IPV6_CLASS_LENGTH_HOP_LIMIT = Struct("!HxxHxB")
_IPV6_UPPER = _INNER + ip.IPV6_HEADER_LENGTH
_ETHERNET = slice(nvgre.HEADER_LENGTH, _INNER)
_IPV6_NEXT_HEADER = slice(_INNER + 6, _INNER + 7)
_IPV6_ADDRESSES_AND_PORTS = slice(_INNER + 8, _IPV6_UPPER + _PORTS)

_SHORTEST = _IPV4_UPPER + 8


def key_untrusted(origin: bytes, payload: bytes) -> bytes | None:
    """Return what tells an NVGRE packet's flow from all others; None where it is to be decided in full.

    Only well-formed TCP and UDP in IP without options, fragments or extension
    headers, and no segment that opens a connection. The key holds the outer
    source, the GRE header without the FlowID, the inner Ethernet header, the
    addresses, the protocol and the ports: everything that the decision for a
    flow reads.
    """
    if len(payload) < _SHORTEST:
        return None
    first = payload[_INNER]
    if first == _IPV4_WITHOUT_OPTIONS:
        total_length, fragment, protocol = _IPV4_SHAPE.unpack_from(payload, _INNER)
        # The words of a right header sum up to 0xFFFF (see gateway.packets.checksum).
        if fragment & _MAY_BE_FRAGMENT or int.from_bytes(payload[_IPV4_HEADER]) % 0xFFFF:
            return None
        upper, length = _IPV4_UPPER, total_length - ip.IPV4_HEADER_LENGTH
        fixed = payload[_ETHERNET_AND_FIRST] + payload[_IPV4_PROTOCOL] + payload[_IPV4_ADDRESSES_AND_PORTS]
    elif first >> 4 == 6:
        length, protocol = _IPV6_SHAPE.unpack_from(payload, _INNER)
        upper, total_length = _IPV6_UPPER, length + ip.IPV6_HEADER_LENGTH
        fixed = payload[_ETHERNET] + payload[_IPV6_NEXT_HEADER] + payload[_IPV6_ADDRESSES_AND_PORTS]
    else:
        return None
    if total_length > len(payload) - _INNER or length < 8:
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
    return origin + payload[_GRE] + fixed


def known_packet_untrusted(payload: bytes) -> tuple[bytes, int, int]:
    """Return the inner IP packet, its traffic class and its hop limit.

    Only for what `key_untrusted` has given a key, and so knows to be whole.
    """
    if payload[_INNER] == _IPV4_WITHOUT_OPTIONS:
        traffic_class, total_length, hop_limit = _IPV4_CLASS_LENGTH_TTL.unpack_from(payload, _INNER)
        return payload[_INNER : _INNER + total_length], traffic_class, hop_limit
    first, length, hop_limit = _IPV6_CLASS_LENGTH_HOP_LIMIT.unpack_from(payload, _INNER)
    return payload[_INNER : _IPV6_UPPER + length], first >> 4 & 0xFF, hop_limit


class FlowCache:
    """Decisions that still stand. Whoever replaces the tables makes a new one."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._flows: dict[bytes, Flow] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def find(self, key: bytes, directory: Directory) -> Flow | None:
        """Return the decision, if both records that it was made by are still the same."""
        flow = self._flows.get(key)
        if flow is None:
            return None
        source, destination = flow.source_record, flow.destination_record
        if (
            source is not None
            and destination is not None
            and directory.find(source.vsid, source.ca) is source
            and directory.find(destination.vsid, destination.ca) is destination
        ):
            return flow
        del self._flows[key]
        return None

    def remember(self, key: bytes, flow: Flow) -> None:
        """Keep a decision that was made by two records."""
        if len(self._flows) >= self._capacity:
            self._flows.clear()
        self._flows[key] = flow
