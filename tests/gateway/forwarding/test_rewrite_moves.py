"""A rewritten VM moves: its provider address stays or changes, and no packet is lost either way."""

from __future__ import annotations

import msgspec
import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether

from gateway.forwarding.directory import Holder, Put, PutLease
from gateway.forwarding.drops import DropReason
from gateway.forwarding.verdicts import Held, ToPort, ToProvider, ToUnderlay
from gateway.packets import ip
from gateway.packets.rewriting import rewritten
from policies.addresses import CustomerAddress
from policies.model import Lease, LookupRecord
from tests import networks as n
from tests.rewriting import POOLS, SHARED, Vm, World

WEB5: Vm = ("red", "web", 5)
WEB6: Vm = ("red", "web", 6)
DB5: Vm = ("red", "db", 5)
ALL = [WEB5, WEB6, DB5, ("red", "db", 6)]
PORT = n.port(*WEB6)


@pytest.fixture(params=[POOLS, SHARED], ids=["its address changes", "its address stays"])
def world(request: pytest.FixtureRequest) -> World:
    """Both VMs of web on their hosts, and a port for the one on hv2 at hv1 too, where it will move to."""
    world = World(ALL, pools=request.param)
    hv1, hv2 = world.nodes["hv1"], world.nodes["hv2"]
    hv1.replace_tables(hv1.tables, {**hv1.node.ports, PORT: hv2.node.ports[PORT]})
    hv1.moves.port_closed(PORT)
    return world


def moved(world: World) -> LookupRecord:
    """The record of the VM once it is at hv1."""
    record = world.record(WEB6)
    stays = "hv1" in (world.nodes["hv1"].tables.pools.lookup(record.pa) or ())
    pa = record.pa if stays else world.address("hv1", 4)
    return msgspec.structs.replace(record, host="hv1", pa=pa, epoch=2, revision=2)


def test_what_still_comes_to_the_old_host_is_sent_on_from_there(world: World) -> None:
    before, after = world.record(WEB6), moved(world)
    gateway = world.lease(before.vsid, CustomerAddress.parse("172.16.0.5"))
    hv1, hv2 = world.nodes["hv1"], world.nodes["hv2"]
    hv1.moves.port_opened(PORT, world.now)
    hv2.moves.port_closed(PORT)
    for name in ("hv1", "hv2"):
        world.tell_one(name, [Put(after)])

    plain = _rewritten_by(gateway, before)
    assert hv2.answers_for(before.pa, world.now) or before.pa == after.pa
    (onward,) = hv2.from_provider(plain, world.now).emissions
    assert isinstance(onward, ToProvider)
    sent_on = IP(onward.packet)
    assert (sent_on.src, sent_on.dst, sent_on.ttl) == (str(gateway.pa), str(after.pa), 63)
    # On a shared link nobody answers for its address, maybe, before its new host has heard that it is there.
    assert onward.via == (n.pa("hv1") if before.pa == after.pa else None)
    assert hv2.moves.redirects.packets == 1
    (waits,) = hv2.from_provider(onward.packet, world.now).emissions
    assert isinstance(waits, ToPort), "it came back, and went on again"

    (given,) = hv1.from_provider(onward.packet, world.now).emissions
    assert isinstance(given, ToPort)
    assert given.port == PORT


def test_what_comes_before_the_port_is_there_waits_for_it(world: World) -> None:
    after = moved(world)
    world.move(after)
    plain = _rewritten_by(world.record(DB5), after)
    hv1 = world.nodes["hv1"]
    (emission,) = hv1.from_provider(plain, world.now).emissions
    assert isinstance(emission, ToPort)
    hv1.moves.hold(emission, world.now)
    (given,) = hv1.moves.port_opened(PORT, world.now + 0.1)
    assert given is emission


def test_what_has_waited_at_the_old_host_is_one_hop_older_when_it_is_sent_on(world: World) -> None:
    before, after = world.record(WEB6), moved(world)
    hv2 = world.nodes["hv2"]
    hv2.moves.port_closed(PORT)
    for _ in range(2):  # the second is of a flow that is known
        (waits,) = hv2.from_provider(_rewritten_by(world.record(DB5), before), world.now).emissions
        assert isinstance(waits, ToPort)
        hv2.moves.hold(waits, world.now)

    sent_on = hv2.apply([Put(after)], 0.1)

    assert [IP(each.packet).ttl for each in sent_on if isinstance(each, ToProvider)] == [63, 63]


