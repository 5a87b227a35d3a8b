from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from gateway.operating import losses
from gateway.operating.losses import WATCH_EVERY
from gateway.operating.report import DropReport, Report, UnderlayReport


class Path:
    """A data path that has dropped something already, and drops more."""

    def __init__(self) -> None:
        self.no_record, self.loop, self.lost = 5, 1, 7

    def report(self) -> Report:
        drops = [DropReport("no-record", "red", self.no_record), DropReport("loop", "", self.loop)]
        return Report(node="edge-1", drops=drops, underlay=UnderlayReport(kernel_drops=self.lost))


def test_what_is_lost_is_said_once_in_ten_seconds_with_its_tenant(caplog: pytest.LogCaptureFixture) -> None:
    path = Path()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(losses.watch, path)
            await trio.sleep(WATCH_EVERY * 2.5)
            path.no_record, path.lost = 1005, 9
            await trio.sleep(WATCH_EVERY * 3)
            nursery.cancel_scope.cancel()

    with caplog.at_level(logging.WARNING):
        trio.run(main, clock=MockClock(autojump_threshold=0))

    said = [(record.getMessage(), record.__dict__.get("tenant")) for record in caplog.records]
    assert said == [
        ("dropped 1000 packets: no-record", "red"),
        ("the kernel dropped 2 packets of the underlay: they came faster than they were read", None),
    ]
