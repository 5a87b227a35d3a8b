"""A lookup node that answers as a test wants, and writes down what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeNode:
    """One node. `answer` may be replaced at any time."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[Any] = []
        self.cancelled = 0
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        self.asked.append((request.method, request.path_qs))
        self.headers.append(dict(request.headers))
        body = await request.read()
        self.bodies.append(msgspec.json.decode(body) if body else None)
        try:
            return await self.answer(request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@asynccontextmanager
async def running(answer: Answer, port: int = 0) -> AsyncIterator[FakeNode]:
    """Run a node on loopback."""
    node = FakeNode(answer)
    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", node.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
    await site.start()
    node.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield node
    finally:
        await runner.cleanup()


def says(value: object, status: int = 200) -> Answer:
    """Answer always the same."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")

    return answer


async def never(_: web.Request) -> web.StreamResponse:
    """Take a request, and say nothing."""
    await asyncio.Event().wait()
    raise AssertionError


async def hang_up(request: web.Request) -> web.StreamResponse:
    """Take a request, and close the connection."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def lines(*octets: bytes, then: Answer | None = None) -> Answer:
    """Answer a watch with these octets, piece by piece; then end it, or do something else."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
        await response.prepare(request)
        for piece in octets:
            await response.write(piece)
            await asyncio.sleep(0.001)
        if then is not None:
            await then(request)
        return response

    return answer
