"""What looks at an appliance all the time, for whoever asks and for the log."""

from __future__ import annotations

from collections.abc import Callable

import trio

from gateway.aio import EventLoop
from gateway.datapath import DataPath
from gateway.operating import logs, losses
from gateway.operating.recent import RecentDrops
from gateway.operating.report import DropReport
from gateway.operating.reporting import Reporter
from gateway.operating.trends import Trends
from policies.model import Appliance


class Lookout:
    """Its report, what was dropped lately, and how it has gone; without a data path the report alone."""

    def __init__(
        self,
        appliance: Appliance,
        path: DataPath | None,
        wall_clock: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        """`wall_clock` is in seconds since 1970, UTC; `clock` is never set back."""
        self.wall_clock = wall_clock
        self.clock = clock
        self.reporter = Reporter(appliance, path, wall_clock, clock)
        self.trends = Trends(path, trio.current_time, wall_clock) if path is not None else None
        self._path = path
        self._recent = RecentDrops(path.drops) if path is not None else None

    def last_minute(self) -> list[DropReport]:
        """Return what was dropped in the last minute, most first."""
        return self._recent.last_minute() if self._recent is not None else []

    async def watch(self, loop: EventLoop | None) -> None:
        """Look, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(logs.tell_left_out)
            nursery.start_soon(self.reporter.watch, loop)
            if self._path is not None:
                nursery.start_soon(losses.watch, self._path)
            if self._recent is not None:
                nursery.start_soon(self._recent.watch)
            if self.trends is not None:
                nursery.start_soon(self.trends.run)
