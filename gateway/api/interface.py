"""The operating interface: its paths, at a listener of its own or beside the lookup service's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from gateway.api.handlers import handler_of
from gateway.api.operating import Operating
from gateway.api.table import OPERATIONS
from gateway.http.calls import Call, answer
from gateway.http.interface import Interface, joined
from gateway.http.routes import Route
from gateway.http.service import listening
from policies.model import ApiSettings

SECTION = "api"
TITLE = "Isthmus"


def interface(operating: Operating) -> Interface:
    """Return the paths of those commands that there are."""
    routes = [
        Route(each.method, each.path, handler_of(operating, each), has_query=each.method == "GET")
        for each in OPERATIONS
        if each.command in operating.commands
    ]
    return Interface((*routes, *_open_routes(operating)), {}, {})


async def serve(settings: ApiSettings, operating: Operating, started: Callable[[int], None]) -> None:
    """Answer requests at a listener of its own until cancelled. `started` is told the port once it is open.

    Raises ConfigurationError where this would open the appliance to everybody, and where a file
    or the address is not as it should be.
    """
    routes = joined(TITLE, interface(operating))
    async with listening(settings, SECTION, routes, operating.door, measures=operating.measures) as port:
        started(port)
        await asyncio.get_running_loop().create_future()


def _open_routes(operating: Operating) -> tuple[Route, ...]:
    """What is answered to everybody. Beside the lookup service these are its own."""
    if operating.beside is not None:
        return ()

    async def healthz(_call: Call) -> web.StreamResponse:
        return answer(b'{"status":"alive"}')

    return (
        Route("GET", "/healthz", healthz, is_open=True),
        Route("GET", "/readyz", healthz, is_open=True),
    )
