"""How long to wait before something is tried once more."""

from __future__ import annotations

import math

import msgspec

# Beyond it the delay is the ceiling's business; a float holds its power of any sensible factor.
_LARGEST_EXPONENT = 64


class Backoff(msgspec.Struct, frozen=True, gc=False):
    """Delays in seconds that grow by a factor with each attempt, up to a ceiling."""

    first: float
    factor: float = 2.0
    attempts: float = math.inf
    """How often to try before giving up."""
    ceiling: float = math.inf
    jitter: float = 0.0
    """Which part of a delay chance may take away, so that many peers don't try at once."""

    def delay(self, attempt: int, fraction: float = 0.0) -> float:
        """Return how long to wait for an answer to an attempt, the first being 1.

        `fraction` is drawn by the caller: 0 <= fraction < 1.
        """
        grown = self.first * self.factor ** min(attempt - 1, _LARGEST_EXPONENT)
        return min(grown, self.ceiling) * (1 - self.jitter * fraction)

    def is_over(self, attempt: int) -> bool:
        """Whether this attempt was the last one."""
        return attempt >= self.attempts
