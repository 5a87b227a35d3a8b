"""The lookup nodes as one: which of them is asked, and whom to ask next where one does not answer."""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import random
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp
import msgspec

from gateway.lookup.answers import ProblemForm, decoded
from gateway.lookup.client import credentials
from gateway.lookup.forms import Malformed
from gateway.lookup.store import StoreUnavailable
from policies.services import LookupAccess

PATIENCE = 5.0
"""Seconds for one node to answer: after that the next is asked."""
CONNECT_PATIENCE = 2.0
MOMENT = 0.2
"""Seconds for a better answer to come, once there is one."""
SILENCE = 15.0
"""Seconds without an octet on a watch, whose heart beats every 5, after which its node is taken for dead."""
OTHERS_PATIENCE = 1.0
"""Seconds for the other nodes to answer what all are asked, once one has."""
LARGEST_ANSWER = 64 << 20
AT_ONCE = 1 << 16
"""Octets of a body that are sent in one piece."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0


class Reply(msgspec.Struct, frozen=True):
    """What a node says. `is_repeated`: the same request may have been carried out once before."""

    status: int
    body: bytes
    is_repeated: bool = False


class Fault(Exception):
    """One node gives no answer, and why."""


class Node:
    """One lookup node. Before `free_at` (monotonic) others are asked first, since it has failed."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.failures = 0
        self.free_at = 0.0

    def failed(self, now: float) -> None:
        """Ask others first for a while, longer each time, at random, so that not all come back at once."""
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self.failures, 10))
        self.failures += 1
        self.free_at = now + pause * random.uniform(0.5, 1.0)

    def succeeded(self) -> None:
        """It answers."""
        self.failures, self.free_at = 0, 0.0


