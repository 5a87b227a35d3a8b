from __future__ import annotations

import random

import hypothesis
import pytest
from hypothesis import strategies as st

from tunnels.replay import WINDOW, ReplayWindow

LOW = 0xFFFFFFFF
TOP = 1 << 32


def take(window: ReplayWindow, sequence: int) -> bool:
    """Bring an authentic packet: its low 32 bits are all that the window sees of it."""
    found = window.sequence_of(sequence & LOW)
    if found != sequence:
        return False
    window.accept(found)
    return True


def test_window_holds_at_least_1024_packets() -> None:
    assert WINDOW >= 1024
    assert WINDOW & (WINDOW - 1) == 0


@pytest.mark.parametrize("extended", [True, False])
def test_each_packet_is_taken_once(extended: bool) -> None:
    window = ReplayWindow(extended=extended)
    assert [take(window, n) for n in (1, 2, 2, 5, 4, 4, 5, 3)] == [
        True,
        True,
        False,
        True,
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("extended", [True, False])
def test_the_number_zero_is_never_taken(extended: bool) -> None:
    assert ReplayWindow(extended=extended).sequence_of(0) is None


@pytest.mark.parametrize("extended", [True, False])
def test_what_is_older_than_the_window_is_not_taken(extended: bool) -> None:
    window = ReplayWindow(extended=extended)
    assert take(window, 10_000)
    assert take(window, 10_000 - WINDOW + 1)
    assert not take(window, 10_000 - WINDOW)


def test_asking_remembers_nothing() -> None:
    window = ReplayWindow(extended=True)
    assert [window.sequence_of(7) for _ in range(3)] == [7, 7, 7]
    assert window.newest == 0


def test_only_a_newer_packet_is_the_newest() -> None:
    window = ReplayWindow(extended=True)
    assert [window.accept(n) for n in (3, 2, 4)] == [True, False, True]


def test_32_bit_numbers_end_at_their_last_and_do_not_begin_again() -> None:
    window = ReplayWindow(extended=False)
    assert take(window, LOW)
    assert window.sequence_of(0) is None
    assert window.sequence_of(1) is None
    assert take(window, LOW - 1)


def test_extended_numbers_go_on_where_32_bits_end() -> None:
    window = ReplayWindow(extended=True)
    window.accept(LOW - 1)
    assert [window.sequence_of(n) for n in (LOW, 0, 1, 77)] == [LOW, TOP, TOP + 1, TOP + 77]
    window.accept(TOP + 5)
    assert window.sequence_of(LOW - 1) is None, "it has come"
    assert window.sequence_of(LOW) == LOW, "the window begins before the 32 bits end"
    assert window.sequence_of(4) == TOP + 4


def test_numbers_before_the_first_are_never_inferred() -> None:
    """RFC 4303 appendix A2.2, case B with Th = 0: the upper half would be -1."""
    window = ReplayWindow(extended=True)
    assert window.sequence_of(LOW) is None
    window.accept(5)
    assert window.sequence_of(LOW - 3) is None


def test_extended_numbers_end_at_their_last() -> None:
    window = ReplayWindow(extended=True)
    window.accept((1 << 64) - 2)
    assert window.sequence_of(LOW) == (1 << 64) - 1
    assert window.sequence_of(3) is None


def by_the_rfc(newest: int, low: int) -> int:
    """RFC 4303 appendix A2.2, as it is written there."""
    tl, th = newest & LOW, newest >> 32
    bl = tl - WINDOW + 1
    if tl >= WINDOW - 1:
        return ((th if low >= bl else th + 1) << 32) + low
    return ((th - 1 if low >= bl & LOW else th) << 32) + low


near_the_end_of_32_bits = st.builds(
    lambda high, low: max(0, (high << 32) + low), st.integers(0, 3), st.integers(-2 * WINDOW, 2 * WINDOW)
)


@hypothesis.given(near_the_end_of_32_bits | st.integers(0, 1 << 40), st.integers(0, LOW), st.data())
def test_extended_numbers_are_inferred_as_the_rfc_has_it(newest: int, low: int, data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        low = (newest + data.draw(st.integers(-2 * WINDOW, 2 * WINDOW))) & LOW
    window = ReplayWindow(extended=True)
    if newest:
        window.accept(newest)
    expected = by_the_rfc(newest, low)
    assert window.sequence_of(low) == (expected if expected > 0 and expected != newest else None)


@pytest.mark.parametrize("extended", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_window_agrees_with_a_plain_set_of_what_has_come(extended: bool, seed: int) -> None:
    chance = random.Random(seed)
    window = ReplayWindow(extended=extended)
    newest = 0
    if extended:
        newest = TOP - 3 * WINDOW
        window.accept(newest)
    taken = {newest}
    for _ in range(20_000):
        jump = chance.choice((1, 1, 1, chance.randint(-WINDOW - 9, 9), chance.randint(0, 3 * WINDOW)))
        sequence = newest + jump
        if sequence < max(1, newest - 2 * WINDOW):
            continue
        expected = sequence not in taken and sequence > newest - WINDOW and (extended or sequence <= LOW)
        assert take(window, sequence) == expected, sequence
        if expected:
            taken.add(sequence)
            newest = max(newest, sequence)
    assert window.newest == newest > 5 * WINDOW
