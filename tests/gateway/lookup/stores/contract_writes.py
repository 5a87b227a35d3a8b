"""What every lookup store promises of its writes: compare-and-swap, epochs and revisions."""

from __future__ import annotations

import asyncio
from typing import cast

import msgspec
import pytest

from gateway.lookup.entries import Placement, Stored
from gateway.lookup.store import Conflict, Expect, LookupStore
from tests.gateway.lookup.entries import (
    HOST_KEY,
    KEY4,
    VALUES,
    at,
    revision_of,
    scenario,
    told,
)


class WriteContract:
    """Writes that expect something of a key."""

    @scenario
    async def test_key_that_was_never_there_is_none(self, store: LookupStore) -> None:
        assert await store.get(KEY4) is None
        assert await store.get(HOST_KEY) is None

    @scenario
    async def test_first_value_has_epoch_1_and_is_read_back(self, store: LookupStore) -> None:
        stored = await store.put(KEY4, at("hv1"), Expect.ABSENT)

        assert (stored.key, stored.value, stored.epoch) == (KEY4, at("hv1"), 1)
        assert await store.get(KEY4) == stored

    @scenario
    async def test_write_at_the_expected_epoch_raises_epoch_and_revision(self, store: LookupStore) -> None:
        first = await store.put(KEY4, at("hv1"), Expect.ABSENT)
        second = await store.put(KEY4, at("hv2"), first.epoch)

        assert second.epoch == first.epoch + 1
        assert second.revision > first.revision

    @scenario
    async def test_write_at_another_epoch_conflicts_and_carries_what_is_there(
        self, store: LookupStore
    ) -> None:
        await store.put(KEY4, at("hv1"), Expect.ABSENT)
        current = await store.put(KEY4, at("hv2"), 1)

        with pytest.raises(Conflict) as conflict:
            await store.put(KEY4, at("hv3"), 1)
        assert (conflict.value.key, conflict.value.current) == (KEY4, current)
        assert await store.get(KEY4) == current

    @scenario
    async def test_epoch_of_a_key_that_was_never_there_conflicts_with_nothing(
        self, store: LookupStore
    ) -> None:
        for expected in (0, 1):
            with pytest.raises(Conflict) as conflict:
                await store.put(KEY4, at("hv1"), expected)
            assert conflict.value.current is None
            with pytest.raises(Conflict):
                await store.delete(KEY4, expected)

    @scenario
    async def test_what_should_be_absent_conflicts_where_it_is_there(self, store: LookupStore) -> None:
        current = await store.put(KEY4, at("hv1"), Expect.ABSENT)

        for expecting in (store.put(KEY4, at("hv1"), Expect.ABSENT), store.delete(KEY4, Expect.ABSENT)):
            with pytest.raises(Conflict) as conflict:
                await expecting
            assert conflict.value.current == current

    @scenario
    async def test_write_that_expects_anything_never_conflicts(self, store: LookupStore) -> None:
        await store.put(KEY4, at("hv1"), Expect.ANY)
        await store.put(KEY4, at("hv2"), Expect.ANY)
        await store.delete(KEY4, Expect.ANY)
        stored = await store.put(KEY4, at("hv3"), Expect.ANY)

        assert (stored.value, stored.epoch) == (at("hv3"), 4)

    @scenario
    async def test_writing_what_is_there_raises_neither_epoch_nor_revision(self, store: LookupStore) -> None:
        first = await store.put(KEY4, at("hv1"), Expect.ABSENT)
        before = await revision_of(store)

        assert await store.put(KEY4, at("hv1"), Expect.ANY) == first
        assert await store.put(KEY4, at("hv1"), first.epoch) == first
        assert await revision_of(store) == before

    @scenario
    async def test_what_readers_do_not_see_raises_the_revision_and_not_the_epoch(
        self, store: LookupStore
    ) -> None:
        first = await store.put(KEY4, at("hv1"), Expect.ABSENT)
        frozen = msgspec.structs.replace(at("hv1"), frozen=True, moves=(1.5, 2.25))
        second = await store.put(KEY4, frozen, first.epoch)

        assert (second.value, second.epoch) == (frozen, first.epoch)
        assert second.revision > first.revision

    @scenario
    async def test_tombstone_keeps_the_epoch_through_deletion_and_creation(self, store: LookupStore) -> None:
        await store.put(KEY4, at("hv1"), Expect.ABSENT)
        tombstone = await store.delete(KEY4, 1)
        assert tombstone is not None
        assert (tombstone.key, tombstone.value, tombstone.epoch) == (KEY4, None, 2)
        assert await store.get(KEY4) == tombstone

        again = await store.put(KEY4, at("hv1"), Expect.ABSENT)
        assert again.epoch == 3
        assert again.revision > tombstone.revision

    @scenario
    async def test_deleted_key_conflicts_with_its_former_epoch(self, store: LookupStore) -> None:
        await store.put(KEY4, at("hv1"), Expect.ABSENT)
        tombstone = await store.delete(KEY4, Expect.ANY)

        with pytest.raises(Conflict) as conflict:
            await store.put(KEY4, at("hv2"), 1)
        assert conflict.value.current == tombstone
        with pytest.raises(Conflict):
            await store.delete(KEY4, 1)

    @scenario
    async def test_deleting_twice_changes_nothing_the_second_time(self, store: LookupStore) -> None:
        await store.put(KEY4, at("hv1"), Expect.ABSENT)
        tombstone = await store.delete(KEY4, Expect.ANY)

        assert await store.delete(KEY4, Expect.ANY) == tombstone
        assert await store.delete(KEY4, Expect.ABSENT) == tombstone
        assert await revision_of(store) == cast("Stored", tombstone).revision

    @scenario
    async def test_deleting_what_was_never_there_leaves_no_tombstone(self, store: LookupStore) -> None:
        assert await store.delete(KEY4, Expect.ANY) is None
        assert await store.get(KEY4) is None

    @scenario
    async def test_every_kind_of_value_is_read_back_as_it_was(self, store: LookupStore) -> None:
        for key, value in VALUES.items():
            await store.put(key, value, Expect.ABSENT)
        for key, value in VALUES.items():
            stored = await store.get(key)
            assert stored is not None
            assert (stored.key, stored.value, type(stored.value)) == (key, value, type(value))
            assert type(stored.key) is type(key)

    @scenario
    async def test_exactly_one_of_many_compare_and_swaps_wins(self, store: LookupStore) -> None:
        first = await store.put(KEY4, at("hv1"), Expect.ABSENT)
        hosts = [f"hv{n}" for n in range(2, 10)]
        outcomes = await asyncio.gather(
            *(store.put(KEY4, at(host), first.epoch) for host in hosts), return_exceptions=True
        )

        winners = [outcome for outcome in outcomes if isinstance(outcome, Stored)]
        losers = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
        assert (len(winners), len(losers)) == (1, len(hosts) - 1)
        assert [loser.current for loser in losers] == winners * len(losers)
        assert await store.get(KEY4) == winners[0]

    @scenario
    async def test_no_update_of_writers_that_retry_is_lost(self, store: LookupStore) -> None:
        before = await revision_of(store)
        await store.put(KEY4, msgspec.structs.replace(at("hv1"), moves=()), Expect.ABSENT)

        async def add(number: int) -> None:
            while True:
                stored = await store.get(KEY4)
                assert stored is not None
                value = cast("Placement", stored.value)
                host = "hv1" if value.host == "hv2" else "hv2"
                wanted = msgspec.structs.replace(value, host=host, moves=(*value.moves, float(number)))
                try:
                    await store.put(KEY4, wanted, stored.epoch)
                except Conflict:
                    continue
                return

        await asyncio.gather(*(add(number) for number in range(12)))

        stored = await store.get(KEY4)
        assert stored is not None
        assert stored.epoch == 13
        assert sorted(cast("Placement", stored.value).moves) == [float(number) for number in range(12)]
        changes = await told(store, before, stored.revision)
        assert [change.epoch for change in changes] == list(range(1, 14))
