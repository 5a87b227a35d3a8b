"""The store in memory keeps the contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import time

import hypothesis
import pytest

from gateway.lookup.store import Expect, LookupStore, StoreUnavailable
from gateway.lookup.stores.memory import MemoryStore
from tests.gateway.lookup.entries import KEY4, KEY6, OpenStore, at, events_of, told
from tests.gateway.lookup.stores.contract import StoreContract
from tests.gateway.lookup.stores.store_model import CONTENTION, OPERATIONS, Operation, check_against_model


@asynccontextmanager
async def memory_store(now: Callable[[], float] = time) -> AsyncIterator[LookupStore]:
    store = MemoryStore(now)
    yield store
    await store.close()


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def open_store(self) -> OpenStore:
        return memory_store


def test_outage_fails_every_call_and_every_watch_and_loses_nothing() -> None:
    async def main() -> None:
        store = MemoryStore()
        stored = await store.put(KEY4, at("hv1"), Expect.ABSENT)
        async with events_of(store, stored.revision) as events:
            await anext(events)
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            store.go_away("the cable is out")
            with pytest.raises(StoreUnavailable, match="the cable is out"):
                await waiting
        with pytest.raises(StoreUnavailable):
            await store.get(KEY4)
        with pytest.raises(StoreUnavailable):
            await store.put(KEY6, at("hv1"), Expect.ABSENT)

        store.come_back()
        assert await store.get(KEY4) == stored
        assert await store.get(KEY6) is None
        later = await store.put(KEY6, at("hv1"), Expect.ABSENT)
        assert await told(store, stored.revision, later.revision) == [later]

    asyncio.run(main())


@hypothesis.given(OPERATIONS)
def test_any_history_ends_as_it_does_in_a_model(operations: list[Operation]) -> None:
    check_against_model(memory_store, operations)


@hypothesis.given(CONTENTION)
def test_no_address_is_anybodys_that_is_or_just_was_anothers(operations: list[Operation]) -> None:
    check_against_model(memory_store, operations)
