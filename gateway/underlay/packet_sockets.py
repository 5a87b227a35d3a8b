"""The sockets of rewritten packets: packet sockets for what comes in, raw ones for what goes out.

A packet socket hears what the kernel's own stack hears, besides it. It listens to one protocol, so
that what is tagged for a VLAN has gone where that belongs, and what leaves the machine is not heard.

A sender on this same machine may leave checksums for the hardware to finish; here, nothing finishes them. But
nobody has provider addresses except hosts and gateways, and what those send is finished.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from gateway.underlay import packet_filter
from gateway.underlay.packet_filter import Program
from tunnels.socket_options import (
    IP_MTU_DISCOVER,
    IP_NODEFRAG,
    IPV6_MTU_DISCOVER,
    PMTUDISC_PROBE,
    BufferedSocket,
    enlarge_buffers,
)

LARGEST_PACKET = 65535

# Names of <linux/if_packet.h> and <linux/if_arp.h> that Python lacks.
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_MEMBERSHIP = struct.Struct("=iHH8x")  # struct packet_mreq: interface, type, length of an address
_PACKET_MR_ALLMULTI = 2
_ARPHRD_ETHER = 1

# An identification of 0 in a fragment is replaced by this: half of all numbers away from 0, so that a
# sender who counts does not use both at once.
_IDENTIFICATION = b"\x80\x00"
_DONT_FRAGMENT = 0x40
_FRAGMENT = 0x3F  # more fragments, and the upper bits of the offset


class InterfaceDown(Exception):
    """The interface is down, and is heard again by itself once it is up; or it is gone."""


class PacketSocket(BufferedSocket):
    """What one interface hears of one protocol and a filter accepts, from the network header on.

    `receive` raises BlockingIOError when nothing waits, and InterfaceDown once where the interface is.
    """

    def __init__(self, interface: str, protocol: int, program: Program) -> None:
        self.interface = interface
        self.protocol = protocol
        # Protocol 0: it hears nothing until it is bound, and then nothing that the filter refuses.
        super().__init__(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        with self._closed_on_failure():
            self.listen_to(program)
            self._socket.bind((interface, protocol))
            self._index = socket.if_nametoindex(interface)

    @property
    def is_gone(self) -> bool:
        """Whether its interface is no longer there, though another may have its name."""
        try:
            return socket.if_nametoindex(self.interface) != self._index
        except OSError:
            return True

    @property
    def has_neighbours(self) -> bool:
        """Whether the interface finds its neighbours by MAC."""
        kind: int = self._socket.getsockname()[3]
        return kind == _ARPHRD_ETHER

    @property
    def mac(self) -> bytes:
        """What the interface has now: that of a bond changes."""
        octets: bytes = self._socket.getsockname()[4]
        return octets

    def listen_to(self, program: Program) -> None:
        """Hear what another filter accepts. What already waits is still received."""
        packet_filter.attach(self._socket, program)

    def hear_groups(self) -> None:
        """Have the interface take all multicast, as long as this is open."""
        membership = _MEMBERSHIP.pack(self._index, _PACKET_MR_ALLMULTI, 0)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)

    def receive(self) -> bytes:
        """The next packet."""
        try:
            return self._socket.recv(LARGEST_PACKET)
        except BlockingIOError:
            raise
        except OSError as error:
            raise InterfaceDown from error

    def receive_from(self) -> tuple[bytes, bytes]:
        """The next packet, and the MAC that it came from."""
        try:
            packet, address = self._socket.recvfrom(LARGEST_PACKET)
        except BlockingIOError:
            raise
        except OSError as error:
            raise InterfaceDown from error
        return packet, address[4]

    def send(self, packet: bytes, mac: bytes) -> None:
        """Send a packet of its protocol to a MAC of the link now, or raise OSError."""
        self._socket.sendto(packet, (self.interface, self.protocol, 0, _ARPHRD_ETHER, mac))


class Sender:
    """Sends whole IP packets, with whatever source address, where the machine's routes lead.

    They leave as they are, but for the identification of IPv4 where that is 0 and the packet may be
    fragmented: the kernel then gives one to each, which fragments of one packet must have in common. So
    those get one here (RFC 791 section 3.2).
    """

    def __init__(self) -> None:
        self._ipv4 = _raw_socket(socket.AF_INET, socket.IPPROTO_IP, IP_MTU_DISCOVER)
        # A firewall that tracks connections would otherwise put fragments together, and cut them anew.
        self._ipv4.setsockopt(socket.IPPROTO_IP, IP_NODEFRAG, 1)
        try:
            self._ipv6: socket.socket | None = _raw_socket(
                socket.AF_INET6, socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER
            )
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:  # a machine without IPv6
                self._ipv4.close()
                raise
            self._ipv6 = None

    def close(self) -> None:
        self._ipv4.close()
        if self._ipv6 is not None:
            self._ipv6.close()

    def send(self, packet: bytes, via: bytes | None = None) -> None:
        """Send one packet now, or raise OSError: EMSGSIZE where the interface carries none so large.

        The kernel looks for the way to `via`, or to the destination, and leaves the header alone.
        """
        if packet[0] >> 4 == 4:
            if (
                packet[4:6] == b"\0\0"
                and not packet[6] & _DONT_FRAGMENT
                and (packet[6] & _FRAGMENT or packet[7])
            ):
                packet = packet[:4] + _IDENTIFICATION + packet[6:]  # the kernel sums the header up
            self._ipv4.sendto(packet, (socket.inet_ntoa(via or packet[16:20]), 0))
        elif self._ipv6 is not None:
            self._ipv6.sendto(packet, (socket.inet_ntop(socket.AF_INET6, via or packet[24:40]), 0))
        else:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))


def _raw_socket(family: int, level: int, mtu_discover: int) -> socket.socket:
    # With this protocol, we write the headers, of both families.
    sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
    try:
        enlarge_buffers(sock)
        # The pipeline judges path MTUs. The kernel's own cache of them would cut packets, and answer for us.
        sock.setsockopt(level, mtu_discover, PMTUDISC_PROBE)
        packet_filter.attach(sock, packet_filter.NOTHING)
    except BaseException:
        sock.close()
        raise
    return sock
