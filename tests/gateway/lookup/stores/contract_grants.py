"""What every lookup store promises of provider addresses that are one customer address's alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import cast

import msgspec
import pytest

from gateway.lookup.entries import Grant, Kind, LeaseKey, Placement, RecordKey, Stored
from gateway.lookup.grants import QUARANTINE
from gateway.lookup.store import Conflict, Expect, LookupStore, Prefix, Taken
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import Translation
from tests.gateway.lookup.entries import (
    CA4,
    CA6,
    DATABASE,
    KEY4,
    MAC,
    WEB,
    Clock,
    at,
    claim,
    listed,
    revision_of,
    scenario,
    timed_scenario,
    told,
)

FIRST, SECOND, THIRD = (ProviderAddress.parse(f"203.0.113.{n}") for n in (1, 2, 3))
FIRST6, SECOND6 = (ProviderAddress.parse(f"2001:db8:5::{n}") for n in (1, 2))
OTHER = RecordKey(DATABASE, CA4)
"""The same address in another virtual subnet."""


def rewritten(pa: ProviderAddress, host: str = "hv1", *, mac: MacAddress = MAC) -> Placement:
    return Placement(mac, pa, host, Translation.REWRITE)


def lease(ca: CustomerAddress = CA4, *, vsid: Vsid = DATABASE, returned_at: float | None = None) -> Grant:
    return Grant(vsid, ca, "edge-1", returned_at, leased=True)


async def grant_of(store: LookupStore, pa: ProviderAddress) -> Grant | None:
    entry = await store.get(LeaseKey(pa))
    return None if entry is None else cast("Grant | None", entry.value)


async def taken(write: Awaitable[object]) -> Stored | None:
    """Who has the address that a write is refused for."""
    with pytest.raises(Taken) as refused:
        await write
    return refused.value.holder


class GrantContract:
    """Each address is one (VSID, CA)'s at most, and is granted in the write of the record that has it."""

    @scenario
    async def test_rewritten_record_takes_its_address_in_the_same_write(self, store: LookupStore) -> None:
        before = await revision_of(store)
        stored = await store.put(KEY4, rewritten(FIRST), Expect.ABSENT)
        granted = Stored(LeaseKey(FIRST), Grant(WEB, CA4, "hv1"), 1, stored.revision)

        assert await store.get(LeaseKey(FIRST)) == granted
        changes = await told(store, before, stored.revision)
        assert {change.key: change for change in changes} == {KEY4: stored, granted.key: granted}

    @scenario
    async def test_encapsulated_records_share_an_address_and_take_none(self, store: LookupStore) -> None:
        for key in (KEY4, OTHER):
            await store.put(key, at("hv1"), Expect.ABSENT)
        await store.claim(claim("hv2"))
        await store.delete(KEY4, Expect.ANY)
        assert await listed(store, Prefix(Kind.LEASE)) == []

    @scenario
    async def test_address_of_another_record_is_refused_with_that_record_and_nothing_changes(
        self, store: LookupStore
    ) -> None:
        first = await store.put(KEY4, rewritten(FIRST), Expect.ABSENT)

        assert await taken(store.put(OTHER, rewritten(FIRST), Expect.ABSENT)) == first
        assert await store.get(OTHER) is None
        second = await store.put(OTHER, rewritten(SECOND), Expect.ABSENT)
        assert await taken(store.put(OTHER, rewritten(FIRST), second.epoch)) == first
        assert await store.get(OTHER) == second
        assert await revision_of(store) == second.revision

    @scenario
    async def test_record_that_is_not_as_expected_conflicts_whoever_has_the_address(
        self, store: LookupStore
    ) -> None:
        await store.put(KEY4, rewritten(FIRST), Expect.ABSENT)
        with pytest.raises(Conflict):
            await store.put(OTHER, rewritten(FIRST), 7)

    @timed_scenario
    async def test_deleted_record_gives_its_address_back_and_quarantine_keeps_it_from_others(
        self, store: LookupStore, clock: Clock
    ) -> None:
        await store.put(KEY4, rewritten(FIRST), Expect.ABSENT)
        tombstone = await store.delete(KEY4, Expect.ANY)
        assert tombstone is not None
        returned = Grant(WEB, CA4, "hv1", returned_at=clock.now)
        assert await store.get(LeaseKey(FIRST)) == Stored(LeaseKey(FIRST), returned, 2, tombstone.revision)

        clock.now += QUARANTINE - 0.5
        assert await taken(store.put(OTHER, rewritten(FIRST), Expect.ABSENT)) is None
        assert await taken(store.put(LeaseKey(FIRST), lease(), 2)) is None
        clock.now += 0.5
        await store.put(OTHER, rewritten(FIRST, "hv2"), Expect.ABSENT)
        assert await grant_of(store, FIRST) == Grant(DATABASE, CA4, "hv2")

    @timed_scenario
    async def test_same_customer_address_has_its_own_back_at_once(
        self, store: LookupStore, clock: Clock
    ) -> None:
        await store.put(KEY4, rewritten(FIRST), Expect.ABSENT)
        await store.delete(KEY4, Expect.ANY)
        clock.now += 1
        await store.put(KEY4, rewritten(FIRST, "hv2"), Expect.ABSENT)
        assert await grant_of(store, FIRST) == Grant(WEB, CA4, "hv2")

    @timed_scenario
    async def test_clock_that_is_set_back_shortens_no_quarantine(
        self, store: LookupStore, clock: Clock
    ) -> None:
        clock.now = 10_000.0
        await store.put(KEY4, rewritten(FIRST), Expect.ABSENT)
        await store.delete(KEY4, Expect.ANY)
        for now in (5_000.0, 5_000.0 + QUARANTINE, 10_000.0, 10_000.0 + QUARANTINE - 1):
            clock.now = now
            assert await taken(store.put(OTHER, rewritten(FIRST), Expect.ABSENT)) is None
        clock.now = 10_000.0 + QUARANTINE
        await store.put(OTHER, rewritten(FIRST), Expect.ABSENT)

    @timed_scenario
    async def test_record_with_another_address_gives_back_the_one_it_had(
        self, store: LookupStore, clock: Clock
    ) -> None:
        await store.put(KEY4, rewritten(FIRST), Expect.ABSENT)
        stored = await store.put(KEY4, rewritten(SECOND, "hv2"), Expect.ANY)

        assert await grant_of(store, FIRST) == Grant(WEB, CA4, "hv1", returned_at=clock.now)
        assert await grant_of(store, SECOND) == Grant(WEB, CA4, "hv2")
        for pa in (FIRST, SECOND):
            entry = await store.get(LeaseKey(pa))
            assert entry is not None
            assert entry.revision == stored.revision
        # It may go back to where it came from.
        await store.put(KEY4, rewritten(FIRST), Expect.ANY)
        assert await grant_of(store, FIRST) == Grant(WEB, CA4, "hv1")

    @timed_scenario
    async def test_record_that_becomes_encapsulated_gives_its_address_back(
        self, store: LookupStore, clock: Clock
    ) -> None:
        await store.put(KEY4, rewritten(FIRST), Expect.ABSENT)
        await store.put(KEY4, at("hv1"), Expect.ANY)
        assert await grant_of(store, FIRST) == Grant(WEB, CA4, "hv1", returned_at=clock.now)

        await store.put(KEY4, rewritten(FIRST), Expect.ANY)
        assert await grant_of(store, FIRST) == Grant(WEB, CA4, "hv1")

    @scenario
    async def test_writing_a_rewritten_record_as_it_is_changes_nothing(self, store: LookupStore) -> None:
        first = await store.put(KEY4, rewritten(FIRST), Expect.ABSENT)
        assert await store.put(KEY4, rewritten(FIRST), Expect.ANY) == first
        assert await revision_of(store) == first.revision

    @scenario
    async def test_change_of_what_no_reader_sees_leaves_the_grant_as_it_is(self, store: LookupStore) -> None:
        await store.put(KEY4, rewritten(FIRST), Expect.ABSENT)
        before = await store.get(LeaseKey(FIRST))
        await store.put(KEY4, msgspec.structs.replace(rewritten(FIRST), moves=(1.0,)), Expect.ANY)
        assert await store.get(LeaseKey(FIRST)) == before

    @scenario
    async def test_addresses_are_listed_in_their_order_without_tombstones(self, store: LookupStore) -> None:
        addresses = sorted((THIRD, FIRST6, FIRST, SECOND6, SECOND))
        for pa in (THIRD, FIRST6, FIRST, SECOND6, SECOND):
            await store.put(LeaseKey(pa), lease(CustomerAddress(pa)), Expect.ABSENT)
        await store.put(KEY4, at("hv1"), Expect.ABSENT)

        for limit in (1, 2, 100):
            found = await listed(store, Prefix(Kind.LEASE), limit)
            assert [entry.key for entry in found] == [LeaseKey(pa) for pa in addresses]

    @timed_scenario
    async def test_lease_is_taken_by_compare_and_swap_and_given_back(
        self, store: LookupStore, clock: Clock
    ) -> None:
        stored = await store.put(LeaseKey(FIRST), lease(), Expect.ABSENT)
        assert stored.lease is not None
        with pytest.raises(Conflict):
            await store.put(LeaseKey(FIRST), lease(returned_at=clock.now), 7)

        back = await store.put(LeaseKey(FIRST), lease(returned_at=clock.now), stored.epoch)
        assert (back.value, back.epoch, back.lease) == (lease(returned_at=clock.now), 2, None)
        clock.now += QUARANTINE
        again = await store.put(LeaseKey(FIRST), lease(CA6, vsid=WEB), back.epoch)
        assert again.epoch == 3

    @timed_scenario
    async def test_lease_of_another_is_refused_even_at_the_expected_epoch(
        self, store: LookupStore, clock: Clock
    ) -> None:
        held = await store.put(LeaseKey(FIRST), lease(), Expect.ABSENT)

        for expected in (held.epoch, Expect.ANY):
            assert await taken(store.put(LeaseKey(FIRST), lease(vsid=WEB), expected)) is None
            assert (
                await taken(store.put(LeaseKey(FIRST), lease(CA6, returned_at=clock.now), expected)) is None
            )
            assert await taken(store.delete(LeaseKey(FIRST), expected)) is None
        assert await taken(store.put(KEY4, rewritten(FIRST), Expect.ABSENT)) is None
        assert await store.get(LeaseKey(FIRST)) == held
        assert await store.get(KEY4) is None

    @scenario
    async def test_grant_that_a_record_has_is_nobodys_to_change(self, store: LookupStore) -> None:
        record = await store.put(KEY4, rewritten(FIRST), Expect.ABSENT)
        granted = cast("Stored", await store.get(LeaseKey(FIRST)))
        own = cast("Grant", granted.value)

        assert await store.put(LeaseKey(FIRST), own, granted.epoch) == granted
        for other in (
            lease(),
            msgspec.structs.replace(own, returned_at=1_000.0),
            msgspec.structs.replace(own, node="hv2"),
            msgspec.structs.replace(own, leased=True),
        ):
            assert await taken(store.put(LeaseKey(FIRST), other, granted.epoch)) == record
        assert await taken(store.delete(LeaseKey(FIRST), granted.epoch)) == record
        assert await store.get(LeaseKey(FIRST)) == granted
        assert await revision_of(store) == record.revision

    @timed_scenario
    async def test_grant_is_deleted_only_once_anybody_could_have_it(
        self, store: LookupStore, clock: Clock
    ) -> None:
        await store.put(KEY4, rewritten(FIRST), Expect.ABSENT)
        await store.delete(KEY4, Expect.ANY)
        assert await taken(store.delete(LeaseKey(FIRST), Expect.ANY)) is None

        clock.now += QUARANTINE
        tombstone = await store.delete(LeaseKey(FIRST), Expect.ANY)
        assert (await listed(store, Prefix(Kind.LEASE)), cast("Stored", tombstone).value) == ([], None)
        stored = await store.put(LeaseKey(FIRST), lease(), Expect.ABSENT)
        assert stored.epoch == 4

    @scenario
    async def test_lease_of_a_customer_address_is_there_beside_its_records_own(
        self, store: LookupStore
    ) -> None:
        await store.put(KEY4, rewritten(FIRST), Expect.ABSENT)
        leased = await store.put(LeaseKey(SECOND), lease(vsid=WEB), Expect.ABSENT)
        await store.delete(KEY4, Expect.ANY)
        assert await store.get(LeaseKey(SECOND)) == leased

    @scenario
    async def test_exactly_one_of_many_that_want_an_address_gets_it(self, store: LookupStore) -> None:
        keys = [RecordKey(WEB, CustomerAddress(bytes((10, 0, 3, n)))) for n in range(6)]
        leases = [lease(CustomerAddress(bytes((10, 0, 4, n)))) for n in range(6)]
        outcomes = await asyncio.gather(
            *(store.put(key, rewritten(FIRST), Expect.ABSENT) for key in keys),
            *(store.put(LeaseKey(FIRST), each, Expect.ANY) for each in leases),
            return_exceptions=True,
        )

        winners = [outcome for outcome in outcomes if isinstance(outcome, Stored)]
        losers = [outcome for outcome in outcomes if isinstance(outcome, Taken)]
        assert (len(winners), len(losers)) == (1, 11)
        (winner,) = winners
        record = winner if winner.key != LeaseKey(FIRST) else None
        assert await listed(store, Prefix(Kind.RECORD)) == ([record] if record is not None else [])
        assert [loser.holder for loser in losers] == [record] * 11
