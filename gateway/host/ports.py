"""VM ports: raw frames of veth and TAP interfaces, on trio.

A VM that moves takes its port with it: the interface goes, or nobody is at its other end any more.
That is noticed at once, for what is given to such a port is lost.
"""

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
from gateway.host.isolation import is_carrying, isolated, mtu_of
from gateway.host.links import LinkEvents
from gateway.underlay.claims import claimed
from policies.errors import ConfigurationError, MalformedPacket, Problem
from policies.model import Port
from tunnels.socket_options import enlarge_buffers, kernel_drops

_log = logging.getLogger("isthmus.host")

Receive = Callable[[PortKey, bytes, float], object]
"""Takes the port's name, a frame as the wire would have had it, and the time."""

MtuReport = Callable[[PortKey, int], object]
"""Takes the port's name and what its interface carries, in octets of the IP packet."""

# Frames taken from a port before other tasks get their turn.
BATCH = 64

PortReport = Callable[[PortKey], object]
"""Takes the port's name."""

# How often interfaces are looked at although the kernel has said nothing of them, in seconds: one
# that cannot be opened for a while, and all others.
LOOK_AGAIN = 0.1
LOOK_AT_ALL = 1.0

# Names of <linux/if_packet.h> that Python lacks.
PACKET_ADD_MEMBERSHIP = 1
PACKET_VNET_HDR = 15
PACKET_QDISC_BYPASS = 20
PACKET_IGNORE_OUTGOING = 23
ETH_P_ALL = 3
PROMISCUOUS = struct.Struct("=iHH8x")  # struct packet_mreq: interface, type, length of an address
PACKET_MR_PROMISC = 1

# What the kernel says of an interface that is down, or was when it last looked, or has gone.
_DOWN = frozenset((errno.ENETDOWN, errno.ENXIO, errno.ENODEV))

_PRIVILEGE = "root or CAP_NET_ADMIN: run as root, or grant it"

# What is missing where an interface cannot be kept apart, and waiting alone will not change that.
_REFUSALS = {
    errno.EPERM: _PRIVILEGE,
    errno.EACCES: _PRIVILEGE,
    errno.EROFS: "to write below /proc/sys/net, which is read-only: mount /proc/sys writable",
}

LARGEST_FRAME = vnet.HEADER_LENGTH + 65536 + 18
ANCILLARY_SIZE = socket.CMSG_SPACE(20)


def _heed_not(_port: PortKey) -> None:
    """Whoever carries frames alone need not know which ports are open."""


