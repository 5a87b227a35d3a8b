"""What a source tells anew after a Reset, compared with what a replica has."""

from __future__ import annotations

from gateway.lookup.contents import Contents
from gateway.lookup.entries import Key, LeaseKey, NamedKey, RecordKey, Stored
from policies.addresses import CustomerAddress, Vsid


class Resync:
    """What has been told since a Reset: what differs from some contents, and what is as it was.

    `is_restored`: the store has gone back to a revision below what has been told before.
    """

    def __init__(self, contents: Contents, revision: int, *, is_restored: bool) -> None:
        self.revision = revision
        self.is_restored = is_restored
        self._contents = contents
        self._fresh: dict[Key, Stored] = {}
        self._same_records: dict[Vsid, set[CustomerAddress]] = {}
        self._same_others: set[NamedKey | LeaseKey] = set()

    def take(self, entry: Stored) -> None:
        """Take an entry; of several of one key, the newest counts."""
        key, current = entry.key, self._contents.entry(entry.key)
        known = self._fresh.get(key)
        if known is None and self._is_same(key):
            known = current
        if known is not None and known.revision >= entry.revision:
            return
        if entry != current:
            self._fresh[key] = entry
            return
        self._fresh.pop(key, None)
        if isinstance(key, RecordKey):
            self._same_records.setdefault(key.vsid, set()).add(key.ca)
        else:
            self._same_others.add(key)

    def finish(self) -> list[Stored]:
        """Return what differs in the order of revisions; what has not been told is gone."""
        differences = list(self._fresh.values())
        self.is_restored |= any(
            entry.revision < (self._contents.revision_of(entry.key) or 0) for entry in differences
        )
        differences += (
            Stored(entry.key, None, entry.epoch, self.revision)
            for entry in self._contents.entries_but(self._same_others, self._same_records)
            if entry.key not in self._fresh
        )
        differences.sort(key=lambda entry: entry.revision)
        return differences

    def _is_same(self, key: Key) -> bool:
        if isinstance(key, RecordKey):
            return key.ca in self._same_records.get(key.vsid, ())
        return key in self._same_others
