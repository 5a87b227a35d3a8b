"""Several lookup nodes over one store: whichever is asked, everybody learns, and is known to have learned."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.http.principals import Principal
from gateway.lookup.batches import Batch
from gateway.lookup.claims import Mode
from gateway.lookup.client import LookupClient
from gateway.lookup.client.remote import remote
from gateway.lookup.outcomes import ClaimAnswer
from gateway.lookup.replica import Replica
from policies.services import LookupAccess
from tests.gateway.lookup.client.fake_node import never, running
from tests.gateway.lookup.serving import (
    GATEWAY,
    HV1,
    HV2,
    OPERATOR,
    TOKENS,
    WEB,
    Serving,
    ca,
    lookup_node,
    mac,
    pa,
    place,
)

CA = ca("10.0.1.5")


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[Serving, Serving]]:
    async with lookup_node() as first, lookup_node(beside=first) as second:
        yield first, second


@asynccontextmanager
async def asking(directory: Path, principal: Principal, *nodes: Serving | str) -> AsyncIterator[LookupClient]:
    """Somebody who asks these nodes, the first of them before the others."""
    token = directory / f"{principal.name}.token"
    token.write_text(TOKENS[principal.name])
    urls = [node if isinstance(node, str) else f"http://127.0.0.1:{node.port}" for node in nodes]
    async with LookupClient(LookupAccess(tuple(urls), token_file=token)) as client:
        yield client


@asynccontextmanager
async def following(
    directory: Path, principal: Principal, *nodes: Serving | str, only_used: bool = False
) -> AsyncIterator[Replica]:
    """A host or a gateway that watches the first of these nodes, and acknowledges what it is told."""
    async with asking(directory, principal, *nodes) as client:
        replica = Replica(remote(client, only_used))
        come = asyncio.Event()

        def told(batch: Batch) -> None:
            if batch.is_synced:
                come.set()

        async def acknowledging() -> None:
            while True:
                await come.wait()
                come.clear()
                await client.acknowledge(replica.revision)

        replica.subscribe(told)
        tasks = [asyncio.create_task(replica.run()), asyncio.create_task(acknowledging())]
        try:
            yield replica
        finally:
            for task in tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


async def acknowledged(node: Serving, *names: str) -> None:
    """Wait until a node has heard of these, by asking who would be waited for."""
    async with asyncio.timeout(5):
        while not all(  # noqa: ASYNC110 - there is no event for an acknowledgement
            (await node.authority.followers.learn(0, [], None, names).wait(names, 0)).values()
        ):
            await asyncio.sleep(0.002)


async def move(client: LookupClient, to: str) -> ClaimAnswer:
    return await client.claim(WEB, mac(5), pa(to), Mode.ORCHESTRATE, wait_seconds=5)


def test_orchestrated_claim_is_answered_by_those_who_watch_another_node(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            two_nodes() as (first, second),
            following(tmp_path, HV1, first, second),
            following(tmp_path, HV2, first, second),
            asking(tmp_path, OPERATOR, second) as operator,
        ):
            revision = await place(first, WEB, "10.0.1.5", 5, "hv1")
            assert await second.replica.reached(revision, 5)
            await acknowledged(second, "hv1", "hv2")
            assert second.authority.followers.nodes() == []
            began = time.monotonic()
            for to in ("198.51.100.12", "198.51.100.11", "198.51.100.12"):
                assert (await move(operator, to)).learned == {"hv1": True, "hv2": True}
            assert time.monotonic() - began < 3

    asyncio.run(main())


def test_hosts_at_different_nodes_are_both_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            two_nodes() as (first, second),
            following(tmp_path, HV1, first, second),
            following(tmp_path, HV2, second, first),
            asking(tmp_path, OPERATOR, second) as operator,
        ):
            revision = await place(first, WEB, "10.0.1.5", 5, "hv1")
            assert await second.replica.reached(revision, 5)
            await acknowledged(second, "hv1", "hv2")
            assert [node.name for node in second.authority.followers.nodes()] == ["hv2"]
            assert (await move(operator, "198.51.100.12")).learned == {"hv1": True, "hv2": True}

    asyncio.run(main())


def test_hint_reaches_a_host_that_watches_another_node_than_is_asked(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            two_nodes() as (first, second),
            following(tmp_path, HV1, first, second, only_used=True) as host,
            asking(tmp_path, GATEWAY, second, first) as gateway,
        ):
            revision = await place(first, WEB, "10.0.1.5", 5, "hv2")
            assert await second.replica.reached(revision, 5)
            await acknowledged(first, "hv1")
            assert host.find(WEB, CA) is None
            await gateway.hint("hv1", WEB, CA)
            async with asyncio.timeout(5):
                while host.find(WEB, CA) is None:  # noqa: ASYNC110 - what is taught has no revision of its own
                    await asyncio.sleep(0.002)

    asyncio.run(main())


def test_orchestrated_claim_is_not_held_up_by_a_node_that_says_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            two_nodes() as (first, second),
            running(never) as silent,
            following(tmp_path, HV1, first, silent.url, second),
            following(tmp_path, HV2, first, silent.url, second),
            asking(tmp_path, OPERATOR, second) as operator,
        ):
            revision = await place(first, WEB, "10.0.1.5", 5, "hv1")
            assert await second.replica.reached(revision, 5)
            await acknowledged(second, "hv1", "hv2")
            began = time.monotonic()
            for to in ("198.51.100.12", "198.51.100.11"):
                assert (await move(operator, to)).learned == {"hv1": True, "hv2": True}
            assert time.monotonic() - began < 2

    asyncio.run(main())
