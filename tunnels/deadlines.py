"""Who wants to be woken when, for any number of sleepers."""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Sleeper = TypeVar("Sleeper", bound=Hashable)


class Deadlines(Generic[Sleeper]):
    """At most one deadline a sleeper, in seconds; setting and finding the earliest take logarithmic time."""

    def __init__(self) -> None:
        self._wanted: dict[Sleeper, float] = {}
        # Entries that no longer agree with `_wanted` are skipped when they come up. The number
        # in the middle keeps sleepers, which have no order, from being compared.
        self._heap: list[tuple[float, int, Sleeper]] = []
        self._entries = 0

    def set(self, sleeper: Sleeper, when: float | None) -> None:
        """Wake a sleeper at a time, or never."""
        if when is None:
            self._wanted.pop(sleeper, None)
        elif self._wanted.get(sleeper) != when:
            self._wanted[sleeper] = when
            self._entries += 1
            heapq.heappush(self._heap, (when, self._entries, sleeper))
            if len(self._heap) > 64 and len(self._heap) > 4 * len(self._wanted):
                self._rebuild()

    @property
    def earliest(self) -> float:
        """When somebody wants to be woken next; infinity if nobody does."""
        while self._heap and self._wanted.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def due(self, now: float) -> Iterator[Sleeper]:
        """Each sleeper whose time has come; its deadline is gone then, until it is set again."""
        while self.earliest <= now:
            _, _, sleeper = heapq.heappop(self._heap)
            del self._wanted[sleeper]
            yield sleeper

    def _rebuild(self) -> None:
        self._heap = [(when, number, sleeper) for number, (sleeper, when) in enumerate(self._wanted.items())]
        self._entries = len(self._heap)
        heapq.heapify(self._heap)
