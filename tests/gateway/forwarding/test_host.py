"""A host: its VMs' ports, what they may send, and the way to everybody else."""

from __future__ import annotations

import msgspec
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from gateway.forwarding.directory import Directory, Put
from gateway.forwarding.drops import DropReason
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Answer, OuterHeader
from policies.addresses import CustomerAddress, Vsid
from policies.model import LookupRecord, Port
from tests import networks as n

WEB = Vsid(n.VSIDS["red", "web"])
WEB5 = ("red", "web", 5)


def frame(destination: tuple[str, int] = ("web", 6), version: int = 4, **fields: object) -> Packet:
    return n.frame("red", ("web", 5), destination, version=version, **fields)


def changed(frame: Packet, **changes: str) -> Packet:
    """The frame with another source or destination MAC, or IP address."""
    layer = frame[IP] if IP in frame else frame[IPv6]
    for field, value in changes.items():
        if field.endswith("_mac"):
            setattr(frame, field.removesuffix("_mac"), value)
        else:
            setattr(layer, field, value)
    return frame


@pytest.mark.parametrize("known", [None, n.own_records("hv1")], ids=["all records", "own records"])
@pytest.mark.parametrize(
    "spoofed",
    [
        pytest.param(changed(frame(), src_mac="02:00:00:00:00:06"), id="another MAC"),
        pytest.param(changed(frame(), src_mac="ff:ff:ff:ff:ff:ff"), id="group MAC"),
        pytest.param(changed(frame(), src_mac=str(n.router_mac("red", "web"))), id="router's MAC"),
        pytest.param(changed(frame(), src="10.0.1.6"), id="another VM's address"),
        pytest.param(changed(frame(), src="10.0.2.5"), id="own number in another subnet"),
        pytest.param(changed(frame(), src="10.0.1.1"), id="gateway's address"),
        pytest.param(changed(frame(), src="0.0.0.0"), id="unspecified, to one machine"),
        pytest.param(changed(frame(), src="224.0.0.1"), id="group"),
        pytest.param(changed(frame(), src="169.254.1.1"), id="IPv4 link-local address"),
        pytest.param(changed(frame(version=6), src="fd00:1::6"), id="another VM's IPv6 address"),
        pytest.param(changed(frame(version=6), src="fd00:1::1"), id="gateway's IPv6 address"),
        pytest.param(changed(frame(version=6), src="fe80::1"), id="router's link-local address"),
        pytest.param(changed(frame(version=6), src="::"), id="IPv6 unspecified, to one machine"),
    ],
)
def test_port_takes_only_its_own_mac_and_addresses(spoofed: Packet, known: Directory | None) -> None:
    verdict = n.send(n.host("hv1", known=known), WEB5, spoofed)

    assert n.dropped(verdict, DropReason.SPOOFED_SOURCE) == ()


def test_link_local_address_may_be_used_on_the_link() -> None:
    own = changed(frame(version=6), src="fe80::5")

    emission, inner = n.to_underlay(n.send(n.host("hv1"), WEB5, own))

    assert emission.destination == n.pa("hv2")
    assert bytes(inner) == bytes(own)
    n.to_port(n.receive(n.host("hv2"), own))


def test_link_local_address_gets_no_further_than_the_link() -> None:
    own = changed(frame(("db", 5), version=6), src="fe80::5")

    n.dropped(n.send(n.host("hv1"), WEB5, own), DropReason.NO_ROUTE)


def test_vlan_tag_at_a_port_is_refused() -> None:
    tagged = Ether(src=str(n.mac(*WEB5)), dst=n.BROADCAST) / Dot1Q(vlan=7) / frame()[IP]

    n.dropped(n.send(n.host("hv1"), WEB5, tagged), DropReason.VLAN_TAGGED)


