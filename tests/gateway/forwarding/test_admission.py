"""Who may send what, from the underlay."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from gateway.forwarding.drops import DropReason
from gateway.forwarding.verdicts import OuterHeader
from policies.addresses import ProviderAddress
from policies.model import CustomerRoute, Network, ProviderGateway, ProviderHost, SiteHop
from tests import networks as n

BLUE_ONLY = ProviderHost("hv9", (ProviderAddress.parse("198.51.100.99"),), ("blue",))
BLUE_EDGE = ProviderGateway("edge-9", (ProviderAddress.parse("192.0.2.9"),))


def mixed() -> Network:
    """Red and Blue, a host that is Blue's alone, a gateway that is nobody's, and a site of Red's."""
    net = n.network(
        n.tenant("red", sites=(n.site("seattle", "172.16.0.0/16", "fd00:99::/48"),)), n.tenant("blue")
    )
    return Network((*net.hosts, BLUE_ONLY), (*net.gateways, BLUE_EDGE), net.tenants)


def with_source(source: str, version: int = 4, *, subnet: str = "web") -> Packet:
    """A frame to db 5, as Red's VM 5 of a subnet would send it but for its source."""
    frame = n.frame("red", (subnet, 5), ("db", 5), version=version)
    frame[IP if version == 4 else IPv6].src = source
    return frame


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("pa_version", [4, 6])
def test_any_provider_address_of_the_records_host_will_do(version: int, pa_version: int) -> None:
    forwarder = n.gateway()
    frame = n.frame("red", ("web", 5), ("db", 5), version=version)

    n.to_underlay(n.receive(forwarder, frame, version=pa_version))

    assert forwarder.sources_elsewhere == {}


def test_source_is_looked_up_in_the_whole_routing_domain() -> None:
    """A host that routed sends in the VSID of the destination, with a source of another."""
    forwarder = n.gateway()
    routed = n.frame("red", ("web", 5), ("db", 5))
    routed.dst = str(n.mac("red", "db", 5))

    n.to_underlay(n.receive(forwarder, routed, subnet="db"))

    assert forwarder.sources_elsewhere == {}


def test_source_behind_another_authorised_host_is_admitted_and_counted() -> None:
    forwarder = n.gateway()

    n.to_underlay(n.receive(forwarder, n.frame("red", ("web", 5), ("db", 5)), sender="hv2"))

    assert forwarder.sources_elsewhere == {"red": 1}


def test_source_without_a_record_is_admitted_and_is_elsewhere_from_nothing() -> None:
    forwarder = n.gateway()

    n.to_underlay(n.receive(forwarder, with_source("10.0.1.77")))

    assert forwarder.sources_elsewhere == {}


def test_moving_source_is_admitted_each_time_and_not_remembered_as_known() -> None:
    forwarder = n.gateway()
    for _ in range(3):
        n.to_underlay(n.receive(forwarder, n.frame("red", ("web", 5), ("db", 5)), sender="hv2"))

    assert forwarder.sources_elsewhere == {"red": 3}


REFUSED = [
    pytest.param("10.0.1.1", 4, id="gateway's address of the subnet"),
    pytest.param("10.0.2.1", 4, id="gateway's address of another subnet"),
    pytest.param("fd00:1::1", 6, id="gateway's IPv6 address"),
    pytest.param("fe80::1", 6, id="router's link-local address"),
    pytest.param("172.16.0.5", 4, id="address of a site"),
    pytest.param("fd00:99::5", 6, id="IPv6 address of a site"),
    pytest.param("192.168.9.9", 4, id="address that is nowhere"),
    pytest.param("224.0.0.5", 4, id="multicast"),
    pytest.param("255.255.255.255", 4, id="broadcast"),
    pytest.param("ff02::1", 6, id="IPv6 multicast"),
    pytest.param("0.0.0.0", 4, id="unspecified, to one machine"),
    pytest.param("::", 6, id="unspecified IPv6, to one machine"),
    pytest.param("127.0.0.1", 4, id="loopback"),
    pytest.param("::1", 6, id="IPv6 loopback"),
]


@pytest.mark.parametrize(("source", "version"), REFUSED)
def test_host_may_not_send_from(source: str, version: int) -> None:
    verdict = n.receive(n.gateway(mixed()), with_source(source, version))

    assert n.dropped(verdict, DropReason.SPOOFED_SOURCE) == ()


def test_default_route_to_a_site_lets_no_host_send_from_anywhere() -> None:
    tenant = n.tenant(
        "red",
        sites=(n.site("seattle", "172.16.0.0/16"),),
        routes=(CustomerRoute(ip_network("0.0.0.0/0"), SiteHop("seattle")),),
    )

    verdict = n.receive(n.gateway(n.network(tenant)), with_source("8.8.8.8"))

    n.dropped(verdict, DropReason.SPOOFED_SOURCE)


