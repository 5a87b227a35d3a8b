"""What every lookup store promises of hosts' claims."""

from __future__ import annotations

import asyncio
from typing import cast

import msgspec

from gateway.lookup.claims import Mode, Reason, unfrozen
from gateway.lookup.entries import Placement, RecordKey, Stored
from gateway.lookup.store import Expect, LookupStore
from tests.gateway.lookup.entries import (
    CA4,
    CA6,
    DATABASE,
    KEY4,
    KEY6,
    OTHER_MAC,
    at,
    claim,
    key_of,
    refusal,
    revision_of,
    scenario,
    told,
)


class ClaimContract:
    """All of a MAC's addresses, or none."""

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
        assert sorted(changes[:2], key=key_of) == registered
        assert sorted(changes[2:], key=key_of) == moved
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
    async def test_claim_that_names_an_address_twice_is_as_if_it_did_so_once(
        self, store: LookupStore
    ) -> None:
        (stored,) = await store.claim(claim("hv1", Mode.REGISTER, addresses=(CA4, CA4)))
        assert (stored.key, stored.epoch) == (KEY4, 1)

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
        assert await refusal(store, claim("hv2")) == (Reason.UNKNOWN, None)

    @scenario
    async def test_record_given_to_another_mac_is_not_the_formers_any_more(self, store: LookupStore) -> None:
        await store.put(KEY4, at("hv1"), Expect.ABSENT)
        await store.put(KEY4, at("hv1", mac=OTHER_MAC), Expect.ANY)

        assert await refusal(store, claim("hv2")) == (Reason.UNKNOWN, None)
        assert [entry.key for entry in await store.claim(claim("hv2", mac=OTHER_MAC))] == [KEY4]
        assert [entry.key for entry in await store.claim(claim("hv1", addresses=(CA6,)))] == [KEY6]

    @scenario
    async def test_address_of_another_mac_is_refused_and_nothing_moves(self, store: LookupStore) -> None:
        own = await store.put(KEY4, at("hv1"), Expect.ABSENT)
        others = await store.put(KEY6, at("hv1", mac=OTHER_MAC), Expect.ABSENT)

        assert await refusal(store, claim("hv2", addresses=(CA6,))) == (Reason.OTHER_MAC, others)
        assert await store.get(KEY4) == own
        assert await revision_of(store) == others.revision

    @scenario
    async def test_registration_does_not_take_what_is_elsewhere(self, store: LookupStore) -> None:
        own = await store.put(KEY4, at("hv1"), Expect.ABSENT)
        assert await refusal(store, claim("hv2", Mode.REGISTER)) == (Reason.ELSEWHERE, own)

    @scenario
    async def test_pinned_record_is_never_claimed(self, store: LookupStore) -> None:
        pinned = await store.put(KEY4, at("hv1", pinned=True), Expect.ABSENT)
        await store.put(KEY6, at("hv1"), Expect.ABSENT)
        before = await revision_of(store)

        for mode in Mode:
            assert await refusal(store, claim("hv2", mode)) == (Reason.PINNED, pinned)
        stranger = claim("hv2", mac=OTHER_MAC, addresses=(CA4,))
        assert await refusal(store, stranger) == (Reason.PINNED, pinned)
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
        assert await refusal(store, claim("hv1", now=1_005.0)) == (Reason.FROZEN, frozen)
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
