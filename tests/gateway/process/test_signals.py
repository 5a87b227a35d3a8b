"""A closed terminal told from a signal that somebody sends."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import closing
from typing import IO

# What is started takes the terminal that is its input for its own, as a login shell does.
CHILD = """
import fcntl, signal, sys, termios
from gateway.process.signals import Terminal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])  # it may come before it is waited for
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
terminal = Terminal()
print("open" if not terminal.has_just_closed() else "closed", flush=True)
signal.sigwait([signal.SIGHUP])
print(terminal.has_just_closed(), terminal.has_just_closed(), flush=True)
"""


def started(terminal: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=terminal,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def said(output: IO[str] | None) -> str:
    assert output is not None
    return output.readline().strip()


def test_closed_terminal_is_noticed_once_so_that_later_signals_are_somebodys() -> None:
    master, slave = pty.openpty()
    with started(slave) as process:
        os.close(slave)
        assert said(process.stdout) == "open"
        os.close(master)  # the kernel sends SIGHUP
        assert said(process.stdout) == "True False"


def test_signal_while_the_terminal_is_open_is_somebodys() -> None:
    master, slave = pty.openpty()
    with closing(os.fdopen(master, "rb", buffering=0)), started(slave) as process:
        os.close(slave)
        assert said(process.stdout) == "open"
        process.send_signal(1)
        assert said(process.stdout) == "False False"
