"""ARP: answered from the directory, by whoever is asked first, and by nobody else."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from gateway.forwarding.drops import DropReason
from gateway.forwarding.verdicts import Answer, Forward
from tests import networks as n

ROUTER = str(n.router_mac("red", "web"))
SELF = str(n.mac("red", "web", 5))
OTHER = str(n.mac("red", "web", 6))


@pytest.mark.parametrize(
    ("target", "mac"),
    [pytest.param(n.ca("web", 1), ROUTER, id="gateway"), pytest.param(n.ca("web", 6), OTHER, id="other VM")],
)
@pytest.mark.parametrize("to", [n.BROADCAST, OTHER, ROUTER], ids=["broadcast", "VM's MAC", "router's MAC"])
def test_request_is_answered_at_the_gateway_and_at_a_port(target: str, mac: str, to: str) -> None:
    """A guest that reprobes a neighbour that it knows asks by unicast (RFC 1122 section 2.3.2.1)."""
    request = n.arp_request("red", ("web", 5), target, to=to)

    at_gateway = n.receive(n.gateway(), request)
    at_port = n.send(n.host("hv1"), ("red", "web", 5), request)

    assert isinstance(at_gateway, Answer)
    emission, through_underlay = n.to_underlay(at_gateway)
    assert (emission.destination, emission.vsid) == (n.pa("hv1"), n.VSIDS["red", "web"])
    delivered, direct = n.to_port(at_port)
    assert delivered.port == n.port("red", "web", 5)
    for reply in (through_underlay, direct):
        assert (reply.src, reply.dst) == (ROUTER, SELF)
        assert reply[ARP].op == 2
        assert (reply[ARP].hwsrc, reply[ARP].psrc) == (mac, target)
        assert (reply[ARP].hwdst, reply[ARP].pdst) == (SELF, n.ca("web", 5))


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("10.0.1.99", id="nobody's"),
        pytest.param("10.0.2.5", id="VM's in another subnet"),
        pytest.param("10.0.2.1", id="gateway's in another subnet"),
        pytest.param("8.8.8.8", id="elsewhere"),
    ],
)
def test_gateway_is_silent_about_who_is_not_in_the_subnet(target: str) -> None:
    request = n.arp_request("red", ("web", 5), target)

    assert n.dropped(n.receive(n.gateway(), request), DropReason.NO_RECORD) == ()


def test_the_same_question_has_another_answer_in_another_tenant() -> None:
    request = n.arp_request("blue", ("web", 5), n.ca("web", 6))

    _, reply = n.to_underlay(n.receive(n.gateway(), request, tenant="blue"))

    assert reply[ARP].hwsrc == str(n.mac("blue", "web", 6))


def test_host_passes_what_it_cannot_answer_unicast_to_the_gateway_and_delivers_the_reply() -> None:
    host = n.host("hv1", known=n.own_records("hv1"))
    request = n.arp_request("red", ("web", 5), n.ca("web", 6))

    passed = n.send(host, ("red", "web", 5), request)
    assert isinstance(passed, Forward)
    emission, inner = n.to_underlay(passed)
    assert (emission.source, emission.destination) == (n.pa("hv1"), n.pa("edge-1"))
    assert bytes(inner) == bytes(request)

    answer, _ = n.to_underlay(n.gateway().from_underlay(n.from_host("hv1"), emission.payload, now=0))
    delivered, reply = n.to_port(host.from_underlay(n.from_host("edge-1", to="hv1"), answer.payload, now=0))
    assert delivered.port == n.port("red", "web", 5)
    assert (reply[ARP].op, reply[ARP].hwsrc) == (2, OTHER)


def test_request_for_an_unknown_address_ends_at_the_gateway_without_an_answer() -> None:
    host = n.host("hv1", known=n.own_records("hv1"))
    request = n.arp_request("red", ("web", 5), "10.0.1.99")

    emission, _ = n.to_underlay(n.send(host, ("red", "web", 5), request))

    verdict = n.gateway().from_underlay(n.from_host("hv1"), emission.payload, now=0)
    assert n.dropped(verdict, DropReason.NO_RECORD) == ()


def announcement(target: str, source: str) -> Packet:
    return n.arp_request("red", ("web", 5), target, source=source)


@pytest.mark.parametrize("source", ["0.0.0.0", n.ca("web", 5)], ids=["probe", "announcement"])
@pytest.mark.parametrize("at", ["gateway", "port"])
def test_probe_and_announcement_of_ones_own_address_are_left_alone(source: str, at: str) -> None:
    request = announcement(n.ca("web", 5), source)

    verdict = (
        n.receive(n.gateway(), request)
        if at == "gateway"
        else n.send(n.host("hv1"), ("red", "web", 5), request)
    )

    is_announced = at == "port" and source != "0.0.0.0"
    reason = DropReason.ANNOUNCEMENT if is_announced else DropReason.NEIGHBOUR_OWN
    assert n.dropped(verdict, reason) == ()


def test_probe_of_anothers_address_is_answered_at_the_port() -> None:
    request = announcement(n.ca("web", 6), "0.0.0.0")

    _, reply = n.to_port(n.send(n.host("hv1"), ("red", "web", 5), request))

    assert (reply.dst, reply[ARP].psrc, reply[ARP].hwsrc) == (SELF, n.ca("web", 6), OTHER)


@pytest.mark.parametrize("source", ["0.0.0.0", n.ca("web", 6)], ids=["probe", "announcement"])
def test_probe_and_announcement_of_anothers_address_are_answered_at_the_gateway(source: str) -> None:
    _, reply = n.to_underlay(n.receive(n.gateway(), announcement(n.ca("web", 6), source)))

    assert (reply.dst, reply[ARP].psrc, reply[ARP].hwsrc) == (SELF, n.ca("web", 6), OTHER)


def test_probe_of_the_gateways_address_is_answered() -> None:
    _, reply = n.to_underlay(n.receive(n.gateway(), announcement(n.ca("web", 1), "0.0.0.0")))

    assert reply[ARP].hwsrc == ROUTER


@pytest.mark.parametrize("source", [n.ca("web", 6), n.ca("web", 1), "8.8.8.8"])
def test_vm_may_not_ask_in_anothers_name(source: str) -> None:
    request = n.arp_request("red", ("web", 5), n.ca("web", 1), source=source)

    n.dropped(n.send(n.host("hv1"), ("red", "web", 5), request), DropReason.SPOOFED_SOURCE)


def test_vm_may_not_ask_with_anothers_mac_inside() -> None:
    request = n.arp_request("red", ("web", 5), n.ca("web", 1))
    request[ARP].hwsrc = OTHER

    n.dropped(n.send(n.host("hv1"), ("red", "web", 5), request), DropReason.SPOOFED_SOURCE)


def test_nobody_behind_a_host_may_ask_as_the_gateway() -> None:
    request = n.arp_request("red", ("web", 5), n.ca("web", 6), source=n.ca("web", 1))

    n.dropped(n.receive(n.gateway(), request), DropReason.SPOOFED_SOURCE)


def reply_frame(psrc: str = n.ca("web", 5), hwsrc: str = SELF, to: str = OTHER, op: int = 2) -> Packet:
    return Ether(src=SELF, dst=to) / ARP(op=op, hwsrc=hwsrc, psrc=psrc, hwdst=to, pdst=n.ca("web", 6))


@pytest.mark.parametrize("to", [OTHER, n.BROADCAST, ROUTER])
@pytest.mark.parametrize("op", [2, 3, 4, 9])
def test_what_a_vm_says_unasked_goes_nowhere(to: str, op: int) -> None:
    reply = reply_frame(to=to, op=op)

    heard = DropReason.ANNOUNCEMENT if op == 2 else DropReason.NEIGHBOUR_REPLY
    n.dropped(n.send(n.host("hv1"), ("red", "web", 5), reply), heard)
    n.dropped(n.receive(n.gateway(), reply), DropReason.NEIGHBOUR_REPLY)
    # Another host believes only the gateway.
    n.dropped(n.receive(n.host("hv2"), reply), DropReason.NEIGHBOUR_REPLY)


def test_gateways_reply_for_a_vm_that_is_not_here_is_dropped() -> None:
    reply = Ether(src=ROUTER, dst=OTHER) / ARP(op=2, hwsrc=ROUTER, psrc=n.ca("web", 1), hwdst=OTHER)

    n.dropped(n.receive(n.host("hv1"), reply, sender="edge-1"), DropReason.NEIGHBOUR_REPLY)


@pytest.mark.parametrize(
    "field",
    [{"hwtype": 6}, {"ptype": 0x86DD}, {"hwlen": 8}, {"plen": 16}],
    ids=lambda field: next(iter(field)),
)
def test_arp_for_something_else_than_ipv4_over_ethernet_is_malformed(field: dict[str, int]) -> None:
    octets = bytearray(bytes(n.arp_request("red", ("web", 5), n.ca("web", 1))))
    position = {"hwtype": 15, "ptype": 16, "hwlen": 18, "plen": 19}[next(iter(field))]
    octets[position] = next(iter(field.values())) & 0xFF

    n.dropped(n.receive(n.gateway(), bytes(octets)), DropReason.MALFORMED)


def test_request_is_not_flooded_even_where_broadcast_is_carried() -> None:
    forwarder = n.gateway(n.network(n.tenant("red", broadcast=True)))

    n.dropped(n.receive(forwarder, n.arp_request("red", ("web", 5), "10.0.1.99")), DropReason.NO_RECORD)


def test_host_answers_for_its_own_vms_only() -> None:
    """What reached it from the underlay was not asked of it."""
    request = n.arp_request("red", ("web", 6), n.ca("web", 5))

    n.dropped(n.receive(n.host("hv1"), request, sender="hv2"), DropReason.NOT_HERE)


def test_packet_after_the_answer_reaches_the_vm_that_was_asked_for() -> None:
    host = n.host("hv1")
    _, reply = n.to_port(n.send(host, ("red", "web", 5), n.arp_request("red", ("web", 5), n.ca("web", 6))))
    frame = n.frame("red", ("web", 5), ("web", 6))
    frame.dst = reply[ARP].hwsrc

    emission, inner = n.to_underlay(n.send(host, ("red", "web", 5), frame))

    assert emission.destination == n.pa("hv2")
    assert bytes(inner[IP]) == bytes(frame[IP])
