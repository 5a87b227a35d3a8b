"""What the kernel tells a socket about its packets: errors with their sender, and the path's MTU.

Linux keeps the ICMP errors that concern a socket in its error queue, and
says who sent each: see ip(7) under IP_RECVERR. Python has no names for these.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import struct

import msgspec

from gateway.packets import icmp

# linux/in.h and linux/in6.h: for each family the option level, then the options.
LEVEL = {4: socket.IPPROTO_IP, 6: socket.IPPROTO_IPV6}
HOP_LIMIT = {4: socket.IP_TTL, 6: socket.IPV6_UNICAST_HOPS}
MTU_DISCOVER = {4: 10, 6: 23}
MTU = {4: 14, 6: 24}
RECEIVE_ERRORS = {4: 11, 6: 25}

DISCOVER_NEVER = 0
DISCOVER_DO = 2
"""Set DF, and refuse to send what is larger than the known path MTU."""
DISCOVER_PROBE = 3
"""Set DF, and send up to the interface's MTU whatever is known."""

ORIGIN_LOCAL = 1

# struct sock_extended_err: errno, origin, type, code, padding, info, data; the offender's sockaddr follows.
EXTENDED_ERROR = struct.Struct("=IBBBBII")

TIME_EXCEEDED = {4: icmp.TIME_EXCEEDED, 6: icmp.V6_TIME_EXCEEDED}
UNREACHABLE = {4: icmp.UNREACHABLE, 6: icmp.V6_UNREACHABLE}
PORT_UNREACHABLE_CODE = {4: 3, 6: 4}


class QueuedError(msgspec.Struct, frozen=True):
    """One error from the queue. `offender` is who sent the ICMP message, "" if the kernel made it itself."""

    version: int
    origin: int
    type: int
    code: int
    mtu: int
    """Of the next hop, for a packet that was too big."""
    offender: str
    packet: bytes
    """As much of what we sent as the message quoted, from behind its IP header."""

    @property
    def is_local(self) -> bool:
        return self.origin == ORIGIN_LOCAL

    @property
    def is_too_big(self) -> bool:
        if self.is_local:
            return self.mtu > 0
        if self.version == 6:
            return self.type == icmp.V6_TOO_BIG
        return self.type == icmp.UNREACHABLE and self.code == icmp.FRAGMENTATION_NEEDED

    @property
    def is_time_exceeded(self) -> bool:
        return not self.is_local and self.type == TIME_EXCEEDED[self.version]

    @property
    def is_port_unreachable(self) -> bool:
        return (
            not self.is_local
            and self.type == UNREACHABLE[self.version]
            and self.code == PORT_UNREACHABLE_CODE[self.version]
        )

    def __str__(self) -> str:
        """Say it as ping does."""
        if self.is_too_big:
            return f"{'Frag needed and DF set' if self.version == 4 else 'Packet too big'} (mtu = {self.mtu})"
        if self.is_time_exceeded:
            return "Time to live exceeded" if self.version == 4 else "Time exceeded: Hop limit"
        if self.is_port_unreachable:
            return "Destination Port Unreachable"
        names = _UNREACHABLE_NAMES[self.version]
        if self.type == UNREACHABLE[self.version] and self.code in names:
            return f"Destination {names[self.code]}"
        return f"ICMP type {self.type} code {self.code}"


_UNREACHABLE_NAMES = {
    4: {0: "Net Unreachable", 1: "Host Unreachable", 2: "Protocol Unreachable", 13: "Packet filtered"},
    6: {0: "No route", 1: "Administratively prohibited", 3: "Address unreachable"},
}


def enable(sock: socket.socket, version: int, discover: int) -> None:
    """Have a socket's errors queued, and set how it treats the path's MTU (DISCOVER_...)."""
    sock.setsockopt(LEVEL[version], RECEIVE_ERRORS[version], 1)
    sock.setsockopt(LEVEL[version], MTU_DISCOVER[version], discover)


def read(sock: socket.socket, version: int) -> QueuedError | None:
    """Take the next error from a socket's queue, or None if there is none."""
    try:
        packet, ancillary, _, _ = sock.recvmsg(65535, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    for level, kind, data in ancillary:
        if level == LEVEL[version] and kind == RECEIVE_ERRORS[version]:
            _, origin, icmp_type, code, _, info, _ = EXTENDED_ERROR.unpack_from(data)
            offender = _address(data[EXTENDED_ERROR.size :])
            return QueuedError(version, origin, icmp_type, code, info, offender, packet)
    return None


def wait(sock: socket.socket, seconds: float) -> tuple[bool, bool]:
    """Wait until a socket has a packet or an error; return whether it has each."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    events = dict(poll.poll(max(0.0, seconds) * 1000)).get(sock.fileno(), 0)
    return bool(events & select.POLLIN), bool(events & select.POLLERR)


def _address(data: bytes) -> str:
    (family,) = struct.unpack_from("=H", data)
    if family == socket.AF_INET:
        return str(ipaddress.ip_address(data[4:8]))
    if family == socket.AF_INET6:
        return str(ipaddress.ip_address(data[8:24]))
    return ""
