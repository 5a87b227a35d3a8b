"""Sends echo requests with DF set, and finds the largest packet that each path carries."""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import ExitStack, asynccontextmanager
from typing import TypeVar

import msgspec
import trio

from gateway.doctor.echo import SMALLEST, Reply, TooBig, Unreachable, decode_untrusted, request
from gateway.doctor.search import Search
from policies.addresses import ProviderAddress
from tunnels.socket_options import (
    IP_MTU_DISCOVER,
    IPV6_MTU_DISCOVER,
    PMTUDISC_PROBE,
    enlarge_buffers,
)

T = TypeVar("T")

LOWEST = {4: 576, 6: 1280}
"""Below this no size is searched for: what every IPv4 host takes, and every IPv6 link carries."""

PATIENCE = 1.0
"""Seconds for the first answer."""
TRIES = 3
SHORTEST_WAIT = 0.25
"""Seconds for the answers to what is tried at once, at least."""
# How many paths are tried with large packets at once: their answers have to fit into the socket's buffer.
LARGE_AT_ONCE = 48
SMALL_AT_ONCE = 256
# Limits that other paths have, which are tried first: one wrong link is on the way to many.
LIMITS_KEPT = 4

_IPV6_DONTFRAG = 62


class Path(msgspec.Struct, frozen=True):
    """What is known of the way to an address."""

    answers: bool
    """Whether it answers an echo request at all."""
    largest: int | None = None
    """The largest packet that arrives, in octets, up to what was tried; None: not known."""
    router: str | None = None
    """Who has said that a packet was too large, or that nothing arrives there; None: nobody."""
    error: str | None = None
    """Why nothing can be sent there."""


class _Waiting:
    """Requests of one round, and who has yet to answer."""

    def __init__(self, sizes: Iterable[int]) -> None:
        self.sizes = frozenset(sizes)
        self.arrived: set[int] = set()
        self.all_arrived = trio.Event()

    def answered(self, size: int) -> None:
        self.arrived.add(size)
        if len(self.arrived) == len(self.sizes):
            self.all_arrived.set()


class Prober:
    """Made by `open_prober`."""

    def __init__(self, sockets: Mapping[int, trio.socket.SocketType]) -> None:
        self._sockets = sockets
        self._identifier = os.getpid() & 0xFFFF
        self._sequence = 0
        self._waiting: dict[int, tuple[_Waiting, int, bytes]] = {}
        self._said: dict[bytes, tuple[str, int]] = {}
        self._unreachable: dict[bytes, str] = {}
        self._measured: set[bytes] = set()
        self._limits: deque[int] = deque(maxlen=LIMITS_KEPT)
        self._small = trio.CapacityLimiter(SMALL_AT_ONCE)
        self._large = trio.CapacityLimiter(LARGE_AT_ONCE)

    async def measure(self, target: ProviderAddress, mtu: int) -> Path:
        """Find out what the path to an address carries, up to `mtu` octets."""
        version = target.version
        if version not in self._sockets:
            return Path(False, error=f"there is no own IPv{version} address to send from")
        self._measured.add(bytes(target))
        search = Search(SMALLEST[version], mtu + 1)
        try:
            async with self._small:
                took = await self._greet(target)
            if took is None:
                return Path(False, router=self._unreachable.get(bytes(target)))
            wait = max(SHORTEST_WAIT, 4 * took)
            async with self._large:
                for sizes in ([mtu], [mtu, LOWEST[version]]):
                    search.tried(sizes, await self._round(target, sizes, wait))
                    if search.largest is not None:
                        return Path(True, search.largest)
                while search.largest is None:
                    if heard := self._said.get(bytes(target)):
                        search.hint(heard[1])
                    for limit in self._limits:
                        search.hint(limit)
                    sizes = search.sizes()
                    arrived = await self._round(target, sizes, wait)
                    # What has not arrived is tried once more: one lost packet is no limit.
                    missing = [size for size in sizes if size > max(arrived, default=0)]
                    if missing:
                        arrived |= await self._round(target, missing, wait)
                    search.tried(sizes, arrived)
        except OSError as error:
            return Path(False, error=error.strerror or str(error))
        if search.at_least not in self._limits:
            self._limits.append(search.at_least)
        router = self._said.get(bytes(target))
        return Path(True, search.at_least, router[0] if router is not None else None)

    async def listen(self, version: int) -> None:
        """Take what comes, for ever."""
        while True:
            try:
                octets, sender = await self._sockets[version].recvfrom(65535)
            except OSError:
                continue  # what an ICMP error has left at the socket; the error itself comes as a packet
            found = decode_untrusted(version, octets)
            if isinstance(found, Reply) and found.identifier == self._identifier:
                waiting = self._waiting.get(found.sequence)
                if waiting is not None and waiting[2] == _packed(version, sender[0]):
                    waiting[0].answered(waiting[1])
            elif isinstance(found, TooBig) and found.mtu:
                self._say(self._said, found.destination, (sender[0], found.mtu))
            elif isinstance(found, Unreachable):
                self._say(self._unreachable, found.destination, sender[0])

    def _say(self, said: dict[bytes, T], destination: bytes, what: T) -> None:
        """Remember what is said of those that we measure, and of nobody else: anybody may send this."""
        if destination in self._measured:
            said[destination] = what

    async def _greet(self, target: ProviderAddress) -> float | None:
        """Return how long a small packet's answer takes, in seconds; None if there is none."""
        for _ in range(TRIES):
            began = trio.current_time()
            if await self._round(target, [SMALLEST[target.version]], PATIENCE / TRIES):
                return trio.current_time() - began
        return None

    async def _round(self, target: ProviderAddress, sizes: list[int], wait: float) -> set[int]:
        """Try sizes at once, and return those that are answered in time."""
        waiting = _Waiting(sizes)
        sequences = []
        try:
            for size in sizes:
                self._sequence = self._sequence + 1 & 0xFFFF
                sequences.append(self._sequence)
                self._waiting[self._sequence] = (waiting, size, bytes(target))
                packet = request(target.version, self._identifier, self._sequence, size)
                try:
                    await self._sockets[target.version].sendto(packet, (str(target), 0))
                except OSError as error:
                    if error.errno != errno.EMSGSIZE:  # our own link's limit is one of the path
                        raise
            with trio.move_on_after(wait):
                await waiting.all_arrived.wait()
        finally:
            for sequence in sequences:
                self._waiting.pop(sequence, None)
        return waiting.arrived


@asynccontextmanager
async def open_prober(sources: Iterable[ProviderAddress]) -> AsyncIterator[Prober]:
    """Send from the first of our own addresses of each IP version. Raises OSError, as where we may not."""
    chosen: dict[int, ProviderAddress] = {}
    for source in sources:
        chosen.setdefault(source.version, source)
    with ExitStack() as stack:
        sockets = {version: stack.enter_context(_open(source)) for version, source in chosen.items()}
        prober = Prober(sockets)
        async with trio.open_nursery() as nursery:
            for version in sockets:
                nursery.start_soon(prober.listen, version)
            yield prober
            nursery.cancel_scope.cancel()


def _open(source: ProviderAddress) -> trio.socket.SocketType:
    family, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP)
        if source.version == 4
        else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    )
    opened = socket.socket(family, socket.SOCK_RAW, protocol)
    try:
        enlarge_buffers(opened)
        if source.version == 4:
            opened.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
        else:
            opened.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
            opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)
        opened.bind((str(source), 0))
        return trio.socket.from_stdlib_socket(opened)
    except BaseException:
        opened.close()
        raise


def _packed(version: int, text: str) -> bytes:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    return socket.inet_pton(family, text.partition("%")[0])
