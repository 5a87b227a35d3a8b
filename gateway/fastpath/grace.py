"""When nobody reads any more what has been changed."""

from __future__ import annotations

import ctypes

import trio

_MEMBARRIER = 324  # of x86-64
_GLOBAL = 1

# Seconds, where the kernel does not tell, as with nohz_full: no packet's decision takes a thousandth of that.
_LONG_ENOUGH = 0.05


async def wait_for_readers() -> None:
    """Wait until each packet has been decided that was being decided when this was called.

    The kernel runs programs between the points at which it may free what they read, and tells when every
    processor has passed one: MEMBARRIER_CMD_GLOBAL of membarrier(2). It takes some milliseconds.
    """
    if not await trio.to_thread.run_sync(_barrier):
        await trio.sleep(_LONG_ENOUGH)


def _barrier() -> bool:
    return bool(_libc.syscall(_MEMBARRIER, _GLOBAL, 0, 0) == 0)


_libc = ctypes.CDLL(None, use_errno=True)
