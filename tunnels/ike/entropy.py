"""Where a session's fresh octets come from: the service gives the real source, tests a seeded one."""

from __future__ import annotations

from typing import Protocol


class Entropy(Protocol):
    """A source of what nobody can foresee."""

    def octets(self, count: int) -> bytes:
        """Return fresh octets, fit for keys, nonces and SPIs."""

    def fraction(self) -> float:
        """Return a number from 0 up to, but not including, 1: for jitter."""
