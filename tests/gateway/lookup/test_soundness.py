from __future__ import annotations

import pytest
from msgspec.structs import replace

from gateway.lookup.soundness import address_fault, faults, mac_fault
from policies.addresses import BROADCAST_MAC, CustomerAddress, MacAddress, Vsid, gateway_mac
from policies.model import (
    AccessRule,
    Action,
    CustomerRoute,
    Endpoint,
    Limits,
    LookupRecord,
    Network,
    PortRange,
    SiteHop,
    SubnetHop,
    Translation,
    VirtualSubnet,
)
from tests.gateway.lookup.serving import DB, NETWORK, WEB, ca, mac, pa, prefix

RED = next(tenant for tenant in NETWORK.tenants if tenant.name == "red")
SUBNET = RED.subnets[0]
RECORD = LookupRecord(WEB, ca("10.0.1.5"), mac(5), pa("198.51.100.11"), "hv1")


def with_red(**changed: object) -> Network:
    tenants = tuple(replace(each, **changed) if each.name == "red" else each for each in NETWORK.tenants)
    return replace(NETWORK, tenants=tenants)


def with_subnet(**changed: object) -> Network:
    return with_red(subnets=(replace(SUBNET, **changed), *RED.subnets[1:]))


def with_host(**changed: object) -> Network:
    return replace(NETWORK, hosts=(replace(NETWORK.hosts[0], **changed), *NETWORK.hosts[1:]))


def rule(**changed: object) -> Network:
    return with_red(access=(replace(AccessRule("web", Action.ALLOW), **changed),))


def test_sound_network_has_no_fault() -> None:
    routes = (
        CustomerRoute(prefix("10.9.0.0/16"), SiteHop("seattle")),
        CustomerRoute(prefix("10.8.0.0/16"), SubnetHop("db", DB)),
    )
    access = (
        AccessRule("web", Action.ALLOW, Endpoint(subnet="web"), protocol=6, ports=(PortRange(80, 80),)),
    )
    sound = with_red(records=(RECORD,), routes=routes, access=access, limits=Limits(1, 1))

    assert list(faults(NETWORK)) == []
    assert list(faults(sound)) == []


def test_provider_address_belongs_to_one_host_and_to_one_gateway() -> None:
    shared = NETWORK.hosts[0].provider_addresses
    two_hosts = replace(NETWORK, hosts=(*NETWORK.hosts, replace(NETWORK.hosts[0], name="hv9")))
    both_roles = replace(
        NETWORK, gateways=(replace(NETWORK.gateways[0], provider_addresses=shared), *NETWORK.gateways[1:])
    )

    assert list(faults(two_hosts)) == [f"the provider address {pa} is there twice" for pa in shared]
    assert list(faults(both_roles)) == []


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (with_subnet(vsid=Vsid(4095)), "4095"),
        (with_subnet(vsid=Vsid(0xFFFFFF)), "16777215"),
        (with_subnet(vsid=Vsid(1 << 70)), str(1 << 70)),
        (with_subnet(vsid=DB), "5002 is there twice"),
        (with_subnet(prefixes=()), "no prefix"),
        (with_subnet(translation=Translation.REWRITE), "none of its hosts has a pool of IPv4"),
        (
            with_red(records=(replace(RECORD, translation=Translation.REWRITE),)),
            "198.51.100.11 is in no pool",
        ),
        (with_red(leases=0), "leases"),
        (with_subnet(name="db"), "subnet db is there twice"),
        (with_subnet(name=""), "name"),
        (with_subnet(name="a\nb"), "name"),
        (with_subnet(gateway_addresses=(ca("192.0.2.1"),)), "192.0.2.1"),
        (with_subnet(gateway_addresses=(ca("10.0.1.1"), ca("10.0.1.2"))), "several"),
        (with_subnet(prefixes=(prefix("10.0.2.0/25"),), gateway_addresses=()), "overlaps"),
        (with_host(provider_addresses=()), "hv1 has no provider address"),
        (with_host(provider_addresses=(pa("224.0.0.1"),)), "224.0.0.1"),
        (with_host(provider_addresses=(pa("0.0.0.0"),)), "0.0.0.0"),
        (with_host(name="hv2"), "host hv2 is there twice"),
        (with_red(records=(RECORD, RECORD)), "twice"),
        (with_red(records=(replace(RECORD, vsid=Vsid(6001)),)), "6001"),
        (with_red(records=(replace(RECORD, ca=ca("10.0.1.1")),)), "gateway"),
        (with_red(records=(replace(RECORD, mac=BROADCAST_MAC),)), "station"),
        (with_red(records=(replace(RECORD, host="hv3", pa=pa("198.51.100.13")),)), "hv3"),
        (with_red(records=(replace(RECORD, pa=pa("198.51.100.12")),)), "198.51.100.12"),
        (with_red(routes=(CustomerRoute(prefix("10.9.0.0/16"), SiteHop("paris")),)), "paris"),
        (with_red(routes=(CustomerRoute(prefix("10.9.0.0/16"), SubnetHop("db", WEB)),)), "db"),
        (rule(source=Endpoint(subnet="x")), "subnet x"),
        (rule(destination=Endpoint(site="x")), "site x"),
        (rule(protocol=256), "256"),
        (rule(ports=(PortRange(80, 79),)), "80 to 79"),
        (rule(ports=(PortRange(0, 65536),)), "65536"),
        (with_red(limits=Limits(0, 1)), "limits"),
    ],
)
def test_what_followers_could_not_live_with_is_named(network: Network, words: str) -> None:
    assert any(words in fault for fault in faults(network)), list(faults(network))


@pytest.mark.parametrize(
    ("text", "is_fault"),
    [
        ("10.0.1.2", False),
        ("10.0.1.254", False),
        ("10.0.1.0", True),
        ("10.0.1.255", True),
        ("10.0.1.1", True),
        ("10.0.2.2", True),
        ("fd00:1::", True),
        ("fd00:1::1", True),
        ("fd00:1::ffff", False),
        ("fd00:1:0:0:ffff:ffff:ffff:ffff", False),
        ("ff02::1", True),
        ("255.255.255.255", True),
    ],
)
def test_vm_has_an_address_of_its_subnet_that_is_nobody_elses(text: str, is_fault: bool) -> None:
    assert (address_fault(SUBNET, ca(text)) is not None) is is_fault


@pytest.mark.parametrize("text", ["10.0.0.0", "10.0.0.1"])
def test_prefix_of_two_addresses_has_no_broadcast(text: str) -> None:
    subnet = VirtualSubnet("link", WEB, (prefix("10.0.0.0/31"),), ())

    assert address_fault(subnet, CustomerAddress.parse(text)) is None


@pytest.mark.parametrize(
    "wrong", [BROADCAST_MAC, MacAddress(6), MacAddress.parse("01:00:5e:00:00:01"), gateway_mac(WEB)], ids=str
)
def test_vm_has_a_mac_of_a_station_that_is_not_the_gateway(wrong: MacAddress) -> None:
    assert mac_fault(WEB, wrong) is not None
    assert mac_fault(WEB, mac(5)) is None
