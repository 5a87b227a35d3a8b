"""Numbered packets, sent one after the other until that is enough."""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType
from typing import Self

from gateway.fastpath import kernel
from gateway.lab.namespaces import Namespace
from tests.soak.numbered import FRAME_OCTETS, Numbered

_AT_ONCE = 64
"""Frames in a batch: as many as the kernel's own budget of one look at a queue."""
_IN_A_CALL = 1 << 15
"""Frames that one call of the kernel's sends at most."""
_TICK = 0.005
"""Seconds until it is looked again whether a packet is due."""


class Stream:
    """Has packets made and sent, from a namespace and by one processor, until it is left.

    `rate` is how many a second; None: as many as go.
    """

    def __init__(
        self, numbered: Numbered, namespace: Namespace, processor: int | None, rate: float | None = None
    ) -> None:
        self._numbered = numbered
        self._namespace = namespace
        self._processor = processor
        self._rate = rate
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    @property
    def has_failed(self) -> bool:
        return self._error is not None

    def _run(self) -> None:
        try:
            self._namespace.call(self._send)
        except BaseException as error:  # raised again where the stream is left
            self._error = error

    def _send(self) -> None:
        if self._processor is not None:
            os.sched_setaffinity(0, [self._processor])
        program = self._numbered.programs["generate"]
        frame = bytes(FRAME_OCTETS)
        began = time.monotonic()
        sent = 0
        while not self._ended.is_set():
            due = _IN_A_CALL
            if self._rate is not None:
                due = min(int((time.monotonic() - began) * self._rate) - sent, _IN_A_CALL)
                if due <= 0:
                    self._ended.wait(_TICK)
                    continue
            kernel.test_run(program, frame, repeat=due, live=True, batch=_AT_ONCE)
            sent += due
        self.seconds = time.monotonic() - began