class Ports:
    """The VM ports of this host, by (VSID, MAC).

    A super-packet that is refused is counted among the drops as one malformed packet of its tenant.
    """

    def __init__(self, drops: Drops) -> None:
        self._drops = drops
        self._open: dict[PortKey, OpenPort] = {}
        self._changed: dict[str, trio.Event] = {}

    @property
    def kernel_drops(self) -> int:
        """Frames that came while the buffer of a port that is open was full."""
        return sum(each.kernel_drops for each in self._open.values())

    @property
    def unreadable(self) -> int:
        """Frames of the open ports that the kernel could not hand over."""
        return sum(each.unreadable for each in self._open.values())

    def send(self, frame: ToPort) -> None:
        """Give a port a frame now, or raise OSError: ENETDOWN while nobody would get it."""
        port = self._open.get(frame.port)
        if port is None or not port.is_carrying:
            raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN))
        try:
            port.send(frame.frame)
        except OSError as error:
            port.look()
            if not port.is_carrying:
                raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN)) from error
            # The kernel tells once that an interface was down, be it up again by now.
            if error.errno != errno.ENETDOWN:
                raise
            port.send(frame.frame)

    async def watch(self) -> None:
        """Take note at once of what changes of the ports' interfaces: that they come or go, and their MTU."""
        with closing(LinkEvents()) as events:
            while True:
                with trio.move_on_after(LOOK_AT_ALL) as waiting:
                    await trio.lowlevel.wait_readable(events.fileno())
                names = None if waiting.cancelled_caught else events.read()
                for name in [*self._changed] if names is None else names:
                    if name in self._changed:
                        self._changed.pop(name).set()
                for port in [*self._open.values()]:
                    if names is None or port.interface in names:
                        port.look()

    async def serve(
        self,
        port: Port,
        receive: Receive,
        mtu_is: MtuReport,
        opened: PortReport = _heed_not,
        closed: PortReport = _heed_not,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Give every frame of a port to `receive`, whenever its interface is there.

        `mtu_is` is told what the interface carries when it opens, and when that is found
        changed: by `watch`, or after a frame too large for it. `opened` is called once
        frames can be given to the port, which it may do at once, and `closed` when that is over,
        or at the start if nobody is there.
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
                served = self._open.get(key)
                if served is None or not served.is_carrying:
                    closed(key)
                task_status.started()

        with claimed("port", port.interface, f"host.port[{port.interface}].interface"):
            while True:
                opening = self._until_open(port, partial(mtu_is, key), started, may_raise=not is_started)
                with closing(await opening) as served:
                    self._open[key] = served
                    try:
                        served.say("port-opened", "is open")
                        served.report_to(partial(opened, key), partial(closed, key))
                        started()
                        await _receive_until_gone(served, take, refuse)
                    finally:
                        del self._open[key]
                        served.report_closed()

    async def _until_open(
        self,
        port: Port,
        mtu_is: Callable[[int], object],
        found_missing: Callable[[], object],
        *,
        may_raise: bool,
    ) -> OpenPort:
        """Open a port once its interface is there. Raises ConfigurationError, if at all, before it waits."""
        interface, trouble = port.interface, ""
        while True:
            index = _index_of(interface)
            try:
                return OpenPort(port, mtu_is)
            except ConfigurationError as refusal:
                # Later, it would end the other ports for the sake of this one.
                if may_raise:
                    raise
                words = "port %s is left alone until its interface is another: %s"
                _log.error(words, interface, refusal, extra=_about(port, "port-refused"))
                while _index_of(interface) == index:
                    await self._until_changed(interface)
                trouble = ""
                continue
            except OSError as error:
                if str(error) != trouble:
                    trouble = str(error)
                    words = "port %s cannot be served, and is waited for: %s"
                    _log.warning(words, interface, trouble, extra=_about(port, "port-awaited"))
            found_missing()
            may_raise = False
            await self._until_changed(interface)

    async def _until_changed(self, interface: str) -> None:
        """Wait until the kernel says something of an interface, or for a while."""
        changed = self._changed.setdefault(interface, trio.Event())
        with trio.move_on_after(LOOK_AGAIN):
            await changed.wait()


class OpenPort:
    """One VM's port: a packet socket on an interface that this machine's own stack is kept off.

    `mtu_is` is told at once what it carries. Raises OSError where the interface is not
    there or cannot be kept apart, and ConfigurationError without the means to do that.
    """

    def __init__(self, port: Port, mtu_is: Callable[[int], object]) -> None:
        self.interface = interface = port.interface
        self._port = port
        self.gone = trio.Event()
        """Set once the interface that was opened is no longer there, though another may have its name."""
        self.is_carrying = False
        """Whether the interface is up with somebody at its other end, as far as it has been looked at."""
        self._opened_or_closed: dict[bool, Callable[[], object]] = {}
        self._mtu_is = mtu_is
        self.unreadable = 0
        """Frames that the kernel could not hand over."""
        self._index = socket.if_nametoindex(interface)
        with ExitStack() as stack:
            self._socket = stack.enter_context(_packet_socket())
            enlarge_buffers(self._socket)
            # With a queueing discipline, an interface that is just closing swallows frames without a word.
            for option in (PACKET_VNET_HDR, vnet.PACKET_AUXDATA, PACKET_IGNORE_OUTGOING, PACKET_QDISC_BYPASS):
                self._socket.setsockopt(vnet.SOL_PACKET, option, 1)
            membership = PROMISCUOUS.pack(self._index, PACKET_MR_PROMISC, 0)
            self._socket.setsockopt(vnet.SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership)
            # It listens before the interface is brought up, so that a VM's first words are heard.
            self._socket.bind((interface, ETH_P_ALL))
            try:
                stack.enter_context(isolated(interface, self._socket.fileno()))
            except OSError as error:
                if error.errno not in _REFUSALS:
                    raise
                message = f"keeping a port apart needs {_REFUSALS[error.errno]}"
                raise ConfigurationError([Problem(f"host.port[{interface}]", message)]) from None
            # Bound to an interface that was down, it has that to say first.
            self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
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

    def report_to(self, opened: Callable[[], object], closed: Callable[[], object]) -> None:
        """Have one of these called at every change of `is_carrying`, from now on."""
        self._opened_or_closed = {True: opened, False: closed}
        self._carries(is_carrying=is_carrying(self.interface, self._socket.fileno()))

    def report_closed(self) -> None:
        """Say that it is closed, unless that has been said."""
        self._carries(is_carrying=False)

    def look(self) -> None:
        """Find out how the interface is, and say what has changed."""
        is_gone = _index_of(self.interface) != self._index
        is_alive = not is_gone and is_carrying(self.interface, self._socket.fileno())
        if not is_gone:
            with suppress(OSError):  # it has just gone
                mtu = mtu_of(self.interface, self._socket.fileno())
                if mtu != self._mtu:
                    self._mtu = mtu
                    self._mtu_is(mtu)
        if is_alive != self.is_carrying and not is_gone:
            self.say(*(("port-up", "is up again") if is_alive else ("port-down", "is down")))
        self._carries(is_carrying=is_alive)
        if is_gone and not self.gone.is_set():
            self.say("port-closed", "is gone", logging.WARNING)
            self.gone.set()

    def say(self, event: str, what: str, level: int = logging.INFO) -> None:
        """Write down what has become of it."""
        _log.log(level, "port %s %s", self.interface, what, extra=_about(self._port, event))

    def _carries(self, *, is_carrying: bool) -> None:
        if is_carrying != self.is_carrying:
            self.is_carrying = is_carrying
            self._opened_or_closed[is_carrying]()

    def send(self, frame: bytes) -> None:
        """Send a frame with finished checksums now, or raise OSError."""
        self._socket.send(vnet.NOTHING_LEFT + frame)

    def receive(self) -> list[bytes]:
        """The frames of what waits next.

        Raises BlockingIOError when nothing does, OSError, and MalformedPacket for what is refused.
        """
        received, ancillary, _, _ = self._socket.recvmsg(LARGEST_FRAME, ANCILLARY_SIZE)
        return vnet.frames_untrusted(received, ancillary)


def _about(port: Port, event: str) -> dict[str, object]:
    """Return what a line about a port concerns."""
    return {
        "event": event,
        "tenant": port.tenant,
        "vsid": port.vsid,
        "mac": port.mac,
        "interface": port.interface,
    }


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


async def _receive_until_gone(
    port: OpenPort, take: Callable[[bytes, float], object], refuse: Callable[[], object]
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_receive_all, port, take, refuse)
        await port.gone.wait()
        nursery.cancel_scope.cancel()
    # What the VM had sent before its interface went is still here, and was sent in good time.
    while _receive_batch_left(port, take, refuse):
        await trio.lowlevel.checkpoint()


async def _receive_all(
    port: OpenPort, take: Callable[[bytes, float], object], refuse: Callable[[], object]
) -> None:
    while True:
        await trio.lowlevel.wait_readable(port.fileno())
        try:
            while _receive_batch(port, take, refuse, trio.current_time()):
                await trio.lowlevel.checkpoint()
        except _PortDown:
            # Once it is up, the same socket hears again by itself.
            port.look()


def _receive_batch_left(
    port: OpenPort, take: Callable[[bytes, float], object], refuse: Callable[[], object]
) -> bool:
    """Take some of what is left of a port that has gone, and say whether more may be."""
    try:
        return _receive_batch(port, take, refuse, trio.current_time())
    except _PortDown:
        return True  # the kernel says so once, and then gives what is left


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
            if error.errno in _DOWN:
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
