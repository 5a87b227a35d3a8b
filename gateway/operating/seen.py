"""A packet at one place on its way: whose it is, and both of its sides.

The inner side is what the tenant sent, the outer what the underlay carries. The sockets don't give all
of an outer header: it is made anew from what is known of it, with an identification of 0.
"""

from __future__ import annotations

import msgspec

from gateway.packets import ethernet, ip
from gateway.packets.arp import LENGTH as ARP_LENGTH
from policies.addresses import CustomerAddress

GRE, ESP = 47, 50

_UDP_HEADER = 8
_ARP = ethernet.ARP.to_bytes(2)


class Outer(msgspec.Struct, frozen=True, gc=False):
    """A packet of the underlay, by what is known of it."""

    source: bytes
    destination: bytes
    protocol: int
    payload: bytes
    is_inbound: bool
    ecn: int = 0
    hop_limit: int = 64
    ports: tuple[int, int] | None = None
    """Of UDP, where that carries it."""

    @property
    def place(self) -> str:
        """Our own provider address."""
        return f"underlay {CustomerAddress(self.destination if self.is_inbound else self.source)}"

    def packet(self) -> bytes:
        """The whole packet, from its IP header on."""
        payload = self.payload
        if self.ports is not None:
            # No checksum, as RFC 3948 section 2.1 asks for.
            ports = b"".join(port.to_bytes(2) for port in self.ports)
            payload = ports + (_UDP_HEADER + len(payload)).to_bytes(2) + bytes(2) + payload
        ends = self.source, self.destination, self.protocol, len(payload)
        if len(self.source) == 4:
            return ip.ipv4_header(*ends, ttl=self.hop_limit, traffic_class=self.ecn) + payload
        return ip.ipv6_header(*ends, hop_limit=self.hop_limit, traffic_class=self.ecn) + payload


class Plain(msgspec.Struct, frozen=True, gc=False):
    """A rewritten packet of the underlay: nothing is around it."""

    octets: bytes

    @property
    def place(self) -> str:
        """No address: each is one VM's."""
        return "underlay"

    def packet(self) -> bytes:
        """The whole packet, from its IP header on."""
        return self.octets


class Seen(msgspec.Struct, frozen=True, gc=False):
    """One packet at one place, on its way in or out."""

    tenant: str
    """Empty where it is nobody's."""
    is_inbound: bool
    dropped: str = ""
    """Why it goes no further."""
    site: str | None = None
    vsid: int | None = None
    inner: bytes | None = None
    is_ethernet: bool = True
    inner_place: str = ""
    """Empty where only the outer side is seen, though the inner is known."""
    outer: Outer | Plain | None = None
    nodes: tuple[bytes, ...] = ()
    """Provider addresses that it comes from or goes to."""
    names: tuple[str, ...] = ()
    """The hosts and gateways whose they are, where they are not those of the nodes themselves."""

    @property
    def is_rewritten(self) -> bool:
        """Whether IP rewrite carries it, and not encapsulation."""
        return isinstance(self.outer, Plain)

    def addresses(self) -> tuple[bytes, ...]:
        """The customer addresses that it is about, as far as it can be read."""
        packet = self.inner
        if packet is None:
            return ()
        if self.is_ethernet:
            kind, packet = packet[12:14], packet[ethernet.HEADER_LENGTH :]
            if kind == _ARP and len(packet) >= ARP_LENGTH:
                return packet[14:18], packet[24:28]
        return ends_untrusted(packet)


def ends_untrusted(packet: bytes) -> tuple[bytes, ...]:
    """Return the source and the destination of an IP packet, or nothing."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= ip.IPV4_HEADER_LENGTH:
        return packet[12:16], packet[16:20]
    if version == 6 and len(packet) >= ip.IPV6_HEADER_LENGTH:
        return packet[8:24], packet[24:40]
    return ()
