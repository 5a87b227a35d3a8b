"""Packets that wait for a provider address: what it costs their tenant, and whose room they take."""

from __future__ import annotations

from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from gateway.forwarding.drops import DropReason
from gateway.forwarding.verdicts import Held
from gateway.forwarding.waiting import FOR_A_LEASE, FOR_NEWS
from policies.model import Limits
from tests import networks as n
from tests.rewriting import Vm, World

WEB5: Vm = ("red", "web", 5)
OCTETS = 1300 + 28


def test_packet_that_has_waited_is_charged_once() -> None:
    world = World([WEB5], net=n.network(n.tenant("red", limits=Limits(rate=8, burst=OCTETS))))
    world.leasing = False
    frame = n.frame("red", ("web", 5), ("db", 5), upper=UDP() / Raw(bytes(1300)))
    world.send(WEB5, frame)
    assert isinstance(world.verdicts[-1][1], Held)

    world.lease(*world.asked[0][1:])

    # At the host and at the gateway, each by its own limit: the whole of what may be at once.
    assert len(world.at_ports) == 1
    world.send(WEB5, frame)
    n.dropped(world.verdicts[-1][1], DropReason.RATE_LIMITED)


def test_packets_that_wait_do_not_exceed_what_is_allowed_once_they_go() -> None:
    world = World([WEB5], net=n.network(n.tenant("red", limits=Limits(rate=8, burst=2 * OCTETS))))
    world.leasing = False
    for _ in range(3):
        world.send(WEB5, n.frame("red", ("web", 5), ("db", 5), upper=UDP() / Raw(bytes(1300))))

    world.lease(*world.asked[0][1:])

    assert len(world.at_ports) == 2
    assert world.nodes["hv1"].drops.counts == {(DropReason.RATE_LIMITED, "red"): 1}


def test_what_strangers_send_takes_no_room_of_what_waits_for_a_lease() -> None:
    world = World([WEB5])
    world.leasing = False
    host = world.nodes["hv1"]
    sent = FOR_NEWS.of_a_tenant + 10
    for number in range(sent):
        source, destination = f"100.64.2.{number % 100 + 100}", str(world.record(WEB5).pa)
        host.from_provider(bytes(IP(src=source, dst=destination) / UDP()), 0)
    full = len(host.waiting)
    assert full == FOR_NEWS.of_a_tenant

    world.send(WEB5, n.frame("red", ("web", 5), ("db", 5)))

    assert isinstance(world.verdicts[-1][1], Held)
    assert len(host.waiting) == full + 1
    assert host.drops.counts == {(DropReason.UNKNOWN_PROVIDER_ADDRESS, "red"): sent - full}


def test_much_waits_for_the_news_of_a_moved_vm_and_little_for_a_lease() -> None:
    world = World([WEB5])
    world.leasing = False
    packet = bytes(IP(src="100.64.2.200", dst=str(world.record(WEB5).pa)) / UDP())
    host = world.nodes["hv1"]
    for _ in range(1000):
        host.from_provider(packet, 0)
    assert len(host.waiting) == 1000

    for _ in range(1000):
        world.send(WEB5, n.frame("red", ("web", 5), ("db", 5)))
    assert len(host.waiting) == 1000 + FOR_A_LEASE.of_one
