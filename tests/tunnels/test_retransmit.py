from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from tunnels.retransmit import Backoff


def test_each_delay_is_a_factor_longer_until_the_ceiling() -> None:
    backoff = Backoff(first=0.5, factor=2, ceiling=5)

    assert [backoff.delay(attempt) for attempt in range(1, 7)] == [0.5, 1, 2, 4, 5, 5]


def test_jitter_takes_away_a_part_and_no_more() -> None:
    backoff = Backoff(first=10, factor=1, jitter=0.25)

    assert backoff.delay(1, fraction=0) == 10
    assert backoff.delay(1, fraction=0.5) == 8.75
    assert backoff.delay(1, fraction=0.999999) > 7.5


def test_attempts_end_where_they_are_limited() -> None:
    limited = Backoff(first=1, attempts=3)

    assert [limited.is_over(attempt) for attempt in (1, 2, 3, 4)] == [False, False, True, True]
    assert not Backoff(first=1).is_over(10**9)


@given(st.integers(1, 10**12), st.floats(0, 1, exclude_max=True))
def test_any_attempt_waits_for_a_while_and_not_above_the_ceiling(attempt: int, fraction: float) -> None:
    delay = Backoff(first=1, factor=1.7, ceiling=60, jitter=0.5).delay(attempt, fraction)

    assert 0.5 <= delay <= 60
    assert math.isfinite(Backoff(first=1, factor=10).delay(attempt, fraction))
