"""Has records changed as whoever moves VMs does: by claims to the lookup service, so many a second.

Each claim waits until the gateway has acknowledged it, and only then is the change told to those who judge
packets: what the lookup service answers is what is held against the gateway.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import msgspec

from gateway.lab.namespaces import Namespace
from tests.soak.numbered import Numbered, Place

CONNECTIONS = 128
PATIENCE = 30.0
_TICK = 0.001
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length: "


class Done(msgspec.Struct):
    """What has come of the changes so far."""

    changed: int = 0
    """Records whose change was told to be applied."""
    claims: int = 0
    slowest: float = 0.0
    """Seconds from a claim to its answer."""
    total: float = 0.0
    problems: list[str] = []

    @property
    def mean(self) -> float:
        """Seconds, of all claims."""
        return self.total / self.claims if self.claims else 0.0


class Change(msgspec.Struct, frozen=True):
    """Some records with one MAC, and the place that they go to."""

    records: Sequence[int]
    place: Place


class Changes:
    """What is to change, one after the other: each record as often as any other, and never soon again."""

    def __init__(self, numbered: Numbered, places: Sequence[Place], seed: int = 7) -> None:
        self._numbered = numbered
        self._places = places
        self._random = random.Random(seed)

    def __iter__(self) -> Iterator[Change]:
        layout = self._numbered.layout
        together = 1 << layout.shared
        firsts = list(range(0, layout.records, together))
        self._random.shuffle(firsts)  # once: so there are always as many changes between two of a record
        while True:
            for first in firsts:
                here = self._numbered.place_of(first)
                others = [place for place in self._places if place.number != here]
                yield Change(range(first, first + together), self._random.choice(others))

    def claim(self, change: Change) -> bytes:
        """The body of the claim that makes a change."""
        layout, place = self._numbered.layout, change.place
        first = change.records[0]
        wanted = {
            "vsid": layout.subnet(first).vsid,
            "mac": layout.mac(first),
            "pa": place.address,
            "host": place.host,
            "mode": "orchestrate",
            "wait": ["edge-1"],
            "wait_ms": 10_000,
        }
        return json.dumps(wanted).encode()


class _Connection(asyncio.Protocol):
    """One connection, with one claim under way."""

    def __init__(self, answered: Callable[[_Connection, bytes], None]) -> None:
        self.change: Change | None = None
        self.began = 0.0
        self.transport: asyncio.Transport | None = None
        self._answered = answered
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(_END_OF_HEAD)
        if found:
            _, _, after = head.lower().partition(_LENGTH)
            if len(body) >= int(after.partition(b"\r\n")[0] or 0):
                self._received = b""
                self._answered(self, head + found + body)


class Changer:
    """Asks for changes at a rate until it is told to end, each claim by a connection of its own.

    With `is_lying`, nothing is asked, and every change is told to be applied: what judges packets has to
    find that out.
    """

    def __init__(
        self, numbered: Numbered, places: Sequence[Place], token: str, *, is_lying: bool = False
    ) -> None:
        self.done = Done()
        self._numbered = numbered
        self._changes = Changes(numbered, places)
        self._head = (
            "POST /v1/claims HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {token}\r\nContent-Length: "
        ).encode()
        self._is_lying = is_lying
        self._free: deque[_Connection] = deque()
        self._all_free = asyncio.Event()
        self._connections: list[_Connection] = []

    async def connect(self, namespace: Namespace, port: int, count: int = CONNECTIONS) -> Self:
        """Open the connections from a namespace to its loopback."""
        loop = asyncio.get_running_loop()
        for _ in range(count):
            opened = namespace.call(socket.create_connection, ("127.0.0.1", port))
            opened.setblocking(False)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _, connection = await loop.create_connection(lambda: _Connection(self._answered), sock=opened)
            self._connections.append(connection)
        self._free.extend(self._connections)
        return self

    async def run(self, rate: float, seconds: float) -> None:
        """Have `rate` records a second changed; what falls behind is caught up with."""
        together = 1 << self._numbered.layout.shared
        changes = iter(self._changes)
        began = time.monotonic()
        asked = 0
        while (elapsed := time.monotonic() - began) < seconds:
            while asked * together < elapsed * rate and (self._free or self._is_lying):
                self._begin(next(changes))
                asked += 1
            await asyncio.sleep(_TICK)
        if len(self._free) < len(self._connections):
            self._all_free.clear()
            await asyncio.wait_for(self._all_free.wait(), PATIENCE)

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            if connection.transport is not None:
                connection.transport.abort()

    def _begin(self, change: Change) -> None:
        self._numbered.will_change(change.records, change.place.number)
        if self._is_lying:
            self._numbered.has_changed(change.records)
            self.done.changed += len(change.records)
            return
        connection = self._free.popleft()
        connection.change, connection.began = change, time.monotonic()
        body = self._changes.claim(change)
        if connection.transport is not None:
            connection.transport.write(b"%s%d\r\n\r\n%s" % (self._head, len(body), body))

    def _answered(self, connection: _Connection, answer: bytes) -> None:
        change, took = connection.change, time.monotonic() - connection.began
        if change is None or not answer.startswith(b"HTTP/1.1 200") or b'"edge-1":true' not in answer:
            self.done.problems.append(f"{change}: {answer[:400]!r}")
        else:
            self._numbered.has_changed(change.records)
            self.done.changed += len(change.records)
        self.done.claims += 1
        self.done.total += took
        self.done.slowest = max(self.done.slowest, took)
        self._free.append(connection)
        if len(self._free) == len(self._connections):
            self._all_free.set()
