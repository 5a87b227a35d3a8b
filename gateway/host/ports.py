"""VM ports: raw frames of veth and TAP interfaces, on trio."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from functools import partial

import trio

from gateway.forwarding.drops import DropReason, Drops
from gateway.forwarding.verdicts import PortKey, ToPort
from gateway.host import vnet
from gateway.host.isolation import is_up, isolated, mtu_of
from gateway.underlay.claims import claimed
from policies.errors import ConfigurationError, MalformedPacket, Problem
from policies.model import Port
from tunnels.socket_options import enlarge_buffers, kernel_drops

_log = logging.getLogger(__name__)

Receive = Callable[[PortKey, bytes, float], object]
"""Takes the port's name, a frame as the wire would have had it, and the time."""

MtuReport = Callable[[PortKey, int], object]
"""Takes the port's name and what its interface carries, in octets of the IP packet."""

# Frames taken from a port before other tasks get their turn.
BATCH = 64

# How often an interface that is not there is looked for, in seconds. A VM that moves here
# announces itself as soon as its interface is up.
LOOK_AGAIN = 0.1

# How often what the open ports carry is read again, in seconds.
READ_MTUS = 1.0

# Names of <linux/if_packet.h> that Python lacks.
PACKET_ADD_MEMBERSHIP = 1
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
ETH_P_ALL = 3
PROMISCUOUS = struct.Struct("=iHH8x")  # struct packet_mreq: interface, type, length of an address
PACKET_MR_PROMISC = 1

_PRIVILEGE = "root or CAP_NET_ADMIN: run as root, or grant it"

# What is missing where an interface cannot be kept apart, and waiting alone will not change that.
_REFUSALS = {
    errno.EPERM: _PRIVILEGE,
    errno.EACCES: _PRIVILEGE,
    errno.EROFS: "to write below /proc/sys/net, which is read-only: mount /proc/sys writable",
}

LARGEST_FRAME = vnet.HEADER_LENGTH + 65536 + 18
ANCILLARY_SIZE = socket.CMSG_SPACE(20)


