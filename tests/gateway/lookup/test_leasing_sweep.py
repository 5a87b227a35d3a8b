"""A lookup node returns the leases that nobody needs any more."""

from __future__ import annotations

import msgspec

from gateway.lookup.entries import Grant, LeaseKey, RecordKey
from gateway.lookup.grants import QUARANTINE
from gateway.lookup.store import Expect
from policies.model import Network
from tests.gateway.lookup.pooled import House, leased, pooled, with_house
from tests.gateway.lookup.serving import (
    BLUE,
    DB,
    GATEWAY,
    HV1,
    OPERATOR,
    WEB,
    ca,
    pa,
    prefix,
)

SERVER = ca("172.16.0.9")


async def swept(house: House, network: Network | None = None) -> int:
    if network is not None:
        await house.apply(network)
    return await house.authority.leasing.sweep()


def test_sweep_leaves_what_is_needed() -> None:
    async def test(house: House) -> None:
        await house.place(DB, "10.0.2.5", 5)
        await house.place(WEB, "10.0.1.5", 6, own="203.0.113.3")
        for vsid, address in ((WEB, SERVER), (DB, ca("10.0.2.5")), (WEB, ca("10.0.1.1"))):
            await leased(house, GATEWAY, vsid, address)
        assert await swept(house) == 0
        assert len(house.leases()) == 3
        assert house.replica.granted.grant(pa("203.0.113.3")) == Grant(WEB, ca("10.0.1.5"), "hv1")

    with_house(test)


def test_sweep_returns_the_lease_of_a_vm_that_is_rewritten_by_now_or_gone() -> None:
    async def test(house: House) -> None:
        for number in (5, 6):
            await house.place(DB, f"10.0.2.{number}", number)
            await leased(house, HV1, DB, ca(f"10.0.2.{number}"))
        await house.place(DB, "10.0.2.5", 5, own="203.0.113.3")
        await house.authority.delete(OPERATOR, RecordKey(DB, ca("10.0.2.6")), Expect.ANY)
        assert await swept(house) == 2
        assert house.leases() == []
        assert house.replica.granted.grant(pa("203.0.113.3")) == Grant(DB, ca("10.0.2.5"), "hv1")

    with_house(test)


def test_sweep_returns_leases_of_what_is_gone_from_the_network() -> None:
    async def test(house: House) -> None:
        await house.place(BLUE, "10.0.1.5", 5, "hv2")
        await leased(house, GATEWAY, BLUE, ca("10.0.1.5"))
        await leased(house, GATEWAY, WEB, SERVER)
        await house.authority.lease(OPERATOR, WEB, SERVER, "edge-2")
        assert await swept(house, pooled(gateways=("edge-1",))) == 1
        without_blue = msgspec.structs.replace(pooled(), tenants=pooled().tenants[:1])
        await swept(house, without_blue)  # which the change itself may have done already
        assert [(lease.ca, lease.node) for lease in house.leases()] == [(SERVER, "edge-1")]
        assert await swept(house, pooled(edge_1=(prefix("192.0.2.64/28"),))) == 1

    with_house(test)


def test_sweep_forgets_addresses_that_are_in_no_pool_once_their_quarantine_is_over() -> None:
    async def test(house: House) -> None:
        lease = await leased(house, GATEWAY, WEB, SERVER)
        assert await swept(house, pooled(edge_1=(prefix("192.0.2.64/28"),))) == 1
        await swept(house)
        assert house.replica.granted.grant(lease.pa) is not None
        house.clock.now += QUARANTINE
        await swept(house)
        entry = await house.store.get(LeaseKey(lease.pa))
        assert entry is not None
        assert entry.value is None

    with_house(test)


def test_sweep_leaves_one_lease_of_several_for_one_ca() -> None:
    async def test(house: House) -> None:
        first = await leased(house, GATEWAY, WEB, SERVER)
        second = pa("192.0.2.129") if first.pa != pa("192.0.2.129") else pa("192.0.2.130")
        stored = await house.store.put(
            LeaseKey(second), Grant(WEB, SERVER, "edge-1", leased=True), Expect.ABSENT
        )
        assert await house.replica.reached(stored.revision, 5)
        assert await swept(house) == 1
        assert house.leases() == [first]

    with_house(test)


def test_node_that_is_cut_off_from_its_store_sweeps_nothing() -> None:
    async def test(house: House) -> None:
        await house.place(DB, "10.0.2.5", 5)
        await leased(house, HV1, DB, ca("10.0.2.5"))
        await house.authority.delete(OPERATOR, RecordKey(DB, ca("10.0.2.5")), Expect.ANY)
        house.replica.stale_since = 0.0
        assert await swept(house) == 0
        house.replica.stale_since = None
        assert await swept(house) == 1

    with_house(test)
