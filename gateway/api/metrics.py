"""What Prometheus scrapes: a node's report and its lookup service's figures, in either of its two formats.

Whatever is configured is told of at 0 before anything has happened to it: what is missing raises no alarm.
Labels come from the configuration and from closed vocabularies, never from a packet, so they are bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice

from aiohttp import web

from gateway.api.exposition import END, OPEN, PLAIN, head, series
from gateway.api.measured import Scrape, found
from gateway.api.operating import asker_of
from gateway.http.calls import Call
from gateway.http.problems import HttpProblem
from gateway.http.routes import Route
from gateway.operating.commands import Asker
from policies.services import Role

# Series that are written before trio may have its turn: they take some 0.2 ms, and a thousand sites
# have forty thousand.
SERIES_AT_ONCE = 100


def metrics_route(gather: Callable[[], Awaitable[Scrape]]) -> Route:
    """Return what answers Prometheus, by what is gathered then. A reader sees its tenants' series alone."""

    async def metrics(call: Call) -> web.StreamResponse:
        if call.principal.role is Role.HOST:
            raise HttpProblem(403, f"{call.principal.name} is a host, and this is for those who operate")
        is_open = "application/openmetrics-text" in call.request.headers.get("Accept", "")
        written = metrics_text(await gather(), asker_of(call.principal), is_open=is_open)
        text = bytearray()
        while some := "".join(islice(written, SERIES_AT_ONCE)):
            text += some.encode()
            await asyncio.sleep(0)
        return web.Response(body=bytes(text), headers={"Content-Type": OPEN if is_open else PLAIN})

    return Route("GET", "/metrics", metrics)


def metrics_text(scrape: Scrape, asker: Asker, *, is_open: bool) -> Iterator[str]:
    """Yield what was found, as far as somebody may see it, one series after another."""
    for family, rows in found(scrape):
        if asker.tenants is not None:
            if "tenant" not in family.labels:
                continue
            at = family.labels.index("tenant")
            rows = [row for row in rows if asker.sees(row[0][at])]  # noqa: PLW2901 - a reader has fewer
        yield head(family, is_open=is_open)
        for values, value in rows:
            yield series(family, values, value)
    if is_open:
        yield END
