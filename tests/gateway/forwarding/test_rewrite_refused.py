"""What IP rewrite does not carry: what is of one link alone, and errors about what nobody can read."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6ParamProblem,
    IPv6,
    IPv6ExtHdrDestOpt,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from policies.addresses import CustomerAddress
from tests import networks as n
from tests.rewriting import Vm, World

WEB5: Vm = ("red", "web", 5)
WEB6: Vm = ("red", "web", 6)
ROUTER = n.ca("web", 1, 6)
DISCOVERY = [
    ICMPv6ND_RS(),
    ICMPv6ND_RA(),
    ICMPv6ND_NS(tgt=ROUTER),
    ICMPv6ND_NA(tgt=ROUTER),
    ICMPv6ND_Redirect(tgt=ROUTER),
]


@pytest.mark.parametrize("message", DISCOVERY, ids=lambda each: type(each).__name__)
def test_neighbour_discovery_from_the_underlay_reaches_neither_vm_nor_gateway(message: Packet) -> None:
    world = World([WEB5, WEB6])
    own = world.record(WEB5, 6)
    distant = world.lease(own.vsid, CustomerAddress.parse("fd99::5"))
    for name, source, destination in (("hv1", distant.pa, own.pa), ("edge-1", own.pa, distant.pa)):
        # Where the headers in between hide it from a socket's filter.
        packet = IPv6(src=str(source), dst=str(destination), hlim=255) / IPv6ExtHdrDestOpt() / message
        n.dropped(world.nodes[name].from_provider(bytes(packet), 0), DropReason.NOT_REWRITABLE)


def unreadable(source: object, destination: object) -> Packet:
    """What a receiver says of a packet whose options end behind the quote: it has two whole addresses."""
    quote = bytes(IPv6(src=str(source), dst=str(destination), nh=60, plen=100)) + b"\x3a\xff" + bytes(6)
    return ICMPv6ParamProblem(ptr=41) / Raw(quote)


def test_error_about_what_cannot_be_read_shows_no_customer_address_to_the_underlay() -> None:
    world = World([WEB5, WEB6])
    error = unreadable(n.ca("web", 6, 6), n.ca("web", 5, 6))

    world.send(WEB5, n.frame("red", ("web", 5), ("web", 6), version=6, upper=error))

    assert n.dropped(world.verdicts[-1][1], DropReason.NOT_REWRITABLE) == ()
    assert not world.on_wire


def test_error_about_what_cannot_be_read_shows_no_provider_address_to_a_vm() -> None:
    world = World([WEB5, WEB6])
    own, other = world.record(WEB5, 6).pa, world.record(WEB6, 6).pa
    packet = IPv6(src=str(other), dst=str(own)) / unreadable(own, other)
    n.dropped(world.nodes["hv1"].from_provider(bytes(packet), 0), DropReason.NOT_REWRITABLE)


def test_error_that_quotes_too_little_is_not_carried() -> None:
    world = World([WEB5, WEB6])
    error = ICMP(type=3, code=1) / Raw(bytes(IP(src=n.ca("web", 6), dst=n.ca("web", 5)))[:19])
    world.send(WEB5, n.frame("red", ("web", 5), ("web", 6), upper=error))
    n.dropped(world.verdicts[-1][1], DropReason.NOT_REWRITABLE)


def test_broadcast_of_a_rewritten_vm_is_not_encapsulated() -> None:
    world = World([WEB5], net=n.network(n.tenant("red", broadcast=True), n.tenant("blue")))
    header = Ether(dst=n.BROADCAST, src=str(n.mac(*WEB5)))

    world.send(WEB5, header / IP(src=n.ca("web", 5), dst="255.255.255.255") / UDP())

    n.dropped(world.verdicts[-1][1], DropReason.NOT_REWRITABLE)
    assert not world.on_wire
