"""What a replica is fed with where the store is behind a lookup service: the watch of a client."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from gateway.lookup.client.client import LookupClient
from gateway.lookup.entries import Event
from gateway.lookup.outcomes import Forbidden, Unacceptable
from gateway.lookup.store import StoreUnavailable

log = logging.getLogger("isthmus.lookup")


def remote(client: LookupClient, only_used: bool) -> Callable[[int | None], AsyncGenerator[Event, None]]:
    """Return a source: called with a revision, it yields what is new after it, or everything (None).

    It ends by StoreUnavailable, for whatever reason: the replica waits a moment and then calls for
    the next, of another node if there is one. With `only_used`, records are those of this host's
    own VMs and those that it has been taught.
    """
    watch = client.new_watch(only_used=only_used)

    async def source(after: int | None) -> AsyncGenerator[Event, None]:
        try:
            async with aclosing(watch.connection(after)) as events:
                async for event in events:
                    yield event
        except (Forbidden, Unacceptable) as error:
            # A credential may come to be known later: until then, what is here is all there is.
            log.warning(
                "the lookup service refuses to be watched: %s", error, extra={"event": "watch-refused"}
            )
            raise StoreUnavailable(str(error)) from error

    return source
