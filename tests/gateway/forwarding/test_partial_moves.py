"""Services that move one by one: an address is at the site while its subnet is here, or the reverse."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr
from scapy.layers.l2 import ARP

from gateway.forwarding.drops import DropReason
from policies.model import CustomerRoute, Network, SiteHop
from tests import networks as n

ROUTER = str(n.router_mac("red", "web"))
OTHER = str(n.mac("red", "web", 6))


def moved() -> Network:
    """Two addresses of web are at the site, one of them although it still has a record here."""
    routes = tuple(
        CustomerRoute(ip_network(prefix), SiteHop("seattle"))
        for prefix in ("10.0.1.50/32", "fd00:1::50/128", "10.0.1.6/32", "fd00:1::6/128")
    )
    return n.network(
        n.tenant("red", sites=(n.site("seattle", "172.16.0.0/16"),), routes=routes), n.tenant("blue")
    )


def around() -> Network:
    """The site's prefix is around both subnets."""
    return n.network(n.tenant("red", sites=(n.site("seattle", "10.0.0.0/16", "fd00::/16"),)))


def everywhere() -> Network:
    """The site is where the default route leads."""
    return n.network(n.tenant("red", sites=(n.site("seattle", "0.0.0.0/0", "::/0"),)))


PROXIED = [
    pytest.param(moved(), "10.0.1.50", ROUTER, id="address at the site"),
    pytest.param(moved(), "10.0.1.6", ROUTER, id="address at the site with a record here"),
    pytest.param(moved(), "10.0.1.1", ROUTER, id="gateway, as ever"),
    pytest.param(around(), "10.0.77.7", ROUTER, id="site around the subnet"),
    pytest.param(around(), "10.0.1.6", OTHER, id="VM in a subnet within the site's prefix"),
]


@pytest.mark.parametrize(("net", "target", "mac"), PROXIED)
def test_gateway_stands_in_for_what_is_at_the_site(net: Network, target: str, mac: str) -> None:
    request = n.arp_request("red", ("web", 5), target)

    _, at_gateway = n.to_underlay(n.receive(n.gateway(net), request))
    _, at_port = n.to_port(n.send(n.host("hv1", net), ("red", "web", 5), request))

    assert (at_gateway[ARP].psrc, at_gateway[ARP].hwsrc) == (target, mac)
    assert bytes(at_port) == bytes(at_gateway)


@pytest.mark.parametrize(
    ("net", "target", "mac", "is_router"),
    [
        pytest.param(moved(), "fd00:1::50", ROUTER, 1, id="address at the site"),
        pytest.param(moved(), "fd00:1::6", ROUTER, 1, id="address at the site with a record here"),
        pytest.param(around(), "fd00:77::7", ROUTER, 1, id="site around the subnet"),
        pytest.param(around(), "fd00:1::6", OTHER, 0, id="VM in a subnet within the site's prefix"),
    ],
)
def test_gateway_stands_in_for_ipv6_too(net: Network, target: str, mac: str, is_router: int) -> None:
    request = n.solicitation("red", ("web", 5), target)

    _, at_gateway = n.to_underlay(n.receive(n.gateway(net), request))
    _, at_port = n.to_port(n.send(n.host("hv1", net), ("red", "web", 5), request))

    assert (at_gateway[ICMPv6ND_NA].tgt, at_gateway[ICMPv6ND_NA].R) == (target, is_router)
    assert at_gateway[ICMPv6NDOptDstLLAddr].lladdr == mac
    assert bytes(at_port) == bytes(at_gateway)


@pytest.mark.parametrize(
    ("net", "target"),
    [
        pytest.param(everywhere(), "10.0.1.99", id="nobody's address of the subnet, with a default route"),
        pytest.param(everywhere(), "8.8.8.8", id="default route"),
        pytest.param(around(), "10.0.1.99", id="nobody's address of the subnet"),
        pytest.param(around(), "10.0.2.5", id="VM of another subnet within the site's prefix"),
        pytest.param(moved(), "172.16.0.5", id="site beside the subnet"),
    ],
)
def test_nobody_stands_in_for(net: Network, target: str) -> None:
    n.dropped(n.receive(n.gateway(net), n.arp_request("red", ("web", 5), target)), DropReason.NO_RECORD)


