"""The dashboard's own files beside canned answers, on loopback: a test decides what a browser is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from gateway.api.dashboard import routes
from gateway.http.calls import Call, answer
from gateway.http.door import Door
from gateway.http.principals import Credentials, Principal
from gateway.http.problems import HttpProblem
from gateway.http.routes import Route, Routes
from gateway.operating.commands import Asker
from policies.services import Role
from tests.interop.dashboard_world import World, plain


class DashboardServer:
    """Use it as a context manager. `world` may be replaced, and `is_away` set, while a browser looks."""

    def __init__(self, world: World, tokens: dict[str, Principal] | None = None) -> None:
        self.world = world
        self.is_away = False
        """Whether every question is answered 503, as while an appliance starts."""
        self.asked: list[str] = []
        self.port = 0
        pairs = [(token.encode(), principal) for token, principal in (tokens or {}).items()]
        self._door = Door(Credentials(pairs, {}))
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._told = asyncio.Event()
        self._thread = threading.Thread(
            target=lambda: self._loop.run_until_complete(self._serve()), daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(10):
            raise TimeoutError("the canned appliance does not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Go away. A second call does nothing."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._loop.close()

    def tell(self, event: dict[str, Any]) -> None:
        """Have something happen, to whoever follows."""

        def add() -> None:
            self.world.events.append(event)
            self._told.set()
            self._told = asyncio.Event()

        self._loop.call_soon_threadsafe(add)

    async def _serve(self) -> None:
        answers: dict[str, Callable[[Call], Any]] = {
            "/v1/overview": lambda call: self.world.overview(self._asker(call)),
            "/v1/trends": lambda call: self.world.trend(**call.query("tenant", "site", "subnet")),
            "/v1/moves": lambda call: self.world.moves,
            "/v1/records": self._records,
        }
        canned = [Route("GET", path, self._says(says), has_query=True) for path, says in answers.items()]
        canned.append(Route("GET", "/v1/events", self._events, has_query=True))
        canned.append(Route("POST", "/v1/resolve", self._resolve))
        server = web.Server(Routes((*routes(), *canned), self._door, only_loopback=True))
        listener = await self._loop.create_server(server, "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        listener.close()
        self._told.set()
        await server.shutdown(0.5)
        await listener.wait_closed()

    def _asker(self, call: Call) -> Asker:
        principal = call.principal
        tenants = None if principal.role is Role.OPERATOR else principal.tenants
        return Asker(principal.name, principal.role is Role.OPERATOR, tenants)

    def _says(self, says: Callable[[Call], Any]) -> Callable[[Call], Any]:
        async def handler(call: Call) -> web.StreamResponse:
            self._check(call)
            return answer(plain(says(call)))

        return handler

    def _check(self, call: Call) -> None:
        self.asked.append(call.request.raw_path)
        if self.is_away:
            raise HttpProblem(503, "this node knows nothing yet")

    def _records(self, call: Call) -> dict[str, Any]:
        query = call.query("tenant", "vsid", "limit", "continue")
        found = list(self.world.records(query))
        begin, limit = int(query.get("continue", "0")), int(query.get("limit", "1000"))
        following = str(begin + limit) if begin + limit < len(found) else None
        return {"records": found[begin : begin + limit], "continue": following, "revision": 99}

    async def _resolve(self, call: Call) -> web.StreamResponse:
        self._check(call)
        wanted = await call.request.json()
        known = {(each["vsid"], each["ca"]): each for each in self.world.records({})}
        found = [known.get((each["vsid"], each["ca"])) for each in wanted]
        return answer(plain({"records": found, "revision": 99, "stale_seconds": 0}))

    async def _events(self, call: Call) -> web.StreamResponse:
        self._check(call)
        query = call.query("follow", "since")
        asker = self._asker(call)
        response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
        await response.prepare(call.request)
        at = 0
        while not self._stop.is_set() and not self.is_away:
            told = self._told
            for event in self.world.events[at:]:
                if event["at"] > float(query.get("since", 0)) and asker.sees(event["tenant"]):
                    await response.write(plain(event) + b"\n")
            at = len(self.world.events)
            await told.wait()
        return response
