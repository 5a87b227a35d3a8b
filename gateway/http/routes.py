"""Which handler answers which request, who asks, and how every failure is answered."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import unquote, urlsplit

import msgspec
from aiohttp import web

from gateway.http.calls import Call
from gateway.http.connections import Connection
from gateway.http.door import Door
from gateway.http.headers import protect
from gateway.http.measures import Measures
from gateway.http.principals import ANYBODY
from gateway.http.problems import HttpProblem, problem_answer

log = logging.getLogger("isthmus.http")

Handler = Callable[[Call], Awaitable[web.StreamResponse]]

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE"})


class Route(msgspec.Struct, frozen=True, eq=False):
    """One method of one path, which may have names in braces: /v1/records/{vsid}/{ca}."""

    method: str
    path: str
    handler: Handler
    is_open: bool = False
    """Whether it is answered to everybody."""
    has_query: bool = False


class Routes:
    """The paths of one listener, as one function of a request.

    Where two routes have the same method and path, the later one answers. GET answers HEAD, too.

    `only_loopback`: requests must name this machine as loopback does, or a page in an operator's
    browser could reach us under a name of its own (DNS rebinding).
    """

    def __init__(
        self,
        routes: Iterable[Route],
        door: Door,
        *,
        only_loopback: bool = False,
        measures: Measures | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.measures = measures or Measures()
        self._door = door
        self._only_loopback = only_loopback
        self._clock = clock
        self._fixed: dict[str, dict[str, Route]] = {}
        self._patterns: dict[str, tuple[re.Pattern[str], dict[str, Route]]] = {}
        for route in routes:
            self._methods(route.path)[route.method] = route
        for methods in (*self._fixed.values(), *(methods for _, methods in self._patterns.values())):
            if "GET" in methods:
                methods["HEAD"] = methods["GET"]

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, whatever it is."""
        begun = self._clock()
        path, _, query = request.raw_path.partition("?")
        methods, parts = self._find(path)
        route = methods.get(request.method)
        response: web.StreamResponse
        try:
            response = await self._answer(request, methods, route, parts, query)
        except HttpProblem as problem:
            response = problem_answer(problem)
        except ConnectionError:
            raise
        except Exception:
            # A fault of ours ends one request, not the service; the answer says nothing of it.
            log.exception("%s %s failed", request.method[:16], path[:256], extra={"event": "fault"})
            response = problem_answer(HttpProblem(500, "this is a fault of the service"))
        took: float | None = None
        if not response.prepared:
            protect(response)
            took = self._clock() - begun
        method = request.method if request.method in METHODS else ""
        self.measures.answered(method, route.path if route is not None else "", response.status, took)
        return response

    async def _answer(
        self,
        request: web.BaseRequest,
        methods: dict[str, Route],
        route: Route | None,
        parts: tuple[str, ...],
        query: str,
    ) -> web.StreamResponse:
        if self._only_loopback:
            _check_host(request)
        if not methods:
            raise HttpProblem(404, "there is no such path; see /openapi.json")
        is_open = (route or next(iter(methods.values()))).is_open
        principal = ANYBODY if is_open else self._door.admit(request)
        if not is_open and isinstance(request.protocol, Connection):
            request.protocol.know()
        if route is None:
            raise HttpProblem(
                405, f"{request.method[:16]} is not for this path", headers={"Allow": ", ".join(methods)}
            )
        if not is_open:
            _check_page(request)
        call = Call(request, principal, parts, query)
        if query and not route.has_query:
            call.query()
        return await route.handler(call)

    def _methods(self, template: str) -> dict[str, Route]:
        if "{" not in template:
            return self._fixed.setdefault(template, {})
        pattern = re.compile(re.sub(r"\{[a-z]+\}", "([^/]*)", template))
        return self._patterns.setdefault(template, (pattern, {}))[1]

    def _find(self, path: str) -> tuple[dict[str, Route], tuple[str, ...]]:
        found = self._fixed.get(path)
        if found is not None:
            return found, ()
        for pattern, methods in self._patterns.values():
            if (match := pattern.fullmatch(path)) is not None:
                parts = match.groups()
                return methods, tuple(map(unquote, parts)) if "%" in path else parts
        return {}, ()


def _check_host(request: web.BaseRequest) -> None:
    if _name(request.headers.get("Host", "")) not in LOOPBACK_NAMES:
        raise HttpProblem(421, "this service is asked as localhost, 127.0.0.1 or [::1]")


def _check_page(request: web.BaseRequest) -> None:
    """A browser says which page has it ask; none but our own may.

    Of reading it says so in Sec-Fetch-Site (W3C Fetch Metadata): another page would not see the answer, but
    could begin captures. Of writing, older browsers say it in Origin alone.
    """
    is_ours = request.headers.get("Sec-Fetch-Site", "none") in {"none", "same-origin"}
    origin = request.headers.get("Origin")
    if is_ours and origin is not None and request.method not in {"GET", "HEAD"}:
        try:
            is_ours = urlsplit(origin).netloc == request.headers.get("Host")
        except ValueError:
            is_ours = False
    if not is_ours:
        raise HttpProblem(403, "another site's page may not ask this")


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
