"""An end within a known time: in order as long as that works, and at once where something hangs."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

log = logging.getLogger("isthmus")

# Seconds from the signal to the end. What ends in order keeps within it: peers get 2 s to answer their
# goodbye, then clients by HTTP 1 s to take what they are being told, and last the log's reader 1 s.
WITHIN = 4.5
# After another signal: whoever gives it is in a hurry.
HASTENED = 1.0

FAILED = 1


class LastResort:
    """Ends the process when its time is up, whatever its threads wait for: a disk, a store, a reader."""

    def __init__(self, before: Callable[[], object], end: Callable[[int], object] = os._exit) -> None:
        """`before` is called at the end, to let the last lines out."""
        self._before = before
        self._end = end
        self._deadline: float | None = None
        self._changed = threading.Condition()

    def within(self, seconds: float) -> None:
        """End the process after so many seconds at most; what was said before does not become later."""
        with self._changed:
            deadline = time.monotonic() + seconds
            if self._deadline is None:
                self._deadline = deadline
                threading.Thread(target=self._wait, name="last resort", daemon=True).start()
            else:
                self._deadline = min(self._deadline, deadline)
                self._changed.notify()

    def _wait(self) -> None:
        with self._changed:
            while self._deadline is not None and (left := self._deadline - time.monotonic()) > 0:
                self._changed.wait(left)
        waiting = sorted(thread.name for thread in threading.enumerate() if thread.name != "last resort")
        words = "something hangs, so this ends without it; threads: %s"
        log.error(words, ", ".join(waiting), extra={"event": "hangs"})
        self._before()
        self._end(FAILED)
