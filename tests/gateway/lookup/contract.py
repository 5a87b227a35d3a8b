"""What every lookup store has to do: one suite, which each store's tests run against it.

A store's test module subclasses `StoreContract` and has a fixture `open_store`, which makes a store without
entries each time that it is entered. Revisions need not begin at any particular number, nor be without gaps.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from gateway.lookup.claims import Claim, FlapLimits, Mode, Reason, Refused, unfrozen
from gateway.lookup.entries import Key, Kind, NamedKey, Placement, Progress, RecordKey, Stored, Value
from gateway.lookup.store import Compacted, Conflict, Expect, LookupStore, Prefix
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import (
    CustomerRoute,
    IkeIdentity,
    ProviderGateway,
    ProviderHost,
    Site,
    SiteHop,
    Tenant,
    Translation,
    VirtualSubnet,
)

OpenStore = Callable[[], AbstractAsyncContextManager[LookupStore]]

WEB, DATABASE = Vsid(5001), Vsid(5002)
MAC = MacAddress.parse("02:00:00:00:01:05")
OTHER_MAC = MacAddress.parse("02:00:00:00:01:06")
PROVIDER = {f"hv{n}": ProviderAddress.parse(f"198.51.100.{n}") for n in range(1, 10)}
CA4, CA6 = CustomerAddress.parse("10.0.1.5"), CustomerAddress.parse("fd00:1::5")
KEY4, KEY6 = RecordKey(WEB, CA4), RecordKey(WEB, CA6)
HOST_KEY = NamedKey(Kind.HOST, "hv1")


def at(host: str, *, mac: MacAddress = MAC, pinned: bool = False) -> Placement:
    return Placement(mac, PROVIDER[host], host, pinned=pinned)


def claim(
    host: str,
    mode: Mode = Mode.ANNOUNCE,
    *,
    now: float = 1_000.0,
    addresses: tuple[CustomerAddress, ...] = (),
    mac: MacAddress = MAC,
    vsid: Vsid = WEB,
) -> Claim:
    return Claim(vsid, mac, PROVIDER[host], host, mode, now, addresses, FlapLimits(5, 180.0))


async def revision_of(store: LookupStore) -> int:
    return (await store.page(Prefix(Kind.RECORD), None, 1)).revision


def events_of(store: LookupStore, after: int) -> aclosing[AsyncGenerator[Stored | Progress, None]]:
    return aclosing(cast("AsyncGenerator[Stored | Progress, None]", store.watch(after)))


async def told(store: LookupStore, after: int, upto: int) -> list[Stored]:
    """What a watch tells after a revision, until it says that it has told up to another one."""
    changes = []
    async with events_of(store, after) as events:
        async for event in events:
            if isinstance(event, Stored):
                changes.append(event)
            elif event.revision >= upto:
                break
    return changes


async def listed(store: LookupStore, prefix: Prefix, limit: int = 1_000) -> list[Stored]:
    """All live entries, page by page."""
    found: list[Stored] = []
    while True:
        page = await store.page(prefix, found[-1].key if found else None, limit)
        assert len(page.entries) <= limit
        found += page.entries
        if not page.more:
            return found


def scenario(test: Callable[[Any, LookupStore], Awaitable[None]]) -> Callable[[Any, OpenStore], None]:
    """Run an asynchronous test on a new store."""

    def run(self: object, open_store: OpenStore) -> None:
        async def main() -> None:
            async with asyncio.timeout(60), open_store() as store:
                await test(self, store)

        asyncio.run(main())

    run.__name__ = test.__name__
    return run


class StoreContract:
    """Each test is one promise of `gateway.lookup.store.LookupStore`."""

    # Compare-and-swap, epochs and revisions.

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

    # Pages.

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

    # Claims.

    @scenario
    async def test_claim_moves_both_families_of_a_mac_at_once(self, store: LookupStore) -> None:
        before = await revision_of(store)
        registered = await store.claim(claim("hv1", Mode.REGISTER, addresses=(CA6, CA4)))
        moved = await store.claim(claim("hv2"))

        assert [entry.key for entry in registered] == [KEY4, KEY6]
        assert [(entry.key, cast("Placement", entry.value).host, entry.epoch) for entry in moved] == [
            (KEY4, "hv2", 2),
            (KEY6, "hv2", 2),
        ]
        assert moved == [await store.get(KEY4), await store.get(KEY6)]
        changes = await told(store, before, moved[-1].revision)
        assert sorted(changes[:2], key=_key) == registered
        assert sorted(changes[2:], key=_key) == moved
        assert changes[1].revision < changes[2].revision

    @scenario
    async def test_claim_concerns_its_own_virtual_subnet_and_mac_only(self, store: LookupStore) -> None:
        same_mac = await store.put(RecordKey(DATABASE, CA4), at("hv1"), Expect.ABSENT)
        same_subnet = await store.put(KEY6, at("hv1", mac=OTHER_MAC), Expect.ABSENT)
        await store.put(KEY4, at("hv1"), Expect.ABSENT)
        moved = await store.claim(claim("hv2"))

        assert [entry.key for entry in moved] == [KEY4]
        assert await store.get(same_mac.key) == same_mac
        assert await store.get(same_subnet.key) == same_subnet

    @scenario
    async def test_claim_of_what_is_so_already_changes_nothing(self, store: LookupStore) -> None:
        first = await store.claim(claim("hv1", Mode.REGISTER, addresses=(CA4, CA6)))
        before = await revision_of(store)

        for mode in Mode:
            assert await store.claim(claim("hv1", mode, addresses=(CA4,))) == first
        assert await revision_of(store) == before

    @scenario
    async def test_claim_goes_on_from_a_tombstones_epoch(self, store: LookupStore) -> None:
        await store.put(KEY4, at("hv1"), Expect.ABSENT)
        await store.delete(KEY4, Expect.ANY)
        (stored,) = await store.claim(claim("hv2", Mode.REGISTER, addresses=(CA4,)))

        assert (stored.value, stored.epoch) == (at("hv2"), 3)

    @scenario
    async def test_deleted_record_is_not_the_macs_any_more(self, store: LookupStore) -> None:
        await store.put(KEY4, at("hv1"), Expect.ABSENT)
        await store.delete(KEY4, Expect.ANY)
        assert await _refusal(store, claim("hv2")) == (Reason.UNKNOWN, None)

    @scenario
    async def test_record_given_to_another_mac_is_not_the_formers_any_more(self, store: LookupStore) -> None:
        await store.put(KEY4, at("hv1"), Expect.ABSENT)
        await store.put(KEY4, at("hv1", mac=OTHER_MAC), Expect.ANY)

        assert await _refusal(store, claim("hv2")) == (Reason.UNKNOWN, None)
        assert [entry.key for entry in await store.claim(claim("hv2", mac=OTHER_MAC))] == [KEY4]

    @scenario
    async def test_address_of_another_mac_is_refused_and_nothing_moves(self, store: LookupStore) -> None:
        own = await store.put(KEY4, at("hv1"), Expect.ABSENT)
        others = await store.put(KEY6, at("hv1", mac=OTHER_MAC), Expect.ABSENT)

        assert await _refusal(store, claim("hv2", addresses=(CA6,))) == (Reason.OTHER_MAC, others)
        assert await store.get(KEY4) == own
        assert await revision_of(store) == others.revision

    @scenario
    async def test_registration_does_not_take_what_is_elsewhere(self, store: LookupStore) -> None:
        own = await store.put(KEY4, at("hv1"), Expect.ABSENT)
        assert await _refusal(store, claim("hv2", Mode.REGISTER)) == (Reason.ELSEWHERE, own)

    @scenario
    async def test_pinned_record_is_never_claimed(self, store: LookupStore) -> None:
        pinned = await store.put(KEY4, at("hv1", pinned=True), Expect.ABSENT)
        await store.put(KEY6, at("hv1"), Expect.ABSENT)
        before = await revision_of(store)

        for mode in Mode:
            assert await _refusal(store, claim("hv2", mode)) == (Reason.PINNED, pinned)
        stranger = claim("hv2", mac=OTHER_MAC, addresses=(CA4,))
        assert await _refusal(store, stranger) == (Reason.PINNED, pinned)
        assert await revision_of(store) == before
        assert pinned.record is not None
        assert pinned.record.epoch == 0

    @scenario
    async def test_five_announced_moves_in_180_seconds_freeze_a_record(self, store: LookupStore) -> None:
        await store.claim(claim("hv1", Mode.REGISTER, addresses=(CA4, CA6)))
        for number in range(5):
            await store.claim(claim(f"hv{number + 2}", now=1_000.0 + number))

        frozen = cast("Stored", await store.get(KEY4))
        assert cast("Placement", frozen.value).frozen
        assert await _refusal(store, claim("hv1", now=1_005.0)) == (Reason.FROZEN, frozen)
        assert await store.claim(claim("hv6", now=1_005.0)) == [frozen, await store.get(KEY6)]

    @scenario
    async def test_orchestrated_moves_neither_count_nor_are_refused(self, store: LookupStore) -> None:
        await store.claim(claim("hv1", Mode.REGISTER, addresses=(CA4,)))
        for number in range(20):
            await store.claim(claim(f"hv{number % 2 + 2}", Mode.ORCHESTRATE, now=1_000.0))
        (stored,) = await store.claim(claim("hv4"))
        assert stored.value == msgspec.structs.replace(at("hv4"), moves=(1_000.0,))

        for number in range(4):
            (stored,) = await store.claim(claim(f"hv{number + 5}"))
        assert cast("Placement", stored.value).frozen
        (stored,) = await store.claim(claim("hv1", Mode.ORCHESTRATE))
        assert cast("Placement", stored.value).host == "hv1"

    @scenario
    async def test_unfrozen_record_moves_again(self, store: LookupStore) -> None:
        await store.claim(claim("hv1", Mode.REGISTER, addresses=(CA4,)))
        for number in range(5):
            await store.claim(claim(f"hv{number + 2}"))
        frozen = cast("Stored", await store.get(KEY4))
        freed = await store.put(KEY4, unfrozen(cast("Placement", frozen.value)), frozen.epoch)

        assert freed.epoch == frozen.epoch
        (stored,) = await store.claim(claim("hv1"))
        assert (cast("Placement", stored.value).host, stored.epoch) == ("hv1", frozen.epoch + 1)

    @scenario
    async def test_hosts_that_claim_at_once_end_with_one_holder_of_everything(
        self, store: LookupStore
    ) -> None:
        await store.claim(claim("hv1", Mode.REGISTER, addresses=(CA4, CA6)))
        answers = await asyncio.gather(*(store.claim(claim(f"hv{n}", Mode.ORCHESTRATE)) for n in range(2, 8)))

        four, six = cast("Stored", await store.get(KEY4)), cast("Stored", await store.get(KEY6))
        assert four.value == six.value
        assert (four.epoch, six.epoch) == (7, 7)
        assert [four, six] in answers
        for answer in answers:
            assert len({cast("Placement", entry.value).host for entry in answer}) == 1
            assert len({entry.revision for entry in answer}) == 1

    # Watches.

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
        assert sorted(changes, key=_key) == sorted([stored] if found is None else [found, stored], key=_key)


async def _refusal(store: LookupStore, refused: Claim) -> tuple[Reason, Stored | None]:
    with pytest.raises(Refused) as refusal:
        await store.claim(refused)
    return refusal.value.reason, refusal.value.current


def _key(entry: Stored) -> Any:
    return entry.key


VALUES: dict[Key, Value] = {
    KEY4: Placement(
        MAC,
        ProviderAddress.parse("2001:db8::11"),
        "hv1",
        Translation.REWRITE,
        pinned=True,
        frozen=True,
        moves=(1.5, 1732278000.123456),
    ),
    KEY6: at("hv2"),
    HOST_KEY: ProviderHost("hv1", (PROVIDER["hv1"], ProviderAddress.parse("2001:db8::11")), ("red", "blue")),
    NamedKey(Kind.GATEWAY, "kante-ü"): ProviderGateway("kante-ü", (PROVIDER["hv9"],)),
    NamedKey(Kind.TENANT, "hv1"): Tenant(
        "hv1",
        ("edge-1",),
        (VirtualSubnet("web", WEB, (ip_network("10.0.1.0/24"), ip_network("fd00:1::/64")), (CA4, CA6)),),
        routes=(CustomerRoute(ip_network("10.9.0.0/16"), SiteHop("seattle")),),
        sites=(
            Site(
                "seattle",
                "edge-1",
                (ip_network("172.16.0.0/16"),),
                None,
                IkeIdentity("edge-1.example", "seattle.example", psk_file=Path("/etc/isthmus/seattle.psk")),
            ),
        ),
    ),
}
