"""A tenant's rate, which what else carries its packets may have a part in."""

from __future__ import annotations

from collections.abc import Callable

from policies.model import Limits
from policies.token_bucket import TokenBucket

Debit = Callable[[str, int], bool | None]
"""Takes octets of a tenant's rate, or gives them back where they are negative; None: it has no part in it."""


class Shares:
    """Who else has a part in the rates, if somebody has."""

    def __init__(self) -> None:
        self.debit: Debit | None = None


class TenantBucket:
    """One tenant's octets: those of the bucket that is shared, where one is, or of its own."""

    __slots__ = ("_own", "_shares", "_tenant")

    def __init__(self, tenant: str, limits: Limits, shares: Shares) -> None:
        self._tenant = tenant
        self._own = TokenBucket.of(limits)
        self._shares = shares

    def take(self, octets: int, now: float) -> bool:
        """Take octets if they are there."""
        if self._shares.debit is not None:
            is_granted = self._shares.debit(self._tenant, octets)
            if is_granted is not None:
                return is_granted
        return self._own.take(octets, now)

    def give_back(self, octets: int) -> None:
        """Put back what was taken at this same time."""
        if self._shares.debit is None or self._shares.debit(self._tenant, -octets) is None:
            self._own.give_back(octets)
