"""RFC 5227, IPv4 address conflict detection: no VM is talked out of its own address."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scapy.layers.l2 import ARP
from scapy.packet import Packet

from gateway.forwarding.drops import DropReason
from gateway.forwarding.verdicts import Verdict
from tests import networks as n

OWN, OTHER, GATEWAY, FREE = n.ca("web", 5), n.ca("web", 6), n.ca("web", 1), "10.0.1.99"


def probe(target: str) -> Packet:
    """Section 2.1.1: from all zeroes, so that nobody's cache is polluted."""
    return n.arp_request("red", ("web", 5), target, source="0.0.0.0")


def announcement(target: str = OWN) -> Packet:
    """Section 2.3: sender and target are the same address."""
    return n.arp_request("red", ("web", 5), target, source=target)


def at_gateway(request: Packet) -> Verdict:
    return n.receive(n.gateway(), request)


def at_port(request: Packet) -> Verdict:
    return n.send(n.host("hv1"), ("red", "web", 5), request)


@pytest.mark.parametrize("decide", [at_gateway, at_port])
def test_section_2_1_1_probe_of_the_askers_own_address_is_not_answered(
    decide: Callable[[Packet], Verdict],
) -> None:
    """Any ARP packet from that address, even about itself, would be a conflict."""
    assert n.dropped(decide(probe(OWN)), DropReason.NEIGHBOUR_OWN) == ()


def test_section_2_1_1_probe_of_a_free_address_is_not_answered() -> None:
    assert n.dropped(at_gateway(probe(FREE)), DropReason.NO_RECORD) == ()


@pytest.mark.parametrize("target", [OTHER, GATEWAY])
def test_section_2_1_1_probe_of_anothers_address_is_answered_with_its_owners_mac(target: str) -> None:
    owner = n.mac("red", "web", 6) if target == OTHER else n.router_mac("red", "web")

    _, far = n.to_underlay(at_gateway(probe(target)))
    _, near = n.to_port(at_port(probe(target)))

    for reply in (far, near):
        assert (reply[ARP].op, reply[ARP].psrc, reply[ARP].hwsrc) == (2, target, str(owner))
        assert reply[ARP].hwsrc != str(n.mac("red", "web", 5))
        assert reply.dst == str(n.mac("red", "web", 5))


def test_section_2_1_1_probe_of_one_vm_is_no_conflict_for_another() -> None:
    """Two VMs of two tenants may probe for the same address at the same time."""
    blue = n.arp_request("blue", ("web", 5), n.ca("web", 5), source="0.0.0.0")

    n.dropped(n.receive(n.gateway(), blue, tenant="blue"), DropReason.NEIGHBOUR_OWN)
    n.dropped(at_gateway(probe(OWN)), DropReason.NEIGHBOUR_OWN)


@pytest.mark.parametrize("decide", [at_gateway, at_port])
def test_section_2_3_announcement_of_ones_own_address_is_not_answered(
    decide: Callable[[Packet], Verdict],
) -> None:
    reason = DropReason.NEIGHBOUR_OWN if decide is at_gateway else DropReason.ANNOUNCEMENT

    assert n.dropped(decide(announcement()), reason) == ()


def test_section_2_3_announcement_as_a_reply_goes_nowhere() -> None:
    """Section 3 discusses why some send replies; caches here are right without it."""
    gratuitous = announcement()
    gratuitous[ARP].op = 2

    n.dropped(at_gateway(gratuitous), DropReason.NEIGHBOUR_REPLY)
    n.dropped(at_port(gratuitous), DropReason.ANNOUNCEMENT)


def test_section_2_4_announcement_of_anothers_address_is_defended() -> None:
    """The owner does not hear of it, so the directory answers in its place."""
    _, reply = n.to_underlay(at_gateway(announcement(OTHER)))

    assert (reply[ARP].psrc, reply[ARP].hwsrc) == (OTHER, str(n.mac("red", "web", 6)))


def test_section_2_4_vm_cannot_even_announce_anothers_address_at_its_port() -> None:
    n.dropped(at_port(announcement(OTHER)), DropReason.SPOOFED_SOURCE)
