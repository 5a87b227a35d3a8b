"""An IKE SA that replaces another, as its sessions live it (RFC 7296 sections 2.8, 2.18 and 2.25)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from policies.ipsec import Lifetimes
from tests.tunnels.ike.entropy import SeededEntropy
from tests.tunnels.ike.pair import UTC_NOW, Datagram, Pair, Side, drop, pair
from tests.tunnels.ike.policies import LEFT, RIGHT, policy
from tests.tunnels.ike.test_exchange import probe
from tunnels.effects import Effect, InstallChild, Path, RemoveChild, SendDatagram, SiteDown, SiteRekeyed
from tunnels.ike.constants import ExchangeType
from tunnels.ike.endpoint import IkeEndpoint
from tunnels.ike.life import State
from tunnels.ike.liveness import Traffic


def up() -> Pair:
    both = pair()
    both.connect()
    assert both.left.is_up
    assert both.right.is_up
    both.log.clear()
    return both


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
    both = up()
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
        assert probe(both, each).header.message_id == 0
    both.run(1)
    assert new._protected.unanswered is None


def test_both_may_replace_it_at_once() -> None:
    both = up()
    rekey(both, both.left)
    rekey(both, both.right)
    both.run(40)
    settled(both)


@pytest.mark.parametrize("lost", range(10))
def test_it_settles_whichever_message_is_lost(lost: int) -> None:
    for begin in (("left",), ("right",), ("left", "right")):
        both = up()
        seen = [0]

        def this(_: Datagram, seen: list[int] = seen) -> bool:
            seen[0] += 1
            return seen[0] == lost + 1

        both.rules.append(drop(this))
        for name in begin:
            rekey(both, both.left if name == "left" else both.right)
        both.run(80)
        settled(both)


def test_a_peer_that_does_not_delete_the_old_one_is_told_to() -> None:
    both = up()
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


def test_a_message_that_follows_the_new_ike_sa_moves_the_children() -> None:
    both = up()
    rekey(both, both.left)
    both.run(10)
    assert both.right.session.path.remote.address == LEFT
    assert both.right.session._route is both.right.sessions[0]._route


def test_a_close_after_the_rekey_closes_all() -> None:
    both = up()
    rekey(both, both.right)
    both.run(10)
    both.carry_out(both.left, both.left.session.close(both.now))
    both.run(10)
    for side in (both.left, both.right):
        assert {each.state for each in side.sessions} == {State.CLOSED}
        assert not side.installed


class Endpoints:
    """Two endpoints with a link that loses nothing, and takes no time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.effects: list[Effect] = []
        self.ends = {
            RIGHT: IkeEndpoint(SeededEntropy(1), lambda _: Traffic.none()),
            LEFT: IkeEndpoint(SeededEntropy(2), lambda _: Traffic.none()),
        }
        lifetimes = Lifetimes(ike_seconds=100)
        self.carry(self.ends[RIGHT].configure([policy(is_left=False, lifetimes=lifetimes)], 0.0))
        self.carry(self.ends[LEFT].configure([policy(lifetimes=lifetimes)], 0.0))

    def carry(self, effects: list[Effect]) -> None:
        waiting = list(effects)
        while waiting:
            effect = waiting.pop(0)
            self.effects.append(effect)
            if isinstance(effect, SendDatagram):
                there = Path(effect.path.remote, effect.path.local)
                end = self.ends[there.local.address]
                waiting += end.handle_datagram_untrusted(there, effect.message, self.now, UTC_NOW)

    def run(self, seconds: float, also: Callable[[], None] = lambda: None) -> None:
        end = self.now + seconds
        while (due := min(each.deadline for each in self.ends.values())) < end:
            self.now = max(self.now, due)
            for each in self.ends.values():
                self.carry(each.handle_timeout(self.now))
            also()
        self.now = end


def test_endpoints_follow_a_session_through_its_successors() -> None:
    network = Endpoints()

    def one_each() -> None:
        for end in network.ends.values():
            (peer,) = end.peers.values()
            assert peer.session is not None

    network.run(2000, one_each)
    assert len([each for each in network.effects if isinstance(each, SiteRekeyed)]) > 30
    assert not [each for each in network.effects if isinstance(each, SiteDown)]
    for end in network.ends.values():
        (peer,) = end.peers.values()
        assert len(peer.sessions) <= 2
        assert len(end._sessions) <= 3
        assert end._deadlines.earliest > network.now - 1
