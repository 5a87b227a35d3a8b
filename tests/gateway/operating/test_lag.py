from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from gateway.operating.lag import KEPT, Lag


def test_loop_that_nothing_holds_up_is_not_late() -> None:
    async def main() -> None:
        lag = Lag()
        assert (lag.most, lag.mean) == (0.0, 0.0)
        with trio.move_on_after(100):
            await lag.measure(trio.current_time, trio.sleep)
        assert lag.most == pytest.approx(0.0, abs=1e-6)

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_delays_are_told_as_most_and_mean_of_the_last_minute() -> None:
    clock = iter([0.0, 1.0, 1.0, 4.0, 10.0, 11.0]).__next__
    lag = Lag()

    class Enough(Exception):
        pass

    sleeps = 0

    async def sleep(_seconds: float) -> None:
        nonlocal sleeps
        sleeps += 1
        if sleeps > 3:
            raise Enough

    async def main() -> None:
        with pytest.raises((Enough, StopIteration, RuntimeError)):
            await lag.measure(clock, sleep)

    trio.run(main)
    assert lag.most == pytest.approx(2.0)
    assert lag.mean == pytest.approx(2 / 3)


def test_only_a_minute_is_remembered() -> None:
    lag = Lag()
    lag._late.extend([9.0] + [0.5] * KEPT)

    assert lag.most == lag.mean == 0.5


def test_loop_that_is_held_up_says_so() -> None:
    async def main() -> None:
        lag = Lag()
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lag.measure, trio.current_time, trio.sleep)
            await trio.testing.wait_all_tasks_blocked()
            clock.jump(3.5)
            while lag.most == 0.0:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert lag.most == pytest.approx(2.5)

    trio.run(main, clock=MockClock())
