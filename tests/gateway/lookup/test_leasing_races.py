"""Many ask for leases at once, at one lookup node or at several."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.lookup.entries import Grant, LeaseKey, Stored
from gateway.lookup.grants import QUARANTINE
from gateway.lookup.outcomes import WhyNoLease
from gateway.lookup.store import Conflict, Expect
from policies.addresses import CustomerAddress
from policies.model import Lease
from tests.gateway.lookup.pooled import House, leased, pooled, refused, with_house, with_houses
from tests.gateway.lookup.serving import (
    GATEWAY,
    HV1,
    WEB,
    ca,
    prefix,
)

SERVER = ca("172.16.0.9")
OTHER = ca("172.16.0.10")


def test_many_who_ask_for_one_address_at_once_share_one_write() -> None:
    async def test(house: House) -> None:
        before = house.replica.revision
        found = await asyncio.gather(*(leased(house, HV1, WEB, SERVER) for _ in range(100)))
        assert len(set(found)) == 1
        assert house.replica.revision == before + 1

    with_house(test)


def test_who_is_cancelled_takes_the_lease_from_nobody_else() -> None:
    async def test(house: House) -> None:
        first, second = [asyncio.create_task(leased(house, HV1, WEB, SERVER)) for _ in range(2)]
        await asyncio.sleep(0)
        first.cancel()
        lease = await second
        assert house.leases() == [lease]
        assert first.cancelled()

    with_house(test)


def test_limit_is_kept_exactly_by_what_is_asked_at_once() -> None:
    async def test(house: House) -> None:
        asked = [house.authority.lease(HV1, WEB, ca(f"172.16.1.{number}")) for number in range(50)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(isinstance(each, Lease) for each in found) == 7
        await house.authority.return_leases(GATEWAY, [house.leases()[0].pa])
        await leased(house, HV1, WEB, SERVER)
        assert await refused(house, HV1, WEB, OTHER) is WhyNoLease.TENANT_LIMIT

    with_house(test, pooled(leases=7))


def test_two_lookup_nodes_that_lease_at_once_give_nobody_the_same_address() -> None:
    async def test(houses: Sequence[House]) -> None:
        asked = [
            leased(house, HV1, WEB, CustomerAddress(bytes((172, 16, number, side))))
            for number in range(200)
            for side, house in enumerate(houses)
        ]
        found = await asyncio.gather(*asked)
        assert len({lease.pa for lease in found}) == len(found) == 400
        for house in houses:
            assert await house.replica.reached(max(lease.revision for lease in found), 5)
            assert len(house.leases()) == 400

    with_houses(test, 2, pooled(edge_1=(prefix("198.18.0.0/23"),)))


def test_two_lookup_nodes_that_lease_for_one_ca_at_once_agree_on_the_first() -> None:
    async def test(houses: Sequence[House]) -> None:
        for number in range(100):
            wanted = CustomerAddress(bytes((172, 16, 1, number)))
            found = await asyncio.gather(*(leased(house, HV1, WEB, wanted) for house in houses))
            revision = max(house.replica.revision for house in houses)
            for house in houses:
                assert await house.replica.reached(revision, 5)
                (standing,) = house.replica.granted.leases_of(WEB, wanted)
                assert standing in found
                assert await leased(house, HV1, WEB, wanted) == standing

    with_houses(test, 3, pooled(edge_1=(prefix("198.18.0.0/22"),)))


def test_two_lookup_nodes_share_what_was_returned_without_meeting_at_each_address() -> None:
    async def test(houses: Sequence[House]) -> None:
        wanted = [CustomerAddress(bytes((172, 16, 1, number))) for number in range(126)]
        found = [await leased(houses[0], GATEWAY, WEB, each) for each in wanted]
        await houses[0].authority.return_leases(GATEWAY, [lease.pa for lease in found])
        houses[0].clock.now += QUARANTINE
        revision = houses[0].replica.revision
        assert await houses[1].replica.reached(revision, 5)
        others = [
            CustomerAddress(bytes((172, 16, 2 + side, number))) for side in range(2) for number in range(60)
        ]
        again = await asyncio.gather(*(leased(houses[each[2] - 2], GATEWAY, WEB, each) for each in others))
        assert len({lease.pa for lease in again}) == 120

    with_houses(test, 2, pooled(edge_1=(prefix("198.18.0.0/25"),)))


def test_address_that_another_node_took_a_moment_ago_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(house: House) -> None:
        put, fouls = house.store.put, 3

        async def overtaken(key: Any, value: Any, expected: Any) -> Stored:
            nonlocal fouls
            if isinstance(key, LeaseKey) and fouls:
                fouls -= 1
                current = await put(key, Grant(WEB, OTHER, "edge-1", leased=True), Expect.ANY)
                raise Conflict(key, current)
            return await put(key, value, expected)

        monkeypatch.setattr(house.store, "put", overtaken)
        lease = await leased(house, HV1, WEB, SERVER)
        assert house.replica.granted.leases_of(WEB, SERVER) == (lease,)
        assert len(house.leases()) == 4

    with_house(test)
