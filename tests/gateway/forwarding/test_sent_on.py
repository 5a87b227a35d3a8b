"""What only gateways send reaches a VM that has moved, sent on by the host that it has left, and by no other.

From edge-1, whose record is older, by hv1 to hv2.
"""

from __future__ import annotations

import msgspec
import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoReply, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from gateway.forwarding.directory import Put
from gateway.forwarding.drops import DropReason
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.redirects import LASTS
from gateway.forwarding.verdicts import ToPort, ToUnderlay
from policies.addresses import CustomerAddress, ProviderAddress, Vsid, gateway_mac
from policies.model import LookupRecord, ProviderHost
from policies.tables import Tables
from tests import networks as n

WEB = Vsid(n.VSIDS["red", "web"])
WEB5 = n.port("red", "web", 5)
THIRD = ProviderAddress.parse("198.18.3.13")


def of_gateway(source: str) -> Packet:
    """An answer of a gateway's, or what it carries from a site, for the VM that moves."""
    addresses = {"src": source, "dst": n.ca("web", 5, 6 if ":" in source else 4)}
    packet = IPv6(**addresses) / ICMPv6EchoReply() if ":" in source else IP(**addresses) / ICMP(type=0)
    return Ether(src=str(gateway_mac(WEB)), dst=str(WEB5[1])) / packet


SOURCES = [
    pytest.param("172.16.0.10", id="site"),
    pytest.param("fd99::10", id="site in IPv6"),
    pytest.param(n.ca("web", 1), id="gateway"),
    pytest.param(n.ca("db", 1, 6), id="gateway of another subnet, in IPv6"),
]


def at(where: str, revision: int) -> list[Put]:
    addresses = (CustomerAddress.parse(n.ca("web", 5, version)) for version in (4, 6))
    return [
        Put(LookupRecord(WEB, ca, WEB5[1], n.pa(where), where, epoch=revision, revision=revision))
        for ca in addresses
    ]


def host(name: str) -> Forwarder:
    """One of two hosts, each of which has a port for the VM, which is on hv1."""
    network = n.network(n.tenant("red", sites=(n.site("seattle", *n.SEATTLE),)))
    third = ProviderHost("hv3", (THIRD,), ("red",))
    network = msgspec.structs.replace(network, hosts=(*network.hosts, third))
    forwarder = n.host(name)
    ports = {**forwarder.node.ports, WEB5: n.ports_of("hv1", n.network())[WEB5]}
    forwarder.replace_tables(Tables.compile(network), ports)
    forwarder.moves.apply(at("hv1", 1), 0)
    return forwarder


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("knows", [True, False], ids=["the new host knows", "the new host does not know yet"])
def test_what_gateways_send_is_sent_on_to_the_new_host(source: str, knows: bool) -> None:
    old, new = host("hv1"), host("hv2")
    old.moves.apply(at("hv2", 2), 1)
    if knows:
        new.moves.apply(at("hv2", 2), 1)

    sent_on = n.only(
        old.from_underlay(n.from_host("edge-1", to="hv1"), n.nvgre("red", "web", of_gateway(source)), 2)
    )
    assert isinstance(sent_on, ToUnderlay)
    assert sent_on.destination == n.pa("hv2")
    given = n.only(new.from_underlay(n.from_host("hv1", to="hv2"), sent_on.payload, 2))

    assert isinstance(given, ToPort)
    assert given.port == WEB5


@pytest.mark.parametrize("source", SOURCES)
def test_a_host_that_has_not_had_the_vm_sends_nothing_in_a_gateways_place(source: str) -> None:
    new = host("hv2")
    new.moves.apply(at("hv2", 2), 1)
    outer = msgspec.structs.replace(n.from_host("hv1", to="hv2"), source=THIRD)

    new.from_underlay(outer, n.nvgre("red", "web", of_gateway(source)), 2)

    assert new.drops.counts == {(DropReason.SPOOFED_SOURCE, "red"): 1}


@pytest.mark.parametrize("source", SOURCES)
def test_a_host_that_had_the_vm_long_ago_sends_nothing_in_a_gateways_place(source: str) -> None:
    new = host("hv2")
    new.moves.apply(at("hv2", 2), 1)

    new.from_underlay(n.from_host("hv1", to="hv2"), n.nvgre("red", "web", of_gateway(source)), 1 + LASTS)

    assert new.drops.counts == {(DropReason.SPOOFED_SOURCE, "red"): 1}


def test_what_is_sent_on_is_for_the_vm_that_has_moved_alone() -> None:
    new = host("hv2")
    new.moves.apply(at("hv2", 2), 1)
    frame = of_gateway("172.16.0.10")
    frame.dst = str(n.mac("red", "web", 6))

    new.from_underlay(n.from_host("hv1", to="hv2"), n.nvgre("red", "web", frame), 2)

    assert new.drops.counts == {(DropReason.SPOOFED_SOURCE, "red"): 1}
