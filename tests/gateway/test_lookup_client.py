"""The client's trio face, against a node that runs on the same asyncio thread."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
import trio
from aiohttp import web

from gateway.aio import EventLoop, event_loop
from gateway.lookup.claims import Mode
from gateway.lookup.entries import Event, Progress, Reset
from gateway.lookup.outcomes import Forbidden
from gateway.lookup.store import Expect, StoreUnavailable
from gateway.lookup_client import TrioLookupClient
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import LookupRecord, Network
from policies.services import LookupAccess
from tests.gateway.lookup.client.fake_node import Answer, FakeNode, lines, never, running, says

WEB = Vsid(5001)
CA = CustomerAddress.parse("10.0.1.5")
MAC = MacAddress.parse("02:00:00:00:01:05")
PA = ProviderAddress.parse("198.51.100.11")
FORM = {
    "vsid": 5001,
    "ca": "10.0.1.5",
    "mac": str(MAC),
    "pa": str(PA),
    "host": "hv1",
    "epoch": 7,
    "revision": 1234,
}
RECORD = LookupRecord(WEB, CA, MAC, PA, "hv1", epoch=7, revision=1234)


def line(**members: object) -> bytes:
    return msgspec.json.encode(members) + b"\n"


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - it comes true on another thread
            await trio.sleep(0.01)


def asking(answer: Answer, body: Callable[[TrioLookupClient, FakeNode], Awaitable[None]]) -> None:
    """Run a body with a client of one node."""

    async def main() -> None:
        async with event_loop() as loop:
            stack = AsyncExitStack()
            node = await loop.run(stack.enter_async_context, running(answer))
            try:
                async with TrioLookupClient(LookupAccess((node.url,)), loop) as client:
                    await body(client, node)
            finally:
                with trio.CancelScope(shield=True):
                    await loop.run(stack.aclose)

    trio.run(main)
    assert [thread for thread in threading.enumerate() if thread.name == "asyncio"] == []


async def everything(request: web.Request) -> web.StreamResponse:
    answers: dict[str, Any] = {
        "/v1/resolve": {"records": [FORM], "revision": 9, "stale_seconds": 0.0},
        "/v1/records": {"records": [FORM], "continue": None, "revision": 9},
        "/v1/records/5001/10.0.1.5": FORM,
        "/v1/records/5001/10.0.1.5/unfreeze": FORM,
        "/v1/claims": {"records": [FORM], "learned": {"hv1": True}},
        "/v1/hints": {},
        "/v1/acknowledgements": {},
        "/v1/nodes": [{"name": "hv1", "role": "host", "revision": 9, "behind": 0, "connected_seconds": 1.5}],
        "/v1/network": {"hosts": [], "gateways": [], "tenants": [], "changes": []},
        "/v1/status": {"revision": 9},
    }
    if request.path == "/v1/network" and request.method == "PUT":
        return await says({"changes": []})(request)
    return await says(answers[request.path])(request)


def test_every_call_is_there_for_trio() -> None:
    async def body(client: TrioLookupClient, node: FakeNode) -> None:
        assert await client.resolve(WEB, CA) == RECORD
        assert await client.resolve_many([(WEB, CA)]) == [RECORD]
        assert (await client.page(tenant="red")).records == (RECORD,)
        assert await client.put(WEB, CA, mac=MAC, pa=PA, host="hv1", expected=Expect.ANY) == RECORD
        assert await client.delete(WEB, CA)
        assert await client.unfreeze(WEB, CA) == RECORD
        assert (await client.claim(WEB, MAC, PA, Mode.REGISTER, (CA,))).learned == {"hv1": True}
        await client.hint("hv1", WEB, CA)
        await client.acknowledge(9)
        assert (await client.nodes())[0].name == "hv1"
        assert await client.network() == Network()
        assert await client.apply(Network(), dry_run=True) == []
        assert (await client.status())["revision"] == 9

    asking(everything, body)


def test_a_refusal_is_the_same_exception_as_everywhere() -> None:
    async def body(client: TrioLookupClient, node: FakeNode) -> None:
        with pytest.raises(Forbidden, match="not you"):
            await client.status()

    asking(says({"detail": "not you"}, 403), body)


def test_a_call_is_given_up_when_trio_says_so() -> None:
    async def body(client: TrioLookupClient, node: FakeNode) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.status)
            await until(lambda: len(node.asked) > 0)
            nursery.cancel_scope.cancel()
        await until(lambda: node.cancelled > 0)

    asking(never, body)


def test_events_of_a_watch_come_in_order() -> None:
    told = [line(type="progress", revision=number) for number in range(2000)]

    async def body(client: TrioLookupClient, node: FakeNode) -> None:
        heard: list[Event] = []
        async with client.watch(tenant="red") as events:
            async for event in events:
                heard.append(event)
                if len(heard) == 2001:
                    break
        assert heard == [Reset(5), *(Progress(number) for number in range(2000))]
        assert node.asked == [("GET", "/v1/watch?tenant=red")]

    asking(lines(line(type="resync", revision=5), b"".join(told), then=never), body)


def test_a_watch_that_may_not_be_had_says_so() -> None:
    async def body(client: TrioLookupClient, node: FakeNode) -> None:
        async with client.watch() as events:
            with pytest.raises(Forbidden):
                await anext(events)
        async with client.watch():
            await until(lambda: len(node.asked) > 1)  # it fails, and nobody asks

    asking(says({}, 403), body)


def test_a_watch_that_is_left_is_closed_at_its_node() -> None:
    async def body(client: TrioLookupClient, node: FakeNode) -> None:
        async with client.watch() as events:
            assert await anext(events) == Progress(1)
        await until(lambda: node.cancelled > 0)

    asking(lines(line(type="progress", revision=1), then=never), body)


def test_a_client_brings_its_own_loop_where_it_is_given_none() -> None:
    async def main() -> None:
        async with TrioLookupClient(LookupAccess(("http://127.0.0.1:1",))) as client:
            with pytest.raises(StoreUnavailable):
                await client.status()

    trio.run(main)
    assert [thread for thread in threading.enumerate() if thread.name == "asyncio"] == []


def test_a_loop_that_is_given_stays_when_a_client_leaves() -> None:
    async def there() -> int:
        return 7

    async def body(loop: EventLoop) -> None:
        async with TrioLookupClient(LookupAccess(("http://127.0.0.1:1",)), loop):
            pass
        assert await loop.run(there) == 7

    async def main() -> None:
        async with event_loop() as loop:
            await body(loop)

    trio.run(main)
