"""How often something may happen."""

from __future__ import annotations

import msgspec


class Allowance(msgspec.Struct):
    """A token bucket that holds one second's worth."""

    rate: float
    tokens: float
    at: float

    def take(self, cost: float, now: float) -> bool:
        """Take tokens; where there are too few, take none and return False."""
        self.tokens = min(self.rate, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True

    def charge(self, cost: float, now: float) -> None:
        """Take tokens that need not be there yet: there are none until they are made up for."""
        self.take(0, now)
        self.tokens -= cost
