"""Whether the peer is still there (RFC 7296 section 2.4).

Whoever sends and hears nothing asks: soon enough, and often enough, that a dead
peer is known for dead when the policy's seconds of silence are over. A tunnel
that nobody uses is asked about rarely, so that what is shown as up is up.
"""

from __future__ import annotations

import math
from enum import Enum

import msgspec

from tunnels.retransmit import Backoff

# An unused tunnel is asked about after so many seconds of silence.
IDLE_PROBE = 30.0
# A NAT keeps its mapping for what is sent at least this often (RFC 3948 section 4).
KEEPALIVE = 20.0

# This part of the time passes in silence before we ask; the rest is for repeating the question.
_PATIENCE = 0.3
_ATTEMPTS = 5
_GROWTH = 1.6


class Traffic(msgspec.Struct, frozen=True, gc=False):
    """When authenticated ESP packets of a site last came and went, in seconds; minus infinity: never."""

    last_received: float
    last_sent: float

    @classmethod
    def none(cls) -> Traffic:
        """Nothing has come or gone."""
        return cls(-math.inf, -math.inf)


class Question(Enum):
    """Whether the peer has to be asked."""

    NONE = "none"
    IDLE = "idle"
    """As the tunnel has not been used for long."""
    URGENT = "urgent"
    """As we send into silence."""


class Liveness:
    """When to ask, from what came and what was sent. A new one has just heard from the peer."""

    def __init__(self, seconds: float, now: float) -> None:
        self.deadline = now + seconds * _PATIENCE
        """When `check` wants calling."""
        self.silent_since = now
        """When the peer was heard of last, as far as `check` has seen."""
        self._seconds = seconds
        self._heard = now

    @property
    def urgent(self) -> Backoff:
        """How to repeat the question so that its last answer is due when the silence has lasted too long."""
        waits = (_GROWTH**_ATTEMPTS - 1) / (_GROWTH - 1)
        return Backoff(self._seconds * (1 - _PATIENCE) / waits, _GROWTH, _ATTEMPTS)

    def heard(self, now: float) -> None:
        """An authentic message of the peer's, and not a repeated one, has come by IKE."""
        self._heard = now

    def check(self, now: float, traffic: Traffic) -> Question:
        """Say whether to ask now."""
        patience = self._seconds * _PATIENCE
        silent_since = self.silent_since = max(self._heard, traffic.last_received)
        self.deadline = max(silent_since, now) + patience
        if traffic.last_sent > silent_since:
            if now >= silent_since + patience:
                return Question.URGENT
            self.deadline = silent_since + patience
        return Question.IDLE if now >= silent_since + IDLE_PROBE else Question.NONE
