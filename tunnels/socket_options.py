"""What Linux's sockets can do beyond what Python has names for: options, buffers, and the error queue.

The numbers are those of <linux/in.h>, <linux/in6.h>, <linux/udp.h>,
<asm-generic/socket.h> and <linux/errqueue.h>.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from policies.addresses import ProviderAddress

SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
SO_MEMINFO = 55
SK_MEMINFO_DROPS = 8
SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104
IP_MTU_DISCOVER = 10
IP_RECVERR = 11
IP_RECVTOS = 13
IP_FREEBIND = 15
IP_NODEFRAG = 22
IPV6_MTU_DISCOVER = 23
IPV6_RECVERR = 25
IPV6_MULTICAST_ALL = 29
IPV6_HDRINCL = 36
IPV6_FREEBIND = 78

PMTUDISC_DONT = 0
"""Let packets be fragmented."""
PMTUDISC_PROBE = 3
"""Set DF, and heed no path MTU but the interface's: whoever sends judges them."""

# What the kernel may hold for us: some 50 ms of small packets at 40,000 a second. More would
# only be delay.
BUFFER_SIZE = 4 << 20

ERRORS_AT_ONCE = 64

# struct sock_extended_err: errno, origin, type, code, pad, info, data.
_EXTENDED_ERROR = struct.Struct("=IBBBBII")
_FROM_THE_NETWORK = (2, 3)  # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6; the kernel itself is 1
_ERROR_REPORTS = ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR))
_QUOTED = 64  # octets of what an error quotes: an IP header, and what tells whose the packet was


class QueuedError(msgspec.Struct, frozen=True):
    """What was said about a packet that a socket sent."""

    code: int
    """One of errno."""
    is_from_the_network: bool
    """An ICMP error, which anybody may have forged; else this machine's own kernel says so."""
    info: int
    """With EMSGSIZE, what the path carries, in octets."""
    destination: ProviderAddress | None
    port: int
    """Where the packet was going; 0 for a raw socket."""
    quoted: bytes
    """The beginning of the packet from behind its IP and UDP headers, or with its IP header
    where the socket writes that. Errors of this machine quote nothing."""


def queued_errors(sock: socket.socket) -> Iterator[QueuedError]:
    """Take what waits in a socket's error queue, but not for ever."""
    for _ in range(ERRORS_AT_ONCE):
        try:
            quoted, ancillary, _, address = sock.recvmsg(_QUOTED, 512, socket.MSG_ERRQUEUE)
        except OSError:
            return
        for level, kind, value in ancillary:
            if (level, kind) not in _ERROR_REPORTS or len(value) < _EXTENDED_ERROR.size:
                continue
            code, origin, _, _, _, info, _ = _EXTENDED_ERROR.unpack_from(value)
            destination, port = (ProviderAddress.parse(address[0]), address[1]) if address else (None, 0)
            yield QueuedError(code, origin in _FROM_THE_NETWORK, info, destination, port, quoted)


def enlarge_buffers(sock: socket.socket) -> None:
    """Ask for `BUFFER_SIZE` both ways: beyond the machine's limit if we may, else up to it."""
    for forced, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, BUFFER_SIZE)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_SIZE)


def kernel_drops(sock: socket.socket) -> int:
    """How many packets the kernel dropped because this socket's buffer was full."""
    counters = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * (SK_MEMINFO_DROPS + 1))
    return int.from_bytes(counters[4 * SK_MEMINFO_DROPS :], sys.byteorder)


class BufferedSocket:
    """A socket that packets come and go by: it has room for a burst of them, and never waits."""

    def __init__(self, family: int, kind: int, protocol: int) -> None:
        self._socket = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        with self._closed_on_failure():
            enlarge_buffers(self._socket)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    @property
    def kernel_drops(self) -> int:
        """Packets that came while the socket's buffer was full."""
        return kernel_drops(self._socket)

    @contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        """Leave no socket open that could not be made ready."""
        try:
            yield
        except BaseException:
            self._socket.close()
            raise
