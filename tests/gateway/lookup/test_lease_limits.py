from __future__ import annotations

from ipaddress import ip_network

import pytest

from gateway.lookup.lease_limits import lease_limits
from policies.addresses import ProviderAddress
from policies.model import Network, ProviderGateway, Tenant

PA = ProviderAddress.parse("192.0.2.254")


def limits(pools: tuple[str, ...], *tenants: Tenant) -> dict[str, int]:
    gateway = ProviderGateway("edge-1", (PA,), tuple(map(ip_network, pools)))
    return lease_limits(Network(gateways=(gateway,), tenants=tenants))


def tenant(name: str, leases: int | None = None) -> Tenant:
    return Tenant(name, ("edge-1",), (), leases=leases)


def test_a_tenant_that_shares_a_pool_can_drain_no_more_than_half_of_it() -> None:
    found = limits(("192.0.2.64/26",), tenant("red"), tenant("blue"))

    assert found == {"red": 15, "blue": 15}
    assert 2 * found["red"] <= 62 // 2


def test_a_tenant_alone_has_the_pool_for_itself() -> None:
    assert limits(("192.0.2.64/26",), tenant("red")) == {"red": 62}


def test_the_family_that_there_is_less_of_counts() -> None:
    both = "192.0.2.64/26", "192.0.2.128/26", "2001:db8::/64"

    assert limits(both, tenant("red"), tenant("blue")) == {"red": 31, "blue": 31}


@pytest.mark.parametrize("leases", [1, 200, 1_000_000])
def test_what_is_configured_is_the_limit(leases: int) -> None:
    assert limits(("192.0.2.64/26",), tenant("red", leases), tenant("blue"))["red"] == leases


def test_large_pools_give_nobody_more_than_a_thousand() -> None:
    assert limits(("2001:db8::/64",), tenant("red"), tenant("blue")) == {"red": 1000, "blue": 1000}
    assert limits(("2001:db8::/64",), tenant("red")) == {"red": 1000}


def test_a_gateway_without_pools_limits_nothing() -> None:
    assert limits((), tenant("red")) == {"red": 1000}
