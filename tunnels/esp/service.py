"""Carries IKE messages and ESP packets between the tunnels' sockets and whoever reads them, on trio."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing

import trio

from policies.addresses import ProviderAddress
from policies.errors import ConfigurationError, Problem
from tunnels.effects import IKE_PORT, NAT_PORT, Endpoint, Path
from tunnels.esp.associations import Sealed
from tunnels.sockets import (
    LARGEST_RUN,
    MOST_SEGMENTS,
    NON_ESP_MARKER,
    Destination,
    EspSocket,
    PathMtuReport,
    TunnelSocket,
    UdpSocket,
    destination_of,
)

ReceiveIke = Callable[[Path, bytes, float], object]
"""Takes where a message came from, the message from its IKE header on, and the time."""

ReceiveEsp = Callable[[Path, bytes, int, float], object]
"""Takes where a packet came from (port 0 outside UDP), the packet, the outer ECN bits, and the time."""

# Packets taken from a socket before other tasks get their turn, as the underlay does.
BATCH = 64

_KEEPALIVE = b"\xff"

# Peers whose queues are kept from one flush to the next.
_REMEMBERED = 4096


class _Run:
    """Datagrams for one peer that wait to be sent by one call."""

    __slots__ = ("_datagrams", "_destination", "_ecn", "_size", "_socket")

    def __init__(self, sender: UdpSocket, destination: Destination) -> None:
        self._socket = sender
        self._destination = destination
        self._datagrams: list[bytes] = []
        self._size = 0
        self._ecn = 0

    def add(self, datagram: bytes, ecn: int) -> bool:
        """Append a datagram, and send what cannot wait with it; say whether the run was empty."""
        size = len(datagram)
        waiting = len(self._datagrams)
        if waiting and (
            size > self._size
            or ecn != self._ecn
            or waiting == MOST_SEGMENTS
            or (waiting + 1) * self._size > LARGEST_RUN
        ):
            self.send()
            waiting = 0
        if not waiting:
            self._size, self._ecn = size, ecn
        self._datagrams.append(datagram)
        if size < self._size:
            self.send()
        return not waiting

    def send(self) -> None:
        if self._datagrams:
            datagrams, self._datagrams = self._datagrams, []
            self._socket.send(self._destination, datagrams, self._ecn)


class TunnelSockets:
    """The sockets of all our addresses. They are open while `serve` runs."""

    def __init__(self, *, ike_port: int = IKE_PORT, nat_port: int = NAT_PORT) -> None:
        self.keepalives = 0
        """Octets 0xFF that came only to keep a NAT's mapping (RFC 3948 section 2.3)."""
        self._ike_port = ike_port
        self._nat_port = nat_port
        self._udp: dict[Endpoint, UdpSocket] = {}
        self._raw: dict[ProviderAddress, EspSocket] = {}
        self._runs: dict[Path, _Run] = {}
        self._waiting: list[_Run] = []
        self._without_socket = 0

    @property
    def icmp_errors(self) -> int:
        """Errors that the network reported about packets we sent."""
        return sum(each.icmp_errors for each in self._all())

    @property
    def kernel_drops(self) -> int:
        """Packets that came while a socket's buffer was full."""
        return sum(each.kernel_drops for each in self._all())

    @property
    def unsent(self) -> Counter[int]:
        """How many packets could not be sent, by errno; EADDRNOTAVAIL where no socket has the address."""
        unsent = Counter({errno.EADDRNOTAVAIL: self._without_socket})
        return sum((each.unsent for each in self._all()), unsent)

    def send_esp(self, sealed: Sealed, ecn: int) -> None:
        """Send an ESP packet, in UDP with the next `flush` at the latest. What is refused is counted."""
        path = sealed.path
        if not sealed.in_udp:
            sender = self._raw.get(path.local.address)
            if sender is None:
                self._without_socket += 1
                return
            sender.send((destination_of(path.remote)[0], 0), (sealed.packet,), ecn)
            return
        run = self._runs.get(path) or self._start_run(path)
        if run is None:
            self._without_socket += 1
        elif run.add(sealed.packet, ecn):
            self._waiting.append(run)

    def flush(self) -> None:
        """Send what waits; to be called at the end of each batch of packets."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for run in waiting:
                run.send()

    def send_ike(self, path: Path, message: bytes) -> None:
        """Send an IKE message now, behind a Non-ESP Marker if it leaves from the port that ESP shares."""
        shared = path.local.port == self._nat_port
        self._send_now(path, NON_ESP_MARKER + message if shared else message)

    def send_keepalive(self, path: Path) -> None:
        """Send one octet that keeps a NAT's mapping."""
        self._send_now(path, _KEEPALIVE)

    async def serve(
        self,
        addresses: Iterable[ProviderAddress],
        receive_ike: ReceiveIke,
        receive_esp: ReceiveEsp,
        path_mtu_reported: Callable[[Endpoint, int, int, float], object],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Give everything that comes for our addresses to its reader; started once all sockets are open.

        `path_mtu_reported` takes a destination, the SPI of a packet that was too big for the
        path to it, what that path carries, and the time. What the readers send by
        `send_esp` leaves at the end of each batch.
        Raises ConfigurationError where a socket cannot be opened.
        """

        def report(destination: Endpoint, spi: int, mtu: int) -> None:
            path_mtu_reported(destination, spi, mtu, trio.current_time())

        with ExitStack() as stack:
            stack.callback(self._forget_runs)
            for address in addresses:
                for port in (self._ike_port, self._nat_port):
                    local = Endpoint(address, port)
                    udp = stack.enter_context(closing(_open_udp(local, report)))
                    self._udp[local] = udp
                    stack.callback(self._udp.pop, local)
                raw = stack.enter_context(closing(_open_raw(address, report)))
                self._raw[address] = raw
                stack.callback(self._raw.pop, address)
            async with trio.open_nursery() as nursery:
                for each in self._all():
                    nursery.start_soon(self._receive_all, each, receive_ike, receive_esp)
                task_status.started()

    async def _receive_all(
        self, source: TunnelSocket, receive_ike: ReceiveIke, receive_esp: ReceiveEsp
    ) -> None:
        while True:
            await trio.lowlevel.wait_readable(source.fileno())
            while self._receive_batch(source, receive_ike, receive_esp, trio.current_time()):
                await trio.lowlevel.checkpoint()

    def _receive_batch(
        self, source: TunnelSocket, receive_ike: ReceiveIke, receive_esp: ReceiveEsp, now: float
    ) -> bool:
        """Take what waits, send what was queued meanwhile, and say whether more may wait."""
        take = source.receive
        port = source.local.port
        # Of packets as they were on the wire: a merged one is up to 64 of them.
        taken = 0
        more = True
        while taken < BATCH:
            try:
                path, ecn, packets = take()
            except BlockingIOError:
                if taken == 0:  # woken for something else than a packet
                    source.heed_errors()
                more = False
                break
            except OSError:
                source.heed_errors()
                taken += 1
                continue
            taken += len(packets)
            if port == self._ike_port:
                for packet in packets:
                    receive_ike(path, packet, now)
                continue
            for packet in packets:
                if packet.startswith(NON_ESP_MARKER) and port:
                    receive_ike(path, packet[len(NON_ESP_MARKER) :], now)
                elif packet == _KEEPALIVE:
                    self.keepalives += 1
                else:
                    receive_esp(path, packet, ecn, now)
        self.flush()
        return more

    def _all(self) -> list[TunnelSocket]:
        return [*self._udp.values(), *self._raw.values()]

    def _start_run(self, path: Path) -> _Run | None:
        sender = self._udp.get(path.local)
        if sender is None:
            return None
        if len(self._runs) >= _REMEMBERED:
            self.flush()
            self._runs.clear()
        run = self._runs[path] = _Run(sender, destination_of(path.remote))
        return run

    def _forget_runs(self) -> None:
        self._runs.clear()
        self._waiting.clear()

    def _send_now(self, path: Path, datagram: bytes) -> None:
        sender = self._udp.get(path.local)
        if sender is None:
            self._without_socket += 1
        else:
            sender.send_fragmentable(destination_of(path.remote), datagram)


def _open_udp(local: Endpoint, report: PathMtuReport) -> UdpSocket:
    key = "underlay.provider_addresses"
    try:
        return UdpSocket(local, report)
    except PermissionError:
        message = f"UDP port {local.port} needs root or CAP_NET_BIND_SERVICE: run as root, or grant it"
        raise ConfigurationError([Problem("underlay", message)]) from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = (
                f"UDP port {local.port} of {local.address} is taken: another IKE daemon, such as strongSwan, "
                "runs here"
            )
        else:
            message = f"no UDP socket on {local}: {error.strerror}"
        raise ConfigurationError([Problem(key, message)]) from None


def _open_raw(address: ProviderAddress, report: PathMtuReport) -> EspSocket:
    try:
        return EspSocket(address, report)
    except PermissionError:
        message = "raw sockets need root or CAP_NET_RAW: run as root, or grant it"
        raise ConfigurationError([Problem("underlay", message)]) from None
    except OSError as error:
        message = f"no raw socket on {address}: {error.strerror}"
        raise ConfigurationError([Problem("underlay.provider_addresses", message)]) from None
