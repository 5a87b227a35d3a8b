"""Leases that a node uses before the feed tells of them."""

from __future__ import annotations

import pytest

from gateway.forwarding.directory import DeleteLease, PutLease
from gateway.host.ahead import AHEAD_FOR
from gateway.host.leasing import Apply, Ask
from tests.gateway.host.leased import WEB, Node, ca, lease, pa


@pytest.fixture
def host() -> Node:
    return Node()


def test_an_answer_that_is_ahead_of_the_feed_is_used_at_once(host: Node) -> None:
    host.applied(6)
    host.wanted(5)
    answer = lease(1, 5, revision=7)

    assert host.leasing.answered((WEB, ca(5)), answer, 0.1) == [Apply(PutLease(answer))]


def test_an_answer_that_the_feed_has_passed_is_not_used(host: Node) -> None:
    host.wanted(5)
    host.feed(PutLease(lease(1, 5, revision=7)), DeleteLease(pa(1)))
    host.applied(8)

    assert host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 0.1) == []


def test_an_answer_that_the_feed_is_just_passing_is_not_used(host: Node) -> None:
    """The feed has told of what came after it, and not yet said to which revision that is."""
    host.applied(6)
    host.wanted(5)
    host.feed(DeleteLease(pa(1)))

    assert host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 0.1) == []
    host.applied(8)
    assert host.leases == set()


def test_an_answer_that_the_feed_has_told_of_before_all_that_was_before_it_is_not_ahead(host: Node) -> None:
    """A listing has no order of revisions, and what it comes to is said at its end."""
    host.wanted(5)
    host.feed(PutLease(lease(1, 5, revision=7)))
    host.applied(0)
    assert host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 0.1) == []

    host.applied(3)
    host.wanted(5, 2.0)
    assert host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 2.1) == []
    host.applied(9)
    assert host.leases == {pa(1)}


def test_an_answer_about_something_else_is_not_used(host: Node) -> None:
    host.wanted(5)

    assert host.leasing.answered((WEB, ca(5)), lease(1, 6), 0.1) == []


def test_of_two_answers_ahead_of_the_feed_the_later_counts(host: Node) -> None:
    host.wanted(5)
    host.wanted(6)
    host.do(host.leasing.answered((WEB, ca(6)), lease(1, 6, revision=900), 0.1))

    assert host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 0.2) == []


def test_what_is_ahead_stays_when_the_feed_comes_to_it(host: Node) -> None:
    host.wanted(5)
    host.do(host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 0.1))
    host.applied(6)
    host.feed(PutLease(lease(1, 5, revision=7)))
    host.applied(9)

    assert host.leases == {pa(1)}


def test_what_is_ahead_goes_when_the_feed_comes_to_its_revision_without_it(host: Node) -> None:
    """It was returned before the feed, which had been cut, was told everything anew."""
    host.wanted(5)
    host.do(host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 0.1))
    host.applied(6)
    assert host.leases == {pa(1)}

    host.applied(9)
    assert host.leases == set()


def test_what_is_ahead_goes_when_the_store_is_restored_to_before_it(host: Node) -> None:
    host.applied(6)
    host.wanted(5)
    host.do(host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 0.1))

    host.applied(4)
    assert host.leases == set()


def test_what_is_ahead_goes_after_a_minute_in_which_the_feed_does_not_come_to_it(host: Node) -> None:
    """Nothing would say that it is returned, and one day another's. If it stands, the next answer says so."""
    host.wanted(5)
    host.do(host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 1.0))
    assert host.leasing.deadline == 1.0 + AHEAD_FOR

    assert host.due(AHEAD_FOR) == []
    assert host.leases == {pa(1)}
    assert host.due(1.0 + AHEAD_FOR) == []
    assert host.leases == set()
    assert host.wanted(5, 1.0 + AHEAD_FOR) == [Ask(WEB, ca(5))]


def test_what_is_ahead_goes_with_what_the_feed_says_of_the_same_address(host: Node) -> None:
    host.wanted(5)
    host.do(host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 0.1))
    host.feed(DeleteLease(pa(1)), PutLease(lease(1, 6, revision=400)))
    host.applied(500)

    assert [each.ca for each in host.directory.all_leases()] == [ca(6)]
