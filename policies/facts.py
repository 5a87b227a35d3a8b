"""What a parsed IP packet is, for rules, selectors and forwarding.

A packet is parsed once, where it comes in. Everything later reads these facts.
"""

from __future__ import annotations

import msgspec

ICMP = 1
TCP = 6
UDP = 17
ICMPV6 = 58

TCP_FIN = 0x01
TCP_SYN = 0x02
TCP_ACK = 0x10


class PacketFacts(msgspec.Struct, frozen=True, gc=False):
    """The facts of one IPv4 or IPv6 packet; offsets count octets from its first."""

    version: int
    source: bytes
    destination: bytes
    protocol: int
    """The upper-layer protocol, behind any IPv6 extension headers."""
    traffic_class: int
    hop_limit: int
    header_length: int
    """Where the upper layer begins; for a later fragment, where its data begins."""
    total_length: int
    """Of the IP packet; what follows it in the frame is Ethernet padding."""
    source_port: int = 0
    """TCP and UDP only, and never in a later fragment."""
    destination_port: int = 0
    tcp_flags: int = 0
    icmp_type: int = -1
    icmp_code: int = -1
    dont_fragment: bool = False
    """IPv4 only; IPv6 routers never fragment."""
    more_fragments: bool = False
    fragment_offset: int = 0
    """In octets."""
    identification: int = 0
    quoted: PacketFacts | None = None
    """For an ICMP error: the packet that it is about, as far as it is quoted."""

    @property
    def is_fragment(self) -> bool:
        return self.more_fragments or self.fragment_offset > 0

    @property
    def is_later_fragment(self) -> bool:
        return self.fragment_offset > 0

    @property
    def is_bare_syn(self) -> bool:
        """A TCP segment that opens a connection."""
        return self.protocol == TCP and self.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
