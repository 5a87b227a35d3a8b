"""Connections, so many and no more: in all, and of strangers from one address; none waits for ever."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
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
IDLE_SECONDS = 75.0
FIRST_REQUEST_SECONDS = 10.0
"""For whoever has connected to ask something: until then nobody knows who it is."""
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
        self.strangers: Counter[str] = Counter()
        self.measures = measures
        self._answering = answering

    async def leave(self, patience: float) -> None:
        """Let what is being answered end within so many seconds, then cut whoever has not read it."""
        transports = [connection.transport for connection in self.connections]
        self.pre_shutdown()
        # It waits twice for so long: for the handler, and for that to heed being told that it is over.
        await self.shutdown(patience / 2)
        for transport in transports:
            if transport is not None:
                transport.abort()

    async def _asked(self, request: web.BaseRequest) -> web.StreamResponse:
        if isinstance(request.protocol, Connection):
            request.protocol.has_asked = True
        return await self._answering(request)

    def __call__(self) -> web.RequestHandler:
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
        connection.is_one_too_many = len(self._connections) >= MOST_CONNECTIONS
        return connection


class Connection(web.RequestHandler):
    """One connection. What is no HTTP is answered as a problem too."""

    __slots__ = ("_blocked", "has_asked", "is_one_too_many", "left", "server", "stranger")

    server: Server
    has_asked: bool
    is_one_too_many: bool
    stranger: str | None
    """Where it is from, until it is known whose it is."""
    left: asyncio.Event
    """Set when the other end has gone."""
    _blocked: asyncio.TimerHandle | None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.has_asked = False
        self.left = asyncio.Event()
        self._blocked = None
        peer = transport.get_extra_info("peername")
        source = source_of(peer[0] if isinstance(peer, tuple) else None)
        strangers = self.server.strangers
        strangers[source] += 1
        self.stranger = source
        if self.is_one_too_many or strangers[source] > MOST_STRANGERS:
            self.server.measures.connections_refused["full" if self.is_one_too_many else "address"] += 1
            self.force_close()
        else:
            asyncio.get_running_loop().call_later(FIRST_REQUEST_SECONDS, self._leave_if_silent)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.know()
        self.left.set()
        self._unblock()

    def know(self) -> None:
        """Count it no longer among its address' strangers."""
        source, self.stranger = self.stranger, None
        if source is not None:
            strangers = self.server.strangers
            strangers[source] -= 1
            if not strangers[source]:
                del strangers[source]

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