class Ports:
    """The VM ports of this host, by (VSID, MAC).

    A super-packet that is refused is counted among the drops as one malformed packet of its tenant.
    """

    def __init__(self, drops: Drops) -> None:
        self._drops = drops
        self._open: dict[PortKey, OpenPort] = {}

    @property
    def kernel_drops(self) -> int:
        """Frames that came while the buffer of a port that is open was full."""
        return sum(each.kernel_drops for each in self._open.values())

    @property
    def unreadable(self) -> int:
        """Frames of the open ports that the kernel could not hand over."""
        return sum(each.unreadable for each in self._open.values())

    def send(self, frame: ToPort) -> None:
        """Give a port a frame now, or raise OSError: ENETDOWN while it is not there."""
        port = self._open.get(frame.port)
        if port is None:
            raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN))
        try:
            port.send(frame.frame)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                port.tell_mtu()
            raise

    async def watch_mtus(self) -> None:
        """Tell every change of what the open ports carry, within a second of it."""
        while True:
            await trio.sleep(READ_MTUS)
            for port in self._open.values():
                port.tell_mtu()

    async def serve(
        self,
        port: Port,
        receive: Receive,
        mtu_is: MtuReport,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Give every frame of a port to `receive`, whenever its interface is there.

        `mtu_is` is told what the interface carries when it opens, and when that is found
        changed: by `watch_mtus`, once it comes up again, or after a frame too large for it.
        Started once the port is open or found missing: then it is waited for, and
        again whenever it goes. Raises ConfigurationError where another process serves the
        port, or what keeping it apart needs is missing. Once started, the latter
        is logged instead, and the port left alone until its interface is another.
        """
        key = (port.vsid, port.mac)

        def take(frame: bytes, now: float) -> None:
            receive(key, frame, now)

        def refuse() -> None:
            self._drops.count(DropReason.MALFORMED, port.tenant)

        is_started = False

        def started() -> None:
            nonlocal is_started
            if not is_started:
                is_started = True
                task_status.started()

        with claimed("port", port.interface, f"host.port[{port.interface}].interface"):
            while True:
                opening = _until_open(port.interface, partial(mtu_is, key), started, may_raise=not is_started)
                with closing(await opening) as opened:
                    self._open[key] = opened
                    try:
                        _log.info("port %s is open", port.interface)
                        started()
                        await _receive_until_gone(opened, take, refuse)
                    finally:
                        del self._open[key]


class OpenPort:
    """One VM's port: a packet socket on an interface that this machine's own stack is kept off.

    `mtu_is` is told at once what it carries. Raises OSError where the interface is not
    there or cannot be kept apart, and ConfigurationError without the means to do that.
    """

    def __init__(self, interface: str, mtu_is: Callable[[int], object]) -> None:
        self.interface = interface
        self._mtu_is = mtu_is
        self.unreadable = 0
        """Frames that the kernel could not hand over."""
        self._index = socket.if_nametoindex(interface)
        with ExitStack() as stack:
            self._socket = stack.enter_context(_packet_socket())
            try:
                stack.enter_context(isolated(interface, self._socket.fileno()))
            except OSError as error:
                if error.errno not in _REFUSALS:
                    raise
                message = f"keeping a port apart needs {_REFUSALS[error.errno]}"
                raise ConfigurationError([Problem(f"host.port[{interface}]", message)]) from None
            enlarge_buffers(self._socket)
            for option in (PACKET_VNET_HDR, vnet.PACKET_AUXDATA, PACKET_IGNORE_OUTGOING):
                self._socket.setsockopt(vnet.SOL_PACKET, option, 1)
            membership = PROMISCUOUS.pack(self._index, PACKET_MR_PROMISC, 0)
            self._socket.setsockopt(vnet.SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership)
            self._socket.bind((interface, ETH_P_ALL))
            self._mtu = mtu_of(interface, self._socket.fileno())
            mtu_is(self._mtu)
            self._opened = stack.pop_all()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """Close it, and put the interface back as it was."""
        self._opened.close()

    @property
    def kernel_drops(self) -> int:
        """Frames that came while the buffer was full."""
        return kernel_drops(self._socket)

    @property
    def is_gone(self) -> bool:
        """Whether the interface that was opened is no longer there, though another may have its name."""
        return _index_of(self.interface) != self._index

    @property
    def is_up(self) -> bool:
        """Whether the interface is there and up."""
        return is_up(self.interface, self._socket.fileno())

    def tell_mtu(self) -> None:
        """Say what the interface carries now if that has changed, unless it has just gone."""
        with suppress(OSError):
            mtu = mtu_of(self.interface, self._socket.fileno())
            if mtu != self._mtu:
                self._mtu = mtu
                self._mtu_is(mtu)

    def send(self, frame: bytes) -> None:
        """Send a frame with finished checksums now, or raise OSError."""
        self._socket.send(vnet.NOTHING_LEFT + frame)

    def receive(self) -> list[bytes]:
        """The frames of what waits next.

        Raises BlockingIOError when nothing does, OSError, and MalformedPacket for what is refused.
        """
        received, ancillary, _, _ = self._socket.recvmsg(LARGEST_FRAME, ANCILLARY_SIZE)
        return vnet.frames_untrusted(received, ancillary)


def _index_of(interface: str) -> int:
    """The number of an interface, or 0 if it is not there."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0


def _packet_socket() -> socket.socket:
    try:
        # Protocol 0: it hears nothing until it is bound to its interface.
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    except PermissionError:
        problem = Problem("host.port", "packet sockets need root or CAP_NET_RAW: run as root, or grant it")
        raise ConfigurationError([problem]) from None


async def _until_open(
    interface: str, mtu_is: Callable[[int], object], found_missing: Callable[[], object], *, may_raise: bool
) -> OpenPort:
    """Open a port once its interface is there. Raises ConfigurationError, if at all, before it waits."""
    trouble = ""
    while True:
        index = _index_of(interface)
        try:
            return OpenPort(interface, mtu_is)
        except ConfigurationError as refusal:
            # Later, it would end the other ports for the sake of this one.
            if may_raise:
                raise
            _log.error("port %s is left alone until its interface is another: %s", interface, refusal)
            while _index_of(interface) == index:  # noqa: ASYNC110 - the kernel sets no trio.Event
                await trio.sleep(LOOK_AGAIN)
            trouble = ""
            continue
        except OSError as error:
            if str(error) != trouble:
                trouble = str(error)
                _log.warning("port %s cannot be served, and is waited for: %s", interface, trouble)
        found_missing()
        may_raise = False
        await trio.sleep(LOOK_AGAIN)


async def _receive_until_gone(
    port: OpenPort, take: Callable[[bytes, float], object], refuse: Callable[[], object]
) -> None:
    while True:
        await trio.lowlevel.wait_readable(port.fileno())
        try:
            while _receive_batch(port, take, refuse, trio.current_time()):
                await trio.lowlevel.checkpoint()
        except _PortDown:
            _log.warning("port %s is down", port.interface)
            # Once it is up, the same socket hears again by itself.
            if not await _comes_back(port):
                _log.warning("port %s is gone", port.interface)
                return
            port.tell_mtu()
            _log.info("port %s is up again", port.interface)


class _PortDown(Exception):
    """The kernel says that the interface carries nothing for now."""


def _receive_batch(
    port: OpenPort, take: Callable[[bytes, float], object], refuse: Callable[[], object], now: float
) -> bool:
    """Take what waits, and say whether more may. Raises _PortDown."""
    receive = port.receive
    # Of frames rather than of packets taken: a super-packet is some forty of them.
    taken = 0
    while taken < BATCH:
        try:
            frames = receive()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.ENETDOWN:
                raise _PortDown from None
            # A frame with an offload that a virtio_net_hdr has no words for, such as SCTP's.
            port.unreadable += 1
            taken += 1
            continue
        except MalformedPacket:
            refuse()
            taken += 1
            continue
        for frame in frames:
            take(frame, now)
        taken += len(frames)
    return True


async def _comes_back(port: OpenPort) -> bool:
    while True:
        if port.is_gone:
            return False
        if port.is_up:
            return True
        await trio.sleep(LOOK_AGAIN)
