from __future__ import annotations

from typing import Any

import pytest

from gateway.http import door as doors
from gateway.http.door import FAILURES_AT_ONCE, MOST_ADDRESSES, TOLD_AT_ONCE, Door, source_of
from gateway.http.principals import ANYBODY, Credentials, Principal
from gateway.http.problems import HttpProblem
from policies.services import Role

OPERATOR, READER = Principal("op", Role.OPERATOR), Principal("reader", Role.READER, frozenset({"red"}))
GOOD, OTHER = b"0123456789abcdef", b"fedcba9876543210"


class Request:
    """As much of a request as is looked at."""

    def __init__(self, token: bytes | None, remote: str = "192.0.2.1") -> None:
        self.remote = remote
        self.headers = {} if token is None else {"Authorization": f"Bearer {token.decode()}"}

    def get_extra_info(self, name: str) -> None:
        assert name == "peercert"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def door_and_clock() -> tuple[Door, Clock]:
    clock = Clock()
    credentials = Credentials([(GOOD, OPERATOR), (OTHER, READER)], {})
    return Door(credentials, clock=clock), clock


def ask(door: Door, token: bytes | None, remote: str = "192.0.2.1") -> int:
    """Ask, and return the status: 200 where somebody is let in."""
    request: Any = Request(token, remote)
    try:
        door.admit(request)
    except HttpProblem as problem:
        return problem.status if problem.headers.keys() & {"WWW-Authenticate", "Retry-After"} else 0
    return 200


def test_who_shows_nothing_is_refused_and_is_no_news() -> None:
    door, _ = door_and_clock()
    told: list[str] = []
    door.stranger = told.append

    assert ask(door, None) == 401
    assert told == []


def test_a_thousand_failed_logins_are_told_of_a_few_times_and_refused_more_and_more_briefly() -> None:
    door, _ = door_and_clock()
    told: list[str] = []
    door.stranger = told.append

    answers = [ask(door, b"wrong-%d-0123456789" % number) for number in range(1000)]

    assert answers == [401] * FAILURES_AT_ONCE + [429] * (1000 - FAILURES_AT_ONCE)
    assert len(told) == FAILURES_AT_ONCE
    assert door.failures == 1000
    assert not any("wrong" in each for each in told)


def test_strangers_at_many_addresses_are_told_of_no_more_often() -> None:
    door, _ = door_and_clock()
    told: list[str] = []
    door.stranger = told.append

    for number in range(1000):
        assert ask(door, b"wrong-0123456789", f"192.0.2.{number % 250}") in (401, 429)

    assert len(told) == TOLD_AT_ONCE
    assert door.failures == 1000


def test_who_was_let_in_before_is_not_locked_out_by_others_behind_the_same_address() -> None:
    door, _ = door_and_clock()
    assert ask(door, GOOD) == 200
    for _ in range(1000):
        ask(door, None)

    assert [ask(door, GOOD) for _ in range(100)] == [200] * 100


def test_nobody_guesses_faster_than_once_a_second_even_if_a_guess_is_good() -> None:
    door, clock = door_and_clock()
    for _ in range(100):
        ask(door, b"wrong-0123456789")

    assert ask(door, GOOD) == 429
    clock.now = 1.0
    assert ask(door, GOOD) == 200
    assert ask(door, OTHER) == 429
    assert ask(door, GOOD) == 200


def test_other_addresses_are_not_held_to_account() -> None:
    door, _ = door_and_clock()
    for _ in range(100):
        ask(door, None, "192.0.2.1")

    assert ask(door, None, "192.0.2.2") == 401
    assert ask(door, GOOD, "192.0.2.2") == 200


def test_all_addresses_of_an_ipv6_network_are_one_stranger() -> None:
    door, _ = door_and_clock()
    for number in range(100):
        ask(door, None, f"2001:db8::{number:x}")

    assert ask(door, None, "2001:db8::ffff:1") == 429
    assert ask(door, None, "2001:db8:0:1::1") == 401


@pytest.mark.parametrize(
    ("remote", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("2001:db8::1:2:3:4", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, ""),
    ],
)
def test_source_is_what_one_stranger_has(remote: str | None, source: str) -> None:
    assert source_of(remote) == source


def test_what_is_remembered_of_strangers_is_bounded() -> None:
    door, _ = door_and_clock()
    for number in range(2 * MOST_ADDRESSES):
        remote = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        ask(door, None, remote)
        ask(door, GOOD, remote)

    assert len(door._failed) == len(door._known) == MOST_ADDRESSES


def test_who_fails_oftenest_is_forgotten_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "MOST_ADDRESSES", 2)
    door, _ = door_and_clock()
    for _ in range(FAILURES_AT_ONCE + 1):
        ask(door, None, "192.0.2.1")
    ask(door, None, "192.0.2.2")
    assert ask(door, None, "192.0.2.1") == 429
    ask(door, None, "192.0.2.3")

    assert ask(door, None, "192.0.2.1") == 429


def test_without_credentials_everybody_is_an_operator() -> None:
    request: Any = Request(b"whatever")

    assert Door().admit(request) is ANYBODY


def test_token_that_is_taken_away_is_no_longer_known() -> None:
    door, _ = door_and_clock()
    assert ask(door, GOOD) == 200
    door.credentials = Credentials([(OTHER, READER)], {})

    assert ask(door, GOOD) == 401
