"""RFC 7383, fragmentation of IKEv2 messages: what a receiver keeps, and what it discards."""

from __future__ import annotations

import pytest

from tunnels.ike.fragments import MOST_OCTETS, Reassembly, split

MESSAGE = bytes(range(200))
PARTS = split(MESSAGE, 50)


def add(
    queue: Reassembly, number: int, total: int = 4, octets: bytes | None = None
) -> tuple[int, bytes] | None:
    return queue.add(
        5, number, total, 35 if number == 1 else 0, PARTS[number - 1] if octets is None else octets
    )


def begun() -> Reassembly:
    """A queue that lacks the last of four fragments."""
    queue = Reassembly()
    assert [add(queue, number) for number in (1, 2, 3)] == [None] * 3
    return queue


@pytest.mark.parametrize(("number", "total"), [(0, 4), (4, 0), (0, 0), (5, 4)])
def test_section_2_6_fragment_with_invalid_numbers_is_discarded(number: int, total: int) -> None:
    queue = begun()

    assert add(queue, number, total, b"x") is None
    assert add(queue, 4) == (35, MESSAGE)


def test_section_2_6_fragment_with_a_smaller_total_is_discarded() -> None:
    queue = begun()

    assert add(queue, 3, 3, b"x") is None
    assert add(queue, 4) == (35, MESSAGE)


def test_section_2_6_repeated_fragment_is_discarded() -> None:
    queue = begun()

    assert add(queue, 2, octets=b"x") is None
    assert add(queue, 4) == (35, MESSAGE)


def test_section_2_6_fragment_with_a_larger_total_starts_over() -> None:
    queue = begun()

    assert add(queue, 2, 2, b"old") is None
    assert add(queue, 5, 5, b"e") is None
    assert add(queue, 4) is None
    assert [queue.add(5, number, 5, 36, b"abcd"[number - 1 : number]) for number in (1, 2, 3)] == [None] * 3
    assert queue.add(5, 4, 5, 36, b"d") == (36, b"abcde")


def test_section_2_5_first_fragment_alone_says_what_the_message_begins_with() -> None:
    queue = Reassembly()
    for number in (4, 3, 2):
        queue.add(5, number, 4, 0, PARTS[number - 1])

    assert add(queue, 1) == (35, MESSAGE)


def test_section_5_what_is_kept_of_a_set_that_never_ends_is_at_most_64_kilobytes() -> None:
    queue = Reassembly()

    assert MOST_OCTETS < 64 * 1024
    assert [queue.add(5, number, 500, 35, bytes(500)) for number in range(1, 500)] == [None] * 499
    assert queue.add(5, 500, 500, 35, bytes(500)) is None
