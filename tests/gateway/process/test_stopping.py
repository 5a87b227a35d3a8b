from __future__ import annotations

import threading
import time

from gateway.process.stopping import LastResort


class Ended:
    """Takes the place of the process's end."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.at = 0.0
        self.lines_out_at = 0.0
        self.event = threading.Event()

    def let_lines_out(self) -> None:
        self.lines_out_at = time.monotonic()

    def end(self, code: int) -> None:
        self.code, self.at = code, time.monotonic()
        self.event.set()


def test_what_hangs_ends_in_its_time_with_the_last_lines_let_out_before() -> None:
    ended, begun = Ended(), time.monotonic()
    LastResort(ended.let_lines_out, ended.end).within(0.05)
    assert ended.event.wait(10)
    assert ended.code == 1
    assert begun + 0.05 <= ended.lines_out_at <= ended.at


def test_second_signal_hastens_the_end() -> None:
    ended = Ended()
    last = LastResort(ended.let_lines_out, ended.end)
    last.within(3600)
    last.within(0.05)
    assert ended.event.wait(10)


def test_end_that_is_near_is_not_put_off() -> None:
    ended = Ended()
    last = LastResort(ended.let_lines_out, ended.end)
    last.within(0.05)
    last.within(3600)
    assert ended.event.wait(10)
