"""Standard output that never stops or stalls whoever writes: a thread of its own does the writing."""

from __future__ import annotations

import os
import queue
import sys
import threading
from contextlib import suppress

# Lines and reports that wait for a slow reader. What is more is dropped, so the memory is bounded.
MOST_WAITING = 4096

# How long the end may wait for room for its mark, and then for the last lines to leave, in seconds.
GRACE = 0.25


class Output:
    """As much of a text stream as logging needs. `write` neither blocks nor fails, whoever reads or not."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: queue.Queue[bytes | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._write_all, name="output", daemon=True)
        self._thread.start()

    def write(self, text: str) -> bool:
        """Write whole lines soon, or drop them if too many wait already; say which."""
        try:
            self._waiting.put_nowait(text.encode(errors="backslashreplace"))
        except queue.Full:
            return False
        return True

    def flush(self) -> None:
        """Do nothing: what is written is on its way."""

    def close(self) -> None:
        """Let the last lines out, unless that takes too long."""
        with suppress(queue.Full):
            self._waiting.put(None, timeout=GRACE)
            self._thread.join(GRACE)

    def _write_all(self) -> None:
        while (octets := self._waiting.get()) is not None:
            # A reader that went away is no reason to stop; it may be a journal that starts again.
            with suppress(OSError):
                while octets:
                    octets = octets[os.write(self._descriptor, octets) :]


def standard_output() -> Output:
    """Write to what is standard output now, if it is open at all."""
    is_open = sys.stdout is not None
    return Output(sys.stdout.fileno() if is_open else os.open(os.devnull, os.O_WRONLY))
