"""Keeps this machine's own network stack off a VM's port.

The frames that a VM sends are the tenant's, and only for the pipeline. But the
kernel too sees them, as it would on any interface of the machine's own: so on
the port it is told neither to answer nor to accept anything. One gap is left,
which only a packet filter closes: IPv4 does not check the unspecified source, so
a VM's DHCP request also reaches a service of this machine that listens on every
address.
"""

from __future__ import annotations

import fcntl
import logging
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_log = logging.getLogger("isthmus.host")

# <linux/sockios.h> and <linux/if.h>
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_SIOCGIFADDR = 0x8915
_SIOCGIFMTU = 0x8921
_IFF_UP = 0x1
_IFF_RUNNING = 0x40
_IFF_NOARP = 0x80
_FLAGS = struct.Struct("16sH22x")  # struct ifreq with its flags
_FLAG_BITS = 0xFFFF
_MTU = struct.Struct("16si20x")  # struct ifreq with its MTU

# With neither an address nor a route on the port, the reverse path of whatever comes from
# it leads elsewhere, so IPv4 refuses it all, in the strict mode and in the loose one.
_SETTINGS = (
    ("ipv6/conf/{}/disable_ipv6", "1"),
    ("ipv4/conf/{}/rp_filter", "1"),
    ("ipv4/conf/{}/forwarding", "0"),
)


@contextmanager
def isolated(interface: str, control: int) -> Iterator[None]:
    """Bring an interface up, apart from this machine's stack; put everything back afterwards.

    `control` is any socket's descriptor in the interface's network namespace.
    Raises OSError where it cannot be kept apart: then it must not be served.
    """
    with ExitStack() as stack:
        for pattern, value in _SETTINGS:
            setting = Path("/proc/sys/net", pattern.format(interface))
            if not setting.exists():  # a machine without IPv6, or too small an MTU for IPv4
                continue
            before = setting.read_text().strip()
            if before != value:
                _write(setting, value)
                stack.callback(_put_back, setting, before)
        if _has_address(control, interface):
            _log.warning(
                "%s has an address of this machine: remove it, or its VM can reach the machine",
                interface,
                extra={"event": "port-exposed", "interface": interface},
            )
        # ARP goes off before the interface comes up.
        before_flags = _read_flags(control, interface)
        _write_flags(control, interface, before_flags | _IFF_NOARP)
        stack.callback(_put_flags_back, control, interface, before_flags)
        _write_flags(control, interface, before_flags | _IFF_NOARP | _IFF_UP)
        yield


def is_carrying(interface: str, control: int) -> bool:
    """Whether the interface is there and up, and somebody is at its other end."""
    wanted = _IFF_UP | _IFF_RUNNING
    try:
        return _read_flags(control, interface) & wanted == wanted
    except OSError:
        return False


def mtu_of(interface: str, control: int) -> int:
    """What an interface carries, in octets of the IP packet. Raises OSError."""
    mtu: int = _MTU.unpack(fcntl.ioctl(control, _SIOCGIFMTU, _MTU.pack(interface.encode(), 0)))[1]
    return mtu


def _read_flags(control: int, interface: str) -> int:
    answer = fcntl.ioctl(control, _SIOCGIFFLAGS, _FLAGS.pack(interface.encode(), 0))
    flags: int = _FLAGS.unpack(answer)[1]
    return flags


def _write_flags(control: int, interface: str, flags: int) -> None:
    fcntl.ioctl(control, _SIOCSIFFLAGS, _FLAGS.pack(interface.encode(), flags & _FLAG_BITS))


def _has_address(control: int, interface: str) -> bool:
    try:
        fcntl.ioctl(control, _SIOCGIFADDR, _FLAGS.pack(interface.encode(), 0))
    except OSError:
        return False
    return True


def _write(setting: Path, value: str) -> None:
    try:
        setting.write_text(value)
    except OSError as error:  # which names the file only if opening it failed
        raise OSError(error.errno, error.strerror, str(setting)) from None


def _put_back(setting: Path, value: str) -> None:
    try:
        setting.write_text(value)
    except FileNotFoundError:
        _log.debug("%s went with its interface", setting)
    except OSError as error:
        about = {"event": "port-restored"}
        _log.warning("%s could not be set back to %s: %s", setting, value, error.strerror, extra=about)


def _put_flags_back(control: int, interface: str, flags: int) -> None:
    try:
        _write_flags(control, interface, flags)
    except OSError as error:
        _log.debug("the flags of %s are not restored: %s", interface, error.strerror)
