"""What a store's pages and watch become for a replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.lookup.entries import Event, Key, Kind, NamedKey, Placement, Progress, RecordKey, Reset, Stored
from gateway.lookup.follow import follow
from gateway.lookup.store import Expect, Page, Prefix, StoreUnavailable
from gateway.lookup.stores.memory import MemoryStore
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import ProviderGateway

PA = ProviderAddress.parse("198.51.100.11")


def key(number: int) -> RecordKey:
    return RecordKey(Vsid(5001), CustomerAddress(number.to_bytes(4)))


async def put(store: MemoryStore, number: int, host: str = "hv1") -> Stored:
    return await store.put(key(number), Placement(MacAddress(b"\x02\0\0\0\0\x05"), PA, host), Expect.ANY)


async def next_of(events: AsyncIterator[Event], count: int) -> list[Event]:
    return [await anext(events) for _ in range(count)]


def test_everything_is_listed_the_network_first_and_then_followed() -> None:
    async def main() -> None:
        store = MemoryStore()
        records = [await put(store, number) for number in range(2500)]
        gateway = await store.put(
            NamedKey(Kind.GATEWAY, "edge-1"), ProviderGateway("edge-1", (PA,)), Expect.ANY
        )
        events = follow(store, None)
        assert await next_of(events, 2503) == [Reset(2501), gateway, *records, Progress(2501)]
        later = await put(store, 7, "hv2")
        assert await next_of(events, 2) == [later, Progress(2502)]

    asyncio.run(main())


def test_it_goes_on_after_a_revision_without_a_reset() -> None:
    async def main() -> None:
        store = MemoryStore()
        await put(store, 1)
        second = await put(store, 2)
        assert await next_of(follow(store, 1), 2) == [second, Progress(2)]

    asyncio.run(main())


@pytest.mark.parametrize("after", [1, 9])
def test_a_history_that_is_gone_or_never_was_is_a_reset(after: int) -> None:
    async def main() -> None:
        store = MemoryStore()
        for number in (1, 2):
            await put(store, number)
        last = await put(store, 2, "hv2")
        await store.compact(2)
        first = await store.get(key(1))
        assert await next_of(follow(store, after), 4) == [Reset(3), first, last, Progress(3)]

    asyncio.run(main())


class Busy(MemoryStore):
    """Somebody writes between the pages of a listing."""

    async def page(self, prefix: Prefix, after: Key | None, limit: int) -> Page:
        if prefix.kind is Kind.RECORD:
            await put(self, 1, "hv2")
        return await super().page(prefix, after, limit)


def test_a_listing_is_whole_only_when_what_changed_meanwhile_has_been_told() -> None:
    async def main() -> None:
        store = Busy()
        await put(store, 1)
        moved = Stored(key(1), Placement(MacAddress(b"\x02\0\0\0\0\x05"), PA, "hv2"), 2, 2)
        assert await next_of(follow(store, None), 4) == [Reset(1), moved, moved, Progress(2)]

    asyncio.run(main())


def test_a_store_that_goes_away_ends_it() -> None:
    async def main() -> None:
        store = MemoryStore()
        events = follow(store, None)
        await next_of(events, 2)
        store.go_away("away")
        with pytest.raises(StoreUnavailable):
            await anext(events)

    asyncio.run(main())
