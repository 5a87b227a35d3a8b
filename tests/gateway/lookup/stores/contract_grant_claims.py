"""What every lookup store promises of claims whose records need addresses of their hosts' pools."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from typing import cast

import msgspec

from gateway.lookup.claims import Claim, Mode, Reason
from gateway.lookup.entries import Grant, Kind, LeaseKey, Placement, Stored
from gateway.lookup.store import Expect, LookupStore, Prefix
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.model import Translation
from tests.gateway.lookup.entries import (
    CA4,
    CA6,
    DATABASE,
    KEY4,
    KEY6,
    MAC,
    OTHER_MAC,
    WEB,
    Clock,
    at,
    claim,
    listed,
    refusal,
    revision_of,
    scenario,
    timed_scenario,
)
from tests.gateway.lookup.stores.contract_grants import (
    FIRST,
    FIRST6,
    OTHER,
    SECOND,
    THIRD,
    grant_of,
    rewritten,
    taken,
)

POOL4, POOL6 = ip_network("203.0.113.0/24"), ip_network("2001:db8:5::/112")


def rewriting(
    host: str,
    mode: Mode = Mode.ORCHESTRATE,
    *,
    candidates: tuple[ProviderAddress, ...] = (),
    addresses: tuple[CustomerAddress, ...] = (),
) -> Claim:
    return msgspec.structs.replace(
        claim(host, mode, addresses=addresses),
        translation=Translation.REWRITE,
        pools=(POOL4, POOL6),
        candidates=candidates,
    )


class GrantClaimContract:
    """A claim takes and gives back all the addresses that it needs, in one write or not at all."""

    @scenario
    async def test_claim_gives_each_new_record_the_next_candidate_of_its_family(
        self, store: LookupStore
    ) -> None:
        candidates = (FIRST6, FIRST, SECOND)
        wanted = rewriting("hv1", Mode.REGISTER, candidates=candidates, addresses=(CA4, CA6))
        four, six = await store.claim(wanted)

        assert (four.value, six.value) == (rewritten(FIRST), rewritten(FIRST6))
        assert await grant_of(store, FIRST) == Grant(WEB, CA4, "hv1")
        assert await grant_of(store, FIRST6) == Grant(WEB, CA6, "hv1")
        assert await grant_of(store, SECOND) is None
        assert await store.claim(wanted) == [four, six]
        assert await revision_of(store) == four.revision

    @scenario
    async def test_claim_by_a_host_of_the_same_pool_keeps_the_address(self, store: LookupStore) -> None:
        await store.put(KEY4, rewritten(FIRST), Expect.ABSENT)
        (moved,) = await store.claim(rewriting("hv2", candidates=(SECOND,)))

        assert (moved.value, moved.epoch) == (rewritten(FIRST, "hv2"), 2)
        assert await store.get(LeaseKey(FIRST)) == Stored(
            LeaseKey(FIRST), Grant(WEB, CA4, "hv2"), 2, moved.revision
        )
        assert await store.claim(rewriting("hv2", candidates=(SECOND,))) == [moved]
        assert await revision_of(store) == moved.revision

    @timed_scenario
    async def test_claim_by_a_host_of_other_pools_takes_a_candidate(
        self, store: LookupStore, clock: Clock
    ) -> None:
        elsewhere = ProviderAddress.parse("198.51.100.200")
        await store.put(KEY4, rewritten(elsewhere), Expect.ABSENT)
        (moved,) = await store.claim(rewriting("hv2", candidates=(FIRST6, SECOND)))

        assert moved.value == rewritten(SECOND, "hv2")
        assert await grant_of(store, elsewhere) == Grant(WEB, CA4, "hv1", returned_at=clock.now)
        assert await grant_of(store, SECOND) == Grant(WEB, CA4, "hv2")

    @scenario
    async def test_claim_without_an_address_left_is_refused_and_nothing_moves(
        self, store: LookupStore
    ) -> None:
        four = await store.put(KEY4, rewritten(FIRST), Expect.ABSENT)
        six = await store.put(KEY6, rewritten(ProviderAddress.parse("2001:db8:9::1")), Expect.ABSENT)

        assert await refusal(store, rewriting("hv2", candidates=(SECOND,))) == (Reason.NO_ADDRESS, six)
        assert [await store.get(KEY4), await store.get(KEY6)] == [four, six]
        assert await revision_of(store) == six.revision

    @scenario
    async def test_claim_whose_candidate_is_anothers_takes_nothing(self, store: LookupStore) -> None:
        other = await store.put(OTHER, rewritten(SECOND), Expect.ABSENT)
        wanted = rewriting("hv1", Mode.REGISTER, candidates=(FIRST, FIRST6, SECOND), addresses=(CA4, CA6))
        third = CustomerAddress.parse("10.0.1.7")

        crowded = msgspec.structs.replace(wanted, addresses=(CA4, CA6, third))
        assert await taken(store.claim(crowded)) == other
        assert await listed(store, Prefix(Kind.RECORD)) == [other]
        assert await revision_of(store) == other.revision
        assert len(await store.claim(wanted)) == 2

    @scenario
    async def test_claim_leaves_encapsulated_records_at_the_hosts_own_address(
        self, store: LookupStore
    ) -> None:
        await store.put(KEY4, at("hv1"), Expect.ABSENT)
        four, six = await store.claim(rewriting("hv2", candidates=(FIRST6,), addresses=(CA6,)))
        assert (four.value, six.value) == (at("hv2"), rewritten(FIRST6, "hv2"))

    @scenario
    async def test_pinned_record_keeps_its_address_whatever_is_claimed(self, store: LookupStore) -> None:
        pinned = msgspec.structs.replace(rewritten(THIRD), pinned=True)
        stored = await store.put(KEY4, pinned, Expect.ABSENT)
        assert await store.claim(rewriting("hv1", candidates=(FIRST,))) == [stored]
        assert await grant_of(store, THIRD) == Grant(WEB, CA4, "hv1")

    @scenario
    async def test_many_records_of_a_mac_change_their_addresses_in_one_write(
        self, store: LookupStore
    ) -> None:
        addresses = tuple(CustomerAddress(bytes((10, 0, 5, n))) for n in range(40))
        old, new = (
            tuple(ProviderAddress(bytes((*net, n))) for n in range(40))
            for net in ((198, 51, 99), (203, 0, 113))
        )
        elsewhere = msgspec.structs.replace(
            rewriting("hv1", Mode.REGISTER, candidates=old, addresses=addresses),
            pools=(ip_network("198.51.99.0/24"),),
        )
        await store.claim(elsewhere)
        moved = await store.claim(rewriting("hv2", candidates=new))

        assert [cast("Placement", entry.value).pa for entry in moved] == list(new)
        assert {entry.revision for entry in await listed(store, Prefix(Kind.LEASE))} == {moved[0].revision}
        assert await refusal(store, rewriting("hv2", candidates=(THIRD, FIRST), addresses=(CA4, CA6))) == (
            Reason.NO_ADDRESS,
            None,
        )

    @scenario
    async def test_claims_at_once_for_the_same_candidate_end_with_one_of_them(
        self, store: LookupStore
    ) -> None:
        wanted = rewriting("hv1", Mode.REGISTER, candidates=(FIRST,), addresses=(CA4,))
        claims = [
            msgspec.structs.replace(wanted, mac=mac, vsid=vsid)
            for mac in (MAC, OTHER_MAC)
            for vsid in (WEB, DATABASE, Vsid(5003))
        ]
        outcomes = await asyncio.gather(*map(store.claim, claims), return_exceptions=True)
        assert len([outcome for outcome in outcomes if isinstance(outcome, list)]) == 1
        assert len(await listed(store, Prefix(Kind.RECORD))) == 1
