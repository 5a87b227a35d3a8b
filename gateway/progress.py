"""How far something has come, for a person at a terminal who has waited for a second.

Shown on standard error: what is printed stays whole, also in a pipe.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

SHOWN_AFTER = 1.0
"""Seconds."""


class Meter:
    """Counts what is done, of a total if that is known."""

    def __init__(self, total: int | None) -> None:
        self.done = 0
        self.total = total
        self._bar: Progress | None = None

    def advance(self, by: int = 1) -> None:
        """So much more is done."""
        self.done += by
        self._refresh()

    def expect(self, total: int) -> None:
        """The total is known now."""
        self.total = total
        self._refresh()

    def show(self, bar: Progress) -> None:
        """Show it from now on."""
        self._bar = bar
        self._refresh()

    def _refresh(self) -> None:
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.update(task, completed=self.done, total=self.total)


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Meter]:
    """Show how far the block has come, if it takes longer than a second and somebody can see it.

    `what` it does, such as "writing records". Without a total, that it goes on.
    """
    meter = Meter(total)
    if not sys.stderr.isatty():
        yield meter
        return
    bar = _bar()
    bar.add_task(what, total=total)

    def show() -> None:
        meter.show(bar)
        bar.start()

    timer = threading.Timer(SHOWN_AFTER, show)
    timer.daemon = True
    timer.start()
    try:
        yield meter
    finally:
        timer.cancel()
        timer.join()
        bar.stop()


def _bar() -> Progress:
    from rich.console import Console  # noqa: PLC0415 - a third of a command's time to start, where nobody looks
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
