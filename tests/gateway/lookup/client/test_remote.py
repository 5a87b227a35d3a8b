"""A replica that is fed by a lookup node's watch over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from gateway.lookup.client import LookupClient
from gateway.lookup.client.remote import remote
from gateway.lookup.entries import Grant, Kind, LeaseKey, Placement, RecordKey
from gateway.lookup.replica import Replica
from gateway.lookup.store import Expect, StoreUnavailable
from policies.services import LookupAccess
from tests.gateway.lookup.client.fake_node import lines, never, running, says
from tests.gateway.lookup.serving import BLUE, TOKENS, WEB, ca, lookup_node, mac, pa, place


@asynccontextmanager
async def following(client: LookupClient, *, only_used: bool = False) -> AsyncIterator[Replica]:
    """A replica that runs, and is stopped in the end."""
    replica = Replica(remote(client, only_used))
    task = asyncio.create_task(replica.run())
    try:
        yield replica
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - a replica has no event for everything
            await asyncio.sleep(0.002)


def access(directory: Path, name: str, *urls: str) -> LookupAccess:
    token = directory / f"{name}.token"
    token.write_text(TOKENS[name])
    return LookupAccess(urls, token_file=token)


def test_a_replica_has_what_its_node_has_and_follows_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with lookup_node() as node:
            await place(node, WEB, "10.0.1.5", 5, "hv1")
            there = access(tmp_path, "edge-1", f"http://127.0.0.1:{node.port}")
            async with LookupClient(there) as client, following(client) as replica:
                await until(lambda: replica.is_synced)
                assert replica.network == node.replica.network
                assert replica.find(WEB, ca("10.0.1.5")) == node.replica.find(WEB, ca("10.0.1.5"))
                revision = await place(node, WEB, "10.0.1.5", 5, "hv2")
                assert await replica.reached(revision, 5)
                assert replica.find(WEB, ca("10.0.1.5")) == node.replica.find(WEB, ca("10.0.1.5"))
                gone = await node.store.delete(RecordKey(WEB, ca("10.0.1.5")), Expect.ANY)
                assert gone is not None
                assert await replica.reached(gone.revision, 5)
                assert len(replica) == 0
                assert replica.stale_since is None

    asyncio.run(main())


def test_static_records_stay_static_over_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with lookup_node() as node:
            value = Placement(mac(5), pa("198.51.100.11"), "hv1", pinned=True)
            await node.store.put(RecordKey(WEB, ca("10.0.1.5")), value, Expect.ABSENT)
            there = access(tmp_path, "edge-1", f"http://127.0.0.1:{node.port}")
            async with LookupClient(there) as client, following(client) as replica:
                await until(lambda: len(replica) == 1)
                entry = replica.entry(RecordKey(WEB, ca("10.0.1.5")))
                assert entry is not None
                assert entry.value == value
                record = replica.find(WEB, ca("10.0.1.5"))
                assert record is not None
                assert record.epoch == 0

    asyncio.run(main())


def test_a_host_that_keeps_what_it_uses_has_its_own_records_and_the_whole_network(tmp_path: Path) -> None:
    async def main() -> None:
        async with lookup_node() as node:
            await place(node, WEB, "10.0.1.5", 5, "hv1")
            await place(node, WEB, "10.0.1.6", 6, "hv2")
            there = access(tmp_path, "hv1", f"http://127.0.0.1:{node.port}")
            async with LookupClient(there) as client, following(client, only_used=True) as replica:
                await until(lambda: replica.is_synced)
                assert replica.find(WEB, ca("10.0.1.5")) is not None
                assert replica.find(WEB, ca("10.0.1.6")) is None
                assert [tenant.name for tenant in replica.network.tenants] == ["red"]
                await client.hint("hv1", WEB, ca("10.0.1.6"))
                await until(lambda: replica.find(WEB, ca("10.0.1.6")) is not None)

    asyncio.run(main())


def test_a_host_that_keeps_what_it_uses_has_its_tenants_leases_and_nobody_elses(tmp_path: Path) -> None:
    site = ca("172.16.0.9")

    async def main() -> None:
        async with lookup_node() as node:

            async def grant(text: str, value: Grant) -> int:
                entry = await node.store.put(LeaseKey(pa(text)), value, Expect.ANY)
                assert await node.replica.reached(entry.revision, 5)
                return entry.revision

            lease = Grant(WEB, site, "edge-1", leased=True)
            await grant("192.0.2.65", lease)
            await grant("192.0.2.66", msgspec.structs.replace(lease, vsid=BLUE))
            await grant("198.51.100.130", Grant(WEB, ca("10.0.1.5"), "hv1"))
            there = access(tmp_path, "hv1", f"http://127.0.0.1:{node.port}")
            async with LookupClient(there) as client, following(client, only_used=True) as replica:
                await until(lambda: replica.is_synced)
                assert [entry.key for entry in replica.entries(Kind.LEASE)] == [LeaseKey(pa("192.0.2.65"))]
                assert replica.granted.leases_of(WEB, site) == node.replica.granted.leases_of(WEB, site)
                await grant("192.0.2.65", msgspec.structs.replace(lease, returned_at=9.0))
                assert await replica.reached(await grant("192.0.2.67", lease), 5)
                assert [entry.key for entry in replica.entries(Kind.LEASE)] == [LeaseKey(pa("192.0.2.67"))]

    asyncio.run(main())


def test_a_replica_goes_on_at_another_node_and_keeps_what_it_has(tmp_path: Path) -> None:
    async def main() -> None:
        async with lookup_node() as node:
            await place(node, WEB, "10.0.1.5", 5, "hv1")
            first = access(tmp_path, "edge-1", f"http://127.0.0.1:{node.port}")
            told: list[bytes] = [b'{"type":"resync","revision":1}\n', b'{"type":"progress","revision":1}\n']
            async with running(lines(*told)) as ending:
                both = msgspec.structs.replace(first, nodes=(ending.url, *first.nodes))
                async with LookupClient(both) as client, following(client) as replica:
                    await until(lambda: len(replica) == 1)
                    assert ending.asked == [("GET", "/v1/watch")]

    asyncio.run(main())


def test_lines_that_make_no_sense_leave_the_replica_as_it_is(tmp_path: Path) -> None:
    told = [
        b'{"type":"resync","revision":1}\n{"type":"put","kind":"host","revision":1,"value":',
        b'{"name":"hv1","provider_addresses":["198.51.100.11"],"tenants":[]}}\n{"type":"progress","revision":1}\n',
        b'{"type":"put","kind":"host","revision":2,"value":{"name":"hv1","provider_addresses":"all"}}\n',
    ]

    async def main() -> None:
        async with (
            running(lines(*told, then=never)) as node,
            LookupClient(LookupAccess((node.url,))) as client,
            following(client) as replica,
        ):
            await until(lambda: len(node.asked) > 1)
            assert node.asked[1] == ("GET", "/v1/watch?from=1")
            assert [host.name for host in replica.network.hosts] == ["hv1"]
            assert [str(entry.key) for entry in replica.entries(Kind.HOST)] == ["host hv1"]

    asyncio.run(main())


def test_a_source_that_is_refused_ends_as_one_that_is_away() -> None:
    async def main() -> None:
        async with (
            running(says({"detail": "the token is not known"}, 401)) as node,
            LookupClient(LookupAccess((node.url,))) as client,
            aclosing(remote(client, only_used=False)(None)) as events,
        ):
            with pytest.raises(StoreUnavailable, match="the token is not known"):
                await anext(events)

    asyncio.run(main())
