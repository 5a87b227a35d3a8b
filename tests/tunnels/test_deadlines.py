from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from tunnels.deadlines import Deadlines


def test_nobody_wants_to_be_woken_at_first() -> None:
    assert Deadlines[str]().earliest == math.inf


def test_a_deadline_that_is_set_again_replaces_the_one_before() -> None:
    deadlines = Deadlines[str]()
    deadlines.set("peer", 1)
    deadlines.set("peer", 5)

    assert deadlines.earliest == 5
    assert list(deadlines.due(4)) == []
    assert list(deadlines.due(5)) == ["peer"]
    assert deadlines.earliest == math.inf


def test_a_deadline_set_to_none_never_comes() -> None:
    deadlines = Deadlines[str]()
    deadlines.set("peer", 1)
    deadlines.set("peer", None)

    assert list(deadlines.due(1e9)) == []


@given(st.lists(st.tuples(st.integers(0, 20), st.none() | st.integers(0, 50)), max_size=400))
def test_the_earliest_is_what_a_search_through_all_finds(changes: list[tuple[int, int | None]]) -> None:
    deadlines, naive = Deadlines[int](), dict[int, float]()
    for sleeper, when in changes:
        deadlines.set(sleeper, when)
        if when is None:
            naive.pop(sleeper, None)
        else:
            naive[sleeper] = when
        assert deadlines.earliest == min(naive.values(), default=math.inf)
    assert sorted(deadlines.due(25)) == sorted(sleeper for sleeper, when in naive.items() if when <= 25)
