"""A listing of what is in etcd is read ahead, and is never older than its beginning."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count

import pytest

from gateway.lookup.entries import Key, Kind, RecordKey
from gateway.lookup.store import Expect, LookupStore, Prefix
from gateway.lookup.stores.etcd import EtcdStore
from policies.addresses import CustomerAddress
from policies.services import Etcd
from tests.gateway.lookup.entries import WEB, at
from tests.interop.etcd import COMMANDS, Single, opened

pytestmark = pytest.mark.interop

numbers = count()
KEYS = [RecordKey(WEB, CustomerAddress(bytes((10, 0, 1, number)))) for number in range(10)]
RECORDS = Prefix(Kind.RECORD)


@pytest.fixture(scope="module")
def single(require_tools: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Single]:
    require_tools(*COMMANDS)
    with Single(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd


@asynccontextmanager
async def records(single: Single) -> AsyncIterator[EtcdStore]:
    """A store with ten records, of which the fifth is deleted."""
    async with (
        asyncio.timeout(20),
        opened(Etcd((single.endpoint,), prefix=f"/pages-{next(numbers)}/")) as store,
    ):
        for key in KEYS:
            await store.put(key, at("hv1"), Expect.ABSENT)
        await store.delete(KEYS[4], Expect.ANY)
        yield store


async def _hosts(store: LookupStore, after: Key | None, limit: int) -> tuple[list[str], bool]:
    page = await store.page(RECORDS, after, limit)
    return [getattr(entry.value, "host", "") for entry in page.entries], page.more


def test_pages_that_follow_one_another_are_of_one_moment(single: Single) -> None:
    async def main() -> None:
        async with records(single) as store:
            first = await store.page(RECORDS, None, 2)
            second = await store.page(RECORDS, KEYS[1], 2)
            await store.put(KEYS[7], at("hv2"), Expect.ANY)
            third = await store.page(RECORDS, KEYS[3], 4)
            fourth = await store.page(RECORDS, KEYS[8], 4)

            assert second.revision == third.revision == fourth.revision
            found = [*first.entries, *second.entries, *third.entries, *fourth.entries]
            assert [entry.key for entry in found] == KEYS[:4] + KEYS[5:]
            assert {getattr(entry.value, "host", "") for entry in found} == {"hv1"}
            assert [page.more for page in (first, second, third, fourth)] == [True, True, True, False]

    asyncio.run(main())


def test_listing_that_is_begun_again_tells_nothing_older_than_its_beginning(single: Single) -> None:
    async def main() -> None:
        async with records(single) as store:
            await store.page(RECORDS, None, 2)
            await store.page(RECORDS, KEYS[1], 2)  # and all that follows is read ahead
            await store.put(KEYS[7], at("hv2"), Expect.ANY)
            begin = await store.page(Prefix(Kind.HOST), None, 1)
            page = await store.page(RECORDS, KEYS[3], 4)

            assert page.revision >= begin.revision
            assert [getattr(entry.value, "host", "") for entry in page.entries] == [
                "hv1",
                "hv1",
                "hv2",
                "hv1",
            ]

    asyncio.run(main())


def test_listing_across_a_compaction_goes_on(single: Single) -> None:
    async def main() -> None:
        async with records(single) as store:
            await store.page(RECORDS, None, 2)
            await store.page(RECORDS, KEYS[1], 2)
            last = await store.put(KEYS[7], at("hv2"), Expect.ANY)
            await store.compact(last.revision)
            assert await _hosts(store, KEYS[3], 99) == (["hv1"] * 5, False)
            assert await _hosts(store, KEYS[3], 99) == (["hv1", "hv1", "hv2", "hv1", "hv1"], False)

    asyncio.run(main())
