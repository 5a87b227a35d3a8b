"""What generated networks brought to light, each as the one frame that showed it."""

from __future__ import annotations

import msgspec
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from gateway.forwarding.drops import DropReason
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
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
