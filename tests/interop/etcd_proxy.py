"""A way to etcd that loses requests and answers when a test says so."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum

import aiohttp
from aiohttp import web

WRITES = "request_put"


class Fate(Enum):
    """What becomes of one write."""

    LOST = "lost"
    """etcd never sees it."""
    UNANSWERED = "unanswered"
    """etcd makes it, and says so to nobody."""
    LATE = "late"
    """It seems lost, and etcd sees it after the next one was answered."""


class Proxy:
    """One endpoint before another one. `fates` are those of the next writes; others pass."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._late: list[tuple[str, bytes]] = []
        self.fates: deque[Fate] = deque()
        self.unanswered = asyncio.Event()
        self.proceed = asyncio.Event()
        """Until then, whoever was not answered waits for the connection to end."""
        self.proceed.set()
        self.endpoint = ""

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        fate = self.fates.popleft() if self.fates and WRITES.encode() in body else None
        if fate is Fate.LATE:
            self._late.append((request.path, body))
        status, answer = (503, b"") if fate in (Fate.LATE, Fate.LOST) else await self._ask(request.path, body)
        if fate is not None:
            self.unanswered.set()
            await self.proceed.wait()
            assert request.transport is not None
            request.transport.abort()
        elif WRITES.encode() in body:
            while self._late:
                await self._ask(*self._late.pop())
        return web.Response(status=status, body=answer, content_type="application/json")

    async def _ask(self, path: str, body: bytes) -> tuple[int, bytes]:
        async with self._session.post(self._upstream + path, data=body) as response:
            return response.status, await response.read()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Proxy]:
        """Listen on a port of the loopback interface."""
        application = web.Application(client_max_size=1 << 24)
        application.router.add_post("/{path:.*}", self.handle)
        runner = web.AppRunner(application)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            assert runner.addresses
            self.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
            async with aiohttp.ClientSession() as self._session:
                yield self
        finally:
            await runner.cleanup()
