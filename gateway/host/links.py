"""What the kernel says of its network interfaces, as it happens: rtnetlink's link events.

All that is read of an event is which interface it is about. How that is now is asked for
then: events may be lost, and what they say is old when they are read.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

_RTMGRP_LINK = 1
_RTM_NEWLINK = 16
_RTM_DELLINK = 17
_IFLA_IFNAME = 3

# <linux/netlink.h>: length with this header, type, flags, sequence number, port.
_MESSAGE = struct.Struct("=IHHII")
_LINK_LENGTH = 16  # struct ifinfomsg
_ATTRIBUTE = struct.Struct("=HH")  # length with this header, type
_LARGEST = 65_536


class LinkEvents:
    """A socket that hears of every change of an interface of this network namespace."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, _RTMGRP_LINK))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> set[str] | None:
        """The names of the interfaces that have changed; None where some were not heard of."""
        found: set[str] = set()
        while True:
            try:
                found.update(names(self._socket.recv(_LARGEST)))
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return None
                raise


def names(datagram: bytes) -> Iterator[str]:
    """Yield the name of the interface in each link event of a datagram."""
    position = 0
    while position + _MESSAGE.size <= len(datagram):
        length, kind, *_ = _MESSAGE.unpack_from(datagram, position)
        if length < _MESSAGE.size:
            return
        if kind in (_RTM_NEWLINK, _RTM_DELLINK):
            start = position + _MESSAGE.size + _LINK_LENGTH
            name = _name(datagram[start : position + length])
            if name is not None:
                yield name
        position += length + 3 & ~3


def _name(attributes: bytes) -> str | None:
    position = 0
    while position + _ATTRIBUTE.size <= len(attributes):
        length, kind = _ATTRIBUTE.unpack_from(attributes, position)
        if length < _ATTRIBUTE.size:
            return None
        if kind == _IFLA_IFNAME:
            octets = attributes[position + _ATTRIBUTE.size : position + length]
            return octets.rstrip(b"\0").decode(errors="surrogateescape")
        position += length + 3 & ~3
    return None
