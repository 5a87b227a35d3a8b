"""The search for the largest packet that arrives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.doctor.search import AT_ONCE, Search


def rounds(search: Search, limit: int) -> int:
    """Search a path that carries packets up to a limit; return how many rounds it took."""
    count = 0
    while search.largest is None:
        sizes = search.sizes()
        assert sizes
        assert len(sizes) <= AT_ONCE + 2 * 2
        search.tried(sizes, [size for size in sizes if size <= limit])
        count += 1
        assert count < 50
    return count


@given(st.integers(576, 9000))
def test_every_limit_is_found_exactly(limit: int) -> None:
    search = Search(36, 9001)
    rounds(search, limit)
    assert search.largest == limit


def test_a_common_limit_is_found_in_a_few_rounds() -> None:
    assert rounds(Search(576, 1500), 1337) <= 4


def test_what_a_router_says_is_tried_first() -> None:
    search = Search(576, 9000)
    search.hint(1400)
    assert rounds(search, 1400) == 1


@given(st.integers(576, 1499), st.integers(0, 70_000))
def test_a_router_that_lies_is_not_believed(limit: int, hint: int) -> None:
    search = Search(576, 1500)
    search.hint(hint)
    rounds(search, limit)
    assert search.largest == limit


def test_a_packet_lost_by_chance_is_set_right_by_a_larger_one() -> None:
    search = Search(576, 1500)
    sizes = search.sizes()
    search.tried(sizes, sizes[3:5])
    assert search.at_least == sizes[4]
    rounds(search, sizes[5] - 1)
    assert search.largest == sizes[5] - 1
