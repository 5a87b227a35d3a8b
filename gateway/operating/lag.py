"""How late a loop gets to what is due: the first sign that a node has more to do than it can."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

EVERY = 1.0
"""Seconds between two looks."""
KEPT = 60
"""Looks that are remembered: a minute."""


class Lag:
    """How late one event loop was, in seconds. Measured on its own thread, and read on any."""

    def __init__(self) -> None:
        self._late: deque[float] = deque(maxlen=KEPT)

    @property
    def most(self) -> float:
        """The most in the last minute."""
        return max(tuple(self._late), default=0.0)

    @property
    def mean(self) -> float:
        """The mean over the last minute."""
        late = tuple(self._late)
        return sum(late) / len(late) if late else 0.0

    async def measure(self, clock: Callable[[], float], sleep: Callable[[float], Awaitable[object]]) -> None:
        """Sleep a second and see how much later it is, for ever. Both are the loop's own."""
        while True:
            due = clock() + EVERY
            await sleep(EVERY)
            self._late.append(max(0.0, clock() - due))
