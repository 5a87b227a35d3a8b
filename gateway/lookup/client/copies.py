"""What a follower has applied, told to the lookup nodes that do not have its watch.

A claim may be made at any node, and is to say who has learned of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import msgspec

from gateway.lookup.client.nodes import Fault, Node, Nodes

AGAIN = 20.0
"""Seconds after which the same is told anew: a node forgets after 60, and by its restart."""


class Copies:
    """Tells the newest of something to every node but the first; nobody waits for that.

    What is superseded before it could be told is not told. A node that does not answer is asked
    once in each of its pauses, which grow.
    """

    def __init__(self, nodes: Nodes, path: str) -> None:
        self._nodes = nodes
        self._path = path
        self._content = b""
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def tell(self, body: object) -> None:
        """Tell this soon, rather than what was to be told before."""
        self._content = msgspec.json.encode(body)
        self._news.set()
        self._news = asyncio.Event()
        if not self._tasks and len(self._nodes.all) > 1:
            self._tasks = [asyncio.create_task(self._keep_told(node)) for node in self._nodes.all]

    async def close(self) -> None:
        """Tell no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_told(self, node: Node) -> None:
        while True:
            if (pause := node.free_at - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            news = self._news
            if node is not self._nodes.first:
                try:
                    await self._nodes.attempt(node, "POST", self._path, self._content)
                except Fault:
                    continue
            # Who follows nothing any more need not be known everywhere.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN if self._nodes.is_watched else None):
                    await news.wait()
