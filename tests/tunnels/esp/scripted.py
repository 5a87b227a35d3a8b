"""Sockets that are none: one remembers what is sent, one hands out what is to come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.tunnels.esp.pairs import PATH
from tunnels.effects import Endpoint, Path
from tunnels.esp.service import TunnelSockets
from tunnels.sockets import Destination, TunnelSocket, UdpSocket

LOCAL = PATH.local


class RecordingSocket(UdpSocket):
    """Remembers what is sent by it, call by call."""

    def __init__(self) -> None:
        self.sent: list[tuple[Destination, list[bytes], int]] = []

    def send(self, destination: Destination, packets: Sequence[bytes], ecn: int) -> None:
        self.sent.append((destination, list(packets), ecn))

    def send_fragmentable(self, destination: Destination, datagram: bytes) -> None:
        self.sent.append((destination, [datagram], -1))


class ScriptedSocket(TunnelSocket):
    """Hands out packets and errors in order, and then has nothing more."""

    def __init__(self, port: int, *script: Sequence[bytes] | OSError) -> None:
        self.local = Endpoint(LOCAL.address, port)
        self.times_heeded = 0
        self._script: Iterator[Sequence[bytes] | OSError] = iter(script)

    def receive(self) -> tuple[Path, int, Sequence[bytes]]:
        happening = next(self._script, None)
        if happening is None:
            raise BlockingIOError
        if isinstance(happening, OSError):
            raise happening
        return PATH, 2, happening

    def heed_errors(self, refused: int | None = None) -> None:
        self.times_heeded += 1


def with_recorder() -> tuple[TunnelSockets, RecordingSocket]:
    sockets, recorder = TunnelSockets(), RecordingSocket()
    for port in (500, 4500):
        sockets._udp[Endpoint(LOCAL.address, port)] = recorder
    return sockets, recorder


def receive_batch(source: ScriptedSocket) -> tuple[bool, list[tuple[str, bytes]]]:
    received: list[tuple[str, bytes]] = []

    def ike(path: Path, message: bytes, now: float) -> None:
        assert (path, now) == (PATH, 12.5)
        received.append(("ike", message))

    def esp(path: Path, packet: bytes, ecn: int, now: float) -> None:
        assert (path, ecn, now) == (PATH, 2, 12.5)
        received.append(("esp", packet))

    return TunnelSockets()._receive_batch(source, ike, esp, 12.5), received
