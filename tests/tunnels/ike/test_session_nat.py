"""NATs on the path: found, got through, and followed when they change (RFC 7296 section 2.23, RFC 3948)."""

from __future__ import annotations

import pytest

from policies.addresses import ProviderAddress
from tests.tunnels.ike.pair import UTC_NOW, Nat, Pair, Side, pair
from tests.tunnels.ike.policies import LEFT, RIGHT, policy
from tunnels.effects import IKE_PORT, NAT_PORT, Endpoint, MoveChildren, Path, SendKeepalive
from tunnels.ike import nat
from tunnels.ike.constants import ExchangeType
from tunnels.ike.liveness import Traffic
from tunnels.ike.nat import Route, detected, detection_payloads, fragment_limit, on_nat_port

OUTSIDE = ProviderAddress.parse("203.0.113.7")
SPIS = (b"a" * 8, b"b" * 8)


def behind_nat() -> Pair:
    both = pair()
    both.nat = Nat(LEFT, OUTSIDE)
    both.connect()
    assert both.left.is_up
    assert both.right.is_up
    return both


def path(local: ProviderAddress, remote: ProviderAddress, port: int = IKE_PORT) -> Path:
    return Path(Endpoint(local, port), Endpoint(remote, port))


def test_without_a_nat_everything_stays_on_port_500_and_esp_is_bare() -> None:
    both = pair()
    both.connect()
    assert {each.path.local.port for each in both.log} == {IKE_PORT}
    assert not both.left.session.in_udp
    assert not both.right.session.in_udp


def test_behind_a_nat_both_go_on_from_port_4500_and_esp_goes_in_udp() -> None:
    both = behind_nat()
    (ours,) = both.left.installed.values()
    (theirs,) = both.right.installed.values()
    assert ours.in_udp
    assert theirs.in_udp
    assert ours.path == path(LEFT, RIGHT, NAT_PORT)
    assert theirs.path == Path(Endpoint(RIGHT, NAT_PORT), Endpoint(OUTSIDE, 20000 + NAT_PORT))
    assert both.left.session.nat.ours
    assert not both.left.session.nat.peers
    assert both.right.session.nat.peers
    for each in both.of(ExchangeType.IKE_AUTH, is_response=False):
        assert (each.path.local.port, each.path.remote.port) == (NAT_PORT, NAT_PORT)


@pytest.mark.parametrize("forcing", ["left", "right"])
def test_force_udp_is_a_pretended_nat(forcing: str) -> None:
    both = pair(policy(force_udp=forcing == "left"), policy(is_left=False, force_udp=forcing == "right"))
    both.connect()
    assert both.left.session.in_udp
    assert both.right.session.in_udp
    assert all(each.in_udp for side in (both.left, both.right) for each in side.installed.values())
    assert both.left.session.path == path(LEFT, RIGHT, NAT_PORT)
    assert not both.left.session.nat.ours
    assert not both.right.session.nat.ours


def test_who_is_not_behind_the_nat_follows_after_it_has_forgotten_the_mapping() -> None:
    both = behind_nat()
    assert both.nat is not None
    both.nat.reboot()
    both.probe(both.left)
    both.run(2)
    moved = Path(Endpoint(RIGHT, NAT_PORT), Endpoint(OUTSIDE, 30000 + NAT_PORT))
    assert both.right.session.path == moved
    assert both.right.asked(MoveChildren) == [MoveChildren(tuple(both.right.installed), moved)]
    assert {each.path for each in both.right.installed.values()} == {moved}
    assert not both.left.asked(MoveChildren)
    assert both.left.session._protected.unanswered is None


def test_authentic_esp_from_elsewhere_moves_ike_too() -> None:
    both = behind_nat()
    moved = Path(Endpoint(RIGHT, NAT_PORT), Endpoint(OUTSIDE, 33333))
    both.carry_out(both.right, both.right.session.moved(moved))
    assert both.right.session.path == moved
    assert both.left.session.moved(path(LEFT, OUTSIDE, NAT_PORT)) == []


