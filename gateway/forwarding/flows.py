"""The decision for one flow as a value, and its application to each packet.

Who may send, which rule and which route decided, and where the destination is:
all that is the same for every packet of a flow until a table or one of its two
records changes. What differs from packet to packet is done in `pipeline`.
"""

from __future__ import annotations

import msgspec

from gateway.forwarding.directory import Directory
from gateway.forwarding.metering import Meter, TokenBucket
from gateway.forwarding.ways import Way
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


_IPV4_WITHOUT_OPTIONS = 0x45
_MAY_BE_FRAGMENT = 0x3FFF  # more fragments, or an offset

# Where the inner IP packet begins, behind the GRE and the inner Ethernet header.
_INNER = 8 + 14


def key_untrusted(origin: bytes, payload: bytes) -> bytes | None:
    """Return what tells an NVGRE packet's flow from all others; None where it is to be decided in full.

    Only well-formed TCP and UDP in IP without options, fragments or extension
    headers, and no segment that opens a connection. The key holds the outer
    source, the GRE header without the FlowID, the inner Ethernet header, the
    addresses, the protocol and the ports: everything that the decision for a
    flow reads.
    """
    if len(payload) < _INNER + 28:
        return None
    version = payload[22]
    if version == _IPV4_WITHOUT_OPTIONS:
        total_length = payload[24] << 8 | payload[25]
        # The words of a right header sum up to 0xFFFF (see gateway.packets.checksum).
        if (payload[28] << 8 | payload[29]) & _MAY_BE_FRAGMENT or int.from_bytes(payload[22:42]) % 0xFFFF:
            return None
        protocol, upper, length = payload[31], 42, total_length - 20
        fixed = payload[8:23] + payload[31:32] + payload[34:46]
    elif version >> 4 == 6:
        length = payload[26] << 8 | payload[27]
        protocol, upper, total_length = payload[28], 62, length + 40
        fixed = payload[8:22] + payload[28:29] + payload[30:66]
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
    return origin + payload[0:7] + fixed


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
