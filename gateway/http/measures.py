"""How often each path was asked, how that was answered, and how long it took: for the metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The upper bounds of a histogram's buckets, in seconds; there is one more above the last."""


class Histogram:
    """How many took how long: `counts` has one number for each bucket, not cumulated."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def tell(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


class Measures:
    """What was asked of one listener.

    A path is its route's template, such as /v1/records/{vsid}/{ca}, and empty where there is none:
    so their number is bounded. Streams are counted when they end, and in no histogram.
    """

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, str, int]] = Counter()
        """By method, path and status."""
        self.latencies: dict[tuple[str, str], Histogram] = {}
        """By method and path."""
        self.connections_refused: Counter[str] = Counter()
        """By why: full, or address where one has too many that nobody is known by."""

    def answered(self, method: str, path: str, status: int, seconds: float | None) -> None:
        """Note an answer, and how many seconds it took unless it was a stream."""
        self.answers[method, path, status] += 1
        if seconds is None:
            return
        histogram = self.latencies.get((method, path))
        if histogram is None:
            histogram = self.latencies[method, path] = Histogram()
        histogram.tell(seconds)
