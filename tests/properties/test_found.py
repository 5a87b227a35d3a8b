"""What generated networks brought to light, each as the one frame that showed it."""

from __future__ import annotations

import msgspec
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from gateway.forwarding.directory import Directory, Put
from gateway.forwarding.drops import DropReason
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
from policies.addresses import CustomerAddress
from policies.model import Network, ProviderGateway
from policies.tables import Tables
from tests import networks as n

BROADCAST = "ff:ff:ff:ff:ff:ff"


def hosts_that_are_gateways() -> Network:
    names = ("hv1", "hv2")
    red = msgspec.structs.replace(n.tenant("red"), gateways=names)
    gateways = tuple(ProviderGateway(name, (n.pa(name), n.pa(name, 6))) for name in names)
    return msgspec.structs.replace(n.network(red), gateways=gateways)


def without_red_at_hv2() -> Network:
    net = n.network(n.tenant("red", broadcast=True), n.tenant("blue"))
    hosts = tuple(
        msgspec.structs.replace(host, tenants=("blue",)) if host.name == "hv2" else host for host in net.hosts
    )
    return msgspec.structs.replace(net, hosts=hosts)


def test_two_gateways_with_old_records_do_not_throw_a_frame_at_each_other() -> None:
    net = hosts_that_are_gateways()
    node = Node("hv1", (n.pa("hv1"), n.pa("hv1", 6)), underlay_mtu=1500, is_gateway=True, ports={})
    believes_that_it_is_at_hv2 = Forwarder(node, Tables.compile(net), n.directory(net))
    frame = n.frame("red", ("web", 5), ("web", 6))

    verdict = believes_that_it_is_at_hv2.from_underlay(
        n.from_host("hv2", to="hv1"), n.nvgre("red", "web", frame), now=0
    )

    assert n.dropped(verdict, DropReason.NOT_HERE) == ()


def test_record_at_a_host_that_may_no_longer_hold_the_tenant_leads_nowhere() -> None:
    forwarder = n.gateway(without_red_at_hv2())
    frame = n.frame("red", ("web", 5), ("db", 5))

    verdict = forwarder.from_underlay(n.from_host("hv1"), n.nvgre("red", "web", frame), now=0)

    n.dropped(verdict, DropReason.NO_RECORD)


def test_broadcast_is_not_carried_to_a_host_that_may_no_longer_hold_the_tenant() -> None:
    forwarder = n.gateway(without_red_at_hv2())
    frame = (
        Ether(dst=BROADCAST, src=str(n.mac("red", "web", 5)))
        / IP(src=n.ca("web", 5), dst="10.0.1.255")
        / UDP()
    )

    verdict = forwarder.from_underlay(n.from_host("hv1"), n.nvgre("red", "web", frame), now=0)

    n.dropped(verdict, DropReason.NO_RECORD)


def test_frame_from_a_group_is_spoofed_and_not_answered() -> None:
    forwarder = n.gateway()
    frame = n.frame("red", ("web", 5), ("db", 5), ttl=1)
    frame.src = "01:00:5e:00:00:05"

    verdict = forwarder.from_underlay(n.from_host("hv1"), n.nvgre("red", "web", frame), now=0)

    assert n.dropped(verdict, DropReason.SPOOFED_SOURCE) == ()


def test_arp_request_from_a_group_is_spoofed_and_not_answered() -> None:
    forwarder = n.gateway()
    request = ARP(hwsrc="01:00:5e:00:00:05", psrc=n.ca("web", 5), pdst=n.ca("web", 6))
    frame = Ether(dst=BROADCAST, src=str(n.mac("red", "web", 5))) / request

    verdict = forwarder.from_underlay(n.from_host("hv1"), n.nvgre("red", "web", frame), now=0)

    assert n.dropped(verdict, DropReason.SPOOFED_SOURCE) == ()


def test_padding_of_a_neighbour_request_stays_behind_when_it_is_passed_on() -> None:
    knows_nobody = n.host("hv1", known=Directory())
    mac = str(n.mac("red", "web", 5))
    request = Ether(dst=BROADCAST, src=mac) / ARP(hwsrc=mac, psrc=n.ca("web", 5), pdst=n.ca("web", 6))

    verdict = knows_nobody.from_port(n.port("red", "web", 5), bytes(request / Raw(bytes(3000))), now=0)

    _, passed_on = n.to_underlay(verdict)
    assert bytes(passed_on) == bytes(request)


def test_flow_switched_by_its_mac_follows_a_record_that_its_address_gets() -> None:
    forwarder = n.gateway()
    further = "10.0.1.77"
    frame = n.frame("red", ("web", 5), ("web", 6))
    frame[IP].dst = further
    packet = n.nvgre("red", "web", frame)
    before, _ = n.to_underlay(forwarder.from_underlay(n.from_host("hv1"), packet, now=0))
    assert before.destination == n.pa("hv2")

    record = forwarder.directory.find_by_mac(*n.port("red", "web", 6))[0]
    pa = n.pa("hv2", 6)
    forwarder.directory.apply(Put(msgspec.structs.replace(record, ca=CustomerAddress.parse(further), pa=pa)))

    after, _ = n.to_underlay(forwarder.from_underlay(n.from_host("hv1"), packet, now=0))
    assert after.destination == pa


def test_sender_to_the_broadcast_address_of_another_subnet_is_told_nothing() -> None:
    forwarder = n.gateway()
    frame = n.frame("red", ("web", 5), ("db", 5))
    frame[IP].dst = "10.0.2.255"

    verdict = forwarder.from_underlay(n.from_host("hv1"), n.nvgre("red", "web", frame), now=0)

    assert n.dropped(verdict, DropReason.NO_RECORD) == ()
