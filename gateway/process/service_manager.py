"""What the service manager that started us is told (sd_notify(3)): that we are ready, reload, stop, and live.

Where none asks to be told, as in a terminal, all of it does nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping

import trio

log = logging.getLogger("isthmus")

# The manager loses patience after one period without a sign of life; so it gets several in each.
SIGNS_OF_LIFE = 3

# Seconds between two descriptions of how we are, where no watchdog asks for more.
DESCRIBE_EVERY = 10.0


class ServiceManager:
    """The manager's socket, if there is one. Telling it neither blocks nor fails: it may be restarting."""

    def __init__(self, address: str | None = None, watchdog: float | None = None) -> None:
        """`address` is a socket's path, or its abstract name behind "@"; `watchdog` a period in seconds."""
        self.watchdog = watchdog if address else None
        self._address = "\0" + address[1:] if address and address.startswith("@") else address

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] | None = None) -> ServiceManager:
        """Return the manager that our environment names, and have no child of ours take it for its own."""
        variables = os.environ if environment is None else environment
        address = variables.pop("NOTIFY_SOCKET", None)
        period = variables.pop("WATCHDOG_USEC", "")
        watched = variables.pop("WATCHDOG_PID", str(os.getpid()))
        if not period.isdecimal() or not int(period) or watched != str(os.getpid()):
            return cls(address)
        return cls(address, int(period) / 1e6)

    def ready(self, words: str) -> None:
        """We have started, or reloaded: how we are, in words."""
        self._tell("READY=1", f"STATUS={_line(words)}")

    def reloading(self) -> None:
        """We are taking a changed configuration over; `ready` follows."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading")

    def stopping(self, words: str) -> None:
        """We are on our way out."""
        self._tell("STOPPING=1", f"STATUS={_line(words)}")

    def alive(self, words: str) -> None:
        """We still do our work: how we are, in words."""
        signs = ("WATCHDOG=1",) if self.watchdog is not None else ()
        self._tell(*signs, f"STATUS={_line(words)}")

    async def keep_told(self, in_words: Callable[[], str], answers: Callable[[], Awaitable[object]]) -> None:
        """Tell how we are from time to time, and that we are alive, for as long as `answers` comes back.

        It should ask every thread that does our work. Where one hangs, nothing is told, and
        the manager ends us. Returns at once where there is no manager; never ends by itself otherwise.
        """
        if self._address is None:
            return
        pause = (
            DESCRIBE_EVERY if self.watchdog is None else min(DESCRIBE_EVERY, self.watchdog / SIGNS_OF_LIFE)
        )
        while True:
            await answers()
            self.alive(in_words())
            await trio.sleep(pause)

    def _tell(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notifier:
                notifier.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.debug("the service manager is not told %s: %s", lines[0], error)


def _line(words: str) -> str:
    """Return words that cannot be taken for another assignment."""
    return " ".join(words.split())
