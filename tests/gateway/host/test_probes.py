"""What a silent VM is asked, as scapy reads it."""

from __future__ import annotations

from ipaddress import ip_network

from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from gateway.host.probes import probe
from gateway.packets import ip, ndp
from policies.addresses import CustomerAddress, MacAddress, Vsid, gateway_mac
from policies.model import Network, Tenant, VirtualSubnet
from policies.tables import SubnetEntry, Tables

MAC = MacAddress.parse("02:00:00:00:01:05")
CA = CustomerAddress.parse("10.0.1.5")
CA6 = CustomerAddress.parse("fd00:1::5")
ROUTER = str(gateway_mac(Vsid(5001)))


def entry(*prefixes: str) -> SubnetEntry:
    gateways = tuple(CustomerAddress((ip_network(prefix).network_address + 1).packed) for prefix in prefixes)
    subnet = VirtualSubnet("web", Vsid(5001), tuple(ip_network(prefix) for prefix in prefixes), gateways)
    tables = Tables.compile(Network(tenants=(Tenant("red", (), (subnet,)),)))
    return tables.subnets[Vsid(5001)]


def test_an_ipv4_address_is_asked_for_by_the_gateway_at_the_vms_own_mac() -> None:
    frame = probe(entry("10.0.1.0/24", "fd00:1::/64"), MAC, CA)

    assert frame is not None
    request = Ether(frame)
    assert (request.dst, request.src) == (str(MAC), ROUTER)
    assert (request[ARP].op, request[ARP].pdst, request[ARP].psrc) == (1, "10.0.1.5", "10.0.1.1")
    assert (request[ARP].hwsrc, request[ARP].hwdst) == (ROUTER, "00:00:00:00:00:00")


def test_an_ipv6_address_is_solicited_by_the_router_so_that_our_own_checks_would_take_it() -> None:
    frame = probe(entry("10.0.1.0/24", "fd00:1::/64"), MAC, CA6)

    assert frame is not None
    solicitation = Ether(frame)
    assert (solicitation.dst, solicitation.src) == (str(MAC), ROUTER)
    assert (solicitation[IPv6].src, solicitation[IPv6].dst) == ("fe80::1", "fd00:1::5")
    assert solicitation[IPv6].hlim == 255
    assert solicitation[ICMPv6ND_NS].tgt == "fd00:1::5"
    assert solicitation[ICMPv6NDOptSrcLLAddr].lladdr == ROUTER
    packet = frame[14:]
    assert ndp.decode_solicitation_untrusted(packet, ip.decode_untrusted(packet)).target == CA6


def test_an_address_of_a_family_without_a_gateway_is_not_asked_for() -> None:
    assert probe(entry("fd00:1::/64"), MAC, CA) is None
