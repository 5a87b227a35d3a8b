"""A lookup node that is watched, and what its lines say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from gateway.lookup.entries import RecordKey
from gateway.lookup.store import Expect
from policies.model import Network
from tests.gateway.lookup.serving import WEB, Serving, ca, lookup_node

Line = dict[str, Any]


def served(test: Callable[[Serving], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with lookup_node(**options) as node:
            await test(node)

    asyncio.run(main())


def told(lines: list[Line], kind: str = "record") -> list[tuple[str, str]]:
    """What lines say of one kind: put or delete, and of whom."""
    of_kind = [line for line in lines if line.get("kind") == kind]
    return [(line["type"], line["value"].get("ca") or line["value"]["name"]) for line in of_kind]


async def gone(node: Serving, text: str) -> int:
    stored = await node.store.delete(RecordKey(WEB, ca(text)), Expect.ANY)
    assert stored is not None
    assert await node.replica.reached(stored.revision, 5)
    return stored.revision


def changed(network: Network, name: str, *tenants: str) -> Network:
    """A network in which a host has other tenants."""
    hosts = tuple(
        msgspec.structs.replace(host, tenants=tenants) if host.name == name else host
        for host in network.hosts
    )
    return msgspec.structs.replace(network, hosts=hosts)
