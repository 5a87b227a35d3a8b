"""What a host or a gateway asks of the authority in its own process."""

from __future__ import annotations

import pytest

from gateway.http.principals import Principal
from gateway.lookup.outcomes import Forbidden, Unacceptable
from gateway.lookup.roles import Local
from policies.model import Lease
from policies.services import Role
from tests.gateway.lookup.pooled import House, pooled, with_house
from tests.gateway.lookup.serving import BLUE, HV1, HV2, WEB, ca

EDGE2 = Principal("edge-2", Role.GATEWAY)
SERVER = ca("172.16.0.9")


def test_a_gateway_leases_of_its_own_pools_and_returns_it() -> None:
    async def test(house: House) -> None:
        local = Local(house.authority, None, EDGE2)
        lease = await local.lease(WEB, SERVER)
        assert isinstance(lease, Lease)
        assert lease.node == "edge-2"

        await local.return_leases([lease.pa])
        assert house.leases() == []

    with_house(test)


def test_a_host_leases_of_the_gateway_that_it_reaches_the_address_by_and_returns_nothing() -> None:
    async def test(house: House) -> None:
        local = Local(house.authority, HV1, None)
        lease = await local.lease(WEB, SERVER)
        assert isinstance(lease, Lease)
        assert lease.node == "edge-1"
        with pytest.raises(Forbidden, match="there is no gateway here"):
            await local.return_leases([lease.pa])

    with_house(test)


def test_a_host_that_is_a_gateway_of_others_leases_as_a_host() -> None:
    async def test(house: House) -> None:
        lease = await Local(house.authority, HV2, EDGE2).lease(WEB, SERVER)
        assert isinstance(lease, Lease)
        assert lease.node == "edge-1"

    with_house(test, pooled(gateways=("edge-1",)))


def test_what_neither_may_lease_is_refused() -> None:
    async def test(house: House) -> None:
        with pytest.raises(Forbidden):
            await Local(house.authority, None, None).lease(WEB, SERVER)
        with pytest.raises(Unacceptable):
            await Local(house.authority, None, EDGE2).lease(WEB, SERVER)
        with pytest.raises((Forbidden, Unacceptable)):
            await Local(house.authority, HV1, EDGE2).lease(BLUE, SERVER)

    with_house(test, pooled(gateways=("edge-1",)))
