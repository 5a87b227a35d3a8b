"""How much may be: a rate with bursts."""

from __future__ import annotations

from policies.model import Limits


class TokenBucket:
    """A rate with bursts. Amounts are in any one unit; time is in seconds."""

    __slots__ = ("_burst", "_filled_at", "_level", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._filled_at: float | None = None

    @classmethod
    def of(cls, limits: Limits) -> TokenBucket:
        """A bucket of octets for a tenant's limit in bits per second."""
        return cls(limits.rate / 8, limits.burst)

    def take(self, amount: float, now: float) -> bool:
        """Take `amount` if it is there. Time that seems to go backwards fills nothing."""
        if self._filled_at is None:
            self._filled_at = now
        elif now > self._filled_at:
            self._level = min(self._burst, self._level + (now - self._filled_at) * self._rate)
            self._filled_at = now
        if self._level < amount:
            return False
        self._level -= amount
        return True

    def give_back(self, amount: float) -> None:
        """Put back what was taken at this same time."""
        self._level += amount

    def charge(self, amount: float, now: float) -> None:
        """Take `amount` though it need not be there yet: nothing is, until that is made up for."""
        self.take(0, now)
        self._level -= amount