class Nodes:
    """Asks the nodes in their configured order, and stays with one that answers.

    One that fails (no connection, no answer in time, a status of 429 or of 500 and above) is for a while
    asked only where none of the others answers.
    """

    def __init__(self, access: LookupAccess) -> None:
        self.all = [Node(url) for url in access.nodes]
        self._preferred = self.all[0]
        self._watched: list[Node] = []
        self._token = credentials.token(access)
        self._tls = credentials.tls(access)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make ready to connect."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity", "User-Agent": "isthmus"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_PATIENCE),
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    @property
    def first(self) -> Node:
        """The node of the newest watch; or else the one that is asked before others."""
        return self._watched[-1] if self._watched else self._preferred

    @property
    def is_watched(self) -> bool:
        """Whether there is a watch."""
        return bool(self._watched)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
        at_once: int = 1,
        worth: Callable[[Reply], float] | None = None,
        first: Node | None = None,
    ) -> Reply:
        """Return the first good answer, of so many nodes at once: each is asked at most once.

        Whatever is asked may thus be carried out more than once; who calls this says why that
        is no harm. `worth` weighs an answer: 1 is good. One that is less is returned if a moment
        brings none that is better. Raises StoreUnavailable with every node's reason.
        """
        content = msgspec.json.encode(body) if body is not None else None
        able, failed = self._in_order(first)
        running: dict[asyncio.Task[Reply], Node] = {}
        faults: list[str] = []
        best: tuple[float, Reply] | None = None
        try:
            while True:
                asked = [able.popleft() for _ in range(min(len(able), at_once - len(running)))]
                if not (asked or running or best is not None) and failed:
                    asked.append(failed.popleft())
                for node in asked:
                    attempt = self.attempt(node, method, path, content, query, headers, patience)
                    running[asyncio.create_task(attempt)] = node
                if not running:
                    break
                moment = None if best is None else MOMENT
                done, _ = await asyncio.wait(running, timeout=moment, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    break
                for task in done:
                    node = running.pop(task)
                    try:
                        reply = task.result()
                    except Fault as fault:
                        faults.append(str(fault))
                        continue
                    value = worth(reply) if worth is not None else 1.0
                    if value >= 1.0:
                        self._preferred = node
                        return msgspec.structs.replace(reply, is_repeated=True) if faults else reply
                    if best is None or value > best[0]:
                        best = (value, reply)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        if best is None:
            raise StoreUnavailable(f"no lookup node can answer: {'; '.join(faults)}")
        return best[1]

    async def ask_all(self, method: str, path: str, *, body: object) -> Reply:
        """Have every node carry out the same, and return a good answer if one gives it, else a refusal.

        Raises StoreUnavailable where none answers.
        """
        return min(await self.replies(method, path, body=body), key=lambda reply: reply.status)

    async def replies(self, method: str, path: str, *, body: object = None) -> list[Reply]:
        """Ask every node at once, and return what they answer.

        Those that have failed lately are asked only where none of the others answers. Raises
        StoreUnavailable where none at all does.
        """
        content = msgspec.json.encode(body) if body is not None else None
        able, failed = self._in_order()
        faults: list[str] = []
        while able or failed:
            asked = list(able) or [failed.popleft()]
            able.clear()
            if replies := await self._at_all(asked, method, path, content, faults):
                return replies
        raise StoreUnavailable(f"no lookup node can answer: {'; '.join(faults)}")

    async def _at_all(
        self, nodes: list[Node], method: str, path: str, content: bytes | None, faults: list[str]
    ) -> list[Reply]:
        """Ask nodes at once. When one has answered, the others have a while left to do so."""
        running = {asyncio.create_task(self.attempt(node, method, path, content)): node for node in nodes}
        replies: list[Reply] = []
        deadline: float | None = None
        try:
            while running:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                done, _ = await asyncio.wait(running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    for node in running.values():
                        node.failed(time.monotonic())
                    break
                for task in done:
                    del running[task]
                    try:
                        replies.append(task.result())
                    except Fault as fault:
                        faults.append(str(fault))
                if replies and deadline is None:
                    deadline = time.monotonic() + OTHERS_PATIENCE
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return replies

    @asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open an answer that does not end, at the first node that gives it. Refusals are to be read.

        Raises StoreUnavailable, and Fault where the node is lost within the block. After that, or
        a Malformed from there, the next stream is opened at another node.
        """
        faults = []
        for node in itertools.chain(*self._in_order()):
            try:
                response = await self._open(node, path, query)
            except Fault as fault:
                faults.append(str(fault))
                continue
            self._preferred = node
            self._watched.append(node)
            try:
                async with response:
                    yield response
            except (Fault, Malformed):
                node.failed(time.monotonic())
                raise
            except _LOST as error:
                node.failed(time.monotonic())
                raise Fault(f"{node.url}: {_in_words(error)}") from error
            finally:
                self._watched.remove(node)
            return
        raise StoreUnavailable(f"no lookup node can answer: {'; '.join(faults)}")

    def _in_order(self, first: Node | None = None) -> tuple[deque[Node], deque[Node]]:
        """The nodes to ask, beginning with the one that answered last; and those that have failed lately."""
        first = first or self._preferred
        now = time.monotonic()
        able = [node for node in self.all if node.free_at <= now]
        failed = [node for node in self.all if node.free_at > now]
        able.sort(key=lambda node: node is not first)
        failed.sort(key=lambda node: node.free_at)
        return deque(able), deque(failed)

    async def attempt(
        self,
        node: Node,
        method: str,
        path: str,
        content: bytes | None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
    ) -> Reply:
        """Ask one node. Raises Fault where it does not answer, or is in trouble."""
        try:
            async with asyncio.timeout(patience):
                try:
                    reply = await self._exchange(node, method, path, content, query, headers)
                except (aiohttp.ServerDisconnectedError, ConnectionResetError):
                    # A connection from before a node's restart fails at once, which says nothing of it now.
                    reply = await self._exchange(node, method, path, content, query, headers)
                    reply = msgspec.structs.replace(reply, is_repeated=True)
        except _LOST as error:
            node.failed(time.monotonic())
            raise Fault(f"{node.url}: {_in_words(error)}") from error
        except Fault:
            node.failed(time.monotonic())
            raise
        if _is_elsewhere_better(reply.status):
            node.failed(time.monotonic())
            raise Fault(f"{node.url}: {_reason(reply)}")
        node.succeeded()
        return reply

    async def _exchange(
        self,
        node: Node,
        method: str,
        path: str,
        content: bytes | None,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
    ) -> Reply:
        sent = {**self._authorization(), **(headers or {})}
        if content is not None:
            sent["Content-Type"] = "application/json"
        async with self._opened.request(
            method,
            node.url + path,
            data=io.BytesIO(content) if content is not None and len(content) > AT_ONCE else content,
            params=query,
            headers=sent,
            ssl=self._tls.value,
            allow_redirects=False,  # a redirect could carry the token to somebody else
        ) as response:
            return Reply(response.status, await read_bounded(response))

    async def _open(self, node: Node, path: str, query: Mapping[str, str]) -> aiohttp.ClientResponse:
        try:
            async with asyncio.timeout(PATIENCE):
                response = await self._opened.get(
                    node.url + path,
                    params=query,
                    headers=self._authorization(),
                    ssl=self._tls.value,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(
                        total=None, sock_connect=CONNECT_PATIENCE, sock_read=SILENCE
                    ),
                )
                if _is_elsewhere_better(response.status):
                    async with response:
                        reply = Reply(response.status, await read_bounded(response))
                    node.failed(time.monotonic())
                    raise Fault(f"{node.url}: {_reason(reply)}")
        except _LOST as error:
            node.failed(time.monotonic())
            raise Fault(f"{node.url}: {_in_words(error)}") from error
        node.succeeded()
        return response

    def _authorization(self) -> dict[str, str]:
        return {} if self._token is None else {"Authorization": f"Bearer {bytes(self._token.value).decode()}"}

    @property
    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            raise RuntimeError("a lookup client is used within its `async with`")
        return self._session


async def read_bounded(response: aiohttp.ClientResponse) -> bytes:
    """Read a whole body. Raises Fault where it is larger than any that we ask for."""
    found = bytearray()
    async for chunk in response.content.iter_any():
        found += chunk
        if len(found) > LARGEST_ANSWER:
            raise Fault(f"{response.url.host}: answers more than {LARGEST_ANSWER >> 20} MiB")
    return bytes(found)


_LOST = (aiohttp.ClientError, TimeoutError, OSError)


def _in_words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"{error.certificate_error}; `ca` in the configuration, or --ca, names who vouches for it"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) and (cause.errno or 0) > 0:
        return os.strerror(cause.errno or 0)
    return str(cause) or type(cause).__name__


def _reason(reply: Reply) -> str:
    try:
        problem = decoded(ProblemForm, reply.body)
    except Malformed:
        problem = ProblemForm()
    return problem.detail or problem.title or f"status {reply.status}"


def _is_elsewhere_better(status: int) -> bool:
    """Whether this node is in trouble, or has too much to do: another is worth asking."""
    return status >= 500 or status == 429
