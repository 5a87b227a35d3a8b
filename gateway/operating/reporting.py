"""The report of a node: its data path's counters, and how the node itself is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

import msgspec
import trio

from gateway.aio import EventLoop
from gateway.operating.certificates import Certificates
from gateway.operating.configuration import Configuration
from gateway.operating.lag import Lag
from gateway.operating.report import CertificateReport, LoopReport, Report
from policies.model import Appliance


class Counting(Protocol):
    """A data path, as far as its counters are read."""

    def report(self) -> Report: ...


class Reporter:
    """Puts the report together, whenever it is asked for.

    The wall clock counts from 1970, and says now when the appliance has started; `clock` is never set back.
    """

    def __init__(
        self,
        appliance: Appliance,
        path: Counting | None,
        wall_clock: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._name = appliance.name
        self._path = path
        self._version = _version()
        self._clock = clock
        self.started_at = wall_clock()
        self.configuration: Callable[[], Configuration] | None = None
        """Says by which configuration the node goes, once it goes by one."""
        self._loops: dict[str, Lag] = {}
        self._certificates = Certificates(appliance, self._of_sites, wall_clock)

    def report(self) -> Report:
        """Return the report."""
        counted = self._path.report() if self._path is not None else Report(node=self._name)
        return msgspec.structs.replace(
            counted,
            version=self._version,
            started_at=self.started_at,
            loops=[LoopReport(name, lag.most, lag.mean) for name, lag in self._loops.items()],
            configuration=self.configuration() if self.configuration is not None else None,
            certificates=[*self._certificates.own, *counted.certificates],
        )

    async def watch(self, loop: EventLoop | None) -> None:
        """Measure how late the loops are, and look after certificates, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._certificates.watch)
            nursery.start_soon(self._lag("trio").measure, trio.current_time, trio.sleep)
            if loop is not None:
                nursery.start_soon(loop.run, self._lag("asyncio").measure, self._clock, asyncio.sleep)

    def _lag(self, name: str) -> Lag:
        self._loops[name] = Lag()
        return self._loops[name]

    def _of_sites(self) -> list[CertificateReport]:
        return self._path.report().certificates if self._path is not None else []


def _version() -> str:
    """Return the version that is installed; a checkout that is run as it is has none."""
    try:
        return version("isthmus")
    except PackageNotFoundError:
        return "unpackaged"