def test_what_has_waited_in_vain_is_sent_on_once_and_does_not_go_round(world: World) -> None:
    before, after = world.record(WEB6), moved(world)
    hv2 = world.nodes["hv2"]
    hv2.moves.port_closed(PORT)
    hv2.apply([Put(after)], 0)
    plain = _rewritten_by(world.record(DB5), before)
    (first,) = hv2.from_provider(plain, 0).emissions
    assert isinstance(first, ToProvider)
    # Its next host has sent it back, where it waits for the port; then its time is up.
    (waits,) = hv2.from_provider(ip.with_hop_limit(plain, 62), 0).emissions
    assert isinstance(waits, ToPort)
    hv2.moves.hold(waits, 0)

    assert hv2.expire(1.0) == ()
    assert hv2.drops.counts == {(DropReason.HOLD_EXPIRED, "red"): 1}


def test_its_old_address_is_understood_as_a_source_until_everybody_knows(world: World) -> None:
    before, after = world.record(WEB6), moved(world)
    world.move(after)
    plain = _rewritten_by(before, world.record(WEB5))
    hv1 = world.nodes["hv1"]
    assert len(hv1.from_provider(plain, world.now).emissions) == 1
    if before.pa != after.pa:
        world.now = 31.0
        hv1.expire(world.now)
        assert isinstance(hv1.from_provider(plain, world.now), Held)


def test_its_first_packets_by_a_new_address_wait_until_that_is_known() -> None:
    world = World(ALL)
    after = moved(world)
    hv1 = world.nodes["hv1"]
    plain = _rewritten_by(after, world.record(WEB5))
    assert isinstance(hv1.from_provider(plain, world.now), Held)
    world.tell_one("hv1", [Put(after)])
    ((name, given),) = world.at_ports
    assert (name, given.port) == ("hv1", n.port(*WEB5))


def test_the_gateway_waits_for_the_news_of_a_new_address_too() -> None:
    world = World(ALL)
    before, after = world.record(WEB6), moved(world)
    distant = world.lease(before.vsid, CustomerAddress.parse("172.16.0.5"))
    assert isinstance(world.nodes["edge-1"].from_provider(_rewritten_by(after, distant), world.now), Held)


def test_what_a_distant_end_says_is_its_own_although_its_address_is_not_known_yet() -> None:
    world = World(ALL)
    own = world.record(WEB5)
    router = Lease(world.address("edge-1", 4), own.vsid, CustomerAddress.parse("172.16.0.1"), "edge-1")
    target = world.lease(own.vsid, CustomerAddress.parse("172.16.0.5"))
    about = IP(src=str(own.pa), dst=str(target.pa), ttl=1) / UDP()
    error = bytes(IP(src=str(router.pa), dst=str(own.pa)) / ICMP(type=11) / about)
    assert isinstance(world.nodes["hv1"].from_provider(error, world.now), Held)

    world.tell_one("hv1", [PutLease(router)])

    ((_, given),) = world.at_ports
    told = Ether(given.frame)
    assert (told[IP].src, told[ICMP].payload.dst) == ("172.16.0.1", "172.16.0.5")


def test_an_address_that_nobody_takes_is_dropped_in_the_end() -> None:
    world = World(ALL)
    hv1 = world.nodes["hv1"]
    stranger = msgspec.structs.replace(world.record(WEB6), pa=world.address("hv2", 4))
    hv1.from_provider(_rewritten_by(stranger, world.record(WEB5)), 0)
    hv1.expire(1.0)
    assert hv1.drops.counts == {(DropReason.UNKNOWN_PROVIDER_ADDRESS, "red"): 1}


def _rewritten_by(sender: Holder, receiver: Holder) -> bytes:
    """A packet between two CAs as it is on the wire."""
    packet = bytes(IP(src=str(sender.ca), dst=str(receiver.ca)) / UDP(sport=1, dport=2))
    return rewritten(packet, sender.pa, receiver.pa)


def test_what_an_encapsulated_neighbour_sent_before_the_news_follows_by_the_gateway() -> None:
    world = World([WEB5])
    hv1 = world.nodes["hv1"]
    sender: Vm = ("red", "db", 6)
    hv1.moves.port_closed(n.port(*WEB5))
    (emission,) = n.send(hv1, sender, n.frame("red", sender[1:], WEB5[1:])).emissions
    assert isinstance(emission, ToPort)
    hv1.moves.hold(emission, world.now)

    record = world.record(WEB5)
    pa = world.address("hv2", 4)
    (onward,) = hv1.apply([Put(msgspec.structs.replace(record, host="hv2", pa=pa, epoch=2, revision=2))], 0.1)

    assert isinstance(onward, ToUnderlay)
    assert onward.destination == n.pa("edge-1")
    assert onward.payload[8:] == emission.frame
