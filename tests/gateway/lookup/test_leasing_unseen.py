"""A lookup node that can write to its store, and is told nothing of what it writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from gateway.lookup.authority import Authority
from gateway.lookup.claims import FlapLimits
from gateway.lookup.entries import Event, Kind, Progress
from gateway.lookup.follow import entries, follow
from gateway.lookup.network import apply
from gateway.lookup.outcomes import NoLease, WhyNoLease
from gateway.lookup.replica import Replica
from gateway.lookup.store import Prefix
from gateway.lookup.stores.memory import MemoryStore
from tests.gateway.lookup.entries import Clock
from tests.gateway.lookup.pooled import pooled
from tests.gateway.lookup.serving import HV1, WEB, ca
from tests.sim.lookup import run

Test = Callable[[Authority, MemoryStore, asyncio.Event], Awaitable[None]]


def cut_off(test: Test, *, leases: int = 1000) -> None:
    """Run a test with a node that hears nothing of its store, after the network, before an event."""

    async def main() -> None:
        store, is_back = MemoryStore(now=Clock()), asyncio.Event()
        await apply(store, pooled(leases=leases))

        async def source(after: int | None) -> AsyncIterator[Event]:
            async for event in follow(store, after):
                yield event
                if isinstance(event, Progress):
                    await is_back.wait()

        replica = Replica(source, patience=0.0)
        running = asyncio.create_task(replica.run())
        assert await replica.reached(store._revision, 5)
        try:
            await test(Authority(store, replica, FlapLimits(), now=Clock()), store, is_back)
        finally:
            running.cancel()
            await asyncio.wait([running])

    run(main())


async def held(store: MemoryStore) -> int:
    return len([entry async for entry in entries(store, Prefix(Kind.LEASE))])


def test_it_leases_one_address_for_a_ca_however_often_it_is_asked() -> None:
    async def test(authority: Authority, store: MemoryStore, is_back: asyncio.Event) -> None:
        found = [await authority.lease(HV1, WEB, ca("172.16.0.9")) for _ in range(5)]
        assert len(set(found)) == 1
        assert await held(store) == 1

        is_back.set()
        await asyncio.sleep(1)
        assert await authority.lease(HV1, WEB, ca("172.16.0.9")) == found[0]
        assert authority.leasing._not_seen_yet() == {}

    cut_off(test)


def test_it_leases_no_tenant_more_than_it_may_have() -> None:
    async def test(authority: Authority, store: MemoryStore, _is_back: asyncio.Event) -> None:
        for number in range(1, 4):
            await authority.lease(HV1, WEB, ca(f"172.16.0.{number}"))
        with pytest.raises(NoLease) as refusal:
            await authority.lease(HV1, WEB, ca("172.16.0.4"))
        assert refusal.value.reason is WhyNoLease.TENANT_LIMIT
        assert await held(store) == 3

    cut_off(test, leases=3)
