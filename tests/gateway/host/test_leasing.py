"""Which provider addresses a node asks for, and what it makes of refusals."""

from __future__ import annotations

import math

import pytest

from gateway.forwarding.directory import PutLease
from gateway.host.leasing import (
    ASKED_FOR,
    COMPLAIN_EVERY,
    MOST_UNDER_WAY,
    MOST_WAITING,
    REFUSED_FOR,
    REMEMBERED,
    UNKNOWN_FOR,
    Ask,
    Effect,
    Lacking,
    Refuse,
)
from gateway.lookup.outcomes import WhyNoLease
from policies.addresses import Vsid
from tests.gateway.host.leased import WEB, Node, ca, encapsulated, lease, rewritten

BLUE = Vsid(6001)


@pytest.fixture
def host() -> Node:
    return Node()


def test_what_is_wanted_is_asked_for_once(host: Node) -> None:
    assert host.wanted(5) == [Ask(WEB, ca(5))]
    assert host.wanted(5, 0.25) == []
    assert host.leasing.deadline == math.inf


def test_what_is_wanted_is_due_at_once_but_not_said_from_within_forwarding(host: Node) -> None:
    host.leasing.wanted(WEB, ca(5), 0.0)

    assert host.leasing.deadline == -math.inf


def test_so_many_are_asked_for_at_once_and_the_next_when_one_is_answered(host: Node) -> None:
    for number in range(MOST_UNDER_WAY + 2):
        host.leasing.wanted(WEB, ca(number), 0.0)

    assert host.due(0.0) == [Ask(WEB, ca(number)) for number in range(MOST_UNDER_WAY)]
    assert host.leasing.deadline == math.inf
    assert host.do(host.leasing.answered((WEB, ca(0)), lease(1, 0), 0.1)) == [Ask(WEB, ca(MOST_UNDER_WAY))]
    assert host.leasing.failed((WEB, ca(1)), 0.1) == [Ask(WEB, ca(MOST_UNDER_WAY + 1))]


def test_so_many_wait_of_one_virtual_subnet_and_those_of_another_are_not_behind_them(host: Node) -> None:
    for number in range(MOST_UNDER_WAY + MOST_WAITING + 100):
        host.leasing.wanted(WEB, ca(number), 0.0)
        host.due(0.0)
    host.leasing.wanted(BLUE, ca(5), 0.0)
    assert host.due(0.0) == []

    asked: list[Effect] = []
    under_way = [(WEB, ca(number)) for number in range(MOST_UNDER_WAY)]
    while under_way:
        for effect in host.leasing.failed(under_way.pop(0), 0.1):
            assert isinstance(effect, Ask)
            asked.append(effect)
            under_way.append((effect.vsid, effect.ca))
    assert Ask(BLUE, ca(5)) in asked[:2]
    assert len(asked) == len(set(asked)) == MOST_WAITING + 1


def test_what_has_come_by_the_feed_meanwhile_is_not_asked_for(host: Node) -> None:
    for number in (5, 6):
        host.leasing.wanted(WEB, ca(number), 0.0)
    host.feed(PutLease(lease(1, 5)), rewritten(6))

    assert host.due(0.0) == []
    assert host.leasing.deadline == math.inf


def test_an_answer_keeps_the_same_from_being_asked_again_for_a_second(host: Node) -> None:
    host.wanted(5)
    host.do(host.leasing.answered((WEB, ca(5)), encapsulated(5).record, 0.1))

    assert host.wanted(5, 0.1 + ASKED_FOR - 0.01) == []
    assert host.wanted(5, 0.1 + ASKED_FOR) == [Ask(WEB, ca(5))]


def test_nobody_is_told_anything_while_the_lookup_service_is_away_and_it_is_asked_every_second(
    host: Node,
) -> None:
    asked = []
    for quarter in range(40):
        at = quarter / 4
        for effect in host.wanted(5, at):
            assert effect == Ask(WEB, ca(5))
            asked.append(at)
            assert host.leasing.failed((WEB, ca(5)), at) == []

    assert asked == [float(second) for second in range(10)]


# --- refusals


@pytest.mark.parametrize(
    ("reason", "seconds"),
    [
        (WhyNoLease.UNKNOWN, UNKNOWN_FOR),
        (WhyNoLease.POOL_EMPTY, REFUSED_FOR),
        (WhyNoLease.TENANT_LIMIT, REFUSED_FOR),
        (WhyNoLease.NO_POOL, REFUSED_FOR),
        ("hv1 may not", REFUSED_FOR),
    ],
)
def test_a_refusal_is_remembered_and_whatever_waits_meanwhile_waits_in_vain(
    host: Node, reason: str, seconds: float
) -> None:
    host.wanted(5)
    assert host.leasing.refused((WEB, ca(5)), reason, 0.0)[0] == Refuse(WEB, ca(5))

    assert host.wanted(5, seconds - 0.1) == [Refuse(WEB, ca(5))]
    assert host.leasing.deadline == math.inf
    assert host.wanted(5, seconds) == [Ask(WEB, ca(5))]


def test_a_record_that_comes_ends_a_refusal_but_not_the_pause_between_two_calls(host: Node) -> None:
    host.wanted(5)
    host.leasing.refused((WEB, ca(5)), WhyNoLease.UNKNOWN, 0.0)
    host.feed(encapsulated(5), now=1.5)

    assert host.wanted(5, 1.6) == []
    assert host.wanted(5, 1.5 + ASKED_FOR) == [Ask(WEB, ca(5))]


def test_an_operator_is_told_of_a_pool_that_is_empty_once_a_minute_and_of_strangers_never(
    host: Node,
) -> None:
    told = []
    for number in range(200):
        at = float(number)
        host.wanted(number, at)
        effects = host.leasing.refused((WEB, ca(number)), WhyNoLease.POOL_EMPTY, at)
        told += [(at, effect) for effect in effects if isinstance(effect, Lacking)]
        host.wanted(number, at, BLUE)
        assert host.leasing.refused((BLUE, ca(number)), WhyNoLease.UNKNOWN, at) == [Refuse(BLUE, ca(number))]

    assert [at for at, _ in told] == [0.0, COMPLAIN_EVERY, 2 * COMPLAIN_EVERY, 3 * COMPLAIN_EVERY]
    assert told[0][1] == Lacking(WEB, ca(0), "pool-empty")


def test_refusals_that_name_what_is_refused_are_told_once_a_minute_too(host: Node) -> None:
    told = []
    for number in range(100):
        host.wanted(number, 0.0)
        effects = host.leasing.refused((WEB, ca(number)), f"{ca(number)} belongs to VSID 5002", 0.0)
        told += [effect for effect in effects if isinstance(effect, Lacking)]

    assert told == [Lacking(WEB, ca(0), "172.16.0.0 belongs to VSID 5002")]


def test_what_is_remembered_is_bounded_and_the_oldest_makes_room(host: Node) -> None:
    for number in range(REMEMBERED + 1):
        assert host.wanted(number) == [Ask(WEB, ca(number))]
        host.leasing.refused((WEB, ca(number)), WhyNoLease.UNKNOWN, 0.0)

    assert host.wanted(REMEMBERED) == [Refuse(WEB, ca(REMEMBERED))]
    assert host.wanted(1) == [Refuse(WEB, ca(1))]
    assert host.wanted(0) == [Ask(WEB, ca(0))]
