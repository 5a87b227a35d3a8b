"""A service by HTTP: on aiohttp, with TLS and limits, for as long as a block lasts."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

from gateway.http.connections import Server
from gateway.http.door import Door
from gateway.http.measures import Measures
from gateway.http.principals import Credentials
from gateway.http.routes import Route, Routes
from gateway.http.tls import renewing_context
from policies.errors import ConfigurationError, Problem
from policies.services import Credential, ServerTls

log = logging.getLogger("isthmus.http")

BACKLOG = 1024
STOPPING_SECONDS = 1.0


class Settings(Protocol):
    """Where a service listens, and who may ask."""

    @property
    def listen(self) -> str: ...
    @property
    def tls(self) -> ServerTls | None: ...
    @property
    def credentials(self) -> tuple[Credential, ...]: ...


@asynccontextmanager
async def listening(
    settings: Settings,
    section: str,
    routes: tuple[Route, ...],
    door: Door,
    *,
    measures: Measures | None = None,
    leaving: Callable[[], None] | None = None,
) -> AsyncIterator[int]:
    """Answer requests for as long as the block lasts, which is given the port.

    `section` names the settings in the configuration. `leaving` is called when no further
    connection is taken, so that what never ends by itself may end.
    Raises ConfigurationError where this would open the service to everybody, and where a file
    or the address is not as it should be.
    """
    host, port = _address(settings.listen, section)
    door.credentials = Credentials.load(settings.credentials, section)
    is_loopback = _is_loopback(host, section)
    check_exposure(settings, section, is_loopback=is_loopback)
    tls = renewing_context(settings.tls, f"{section}.tls") if settings.tls is not None else None
    only_loopback = is_loopback and tls is None
    answering = Routes(routes, door, only_loopback=only_loopback, measures=measures)
    server = Server(answering, answering.measures)
    opened = await _listen(server, host, port, tls, section)
    try:
        port = opened.sockets[0].getsockname()[1]
        with_tls = " with TLS" if tls is not None else ""
        about = {"event": "listening"}
        log.info("[%s] listens on %s port %d%s", section, host, port, with_tls, extra=about)
        yield port
    finally:
        opened.close()
        if leaving is not None:
            leaving()
        await server.leave(STOPPING_SECONDS)
        await opened.wait_closed()


def check_exposure(settings: Settings, section: str, *, is_loopback: bool) -> None:
    """Raise ConfigurationError where others than this machine could ask without TLS or a credential."""
    problems = []
    if not is_loopback and settings.tls is None:
        message = f"{settings.listen} is off loopback; add [{section}.tls]"
        problems.append(Problem(f"{section}.listen", message))
    if not is_loopback and not settings.credentials:
        message = (
            f"{settings.listen} is off loopback; add a [[{section}.token]] or a [[{section}.certificate]]"
        )
        problems.append(Problem(f"{section}.listen", message))
    if problems:
        raise ConfigurationError(problems)


async def _listen(
    server: Server, host: str, port: int, tls: ssl.SSLContext | None, section: str
) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    make = server if tls is None else partial(server.with_tls, tls)
    try:
        return await loop.create_server(make, host, port, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError([Problem(f"{section}.listen", f"{host} port {port}: {reason}")]) from error


def _address(listen: str, section: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal():
        message = f"{listen!r}: an address and a port are wanted"
        raise ConfigurationError([Problem(f"{section}.listen", message)])
    return host.removeprefix("[").removesuffix("]"), int(port)


def _is_loopback(host: str, section: str) -> bool:
    """Whether only this machine reaches an address. A name is taken for what it resolves to: all of it."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise ConfigurationError([Problem(f"{section}.listen", f"{host}: {error.strerror}")]) from error
    return all(ipaddress.ip_address(str(each).partition("%")[0]).is_loopback for each in found)
