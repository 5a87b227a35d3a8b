"""A dead peer is known for dead in time, and a living one is left in peace (RFC 7296 section 2.4)."""

from __future__ import annotations

import pytest

from tests.tunnels.ike.pair import UTC_NOW, Datagram, Pair, drop, pair
from tests.tunnels.ike.policies import policy
from tunnels.effects import RemoveChild, SiteDown
from tunnels.ike.constants import ExchangeType
from tunnels.ike.life import State
from tunnels.ike.liveness import IDLE_PROBE, Liveness, Question, Traffic

STEP = 0.05


def up(liveness: float = 10.0) -> Pair:
    both = pair(policy(liveness=liveness), policy(is_left=False, liveness=3600))
    both.connect(1)
    assert both.left.is_up
    both.log.clear()
    return both


def kill(both: Pair) -> None:
    both.rules.append(drop(lambda _: True, 100_000))


def send(both: Pair, seconds: float, *, answered: bool) -> None:
    """Let the left side send ESP packets, and hear some if they are answered."""
    end = both.now + seconds
    while both.now < end and both.left.is_up:
        received = both.now if answered else both.left.traffic.last_received
        both.left.traffic = Traffic(received, both.now)
        both.run(STEP)


@pytest.mark.parametrize("seconds", [1.0, 5.0, 10.0, 60.0])
def test_a_peer_that_dies_under_traffic_is_known_for_dead_when_the_silence_has_lasted(seconds: float) -> None:
    both = up(seconds)
    send(both, 20, answered=True)
    kill(both)
    died = both.now
    send(both, 10 * seconds, answered=False)
    assert not both.left.is_up
    assert seconds * 0.9 < both.now - died <= seconds + 2 * STEP
    (down,) = both.left.asked(SiteDown)
    assert down.reason.startswith("no answer from 198.51.100.1 in ")
    assert not both.left.installed
    assert both.left.asked(RemoveChild)


@pytest.mark.parametrize("seconds", [1.0, 10.0])
def test_a_peer_that_died_while_nothing_was_sent_is_known_for_dead_too(seconds: float) -> None:
    both = up(seconds)
    both.run(20)
    kill(both)
    both.run(5)
    began = both.now
    send(both, 10 * seconds, answered=False)
    assert not both.left.is_up
    assert both.now - began <= seconds + 2 * STEP


def test_a_peer_whose_packets_come_is_not_asked_at_all() -> None:
    both = up()
    send(both, 120, answered=True)
    assert both.of(ExchangeType.INFORMATIONAL) == []


def test_a_peer_that_only_receives_is_asked_and_lives_on() -> None:
    both = up()
    send(both, 60, answered=False)
    assert both.left.is_up
    asked = len(both.of(ExchangeType.INFORMATIONAL, is_response=False))
    assert 15 <= asked <= 22


def test_three_of_four_questions_may_be_lost() -> None:
    both = up()
    count = [0]

    def lost(datagram: Datagram) -> bool:
        count[0] += not datagram.is_response
        return not datagram.is_response and count[0] % 4 != 0

    both.rules.append(drop(lost, 100_000))
    send(both, 60, answered=False)
    assert both.left.is_up


def test_an_unused_tunnel_is_asked_about_rarely_and_its_dead_peer_found_all_the_same() -> None:
    both = up()
    both.run(10 * IDLE_PROBE)
    assert both.left.is_up
    assert 8 <= len(both.of(ExchangeType.INFORMATIONAL, is_response=False)) <= 11
    kill(both)
    both.run(2 * IDLE_PROBE + 15)
    assert not both.left.is_up


def test_packets_of_the_peers_speak_for_it_while_its_ike_is_slow() -> None:
    both = up()
    kill(both)
    session = both.left.session
    send(both, 4, answered=False)
    send(both, 10, answered=True)
    assert session.state is State.ESTABLISHED
    # But an IKE SA whose requests nobody answers cannot stay for ever.
    send(both, 40, answered=True)
    assert not both.left.is_up


def test_forged_and_repeated_messages_are_no_sign_of_life() -> None:
    both = up()
    both.run(IDLE_PROBE + 5)
    session = both.left.session
    answer = both.of(ExchangeType.INFORMATIONAL, is_response=True)[-1].message
    garbage = session.peer_spi + session.own_spi + bytes(20)
    kill(both)
    died = both.now
    while both.left.is_up and both.now < died + 60:
        both.left.traffic = Traffic(died, both.now)
        for message in (answer, garbage, answer[:-1] + bytes([answer[-1] ^ 1])):
            assert session.handle_datagram_untrusted(session.path, message, both.now, UTC_NOW) == []
        both.run(STEP)
    assert both.now - died <= 10 + 2 * STEP


def test_questions_follow_from_what_came_and_went() -> None:
    liveness = Liveness(10, 0)
    assert liveness.check(1, Traffic(0.5, 1)) is Question.NONE
    assert liveness.deadline == 3.5
    assert liveness.check(3.5, Traffic(0.5, 1)) is Question.URGENT
    liveness.heard(3.6)
    assert liveness.check(4, Traffic(0.5, 1)) is Question.NONE
    assert liveness.check(33.6, Traffic(0.5, 1)) is Question.IDLE
    waits = [liveness.urgent.delay(attempt) for attempt in range(1, 6)]
    assert sum(waits) == pytest.approx(7)
    assert liveness.urgent.is_over(5)
