"""The signals that `isthmus run` heeds: held back from its first moment until it can."""

from __future__ import annotations

import signal

# A closed terminal sends SIGHUP. To die of it would leave every port and offload as we set it.
HEEDED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def hold() -> None:
    """Have them wait, where they would end a process that has not set itself up."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HEEDED)


def release() -> None:
    """Let them come, those that waited first."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEEDED)