@pytest.mark.parametrize("length", range(14 + 28))
def test_truncated_frame_at_a_port_is_malformed(length: int) -> None:
    whole = bytes(frame(upper=UDP(sport=1, dport=2)))

    assert n.dropped(n.send(n.host("hv1"), WEB5, whole[:length]), DropReason.MALFORMED) == ()


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("hop_limit", [64, 1])
def test_vms_of_one_host_and_subnet_are_switched_there(version: int, hop_limit: int) -> None:
    """Web 5 and a VM 7 that has moved in, with a record at the host's other provider address."""
    template = n.host("hv1")
    mac = n.mac("red", "web", 7)
    ca = CustomerAddress.parse(n.ca("web", 7, version))
    template.directory.apply(Put(LookupRecord(WEB, ca, mac, n.pa("hv1", 6), "hv1")))
    ports = {**template.node.ports, (WEB, mac): Port("red-web7", "red", WEB, mac, (ca,))}
    host = Forwarder(
        Node("hv1", template.node.provider_addresses, 1500, False, ports), template.tables, template.directory
    )
    sent = frame(("web", 7), version, **{"ttl" if version == 4 else "hlim": hop_limit})

    delivered, inner = n.to_port(n.send(host, WEB5, sent))

    assert delivered.port == (WEB, mac)
    assert bytes(inner) == bytes(sent)


@pytest.mark.parametrize("version", [4, 6])
def test_host_encapsulates_directly_where_it_has_the_record(version: int) -> None:
    emission, inner = n.to_underlay(n.send(n.host("hv1"), WEB5, frame(version=version)))

    assert (emission.source, emission.destination) == (n.pa("hv1"), n.pa("hv2"))
    assert emission.vsid == n.VSIDS["red", "web"]
    assert bytes(inner) == bytes(frame(version=version))


@pytest.mark.parametrize("version", [4, 6])
def test_host_routes_directly_where_it_has_the_record(version: int) -> None:
    emission, inner = n.to_underlay(n.send(n.host("hv1"), WEB5, frame(("db", 5), version=version)))

    assert (emission.destination, emission.vsid) == (n.pa("hv2"), n.VSIDS["red", "db"])
    assert (inner.src, inner.dst) == (str(n.router_mac("red", "db")), str(n.mac("red", "db", 5)))
    delivered, _ = n.to_port(
        n.host("hv2").from_underlay(n.from_host("hv1", to="hv2"), emission.payload, now=0)
    )
    assert delivered.port == n.port("red", "db", 5)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "destination", [("web", 6), ("db", 5), ("db", 99)], ids=["switched", "routed", "nobody's"]
)
def test_host_leaves_what_it_does_not_know_to_the_gateway_as_it_is(
    version: int, destination: tuple[str, int]
) -> None:
    host = n.host("hv1", known=n.own_records("hv1"))

    emission, inner = n.to_underlay(n.send(host, WEB5, frame(destination, version=version)))

    assert (emission.source, emission.destination) == (n.pa("hv1"), n.pa("edge-1"))
    assert emission.vsid == n.VSIDS["red", "web"]
    assert bytes(inner) == bytes(frame(destination, version=version))


@pytest.mark.parametrize("version", [4, 6])
def test_gateway_brings_the_answer_to_what_was_left_to_it(version: int) -> None:
    """The way back of a pair of hosts that know nothing of each other."""
    host = n.host("hv1", known=n.own_records("hv1"))
    emission, _ = n.to_underlay(n.send(host, WEB5, frame(("db", 99), version=version)))
    reason = DropReason.NO_RECORD
    verdict = n.gateway().from_underlay(n.from_host("hv1"), emission.payload, now=0)
    answer, _ = n.to_underlay(Answer(n.dropped(verdict, reason)))

    delivered, told = n.to_port(host.from_underlay(n.from_host("edge-1", to="hv1"), answer.payload, now=0))

    assert delivered.port == n.port(*WEB5)
    assert told[IP if version == 4 else IPv6].src == n.ca("web", 1, version)


def test_no_route_is_told_by_the_host_itself() -> None:
    nowhere = changed(frame(("db", 5)), dst="8.8.8.8")

    delivered, told = n.to_port(Answer(n.dropped(n.send(n.host("hv1"), WEB5, nowhere), DropReason.NO_ROUTE)))

    assert delivered.port == n.port(*WEB5)
    assert told[IP].src == n.ca("web", 1)