@pytest.mark.parametrize(
    ("source", "version"),
    [
        pytest.param("172.16.0.5", 4, id="site"),
        pytest.param("fd00:99::5", 6, id="IPv6 site"),
        pytest.param("10.0.1.1", 4, id="its own address"),
        pytest.param("10.0.1.5", 4, id="VM whose packet it forwards"),
    ],
)
def test_gateway_of_the_tenant_may_send_from(source: str, version: int) -> None:
    host = n.host("hv2", mixed())
    frame = with_source(source, version)
    frame.dst = str(n.mac("red", "db", 5))

    delivered, _ = n.to_port(n.receive(host, frame, sender="edge-1", subnet="db"))

    assert delivered.port == n.port("red", "db", 5)
    assert host.sources_elsewhere == {}


@pytest.mark.parametrize(("source", "version"), [("224.0.0.5", 4), ("255.255.255.255", 4), ("ff02::1", 6)])
def test_even_a_gateway_may_not_send_from_a_group(source: str, version: int) -> None:
    frame = with_source(source, version)
    frame.dst = str(n.mac("red", "db", 5))

    verdict = n.receive(n.host("hv2", mixed()), frame, sender="edge-1", subnet="db")

    n.dropped(verdict, DropReason.SPOOFED_SOURCE)


@pytest.mark.parametrize("source_mac", ["ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01", "01:00:5e:00:00:01"])
def test_group_mac_is_no_sender(source_mac: str) -> None:
    """An answer to it would reach everybody."""
    frame = n.frame("red", ("web", 5), ("db", 5))
    frame.src = source_mac

    n.dropped(n.receive(n.gateway(), frame), DropReason.SPOOFED_SOURCE)


@pytest.mark.parametrize(
    "stranger",
    [
        pytest.param(BLUE_ONLY.provider_addresses[0], id="host of another tenant"),
        pytest.param(BLUE_EDGE.provider_addresses[0], id="gateway of no tenant"),
        pytest.param(ProviderAddress.parse("198.51.100.200"), id="nobody's address"),
    ],
)
@pytest.mark.parametrize("source", ["10.0.1.5", "172.16.0.5", "10.0.1.1"])
def test_who_is_not_authorised_for_the_tenant_is_refused(stranger: ProviderAddress, source: str) -> None:
    forwarder = n.gateway(mixed())
    outer = OuterHeader(bytes(stranger), bytes(n.pa("edge-1")))

    verdict = forwarder.from_underlay(outer, n.nvgre("red", "web", with_source(source)), now=0)

    assert n.dropped(verdict, DropReason.SPOOFED_SOURCE) == ()
    assert forwarder.sources_elsewhere == {}


def test_link_local_source_is_a_vms_own_affair() -> None:
    """Here with a destination that nobody routes to: it is admitted, and goes no further."""
    verdict = n.receive(n.gateway(), with_source("fe80::5", 6))

    n.dropped(verdict, DropReason.NO_ROUTE)


def test_same_frame_in_the_other_tenants_vsid_reaches_the_other_tenants_vm_only() -> None:
    """Red and Blue have the same addresses: the VSID alone says whose the frame is."""
    forwarder = n.gateway()
    blue = n.frame("blue", ("web", 5), ("db", 5))

    emission, inner = n.to_underlay(n.receive(forwarder, blue, tenant="blue"))

    assert emission.tenant == "blue"
    assert emission.vsid == n.VSIDS["blue", "db"]
    assert inner.dst == str(n.mac("blue", "db", 5))
    # Red's router has another MAC, so the same frame means nothing in Red's VSID.
    n.dropped(n.receive(forwarder, blue, tenant="red"), DropReason.UNKNOWN_MAC)


def test_host_without_the_right_to_blue_may_not_use_blues_vsid() -> None:
    net = n.network()
    hosts = tuple(
        ProviderHost(host.name, host.provider_addresses, ("red",) if host.name == "hv1" else host.tenants)
        for host in net.hosts
    )
    forwarder = n.gateway(Network(hosts, net.gateways, net.tenants))
    frame = n.frame("blue", ("web", 5), ("db", 5))

    n.dropped(n.receive(forwarder, frame, tenant="blue"), DropReason.SPOOFED_SOURCE)
    n.to_underlay(n.receive(forwarder, n.frame("red", ("web", 5), ("db", 5))))
    assert forwarder.drops.counts == {(DropReason.SPOOFED_SOURCE, "blue"): 1}
