from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.ike.constants import PayloadType
from tunnels.ike.fragments import MOST_FRAGMENTS, MOST_OCTETS, Reassembly, split

FIRST = PayloadType.IDENTIFICATION_INITIATOR
WHOLE = bytes(range(256)) * 4


def add(queue: Reassembly, number: int, parts: list[bytes], message_id: int = 1) -> tuple[int, bytes] | None:
    """Add a fragment as a peer sends it: only the first one says what the message begins with."""
    return queue.add(message_id, number, len(parts), FIRST if number == 1 else 0, parts[number - 1])


@given(st.binary(max_size=3000), st.integers(1, 700), st.randoms(use_true_random=False))
def test_message_is_put_together_from_its_fragments_in_any_order(
    plaintext: bytes, limit: int, chance: random.Random
) -> None:
    parts = split(plaintext, limit)[:MOST_FRAGMENTS]
    order = list(range(1, len(parts) + 1))
    chance.shuffle(order)
    queue = Reassembly()

    results = [add(queue, number, parts) for number in order]

    assert results == [None] * (len(parts) - 1) + [(FIRST, b"".join(parts))]


@given(st.binary(max_size=3000), st.integers(1, 700))
def test_fragments_are_as_few_as_the_limit_allows(plaintext: bytes, limit: int) -> None:
    parts = split(plaintext, limit)

    assert b"".join(parts) == plaintext
    assert all(len(part) <= limit for part in parts)
    assert len(parts) == max(1, -(-len(plaintext) // limit))


def test_repeated_fragment_changes_nothing() -> None:
    parts = split(WHOLE, 400)
    queue = Reassembly()

    assert add(queue, 1, parts) is None
    assert queue.add(1, 1, 3, FIRST, b"something else") is None
    assert add(queue, 2, parts) is None
    assert add(queue, 2, parts) is None
    assert add(queue, 3, parts) == (FIRST, WHOLE)


@pytest.mark.parametrize(("number", "total"), [(0, 3), (0, 0), (4, 3), (1, 0), (1, MOST_FRAGMENTS + 1)])
def test_fragment_whose_numbers_cannot_be_changes_nothing(number: int, total: int) -> None:
    parts = split(WHOLE, 400)
    queue = Reassembly()
    add(queue, 1, parts)
    add(queue, 2, parts)

    assert queue.add(1, number, total, FIRST, b"x") is None
    assert add(queue, 3, parts) == (FIRST, WHOLE)


def test_more_and_smaller_fragments_of_the_same_message_take_the_place_of_fewer() -> None:
    large, small = split(WHOLE, 600), split(WHOLE, 300)
    queue = Reassembly()
    add(queue, 1, large)

    assert [add(queue, number, small) for number in (2, 3, 4)] == [None] * 3
    assert add(queue, 2, large) is None
    assert add(queue, 1, small) == (FIRST, WHOLE)


def test_newer_message_takes_the_place_of_an_unfinished_one_and_an_older_does_not() -> None:
    parts = split(WHOLE, 600)
    queue = Reassembly()
    add(queue, 1, parts, message_id=7)
    add(queue, 1, parts, message_id=8)

    assert add(queue, 2, parts, message_id=7) is None
    assert add(queue, 2, parts, message_id=8) == (FIRST, WHOLE)


def test_message_that_is_repeated_in_full_is_put_together_again() -> None:
    """Whether it has been answered is for the exchange to know."""
    parts = split(WHOLE, 600)
    queue = Reassembly()

    for _ in range(2):
        assert add(queue, 1, parts) is None
        assert add(queue, 2, parts) == (FIRST, WHOLE)


def test_what_is_kept_is_bounded() -> None:
    queue = Reassembly()
    part = bytes(MOST_OCTETS // 4)

    results = [queue.add(1, number, 9, FIRST, part) for number in range(1, 9)]

    assert results == [None] * 8
    assert queue._octets <= MOST_OCTETS
    assert sum(map(len, queue._parts.values())) == queue._octets


def test_message_after_one_that_was_too_long_is_put_together() -> None:
    queue = Reassembly()
    queue.add(1, 1, 2, FIRST, bytes(MOST_OCTETS))
    assert queue.add(1, 2, 2, 0, b"x") is None

    parts = split(WHOLE, 600)
    assert add(queue, 1, parts, message_id=2) is None
    assert add(queue, 2, parts, message_id=2) == (FIRST, WHOLE)


def test_discarded_message_begins_again() -> None:
    parts = split(WHOLE, 600)
    queue = Reassembly()
    add(queue, 1, parts)
    queue.discard()

    assert add(queue, 2, parts) is None
    assert add(queue, 1, parts) == (FIRST, WHOLE)


FRAGMENT = st.tuples(
    st.integers(0, 3), st.integers(0, 5), st.integers(0, 5), st.integers(0, 255), st.binary(max_size=3)
)


@given(st.lists(FRAGMENT, max_size=60))
def test_any_fragments_leave_a_queue_that_holds_one_message_at_most(
    fragments: list[tuple[int, int, int, int, bytes]],
) -> None:
    queue = Reassembly()
    for fragment in fragments:
        whole = queue.add(*fragment)
        assert whole is None or len(whole[1]) <= 15
        assert len(queue._parts) < max(queue._total, 1)
        assert queue._octets == sum(map(len, queue._parts.values()))
