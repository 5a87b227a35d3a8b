"""Who gets which lease of the gateways' pools, who may not, and what becomes of it when it is returned."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import msgspec
import pytest

from gateway.http.principals import Principal
from gateway.lookup.alerts import AlertKind
from gateway.lookup.entries import Grant, LeaseKey, RecordKey
from gateway.lookup.grants import QUARANTINE
from gateway.lookup.outcomes import Forbidden, NoLease, Unacceptable, WhyNoLease
from policies.addresses import CustomerAddress, Vsid
from policies.model import Lease
from policies.services import Role
from tests.gateway.lookup.pooled import House, leased, pooled, refused, with_house
from tests.gateway.lookup.serving import (
    BLUE,
    DB,
    GATEWAY,
    HV1,
    HV2,
    HV3,
    OPERATOR,
    READER,
    WEB,
    ca,
    pa,
    prefix,
)

EDGE2 = Principal("edge-2", Role.GATEWAY)
SERVER = ca("172.16.0.9")
OTHER = ca("172.16.0.10")


def test_address_at_a_site_gets_a_lease_of_the_sites_gateway_that_everybody_is_given() -> None:
    async def test(house: House) -> None:
        lease = await leased(house, HV1, WEB, SERVER)
        assert (lease.vsid, lease.ca, lease.node) == (WEB, SERVER, "edge-1")
        assert ip_address(bytes(lease.pa)) in ip_network("192.0.2.128/28")
        assert house.replica.granted.leases_of(WEB, SERVER) == (lease,)
        before = await house.store.get(LeaseKey(lease.pa))
        for principal in (HV1, HV2, GATEWAY, OPERATOR):
            assert await leased(house, principal, WEB, SERVER) == lease
        assert await house.store.get(LeaseKey(lease.pa)) == before
        assert len(house.leases()) == 1

    with_house(test)


def test_encapsulated_vm_gets_a_lease_of_the_first_gateway_that_has_a_pool() -> None:
    async def test(house: House) -> None:
        await house.place(DB, "10.0.2.5", 5)
        assert (await leased(house, HV1, DB, ca("10.0.2.5"))).node == "edge-2"

    with_house(test, pooled(edge_1=()))


def test_gateway_gets_leases_of_its_own_pools() -> None:
    async def test(house: House) -> None:
        await house.place(DB, "10.0.2.5", 5)
        first, second = [await leased(house, each, DB, ca("10.0.2.5")) for each in (GATEWAY, EDGE2)]
        assert (first.node, second.node) == ("edge-1", "edge-2")
        assert await leased(house, HV1, DB, ca("10.0.2.5")) == first

    with_house(test)


def test_gateways_own_address_gets_a_lease_that_counts_for_no_tenant() -> None:
    async def test(house: House) -> None:
        for vsid, text in ((WEB, "10.0.1.1"), (WEB, "fd00:1::1"), (DB, "10.0.2.1")):
            lease = await leased(house, GATEWAY, vsid, ca(text))
            assert lease.pa.version == ca(text).version
        await leased(house, HV1, WEB, SERVER)
        assert await refused(house, HV1, WEB, OTHER) is WhyNoLease.TENANT_LIMIT

    with_house(test, pooled(leases=1))


def test_rewritten_vm_has_its_record_returned_and_a_host_is_taught_it() -> None:
    async def test(house: House) -> None:
        record = await house.place(WEB, "10.0.1.5", 5, own="203.0.113.3")
        for principal in (HV1, GATEWAY, OPERATOR):
            assert await house.authority.lease(principal, WEB, record.ca) == record
        assert list(house.authority.followers.taught("hv1")) == [RecordKey(WEB, record.ca)]
        assert not house.authority.followers.taught("edge-1")
        assert not house.leases()

    with_house(test)


def test_vm_whose_address_is_routed_to_a_site_gets_a_lease_and_not_its_record() -> None:
    network = pooled()
    red = network.tenants[0]
    seattle = msgspec.structs.replace(red.sites[0], prefixes=(*red.sites[0].prefixes, prefix("10.0.1.7/32")))
    red = msgspec.structs.replace(red, sites=(seattle,))

    async def test(house: House) -> None:
        await house.place(WEB, "10.0.1.7", 7, own="203.0.113.3")
        await leased(house, HV1, WEB, ca("10.0.1.7"))

    with_house(test, msgspec.structs.replace(network, tenants=(red, *network.tenants[1:])))


def test_what_is_routed_through_a_vm_gets_a_lease() -> None:
    async def test(house: House) -> None:
        assert (await leased(house, HV1, WEB, ca("10.77.1.1"))).vsid == WEB

    with_house(test)


@pytest.mark.parametrize(
    ("vsid", "text"),
    [
        (WEB, "10.0.1.77"),
        (WEB, "10.0.1.255"),
        (DB, "10.0.2.77"),
        (WEB, "8.8.8.8"),
        (WEB, "224.0.0.5"),
        (WEB, "fe80::1"),
        (WEB, "fd00:9::1"),
    ],
)
def test_address_that_is_nobodys_gets_no_lease(vsid: Vsid, text: str) -> None:
    async def test(house: House) -> None:
        assert await refused(house, HV1, vsid, ca(text)) is WhyNoLease.UNKNOWN
        assert not house.leases()

    with_house(test)


@pytest.mark.parametrize("text", ["224.0.0.5", "255.255.255.255", "0.0.0.0", "127.0.0.1", "169.254.1.1"])
def test_default_route_to_a_site_makes_no_station_of_what_is_none(text: str) -> None:
    network = pooled()
    red = network.tenants[0]
    seattle = msgspec.structs.replace(red.sites[0], prefixes=(prefix("0.0.0.0/0"),))
    red = msgspec.structs.replace(red, sites=(seattle,))

    async def test(house: House) -> None:
        assert await refused(house, HV1, WEB, ca(text)) is WhyNoLease.UNKNOWN
        await leased(house, HV1, WEB, ca("8.8.8.8"))

    with_house(test, msgspec.structs.replace(network, tenants=(red, *network.tenants[1:])))


@pytest.mark.parametrize(
    ("principal", "vsid", "text", "gateway"),
    [
        (READER, WEB, "172.16.0.9", None),
        (HV3, WEB, "172.16.0.9", None),
        (HV1, BLUE, "10.0.1.1", None),
        (HV1, Vsid(9999), "172.16.0.9", None),
        (HV1, WEB, "172.16.0.9", "edge-1"),
        (GATEWAY, WEB, "172.16.0.9", "edge-2"),
    ],
)
def test_lease_beyond_what_somebody_may_is_forbidden_and_told(
    principal: Principal, vsid: Vsid, text: str, gateway: str | None
) -> None:
    async def test(house: House) -> None:
        with pytest.raises((Forbidden, Unacceptable)) as refusal:
            await house.authority.lease(principal, vsid, ca(text), gateway)
        assert isinstance(refusal.value, Forbidden)
        assert house.authority.alerts.counts == {AlertKind.REFUSED: 1}
        assert not house.leases()

    with_house(test)


@pytest.mark.parametrize(
    ("vsid", "text", "gateway"),
    [(DB, "172.16.0.9", None), (WEB, "10.0.2.5", None), (WEB, "172.16.0.9", "edge-9")],
)
def test_lease_that_cannot_be_is_refused_in_words(vsid: Vsid, text: str, gateway: str | None) -> None:
    async def test(house: House) -> None:
        with pytest.raises(Unacceptable):
            await house.authority.lease(OPERATOR, vsid, ca(text), gateway)

    with_house(test)


def test_gateway_that_is_none_of_the_tenants_gets_no_lease() -> None:
    async def test(house: House) -> None:
        with pytest.raises(Unacceptable):
            await house.authority.lease(EDGE2, WEB, SERVER)

    with_house(test, pooled(gateways=("edge-1",)))


def test_operator_says_at_which_gateway() -> None:
    async def test(house: House) -> None:
        lease = await house.authority.lease(OPERATOR, WEB, SERVER, "edge-2")
        assert isinstance(lease, Lease)
        assert lease.node == "edge-2"

    with_house(test)


def test_family_without_a_pool_is_told_apart_from_a_pool_that_is_empty() -> None:
    async def test(house: House) -> None:
        await house.place(WEB, "fd00:1::5", 5)
        assert await refused(house, HV1, WEB, ca("fd00:1::5")) is WhyNoLease.NO_POOL
        for number in range(14):
            await leased(house, HV1, WEB, ca(f"172.16.1.{number}"))
        assert await refused(house, HV1, WEB, SERVER) is WhyNoLease.POOL_EMPTY
        assert await refused(house, HV1, WEB, SERVER) is WhyNoLease.POOL_EMPTY
        assert house.authority.alerts.counts == {AlertKind.NO_LEASE: 1}

    with_house(test, pooled(edge_1=(prefix("192.0.2.128/28"),)))


def test_returned_address_is_in_quarantine_for_all_but_whose_it_was() -> None:
    async def test(house: House) -> None:
        found = [await leased(house, HV1, WEB, ca(f"172.16.1.{number}")) for number in range(14)]
        await house.authority.return_leases(GATEWAY, [each.pa for each in found[:2]])
        assert house.replica.granted.leases_of(WEB, found[0].ca) == ()
        assert await refused(house, HV1, WEB, SERVER) is WhyNoLease.POOL_EMPTY
        house.clock.now += QUARANTINE - 1
        assert await refused(house, HV1, WEB, SERVER) is WhyNoLease.POOL_EMPTY
        assert (await leased(house, HV1, WEB, found[0].ca)).pa == found[0].pa
        house.clock.now += 1
        assert (await leased(house, HV1, WEB, SERVER)).pa == found[1].pa

    with_house(test)


def test_return_of_what_nobody_holds_is_passed_over() -> None:
    async def test(house: House) -> None:
        lease = await leased(house, HV1, WEB, SERVER)
        for _ in range(2):
            await house.authority.return_leases(GATEWAY, [lease.pa, lease.pa, pa("192.0.2.140")])
        entry = await house.store.get(LeaseKey(lease.pa))
        assert entry is not None
        assert isinstance(entry.value, Grant)
        assert entry.value.returned_at == house.clock.now
        assert entry.epoch == 2

    with_house(test)


@pytest.mark.parametrize("principal", [HV1, READER, EDGE2], ids=lambda each: each.name)
def test_leases_are_returned_by_their_own_gateway_alone(principal: Principal) -> None:
    async def test(house: House) -> None:
        lease = await leased(house, HV1, WEB, SERVER)
        with pytest.raises(Forbidden):
            await house.authority.return_leases(principal, [lease.pa])
        assert house.leases() == [lease]
        await house.authority.return_leases(OPERATOR, [lease.pa])
        assert house.leases() == []

    with_house(test)


def test_address_of_a_rewritten_vm_is_not_returned_as_a_lease() -> None:
    async def test(house: House) -> None:
        record = await house.place(WEB, "10.0.1.5", 5, own="203.0.113.3")
        with pytest.raises(Unacceptable, match="record"):
            await house.authority.return_leases(OPERATOR, [record.pa])

    with_house(test)


def test_vm_that_scans_a_sites_prefix_stops_at_its_tenants_limit_and_hurts_no_other_tenant() -> None:
    network = pooled(leases=100, edge_1=(prefix("10.64.0.0/18"),))

    async def test(house: House) -> None:
        scanned = [CustomerAddress(bytes((172, 16, high, low))) for high in range(16) for low in range(256)]
        reasons: list[WhyNoLease] = []

        async def scan(some: Sequence[CustomerAddress]) -> None:
            for each in some:
                try:
                    await house.authority.lease(HV1, WEB, each)
                except NoLease as error:
                    reasons.append(error.reason)

        await asyncio.gather(*(scan(scanned[start::64]) for start in range(64)))
        assert len(house.leases()) == 100
        assert set(reasons) == {WhyNoLease.TENANT_LIMIT}
        assert len(reasons) == len(scanned) - 100
        assert house.authority.alerts.counts == {AlertKind.NO_LEASE: 1}
        await house.place(BLUE, "10.0.1.5", 5, "hv2")
        assert (await leased(house, HV2, BLUE, ca("10.0.1.5"))).node == "edge-1"
        # What stands is had by its tenant as before.
        lease = house.leases()[0]
        assert await leased(house, HV1, WEB, lease.ca) == lease

    with_house(test, network)


def test_limit_is_of_each_gateway_by_itself() -> None:
    async def test(house: House) -> None:
        await house.place(DB, "10.0.2.5", 5)
        await leased(house, GATEWAY, WEB, SERVER)
        assert await refused(house, GATEWAY, DB, ca("10.0.2.5")) is WhyNoLease.TENANT_LIMIT
        await leased(house, EDGE2, DB, ca("10.0.2.5"))

    with_house(test, pooled(leases=1))