def test_probe_of_an_address_at_the_site_is_answered() -> None:
    """It is taken, so a VM that wants it learns of the conflict."""
    probe = n.arp_request("red", ("web", 5), "10.0.1.50", source="0.0.0.0")

    _, reply = n.to_underlay(n.receive(n.gateway(moved()), probe))

    assert reply[ARP].hwsrc == ROUTER


def test_a_move_of_reds_is_none_of_blues() -> None:
    request = n.arp_request("blue", ("web", 5), "10.0.1.6")

    _, reply = n.to_underlay(n.receive(n.gateway(moved()), request, tenant="blue"))

    assert reply[ARP].hwsrc == str(n.mac("blue", "web", 6))


@pytest.mark.parametrize("destination", ["10.0.1.50", "10.0.1.6"])
def test_frame_for_a_moved_address_is_routed_to_the_site(destination: str) -> None:
    frame = n.frame("red", ("web", 5), ("web", 6))
    frame.dst, frame[IP].dst = ROUTER, destination

    n.dropped(n.receive(n.gateway(moved()), frame), DropReason.SITE_DOWN)


def test_host_passes_a_frame_for_the_site_to_the_gateway_as_it_is() -> None:
    frame = n.frame("red", ("web", 5), ("web", 6))
    frame.dst, frame[IP].dst = ROUTER, "10.0.1.50"

    emission, inner = n.to_underlay(n.send(n.host("hv1", moved()), ("red", "web", 5), frame))

    assert (emission.destination, emission.vsid) == (n.pa("edge-1"), n.VSIDS["red", "web"])
    assert bytes(inner) == bytes(frame)


def test_address_that_has_moved_and_a_vm_of_its_subnet_talk_one_hop_apart() -> None:
    """The VM takes the address for a neighbour: the gateway answers ARP for it, and routes both ways."""
    net, child = moved(), n.selectors(["10.0.1.50/32"], ["10.0.1.0/24"])
    gateway, host = n.gateway(net), n.host("hv1", net)
    gateway.sites.site_is_up(("red", "seattle"), 1400, [child])
    _, reply = n.to_port(n.send(host, ("red", "web", 5), n.arp_request("red", ("web", 5), "10.0.1.50")))
    frame = n.frame("red", ("web", 5), ("web", 6))
    frame.dst, frame[IP].dst = reply[ARP].hwsrc, "10.0.1.50"

    to_gateway, _ = n.to_underlay(n.send(host, ("red", "web", 5), frame))
    outer = n.from_host("hv1")
    to_site, there = n.to_site(gateway.from_underlay(outer, to_gateway.payload, 0))
    answer = IP(src="10.0.1.50", dst=n.ca("web", 5)) / there.payload
    to_host, _ = n.to_underlay(n.through_tunnel(gateway, answer, child=child))
    _, back = n.to_port(host.from_underlay(n.from_host("edge-1", to="hv1"), to_host.payload, 0))

    assert (to_site.site, there.ttl) == (("red", "seattle"), 63)
    assert (back.src, back[IP].src, back[IP].ttl) == (ROUTER, "10.0.1.50", 63)


def test_subnet_within_the_sites_prefix_and_the_site_talk() -> None:
    net, child = around(), n.selectors(["10.0.0.0/16"], ["10.0.1.0/24"])
    gateway = n.gateway(net)
    gateway.sites.site_is_up(("red", "seattle"), 1400, [child])
    frame = n.frame("red", ("web", 5), ("db", 5))
    frame[IP].dst = "10.0.77.7"

    _, there = n.to_site(n.receive(gateway, frame))
    n.to_underlay(
        n.through_tunnel(gateway, IP(src="10.0.77.7", dst=n.ca("web", 5)) / there.payload, child=child)
    )
    false = IP(src=n.ca("web", 6), dst=n.ca("web", 5)) / there.payload
    n.dropped(n.through_tunnel(gateway, false, child=child), DropReason.SPOOFED_SOURCE)


def test_host_may_no_longer_send_from_an_address_that_is_at_the_site() -> None:
    frame = n.frame("red", ("web", 6), ("db", 5))

    n.dropped(n.receive(n.gateway(moved()), frame, sender="hv2"), DropReason.SPOOFED_SOURCE)
