"""Asks a lookup node by HTTP, as cheaply as this process can, and listens to its watches.

A connection has one request under way. A closed loop sends the next when an answer is whole; an
open one sends at given times, and counts from those, whoever has to wait for whom.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Self, TypeVar

TICK = 0.001
PATIENCE = 20.0

_LENGTH = b"Content-Length: "
_END_OF_HEAD = b"\r\n\r\n"

P = TypeVar("P", bound=asyncio.Protocol)


class Asker(asyncio.Protocol):
    """One connection, and what is called with it when an answer is whole."""

    def __init__(self) -> None:
        self.due = 0.0
        self.answered: Callable[[Asker], None] = lambda _asker: None
        self._left = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def ask(self, request: bytes) -> None:
        """Send a request."""
        if self._transport is not None:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if not self._left:
            end = data.find(_END_OF_HEAD)
            at = data.find(_LENGTH)
            if not data.startswith(b"HTTP/1.1 20") or end < 0 or at < 0:
                raise ValueError(f"an answer begins with {data[:200]!r}")
            self._left = end + len(_END_OF_HEAD) + int(data[at + len(_LENGTH) : data.index(b"\r", at)])
        self._left -= len(data)
        if not self._left:
            self.answered(self)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()


class Listener(asyncio.Protocol):
    """One watch: when it was last told of a record."""

    def __init__(self, request: bytes, heard: Callable[[], None]) -> None:
        self._request = request
        self._heard = heard
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
            transport.write(self._request)

    @property
    def is_open(self) -> bool:
        """Whether it goes on."""
        return self._transport is not None and not self._transport.is_closing()

    def data_received(self, data: bytes) -> None:
        if b'"type":"put"' in data:
            self._heard()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()


class Askers:
    """Connections to one node."""

    def __init__(self, connections: Sequence[Asker]) -> None:
        self._connections = connections

    @classmethod
    async def connect(cls, port: int, count: int) -> Self:
        """Open so many."""
        return cls([await connect(port, Asker) for _ in range(count)])

    def close(self) -> None:
        """Close them."""
        for connection in self._connections:
            connection.close()

    def ask_one(self, request: bytes) -> None:
        """Send one request, whatever becomes of it."""
        self._connections[0].answered = lambda _asker: None
        self._connections[0].ask(request)

    async def rate(self, requests: Iterable[bytes], seconds: float) -> float:
        """Ask in closed loops; return how many answers a second came."""
        following = itertools.cycle(requests)
        answers = 0

        def go_on(asker: Asker) -> None:
            nonlocal answers
            answers += 1
            if time.perf_counter() < end:
                asker.ask(next(following))
            else:
                resting.append(asker)
                if len(resting) == len(self._connections):
                    ended.set()

        resting: list[Asker] = []
        ended = asyncio.Event()
        began = time.perf_counter()
        end = began + seconds
        for connection in self._connections:
            connection.answered = go_on
            connection.ask(next(following))
        await asyncio.wait_for(ended.wait(), seconds + PATIENCE)
        return answers / (time.perf_counter() - began)

    async def latencies(self, requests: Iterable[bytes], rate: float, seconds: float) -> list[float]:
        """Ask at a rate; return how long each answer took from when it was due, in seconds."""
        following = itertools.cycle(requests)
        free = deque(self._connections)
        waiting: deque[float] = deque()
        found: list[float] = []
        ended = asyncio.Event()
        total = int(rate * seconds)
        asked = 0

        def go_on(asker: Asker) -> None:
            found.append(time.perf_counter() - asker.due)
            if waiting:
                asker.due = waiting.popleft()
                asker.ask(next(following))
            else:
                free.append(asker)
                if asked == total and len(free) == len(self._connections):
                    ended.set()

        for connection in self._connections:
            connection.answered = go_on
        began = time.perf_counter()
        while asked < total:
            while asked < total and (due := began + asked / rate) <= time.perf_counter():
                asked += 1
                if free:
                    asker = free.popleft()
                    asker.due = due
                    asker.ask(next(following))
                else:
                    waiting.append(due)
            await asyncio.sleep(TICK)
        if len(free) < len(self._connections):
            await asyncio.wait_for(ended.wait(), PATIENCE)
        return found


async def connect(port: int, protocol: Callable[[], P]) -> P:
    """Connect to this machine."""
    _, connected = await asyncio.get_running_loop().create_connection(protocol, "127.0.0.1", port)
    return connected
