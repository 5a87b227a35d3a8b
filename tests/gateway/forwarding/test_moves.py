"""A VM moves from hv1 to hv2: what waits for it, what is sent on, and who is taught."""

from __future__ import annotations

import msgspec
import pytest
from scapy.packet import Packet

from gateway.forwarding.directory import Delete, Put
from gateway.forwarding.drops import DropReason
from gateway.forwarding.happenings import Happening, Heard, Stale
from gateway.forwarding.holding import LONGEST_HELD, MOST_HELD
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.redirects import LASTS
from gateway.forwarding.verdicts import Emission, OuterHeader, ToPort, ToUnderlay
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.model import LookupRecord, ProviderGateway
from tests import networks as n

WEB = Vsid(n.VSIDS["red", "web"])
WEB5 = n.port("red", "web", 5)
CA = CustomerAddress.parse(n.ca("web", 5))
CA6 = CustomerAddress.parse(n.ca("web", 5, 6))


def record(host: str, revision: int, ca: CustomerAddress = CA) -> LookupRecord:
    return LookupRecord(WEB, ca, WEB5[1], n.pa(host), host, epoch=revision, revision=revision)


def at(host: str, revision: int) -> list[Put]:
    """Both of the VM's records, there."""
    return [Put(record(host, revision)), Put(record(host, revision, CA6))]


def host(name: str, *, where: str = "hv1") -> Forwarder:
    """One of the hosts, each of which has a port for the VM; the record says `where` it is."""
    forwarder = n.host(name)
    ports = {**forwarder.node.ports, WEB5: n.ports_of("hv1", n.network())[WEB5]}
    forwarder.replace_tables(forwarder.tables, ports)
    forwarder.moves.apply(at(where, 1), 0)
    return forwarder


def frame(number: int = 0, source: tuple[str, int] = ("web", 6)) -> Packet:
    """From another VM; on its last leg a routed frame has the VM's MAC, too."""
    sent = n.frame("red", source, ("web", 5), id=number)
    sent.dst = str(WEB5[1])
    return sent


def land(forwarder: Forwarder, sent: Packet, now: float, *, sender: str = "hv2", ttl: int = 62) -> Emission:
    """Bring a frame from the underlay, and return what comes of it."""
    outer = msgspec.structs.replace(n.from_host(sender, to=forwarder.node.name), hop_limit=ttl)
    return n.only(forwarder.from_underlay(outer, n.nvgre("red", "web", sent), now))


def hold(forwarder: Forwarder, sent: Packet, now: float, *, sender: str = "hv2") -> None:
    """Bring a frame for a port that is not there."""
    emission = land(forwarder, sent, now, sender=sender)
    assert isinstance(emission, ToPort)
    forwarder.moves.hold(emission, now)


def listen(forwarder: Forwarder) -> list[Happening]:
    heard: list[Happening] = []
    forwarder.happenings.on_happening = heard.append
    return heard


def inner(emission: Emission) -> bytes:
    assert isinstance(emission, ToUnderlay)
    return emission.payload[8:]


# What waits for a port


def test_frames_for_a_port_that_is_not_there_are_given_to_it_in_order_once_it_opens() -> None:
    hv1 = host("hv1")
    for number in range(3):
        hold(hv1, frame(number), 0.1)

    opened = hv1.moves.port_opened(WEB5, 0.2)

    assert [each.frame for each in opened if isinstance(each, ToPort)] == [bytes(frame(k)) for k in range(3)]
    assert hv1.moves.port_opened(WEB5, 0.3) == ()


def test_frames_wait_at_the_new_host_whose_directory_does_not_know_of_the_move_yet() -> None:
    hv2 = host("hv2")
    hold(hv2, frame(), 0.1, sender="hv1")

    assert hv2.moves.apply(at("hv2", 2), 0.2) == ()
    assert len(hv2.moves.port_opened(WEB5, 0.3)) == 1


def test_frame_that_has_waited_too_long_is_dropped() -> None:
    hv1 = host("hv1")
    hold(hv1, frame(), 0.0)

    assert hv1.moves.expire(LONGEST_HELD - 0.01) == ()
    assert hv1.drops.counts == {}
    assert hv1.moves.expire(LONGEST_HELD) == ()
    assert hv1.drops.counts == {(DropReason.HOLD_EXPIRED, "red"): 1}


def test_frame_that_has_waited_too_long_is_not_given_to_the_port_that_opens_then() -> None:
    hv1 = host("hv1")
    hold(hv1, frame(), 0.0)

    assert hv1.moves.port_opened(WEB5, LONGEST_HELD) == ()
    assert hv1.drops.counts == {(DropReason.HOLD_EXPIRED, "red"): 1}


