"""The authority for records and for the network's configuration: what every store promises.

Stores live on the asyncio thread. One test of this contract runs against every implementation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from enum import Enum
from typing import Protocol

import msgspec

from gateway.lookup.claims import Claim
from gateway.lookup.entries import Key, Kind, LeaseKey, Progress, Stored, Value
from policies.addresses import Vsid


class Expect(Enum):
    """What a write expects of a key, where that is no epoch."""

    ANY = "any"
    ABSENT = "absent"
    """Never there, or deleted."""


Expected = int | Expect


class Prefix(msgspec.Struct, frozen=True, gc=False):
    """Which keys are listed: all of a kind, or a virtual subnet's records."""

    kind: Kind
    vsid: Vsid | None = None


class Page(msgspec.Struct, frozen=True):
    """Some live entries in the order of their keys, without tombstones."""

    entries: Sequence[Stored]
    revision: int
    """Of the store when the page was read."""
    more: bool
    """Whether others follow: ask for those after the last key."""


class StoreError(Exception):
    """A store says no, or cannot say anything."""


class Conflict(StoreError):
    """The key is not as the write expected it, but `current`: a tombstone perhaps, or None if never there."""

    def __init__(self, key: Key, current: Stored | None) -> None:
        super().__init__(f"{key} is not as expected")
        self.key = key
        self.current = current

    @classmethod
    def check(cls, key: Key, current: Stored | None, expected: Expected) -> None:
        """Raise Conflict unless a key is as a write expects it: an epoch is a tombstone's, too."""
        if expected is Expect.ANY:
            return
        if expected is Expect.ABSENT:
            is_as_expected = current is None or current.value is None
        else:
            is_as_expected = current is not None and current.epoch == expected
        if not is_as_expected:
            raise cls(key, current)


class Taken(StoreError):
    """A provider address is another's, or was until a moment ago.

    `holder` is the record that has it: None where a gateway has leased it, or where it is in quarantine.
    """

    def __init__(self, key: LeaseKey, holder: Stored | None) -> None:
        super().__init__(f"{key.pa} is taken")
        self.key = key
        self.holder = holder


class Compacted(StoreError):
    """The history that a watch asks for is gone: list again."""


class StoreUnavailable(StoreError):
    """The store cannot be reached, or cannot write. The message says why, in words for an operator.

    A write that raises this has not been made, or it could not be found out whether it was.
    """


class LookupStore(Protocol):
    """Compare-and-swap on epochs, one total order of revisions, and a history to watch.

    Every method raises StoreUnavailable; a cancelled write may or may not have been made.

    Whatever is written, by whom and in which order, each provider address of a pool is one (VSID, CA)'s at
    most, for as long as it is granted and `grants.QUARANTINE` seconds of the store's clock longer. A
    rewritten record holds the grant of its address, with its host as the node: the grant is made, changed
    and given back in the write of the record, under the same revision, and by nothing else.
    """

    async def get(self, key: Key) -> Stored | None:
        """Return a key's entry or tombstone, linearizably; None if it was never there."""
        ...

    async def page(self, prefix: Prefix, after: Key | None, limit: int) -> Page:
        """Return at most `limit` entries after a key, in the order of keys (records by VSID, then octets)."""
        ...

    async def put(self, key: Key, value: Value, expected: Expected) -> Stored:
        """Write a value and return what is stored now. Writing what is there already changes nothing.

        A rewritten record takes its provider address, and gives back the one that it had.

        A grant is written as it is, for a gateway's lease: to take the address if it is free, was the same
        customer address's the last time, or is; to give it back by `returned_at`, which the caller says.

        Raises Conflict where the key's epoch is not `expected`; then Taken where the address is held or was
        held by another within its quarantine, and where a grant is written that a rewritten record has.
        """
        ...

    async def delete(self, key: Key, expected: Expected) -> Stored | None:
        """Leave a tombstone that keeps the epoch, and return it; None if the key was never there.

        Deleting a tombstone changes nothing. A rewritten record gives back its provider address. Only those
        grants can be deleted that anybody could take. Raises Conflict; Taken of other grants.
        """
        ...

    async def claim(self, claim: Claim) -> list[Stored]:
        """Carry out a host's claim for a MAC, for all of its addresses at once or for none.

        Returns every record of that MAC. Raises `claims.Refused`, and Taken where a candidate is another's:
        ask again with others.
        """
        ...

    def watch(self, after: int) -> AsyncIterator[Stored | Progress]:
        """Yield every change after a revision, in order, and Progress when there is nothing more for now.

        The changes that one claim makes share a revision: whoever goes on later does so from that of a
        Progress, or misses the rest of a claim. Never ends by itself. Raises Compacted.
        """
        ...

    async def compact(self, revision: int) -> None:
        """Forget the history up to a revision. Entries and tombstones stay."""
        ...

    async def close(self) -> None:
        """Let go of everything. Nothing acknowledged is lost."""
        ...
