"""Listing what lies in etcd, page by page.

For each request etcd goes through the keys of everything that is left, however little is asked for.
So a listing that goes on is read far ahead, and its next pages come from that.

Pages from what was read ahead are as old as that. Whoever lists and then watches goes by the revision
that its listing began at; therefore nothing older than the latest beginning of a listing is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import msgspec

from gateway.lookup.entries import Key, Stored
from gateway.lookup.store import Page, Prefix
from gateway.lookup.stores.etcd_gateway import EtcdGateway, OutOfRange
from gateway.lookup.stores.etcd_layout import Layout
from gateway.lookup.stores.etcd_wire import KeyValue

READ_AHEAD = 20_000
LISTINGS = 4
"""At most so many are read ahead for."""
ANSWER_SECONDS = 10.0


class _Ahead(msgspec.Struct, frozen=True):
    """Keys from somewhere on, as they were at a revision, and whether others follow."""

    revision: int
    kvs: Sequence[KeyValue]
    more: bool


class Pages:
    """The pages of one prefix in etcd."""

    def __init__(self, gateway: EtcdGateway, layout: Layout) -> None:
        self._gateway = gateway
        self._layout = layout
        self._ahead: dict[tuple[bytes, bytes], _Ahead] = {}
        self._begun = 0
        """The revision at which a listing was begun latest."""

    async def page(self, prefix: Prefix, after: Key | None, limit: int) -> Page:
        """Return entries after a key that are no tombstones. Raises StoreUnavailable."""
        start, end = self._layout.range(prefix)
        if after is not None:
            start = max(start, self._layout.key(after) + b"\0")
        size = limit + 1 if after is None else max(limit + 1, READ_AHEAD)
        ahead = self._ahead.pop((start, end), None)
        if ahead is None or ahead.revision < self._begun:
            ahead = await self._read(start, end, size)
        if after is None:
            self._begun = max(self._begun, ahead.revision)
        while True:
            try:
                return await self._fill(ahead, end, limit, size)
            except OutOfRange:  # compacted while it was read
                ahead = await self._read(start, end, size)

    async def _fill(self, ahead: _Ahead, end: bytes, limit: int, size: int) -> Page:
        """Take as much as a page holds, and keep what is left."""
        live: list[Stored] = []
        while True:
            for number, found in enumerate(ahead.kvs):
                for entry in self._layout.read_all((found,)):
                    if entry.value is None:
                        continue
                    if len(live) == limit:
                        self._keep(live[-1].key, end, ahead, number)
                        return Page(live, ahead.revision, more=True)
                    live.append(entry)
            if not ahead.more:
                return Page(live, ahead.revision, more=False)
            ahead = await self._read(ahead.kvs[-1].key + b"\0", end, size, ahead.revision)

    def _keep(self, last: Key, end: bytes, ahead: _Ahead, number: int) -> None:
        """Keep what begins at a number, for whoever goes on after the last key of this page."""
        rest = tuple(islice(ahead.kvs, number, None))
        if len(rest) > 1 or not ahead.more:
            while len(self._ahead) >= LISTINGS:
                self._ahead.pop(next(iter(self._ahead)))
            self._ahead[self._layout.key(last) + b"\0", end] = _Ahead(ahead.revision, rest, ahead.more)

    async def _read(self, start: bytes, end: bytes, limit: int, revision: int = 0) -> _Ahead:
        begun = self._begun
        answer = await self._gateway.range(start, end, revision=revision, limit=limit, seconds=ANSWER_SECONDS)
        if answer.header.revision < begun:
            self._begun = answer.header.revision  # the cluster has been restored from a backup
        return _Ahead(revision or answer.header.revision, answer.kvs, answer.more)
