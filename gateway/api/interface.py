"""The operating interface: its paths, at a listener of its own or beside the lookup service's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from gateway.api import dashboard
from gateway.api.handlers import handler_of
from gateway.api.measured import Scrape
from gateway.api.metrics import metrics_route
from gateway.api.openapi import described
from gateway.api.operating import Operating
from gateway.api.table import OPERATIONS
from gateway.http.calls import Call, answer
from gateway.http.door import Door
from gateway.http.interface import Interface, joined
from gateway.http.measures import Measures
from gateway.http.routes import Route
from gateway.http.service import listening
from gateway.lookup.forms import form
from policies.services import ApiSettings

SECTION = "api"
TITLE = "Isthmus"


def interface(operating: Operating, scrape: Callable[[], Awaitable[Scrape]]) -> Interface:
    """Return the paths of those commands that there are, of what is scraped, and of the dashboard."""
    routes = [
        Route(each.method, each.path, handler_of(operating, each), has_query=each.method == "GET")
        for each in OPERATIONS
        if each.command in operating.commands
    ]
    paths, schemas = described(operating.commands, is_beside=operating.beside is not None)
    own = (_tenants_route(operating), *_open_routes()) if operating.beside is None else ()
    routes += [metrics_route(scrape), *dashboard.routes(), *own]
    return Interface(tuple(routes), paths, schemas, operating.leaving.set)


async def serve(
    settings: ApiSettings,
    asked: Interface,
    door: Door,
    measures: Measures,
    started: Callable[[int], None],
) -> None:
    """Answer requests at a listener of its own until cancelled. `started` is told the port once it is open.

    Raises ConfigurationError where this would open the appliance to everybody, and where a file
    or the address is not as it should be.
    """
    routes = joined(TITLE, asked)
    async with listening(settings, SECTION, routes, door, measures=measures, leaving=asked.leaving) as port:
        started(port)
        await asyncio.get_running_loop().create_future()


def _tenants_route(operating: Operating) -> Route:
    """The network's tenants, which a lookup node tells of its own."""

    async def tenants(call: Call) -> web.StreamResponse:
        return answer(msgspec.json.encode(form(operating.network(call.principal).tenants)))

    return Route("GET", "/v1/tenants", tenants)


def _open_routes() -> tuple[Route, ...]:
    """What is answered to everybody. Beside the lookup service these are its own."""

    async def healthz(_call: Call) -> web.StreamResponse:
        return answer(b'{"status":"alive"}')

    return (
        Route("GET", "/healthz", healthz, is_open=True),
        Route("GET", "/readyz", healthz, is_open=True),
    )
