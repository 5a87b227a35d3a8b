"""The signals that `isthmus run` heeds: held back from its first moment until it can."""

from __future__ import annotations

import signal

# A closed terminal sends SIGHUP. To die of it would leave every port and offload as we set it.
_HELD = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

# Whoever starts a process with these ignored means it to outlive the terminal: nohup, or a shell's `&`.
_MAY_BE_IGNORED = (signal.SIGHUP, signal.SIGINT)


def heeded() -> tuple[signal.Signals, ...]:
    """The signals to take a handler for: those that we were started to ignore stay ignored."""
    return tuple(
        each for each in _HELD if each not in _MAY_BE_IGNORED or signal.getsignal(each) is not signal.SIG_IGN
    )


def hold() -> None:
    """Have them wait, where they would end a process that has not set itself up."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def release() -> None:
    """Let them come, those that waited first."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
