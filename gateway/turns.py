"""Whose turn it is: asyncio leaves the interpreter to trio while packets wait there.

One thread at a time runs Python. Trio's gives the interpreter up at every system call, so twice a
packet, and a busy asyncio thread keeps it from then on for as long as it likes to calculate, up to
the interpreter's switch interval (`sys.setswitchinterval`). Shorter intervals do not help: trio waits
one out for each call, however short its own work was. So the busy one has to stop by itself: after
a turn of half a millisecond, if packets wait, asyncio sleeps for twice as long as it has
worked, and nobody disturbs trio meanwhile. While nothing waits there, it goes on at once.
"""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Callable

import trio

# Seconds of processor time after which asyncio looks whether packets wait.
TURN = 0.0005
# How much longer than it has worked asyncio rests, and for how many seconds at most.
REST = 2.0
LONGEST_REST = 0.02
# Connections that are heeded before the next look: each may bring a request.
AT_ONCE = 8

Ready = tuple[selectors.SelectorKey, int]


class Waiting(trio.abc.Instrument):
    """Knows whether trio has nothing to do but to wait."""

    def __init__(self) -> None:
        self.is_idle = False

    def before_io_wait(self, timeout: float) -> None:
        self.is_idle = timeout > 0

    def after_io_wait(self, timeout: float) -> None:
        del timeout
        self.is_idle = False


class Courteous(selectors.DefaultSelector):
    """Waits for asyncio's connections, and before that for trio if that is busy."""

    def __init__(
        self,
        trio_waits: Waiting,
        *,
        worked: Callable[[], float] = time.thread_time,
        rest: Callable[[float], object] = time.sleep,
    ) -> None:
        """`worked` returns the seconds that this thread has worked, `rest` sleeps for some."""
        super().__init__()
        self._trio_waits = trio_waits
        self._worked = worked
        self._rest = rest
        self._turn_began = 0.0
        self._ready: deque[Ready] = deque()

    def select(self, timeout: float | None = None) -> list[Ready]:
        """What is ready, some at a time; the others are told of next."""
        self._leave_to_trio()
        if not self._ready:
            self._ready.extend(super().select(timeout))
        known = self.get_map()
        found: list[Ready] = []
        while self._ready and len(found) < AT_ONCE:
            key, events = self._ready.popleft()
            # What has been closed or changed meanwhile is asked about anew.
            if known.get(key.fd) is key:
                found.append((key, events))
        return found

    def _leave_to_trio(self) -> None:
        worked = self._worked()
        took = worked - self._turn_began
        if self._trio_waits.is_idle:
            self._turn_began = worked
        elif took >= TURN:
            self._rest(min(REST * took, LONGEST_REST))
            self._turn_began = worked
