"""The latest changes of a replica, for all watchers: where each of them is, and waking them."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Sequence

from gateway.lookup.entries import Stored


class History:
    """Between `size` and twice as many changes. A position counts what has been told since the start."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._changes: list[Stored] = []
        # The highest revision up to each of them: they are told in order, but for what a listing
        # has seen before its turn.
        self._highest: list[int] = []
        self._start = 0
        # Whoever has everything up to this revision has what is no longer here.
        self._floor: int | None = None
        self._bell = asyncio.Event()

    @property
    def position(self) -> int:
        """Behind the latest change."""
        return self._start + len(self._changes)

    def add(self, change: Stored) -> None:
        """Keep a change. Watchers hear of it when they are next woken."""
        highest = change.revision
        if self._highest:
            highest = max(highest, self._highest[-1])
        elif self._floor is not None:
            highest = max(highest, self._floor)
        self._changes.append(change)
        self._highest.append(highest)
        if len(self._changes) >= 2 * self._size:
            # What is dropped may have been told before what is closed already.
            self._floor = max(self._highest[self._size - 1], self._floor or 0)
            del self._changes[: self._size], self._highest[: self._size]
            self._start += self._size

    def restart(self, revision: int) -> None:
        """Forget everything: every watcher has fallen out, and from this revision on one can go on."""
        # One further than where anybody is, so that nobody seems to be here.
        self._start = self.position + 1
        self._changes.clear()
        self._highest.clear()
        self._floor = revision

    def close_past(self, revision: int) -> None:
        """Have nobody go on from before a revision, since what came and went before it was never told here.

        Whoever has followed until now has seen nothing of that, and goes on by his position.
        """
        self._floor = revision

    def since(self, position: int) -> Sequence[Stored] | None:
        """Return the changes from a position on, or None if they are no longer here."""
        if position < self._start:
            return None
        return self._changes[position - self._start :]

    def position_after(self, revision: int) -> int | None:
        """Return where somebody goes on who has everything up to a revision, or None: too long ago."""
        if self._floor is None or revision < self._floor:
            return None
        return self._start + bisect.bisect_right(self._highest, revision)

    def wake(self) -> None:
        """Wake everybody who waits."""
        # A bell rings once, and all wait for one: a thousand watchers are woken in one pass.
        bell, self._bell = self._bell, asyncio.Event()
        bell.set()

    async def changed(self, position: int) -> None:
        """Wait until there is a change behind a position, or it is no longer here."""
        while self.position <= position:
            await self.woken()

    async def woken(self) -> None:
        """Wait until there may be something new."""
        await self._bell.wait()
