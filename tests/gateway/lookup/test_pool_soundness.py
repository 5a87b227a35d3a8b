"""What the network in the store must not say of IP rewrite."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gateway.lookup.soundness import faults
from policies.addresses import Prefix
from policies.model import AddressHop, CustomerRoute, LookupRecord, Network, ProviderHost, Tenant, Translation
from tests.gateway.lookup.serving import DB, NETWORK, WEB, ca, mac, pa, prefix

HV1, HV2, HV3 = NETWORK.hosts
SHARED = (prefix("198.51.100.128/26"), prefix("2001:db8:1::/112"))
OF_GATEWAY = (prefix("198.51.100.64/26"), prefix("2001:db8:2::/112"))
RECORD = LookupRecord(WEB, ca("10.0.1.5"), mac(5), pa("198.51.100.130"), "hv1", Translation.REWRITE)


def pooled(host: ProviderHost, *pools: Prefix) -> ProviderHost:
    return replace(host, pools=pools)


def network(*hosts: ProviderHost, of_gateway: tuple[Prefix, ...] = OF_GATEWAY, **changed: object) -> Network:
    """One whose tenant red is rewritten in web, at hosts that share their pools unless others are given."""
    return Network(
        hosts=hosts or (pooled(HV1, *SHARED), pooled(HV2, *SHARED), HV3),
        gateways=tuple(replace(each, pools=of_gateway) for each in NETWORK.gateways),
        tenants=tuple(
            _rewritten(each, **changed) if each.name == "red" else each for each in NETWORK.tenants
        ),
    )


def _rewritten(tenant: Tenant, **changed: object) -> Tenant:
    web = replace(tenant.subnets[0], translation=Translation.REWRITE)
    return replace(tenant, **{"subnets": (web, *tenant.subnets[1:]), **changed})


def test_hosts_may_share_a_pool_and_one_of_them_may_have_none() -> None:
    assert list(faults(network())) == []
    assert list(faults(network(records=(RECORD,)))) == []
    assert list(faults(network(pooled(HV1, *SHARED), HV2, HV3))) == []


def test_a_tenant_may_be_there_before_its_hosts() -> None:
    assert list(faults(network(replace(HV3, tenants=("blue",))))) == []


def test_a_vm_may_have_its_own_way_and_be_what_a_route_leads_through() -> None:
    through = (CustomerRoute(prefix("10.9.0.0/16"), AddressHop(ca("10.0.1.5"))),)
    encapsulated = replace(RECORD, pa=HV1.provider_addresses[0], translation=Translation.ENCAP)

    assert list(faults(network(records=(encapsulated,), routes=through))) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (network(pooled(HV1, *SHARED), pooled(HV2, prefix("198.51.100.128/27"))), "overlaps"),
        (network(of_gateway=SHARED), "only hosts can share one"),
        (network(pooled(HV1, *SHARED, prefix("198.51.100.8/29"))), "198.51.100.11 of hv1 is in pool"),
        (network(pooled(HV1, *SHARED, prefix("203.0.113.0/24"))), "203.0.113.7 of red/seattle is in pool"),
        (network(pooled(HV1, *SHARED, prefix("10.1.0.0/31"))), "too small"),
        (network(pooled(HV1, *SHARED, prefix("2001:db8:9::/48"))), "too large"),
        (network(pooled(HV1, *SHARED, prefix("224.1.0.0/24"))), "multicast"),
        (network(pooled(HV1, *SHARED, prefix("::ffff:0:0/96"))), "IPv4-mapped"),
        (network(pooled(HV1, *(prefix(f"100.64.{number}.0/24") for number in range(65)))), "65 pools"),
        (network(pooled(HV1, SHARED[0]), HV3), "none of its hosts has a pool of IPv6"),
        (network(of_gateway=()), "gateway edge-1 has no pool of IPv4"),
        (network(records=(replace(RECORD, pa=pa("198.51.100.11")),)), "is in no pool of hv1"),
        (network(records=(replace(RECORD, pa=pa("198.51.100.191")),)), "first or the last"),
        (network(records=(replace(RECORD, pa=pa("2001:db8:1::5")),)), "not of the family"),
        (
            network(records=(RECORD, replace(RECORD, vsid=DB, ca=ca("10.0.2.5")))),
            "198.51.100.130 is there twice",
        ),
        (
            network(routes=(CustomerRoute(prefix("10.9.0.0/16"), AddressHop(ca("10.0.1.5"))),)),
            "10.0.1.5 is rewr",
        ),
        (network(leases=0), "leases"),
    ],
)
def test_what_nobody_could_be_rewritten_by_is_named(wrong: Network, words: str) -> None:
    assert any(words in fault for fault in faults(wrong)), list(faults(wrong))


def test_broadcast_is_not_rewritten() -> None:
    red = next(each for each in network().tenants if each.name == "red")
    loud = replace(red.subnets[0], broadcast=True)

    assert list(faults(network(subnets=(loud, *red.subnets[1:])))) == [
        "tenant red: subnet web: broadcast cannot be carried with translation rewrite"
    ]
