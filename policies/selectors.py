"""Traffic selectors: which packets a child SA carries (RFC 7296 section 2.9, RFC 4301 section 4.4.1)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Self

import msgspec

from policies.addresses import Prefix
from policies.facts import ICMP, ICMPV6, TCP, UDP, PacketFacts

ANY_PROTOCOL = 0
LAST_PORT = 65535

# The number of traffic selectors of a side has one octet (RFC 7296 section 3.13).
MOST_SELECTORS = 255

# So many selectors in common are compared with each other, which takes the square of their number.
_MOST_COMPARED = 32
_MOST_PRINTED = 8

_ICMP_OF = {4: ICMP, 6: ICMPV6}
_PROTOCOL_NAMES = {ANY_PROTOCOL: "any", ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPV6: "icmpv6"}


class TrafficSelector(msgspec.Struct, frozen=True, gc=False):
    """A range of addresses, of one IP version, and of ports, both ends included.

    `protocol` is an IP protocol number, or 0 for any. For ICMP the ports are
    256 * type + code (RFC 7296 section 3.13.1). `start_port` 65535 with
    `end_port` 0 is OPAQUE: packets whose ports cannot be seen.
    """

    start: bytes
    end: bytes
    protocol: int = ANY_PROTOCOL
    start_port: int = 0
    end_port: int = LAST_PORT

    @classmethod
    def of(cls, prefix: Prefix) -> Self:
        """Select all packets of a prefix."""
        return cls(prefix.network_address.packed, prefix.broadcast_address.packed)

    @property
    def version(self) -> int:
        """4 or 6."""
        return 4 if len(self.start) == 4 else 6

    @property
    def has_any_port(self) -> bool:
        return self.start_port == 0 and self.end_port == LAST_PORT

    def holds(self, address: bytes) -> bool:
        """Whether an address lies in the range."""
        return len(address) == len(self.start) and self.start <= address <= self.end

    def within(self, other: TrafficSelector) -> TrafficSelector | None:
        """Return what both select, or None where they have nothing in common."""
        if len(self.start) != len(other.start):
            return None
        start, end = max(self.start, other.start), min(self.end, other.end)
        first, last = max(self.start_port, other.start_port), min(self.end_port, other.end_port)
        if start > end:
            return None
        if first > last and not (self.is_opaque and other.is_opaque):
            # A selector for any port holds the packets whose ports cannot be seen too.
            if not (self.has_any_port or other.has_any_port):
                return None
            first, last = LAST_PORT, 0
        if ANY_PROTOCOL in (self.protocol, other.protocol):
            protocol = self.protocol or other.protocol
        elif self.protocol == other.protocol:
            protocol = self.protocol
        else:
            return None
        return TrafficSelector(start, end, protocol, first, last)

    @property
    def is_opaque(self) -> bool:
        return self.start_port > self.end_port

    def __str__(self) -> str:
        first, last = ipaddress.ip_address(self.start), ipaddress.ip_address(self.end)
        apart = int(first) ^ int(last)
        is_prefix = not apart & (apart + 1) and not int(first) & apart
        addresses = f"{first}/{first.max_prefixlen - apart.bit_length()}" if is_prefix else f"{first}-{last}"
        if self.protocol == ANY_PROTOCOL and self.has_any_port:
            return addresses
        protocol = _PROTOCOL_NAMES.get(self.protocol, str(self.protocol))
        if self.has_any_port:
            return f"{addresses}[{protocol}]"
        ports = f"{self.start_port}-{self.end_port}"
        if self.is_opaque:
            ports = "opaque"
        elif self.start_port == self.end_port:
            ports = str(self.start_port)
        return f"{addresses}[{protocol}/{ports}]"


class Selectors(msgspec.Struct, frozen=True):
    """Both ends of a child SA: ours and the site's."""

    local: tuple[TrafficSelector, ...]
    remote: tuple[TrafficSelector, ...]

    def narrowed_to(self, offered: Selectors) -> Selectors | None:
        """Return what an offer, seen from our side, and these have in common; None where that is nothing.

        A family that is left to one side only is nothing in common.
        """
        local = _intersection(offered.local, self.local)
        remote = _intersection(offered.remote, self.remote)
        families = {each.version for each in local} & {each.version for each in remote}
        if not families:
            return None
        return Selectors(
            tuple(each for each in local if each.version in families),
            tuple(each for each in remote if each.version in families),
        )

    def admit_outbound(self, facts: PacketFacts) -> bool:
        """Whether a packet towards the site belongs to the child SA."""
        return _admit(self.local, self.remote, facts)

    def admit_inbound(self, facts: PacketFacts) -> bool:
        """Whether a decrypted packet belongs to the child SA that it came through (RFC 4301 section 5.2)."""
        return _admit(self.remote, self.local, facts)

    def __str__(self) -> str:
        return f"{_listed(self.local)} === {_listed(self.remote)}"


def _listed(selectors: tuple[TrafficSelector, ...]) -> str:
    """Return them for people, who read no log line of hundreds."""
    listed = " ".join(map(str, selectors[:_MOST_PRINTED]))
    return (
        listed if len(selectors) <= _MOST_PRINTED else f"{listed} and {len(selectors) - _MOST_PRINTED} more"
    )


def _intersection(
    offered: Iterable[TrafficSelector], own: Sequence[TrafficSelector]
) -> tuple[TrafficSelector, ...]:
    """What both select, in the order of the offer, without what lies in another of them anyway.

    A long answer is left as it is: a peer that offers hundreds must not keep us busy.
    """
    common = (each.within(ours) for each in offered for ours in own)
    distinct = tuple(islice(dict.fromkeys(each for each in common if each is not None), MOST_SELECTORS))
    if len(distinct) > _MOST_COMPARED:
        return distinct
    return tuple(
        each
        for each in distinct
        if not any(each.within(other) == each for other in distinct if other is not each)
    )


def _admit(
    sources: tuple[TrafficSelector, ...], destinations: tuple[TrafficSelector, ...], facts: PacketFacts
) -> bool:
    return any(
        each.holds(facts.source) and _holds_port(each, facts, facts.source_port) for each in sources
    ) and any(
        each.holds(facts.destination) and _holds_port(each, facts, facts.destination_port)
        for each in destinations
    )


def _holds_port(selector: TrafficSelector, facts: PacketFacts, port: int) -> bool:
    if selector.protocol not in (ANY_PROTOCOL, facts.protocol):
        return False
    if selector.has_any_port:
        return True
    if facts.is_later_fragment:
        return selector.is_opaque
    if facts.protocol == _ICMP_OF[facts.version]:
        port = facts.icmp_type << 8 | facts.icmp_code
    elif facts.protocol not in (TCP, UDP):
        return selector.is_opaque
    return selector.start_port <= port <= selector.end_port
