"""Leases that are ahead of the feed: an answer says so sooner than the records' feed, and is used at once.

If the feed comes to a lease's revision without it, that has been returned meanwhile, and goes. It goes, too,
where the feed does not come to it for long: nothing would say then that it is another's.
"""

from __future__ import annotations

import math

from policies.addresses import ProviderAddress
from policies.model import Lease

AHEAD_FOR = 60.0
"""So many seconds an answer is used that the feed has not told of: far fewer than a quarantine has."""


class Ahead:
    """Which leases those are. Times are of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._revision = -1
        self._told: dict[ProviderAddress, int | None] = {}
        """What the feed has told beyond that: of which revision each lease is; None if it has ended."""
        self._leases: dict[ProviderAddress, tuple[Lease, float]] = {}
        """The oldest answer first, with when each goes."""

    @property
    def deadline(self) -> float:
        """When `expire` is to be called next, if nothing happens before."""
        return next((until for _, until in self._leases.values()), math.inf)

    def answered(self, lease: Lease, now: float) -> bool:
        """Take an answer, and say whether it is ahead.

        Else the feed has told of it, or of what came after it, and so may an answer have that came before.
        """
        other, _ = self._leases.get(lease.pa, (None, 0.0))
        known = other.revision if other is not None else self._told.get(lease.pa, self._revision)
        if known is None or lease.revision <= max(known, self._revision):
            return False
        self._leases.pop(lease.pa, None)
        self._leases[lease.pa] = lease, now + AHEAD_FOR
        return True

    def told(self, pa: ProviderAddress, revision: int | None) -> None:
        """The feed has told of an address: of which revision its lease is; None: it has none any more."""
        self._told[pa] = revision
        self._leases.pop(pa, None)

    def applied(self, revision: int) -> list[ProviderAddress]:
        """Everything up to a revision has come by the feed. Returns the addresses whose leases go.

        That is less than before if a store was restored: then all of them go.
        """
        is_restored = revision < self._revision
        if is_restored:
            self._told.clear()
        elif revision > self._revision:
            # What has ended was told on the way there; a lease may be of what is only half told yet.
            self._told = {pa: of for pa, of in self._told.items() if of is not None and of > revision}
        self._revision = revision
        return self._drop(
            [pa for pa, (lease, _) in self._leases.items() if is_restored or lease.revision <= revision]
        )

    def expire(self, now: float) -> list[ProviderAddress]:
        """Return the addresses whose leases go since the feed has not come to them for long."""
        return self._drop([pa for pa, (_, until) in self._leases.items() if until <= now])

    def _drop(self, pas: list[ProviderAddress]) -> list[ProviderAddress]:
        for pa in pas:
            del self._leases[pa]
        return pas
