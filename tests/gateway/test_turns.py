from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest
import trio

from gateway.aio import EventLoop, event_loop
from gateway.turns import AT_ONCE, LONGEST_REST, REST, TURN, Courteous, Waiting


class Thread:
    """An asyncio thread that works and rests as it is told."""

    def __init__(self, *, trio_is_idle: bool) -> None:
        self.worked = 0.0
        self.rests: list[float] = []
        waiting = Waiting()
        waiting.is_idle = trio_is_idle
        self.waiting = waiting
        self.selector = Courteous(waiting, worked=lambda: self.worked, rest=self.rests.append)


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Connections, each with something to read at its first end."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(AT_ONCE + 3):
            near, far = (stack.enter_context(end) for end in socket.socketpair())
            far.send(b"asked")
            made.append((near, far))
        yield made


@pytest.fixture
def busy() -> Iterator[Thread]:
    thread = Thread(trio_is_idle=False)
    with contextlib.closing(thread.selector):
        yield thread


def test_who_has_worked_for_a_turn_rests_for_longer_while_packets_wait(busy: Thread) -> None:
    busy.worked = TURN
    busy.selector.select(0)

    assert busy.rests == [REST * TURN]


def test_what_is_less_than_a_turn_is_counted_with_what_follows(busy: Thread) -> None:
    for worked in (0.6 * TURN, 1.2 * TURN, 1.8 * TURN):
        busy.worked = worked
        busy.selector.select(0)

    assert busy.rests == [pytest.approx(REST * 1.2 * TURN)]


def test_one_long_piece_of_work_keeps_nobody_waiting_for_long(busy: Thread) -> None:
    busy.worked = 10.0
    busy.selector.select(0)

    assert busy.rests == [LONGEST_REST]


def test_nobody_rests_for_a_trio_that_has_nothing_to_do() -> None:
    thread = Thread(trio_is_idle=True)
    with contextlib.closing(thread.selector):
        thread.worked = 10.0
        thread.selector.select(0)
        assert thread.rests == []

        # Nor later for what was done then.
        thread.waiting.is_idle = False
        thread.selector.select(0)
        assert thread.rests == []


def test_all_that_are_ready_are_told_of_a_few_at_a_time(
    busy: Thread, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    for near, _ in pairs:
        busy.selector.register(near, 1)

    first, second = busy.selector.select(0), busy.selector.select(0)

    assert len(first) == AT_ONCE
    assert {key.fd for key, _ in first + second} == {near.fileno() for near, _ in pairs}


def test_what_was_ready_and_is_no_longer_asked_about_is_not_told_of(
    busy: Thread, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    for near, _ in pairs:
        busy.selector.register(near, 1)
    told = {key.fd for key, _ in busy.selector.select(0)}
    gone, changed = (near for near, _ in pairs if near.fileno() not in told and near is not pairs[-1][0])

    busy.selector.unregister(gone)
    busy.selector.modify(changed, 1, "another handler")
    later = [key for key, _ in busy.selector.select(0)]

    assert gone.fileno() not in {key.fd for key in later}
    assert [key.data for key in later if key.fd == changed.fileno()] in ([], ["another handler"])
    again = {key.fd: key.data for _ in range(2) for key, _ in busy.selector.select(0)}
    assert again[changed.fileno()] == "another handler"


def test_trio_is_idle_while_it_waits_and_busy_while_tasks_are_due() -> None:
    waiting = Waiting()
    seen = []
    for timeout in (0.0, 1.0):
        waiting.before_io_wait(timeout)
        seen.append(waiting.is_idle)
        waiting.after_io_wait(timeout)
        seen.append(waiting.is_idle)

    assert seen == [False, False, True, False]


def test_asyncio_is_told_when_trio_has_nothing_to_do() -> None:
    async def until_idle(loop: EventLoop) -> bool:
        for _ in range(1000):
            await asyncio.sleep(0.001)
            if loop._trio_waits.is_idle:
                return True
        return False

    async def main() -> None:
        async with event_loop() as loop:
            assert await loop.run(until_idle, loop)
        was = loop._trio_waits.is_idle = True
        await trio.sleep(0.001)
        assert loop._trio_waits.is_idle is was  # nobody watches any more

    trio.run(main)
