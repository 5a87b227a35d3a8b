"""Processes of the laboratory: their output in a file, and never outliving it."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gateway.lab.namespaces import LabError
from gateway.lab.namespaces import environment as lab_environment

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.01

_libc = ctypes.CDLL(None, use_errno=True)


class Process:
    """A command that runs beside us, with stdout and stderr together in one file.

    It leads its own process group, so that Ctrl-C reaches only us and we stop
    everything in order, its children included. If the thread that started it
    ends first, or we are killed, the kernel kills it, though not its children.
    """

    def __init__(
        self, name: str, argv: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()),  # noqa: PLW1509 - two system calls, no locks
                env={**lab_environment(), "PYTHONUNBUFFERED": "1", **(environment or {})},
            )
        self.pid = self._popen.pid

    def __repr__(self) -> str:
        return f"Process({self.name!r}, pid={self.pid})"

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""
        return self._popen.poll()

    def output(self, start: int = 0) -> str:
        """Return what it has written so far, from an octet on."""
        return self.log.read_bytes()[start:].decode(errors="replace")

    def size(self) -> int:
        """Return how many octets it has written: a mark for `output` and `wait_for`."""
        return self.log.stat().st_size

    def wait_for(self, pattern: str, timeout: float = 10, start: int = 0) -> re.Match[str]:
        """Wait until a whole line that it has written matches a regular expression.

        Raises LabError, with the last lines, if it ends or `timeout` seconds pass first.
        """
        wanted = re.compile(pattern)
        deadline = time.monotonic() + timeout
        while True:
            # Asked before reading, so that the last words of a process are still read.
            ended = self.returncode is not None
            complete, _, _ = self.output(start).rpartition("\n")
            for line in complete.split("\n"):
                if match := wanted.search(line):
                    return match
            if ended:
                raise LabError(f"{self.name} ended with {self.returncode} before {pattern!r}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise LabError(f"{self.name} wrote no {pattern!r} in {timeout:g} s:\n{self.tail()}")
            time.sleep(POLL_SECONDS)

    def tail(self, lines: int = 20) -> str:
        """Return its last lines, for a message."""
        return "\n".join(self.output().splitlines()[-lines:])

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        self._popen.send_signal(number)

    def wait(self, timeout: float = 60) -> int:
        """Wait until it ends, and return its exit status. Raises LabError after `timeout` seconds."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name} did not end in {timeout:g} s:\n{self.tail()}") from None

    def stop(self, grace: float = 5) -> int:
        """End it and its process group: SIGTERM, and SIGKILL for what is left after `grace` seconds."""
        self._signal_group(signal.SIGTERM)
        try:
            self._popen.wait(grace)
        except subprocess.TimeoutExpired:
            pass  # SIGKILL follows in any case
        finally:
            self._signal_group(signal.SIGKILL)
        return self._popen.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return  # all of it has ended


def _die_with_parent(parent: int) -> Callable[[], None]:
    """Return what a child does first: ask for SIGKILL when its parent ends, however it ends."""
    prctl = _libc.prctl  # looked up here, since a forked child should do next to nothing

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # it ended before we asked

    return prepare
