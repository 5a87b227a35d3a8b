"""The lookup service: HTTP on aiohttp, with TLS and limits, until it is cancelled."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable

from aiohttp import web

from gateway.lookup.authority import Authority
from gateway.lookup.http.problems import HttpProblem
from gateway.lookup.http.routes import Routes, problem_answer
from gateway.lookup.http.watches import Watches
from gateway.lookup.principals import Credentials
from gateway.lookup.replica import Replica
from policies.errors import ConfigurationError, Problem
from policies.model import LookupSettings, ServerTls

log = logging.getLogger("isthmus.lookup")

MOST_CONNECTIONS = 8192
BACKLOG = 1024
IDLE_SECONDS = 75.0
HANDSHAKE_SECONDS = 10.0
FIRST_REQUEST_SECONDS = 10.0
"""For whoever has connected to ask something: until then nobody knows who it is."""
STOPPING_SECONDS = 2.0
TLS_BUFFER = 1 << 15
"""What asyncio reads into on each TLS connection, idle ones too; its own would be eight times as much."""

# aiohttp would take the time of each request, and write a line of it.
_SILENT = logging.getLogger("isthmus.lookup.access")
_SILENT.setLevel(logging.CRITICAL)


async def serve(
    settings: LookupSettings, authority: Authority, replica: Replica, *, started: Callable[[int], None]
) -> None:
    """Answer requests until cancelled. `started` is told the port once it is open.

    Raises ConfigurationError where this would open the records to everybody, and where a file
    or the address is not as it should be.
    """
    host, port = _address(settings.listen)
    authority.credentials = Credentials.load(settings.credentials)
    is_loopback = _is_loopback(host)
    check_exposure(settings, is_loopback=is_loopback)
    tls = renewing_context(settings.tls) if settings.tls is not None else None
    watches = Watches(replica)
    routes = Routes(authority, replica, watches, only_loopback=is_loopback and tls is None)
    server = _Server(routes)
    listening = await _listen(server, host, port, tls)
    tasks = asyncio.create_task(watches.run())
    try:
        port = listening.sockets[0].getsockname()[1]
        log.info("the lookup service listens on %s port %d%s", host, port, " with TLS" if tls else "")
        started(port)
        await tasks
    finally:
        listening.close()
        watches.close()
        tasks.cancel()
        await asyncio.wait([tasks])
        server.pre_shutdown()
        await server.shutdown(STOPPING_SECONDS)
        await listening.wait_closed()


def check_exposure(settings: LookupSettings, *, is_loopback: bool) -> None:
    """Raise ConfigurationError where others than this machine could ask without TLS or a credential."""
    problems = []
    if not is_loopback and settings.tls is None:
        problems.append(Problem("lookup.listen", f"{settings.listen} is off loopback; add [lookup.tls]"))
    if not is_loopback and not settings.credentials:
        message = f"{settings.listen} is off loopback; add a [[lookup.token]] or a [[lookup.certificate]]"
        problems.append(Problem("lookup.listen", message))
    if problems:
        raise ConfigurationError(problems)


def renewing_context(files: ServerTls) -> ssl.SSLContext:
    """Return the server's side of TLS, by what its files say at each handshake. Raises ConfigurationError.

    While half of a renewed pair is there, the one before it goes on.
    """
    listening = current = tls_context(files)
    seen = _times(files)

    def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal current, seen
        now = _times(files)
        if now != seen:
            try:
                current, seen = tls_context(files), now
            except ConfigurationError as error:
                log.warning("the certificate is not renewed: %s", error)
        connection.context = current

    listening.sni_callback = choose
    return listening


def tls_context(files: ServerTls) -> ssl.SSLContext:
    """Return the server's side of TLS 1.2 and later. Raises ConfigurationError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files.certificate_file, files.key_file)
        if files.client_authority_file is not None:
            context.load_verify_locations(files.client_authority_file)
            # Whoever has no certificate may have a token; one that is shown must be good.
            context.verify_mode = ssl.CERT_OPTIONAL
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise ConfigurationError([Problem("lookup.tls", f"{files.certificate_file}: {reason}")]) from error
    return context


def _times(files: ServerTls) -> tuple[int, ...]:
    """When the files were last changed; those that are not there count as never."""
    found = []
    for file in (files.certificate_file, files.key_file, files.client_authority_file):
        try:
            found.append(0 if file is None else file.stat().st_mtime_ns)
        except OSError:
            found.append(0)
    return tuple(found)


class _Server(web.Server):
    """Makes what speaks HTTP on each connection, up to a number of them."""

    def __init__(self, routes: Routes) -> None:
        super().__init__(self._asked)
        self._routes = routes

    async def _asked(self, request: web.BaseRequest) -> web.StreamResponse:
        if isinstance(request.protocol, _Connection):
            request.protocol.has_asked = True
        return await self._routes(request)

    def __call__(self) -> web.RequestHandler:
        connection = _Connection(
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
        connection.is_one_too_many = len(self._connections) >= MOST_CONNECTIONS
        return connection


class _Connection(web.RequestHandler):
    """One connection. What is no HTTP is answered as a problem too."""

    __slots__ = ("has_asked", "is_one_too_many")

    has_asked: bool
    is_one_too_many: bool

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.has_asked = False
        if self.is_one_too_many:
            self.force_close()
        else:
            asyncio.get_running_loop().call_later(FIRST_REQUEST_SECONDS, self._leave_if_silent)

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
            log.error("a request failed", exc_info=exc)
        detail = "this is not HTTP as it should be" if status < 500 else "this is a fault of the service"
        response = problem_answer(HttpProblem(status, detail))
        response.force_close()
        return response


async def _listen(server: _Server, host: str, port: int, tls: ssl.SSLContext | None) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    handshake = goodbye = None
    if tls is not None:
        SSLProtocol.max_size = TLS_BUFFER
        handshake, goodbye = HANDSHAKE_SECONDS, STOPPING_SECONDS
    try:
        return await loop.create_server(
            server,
            host,
            port,
            ssl=tls,
            backlog=BACKLOG,
            ssl_handshake_timeout=handshake,
            ssl_shutdown_timeout=goodbye,
        )
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError([Problem("lookup.listen", f"{host} port {port}: {reason}")]) from error


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigurationError([Problem("lookup.listen", f"{listen!r}: an address and a port are wanted")])
    return host.removeprefix("[").removesuffix("]"), int(port)


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. A name is taken for what it resolves to: all of it."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise ConfigurationError([Problem("lookup.listen", f"{host}: {error.strerror}")]) from error
    return all(ipaddress.ip_address(str(each).partition("%")[0]).is_loopback for each in found)
