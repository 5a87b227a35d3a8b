"""The report of a node: its data path's counters, and how the node itself is."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Protocol

import msgspec

from gateway.operating.certificates import CertificateReport, Certificates
from gateway.operating.commands import Asker, Command, Commands, Nothing
from gateway.operating.lag import Lag
from gateway.operating.report import LoopReport, Report
from policies.model import Appliance


class Counting(Protocol):
    """A data path, as far as its counters are read."""

    def report(self) -> Report: ...


class Reporter:
    """Puts the report together, whenever it is asked for. It started at a time in seconds since 1970."""

    def __init__(
        self,
        appliance: Appliance,
        path: Counting | None,
        started_at: float,
        loops: Mapping[str, Lag],
        certificates: Certificates,
    ) -> None:
        self._name = appliance.name
        self._version = version("isthmus")
        self._path = path
        self._started_at = started_at
        self._loops = loops
        self._certificates = certificates

    def report(self) -> Report:
        """Return the report. Of a thousand tenants it takes some milliseconds."""
        counted = self._path.report() if self._path is not None else Report(node=self._name)
        return msgspec.structs.replace(
            counted,
            version=self._version,
            started_at=self._started_at,
            loops=[LoopReport(name, lag.most, lag.mean) for name, lag in self._loops.items()],
            certificates=[*self._certificates.own, *counted.certificates],
        )

    def commands(self) -> Commands:
        """What can be asked of it."""

        async def report(_asker: Asker, _wanted: Nothing) -> Report:
            return self.report()

        return {"report": Command(report, for_operators=True)}


def sites_certificates(path: Counting | None) -> list[CertificateReport]:
    """Return those that sites are dialled with."""
    return path.report().certificates if path is not None else []
