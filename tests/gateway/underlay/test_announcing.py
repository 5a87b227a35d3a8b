from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from trio.testing import MockClock

from gateway.underlay.announcing import AGAIN_AFTER, AT_ONCE, MOST_WAITING, PAUSE, Announcements


def pa(number: int) -> bytes:
    return number.to_bytes(4)


class Said:
    """What has been said, and when."""

    def __init__(self) -> None:
        self.announcements = Announcements(self._say)
        self.said: list[tuple[float, bytes]] = []
        self._start = 0.0

    def _say(self, address: bytes) -> None:
        self.said.append((round(trio.current_time() - self._start, 6), address))

    def run(self, main: Callable[[], Awaitable[None]]) -> None:
        async def beside() -> None:
            self._start = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.announcements.run)
                await main()
                nursery.cancel_scope.cancel()

        trio.run(beside, clock=MockClock(autojump_threshold=0))


def test_each_address_is_announced_at_once_and_once_more() -> None:
    said = Said()

    async def main() -> None:
        said.announcements.add(pa(1))
        await trio.sleep(1)
        said.announcements.add(pa(2))
        await trio.sleep(60)

    said.run(main)
    assert said.said == [(0, pa(1)), (1, pa(2)), (AGAIN_AFTER, pa(1)), (1 + AGAIN_AFTER, pa(2))]


def test_thousands_are_announced_some_at_a_time() -> None:
    said = Said()
    count = 40 * AT_ONCE

    async def main() -> None:
        for number in range(count):
            said.announcements.add(pa(number))
        await trio.sleep(60)

    said.run(main)
    assert [address for _, address in said.said] == [*map(pa, range(count))] * 2
    times = [time for time, _ in said.said]
    for early, late in zip(times, times[AT_ONCE:], strict=False):
        assert late - early >= PAUSE - 1e-6
    assert times[count - 1] < 40 * PAUSE + 1e-6


def test_an_address_that_is_waiting_is_not_announced_twice_for_it() -> None:
    said = Said()

    async def main() -> None:
        said.announcements.add(pa(1))
        said.announcements.add(pa(1))
        await trio.sleep(1)

    said.run(main)
    assert said.said == [(0, pa(1))]


def test_more_than_anybody_waits_for_are_left_out_and_counted() -> None:
    said = Said()
    for number in range(MOST_WAITING + 5):
        said.announcements.add(pa(number))
    said.announcements.add(pa(0))
    assert said.announcements.left_out == 5
