"""Which etcd member is asked, and what is made of what it says: members here say what a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from gateway.lookup import lines
from gateway.lookup.store import StoreUnavailable
from gateway.lookup.stores import etcd_gateway
from gateway.lookup.stores.etcd_gateway import EtcdGateway, NoAnswer, OutOfRange
from policies.errors import ConfigurationError
from policies.services import Etcd

ANSWER = '{"header":{"cluster_id":"7","revision":"3"}}'


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every member is asked once or twice."""
    monkeypatch.setattr(etcd_gateway, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(etcd_gateway, "PAUSE_SECONDS", 0.0)


class FakeMember:
    """Answers every request in one way, and counts them."""

    def __init__(self, status: int = 200, body: str = ANSWER) -> None:
        self.status, self.body = status, body
        self.asked = 0
        self.headers: dict[str, str] = {}
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.headers = dict(request.headers)
        if self.status == 0:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=self.status or 200, text=self.body)


@asynccontextmanager
async def cluster(*members: FakeMember) -> AsyncIterator[EtcdGateway]:
    runners = []
    for member in members:
        application = web.Application()
        application.router.add_post("/{path:.*}", member.handle)
        runner = web.AppRunner(application)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        member.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    gateway = EtcdGateway(Etcd(tuple(member.url for member in members)))
    try:
        yield gateway
    finally:
        await gateway.close()
        for runner in runners:
            await runner.cleanup()


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(bounded())


def error(code: int, message: str) -> str:
    return f'{{"error":"{message}","message":"{message}","code":{code}}}'


@pytest.mark.parametrize(
    "broken",
    [
        FakeMember(503, error(14, "etcdserver: no leader")),
        FakeMember(500, error(2, "etcdserver: leader changed")),
        FakeMember(503, error(14, "etcdserver: request timed out")),
        FakeMember(429, error(8, "etcdserver: too many requests")),
        FakeMember(404, "Not Found"),
        FakeMember(200, "<html>"),
        FakeMember(0),
    ],
    ids=["no-leader", "leader-changed", "timed-out", "busy", "not-etcd", "not-json", "cut"],
)
def test_next_member_is_asked_and_stayed_with(broken: FakeMember, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_gateway, "PATIENCE_SECONDS", 5.0)

    async def main() -> None:
        good = FakeMember()
        broken.asked = 0
        async with cluster(broken, good) as gateway:
            for _ in range(3):
                assert (await gateway.range(b"key")).header.revision == 3
        assert (broken.asked, good.asked) == (1, 3)

    run(main)


def test_write_that_was_tried_before_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_gateway, "PATIENCE_SECONDS", 5.0)

    async def main() -> None:
        async with cluster(FakeMember(0), FakeMember()) as gateway:
            assert (await gateway.write({}, {b"key": b"value"}, b"key")).is_repeated
            assert not (await gateway.write({}, {b"key": b"value"}, b"key")).is_repeated

    run(main)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (3, "etcdserver: request is too large"),
        (7, "etcdserver: permission denied"),
        (8, "etcdserver: mvcc: database space exceeded"),
        (16, "etcdserver: invalid auth token"),
    ],
)
def test_refusal_is_final_and_told_in_its_words(code: int, message: str) -> None:
    async def main() -> None:
        refusing, other = FakeMember(400, error(code, message)), FakeMember()
        async with cluster(refusing, other) as gateway:
            with pytest.raises(StoreUnavailable, match=f"{refusing.url} refuses: {message}"):
                await gateway.range(b"key")
        assert (refusing.asked, other.asked) == (1, 0)

    run(main)


def test_revision_that_is_not_there_is_told_apart() -> None:
    async def main() -> None:
        message = "etcdserver: mvcc: required revision has been compacted"
        async with cluster(FakeMember(400, error(11, message))) as gateway:
            with pytest.raises(OutOfRange, match="compacted"):
                await gateway.range(b"key", revision=1)

    run(main)


def test_silence_is_told_with_the_reason_of_whoever_was_asked() -> None:
    async def main() -> None:
        members = FakeMember(0), FakeMember(503, error(14, "etcdserver: no leader"))
        async with cluster(*members) as gateway:
            for member, reason in zip(members, ("disconnected", "etcdserver: no leader"), strict=True):
                with pytest.raises(StoreUnavailable, match=f"etcd does not answer; {member.url}: .*{reason}"):
                    await gateway.range(b"key")

    run(main)


def test_member_that_is_not_there_is_told_in_words() -> None:
    async def main() -> None:
        member = FakeMember()
        async with cluster(member):
            url = member.url
        gateway = EtcdGateway(Etcd((url,)))
        try:
            with pytest.raises(StoreUnavailable, match=f"{url}: connection refused"):
                await gateway.range(b"key")
        finally:
            await gateway.close()

    run(main)


def test_every_request_is_refused_by_a_member_without_a_leader() -> None:
    async def main() -> None:
        member = FakeMember()
        async with cluster(member) as gateway:
            await gateway.range(b"key")
        assert member.headers["Grpc-Metadata-hasleader"] == "true"

    run(main)


def test_watch_is_lost_whose_line_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", 1000)

    async def main() -> None:
        member = FakeMember(body="x" * 1001)
        async with cluster(member) as gateway, aclosing(gateway.watch(member.url, b"a", b"b", 1)) as answers:
            with pytest.raises(NoAnswer, match="a line of more"):
                await anext(answers)

    run(main)


def test_closed_gateway_says_so() -> None:
    async def main() -> None:
        async with cluster(FakeMember()) as gateway:
            await gateway.close()
            with pytest.raises(StoreUnavailable, match="closed"):
                await gateway.range(b"key")

    run(main)


def test_certificate_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(
            ConfigurationError, match=r"lookup\.etcd\.ca: .*none\.pem cannot be used.*no such file"
        ):
            EtcdGateway(Etcd(("https://127.0.0.1:1",), authority_file=tmp_path / "none.pem"))

    run(main)
