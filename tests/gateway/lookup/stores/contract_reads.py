"""What every lookup store promises of pages and watches."""

from __future__ import annotations

import asyncio
import threading
from typing import cast

import msgspec
import pytest

from gateway.lookup.entries import Kind, NamedKey, Progress, RecordKey, Stored
from gateway.lookup.store import Compacted, Expect, LookupStore, Prefix
from policies.addresses import CustomerAddress, Vsid
from policies.model import ProviderHost
from tests.gateway.lookup.entries import (
    CA4,
    DATABASE,
    HOST_KEY,
    KEY4,
    KEY6,
    VALUES,
    WEB,
    at,
    events_of,
    key_of,
    listed,
    revision_of,
    scenario,
    told,
)


class ReadContract:
    """What there is, in the order of keys, and what changes, in the order of changes."""

    @scenario
    async def test_pages_follow_one_another_in_the_order_of_keys(self, store: LookupStore) -> None:
        keys = [
            RecordKey(vsid, CustomerAddress.parse(ca))
            for vsid in (Vsid(0x1000), WEB, DATABASE, Vsid(0xFFFFFE))
            for ca in ("10.0.1.5", "10.0.2.4", "9.255.0.1", "fd00::1", "255.1.1.1", "a00:105::", "::1")
        ]
        for key in reversed(keys):
            await store.put(key, at("hv1"), Expect.ABSENT)

        for limit in (1, 3, 28, 1_000):
            found = await listed(store, Prefix(Kind.RECORD), limit)
            assert [entry.key for entry in found] == sorted(keys)
        web = await listed(store, Prefix(Kind.RECORD, WEB), 2)
        assert [entry.key for entry in web] == sorted(key for key in keys if key.vsid == WEB)

    @scenario
    async def test_page_says_whether_others_follow(self, store: LookupStore) -> None:
        assert await store.page(Prefix(Kind.HOST), None, 2) == msgspec.structs.replace(
            await store.page(Prefix(Kind.HOST), None, 2), entries=[], more=False
        )
        for number in range(4):
            await store.put(
                NamedKey(Kind.HOST, f"hv{number}"), ProviderHost(f"hv{number}", (), ()), Expect.ABSENT
            )
        second = NamedKey(Kind.HOST, "hv1")

        assert (await store.page(Prefix(Kind.HOST), None, 3)).more
        assert not (await store.page(Prefix(Kind.HOST), second, 2)).more
        assert not (await store.page(Prefix(Kind.HOST), None, 4)).more
        assert [entry.key for entry in (await store.page(Prefix(Kind.HOST), second, 1)).entries] == [
            NamedKey(Kind.HOST, "hv2")
        ]

    @scenario
    async def test_page_leaves_out_tombstones_and_other_kinds(self, store: LookupStore) -> None:
        await store.put(KEY4, at("hv1"), Expect.ABSENT)
        await store.put(KEY6, at("hv1"), Expect.ABSENT)
        await store.put(HOST_KEY, VALUES[HOST_KEY], Expect.ABSENT)
        await store.delete(KEY4, Expect.ANY)

        page = await store.page(Prefix(Kind.RECORD), None, 1)
        assert [entry.key for entry in page.entries] == [KEY6]
        assert not page.more
        assert [entry.key for entry in await listed(store, Prefix(Kind.HOST))] == [HOST_KEY]

    @scenario
    async def test_page_after_a_key_that_is_gone_goes_on_behind_it(self, store: LookupStore) -> None:
        await store.put(KEY4, at("hv1"), Expect.ABSENT)
        await store.put(KEY6, at("hv1"), Expect.ABSENT)
        await store.delete(KEY4, Expect.ANY)

        assert [entry.key for entry in (await store.page(Prefix(Kind.RECORD), KEY4, 9)).entries] == [KEY6]
        elsewhere = RecordKey(Vsid(4096), CA4)
        assert [
            entry.key for entry in (await store.page(Prefix(Kind.RECORD, WEB), elsewhere, 9)).entries
        ] == [KEY6]

    @scenario
    async def test_page_has_the_revision_that_a_watch_can_go_on_from(self, store: LookupStore) -> None:
        await store.put(KEY4, at("hv1"), Expect.ABSENT)
        page = await store.page(Prefix(Kind.RECORD), None, 9)
        later = await store.put(KEY6, at("hv1"), Expect.ABSENT)

        assert page.revision >= page.entries[0].revision
        assert await told(store, page.revision, later.revision) == [later]

    @scenario
    async def test_revisions_rise_with_each_write_and_a_watch_tells_them_in_order(
        self, store: LookupStore
    ) -> None:
        before = await revision_of(store)
        written: list[Stored] = []
        for number in range(30):
            key = RecordKey(WEB, CustomerAddress(bytes((10, 0, 0, number % 7))))
            if number % 5 == 4:
                tombstone = await store.delete(key, Expect.ANY)
                written += [tombstone] if tombstone is not None and tombstone not in written else []
            else:
                written.append(await store.put(key, at(f"hv{number % 9 + 1}"), Expect.ANY))

        revisions = [change.revision for change in written]
        assert revisions == sorted(set(revisions))
        assert before < revisions[0]
        assert await told(store, before, revisions[-1]) == written
        assert await told(store, revisions[9], revisions[-1]) == written[10:]
        assert await told(store, revisions[-1], revisions[-1]) == []

    @scenario
    async def test_watch_says_where_it_stands_before_anything_changes(self, store: LookupStore) -> None:
        stored = await store.put(KEY4, at("hv1"), Expect.ABSENT)
        async with events_of(store, stored.revision) as events:
            progress = await anext(events)
        assert isinstance(progress, Progress)
        assert progress.revision >= stored.revision

    @scenario
    async def test_watch_is_told_what_is_written_while_it_waits(self, store: LookupStore) -> None:
        async with events_of(store, await revision_of(store)) as events:
            assert isinstance(await anext(events), Progress)
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            stored = await store.put(KEY4, at("hv1"), Expect.ABSENT)
            assert await waiting == stored
            progress = await anext(events)
            assert isinstance(progress, Progress)
            assert progress.revision >= stored.revision

    @scenario
    async def test_every_watcher_is_told_everything_while_many_write(self, store: LookupStore) -> None:
        before = await revision_of(store)
        last = RecordKey(DATABASE, CA4)

        async def watch() -> list[Stored]:
            changes: list[Stored] = []
            async with events_of(store, before) as events:
                async for event in events:
                    if isinstance(event, Stored):
                        changes.append(event)
                        if event.key == last:
                            return changes
            raise AssertionError("a watch ended by itself")

        async def write(number: int) -> list[Stored]:
            key = RecordKey(WEB, CustomerAddress(bytes((10, 0, 0, number % 3))))
            return [await store.put(key, at(f"hv{(number + n) % 9 + 1}"), Expect.ANY) for n in range(10)]

        watchers = [asyncio.ensure_future(watch()) for _ in range(5)]
        written = {change for each in await asyncio.gather(*map(write, range(10))) for change in each}
        await store.put(last, at("hv1"), Expect.ABSENT)

        for changes in await asyncio.gather(*watchers):
            # A write that found its value there already answers what another one wrote.
            assert set(changes[:-1]) == written
            revisions = [change.revision for change in changes]
            assert revisions == sorted(set(revisions))
            for key in {change.key for change in changes}:
                epochs = [change.epoch for change in changes if change.key == key]
                assert epochs == list(range(1, len(epochs) + 1))

    @scenario
    async def test_watch_of_a_compacted_revision_has_to_list_again(self, store: LookupStore) -> None:
        before = await revision_of(store)
        written = [await store.put(KEY4, at(f"hv{n}"), Expect.ANY) for n in range(1, 6)]
        await store.compact(written[3].revision)

        with pytest.raises(Compacted):
            await told(store, before, written[-1].revision)
        assert await told(store, written[3].revision, written[-1].revision) == written[4:]

    @scenario
    async def test_compaction_leaves_entries_and_tombstones(self, store: LookupStore) -> None:
        live = await store.put(KEY4, at("hv1"), Expect.ABSENT)
        await store.put(KEY6, at("hv1"), Expect.ABSENT)
        tombstone = cast("Stored", await store.delete(KEY6, Expect.ANY))
        await store.compact(tombstone.revision)

        assert await listed(store, Prefix(Kind.RECORD)) == [live]
        assert await store.get(KEY6) == tombstone
        assert (await store.put(KEY6, at("hv1"), Expect.ABSENT)).epoch == tombstone.epoch + 1

    @scenario
    async def test_compacting_again_or_further_back_does_no_harm(self, store: LookupStore) -> None:
        written = [await store.put(KEY4, at(f"hv{n}"), Expect.ANY) for n in range(1, 6)]
        await store.compact(written[3].revision)
        await store.compact(written[3].revision)
        await store.compact(written[1].revision)
        with pytest.raises(Compacted):
            await told(store, written[1].revision, written[-1].revision)
        assert await told(store, written[3].revision, written[-1].revision) == written[4:]

    @scenario
    async def test_cancelled_watcher_leaves_nothing_behind(self, store: LookupStore) -> None:
        async def watch() -> None:
            async with events_of(store, before) as events:
                async for _ in events:
                    is_waiting.set()

        before = await revision_of(store)
        tasks, threads = asyncio.all_tasks(), threading.active_count()
        for _ in range(3):
            is_waiting = asyncio.Event()
            watcher = asyncio.ensure_future(watch())
            await is_waiting.wait()
            watcher.cancel()
            with pytest.raises(asyncio.CancelledError):
                await watcher
        for _ in range(100):
            if asyncio.all_tasks() == tasks:
                break
            await asyncio.sleep(0.01)

        assert asyncio.all_tasks() == tasks
        assert threading.active_count() <= threads + 2  # readers of a pool, which are kept
        stored = await store.put(KEY4, at("hv1"), Expect.ABSENT)
        assert await told(store, before, stored.revision) == [stored]

    @scenario
    async def test_cancelled_write_is_made_or_not_and_harms_no_other(self, store: LookupStore) -> None:
        before = await revision_of(store)
        cancelled = asyncio.ensure_future(store.put(KEY4, at("hv1"), Expect.ABSENT))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        stored = await store.put(KEY6, at("hv1"), Expect.ABSENT)

        found = await store.get(KEY4)
        changes = await told(store, before, max(stored.revision, found.revision if found else 0))
        assert sorted(changes, key=key_of) == sorted(
            [stored] if found is None else [found, stored], key=key_of
        )
