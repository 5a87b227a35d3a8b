"""Turns a store's pages and watch into what a replica is fed with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from gateway.lookup.entries import ADDRESS_KINDS, NAMED_KINDS, Event, Key, Kind, Progress, Reset, Stored
from gateway.lookup.store import Compacted, LookupStore, Prefix

T = TypeVar("T")

_PAGE = 1000


async def follow(store: LookupStore, after: int | None) -> AsyncIterator[Event]:
    """Tell every change after a revision, or everything there is where that history is gone.

    Never ends by itself. Raises StoreUnavailable: go on then from the latest Progress.
    """
    if after is not None and await latest_revision(store) < after:
        after = None  # the store has been restored to an earlier state
    listed: int | None = None
    while True:
        if after is None:
            after = await latest_revision(store)
            yield Reset(after)
            async with closing(entries(store, *map(Prefix, (*NAMED_KINDS, *ADDRESS_KINDS)))) as found:
                async for entry in found:
                    yield entry
            # What has changed since the first page is told again: the whole is of one moment
            # only when the watch has come to the last page's.
            listed = await latest_revision(store)
        try:
            async with closing(store.watch(after)) as changes:
                async for change in changes:
                    if listed is not None and isinstance(change, Stored) and change.revision > listed:
                        yield Progress(change.revision - 1)
                        listed = None
                    elif isinstance(change, Progress):
                        listed = None
                    yield change
        except Compacted:
            after = None


@asynccontextmanager
async def closing(events: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close an iterator that need not be read to its end, if it is one that can be closed."""
    try:
        yield events
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


async def entries(store: LookupStore, *prefixes: Prefix) -> AsyncIterator[Stored]:
    """List all live entries with some prefixes, page by page. Raises StoreUnavailable."""
    for prefix in prefixes:
        last: Key | None = None
        while True:
            page = await store.page(prefix, last, _PAGE)
            for entry in page.entries:
                yield entry
            if not page.more:
                break
            last = page.entries[-1].key


async def latest_revision(store: LookupStore) -> int:
    """Return the revision that a store is at. Raises StoreUnavailable."""
    return (await store.page(Prefix(Kind.HOST), None, 1)).revision
