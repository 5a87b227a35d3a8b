"""Watchers find where they are in a replica's latest changes, or hear that they have fallen out."""

from __future__ import annotations

import asyncio
import time

from hypothesis import given
from hypothesis import strategies as st

from gateway.lookup.entries import Kind, NamedKey, Stored
from gateway.lookup.history import History


def change(revision: int) -> Stored:
    return Stored(NamedKey(Kind.HOST, "hv1"), None, 1, revision)


def test_a_watcher_is_told_what_comes_after_its_position() -> None:
    history = History(10)
    history.restart(5)
    position = history.position
    history.add(change(6))
    history.add(change(7))
    assert history.since(position) == [change(6), change(7)]
    assert history.since(position + 1) == [change(7)]
    assert history.since(position + 2) == []


def test_who_waits_longer_than_is_kept_falls_out() -> None:
    history = History(3)
    history.restart(0)
    first = history.position
    for revision in range(1, 20):
        history.add(change(revision))
        kept = history.since(max(first, history.position - 3))
        assert kept is not None
    assert history.since(first) is None
    assert history.position_after(1) is None
    assert len(history.since(history.position - 3) or ()) == 3


def test_nobody_stays_across_a_restart() -> None:
    history = History(3)
    history.restart(0)
    position = history.position
    history.restart(9)
    assert history.since(position) is None
    assert history.position_after(8) is None
    assert history.position_after(9) == history.position
    assert history.since(history.position) == []


def test_who_follows_already_goes_on_where_others_can_no_longer_begin() -> None:
    history = History(10)
    history.restart(0)
    position = history.position
    history.add(change(4))
    history.close_past(6)
    assert history.since(position) == [change(4)]
    assert history.position_after(5) is None
    assert history.position_after(6) == history.position


@given(st.integers(1, 5), st.lists(st.integers(1, 30), max_size=40), st.integers(0, 30))
def test_whoever_goes_on_after_a_revision_misses_nothing(size: int, revisions: list[int], after: int) -> None:
    history = History(size)
    history.restart(0)
    for revision in revisions:
        history.add(change(revision))
    position = history.position_after(after)
    if position is not None:
        told = [entry.revision for entry in history.since(position) or ()]
        missed = revisions[: len(revisions) - len(told)]
        assert all(revision <= after for revision in missed)


def test_a_thousand_watchers_are_woken_at_once() -> None:
    async def main() -> None:
        history = History(10)
        waiting = [asyncio.create_task(history.woken()) for _ in range(1000)]
        await asyncio.sleep(0)
        began = time.process_time()
        history.wake()
        await asyncio.gather(*waiting)
        assert time.process_time() - began < 1

    asyncio.run(main())
