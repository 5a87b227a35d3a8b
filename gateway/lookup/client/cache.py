"""What a client remembers of the records that it has asked for.

What a running watch keeps right is good for as long as the watch runs; anything else for
a few seconds. A look-up's answer is under the watch's care only if the node that gave it knew at least
as much as the watch had told already: else a change that the watch has told before would be undone.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from gateway.lookup.entries import RecordKey, Stored
from policies.addresses import Vsid
from policies.model import LookupRecord

REMEMBERED = 60.0
"""Seconds for which what is known to be newer wins: a store that was made anew begins with low revisions."""


class Keeper:
    """One watch: up to which revision it has told everything, and of which virtual subnet (None: of all)."""

    def __init__(self, vsid: Vsid | None = None) -> None:
        self.vsid = vsid
        self.revision = 0
        self.is_live = False
        self.ended_at = 0.0
        """When it was last live, if it is not."""

    def keeps(self, key: RecordKey) -> bool:
        """Whether it tells of a record's changes."""
        return self.vsid is None or self.vsid == key.vsid


class _Known(msgspec.Struct, gc=False):
    record: LookupRecord | None
    revision: int
    learned_at: float
    keeper: Keeper | None


class Cache:
    """The records that were asked for last, at most `size` of them. Times are in seconds of any one clock."""

    def __init__(self, size: int, seconds: float, seconds_absent: float) -> None:
        self._size = size
        self._seconds = seconds
        self._seconds_absent = seconds_absent
        self._known: OrderedDict[RecordKey, _Known] = OrderedDict()
        self._keepers: list[Keeper] = []

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, key: RecordKey) -> bool:
        return key in self._known

    def find(self, key: RecordKey, now: float) -> tuple[LookupRecord | None] | None:
        """Return what is known of a key, perhaps that it has no record; None if nothing is, or it is old."""
        known = self._known.get(key)
        if known is None or not self._is_fresh(known, now):
            return None
        self._known.move_to_end(key)
        return (known.record,)

    def answered(
        self, key: RecordKey, record: LookupRecord | None, revision: int, now: float
    ) -> LookupRecord | None:
        """A node says so, as of a revision of the store. Returns that, or what is known to be newer."""
        known = self._known.get(key)
        if known is not None and revision < known.revision and now - known.learned_at < REMEMBERED:
            return known.record
        keeper = next((each for each in self._keepers if each.keeps(key) and revision >= each.revision), None)
        self._known[key] = _Known(record, revision, now, keeper)
        self._known.move_to_end(key)
        while len(self._known) > self._size:
            self._known.popitem(last=False)
        return record

    def forget(self, key: RecordKey) -> None:
        """Something has been written there: whoever asks next is told by a node."""
        self._known.pop(key, None)

    def keep(self, keeper: Keeper) -> None:
        """A watch is complete, and tells every change from here on."""
        keeper.is_live = True
        if keeper not in self._keepers:
            self._keepers.append(keeper)

    def lose(self, keeper: Keeper, now: float) -> None:
        """A watch tells nothing any more. What it has kept right is as old as the present from now on."""
        if keeper.is_live:
            keeper.is_live, keeper.ended_at = False, now
            self._keepers.remove(keeper)

    def told(self, keeper: Keeper, entry: Stored, now: float) -> None:
        """A watch says so. Only what was asked for before is remembered."""
        key = entry.key
        if not isinstance(key, RecordKey):
            return
        known = self._known.get(key)
        if known is not None and entry.revision >= known.revision:
            self._known[key] = _Known(entry.record, entry.revision, now, keeper)

    def _is_fresh(self, known: _Known, now: float) -> bool:
        since = known.learned_at
        if known.keeper is not None:
            if known.keeper.is_live:
                return True
            since = max(since, known.keeper.ended_at)
        return now - since < (self._seconds if known.record is not None else self._seconds_absent)
