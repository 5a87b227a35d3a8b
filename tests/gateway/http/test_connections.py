from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from gateway.http.calls import Call, answer
from gateway.http.door import Door
from gateway.http.measures import Measures
from gateway.http.routes import Route
from gateway.http.service import listening
from gateway.lab.certificates import CertificateAuthority
from policies.services import ApiSettings, Credential, Role, ServerTls

TOKEN = "of-the-operator-0123"  # noqa: S105 - it opens nothing
GOOD = f"GET /big HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
MOST = 4

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Node:
    """A listener with one large answer behind a credential, and a small one for everybody."""

    def __init__(self, port: int, measures: Measures) -> None:
        self.port = port
        self.measures = measures

    @asynccontextmanager
    async def connection(self, octets: bytes = b"", *, limit: int = 65536) -> AsyncIterator[Streams]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=limit)
        writer.write(octets)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def said(self, octets: bytes) -> bytes:
        """What is said to octets, until the connection is closed or nothing more comes."""
        said = b""
        async with self.connection(octets) as (reader, _):
            with contextlib.suppress(ConnectionError, TimeoutError):
                while True:
                    async with asyncio.timeout(0.1):
                        more = await reader.read(65536)
                    if not more:
                        break
                    said += more
        return said

    async def is_alive(self) -> bool:
        async with self.connection(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") as (reader, _):
            async with asyncio.timeout(5):
                return (await reader.readline()).startswith(b"HTTP/1.1 200")


def serving(
    folder: Path, test: Callable[[Node], Awaitable[None]], *, size: int = 10, tls: ServerTls | None = None
) -> None:
    """Run a test with a listener."""

    async def big(_call: Call) -> web.StreamResponse:
        return answer(b"x" * size)

    async def healthz(_call: Call) -> web.StreamResponse:
        return answer(b"{}")

    token = folder / "token"
    token.write_text(TOKEN)
    known = (Credential("op", Role.OPERATOR, token_file=token),)
    settings = ApiSettings("127.0.0.1:0", tls=tls, credentials=known)
    routes = (Route("GET", "/big", big), Route("GET", "/healthz", healthz, is_open=True))
    measures = Measures()

    async def main() -> None:
        async with listening(settings, "api", routes, Door(), measures=measures) as port, asyncio.timeout(20):
            await test(Node(port, measures))

    asyncio.run(main())


async def _is_closed(streams: Streams) -> bool:
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(0.1):
            return await streams[0].read(1) == b""
    return False


def test_strangers_of_one_address_have_so_many_connections_and_the_oldest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.http.connections.MOST_STRANGERS", MOST)

    async def test(node: Node) -> None:
        async with contextlib.AsyncExitStack() as stack:
            held = [await stack.enter_async_context(node.connection()) for _ in range(3 * MOST)]
            closed = [await _is_closed(each) for each in held]
            assert closed == [True] * 2 * MOST + [False] * MOST
            assert node.measures.connections_refused == {"address": 2 * MOST}
        await asyncio.sleep(0.05)
        assert await node.is_alive()

    serving(tmp_path, test)


def test_known_clients_of_one_address_have_as_many_as_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.http.connections.MOST_STRANGERS", MOST)

    async def test(node: Node) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(5 * MOST):
                reader, _ = await stack.enter_async_context(node.connection(GOOD))
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            assert not node.measures.connections_refused

    serving(tmp_path, test)


@pytest.mark.parametrize("bound", ["MOST_STRANGERS", "MOST_HANDSHAKES", "MOST_CONNECTIONS"])
def test_whoever_never_agrees_on_tls_is_counted_and_locks_out_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(f"gateway.http.connections.{bound}", MOST)
    authority = CertificateAuthority(tmp_path)
    tls = ServerTls(*authority.issue("node", ["127.0.0.1"]))
    context = ssl.create_default_context(cafile=authority.file)

    async def test(node: Node) -> None:
        async with contextlib.AsyncExitStack() as stack:
            silent = [await stack.enter_async_context(node.connection()) for _ in range(3 * MOST)]
            assert [await _is_closed(each) for each in silent] == [True] * 2 * MOST + [False] * MOST
            for _ in range(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", node.port, ssl=context)
                writer.write(GOOD)
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
                writer.close()
            assert sum(node.measures.connections_refused.values()) >= 2 * MOST

    serving(tmp_path, test, tls=tls)


def test_failed_attempts_do_not_make_a_client_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http.connections.MOST_STRANGERS", MOST)

    async def test(node: Node) -> None:
        bad = GOOD.replace(TOKEN.encode(), b"wrong-0123456789")
        async with contextlib.AsyncExitStack() as stack:
            held = []
            for _ in range(MOST):
                streams = await stack.enter_async_context(node.connection(bad))
                assert (await streams[0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401")
                await streams[0].readuntil(b"}")
                held.append(streams)
            await stack.enter_async_context(node.connection())
            assert [await _is_closed(each) for each in held] == [True] + [False] * (MOST - 1)

    serving(tmp_path, test)


def test_who_sends_one_octet_at_a_time_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.http.connections.FIRST_REQUEST_SECONDS", 0.3)

    async def test(node: Node) -> None:
        async with node.connection() as (reader, writer):
            clock = asyncio.get_running_loop().time
            began = clock()
            for octet in GOOD[:-2]:
                writer.write(bytes([octet]))
                await asyncio.sleep(0.01)
                if reader.at_eof():
                    break
            else:
                pytest.fail("it is still heard")
            assert clock() - began < 2

    serving(tmp_path, test)


def test_who_never_reads_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http.connections.BLOCKED_SECONDS", 0.2)

    async def test(node: Node) -> None:
        async with node.connection(GOOD, limit=1024) as (reader, _):
            await asyncio.sleep(0.6)
            received = b""
            with contextlib.suppress(ConnectionError):
                while more := await reader.read(1 << 20):
                    received += more
            assert len(received) < 64 << 20

    serving(tmp_path, test, size=64 << 20)


def test_who_reads_slowly_but_steadily_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http.connections.BLOCKED_SECONDS", 2.0)

    async def test(node: Node) -> None:
        async with node.connection(GOOD, limit=1 << 18) as (reader, _):
            received = 0
            while received < 8 << 20:
                received += len(await reader.read(1 << 18))
                await asyncio.sleep(0.002)

    serving(tmp_path, test, size=8 << 20)


GARBAGE = [
    b"",
    b"\x00" * 1000,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 2000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET //[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /healthz?%zz=%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"CONNECT example.org:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nxxxx",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500,
    b"GET /big HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xfe\xfd\r\n\r\n",
    b"GET /big HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic AAAA\r\n\r\n",
]


@pytest.mark.parametrize("octets", GARBAGE, ids=map(str, range(len(GARBAGE))))
def test_garbage_is_answered_as_a_client_error_or_not_at_all(
    tmp_path: Path, octets: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(node: Node) -> None:
        said = await node.said(octets)
        assert not said or said.startswith((b"HTTP/1.1 2", b"HTTP/1.0 4", b"HTTP/1.1 4"))
        assert b"Traceback" not in said
        assert await node.is_alive()

    serving(tmp_path, test)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_requests_that_are_changed_at_random_do_no_harm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = random.Random(5)

    async def test(node: Node) -> None:
        for _ in range(150):
            octets = bytearray(GOOD)
            for _ in range(changes.randint(1, 8)):
                octets[changes.randrange(len(octets))] = changes.randrange(256)
            said = await node.said(bytes(octets))
            assert not said or said.startswith(
                (b"HTTP/1.1 200", b"HTTP/1.0 200", b"HTTP/1.1 4", b"HTTP/1.0 4")
            )
        assert await node.is_alive()

    serving(tmp_path, test)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
