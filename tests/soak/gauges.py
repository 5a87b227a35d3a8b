"""What processes hold, looked at from outside, and whether that grows."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

EVERY = 5.0
"""Seconds between two looks."""
SHORTEST = 240.0
"""Seconds without which no slope is judged: a minute's noise has any."""
MOST_GROWTH = 0.02
LEAST_GROWTH = 2_000_000
"""What memory may grow by in all the time that is measured, as a share and in octets: the larger counts."""


class Gauge(msgspec.Struct, frozen=True):
    """A process at one moment."""

    at: float
    resident: int
    descriptors: int
    threads: int


def read(pid: int) -> Gauge:
    """Look at a process. Raises OSError if it has gone."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    return Gauge(
        at=time.monotonic(),
        resident=int(status["VmRSS"].split()[0]) * 1024,
        descriptors=sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        threads=int(status["Threads"]),
    )


class Watch:
    """Looks at processes every few seconds until it is left. A process that is started anew begins anew."""

    def __init__(self, pids: Callable[[], Mapping[str, int]]) -> None:
        self._pids = pids
        self._seen: dict[tuple[str, int], list[Gauge]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(EVERY):
            for name, pid in dict(self._pids()).items():
                try:
                    self._seen.setdefault((name, pid), []).append(read(pid))
                except (OSError, KeyError):
                    continue  # it has been killed on purpose, and is about to be started again

    def last(self) -> dict[str, Gauge]:
        """Each process as it was seen last."""
        return {name: gauges[-1] for (name, _), gauges in list(self._seen.items()) if gauges}

    def problems(self, warm: float) -> list[str]:
        """Say which processes have grown since `warm`, a moment of the monotonic clock."""
        found = []
        for (name, _), gauges in self._seen.items():
            later = [gauge for gauge in gauges if gauge.at >= warm]
            if len(later) > 2 and later[-1].at - later[0].at >= SHORTEST:
                found += [f"{name}: {words}" for words in growth(later)]
        return found


def growth(gauges: list[Gauge]) -> list[str]:
    """Say what grows from the first to the last of a process's gauges.

    Memory is judged by the line that fits it best; descriptors and threads, which come and go, by the
    least of them in the last third, which must not be above the most in the first.
    """
    found = []
    seconds = gauges[-1].at - gauges[0].at
    slope = statistics.linear_regression(
        [gauge.at for gauge in gauges], [gauge.resident for gauge in gauges]
    ).slope
    grown = slope * seconds
    if grown > max(MOST_GROWTH * gauges[0].resident, LEAST_GROWTH):
        found.append(f"memory has grown by {grown / 1e6:.1f} MB in {seconds:.0f} s")
    third = len(gauges) // 3
    for what in ("descriptors", "threads"):
        was = max(getattr(gauge, what) for gauge in gauges[:third])
        now = min(getattr(gauge, what) for gauge in gauges[-third:])
        if now > was:
            found.append(f"{what} have grown from {was} to {now}")
    return found
