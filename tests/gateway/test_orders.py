from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from gateway.orders import Orders
from gateway.process.service_manager import ServiceManager
from gateway.process.stopping import HASTENED, WITHIN
from policies.model import Appliance, Engine, Network

LOOKUP_ONLY = Appliance("lookup-1", Path("/nowhere"), Engine.PYTHON, None, False, None, None, Network())


class SlowToLeave(Orders):
    """Takes an hour to stop in order."""

    async def stop(self) -> None:
        await trio.sleep(3600)
        await super().stop()


class Told:
    """What has become of an appliance after some signals, a second apart."""

    def __init__(self, orders: type[Orders], *signals: int) -> None:
        self.reports = 0
        self.within: list[float] = []
        self.stopped_at: float | None = None
        self._signals = signals
        trio.run(self._run, orders, clock=MockClock(autojump_threshold=0))

    async def _run(self, kind: type[Orders]) -> None:
        began = trio.current_time()
        async with trio.open_nursery() as watchers:
            with trio.move_on_after(60) as traffic:
                orders = kind(
                    LOOKUP_ONLY, None, traffic, ServiceManager(), self.within.append, self._print_report
                )
                watchers.start_soon(orders.heed, self._received())
                await trio.sleep_forever()
            if traffic.cancel_called and trio.current_time() < began + 60:
                self.stopped_at = trio.current_time() - began
            watchers.cancel_scope.cancel()

    async def _received(self) -> AsyncIterator[int]:
        for number in self._signals:
            await trio.sleep(1)
            yield number
        await trio.sleep_forever()

    def _print_report(self) -> None:
        self.reports += 1


def test_first_signal_stops_in_order_within_its_time() -> None:
    told = Told(Orders, signal.SIGTERM)

    assert (told.stopped_at, told.within) == (1, [WITHIN])


def test_second_signal_waits_for_nothing_that_the_first_still_does() -> None:
    told = Told(SlowToLeave, signal.SIGTERM, signal.SIGINT)

    assert (told.stopped_at, told.within) == (2, [HASTENED])


def test_report_is_printed_as_often_as_it_is_asked_for_and_nothing_ends() -> None:
    told = Told(Orders, signal.SIGUSR1, signal.SIGUSR1)

    assert (told.reports, told.stopped_at) == (2, None)


def test_reload_before_the_start_is_over_and_one_while_it_stops_are_passed_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        told = Told(SlowToLeave, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP)

    assert (told.stopped_at, caplog.records) == (None, [])