def test_no_more_frames_wait_than_there_is_room_for() -> None:
    hv1 = host("hv1")
    emission = land(hv1, frame(), 0)
    assert isinstance(emission, ToPort)
    for _ in range(MOST_HELD + 3):
        hv1.moves.hold(emission, 0)

    assert hv1.drops.counts == {(DropReason.HOLD_FULL, "red"): 3}
    assert len(hv1.moves.port_opened(WEB5, 0)) == MOST_HELD


def test_frame_for_a_group_does_not_wait() -> None:
    """Every host has got it, so a VM that moves could get it twice."""
    hv1 = host("hv1")
    hv1.moves.hold(ToPort(WEB5, b"\xff" * 6 + bytes(60), "red"), 0)

    assert hv1.drops.counts == {(DropReason.NOT_HERE, "red"): 1}
    assert hv1.moves.port_opened(WEB5, 0) == ()


# What is sent on


def test_waiting_frames_are_sent_on_in_order_once_the_record_says_where_to() -> None:
    hv1 = host("hv1")
    hv1.moves.port_closed(WEB5)
    for number in range(3):
        hold(hv1, frame(number), 0.1, sender="edge-1")

    sent = hv1.moves.apply(at("hv2", 2), 0.2)

    assert [inner(each) for each in sent] == [bytes(frame(number)) for number in range(3)]
    assert {each.hop_limit for each in sent if isinstance(each, ToUnderlay)} == {61}
    assert {each.destination for each in sent if isinstance(each, ToUnderlay)} == {n.pa("hv2")}
    assert hv1.moves.redirects.packets == 3


def test_waiting_frames_of_a_vm_here_are_sent_as_any_other_of_its() -> None:
    hv1 = host("hv1")
    emission = n.only(n.send(hv1, ("red", "db", 6), n.frame("red", ("db", 6), ("web", 5))))
    assert isinstance(emission, ToPort)
    hv1.moves.hold(emission, 0)

    (sent,) = hv1.moves.apply(at("hv2", 2), 0.2)

    assert inner(sent) == emission.frame
    assert isinstance(sent, ToUnderlay)
    assert (sent.destination, sent.hop_limit) == (n.pa("hv2"), 64)


def test_what_comes_later_is_sent_on_unchanged_with_one_outer_hop_less() -> None:
    hv1 = host("hv1")
    hv1.moves.apply(at("hv2", 2), 1.0)
    sent = frame()
    sent.tos = 2

    emission = land(hv1, sent, 2.0, sender="edge-1", ttl=17)

    assert isinstance(emission, ToUnderlay)
    assert (emission.source, emission.destination) == (n.pa("hv1"), n.pa("hv2"))
    assert (emission.hop_limit, emission.ecn, emission.vsid) == (16, 2, WEB)
    assert inner(emission) == bytes(sent)


def test_what_has_no_outer_hop_left_is_dropped() -> None:
    hv1 = host("hv1")
    hv1.moves.apply(at("hv2", 2), 1.0)
    outer = msgspec.structs.replace(n.from_host("edge-1", to="hv1"), hop_limit=1)

    verdict = hv1.from_underlay(outer, n.nvgre("red", "web", frame()), 2.0)

    assert n.dropped(verdict, DropReason.HOP_LIMIT) == ()


def test_nothing_is_sent_on_to_the_host_that_it_came_from() -> None:
    """That host has an older record than we, or we than it: its VM may be on its way back."""
    hv1 = host("hv1")
    hv1.moves.apply(at("hv2", 2), 1.0)

    assert isinstance(land(hv1, frame(), 2.0, sender="hv2"), ToPort)


def test_frame_that_comes_back_is_not_sent_on_again() -> None:
    hv1 = host("hv1")
    hv1.moves.apply(at("hv2", 2), 1.0)

    assert isinstance(land(hv1, frame(), 2.0, sender="edge-1", ttl=62), ToUnderlay)
    # The sender says the same once more: it has come no further.
    assert isinstance(land(hv1, frame(), 2.1, sender="edge-1", ttl=62), ToUnderlay)
    assert isinstance(land(hv1, frame(), 2.2, sender="edge-1", ttl=59), ToPort)
    assert isinstance(land(hv1, frame(1), 2.3, sender="edge-1", ttl=59), ToUnderlay)


def test_frame_that_waited_in_vain_is_sent_even_to_where_it_came_from() -> None:
    hv1 = host("hv1")
    hv1.moves.apply(at("hv2", 2), 1.0)
    hold(hv1, frame(), 2.0, sender="hv2")

    (sent,) = hv1.moves.expire(2.0 + LONGEST_HELD)

    assert isinstance(sent, ToUnderlay)
    assert sent.destination == n.pa("hv2")
    assert hv1.drops.counts == {}


