"""Pings in the background, and which of them were lost."""

from __future__ import annotations

import re
import signal

from gateway.lab.laboratory import Laboratory
from gateway.lab.namespaces import Namespace
from gateway.lab.processes import Process

EVERY = 0.01
"""Seconds between two."""


class Pings:
    """A hundred a second from a machine to an address, until `end`."""

    def __init__(self, lab: Laboratory, source: Namespace, target: str) -> None:
        self._process: Process = lab.start("ping", source, "ping", "-n", "-i", f"{EVERY:g}", target)

    def end(self) -> tuple[int, int]:
        """Return how many were answered or lost, and how many lost.

        What comes after the last that was answered may be on its way, and counts only where it is many.
        """
        self._process.send_signal(signal.SIGINT)
        self._process.wait(10)
        output = self._process.output()
        answered = {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", output)}
        last = max(answered, default=0)
        sent = int(re.findall(r"(\d+) packets transmitted", output)[0])
        unanswered = sent - last
        return sent, last - len(answered) + (unanswered if unanswered * EVERY > 1 else 0)


def lost(counts: dict[str, tuple[int, int]]) -> dict[str, int]:
    """Return which flows have lost some, and how many."""
    return {flow: missing for flow, (_, missing) in counts.items() if missing}
