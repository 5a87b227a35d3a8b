"""How much was carried, and how much may be: plain integers and token buckets."""

from __future__ import annotations

from policies.model import Limits


class Meter:
    """Packets and octets of one virtual subnet or site, as its tenant's IP layer sees them."""

    __slots__ = ("received_octets", "received_packets", "sent_octets", "sent_packets")

    def __init__(self) -> None:
        self.sent_packets = self.sent_octets = 0
        self.received_packets = self.received_octets = 0

    def sent(self, octets: int) -> None:
        """Count a packet that came from there."""
        self.sent_packets += 1
        self.sent_octets += octets

    def received(self, octets: int) -> None:
        """Count a packet that went there."""
        self.received_packets += 1
        self.received_octets += octets


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
