"""GRO and LRO off on the underlay's interfaces, for as long as we receive from them.

Both merge the TCP segments inside consecutive NVGRE packets into one packet of
up to 64 kB before a raw socket sees it, and what was on the wire is lost.
"""

from __future__ import annotations

import array
import errno
import fcntl
import logging
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

_log = logging.getLogger("isthmus.underlay")

SIOCETHTOOL = 0x8946
_IFREQ = struct.Struct("16sP16x")  # struct ifreq of <linux/if.h> with a pointer in its union
_FLAG_LRO = 1 << 15


class _Offload(NamedTuple):
    """One switch of <linux/ethtool.h>: how it is read and set, and its bit where it shares a word."""

    name: str
    read: int
    write: int
    bit: int


GRO = _Offload("GRO", 0x2B, 0x2C, 1)
LRO = _Offload("LRO", 0x25, 0x26, _FLAG_LRO)


@contextmanager
def merging_off(interfaces: Iterable[str]) -> Iterator[None]:
    """Switch GRO and LRO off, and back on afterwards where they were on.

    Where that is forbidden, a line in the log says what follows: merged packets are cut again.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control, ExitStack() as stack:
        for interface in interfaces:
            for offload in (GRO, LRO):
                if _switch(control, interface, offload, on=False):
                    stack.callback(_switch, control, interface, offload, on=True)
        yield


def _switch(control: socket.socket, interface: str, offload: _Offload, *, on: bool) -> bool:
    """Whether it had to be, and was, changed."""
    try:
        word = _ethtool(control, interface, offload.read, 0)
        if bool(word & offload.bit) == on:
            return False
        _ethtool(control, interface, offload.write, word | offload.bit if on else word & ~offload.bit)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:  # the interface has no such offload
            return False
        _log.warning(
            "%s of %s could not be switched %s (%s): what it merges is cut again, slowly",
            offload.name,
            interface,
            "on" if on else "off",
            error.strerror,
            extra={"event": "offload", "interface": interface},
        )
        return False
    return True


def _ethtool(control: socket.socket, interface: str, command: int, word: int) -> int:
    value = array.array("I", [command, word])  # struct ethtool_value
    fcntl.ioctl(control, SIOCETHTOOL, _IFREQ.pack(interface.encode(), value.buffer_info()[0]))
    return value[1]


def merging(interface: str) -> list[str]:
    """Return which of GRO and LRO are on at an interface. Raises OSError where there is no such interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        return [offload.name for offload in (GRO, LRO) if _is_on(control, interface, offload)]


def _is_on(control: socket.socket, interface: str, offload: _Offload) -> bool:
    try:
        return bool(_ethtool(control, interface, offload.read, 0) & offload.bit)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:  # the interface has no such offload
            return False
        raise
