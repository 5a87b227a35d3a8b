"""An IKE SA that replaces another, as its sessions live it (RFC 7296 sections 2.8, 2.18 and 2.25)."""

from __future__ import annotations

import pytest

from policies.addresses import ProviderAddress
from policies.ipsec import Lifetimes
from tests.tunnels.ike.nodes import Network
from tests.tunnels.ike.pair import Datagram, Nat, Pair, Side, connected, drop, pair
from tests.tunnels.ike.policies import LEFT, RIGHT, policy
from tunnels.effects import (
    NAT_PORT,
    Endpoint,
    InstallChild,
    MoveChildren,
    Path,
    RemoveChild,
    SiteDown,
    SiteRekeyed,
)
from tunnels.ike.constants import ExchangeType
from tunnels.ike.life import State


def rekey(both: Pair, side: Side) -> None:
    session = side.session
    assert session.children is not None
    session.children.rekey_ike(both.now)
    both.carry_out(side, session.go_on(both.now))


def settled(both: Pair) -> None:
    """One IKE SA is left, the same on both sides, and the child SA is untouched."""
    for side, other in ((both.left, both.right), (both.right, both.left)):
        alive = [each for each in side.sessions if each.state is not State.CLOSED]
        assert [each.state for each in alive] == [State.ESTABLISHED]
        assert alive[0].peer_spi == other.session.own_spi
        assert len(side.installed) == 1
        assert not side.asked(SiteDown)
        assert not side.asked(RemoveChild)
        assert len(side.asked(InstallChild)) == 1
        assert all(each.deadline is None for each in side.sessions if each not in alive)
        assert alive[0].predecessor is None


@pytest.mark.parametrize("name", ["left", "right"])
def test_either_side_may_replace_the_ike_sa_and_the_children_stay(name: str) -> None:
    both = connected()
    first = both.left.session
    side = both.left if name == "left" else both.right
    rekey(both, side)
    both.run(10)
    settled(both)
    new = both.left.session
    assert first.successor is new
    assert new.is_initiator is (name == "left")
    assert new.own_spi != first.own_spi
    for each in (both.left, both.right):
        assert [done.what for done in each.asked(SiteRekeyed)] == ["ike"]
        assert both.probe(each).header.message_id == 0
    both.run(1)
    assert new._protected.unanswered is None


def test_both_may_replace_it_at_once() -> None:
    both = connected()
    rekey(both, both.left)
    rekey(both, both.right)
    both.run(40)
    settled(both)


@pytest.mark.parametrize("lost", range(10))
def test_it_settles_whichever_message_is_lost(lost: int) -> None:
    for begin in (("left",), ("right",), ("left", "right")):
        both = connected()
        seen = [0]

        def this(_: Datagram, seen: list[int] = seen) -> bool:
            seen[0] += 1
            return seen[0] == lost + 1

        both.rules.append(drop(this))
        for name in begin:
            rekey(both, both.left if name == "left" else both.right)
        both.run(80)
        settled(both)


@pytest.mark.parametrize("seconds", [3, 8])
@pytest.mark.parametrize("slow", [LEFT, RIGHT])
def test_it_settles_where_the_loser_is_deleted_before_the_answer_comes_that_decides(
    slow: ProviderAddress, seconds: float
) -> None:
    both = connected()
    until = both.now + seconds
    both.rules.append(
        drop(
            lambda each: (
                each.exchange == ExchangeType.CREATE_CHILD_SA
                and each.is_response
                and each.path.local.address == slow
                and both.now < until
            ),
            times=100,
        )
    )
    rekey(both, both.left)
    rekey(both, both.right)
    both.run(80)
    settled(both)


def test_a_peer_that_deletes_what_is_to_replace_the_ike_sa_has_ended_it() -> None:
    both = pair(seed=4)  # in which the right side's rekey wins
    both.connect()
    old = both.right.session

    def hold_back(each: Datagram) -> tuple[()] | None:
        is_request = each.exchange == ExchangeType.CREATE_CHILD_SA and not each.is_response
        is_old = each.path.local.address == RIGHT and each.header.initiator_spi == old.initiator_spi
        return () if is_old and not is_request else None

    both.rules.append(hold_back)
    rekey(both, both.left)
    rekey(both, both.right)
    both.run(1)
    new = both.right.session
    assert new is not old
    assert new.is_initiator
    both.carry_out(both.right, new.close(both.now))
    both.run(2)
    both.rules.clear()
    both.run(60)

    assert not both.left.is_up
    assert not both.left.installed
    assert [each.reason for each in both.left.asked(SiteDown)] == [
        "the peer has deleted the IKE SA that was to replace this one"
    ]


def test_a_peer_that_does_not_delete_the_old_one_is_told_to() -> None:
    both = connected()
    old = both.right.session
    both.rules.append(
        drop(lambda each: each.exchange == ExchangeType.INFORMATIONAL and each.path.local.address == LEFT, 3)
    )
    rekey(both, both.left)
    both.run(60)
    assert old.state is State.CLOSED
    assert len(both.left.installed) == len(both.right.installed) == 1
    assert both.left.is_up
    assert both.right.is_up


def test_an_ike_sa_is_replaced_by_time() -> None:
    lifetimes = Lifetimes(ike_seconds=100)
    both = pair(policy(lifetimes=lifetimes), policy(is_left=False, lifetimes=lifetimes))
    both.connect()
    both.run(1000)
    assert len(both.left.asked(SiteRekeyed)) >= 10
    assert both.left.is_up
    assert len([each for each in both.left.sessions if each.state is not State.CLOSED]) <= 2
    assert len(both.left.installed) == 1


def test_a_peer_that_moves_after_the_rekey_is_followed_by_the_children() -> None:
    outside = ProviderAddress.parse("203.0.113.7")
    both = pair()
    both.nat = Nat(LEFT, outside)
    both.connect()
    rekey(both, both.left)
    both.run(10)
    assert not both.right.asked(MoveChildren)
    both.nat.reboot()
    both.probe(both.left)
    both.run(2)
    moved = Path(Endpoint(RIGHT, NAT_PORT), Endpoint(outside, both.nat.first_port + NAT_PORT))
    assert both.right.asked(MoveChildren) == [MoveChildren(tuple(both.right.installed), moved)]
    assert both.right.session.path == moved


def test_a_close_after_the_rekey_closes_all() -> None:
    both = connected()
    rekey(both, both.right)
    both.run(10)
    both.carry_out(both.left, both.left.session.close(both.now))
    both.run(10)
    for side in (both.left, both.right):
        assert {each.state for each in side.sessions} == {State.CLOSED}
        assert not side.installed


def test_endpoints_follow_a_session_through_its_successors() -> None:
    net = Network()
    nodes = [net.node(str(LEFT)), net.node(str(RIGHT))]
    lifetimes = Lifetimes(ike_seconds=100)
    nodes[1].configure(policy(is_left=False, lifetimes=lifetimes))
    nodes[0].configure(policy(lifetimes=lifetimes))
    net.run(1)
    for _ in range(2000):
        net.run(1)
        for node in nodes:
            (peer,) = node.endpoint.peers.values()
            assert peer.session is not None
            assert len(peer.sessions) <= 2
            assert len(node.endpoint._sessions) <= 3
    for node in nodes:
        assert len([each for each in node.effects if isinstance(each, SiteRekeyed)]) > 15
        assert not [each for each in node.effects if isinstance(each, SiteDown)]