def test_after_a_while_nothing_is_sent_on_any_more() -> None:
    hv1 = host("hv1")
    hv1.moves.apply(at("hv2", 2), 1.0)
    late = 1.0 + LASTS

    assert isinstance(land(hv1, frame(), late, sender="edge-1"), ToPort)
    hv1.moves.expire(late)
    assert len(hv1.moves.redirects) == 0


@pytest.mark.parametrize("revision", [0, 1], ids=["older", "the same"])
def test_record_that_is_not_newer_makes_nobody_send_on(revision: int) -> None:
    hv1 = host("hv1")
    hv1.moves.apply(at("hv2", revision), 1.0)

    assert isinstance(land(hv1, frame(), 2.0, sender="edge-1"), ToPort)


def test_host_that_never_had_the_vm_sends_nothing_on() -> None:
    elsewhere = n.host("hv2")
    elsewhere.moves.apply(at("edge-1", 2), 1.0)
    elsewhere.moves.apply(at("hv1", 3), 1.0)

    outer = n.from_host("edge-1", to="hv2")
    verdict = elsewhere.from_underlay(outer, n.nvgre("red", "web", frame()), 2.0)

    n.dropped(verdict, DropReason.NOT_HERE)


def test_vm_that_has_come_back_gets_its_frames_again() -> None:
    hv1 = host("hv1")
    hv1.moves.apply(at("hv2", 2), 1.0)
    hv1.moves.apply(at("hv1", 3), 2.0)

    assert isinstance(land(hv1, frame(), 3.0, sender="edge-1"), ToPort)


def test_record_that_is_deleted_ends_sending_on() -> None:
    hv1 = host("hv1")
    hv1.moves.apply(at("hv2", 2), 1.0)
    hv1.moves.apply([Delete(WEB, CA), Delete(WEB, CA6)], 2.0)

    assert len(hv1.moves.redirects) == 0


def test_host_that_may_not_hold_the_tenant_is_sent_nothing() -> None:
    hv1 = host("hv1")
    stranger = msgspec.structs.replace(record("hv2", 2), pa=n.pa("edge-1"), host="edge-1")
    hv1.moves.apply([Put(stranger)], 1.0)

    assert isinstance(land(hv1, frame(), 2.0, sender="hv2"), ToPort)


# Who is taught


def test_sender_of_what_is_sent_on_is_taught_at_most_once_a_second() -> None:
    hv1 = host("hv1")
    hv1.moves.apply(at("hv2", 2), 1.0)
    heard = listen(hv1)
    for number, now in enumerate((2.0, 2.5, 2.9, 3.0, 3.1)):
        land(hv1, frame(number), now, sender="edge-1")

    assert heard == [Stale(n.pa("edge-1"), record("hv2", 2))] * 2


@pytest.mark.parametrize("destination", [("web", 6), ("db", 5)], ids=["switched", "routed"])
def test_host_that_lets_the_gateway_carry_its_vms_packets_to_another_host_is_taught(
    destination: tuple[str, int],
) -> None:
    edge = n.gateway()
    heard = listen(edge)

    for now in (0.0, 0.1, 29.0, 30.0):
        n.to_underlay(n.receive(edge, n.frame("red", ("web", 5), destination), now=now))

    told = edge.directory.find(n.VSIDS["red", destination[0]], CustomerAddress.parse(n.ca(*destination)))
    assert told is not None
    # A decision that is remembered is made anew after a while, and whoever has forgotten is taught again.
    assert heard == [Stale(n.pa("hv1"), told)] * 2


def test_what_a_gateway_carries_for_another_gateway_teaches_nobody() -> None:
    other = ProviderAddress.parse("192.0.2.253")
    red = msgspec.structs.replace(n.tenant("red"), gateways=("edge-1", "edge-2"))
    net = n.network(red)
    edge = n.gateway(
        msgspec.structs.replace(net, gateways=(*net.gateways, ProviderGateway("edge-2", (other,))))
    )
    heard = listen(edge)

    routed = n.nvgre("red", "web", n.frame("red", ("web", 5), ("db", 5)))
    n.to_underlay(edge.from_underlay(OuterHeader(other, n.pa("edge-1")), routed, 0))

    assert heard == []


def test_packet_that_a_gateway_passes_on_as_it_is_has_one_outer_hop_less() -> None:
    edge = n.gateway()
    switched = n.nvgre("red", "web", n.frame("red", ("web", 5), ("web", 6)))
    for _ in range(2):
        outer = msgspec.structs.replace(n.from_host("hv1"), hop_limit=9)
        emission, _frame = n.to_underlay(edge.from_underlay(outer, switched, 0))
        assert emission.hop_limit == 8
        routed = n.nvgre("red", "web", n.frame("red", ("web", 5), ("db", 5)))
        emission, _frame = n.to_underlay(edge.from_underlay(outer, routed, 0))
        assert emission.hop_limit == 64
    spent = msgspec.structs.replace(n.from_host("hv1"), hop_limit=1)
    n.dropped(edge.from_underlay(spent, switched, 0), DropReason.HOP_LIMIT)


