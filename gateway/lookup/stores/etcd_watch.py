"""Following etcd's history without a gap, whichever members come and go.

One watch after the other, each from the revision after the last that was told whole. A
cluster that was made anew, or restored from a backup, answers as if nothing had
happened, and its revisions are those of other changes. So before it tells anything, a
member shows by linearizable reads that it goes on with the same history: it is of the same
cluster, revisions have not gone back, and the change that was told last is there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing

from gateway.lookup.entries import Progress, Stored
from gateway.lookup.store import Compacted
from gateway.lookup.stores.etcd_gateway import EtcdGateway, NoAnswer, OutOfRange, Pause
from gateway.lookup.stores.etcd_layout import Layout
from gateway.lookup.stores.etcd_wire import KeyEvent, KeyValue, RangeAnswer

DELETED = "DELETE"


class History:
    """All changes below a prefix. What was told last is remembered from one watch to the next."""

    def __init__(self, gateway: EtcdGateway, layout: Layout) -> None:
        self._gateway = gateway
        self._layout = layout
        self._cluster = 0
        self._latest: KeyValue | None = None

    async def follow(self, after: int) -> AsyncIterator[Stored | Progress]:
        """Yield changes and Progress from one member or another. Raises Compacted, StoreUnavailable."""
        position, told = after, -1
        attempts = self._gateway.attempts()
        while True:
            member = attempts.member
            try:
                async with aclosing(self._gateway.watch(member, *self._layout.all, position + 1)) as answers:
                    # Where the history was when this watch began: up to there is more to be told.
                    target: int | None = None
                    events: list[KeyEvent] = []
                    async for answer in answers:
                        if isinstance(answer, Pause):
                            caught_up = target is not None and (position >= target or answer is Pause.LONG)
                            if caught_up and not events and told != position:
                                told = position
                                yield Progress(position)
                        elif answer.compact_revision:
                            raise Compacted(f"etcd's history before {answer.compact_revision} is gone")
                        elif answer.canceled:
                            raise NoAnswer(answer.cancel_reason or "has ended the watch")
                        elif answer.created:
                            target = await self._check(member, position)
                            attempts = self._gateway.attempts()
                        else:
                            events += answer.events
                            if answer.fragment:
                                continue
                            for entry in self._entries(events):
                                yield entry
                            if events:
                                self._latest = events[-1].kv
                                position = events[-1].kv.mod_revision
                                events = []
                            else:
                                position = max(position, answer.header.revision)
            except NoAnswer as failure:
                await attempts.failed(member, failure)

    async def _check(self, member: str, position: int) -> int:
        """Return the revision that a member is at.

        Raises Compacted where its history is another than the one that was told.
        """
        answer = await self._gateway.ask(member, "kv/range", {"key": self._layout.prefix}, RangeAnswer)
        header, known = answer.header, self._cluster
        self._cluster = header.cluster_id
        if known not in (0, header.cluster_id):
            raise _another_history(f"{member} is of the cluster {header.cluster_id:x}, not of {known:x}")
        if header.revision < position:
            raise _another_history(f"{member} is at revision {header.revision}, not at {position} as before")
        latest = self._latest
        if latest is None or latest.mod_revision != position:
            return header.revision
        request = {"key": latest.key, "revision": position}
        try:
            answer = await self._gateway.ask(member, "kv/range", request, RangeAnswer)
        except OutOfRange:
            return header.revision  # compacted: the watch itself will say so
        if answer.only is None or answer.only.value != latest.value:
            raise _another_history(f"revision {position} of {member} is another change")
        return header.revision

    def _entries(self, events: Sequence[KeyEvent]) -> Iterator[Stored]:
        for event in events:
            if event.type != DELETED:
                yield from self._layout.read_all((event.kv,))
            elif (key := self._layout.read_key(event.kv.key)) is not None:
                # By hand: nothing of ours does that. Its epoch is lost.
                yield Stored(key, None, 0, event.kv.mod_revision)


def _another_history(difference: str) -> Compacted:
    return Compacted(f"etcd has another history than before: {difference}")
