"""The signals that `isthmus run` heeds: held back from its first moment until it can."""

from __future__ import annotations

import os
import signal
from types import FrameType

# To die of one would leave every port and offload as we set it.
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


def outlast() -> None:
    """Have them do nothing where nobody heeds them any more: at the end, when the last lines leave."""
    for each in heeded():
        signal.signal(each, _do_nothing)


def release() -> None:
    """Let them come, those that waited first."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)


class Terminal:
    """The terminal that this process was started from, if it was from one.

    The kernel and the shell send SIGHUP when it closes, which asks for no reload: whoever's connection
    has broken may have been in the midst of changing the file.
    """

    def __init__(self) -> None:
        self._is_open = _has_terminal()

    def has_just_closed(self) -> bool:
        """Whether it was open when this was last asked, and no longer is."""
        was_open, self._is_open = self._is_open, self._is_open and _has_terminal()
        return was_open and not self._is_open


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """Unlike SIG_IGN, this is not inherited by the commands that we start."""
