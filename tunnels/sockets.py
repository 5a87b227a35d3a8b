"""The sockets that IKE and ESP share: UDP 500 and 4500, and raw ESP, of each of our addresses.

What is sent by them carries DF and is never cut, except IKE messages: those may be
larger than a path carries before both sides know that they can fragment (RFC 7383).
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable, Sequence

from policies.addresses import ProviderAddress
from tunnels.effects import Endpoint, Path
from tunnels.socket_options import (
    IP_FREEBIND,
    IP_MTU_DISCOVER,
    IP_RECVERR,
    IP_RECVTOS,
    IPV6_FREEBIND,
    IPV6_MTU_DISCOVER,
    IPV6_MULTICAST_ALL,
    IPV6_RECVERR,
    PMTUDISC_DONT,
    PMTUDISC_PROBE,
    SOL_UDP,
    UDP_GRO,
    UDP_SEGMENT,
    BufferedSocket,
    queued_errors,
)

PathMtuReport = Callable[[Endpoint, int, int], object]
"""Takes where a packet was too big to get to, its SPI, and what the path carries, in octets."""

NON_ESP_MARKER = bytes(4)
"""Precedes IKE messages where ESP shares the port: no SPI is 0 (RFC 3948 section 2.2)."""

LARGEST_PACKET = 65535

# What the kernel cuts at most from one call: UDP_MAX_SEGMENTS of older kernels, and an IP packet.
MOST_SEGMENTS = 64
LARGEST_RUN = 65_000

_ANCILLARY = 128
_INT = struct.Struct("=i")
_SEGMENT_SIZE = struct.Struct("=H")
_QUEUE_FULL = (errno.EAGAIN, errno.ENOBUFS)
_SPI_LENGTH = 4

_OPTIONS = {
    4: (
        socket.IPPROTO_IP,
        ((IP_FREEBIND, 1), (IP_RECVERR, 1), (IP_RECVTOS, 1), (IP_MTU_DISCOVER, PMTUDISC_PROBE)),
    ),
    6: (
        socket.IPPROTO_IPV6,
        (
            (IPV6_FREEBIND, 1),
            (IPV6_RECVERR, 1),
            (socket.IPV6_RECVTCLASS, 1),
            (IPV6_MTU_DISCOVER, PMTUDISC_PROBE),
            (IPV6_MULTICAST_ALL, 0),
        ),
    ),
}

# Senders whose Path is kept ready for their next packet. Forged ones only cost the others a moment.
_REMEMBERED = 4096

Destination = tuple[str, int]


class TunnelSocket(BufferedSocket):
    """One socket, bound to one of our addresses; use UdpSocket or EspSocket.

    `receive` raises BlockingIOError when nothing waits, and OSError for what the network
    said about an earlier packet: then `heed_errors`.
    """

    def __init__(self, local: Endpoint, kind: int, protocol: int, path_mtu_reported: PathMtuReport) -> None:
        self.local = local
        self.icmp_errors = 0
        """Errors that the network reported about packets sent from here, path MTUs included."""
        self.unsent: Counter[int] = Counter()
        """How many packets the kernel refused to send, by its errno."""
        self._path_mtu_reported = path_mtu_reported
        self._paths: dict[object, Path] = {}
        self._is_ipv4 = local.address.version == 4
        family = socket.AF_INET if self._is_ipv4 else socket.AF_INET6
        super().__init__(family, kind, protocol)
        with self._closed_on_failure():
            self._configure()
            self._socket.bind((str(local.address), local.port if kind == socket.SOCK_DGRAM else 0))

    def receive(self) -> tuple[Path, int, Sequence[bytes]]:
        """Return where packets came from, the ECN bits of their outer headers, and what those carried."""
        raise NotImplementedError

    def send(self, destination: Destination, packets: Sequence[bytes], ecn: int) -> None:
        """Send packets to one destination, all with the same ECN bits. What is refused is counted."""
        for packet in packets:
            self._send_one(destination, packet, ecn)

    def heed_errors(self, refused: int | None = None) -> None:
        """Take in what the network said about packets sent from here.

        `refused` is the SPI of a packet that this machine's own kernel has just refused.
        A path MTU is reported with the SPI that the network quotes, so that whoever heeds it
        can require one that is in use: to guess it is to guess 32 bits (RFC 5927 section 4.1).
        Where a router quotes no SPI, nothing is reported.
        """
        for error in queued_errors(self._socket):
            self.icmp_errors += error.is_from_the_network
            spi = _spi_untrusted(error.quoted) if error.is_from_the_network else refused
            if error.code == errno.EMSGSIZE and error.destination is not None and spi:
                self._path_mtu_reported(Endpoint(error.destination, error.port), spi, error.info)

    def _send_one(self, destination: Destination, packet: bytes, ecn: int) -> None:
        ancillary = _ecn_ancillary(ecn, is_ipv4=self._is_ipv4)
        try:
            self._socket.sendmsg((packet,), ancillary, 0, destination)
        except OSError as error:
            if error.errno in _QUEUE_FULL:
                self.unsent[error.errno or 0] += 1
                return
            # This may be what the network said about an earlier packet, to somebody else: the
            # kernel reports it on the next call and forgets it. So this one gets a second try.
            self.heed_errors(_spi_untrusted(packet))
            try:
                self._socket.sendmsg((packet,), ancillary, 0, destination)
            except OSError as again:
                self.heed_errors(_spi_untrusted(packet))
                self.unsent[again.errno or 0] += 1

    def _configure(self) -> None:
        level, options = _OPTIONS[self.local.address.version]
        for option, value in options:
            self._socket.setsockopt(level, option, value)

    def _path_from(self, sender: object, host: str, port: int) -> Path:
        path = self._paths.get(sender)
        if path is None:
            if len(self._paths) >= _REMEMBERED:
                self._paths.clear()
            path = Path(self.local, Endpoint(ProviderAddress.parse(host), port))
            self._paths[sender] = path
        return path


class UdpSocket(TunnelSocket):
    """UDP: the kernel cuts runs of datagrams that we send, and merges those that come, where it can."""

    def __init__(self, local: Endpoint, path_mtu_reported: PathMtuReport) -> None:
        self._can_segment = True
        super().__init__(local, socket.SOCK_DGRAM, 0, path_mtu_reported)

    def receive(self) -> tuple[Path, int, Sequence[bytes]]:
        data, ancillary, _, sender = self._socket.recvmsg(LARGEST_PACKET, _ANCILLARY)
        path = self._paths.get(sender) or self._path_from(sender, sender[0], sender[1])
        ecn, size = 0, 0
        for level, kind, value in ancillary:
            if level == SOL_UDP:
                if kind == UDP_GRO:
                    size = int.from_bytes(value, sys.byteorder)
            elif kind in (socket.IP_TOS, socket.IPV6_TCLASS):
                ecn = int.from_bytes(value, sys.byteorder) & 3
        if 0 < size < len(data):
            return path, ecn, [data[start : start + size] for start in range(0, len(data), size)]
        return path, ecn, (data,)

    def send(self, destination: Destination, packets: Sequence[bytes], ecn: int) -> None:
        """Send datagrams that all have one length, but for the last, which may be shorter."""
        if len(packets) == 1 or not self._can_segment:
            super().send(destination, packets, ecn)
            return
        ancillary = [
            (SOL_UDP, UDP_SEGMENT, _SEGMENT_SIZE.pack(len(packets[0]))),
            *_ecn_ancillary(ecn, is_ipv4=self._is_ipv4),
        ]
        try:
            self._socket.sendmsg(packets, ancillary, 0, destination)
        except OSError as error:
            if error.errno in _QUEUE_FULL:
                self.unsent[error.errno or 0] += len(packets)
                return
            refused = sum(self.unsent.values())
            super().send(destination, packets, ecn)
            if error.errno in (errno.EINVAL, errno.EIO) and sum(self.unsent.values()) == refused:
                # One by one they went, so it is the cutting that cannot be done here.
                self._can_segment = False

    def send_fragmentable(self, destination: Destination, datagram: bytes) -> None:
        """Send a datagram without DF, for the network to fragment where it must."""
        self._discover(PMTUDISC_DONT)
        try:
            self._send_one(destination, datagram, 0)
        finally:
            self._discover(PMTUDISC_PROBE)

    def _discover(self, how: int) -> None:
        if self._is_ipv4:
            self._socket.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, how)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, how)

    def _configure(self) -> None:
        super()._configure()
        if not self._is_ipv4:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            self._socket.setsockopt(SOL_UDP, UDP_GRO, 1)
        except OSError as error:
            # Kernels before 5.0 give each datagram on its own.
            if error.errno != errno.ENOPROTOOPT:
                raise


class EspSocket(TunnelSocket):
    """ESP as an IP protocol of its own; its endpoints have port 0."""

    def __init__(self, address: ProviderAddress, path_mtu_reported: PathMtuReport) -> None:
        super().__init__(Endpoint(address, 0), socket.SOCK_RAW, socket.IPPROTO_ESP, path_mtu_reported)

    def receive(self) -> tuple[Path, int, Sequence[bytes]]:
        if self._is_ipv4:
            packet, sender = self._socket.recvfrom(LARGEST_PACKET)
            path = self._paths.get(sender) or self._path_from(sender, sender[0], 0)
            return path, packet[1] & 3, (packet[(packet[0] & 0x0F) << 2 :],)
        packet, ancillary, _, sender = self._socket.recvmsg(LARGEST_PACKET, _ANCILLARY)
        path = self._paths.get(sender) or self._path_from(sender, sender[0], 0)
        ecn = 0
        for _, kind, value in ancillary:
            if kind == socket.IPV6_TCLASS:
                ecn = int.from_bytes(value, sys.byteorder) & 3
        return path, ecn, (packet,)


def destination_of(endpoint: Endpoint) -> Destination:
    """Return what the socket module calls an endpoint."""
    family = socket.AF_INET if len(endpoint.address) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, endpoint.address), endpoint.port


def _spi_untrusted(packet: bytes) -> int | None:
    """Return the SPI of an ESP packet; 0 is a Non-ESP Marker, and behind it is no ESP."""
    return int.from_bytes(packet[:_SPI_LENGTH]) if len(packet) >= _SPI_LENGTH else None


def _ecn_ancillary(ecn: int, *, is_ipv4: bool) -> list[tuple[int, int, bytes]]:
    if not ecn:
        return []
    if is_ipv4:
        return [(socket.IPPROTO_IP, socket.IP_TOS, _INT.pack(ecn))]
    return [(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _INT.pack(ecn))]