def test_a_copy_of_an_old_message_from_elsewhere_moves_nothing() -> None:
    both = behind_nat()
    asked = both.probe(both.left)
    both.run(2)
    before = both.right.session.path
    elsewhere = Path(Endpoint(RIGHT, NAT_PORT), Endpoint(ProviderAddress.parse("203.0.113.66"), 4500))
    session = both.right.session
    session.handle_datagram_untrusted(elsewhere, asked.message, both.now, UTC_NOW)
    session.handle_datagram_untrusted(elsewhere, asked.message[:-1] + b"\x00", both.now, UTC_NOW)
    assert session.path == before


def test_who_is_behind_a_nat_does_not_follow() -> None:
    both = behind_nat()
    asked = both.probe(both.right)
    session = both.left.session
    elsewhere = Path(Endpoint(LEFT, NAT_PORT), Endpoint(ProviderAddress.parse("203.0.113.66"), 4500))
    session.handle_datagram_untrusted(elsewhere, asked.message, both.now, UTC_NOW)
    assert session.path == path(LEFT, RIGHT, NAT_PORT)


def test_where_no_nat_is_a_message_sent_on_from_elsewhere_moves_nothing() -> None:
    both = pair()
    both.connect()
    (child,) = both.right.installed.values()
    asked = both.probe(both.left)
    session = both.right.session
    elsewhere = Path(Endpoint(RIGHT, IKE_PORT), Endpoint(ProviderAddress.parse("203.0.113.66"), IKE_PORT))
    caused = session.handle_datagram_untrusted(elsewhere, asked.message, both.now, UTC_NOW)
    assert session.path == child.path
    assert not [each for each in caused if isinstance(each, MoveChildren)]


def keepalives(side: Side) -> int:
    return len(side.asked(SendKeepalive))


def test_only_who_is_behind_a_nat_keeps_its_mapping_when_nothing_else_is_sent() -> None:
    both = behind_nat()
    both.run(100)
    assert keepalives(both.left) in (4, 5)
    assert keepalives(both.right) == 0
    before = keepalives(both.left)
    for _ in range(100):
        both.left.traffic = Traffic(both.now, both.now)
        both.run(1)
    assert keepalives(both.left) - before <= 1


def test_one_of_several_sources_is_enough_for_no_nat() -> None:
    there, here = path(LEFT, RIGHT), path(RIGHT, LEFT)
    other = detection_payloads(*SPIS, path(OUTSIDE, RIGHT), pretend=False)[0]
    payloads = (other, *detection_payloads(*SPIS, there, pretend=False))
    assert not detected(*SPIS, here, payloads).is_there
    assert detected(*SPIS, here, payloads[:1] + payloads[2:]).peers
    assert not detected(*SPIS, here, ()).is_there
    assert detected(*SPIS, path(OUTSIDE, LEFT), payloads).ours


def test_a_changed_port_shows_a_nat_too() -> None:
    there = path(LEFT, RIGHT)
    payloads = detection_payloads(*SPIS, there, pretend=False)
    seen = Path(Endpoint(RIGHT, IKE_PORT), Endpoint(LEFT, 1024))
    assert detected(*SPIS, seen, payloads).peers


def test_from_port_4500_there_is_no_way_back_to_500() -> None:
    route = Route(path(LEFT, RIGHT, NAT_PORT))
    route.nat = nat.Nat(peers=True)
    assert not route.follow(path(LEFT, OUTSIDE))
    assert route.follow(path(LEFT, OUTSIDE, NAT_PORT))


def test_an_initiator_behind_a_nat_goes_on_from_4500_to_the_port_that_the_peer_has_there() -> None:
    assert on_nat_port(path(LEFT, RIGHT)) == path(LEFT, RIGHT, NAT_PORT)
    assert on_nat_port(Path(Endpoint(LEFT, 500), Endpoint(RIGHT, 1234))).remote.port == 1234


def test_a_fragment_fits_into_a_datagram_that_every_network_carries() -> None:
    assert fragment_limit(path(LEFT, RIGHT)) == 576 - 20 - 8 - 4
    six = ProviderAddress.parse("2001:db8::1")
    assert fragment_limit(path(six, six)) == 1280 - 40 - 8 - 4
