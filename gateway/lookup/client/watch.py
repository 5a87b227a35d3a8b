"""One watch of the lookup service, on one connection after another."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from gateway.lookup.answers import raise_refusal
from gateway.lookup.client.cache import Cache, Keeper
from gateway.lookup.client.nodes import Fault, Nodes, read_bounded
from gateway.lookup.client.watch_lines import event
from gateway.lookup.entries import Event, Progress, Reset, Stored
from gateway.lookup.forms import Malformed
from gateway.lookup.lines import Lines
from gateway.lookup.store import StoreUnavailable
from policies.addresses import Vsid

log = logging.getLogger("isthmus.lookup")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
BEHIND_PATIENCE = 5.0
"""Seconds for which a node that knows less than has been told already is passed over. If all still do, then
the store itself has gone back, restored from an older copy perhaps, and what it holds is what holds."""


class Watch:
    """What is watched, and what has come of it so far. `malformed` counts lines that made no sense."""

    def __init__(
        self, nodes: Nodes, cache: Cache, query: Mapping[str, str], *, keeps: bool, vsid: Vsid | None
    ) -> None:
        self.malformed = 0
        self._nodes = nodes
        self._cache = cache
        self._query = query
        self._keeps = keeps
        self._vsid = vsid
        self._keeper = Keeper(vsid)
        self._behind_since: float | None = None

    async def for_ever(self, after: int | None) -> AsyncGenerator[Event, None]:
        """Yield events, of another connection whenever one is lost. Raises Forbidden and Unacceptable."""
        position, is_resyncing = after, False
        pause = FIRST_PAUSE
        while True:
            try:
                async with aclosing(self.connection(None if is_resyncing else position)) as events:
                    async for each in events:
                        match each:
                            case Reset():
                                is_resyncing = True
                            case Progress(revision):
                                position, is_resyncing, pause = revision, False, FIRST_PAUSE
                            case Stored() if not is_resyncing:
                                # Others of the same revision may have been lost with the connection.
                                position = max(position or 0, each.revision - 1)
                        yield each
            except StoreUnavailable as error:
                log.info("the watch begins again: %s", error, extra={"event": "watch-again"})
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(LONGEST_PAUSE, pause * 2)

    async def connection(self, after: int | None) -> AsyncGenerator[Event, None]:
        """Yield the events after a revision (None: everything, after a Reset) until the connection is lost.

        Raises StoreUnavailable then, and Forbidden or Unacceptable where it is refused.
        """
        query = dict(self._query) if after is None else {**self._query, "from": str(after)}
        try:
            async with self._nodes.stream("/v1/watch", query) as response:
                if response.status != 200:
                    raise_refusal(response.status, await read_bounded(response))
                lines = Lines()
                async for chunk in response.content.iter_any():
                    for line in lines.feed(chunk):
                        found = event(line)
                        self._check(found, after)
                        self._remember(found)
                        yield found
                raise Fault(f"{response.url.origin()}: the watch has ended")
        except Malformed as error:
            self.malformed += 1
            raise StoreUnavailable(f"a watch tells what makes no sense: {error}") from error
        except Fault as error:
            raise StoreUnavailable(str(error)) from error
        finally:
            self._cache.lose(self._keeper, time.monotonic())

    def _check(self, found: Event, after: int | None) -> None:
        """Leave a node that lags behind what another has told already."""
        if isinstance(found, Progress):
            self._behind_since = None
        if not isinstance(found, Reset) or after is None or found.revision >= after:
            return
        now = time.monotonic()
        if self._behind_since is None:
            self._behind_since = now
        if now - self._behind_since < BEHIND_PATIENCE:
            raise Fault(f"a node is at revision {found.revision}, and {after} has been told already")

    def _remember(self, found: Event) -> None:
        """Let the client's cache know what is told."""
        now = time.monotonic()
        match found:
            case Reset():
                # What is not told from here on is gone, so what the last keeper kept is kept no longer.
                self._cache.lose(self._keeper, now)
                self._keeper = Keeper(self._vsid)
            case Progress(revision):
                self._keeper.revision = revision
                if self._keeps:
                    self._cache.keep(self._keeper)
            case Stored():
                self._cache.told(self._keeper, found, now)
