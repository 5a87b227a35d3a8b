"""How single writes to the store are made: timed, and anew where somebody was quicker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from gateway.http.measures import Histogram
from gateway.lookup.entries import Stored
from gateway.lookup.store import Conflict, StoreUnavailable

ATTEMPTS = 5
OWN_REPLICA_SECONDS = 2.0
"""How long a write waits for this node's own replica to show it, so that whoever wrote reads it."""


class Writes:
    """How long the store took for each write, and how often it was away."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds = Histogram()
        self.failed = 0
        self._clock = clock

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Take the time of one write. A refusal is an answer, too."""
        began = self._clock()
        try:
            yield
        except StoreUnavailable:
            self.failed += 1
            raise
        finally:
            self.seconds.tell(self._clock() - began)


async def persistently(write: Callable[[], Awaitable[Stored]]) -> Stored:
    """Make a write that reads first, and anew where somebody was quicker. Raises Conflict where all were."""
    for _ in range(ATTEMPTS - 1):
        with suppress(Conflict):
            return await write()
    return await write()
