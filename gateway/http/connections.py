"""Connections, so many and no more: in all, and of strangers from one address; none waits for ever.

Where there are too many, the stranger goes who has been there longest without saying who it is: so nobody
who does at once is locked out by one who holds many. They are counted from their first packet
on, before anything is spent on TLS.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway.http.door import source_of
from gateway.http.measures import Measures
from gateway.http.problems import HttpProblem, problem_answer

log = logging.getLogger("isthmus.http")

MOST_CONNECTIONS = 8192
MOST_STRANGERS = 512
"""Connections from one address that have not yet shown who they are. Those of known clients are not
counted, so that many may share an address, and nobody takes theirs from them."""
MOST_HANDSHAKES = 512
"""Connections whose TLS is not yet agreed on: each takes some 80 kB."""
IDLE_SECONDS = 75.0
FIRST_REQUEST_SECONDS = 10.0
"""For whoever has connected to ask something: until then nobody knows who it is."""
HANDSHAKE_SECONDS = 10
GOODBYE_SECONDS = 1
"""For the other end to say that TLS is over."""
BLOCKED_SECONDS = 30.0
"""For whoever is answered to read enough of it that more can be written."""

# aiohttp would take the time of each request, and write a line of it.
_SILENT = logging.getLogger("isthmus.http.access")
_SILENT.setLevel(logging.CRITICAL)

Answering = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Server(web.Server):
    """Makes what speaks HTTP on each connection, up to a number of them."""

    def __init__(self, answering: Answering, measures: Measures) -> None:
        super().__init__(self._asked)
        self.measures = measures
        self.handshakes: dict[Connection, None] = {}
        self._strangers: dict[Connection, None] = {}
        self._strangers_of: dict[str, dict[Connection, None]] = {}
        self._answering = answering

    async def leave(self, patience: float) -> None:
        """Let what is being answered end within so many seconds, then cut whoever has not read it."""
        transports = [connection.transport for connection in self.connections]
        for connection in tuple(self.handshakes):
            connection.refuse()
        self.pre_shutdown()
        # It waits twice for so long: for the handler, and for that to heed being told that it is over.
        await self.shutdown(patience / 2)
        for transport in transports:
            if transport is not None:
                transport.abort()

    def enter(self, connection: Connection, source: str) -> None:
        """Count a connection among its address' strangers; where they are too many, the oldest goes."""
        refused = self.measures.connections_refused
        here = self._strangers_of.setdefault(source, {})
        here[connection] = self._strangers[connection] = None
        if len(here) > MOST_STRANGERS:
            refused["address"] += 1
            next(iter(here)).refuse()
        elif len(self._connections) + len(self.handshakes) > MOST_CONNECTIONS:
            refused["full"] += 1
            next(iter(self._strangers)).refuse()
        elif len(self.handshakes) > MOST_HANDSHAKES:
            refused["full"] += 1
            next(iter(self.handshakes)).refuse()

    def leave_strangers(self, connection: Connection, source: str) -> None:
        """Count a connection no longer."""
        del self._strangers[connection]
        here = self._strangers_of[source]
        del here[connection]
        if not here:
            del self._strangers_of[source]

    def with_tls(self, context: ssl.SSLContext) -> asyncio.BaseProtocol:
        """Make what speaks HTTP within TLS on one connection."""
        return _Tls(self(), context)

    async def _asked(self, request: web.BaseRequest) -> web.StreamResponse:
        if isinstance(request.protocol, Connection):
            request.protocol.has_asked = True
        return await self._answering(request)

    def __call__(self) -> Connection:
        connection = Connection(
            self,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=IDLE_SECONDS,
            auto_decompress=False,
            logger=log,
            access_log=_SILENT,
            max_line_size=8190,
            max_field_size=8190,
            lingering_time=2.0,
        )
        connection.server = self
        connection.stranger = connection.beneath = None
        connection.has_asked = False
        return connection


class Connection(web.RequestHandler):
    """One connection. What is no HTTP is answered as a problem too."""

    __slots__ = ("_blocked", "beneath", "has_asked", "left", "server", "stranger")

    server: Server
    has_asked: bool
    beneath: asyncio.Transport | None
    """What it is carried by, from the first packet on."""
    stranger: str | None
    """Where it is from, until it is known whose it is."""
    left: asyncio.Event
    """Set when the other end has gone."""
    _blocked: asyncio.TimerHandle | None

    def enter(self, transport: asyncio.BaseTransport) -> None:
        """Count it among its address' strangers, from now on."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"{type(transport).__name__} is no stream")
        peer = transport.get_extra_info("peername")
        self.beneath = transport
        self.stranger = source_of(peer[0] if isinstance(peer, tuple) else None)
        self.server.enter(self, self.stranger)

    def refuse(self) -> None:
        """Cut it."""
        self.know()
        self.server.handshakes.pop(self, None)
        if self.beneath is not None:
            self.beneath.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.left = asyncio.Event()
        self._blocked = None
        self.server.handshakes.pop(self, None)
        if self.beneath is None:
            self.enter(transport)
        asyncio.get_running_loop().call_later(FIRST_REQUEST_SECONDS, self._leave_if_silent)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.know()
        self.beneath = None  # which holds what holds us
        self.left.set()
        self._unblock()

    def know(self) -> None:
        """Count it no longer among its address' strangers."""
        source, self.stranger = self.stranger, None
        if source is not None:
            self.server.leave_strangers(self, source)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._blocked = asyncio.get_running_loop().call_later(BLOCKED_SECONDS, self._cut)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unblock()

    def _unblock(self) -> None:
        if self._blocked is not None:
            self._blocked.cancel()
            self._blocked = None

    def _cut(self) -> None:
        if isinstance(self.transport, asyncio.Transport):
            self.transport.abort()

    def _leave_if_silent(self) -> None:
        if not self.has_asked:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be read, or what we have failed at."""
        del request, message
        if status >= 500:
            log.error("a request failed", exc_info=exc, extra={"event": "fault"})
        detail = "this is not HTTP as it should be" if status < 500 else "this is a fault of the service"
        response = problem_answer(HttpProblem(status, detail))
        response.force_close()
        self.server.measures.answered("", "", status, None)
        return response


class _Tls(SSLProtocol):
    """The TLS of one connection, which is counted before its handshake begins."""

    max_size = 1 << 15
    """What is read into on each connection, idle ones too: asyncio's own would be eight times as much."""

    def __init__(self, connection: Connection, context: ssl.SSLContext) -> None:
        super().__init__(
            asyncio.get_running_loop(),
            connection,
            context,
            None,  # type: ignore[arg-type]  # nobody waits, as where asyncio itself accepts
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
            ssl_shutdown_timeout=GOODBYE_SECONDS,
        )
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connection = self._connection
        connection.server.handshakes[connection] = None
        connection.enter(transport)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        connection = self._connection
        connection.server.handshakes.pop(connection, None)
        connection.know()
        connection.beneath = None
        super().connection_lost(exc)
