"""Raw GRE sockets, one for each of our provider addresses.

The kernel answers protocol-unreachable for an address on which no raw socket
is open, so each address has one of its own. We write the outer IP header
ourselves: what is sent is one packet, with DF set, and the kernel never cuts it.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Callable

from gateway.forwarding.verdicts import OuterHeader, ToUnderlay
from gateway.packets import nvgre
from policies.addresses import ProviderAddress, Vsid
from tunnels.socket_options import (
    IP_FREEBIND,
    IP_MTU_DISCOVER,
    IP_RECVERR,
    IPV6_FREEBIND,
    IPV6_HDRINCL,
    IPV6_MTU_DISCOVER,
    IPV6_MULTICAST_ALL,
    IPV6_RECVERR,
    PMTUDISC_PROBE,
    BufferedSocket,
    queued_errors,
)

PathMtuReport = Callable[[bytes, int, int], None]
"""Takes a destination, the VSID of the packet that was too big, and what the path carries, in octets."""

IPV4_HEADER = struct.Struct("!BBHHHBBH4s4s")
IPV6_HEADER = struct.Struct("!IHBB16s16s")
DONT_FRAGMENT = 0x4000
LARGEST_PACKET = 65535


class GreSocket(BufferedSocket):
    """One provider address's raw socket; use `open_socket` to make one.

    `send` raises OSError where the kernel refuses a packet, EMSGSIZE after the
    path's MTU has been reported. `receive` raises BlockingIOError when nothing
    waits, and OSError for what the network said about an earlier packet.
    """

    header_length: int

    def __init__(self, address: ProviderAddress, path_mtu_reported: PathMtuReport) -> None:
        self.address = address
        self.icmp_errors = 0
        """Errors that the network reported about packets sent from here, path MTUs included."""
        self._path_mtu_reported = path_mtu_reported
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        super().__init__(family, socket.SOCK_RAW, socket.IPPROTO_GRE)
        with self._closed_on_failure():
            self._configure()
            self._socket.bind((str(address), 0))

    def receive(self) -> tuple[OuterHeader, bytes]:
        """The next packet: what its outer header said, and what follows that header."""
        raise NotImplementedError

    def send(self, packet: ToUnderlay) -> None:
        """Send one packet now, or raise OSError."""
        octets, destination = self._encode(packet)
        try:
            self._socket.sendto(octets, destination)
        except OSError as error:
            if error.errno in _QUEUE_FULL:
                raise
            # This may be what the network said about an earlier packet, to somebody else: the
            # kernel reports it on the next call and forgets it. So this one gets a second try.
            self.heed_errors(packet.vsid)
            try:
                self._socket.sendto(octets, destination)
            except OSError:
                self.heed_errors(packet.vsid)
                raise

    def heed_errors(self, refused: Vsid | None = None) -> None:
        """Take in what the network said about packets sent from here.

        `refused` is the VSID of a packet that this machine's own kernel has just refused.

        An ICMP error can be forged from anywhere, and a path MTU that is believed cuts
        down what everybody sends to a host. The kernel has checked no more than the
        addresses and the protocol of the packet that the error quotes. As RFC 5927
        section 4.1 asks of every transport, what is quoted has to be what was sent:
        the GRE header as we write it, and a VSID that is in use, which whoever takes
        the report checks. Somebody off the path has to guess it. All of it is within
        the 8 octets behind the IP header that every router quotes (RFC 792).
        """
        for error in queued_errors(self._socket):
            self.icmp_errors += error.is_from_the_network
            vsid = self._quoted_vsid_untrusted(error.quoted) if error.is_from_the_network else refused
            if error.code == errno.EMSGSIZE and error.destination is not None and vsid is not None:
                self._path_mtu_reported(error.destination, vsid, error.info)

    def _quoted_vsid_untrusted(self, quoted: bytes) -> Vsid | None:
        """Return whose packet an error quotes, or None if it is none that we send."""
        gre = quoted[self.header_length :]
        if len(gre) < nvgre.HEADER_LENGTH or not gre.startswith(_GRE_AS_SENT):
            return None
        return Vsid(nvgre.decode_untrusted(gre).vsid)

    def _configure(self) -> None:
        raise NotImplementedError

    def _encode(self, packet: ToUnderlay) -> tuple[bytes, tuple[str, int]]:
        raise NotImplementedError


_GRE_AS_SENT = nvgre.encode(0)[:4]
_QUEUE_FULL = (errno.EAGAIN, errno.ENOBUFS)


class Ipv4Socket(GreSocket):
    """The kernel hands us the outer header, and fills in checksum, length and identification."""

    header_length = IPV4_HEADER.size

    def receive(self) -> tuple[OuterHeader, bytes]:
        packet = self._socket.recv(LARGEST_PACKET)
        header_length = (packet[0] & 0x0F) << 2
        return OuterHeader(packet[12:16], packet[16:20], packet[1] & 3, packet[8]), packet[header_length:]

    def _configure(self) -> None:
        for option, value in (
            (socket.IP_HDRINCL, 1),
            (IP_FREEBIND, 1),
            (IP_RECVERR, 1),
            # The pipeline judges path MTUs and ages them. The kernel's own cache of them would
            # also believe reports that the pipeline finds implausible.
            (IP_MTU_DISCOVER, PMTUDISC_PROBE),
        ):
            self._socket.setsockopt(socket.IPPROTO_IP, option, value)

    def _encode(self, packet: ToUnderlay) -> tuple[bytes, tuple[str, int]]:
        payload = packet.payload
        header = IPV4_HEADER.pack(
            0x45,
            packet.ecn,
            IPV4_HEADER.size + len(payload),
            0,
            DONT_FRAGMENT,
            packet.hop_limit,
            socket.IPPROTO_GRE,
            0,
            packet.source,
            packet.destination,
        )
        return header + payload, (socket.inet_ntoa(packet.destination), 0)


class Ipv6Socket(GreSocket):
    """The kernel keeps the outer header, so what matters of it is asked for beside the packet."""

    header_length = IPV6_HEADER.size

    def receive(self) -> tuple[OuterHeader, bytes]:
        payload, ancillary, _, source = self._socket.recvmsg(LARGEST_PACKET, 128)
        ecn, hop_limit = 0, 64
        for _, kind, value in ancillary:
            if kind == socket.IPV6_TCLASS:
                ecn = int.from_bytes(value, sys.byteorder) & 3
            elif kind == socket.IPV6_HOPLIMIT:
                hop_limit = int.from_bytes(value, sys.byteorder)
        # The socket is bound, and takes no multicast: the destination is its own address.
        return OuterHeader(
            socket.inet_pton(socket.AF_INET6, source[0]), self.address, ecn, hop_limit
        ), payload

    def _configure(self) -> None:
        for option, value in (
            (IPV6_HDRINCL, 1),
            (IPV6_FREEBIND, 1),
            (IPV6_RECVERR, 1),
            (IPV6_MTU_DISCOVER, PMTUDISC_PROBE),
            (IPV6_MULTICAST_ALL, 0),
            (socket.IPV6_RECVTCLASS, 1),
            (socket.IPV6_RECVHOPLIMIT, 1),
        ):
            self._socket.setsockopt(socket.IPPROTO_IPV6, option, value)

    def _encode(self, packet: ToUnderlay) -> tuple[bytes, tuple[str, int]]:
        payload = packet.payload
        header = IPV6_HEADER.pack(
            6 << 28 | packet.ecn << 20,
            len(payload),
            socket.IPPROTO_GRE,
            packet.hop_limit,
            packet.source,
            packet.destination,
        )
        return header + payload, (socket.inet_ntop(socket.AF_INET6, packet.destination), 0)


def open_socket(address: ProviderAddress, path_mtu_reported: PathMtuReport) -> GreSocket:
    """Open and bind the raw socket of an address; it need not be on an interface yet.

    Raises PermissionError without CAP_NET_RAW, and OSError.
    """
    return (Ipv4Socket if address.version == 4 else Ipv6Socket)(address, path_mtu_reported)
