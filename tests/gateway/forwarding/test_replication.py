"""Broadcast and multicast, by N-way unicast, where a virtual subnet carries them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from gateway.forwarding.directory import Directory, Put
from gateway.forwarding.drops import DropReason
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Emission, Forward, ToPort, ToProvider, ToSite, ToUnderlay, Verdict
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.model import LookupRecord, Network, Port, ProviderHost
from tests import networks as n

NET = n.network(n.tenant("red", broadcast=True), n.tenant("blue", broadcast=True))
WEB = Vsid(n.VSIDS["red", "web"])
HV3 = ProviderHost(
    "hv3", (ProviderAddress.parse("198.51.100.13"), ProviderAddress.parse("2001:db8::13")), ("red",)
)

GROUPS = [
    pytest.param("ff:ff:ff:ff:ff:ff", "255.255.255.255", 4, id="limited broadcast"),
    pytest.param("ff:ff:ff:ff:ff:ff", "10.0.1.255", 4, id="broadcast of the subnet"),
    pytest.param("01:00:5e:00:00:fb", "224.0.0.251", 4, id="multicast"),
    pytest.param("33:33:00:00:00:fb", "ff02::fb", 6, id="IPv6 multicast"),
]


def to_all(
    mac: str = n.BROADCAST, destination: str = "255.255.255.255", version: int = 4, size: int = 8
) -> Packet:
    upper = UDP(sport=5353, dport=5353) / Raw(bytes(size))
    layer = (
        IP(src=n.ca("web", 5), dst=destination, ttl=1)
        if version == 4
        else IPv6(src=n.ca("web", 5, 6), dst=destination, hlim=1)
    )
    return Ether(src=str(n.mac("red", "web", 5)), dst=mac) / layer / upper


def copies(verdict: Verdict) -> Counter[object]:
    """To which nodes and ports copies go, and how many."""
    assert isinstance(verdict, Forward), verdict
    return Counter(where(emission) for emission in verdict.emissions)


def where(emission: Emission) -> object:
    match emission:
        case ToPort():
            return emission.port
        case ToUnderlay():
            return emission.destination
        case ToSite():
            return emission.site
        case ToProvider():
            return emission.packet


def with_third(*records: LookupRecord) -> tuple[Network, Directory]:
    """A third host, with VMs of Red's web."""
    net = Network((*NET.hosts, HV3), NET.gateways, NET.tenants)
    directory = n.directory(net)
    for record in records:
        directory.apply(Put(record))
    return net, directory


def without_gateway(net: Network) -> Network:
    tenants = tuple(msgspec.structs.replace(tenant, gateways=()) for tenant in net.tenants)
    return Network(net.hosts, (), tenants)


def vm(number: int, pa: ProviderAddress, host: str) -> LookupRecord:
    ca = CustomerAddress.parse(n.ca("web", number))
    return LookupRecord(WEB, ca, n.mac("red", "web", number), pa, host)


def gateway_with(records: Iterable[LookupRecord]) -> Forwarder:
    net, directory = with_third(*records)
    forwarder = n.gateway(net)
    return Forwarder(forwarder.node, forwarder.tables, directory)


@pytest.mark.parametrize(("mac", "destination", "version"), GROUPS)
def test_nothing_is_replicated_where_the_subnet_does_not_carry_it(
    mac: str, destination: str, version: int
) -> None:
    frame = to_all(mac, destination, version)

    assert n.dropped(n.receive(n.gateway(), frame), DropReason.GROUP_NOT_ALLOWED) == ()
    assert n.dropped(n.send(n.host("hv1"), ("red", "web", 5), frame), DropReason.GROUP_NOT_ALLOWED) == ()
    assert n.dropped(n.receive(n.host("hv2"), frame), DropReason.GROUP_NOT_ALLOWED) == ()


@pytest.mark.parametrize(("mac", "destination", "version"), GROUPS)
def test_host_leaves_it_to_the_gateway_so_that_everybody_gets_one_copy(
    mac: str, destination: str, version: int
) -> None:
    frame = to_all(mac, destination, version)

    verdict = n.send(n.host("hv1", NET, known=n.own_records("hv1", NET)), ("red", "web", 5), frame)

    emission, inner = n.to_underlay(verdict)
    assert (emission.destination, emission.vsid) == (n.pa("edge-1"), WEB)
    assert bytes(inner) == bytes(frame)


@pytest.mark.parametrize(("mac", "destination", "version"), GROUPS)
def test_host_without_a_gateway_sends_one_copy_to_each_other_host_of_the_subnet(
    mac: str, destination: str, version: int
) -> None:
    frame = to_all(mac, destination, version)

    verdict = n.send(n.host("hv1", without_gateway(NET)), ("red", "web", 5), frame)

    # hv1 has another port of Red's in db, and Blue's: those get none.
    emission, inner = n.to_underlay(verdict)
    assert (emission.destination, emission.vsid) == (n.pa("hv2"), WEB)
    assert bytes(inner) == bytes(frame)


def test_receiving_host_gives_it_to_its_ports_of_the_subnet_and_sends_nothing_on() -> None:
    delivered, inner = n.to_port(n.receive(n.host("hv2", NET), to_all()))

    assert delivered.port == n.port("red", "web", 6)
    assert bytes(inner) == bytes(to_all())


def test_gateway_replicates_for_a_host_that_leaves_it_to_the_gateway() -> None:
    """Such as Open vSwitch. The copy never goes back to where it came from."""
    emission, inner = n.to_underlay(n.receive(n.gateway(NET), to_all()))

    assert (emission.destination, emission.vsid) == (n.pa("hv2"), WEB)
    assert bytes(inner) == bytes(to_all())


