"""One node that is a tenant's gateway and has VMs of its own."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP
from scapy.packet import Packet

from gateway.forwarding.directory import Put
from gateway.forwarding.drops import DropReason
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Answer
from policies.addresses import CustomerAddress, Vsid
from policies.model import LookupRecord, Network, Port, ProviderHost
from policies.tables import Tables
from tests import networks as n

WEB, DB = Vsid(n.VSIDS["red", "web"]), Vsid(n.VSIDS["red", "db"])
HERE = ("red", "web", 8)


def combined(*, broadcast: bool = False) -> Forwarder:
    """edge-1 with Red's web 8 and db 8."""
    base = n.network(n.tenant("red", broadcast=broadcast), n.tenant("blue"))
    itself = ProviderHost("edge-1", (n.pa("edge-1"), n.pa("edge-1", 6)), ("red",))
    net = Network((*base.hosts, itself), base.gateways, base.tenants)
    directory, ports = n.directory(net), {}
    for subnet, vsid in (("web", WEB), ("db", DB)):
        cas = tuple(CustomerAddress.parse(n.ca(subnet, 8, version)) for version in (4, 6))
        mac = n.mac("red", subnet, 8)
        ports[vsid, mac] = Port(f"red-{subnet}8", "red", vsid, mac, cas)
        for ca in cas:
            directory.apply(Put(LookupRecord(vsid, ca, mac, n.pa("edge-1"), "edge-1")))
    node = Node("edge-1", itself.provider_addresses, 1500, True, ports)
    return Forwarder(node, Tables.compile(net), directory)


def hops(frame: Packet) -> int:
    return int(frame[IP].ttl if IP in frame else frame[IPv6].hlim)


@pytest.mark.parametrize("version", [4, 6])
def test_its_vms_reach_a_host_directly(version: int) -> None:
    switched = n.frame("red", ("web", 8), ("web", 6), version=version)
    routed = n.frame("red", ("web", 8), ("db", 5), version=version)

    emission, inner = n.to_underlay(n.send(combined(), HERE, switched))
    assert (emission.source, emission.destination) == (n.pa("edge-1"), n.pa("hv2"))
    assert bytes(inner) == bytes(switched)
    emission, inner = n.to_underlay(n.send(combined(), HERE, routed))
    assert (emission.destination, emission.vsid, hops(inner)) == (n.pa("hv2"), DB, 63)
    # To hv2 it is a gateway as well as a host: what it sends is admitted.
    n.to_port(n.host("hv2").from_underlay(n.from_host("edge-1", to="hv2"), emission.payload, now=0))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("subnet", "hop_limit"), [("web", 64), ("db", 63)])
def test_hosts_reach_its_vms(version: int, subnet: str, hop_limit: int) -> None:
    frame = n.frame("red", ("web", 5), (subnet, 8), version=version)

    delivered, inner = n.to_port(n.receive(combined(), frame))

    assert delivered.port == n.port("red", subnet, 8)
    assert hops(inner) == hop_limit


def test_its_vms_reach_each_other_in_one_hop() -> None:
    delivered, inner = n.to_port(n.send(combined(), HERE, n.frame("red", ("web", 8), ("db", 8))))

    assert delivered.port == n.port("red", "db", 8)
    assert hops(inner) == 63


def test_it_is_still_the_gateway_of_the_hosts() -> None:
    emission, inner = n.to_underlay(n.receive(combined(), n.frame("red", ("web", 5), ("db", 5))))

    assert (emission.destination, hops(inner)) == (n.pa("hv2"), 63)


def test_it_answers_its_vms_and_the_hosts_alike() -> None:
    forwarder = combined()

    _, at_port = n.to_port(n.send(forwarder, HERE, n.arp_request("red", ("web", 8), n.ca("web", 1))))
    _, far = n.to_underlay(n.receive(forwarder, n.arp_request("red", ("web", 5), n.ca("web", 8))))

    assert at_port[ARP].hwsrc == str(n.router_mac("red", "web"))
    assert far[ARP].hwsrc == str(n.mac(*HERE))


def test_it_leaves_nothing_to_itself() -> None:
    """What a host would pass on to the gateway is told of here."""
    frame = n.frame("red", ("web", 8), ("db", 99))

    delivered, told = n.to_port(Answer(n.dropped(n.send(combined(), HERE, frame), DropReason.NO_RECORD)))

    assert delivered.port == n.port(*HERE)
    assert (told[IP].src, told[ICMP].type, told[ICMP].code) == (n.ca("web", 1), 3, 1)
    n.dropped(n.send(combined(), HERE, n.arp_request("red", ("web", 8), "10.0.1.99")), DropReason.NO_RECORD)


def test_record_at_its_own_address_without_a_port_is_a_loop() -> None:
    forwarder = combined()
    ca = CustomerAddress.parse("10.0.2.77")
    forwarder.directory.apply(Put(LookupRecord(DB, ca, n.mac("red", "db", 77), n.pa("edge-1"), "edge-1")))

    n.dropped(n.receive(forwarder, n.frame("red", ("web", 5), ("db", 77))), DropReason.LOOP)
    n.dropped(n.send(forwarder, HERE, n.frame("red", ("web", 8), ("db", 77))), DropReason.LOOP)


def test_gateway_of_other_tenants_is_a_host_to_the_rest() -> None:
    """A gateway whose tenant names another one neither routes nor replicates for it."""
    net = n.network()
    other = Node("edge-2", (n.pa("edge-1"),), 1500, True, {})
    forwarder = Forwarder(other, Tables.compile(net), n.directory(net))

    payload = n.nvgre("red", "web", n.frame("red", ("web", 5), ("db", 5)))
    n.dropped(forwarder.from_underlay(n.from_host("hv1"), payload, now=0), DropReason.NOT_HERE)
