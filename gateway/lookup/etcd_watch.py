"""Following etcd's history without a gap, whichever members come and go.

One watch after the other, each from the revision after the last that was told whole.
Before it tells anything, a member shows by a linearizable read that it goes on with the
same history: revisions have not gone back, and the change that was told last is there.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from gateway.lookup.entries import Progress, Stored
from gateway.lookup.etcd_gateway import EtcdGateway, NoAnswer, OutOfRange, Pause
from gateway.lookup.etcd_layout import Layout
from gateway.lookup.etcd_lineage import OtherHistory
from gateway.lookup.etcd_wire import KeyEvent, RangeAnswer
from gateway.lookup.store import Compacted, StoreUnavailable

log = logging.getLogger(__name__)

DELETED = "DELETE"


async def follow(gateway: EtcdGateway, layout: Layout, after: int) -> AsyncIterator[Stored | Progress]:
    """Yield changes and Progress from one member or another. Raises Compacted, StoreUnavailable."""
    position, told, era = after, -1, gateway.lineage.era
    attempts = gateway.attempts()
    while True:
        member = attempts.member
        try:
            async with aclosing(gateway.watch(member, *layout.all, position + 1)) as answers:
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
                        target = await _check(gateway, layout, member, position, era)
                        attempts = gateway.attempts()
                    else:
                        events += answer.events
                        if answer.fragment:
                            continue
                        for entry in _entries(layout, events):
                            yield entry
                        if events:
                            gateway.lineage.latest = events[-1].kv
                            position = events[-1].kv.mod_revision
                            events = []
                        else:
                            position = max(position, answer.header.revision)
        except NoAnswer as failure:
            await attempts.failed(member, failure)


async def _check(gateway: EtcdGateway, layout: Layout, member: str, position: int, era: int) -> int:
    """Return the revision that a member is at, linearizably.

    Raises Compacted where its history is another than the one that was told.
    """
    lineage = gateway.lineage
    known = max(position, lineage.revision)
    latest = lineage.latest if lineage.latest and lineage.latest.mod_revision == position else None
    try:
        if era != lineage.era:
            raise OtherHistory("it was found to be so before")
        request = {"key": layout.prefix if latest is None else latest.key, "revision": 0}
        if latest is not None:
            try:
                told = await gateway.ask(member, "kv/range", {**request, "revision": position}, RangeAnswer)
            except OutOfRange:
                latest = None  # compacted, which the watch itself tells, or yet to come, which is found below
            else:
                if told.only is None or told.only.value != latest.value:
                    raise OtherHistory(f"its revision {position} is another change")
        answer = await gateway.ask(member, "kv/range", request, RangeAnswer)
        lineage.check(answer.header.cluster_id, answer.header.revision, known)
    except OtherHistory as difference:
        if era == lineage.era:
            lineage.forget()
        raise Compacted(f"{member} has another history than before: {difference}") from None
    return answer.header.revision


def _entries(layout: Layout, events: Sequence[KeyEvent]) -> list[Stored]:
    found = []
    for event in events:
        key = layout.read_key(event.kv.key)
        if key is None:
            continue
        if event.type == DELETED:
            # By hand: nothing of ours does that. Its epoch is lost.
            found.append(Stored(key, None, 0, event.kv.mod_revision))
            continue
        try:
            entry = layout.read(event.kv)
        except StoreUnavailable as error:
            log.warning("passed over: %s", error)
            continue
        if entry is not None:
            found.append(entry)
    return found