# A VM that has just come


def test_vm_that_has_just_come_is_reached_before_its_record_says_so() -> None:
    hv2 = host("hv2")
    heard = listen(hv2)
    hv2.moves.port_opened(WEB5, 0)
    hv2.from_port(WEB5, bytes(n.frame("red", ("web", 5), ("web", 6))), 0.1)

    assert heard == [Heard(WEB5, (CA,), False)]
    switched = n.send(hv2, ("red", "web", 6), n.frame("red", ("web", 6), ("web", 5)))
    routed = n.send(hv2, ("red", "db", 5), n.frame("red", ("db", 5), ("web", 5)))
    assert all(isinstance(n.only(verdict), ToPort) for verdict in (switched, routed))
    assert isinstance(land(hv2, frame(), 0.2, sender="hv1"), ToPort)


def test_vm_that_has_not_been_heard_here_is_reached_where_its_record_says() -> None:
    """Its port may be here already while it runs elsewhere still."""
    hv2 = host("hv2")
    hv2.moves.port_opened(WEB5, 0)

    emission, _ = n.to_underlay(n.send(hv2, ("red", "web", 6), n.frame("red", ("web", 6), ("web", 5))))

    assert emission.destination == n.pa("hv1")


def test_newer_record_that_says_otherwise_ends_it() -> None:
    hv2 = host("hv2")
    hv2.moves.port_opened(WEB5, 0)
    hv2.from_port(WEB5, bytes(n.frame("red", ("web", 5), ("web", 6))), 0.1)
    hv2.moves.apply(at("hv1", 2), 0.2)

    n.to_underlay(n.send(hv2, ("red", "web", 6), n.frame("red", ("web", 6), ("web", 5))))


def test_port_that_closes_ends_it() -> None:
    hv2 = host("hv2")
    hv2.moves.port_opened(WEB5, 0)
    hv2.from_port(WEB5, bytes(n.frame("red", ("web", 5), ("web", 6))), 0.1)
    hv2.moves.port_closed(WEB5)

    n.to_underlay(n.send(hv2, ("red", "web", 6), n.frame("red", ("web", 6), ("web", 5))))
    assert len(hv2.moves.residence) == 0


def test_vm_that_still_talks_at_its_old_host_does_not_claim_itself_back() -> None:
    hv1 = host("hv1", where="hv2")
    hv1.moves.port_opened(WEB5, 0)
    hv1.moves.apply(at("hv1", 2), 0.1)
    heard = listen(hv1)
    hv1.moves.apply(at("hv2", 3), 0.2)

    hv1.from_port(WEB5, bytes(n.frame("red", ("web", 5), ("web", 6))), 0.3)

    assert heard == []
    assert isinstance(land(hv1, frame(), 0.4, sender="edge-1"), ToUnderlay)


def test_pinned_record_wins_over_whatever_is_heard() -> None:
    hv2 = host("hv2")
    pinned = msgspec.structs.replace(record("hv1", 5), epoch=0)
    hv2.moves.apply([Put(pinned)], 0)
    hv2.moves.port_opened(WEB5, 0)
    hv2.from_port(WEB5, bytes(n.frame("red", ("web", 5), ("web", 6))), 0.1)

    n.to_underlay(n.send(hv2, ("red", "web", 6), n.frame("red", ("web", 6), ("web", 5))))


def test_port_that_is_known_to_be_closed_is_no_way_to_a_vm_without_a_record() -> None:
    """A host that keeps only what it uses does not know where the VM is, and its gateway does."""
    hv2 = host("hv2")
    hv2.moves.apply([Delete(WEB, CA), Delete(WEB, CA6)], 0)
    hv2.moves.port_closed(WEB5)

    emission, _ = n.to_underlay(n.send(hv2, ("red", "web", 6), n.frame("red", ("web", 6), ("web", 5))))

    assert emission.destination == n.pa("edge-1")


# Ports that come with the network


def test_follower_learns_its_ports_with_the_network() -> None:
    template = n.host("hv1")
    empty = Forwarder(
        Node("hv1", template.node.provider_addresses, 1500, False, {}), template.tables, template.directory
    )
    n.dropped(
        n.send(empty, ("red", "web", 5), n.frame("red", ("web", 5), ("web", 6))), DropReason.UNKNOWN_VSID
    )

    empty.replace_tables(template.tables, template.node.ports)

    n.to_underlay(n.send(empty, ("red", "web", 5), n.frame("red", ("web", 5), ("web", 6))))
    empty.replace_tables(template.tables, {})
    n.dropped(
        n.send(empty, ("red", "web", 5), n.frame("red", ("web", 5), ("web", 6))), DropReason.UNKNOWN_VSID
    )
