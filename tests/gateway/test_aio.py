"""The seam between trio and asyncio: what crosses it, what is cancelled, and what is left behind."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from gateway.aio import MOST_TOLD, EventLoop, event_loop


def in_loop(body: Callable[[EventLoop], Awaitable[Any]], **settings: Any) -> None:
    """Run a body inside the block, and see that no thread outlives it."""

    async def main() -> None:
        async with event_loop() as loop:
            await body(loop)

    try:
        trio.run(main, **settings)
    finally:
        assert [thread for thread in threading.enumerate() if thread.name == "asyncio"] == []


async def sleep_forever() -> None:
    await asyncio.get_running_loop().create_future()


def test_a_function_runs_on_the_asyncio_thread_and_its_value_comes_back() -> None:
    async def there(first: int, second: int) -> tuple[int, str]:
        await asyncio.sleep(0)
        return first + second, threading.current_thread().name

    async def body(loop: EventLoop) -> None:
        assert await loop.run(there, 1, 2) == (3, "asyncio")

    in_loop(body)


def test_an_exception_comes_back_as_it_is() -> None:
    error = ValueError("as it is")

    async def there() -> None:
        await asyncio.sleep(0)
        raise error

    async def body(loop: EventLoop) -> None:
        with pytest.raises(ValueError, match="as it is") as caught:
            await loop.run(there)
        assert caught.value is error

    in_loop(body)


def test_an_exception_group_comes_back_whole() -> None:
    async def fail(error: Exception) -> None:
        await asyncio.sleep(0)
        raise error

    async def there() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(ValueError()))
            group.create_task(fail(KeyError()))

    async def body(loop: EventLoop) -> None:
        with pytest.raises(ExceptionGroup) as caught:
            await loop.run(there)
        assert {type(each) for each in caught.value.exceptions} == {ValueError, KeyError}

    in_loop(body)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_over_there_is_raised_here_and_the_loop_lives_on(kind: type[BaseException]) -> None:
    async def there() -> None:
        raise kind

    async def still_there() -> int:
        return 7

    async def body(loop: EventLoop) -> None:
        with pytest.raises(kind):
            await loop.run(there)
        assert await loop.run(still_there) == 7

    in_loop(body)


def test_cancelling_here_cancels_there_and_waits_for_its_end() -> None:
    seen: list[str] = []

    async def there(began: Callable[[], None]) -> None:
        began()
        try:
            await sleep_forever()
        except asyncio.CancelledError:
            for _ in range(100):
                await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    async def body(loop: EventLoop) -> None:
        with trio.CancelScope() as scope:
            await loop.run(there, lambda: loop.to_trio(scope.cancel))
        assert scope.cancelled_caught
        assert seen == ["cleaned up"]

    in_loop(body)


def test_what_ends_well_although_it_was_cancelled_gives_its_value() -> None:
    async def there(began: Callable[[], None]) -> str:
        began()
        try:
            await sleep_forever()
        except asyncio.CancelledError:
            return "committed"
        return "never"

    async def body(loop: EventLoop) -> None:
        with trio.CancelScope() as scope:
            assert await loop.run(there, lambda: loop.to_trio(scope.cancel)) == "committed"
        assert scope.cancel_called
        assert not scope.cancelled_caught

    in_loop(body)


def test_what_fails_while_it_is_cancelled_says_so() -> None:
    async def there(began: Callable[[], None]) -> None:
        began()
        try:
            await sleep_forever()
        finally:
            raise OSError("disk full")

    async def body(loop: EventLoop) -> None:
        with trio.CancelScope() as scope, pytest.raises(OSError, match="disk full"):
            await loop.run(there, lambda: loop.to_trio(scope.cancel))

    in_loop(body)


def test_a_scope_cancelled_before_begins_nothing() -> None:
    began: list[str] = []

    async def there() -> None:
        began.append("began")

    async def body(loop: EventLoop) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await loop.run(there)
        assert began == []

    in_loop(body)


def test_a_call_cancelled_at_once_ends_whether_it_has_begun_there_or_not() -> None:
    async def body(loop: EventLoop) -> None:
        for _ in range(200):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(loop.run, sleep_forever)
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            assert scope.cancelled_caught

    in_loop(body)


def test_a_task_cancelled_by_another_over_there_is_no_cancellation_here() -> None:
    async def there() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async def body(loop: EventLoop) -> None:
        with pytest.raises(RuntimeError, match="cancelled by another"):
            await loop.run(there)

    in_loop(body)


def test_both_sides_are_told_in_order() -> None:
    heard: list[int] = []
    echoed: list[int] = []

    async def body(loop: EventLoop) -> None:
        done = trio.Event()

        def there(number: int) -> None:
            heard.append(number)
            loop.to_trio(echoed.append, number)

        for number in range(1000):
            loop.call_soon(there, number)
        loop.call_soon(lambda: loop.to_trio(done.set))
        await done.wait()

    in_loop(body)
    assert heard == echoed == list(range(1000))


def test_everything_told_before_the_end_is_done_before_the_end() -> None:
    heard: list[int] = []

    async def body(loop: EventLoop) -> None:
        for number in range(100):
            loop.call_soon(loop.to_trio, heard.append, number)

    in_loop(body)
    assert heard == list(range(100))


def test_leaving_cancels_what_still_runs_there() -> None:
    seen: list[str] = []

    async def forever(name: str) -> None:
        try:
            await sleep_forever()
        finally:
            await asyncio.sleep(0)
            seen.append(name)

    async def there() -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(forever(name)) for name in "ab"]
        await asyncio.sleep(0)
        return tasks

    async def body(loop: EventLoop) -> None:
        await loop.run(there)

    in_loop(body)
    assert sorted(seen) == ["a", "b"]


def test_leaving_cancels_what_begins_only_then() -> None:
    seen: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def late() -> None:
        try:
            await sleep_forever()
        finally:
            seen.append("late")

    async def forever() -> None:
        try:
            await sleep_forever()
        finally:
            tasks.append(asyncio.create_task(late()))
            await asyncio.sleep(0)

    async def there() -> None:
        tasks.append(asyncio.create_task(forever()))
        await asyncio.sleep(0)

    async def body(loop: EventLoop) -> None:
        await loop.run(there)

    in_loop(body)
    assert seen == ["late"]


def test_leaving_closes_asynchronous_generators_and_the_default_executor() -> None:
    seen: list[str] = []
    kept: list[AsyncIterator[int]] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    async def there() -> None:
        kept.append(numbers())
        assert await anext(kept[0]) == 1
        await asyncio.get_running_loop().run_in_executor(None, seen.append, "executed")

    async def body(loop: EventLoop) -> None:
        await loop.run(there)

    in_loop(body)
    assert seen == ["executed", "closed"]
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("asyncio")] == []


def test_a_call_that_outlives_the_block_is_told_that_it_is_over() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            async with event_loop() as loop:

                async def outlive() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await loop.run(sleep_forever)

                nursery.start_soon(outlive)
                await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.ClosedResourceError):
                await loop.run(sleep_forever)
            with pytest.raises(trio.ClosedResourceError):
                loop.call_soon(print)

    trio.run(main)


@pytest.mark.parametrize("side", ["there", "here"])
def test_a_failure_that_nobody_waits_for_ends_the_block(side: str) -> None:
    def fail() -> None:
        raise ValueError("unheard")

    async def body(loop: EventLoop) -> None:
        if side == "there":
            loop.call_soon(fail)
        else:
            loop.call_soon(loop.to_trio, fail)
        await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        in_loop(body)
    assert caught.group_contains(ValueError, match="unheard")


def test_a_failure_of_the_block_itself_stays_beside_one_that_nobody_waits_for() -> None:
    async def body(loop: EventLoop) -> None:
        async def fail() -> None:
            try:
                await sleep_forever()
            finally:
                raise ValueError("unheard")

        async def there() -> None:
            kept.append(asyncio.create_task(fail()))
            await asyncio.sleep(0)

        await loop.run(there)
        raise KeyError("of the block")

    kept: list[asyncio.Task[None]] = []
    with pytest.raises(ExceptionGroup) as caught:
        in_loop(body)
    assert {type(each) for each in caught.value.exceptions} == {ValueError, KeyError}


def test_an_exception_of_the_block_is_raised_as_it_is() -> None:
    async def body(loop: EventLoop) -> None:
        raise KeyError("of the block")

    with pytest.raises(KeyError):
        in_loop(body)


def test_a_forgotten_task_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("forgotten")

    async def there() -> None:
        asyncio.create_task(fail())  # noqa: RUF006
        await asyncio.sleep(0.01)

    async def body(loop: EventLoop) -> None:
        await loop.run(there)

    with caplog.at_level(logging.ERROR, "isthmus.aio"):
        in_loop(body)
    assert "forgotten" in caplog.text


def test_context_variables_are_those_of_the_caller() -> None:
    variable = contextvars.ContextVar("variable", default="none")

    async def there() -> str:
        return variable.get()

    async def body(loop: EventLoop) -> None:
        variable.set("mine")
        assert await loop.run(there) == "mine"

    in_loop(body)


def test_a_clock_that_stands_still_is_no_hindrance() -> None:
    async def there() -> int:
        await asyncio.sleep(0.01)
        return 7

    async def body(loop: EventLoop) -> None:
        assert await loop.run(there) == 7
        assert trio.current_time() == start

    clock = trio.testing.MockClock()
    start = clock.current_time()
    in_loop(body, clock=clock)


def test_two_loops_live_side_by_side_and_a_block_can_be_entered_again() -> None:
    async def where() -> int:
        return threading.get_ident()

    async def main() -> None:
        for _ in range(3):
            async with event_loop() as first, event_loop() as second:
                assert await first.run(where) != await second.run(where)

    trio.run(main)


def test_a_thousand_calls_cancelled_at_random_all_end_and_leave_nothing() -> None:
    generator = random.Random(4)
    running = 0
    ended = 0

    async def there(seconds: float, stubborn: bool) -> float:
        nonlocal running
        running += 1
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if stubborn:
                await asyncio.sleep(seconds / 2)
            raise
        finally:
            running -= 1
        return seconds

    async def call(loop: EventLoop, seconds: float, patience: float, stubborn: bool) -> None:
        nonlocal ended
        with trio.move_on_after(patience) as scope:
            assert await loop.run(there, seconds, stubborn) == seconds
        assert not scope.cancelled_caught or scope.cancel_called
        ended += 1

    async def body(loop: EventLoop) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                seconds, patience = generator.random() * 0.2, generator.random() * 0.2
                nursery.start_soon(call, loop, seconds, patience, generator.random() < 0.3)
                if generator.random() < 0.05:
                    await trio.lowlevel.checkpoint()

    in_loop(body)
    assert ended == 1000
    assert running == 0


def test_leaving_among_a_thousand_calls_lets_go_of_all_of_them() -> None:
    ended: list[str] = []

    async def call(loop: EventLoop) -> None:
        try:
            await loop.run(sleep_forever)
        except trio.ClosedResourceError:
            ended.append("closed")

    async def main() -> None:
        async with trio.open_nursery() as nursery, event_loop() as loop:
            for _ in range(1000):
                nursery.start_soon(call, loop)
            await trio.testing.wait_all_tasks_blocked()

    trio.run(main)
    assert ended == ["closed"] * 1000


def test_asyncio_awaits_a_function_of_trio_and_its_exception_comes_back_as_it_is() -> None:
    async def here(number: int) -> tuple[int, str]:
        await trio.lowlevel.checkpoint()
        if number < 0:
            raise ValueError("as it is")
        return number + 1, threading.current_thread().name

    async def body(loop: EventLoop) -> None:
        assert await loop.run(loop.ask, here, 1) == (2, "MainThread")
        with pytest.raises(ValueError, match="as it is"):
            await loop.run(loop.ask, here, -1)

    in_loop(body)


def test_what_asyncio_awaits_of_trio_ends_before_whoever_cancelled_it_goes_on() -> None:
    told: list[str] = []

    async def here() -> None:
        try:
            await trio.sleep_forever()
        finally:
            told.append("trio has ended")

    async def body(loop: EventLoop) -> None:
        async def there() -> None:
            task = asyncio.create_task(loop.ask(here))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            told.append("asyncio goes on")

        await loop.run(there)

    in_loop(body)
    assert told == ["trio has ended", "asyncio goes on"]


def test_leaving_the_block_ends_what_asyncio_awaits_of_trio() -> None:
    ended: list[bool] = []

    async def here() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    async def body(loop: EventLoop) -> None:
        loop.call_soon(lambda: asyncio.ensure_future(loop.ask(here)))
        await trio.sleep(0.01)

    in_loop(body)
    assert ended == [True]


async def _count(to: int, tell: Callable[[int], Awaitable[None]]) -> None:
    for number in range(to):
        await tell(number)


@pytest.mark.parametrize("count", [0, 1, 10 * MOST_TOLD])
def test_all_that_trio_tells_is_followed_in_its_order(count: int) -> None:
    async def follow(loop: EventLoop) -> list[int]:
        return [thing async for things in loop.follow(_count, count) for thing in things]

    async def body(loop: EventLoop) -> None:
        assert await loop.run(follow, loop) == list(range(count))

    in_loop(body)


def test_trio_waits_for_whoever_follows_slowly() -> None:
    told: list[int] = []

    async def tell_much(tell: Callable[[int], Awaitable[None]]) -> None:
        for number in range(100 * MOST_TOLD):
            await tell(number)
            told.append(number)

    async def follow(loop: EventLoop) -> None:
        following = loop.follow(tell_much)
        first = await anext(following)
        await loop.ask(trio.testing.wait_all_tasks_blocked)
        assert len(told) <= len(first) + MOST_TOLD
        await following.aclose()

    async def body(loop: EventLoop) -> None:
        await loop.run(follow, loop)

    in_loop(body)
    assert len(told) < 100 * MOST_TOLD


def test_whoever_no_longer_follows_ends_what_trio_does_and_waits_for_that() -> None:
    ended = False

    async def tell_for_ever(tell: Callable[[str], Awaitable[None]]) -> None:
        nonlocal ended
        try:
            await tell("one")
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            ended = True

    async def follow(loop: EventLoop) -> None:
        following = loop.follow(tell_for_ever)
        assert await anext(following) == ["one"]
        await following.aclose()
        assert ended

    async def body(loop: EventLoop) -> None:
        await loop.run(follow, loop)

    in_loop(body)


def test_what_is_followed_raises_after_all_that_it_has_told() -> None:
    class Refused(Exception):
        pass

    async def tell_and_raise(tell: Callable[[int], Awaitable[None]]) -> None:
        await tell(1)
        raise Refused

    async def follow(loop: EventLoop) -> None:
        found: list[int] = []
        with suppress(Refused):
            async for things in loop.follow(tell_and_raise):
                found += things
            pytest.fail("it has not raised")
        assert found == [1]

    async def body(loop: EventLoop) -> None:
        await loop.run(follow, loop)

    in_loop(body)
