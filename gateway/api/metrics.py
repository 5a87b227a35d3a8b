"""What Prometheus scrapes: a node's report and its lookup service's figures, in either of its two formats.

Whatever is configured is told of at 0 before anything has happened to it: what is missing raises no alarm.
Labels come from the configuration and from closed vocabularies, never from a packet, so they are bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from itertools import accumulate

from aiohttp import web
from prometheus_client import exposition
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from gateway.api.families import Family
from gateway.api.measured import Found, Scrape, found
from gateway.api.operating import asker_of
from gateway.http.calls import Call
from gateway.http.measures import BUCKETS, Histogram
from gateway.http.problems import HttpProblem
from gateway.http.routes import Route
from gateway.operating.commands import Asker
from policies.model import Role

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPEN = openmetrics.CONTENT_TYPE_LATEST

_END = b"# EOF\n"
_BOUNDS = (*(str(bound) for bound in BUCKETS), "+Inf")


def metrics_route(gather: Callable[[], Awaitable[Scrape]]) -> Route:
    """Return what answers Prometheus, by what is gathered then. A reader sees its tenants' series alone."""

    async def metrics(call: Call) -> web.StreamResponse:
        if call.principal.role is Role.HOST:
            raise HttpProblem(403, f"{call.principal.name} is a host, and this is for those who operate")
        is_open = "application/openmetrics-text" in call.request.headers.get("Accept", "")
        loop = asyncio.get_running_loop()
        text = bytearray()
        for metric in metrics_of(await gather(), asker_of(call.principal)):
            began = loop.time()
            text += text_of(metric, is_open=is_open)
            # Packets have a thread of their own, and get as much of the processor meanwhile.
            await asyncio.sleep(loop.time() - began)
        if is_open:
            text += _END
        return web.Response(body=bytes(text), headers={"Content-Type": OPEN if is_open else PLAIN})

    return Route("GET", "/metrics", metrics)


def metrics_of(scrape: Scrape, asker: Asker) -> Iterator[Metric]:
    """Yield the metrics of what was found, as far as somebody may see it."""
    for family, rows in found(scrape):
        if asker.tenants is None:
            yield _metric(family, rows)
        elif "tenant" in family.labels:
            at = family.labels.index("tenant")
            yield _metric(family, (row for row in rows if asker.sees(row[0][at])))


def text_of(metric: Metric, *, is_open: bool) -> bytes:
    """Return one metric as text, in OpenMetrics if it `is_open`; what ends a whole answer is not in it."""
    generate = openmetrics.generate_latest if is_open else exposition.generate_latest
    return generate(_One(metric)).removesuffix(_END)


class _One(Collector):
    """One metric, for the library's writers."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


def _metric(family: Family, rows: Found) -> Metric:
    base = family.name.removesuffix("_total").removesuffix("_info")
    metric = Metric(base, family.help, family.kind.value)
    for values, value in rows:
        labels = dict(zip(family.labels, values, strict=True))
        if isinstance(value, Histogram):
            _add_histogram(metric, base, labels, value)
        else:
            metric.add_sample(family.name, labels, value)
    return metric


def _add_histogram(metric: Metric, name: str, labels: Mapping[str, str], histogram: Histogram) -> None:
    for bound, count in zip(_BOUNDS, accumulate(histogram.counts), strict=True):
        metric.add_sample(f"{name}_bucket", {**labels, "le": bound}, count)
    metric.add_sample(f"{name}_count", dict(labels), sum(histogram.counts))
    metric.add_sample(f"{name}_sum", dict(labels), histogram.seconds)
