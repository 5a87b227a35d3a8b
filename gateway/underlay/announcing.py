"""The pace of announcements: a start, or a host that takes many VMs over, brings thousands at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

# 6,400 a second take some 3 Mbit/s of the link, and no more than a turn of this machine's time each.
AT_ONCE = 64
PAUSE = 0.01
"""Seconds."""

# Each is said twice, since whoever misses it sends to the old place until its neighbour entry has
# aged; RFC 5227 section 1.1 gives the number and the interval (ANNOUNCE_NUM, ANNOUNCE_INTERVAL), and RFC 4861
# section 7.2.6 allows them.
AGAIN_AFTER = 2.0
"""Seconds, for which the old host still passes on what it gets."""

MOST_WAITING = 65_536
"""More are not announced: whoever looks for them asks, later."""


class Announcements:
    """Says where provider addresses are, now and once more, each only if `say` still finds it here."""

    def __init__(self, say: Callable[[bytes], object]) -> None:
        self.left_out = 0
        """Those that were too many."""
        self._say = say
        self._waiting: dict[bytes, None] = {}
        self._again: deque[tuple[float, bytes]] = deque()
        self._wake = trio.Event()

    def add(self, pa: bytes) -> None:
        """Have one said soon."""
        if len(self._waiting) + len(self._again) >= MOST_WAITING and pa not in self._waiting:
            self.left_out += 1
            return
        self._waiting[pa] = None
        self._wake.set()

    async def run(self) -> None:
        """Say what is added, until cancelled."""
        while True:
            now = trio.current_time()
            for _ in range(AT_ONCE):
                if self._waiting:
                    pa = next(iter(self._waiting))
                    del self._waiting[pa]
                    self._again.append((now + AGAIN_AFTER, pa))
                elif self._again and self._again[0][0] <= now:
                    _, pa = self._again.popleft()
                else:
                    break
                self._say(pa)
            else:
                await trio.sleep(PAUSE)
                continue
            self._wake = trio.Event()
            with trio.move_on_at(self._again[0][0] if self._again else float("inf")):
                await self._wake.wait()
