"""What the subscribers of a replica are told: the changes that have come together, in one batch."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.lookup.entries import Stored
from policies.model import LookupRecord, Network

AT_ONCE = 1000
"""Changes of one batch, at most."""


class Batch(msgspec.Struct, frozen=True):
    """What has changed in a replica, in order; perhaps nothing but the revision."""

    changes: tuple[Stored, ...]
    records: tuple[LookupRecord | None, ...]
    """Of each change: the replica's own object, to be shared; None for a tombstone or another kind."""
    network: Network | None
    """The whole network where it has changed."""
    revision: int
    is_synced: bool


class Batches:
    """Changes that nobody has been told yet, and who is told of them."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[Batch], None]] = []
        self._changes: list[Stored] = []
        self._records: list[LookupRecord | None] = []
        self._told: tuple[int, bool, Network | None] = (0, False, None)

    @property
    def has_subscribers(self) -> bool:
        """Whether anybody is told."""
        return bool(self._subscribers)

    @property
    def is_full(self) -> bool:
        """Whether as much waits as is told at once."""
        return len(self._changes) >= AT_ONCE

    def subscribe(self, callback: Callable[[Batch], None]) -> None:
        """Have each batch told from now on."""
        self._subscribers.append(callback)

    def add(self, change: Stored, record: LookupRecord | None) -> None:
        """Have a change told with the next batch, and what is kept of it."""
        self._changes.append(change)
        self._records.append(record)

    def take(self, revision: int, is_synced: bool, network: Network | None) -> Batch | None:
        """Return what is to be told by now, or None where there is nothing new.

        A network of None is one that is not known: what was told last stands.
        """
        before = self._told[2]
        now = revision, is_synced, before if network is None else network
        if not self._changes and now == self._told:
            return None
        self._told = now
        news = now[2] if now[2] is not before else None
        batch = Batch(tuple(self._changes), tuple(self._records), news, revision, is_synced)
        self._changes.clear()
        self._records.clear()
        return batch

    def tell(self, batch: Batch) -> None:
        """Tell everybody."""
        for subscriber in self._subscribers:
            subscriber(batch)
