"""What one interface of the underlay hears for our pools: packets, and neighbours who ask."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing

from gateway.packets import ethernet
from gateway.underlay import packet_filter
from gateway.underlay.packet_sockets import PacketSocket
from policies.addresses import Prefix


class Hearing:
    """The packet sockets of one interface.

    Packets and neighbours are apart, so that neither is in the other's way. Raises OSError where the
    interface is not there, and PermissionError without CAP_NET_RAW.
    """

    def __init__(self, interface: str, pools: Sequence[Prefix]) -> None:
        self.interface = interface
        self._dropped_before = 0
        self._pools = tuple(pools)
        self._opened = ExitStack()
        self.packets: tuple[PacketSocket, ...] = ()
        """Of IPv4 and of IPv6."""
        self.arp: PacketSocket | None = None
        self.solicitations: PacketSocket | None = None
        """Both are None where the interface has no neighbours to answer."""
        self.open()

    @property
    def kernel_drops(self) -> int:
        """Packets that came while a buffer was full, of the neighbours' too."""
        return self._dropped_before + sum(each.kernel_drops for each in self._sockets())

    def open(self) -> None:
        """Open what was closed, when the interface is there again. Raises OSError."""
        with ExitStack() as stack:

            def opened(protocol: int) -> PacketSocket:
                sock = PacketSocket(self.interface, protocol, packet_filter.NOTHING)
                return stack.enter_context(closing(sock))

            packets = (opened(ethernet.IPV4), opened(ethernet.IPV6))
            arp = solicitations = None
            if packets[0].has_neighbours:
                arp, solicitations = opened(ethernet.ARP), opened(ethernet.IPV6)
            self.packets, self.arp, self.solicitations = packets, arp, solicitations
            self.listen_to(self._pools)
            self._opened = stack.pop_all()

    def close(self) -> None:
        self._dropped_before = self.kernel_drops
        self._opened.close()
        self.packets, self.arp, self.solicitations = (), None, None

    def listen_to(self, pools: Sequence[Prefix]) -> None:
        """Hear what is for these pools from now on, also after it is opened again."""
        self._pools = tuple(pools)
        if self.packets:
            self.packets[0].listen_to(packet_filter.ipv4_packets(pools))
            self.packets[1].listen_to(packet_filter.ipv6_packets(pools))
        if self.arp is not None:
            self.arp.listen_to(packet_filter.arp_requests(pools))
        if self.solicitations is not None:
            self.solicitations.listen_to(packet_filter.solicitations(pools))
            if any(pool.version == 6 for pool in pools):
                # A group for each address would be thousands of them.
                self.solicitations.hear_groups()

    def _sockets(self) -> list[PacketSocket]:
        neighbours = (each for each in (self.arp, self.solicitations) if each is not None)
        return [*self.packets, *neighbours]
