from __future__ import annotations

import pytest

from tests.bench.rates import highest_rate


def test_the_highest_rate_of_a_path_that_loses_what_is_above_its_capacity_is_that_capacity() -> None:
    def trial(rate: float) -> tuple[float, float]:
        arrived = min(rate, 43_210)
        return arrived, 1 - arrived / rate

    assert highest_rate(trial) == pytest.approx(43_210, rel=0.02)


def test_a_generator_that_is_slower_than_the_path_ends_the_search() -> None:
    assert highest_rate(lambda rate: (min(rate, 250_000), 0.0)) == 250_000


def test_a_path_that_loses_everything_forwards_nothing() -> None:
    assert highest_rate(lambda _rate: (0.0, 1.0)) == 0


def test_a_search_that_begins_above_the_capacity_finds_it_below() -> None:
    assert highest_rate(
        lambda rate: (min(rate, 9_500), 1 - min(rate, 9_500) / rate), 16_000
    ) == pytest.approx(9_500, rel=0.06)
