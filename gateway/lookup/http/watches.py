"""Everybody's watches: how many there are, waking and cutting them, and the lines that they share.

A change is encoded once for all who see it alike.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from gateway.http.principals import Principal
from gateway.http.problems import HttpProblem
from gateway.lookup.entries import Grant, Kind, LeaseKey, NamedKey, RecordKey, Stored
from gateway.lookup.records_wire import line
from gateway.lookup.replica import Replica
from gateway.lookup.visibility import View
from policies.addresses import Vsid
from policies.services import Role

HEARTBEAT_SECONDS = 5.0
BLOCKED_SECONDS = 10.0
STALE_SECONDS = 10.0
"""Without its store a node sends its watchers away after this, to one that may have it,"""
STAY_SECONDS = 20.0
"""but lets each stay for so long: perhaps no node has it."""
TICK_SECONDS = 1.0
MOST_WATCHES = 4096
MOST_WATCHES_EACH = 16
"""Of one host or reader; gateways and operators have as many as there are."""

Vsids = frozenset[Vsid] | None
"""Whose records and leases are told; None: all that there are."""


class Filter(msgspec.Struct, frozen=True):
    """What a watch asks for. None is everything of that sort."""

    tenant: str | None = None
    vsid: Vsid | None = None
    kind: Kind | None = None

    def wants(self, entry: Stored, vsids: Vsids) -> bool:
        """Whether an entry is asked for, where records and leases are those of some virtual subnets."""
        key = entry.key
        if self.kind is not None and key.kind is not self.kind:
            return False
        if isinstance(key, RecordKey):
            return vsids is None or key.vsid in vsids
        if isinstance(key, LeaseKey):
            return vsids is None or (isinstance(entry.value, Grant) and entry.value.vsid in vsids)
        if self.vsid is not None:
            return False
        return self.tenant is None or (key.kind is Kind.TENANT and key.name == self.tenant)


class Wakeable(Protocol):
    """A watch, as its waking needs it. Times are the event loop's."""

    begun: float
    last_written: float
    writing_since: float | None

    @property
    def is_gone(self) -> bool:
        """Whether nobody reads it any more."""
        ...

    @property
    def is_known(self) -> bool:
        """Whether what its reader has shown still says who that is."""
        ...

    def wake(self, *, is_heartbeat: bool = False) -> None:
        """Let it look for what there is to tell."""
        ...

    def cut(self) -> None:
        """Close its connection."""
        ...


class Lines:
    """The lines of the latest changes, and what was made of several of them."""

    LINES_KEPT = 8192
    CHUNKS_KEPT = 64

    def __init__(self) -> None:
        # A view is kept beside its lines, so that no other gets its identity meanwhile.
        self._lines: dict[tuple[int, int | None], tuple[View, bytes]] = {}
        self._chunks: dict[tuple[object, ...], tuple[View, bytes]] = {}

    def chunk(
        self, changes: Sequence[Stored], position: int, view: View, wanted: Filter, vsids: Vsids
    ) -> bytes:
        """Return the lines of the changes from a position on, for all with the same view and filter."""
        key = (position, len(changes), id(view), wanted, vsids)
        found = self._chunks.get(key)
        if found is None:
            text = b"".join(self._told(changes, position, view, wanted, vsids))
            found = self._chunks[key] = (view, text)
            if len(self._chunks) > self.CHUNKS_KEPT:
                del self._chunks[next(iter(self._chunks))]
        return found[1]

    def one(self, shown: Stored, position: int, view: View) -> bytes:
        """Return the line of the change at a position, as a view shows it."""
        # A record or a lease is shown alike to everybody who sees it.
        key = (position, id(view) if isinstance(shown.key, NamedKey) else None)
        found = self._lines.get(key)
        if found is None:
            found = self._lines[key] = (view, line(shown))
            if len(self._lines) > self.LINES_KEPT:
                del self._lines[next(iter(self._lines))]
        return found[1]

    def _told(
        self, changes: Sequence[Stored], position: int, view: View, wanted: Filter, vsids: Vsids
    ) -> Iterator[bytes]:
        for place, change in enumerate(changes, position):
            shown = view.entry(change)
            if shown is not None and wanted.wants(shown, vsids):
                yield self.one(shown, place, view)


class Watches:
    """All watches of a lookup node."""

    def __init__(self, replica: Replica) -> None:
        self.lines = Lines()
        self.is_closing = False
        self._replica = replica
        self._open: set[Wakeable] = set()
        self._each: Counter[Principal] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, principal: Principal, watch: Wakeable) -> None:
        """Begin a watch. Raises HttpProblem where there are too many."""
        if self.is_closing or len(self._open) >= MOST_WATCHES:
            raise HttpProblem(503, "this node has as many watches as it takes", headers={"Retry-After": "5"})
        if principal.role in {Role.HOST, Role.READER} and self._each[principal] >= MOST_WATCHES_EACH:
            raise HttpProblem(
                429, f"{principal.name} has {MOST_WATCHES_EACH} watches already", headers={"Retry-After": "5"}
            )
        self._open.add(watch)
        self._each[principal] += 1

    def leave(self, principal: Principal, watch: Wakeable) -> None:
        """End a watch."""
        self._open.discard(watch)
        self._each[principal] -= 1
        if not self._each[principal]:
            del self._each[principal]

    async def run(self) -> None:
        """Wake the watches when there is something new, or nothing for long. Never ends by itself."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._wake_for_changes())
            tasks.create_task(self._wake_from_time_to_time())

    def close(self) -> None:
        """Let all watches end."""
        self.is_closing = True
        for watch in list(self._open):
            watch.wake()

    async def _wake_for_changes(self) -> None:
        while True:
            position = self._replica.history.position
            for watch in self._open:
                watch.wake()
            await self._replica.history.changed(position)

    async def _wake_from_time_to_time(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = clock()
            stale_since = self._replica.stale_since
            is_stale = stale_since is not None and now - stale_since > STALE_SECONDS
            for watch in list(self._open):
                is_blocked = watch.writing_since is not None and now - watch.writing_since > BLOCKED_SECONDS
                if is_blocked or not watch.is_known or (is_stale and now - watch.begun > STAY_SECONDS):
                    watch.cut()
                elif watch.is_gone or now - watch.last_written > HEARTBEAT_SECONDS - TICK_SECONDS:
                    watch.wake(is_heartbeat=True)