def test_copy_does_not_go_back_to_another_address_of_its_host() -> None:
    verdict = n.receive(n.gateway(NET), to_all(), version=6)

    assert copies(verdict) == {n.pa("hv2"): 1}


def test_host_with_vms_at_two_provider_addresses_gets_one_copy() -> None:
    forwarder = gateway_with(
        [vm(7, HV3.provider_addresses[0], "hv3"), vm(8, HV3.provider_addresses[1], "hv3")]
    )

    counted = copies(n.receive(forwarder, to_all()))

    assert counted == {n.pa("hv2"): 1, HV3.provider_addresses[0]: 1}


def test_copies_go_only_to_hosts_with_vms_of_the_subnet() -> None:
    assert copies(n.receive(gateway_with([]), to_all())) == {n.pa("hv2"): 1}


def test_copies_for_ports_and_hosts_go_out_together() -> None:
    net, directory = with_third(vm(7, HV3.provider_addresses[0], "hv3"), vm(9, n.pa("hv1"), "hv1"))
    template = n.host("hv1", without_gateway(net))
    ports = dict(template.node.ports)
    own = ports[n.port("red", "web", 5)]
    ports[n.port("red", "web", 9)] = type(own)("red-web9", "red", WEB, n.mac("red", "web", 9), ())
    node = type(template.node)("hv1", template.node.provider_addresses, 1500, False, ports)
    host = Forwarder(node, template.tables, directory)

    counted = copies(n.send(host, ("red", "web", 5), to_all()))

    assert counted == {n.port("red", "web", 9): 1, n.pa("hv2"): 1, HV3.provider_addresses[0]: 1}


def test_gateway_does_not_replicate_what_a_gateway_sent() -> None:
    template = n.gateway(NET)
    node = type(template.node)("edge-1", (ProviderAddress.parse("192.0.2.10"),), 1500, True, {})
    other = Forwarder(node, template.tables, template.directory)

    n.dropped(n.receive(other, to_all(), sender="edge-1"), DropReason.NO_RECORD)


def test_dhcp_discovery_from_nobody_yet_is_carried() -> None:
    frame = to_all()
    frame[IP].src = "0.0.0.0"

    assert copies(n.receive(n.gateway(NET), frame)) == {n.pa("hv2"): 1}
    assert copies(n.send(n.host("hv1", NET), ("red", "web", 5), frame)) == {n.pa("edge-1"): 1}


def test_copy_that_is_too_big_is_fragmented_for_each_way() -> None:
    frame = to_all(size=1472)

    verdict = n.receive(gateway_with([vm(7, HV3.provider_addresses[0], "hv3")]), frame)

    assert copies(verdict) == {n.pa("hv2"): 2, HV3.provider_addresses[0]: 2}


def test_copy_that_one_way_does_not_carry_is_counted_and_the_others_go() -> None:
    """IPv6 provider addresses leave 20 octets less."""
    frame = to_all(size=1450 - 28)
    frame[IP].flags = "DF"
    forwarder = gateway_with([vm(7, HV3.provider_addresses[1], "hv3")])

    assert copies(n.receive(forwarder, frame)) == {n.pa("hv2"): 1}
    assert forwarder.drops.counts == {(DropReason.TOO_BIG, "red"): 1}


def test_group_frame_is_admitted_like_any_other() -> None:
    frame = to_all()
    frame[IP].src = "8.8.8.8"

    n.dropped(n.receive(n.gateway(NET), frame), DropReason.SPOOFED_SOURCE)
    n.dropped(n.send(n.host("hv1", NET), ("red", "web", 5), frame), DropReason.SPOOFED_SOURCE)


def test_group_frame_is_metered_once_however_many_copies_it_has() -> None:
    forwarder = gateway_with([vm(7, HV3.provider_addresses[0], "hv3")])
    n.receive(forwarder, to_all())

    assert forwarder.meters[WEB].sent_packets == 1


def test_copies_stay_in_their_tenant_and_subnet() -> None:
    frame = to_all()
    frame.src = str(n.mac("blue", "web", 5))

    verdict = n.receive(n.gateway(NET), frame, tenant="blue")

    assert isinstance(verdict, Forward)
    assert {(emission.tenant, getattr(emission, "vsid", None)) for emission in verdict.emissions} == {
        ("blue", n.VSIDS["blue", "web"])
    }


def test_gateway_with_ports_of_its_own_gets_no_second_copy_for_anybody() -> None:
    """hv1 sends one copy to edge-1, which has a VM too; edge-1 gives it to its port and to hv2, once."""
    net, directory = with_third(vm(9, n.pa("edge-1"), "edge-1"))
    own = ProviderHost("edge-1", (n.pa("edge-1"), n.pa("edge-1", 6)), ("red", "blue"))
    net = Network((*net.hosts, own), net.gateways, net.tenants)
    port = Port("red-web9", "red", WEB, n.mac("red", "web", 9), ())
    template = n.gateway(net)
    node = msgspec.structs.replace(template.node, ports={n.port("red", "web", 9): port})
    edge = Forwarder(node, template.tables, directory)

    assert copies(n.send(n.host("hv1", net), ("red", "web", 5), to_all())) == {n.pa("edge-1"): 1}
    assert copies(n.receive(edge, to_all())) == {n.port("red", "web", 9): 1, n.pa("hv2"): 1}


def test_vm_alone_in_its_subnet_and_without_a_gateway_speaks_to_nobody() -> None:
    net = without_gateway(NET)
    host = n.host("hv1", net, known=n.own_records("hv1", net))

    n.dropped(n.send(host, ("red", "web", 5), to_all()), DropReason.NO_RECORD)
