"""Waiting for what real interfaces and sockets do in their own time."""

from __future__ import annotations

from collections.abc import Callable

import trio


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, at most 10 s. Raises trio.TooSlowError."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - the kernel sets no trio.Event
            await trio.sleep(0.01)
