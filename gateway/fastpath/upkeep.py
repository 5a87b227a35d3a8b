"""Neighbours kept alive, and looked for where they are not there: which of them are used when.

What XDP forwards is not seen by the kernel's neighbour table: it would take the neighbours for
idle, forget where they are and remove them. So it is told to use those that have gone stale, upon which it
asks them whether they are there; and those that are not there now and then, ever more rarely.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from heapq import heappop, heappush

from gateway.fastpath.hops import Key, NextHop, Use
from gateway.fastpath.rtnetlink import STALE, USABLE
from policies.addresses import ProviderAddress

LONGEST_REST = 10.0
"""Seconds within which stale neighbours are used. The kernel may remove what was not for 60 s, and it is
told of what is stale up to 45 s after its last use."""
USE_AGAIN = 30.0
"""Seconds until a neighbour is used again that is stale nevertheless."""
BACKOFF = 4.0
"""Seconds from using a neighbour that is not there to the next time; the kernel needs three to give up.
They double each time."""
LONGEST_BACKOFF = 64.0
TICK = 0.1
"""Seconds in which so many neighbours are used at most."""
STALE_PER_TICK = 20
LOST_PER_TICK = 5


class Entry:
    """An entry of the kernel's neighbour table that watched addresses are reached by."""

    __slots__ = ("attempts", "due", "hop", "is_asked", "is_full", "key", "mac", "state", "used", "users")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.mac = b""
        self.state = 0
        self.hop: NextHop | None = None
        self.users: set[ProviderAddress] = set()
        self.is_asked = False  # a question is on its way, and no event has come since
        self.is_full = False
        self.attempts = 0  # of using it since it was last there
        self.used = -math.inf
        self.due = math.inf  # when it is used next


class Upkeep:
    """When each neighbour is used next. Times are in seconds."""

    def __init__(self) -> None:
        self._stale = _Schedule(STALE_PER_TICK)
        self._lost = _Schedule(LOST_PER_TICK)

    @property
    def deadline(self) -> float:
        """When some may be due."""
        return min(self._stale.deadline, self._lost.deadline)

    def __len__(self) -> int:
        return len(self._stale) + len(self._lost)

    def arrange(self, neighbour: Entry, now: float) -> None:
        """Have a neighbour used in time, if it needs to be."""
        if not neighbour.state & USABLE:
            # Backing off is what its last use has arranged; it is not to be used twice in a second.
            due = max(now, neighbour.used + 1) if not neighbour.attempts else neighbour.due
            if due == math.inf:
                due = now + BACKOFF
            schedule = self._lost
        elif neighbour.state & STALE:
            spread = zlib.crc32(neighbour.key[1]) / 2**32
            due = now + 1 + spread * (LONGEST_REST - 1)
            schedule = self._stale
        else:
            return
        if neighbour.due == math.inf or due < neighbour.due:
            neighbour.due = due
            schedule.add(neighbour.key, due)

    def uses(
        self, now: float, most: int, neighbours: Mapping[Key, Entry], working: Mapping[int, bytes]
    ) -> Iterator[Use]:
        """Yield what is due of these neighbours, on interfaces that work; at most so many."""
        for schedule in (self._lost, self._stale):
            for due, key in schedule.take(now) if most > 0 else ():
                neighbour = neighbours.get(key)
                if neighbour is None or neighbour.due != due:
                    continue  # it is no longer needed, or has been arranged otherwise
                is_kept = neighbour.state & USABLE and not neighbour.state & STALE
                if is_kept or key[0] not in working:
                    neighbour.due, neighbour.attempts = math.inf, 0
                    continue
                schedule.count(now)
                neighbour.used = now
                if neighbour.state & USABLE:
                    neighbour.due = now + USE_AGAIN
                    self._stale.add(key, neighbour.due)
                else:
                    neighbour.due = now + min(BACKOFF * 2**neighbour.attempts, LONGEST_BACKOFF)
                    neighbour.attempts = min(neighbour.attempts + 1, 10)
                    self._lost.add(key, neighbour.due)
                yield Use(*key)
                most -= 1
                if most <= 0:
                    return


class _Schedule:
    """Which neighbours are used next, and no more of them at once than is good for their link."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[float, Key]] = []
        self._tick = -math.inf
        self._taken = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, key: Key, due: float) -> None:
        heappush(self._heap, (due, key))

    @property
    def deadline(self) -> float:
        if not self._heap:
            return math.inf
        due = self._heap[0][0]
        return max(due, self._tick + TICK) if self._taken >= self._most else due

    def take(self, now: float) -> Iterator[tuple[float, Key]]:
        """Yield what is due; each that is used is told by `count`."""
        while self._heap and now >= self.deadline:
            yield heappop(self._heap)

    def count(self, now: float) -> None:
        if now >= self._tick + TICK:
            self._tick, self._taken = now, 0
        self._taken += 1