@pytest.mark.parametrize("sender", ["hv1", "edge-1"])
@pytest.mark.parametrize(
    ("inner", "subnet", "reason"),
    [
        pytest.param(
            n.frame("red", ("db", 5), ("db", 6)), "db", DropReason.NOT_HERE, id="VM of another host"
        ),
        pytest.param(frame(("db", 5)), "web", DropReason.NOT_HERE, id="for the router"),
        pytest.param(
            changed(frame(), dst_mac="02:00:00:00:00:99"), "web", DropReason.NOT_HERE, id="nobody's MAC"
        ),
    ],
)
def test_host_never_sends_on_what_came_from_the_underlay(
    sender: str, inner: Packet, subnet: str, reason: DropReason
) -> None:
    verdict = n.receive(n.host("hv2"), inner, sender=sender, subnet=subnet)

    assert n.dropped(verdict, reason) == ()


def moved(host: str) -> Directory:
    """Everybody's records, but web's .6 has moved to another host."""
    known = n.directory(n.network())
    for version in (4, 6):
        ca = CustomerAddress.parse(n.ca("web", 6, version))
        known.apply(Put(LookupRecord(WEB, ca, n.mac("red", "web", 6), n.pa(host), host, epoch=2)))
    return known


def test_vm_that_has_moved_away_is_not_here() -> None:
    """Two hosts with old records do not throw its frames at each other."""
    host = n.host("hv2", known=moved("hv1"))
    ports = {key: port for key, port in host.node.ports.items() if key != n.port("red", "web", 6)}
    without = Forwarder(msgspec.structs.replace(host.node, ports=ports), host.tables, host.directory)

    n.dropped(n.receive(without, frame(), sender="hv1"), DropReason.NOT_HERE)


@pytest.mark.parametrize("known", [moved("hv1"), Directory()], ids=["elsewhere", "nowhere"])
def test_vm_whose_port_is_here_already_is_reached_before_its_record_is(known: Directory) -> None:
    host = n.host("hv2", known=known)

    delivered, inner = n.to_port(n.receive(host, frame(), sender="hv1"))

    assert delivered.port == n.port("red", "web", 6)
    assert bytes(inner) == bytes(frame())
    assert host.meters[WEB].received_packets == 1


def test_host_refuses_what_strangers_send() -> None:
    outer = OuterHeader(bytes((198, 51, 100, 77)), bytes(n.pa("hv2")))

    verdict = n.host("hv2").from_underlay(outer, n.nvgre("red", "web", frame()), now=0)

    n.dropped(verdict, DropReason.SPOOFED_SOURCE)


def test_tenants_on_one_host_with_the_same_addresses_never_meet() -> None:
    host = n.host("hv1")
    for name in ("red", "blue"):
        sent = n.frame(name, ("web", 5), ("db", 6))
        delivered, inner = n.to_port(n.send(host, (name, "web", 5), sent))
        assert (delivered.tenant, delivered.port) == (name, n.port(name, "db", 6))
        assert inner.dst == str(n.mac(name, "db", 6))


def test_vm_cannot_reach_another_tenants_vm_by_its_mac() -> None:
    n.dropped(
        n.receive(n.gateway(), changed(frame(), dst_mac=str(n.mac("blue", "web", 6)))), DropReason.UNKNOWN_MAC
    )
    emission, _ = n.to_underlay(
        n.send(n.host("hv1"), WEB5, changed(frame(), dst_mac=str(n.mac("blue", "web", 6))))
    )
    # The host does not know the MAC and leaves it to the gateway, in Red's VSID.
    assert (emission.destination, emission.vsid) == (n.pa("edge-1"), n.VSIDS["red", "web"])


def test_padding_of_a_vms_frame_stays_behind() -> None:
    small = frame(upper=UDP(sport=1, dport=2) / Raw(b""))

    emission, _ = n.to_underlay(n.send(n.host("hv1"), WEB5, bytes(small) + bytes(18)))

    assert len(emission.payload) == 8 + len(bytes(small))
