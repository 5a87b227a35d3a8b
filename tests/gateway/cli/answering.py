"""A lookup node that answers the commands as the interface says, and the command line that asks it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway import cli
from tests.gateway.lookup.client.fake_node import FakeNode, running, says

FORM: dict[str, Any] = {
    "vsid": 5001,
    "ca": "10.0.1.5",
    "mac": "02:00:00:00:01:05",
    "pa": "198.51.100.11",
    "host": "hv1",
    "translation": "encap",
    "epoch": 7,
    "revision": 1234,
}
SIXTH = {**FORM, "ca": "fd00:1::5"}
MOVED = [
    {**each, "pa": "203.0.113.12", "host": "hv2", "epoch": 8, "revision": 1300} for each in (FORM, SIXTH)
]
NETWORK = {
    "hosts": [
        {"name": "hv1", "provider_addresses": ["198.51.100.11", "2001:db8::11"], "tenants": ["red"]},
        {"name": "hv2", "provider_addresses": ["2001:db8::12", "203.0.113.12"], "tenants": ["red"]},
    ],
    "gateways": [],
    "tenants": [
        {
            "name": "red",
            "gateways": [],
            "subnets": [
                {
                    "name": "web",
                    "vsid": 5001,
                    "prefixes": ["10.0.1.0/24", "fd00:1::/64"],
                    "gateway_addresses": ["10.0.1.1", "fd00:1::1"],
                }
            ],
        }
    ],
}


class Service:
    """A node in a thread, for commands that run a loop of their own."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.learned = {"hv1": True, "hv2": True}
        self.is_empty = False
        """Whether nothing is recorded, and nobody is connected."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        match request.method, request.path:
            case "GET", "/v1/records" if self.is_empty:
                answer: object = {"records": [], "continue": None, "revision": 1234}
            case "GET", "/v1/status" if self.is_empty:
                answer = {"alerts": []}
            case "GET", "/v1/status":
                frozen = {
                    "at": 1.7e9,
                    "kind": "frozen",
                    "message": "record 5001/10.0.1.5 has moved too often",
                }
                answer = {"alerts": [frozen]}
            case "GET", "/v1/nodes" if self.is_empty:
                answer = []
            case "GET", "/v1/records":
                answer = {"records": [FORM, SIXTH], "continue": None, "revision": 1234}
            case "POST", "/v1/resolve":
                wanted = (await request.json())[0]["ca"]
                found = {each["ca"]: each for each in (FORM, SIXTH)}.get(wanted)
                answer = {"records": [found], "revision": 1234, "stale_seconds": 0.0}
            case "GET", "/v1/network":
                answer = NETWORK
            case "PUT", "/v1/network":
                changes = [
                    {"action": "put", "kind": "tenant", "name": "red"},
                    {"action": "delete", "kind": "record", "vsid": 5001, "ca": "10.0.1.9"},
                ]
                answer = {"changes": changes}
            case "POST", "/v1/claims":
                answer = {"records": MOVED, "learned": self.learned}
            case "GET", "/v1/nodes":
                node = {"role": "host", "revision": 9, "connected_seconds": 61.5}
                answer = [{**node, "name": "hv2", "behind": 0.25}, {**node, "name": "hv1", "behind": 0.0}]
            case "DELETE", _:
                return web.Response(status=204)
            case _:
                answer = FORM
        return await says(answer)(request)


@contextmanager
def serving() -> Iterator[Service]:
    """Run a node until the block is left."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    stack = AsyncExitStack()
    try:

        async def start() -> FakeNode:
            return await stack.enter_async_context(running(says({})))

        node = asyncio.run_coroutine_threadsafe(start(), loop).result(5)
        service = Service(node)
        node.answer = service.answer
        yield service
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def isthmus(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line, and return its exit code."""
    monkeypatch.setattr("sys.argv", ["isthmus", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    return code if isinstance(code, int) else 0


def follower(folder: Path, url: str) -> Path:
    """The file of a gateway that has the network from a lookup service."""
    file = folder / "edge-1.toml"
    file.write_text(
        '[appliance]\nname = "edge-1"\n[underlay]\nprovider_addresses = ["192.0.2.254"]\n'
        f'[gateway]\nlookup = ["{url}"]\n'
    )
    return file
