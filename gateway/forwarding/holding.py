"""Frames that wait for a VM's port: it has gone, or is not there yet, and nobody knows which.

They are few and wait briefly, in the order in which they came. What becomes of them is
decided elsewhere: the port opens, or the VM turns out to be at another host.
"""

from __future__ import annotations

from collections import deque

import msgspec

from gateway.forwarding.verdicts import PortKey, ToPort

MOST_HELD = 2048
"""Frames of one port that wait at once: what fast transfers send while the news of a move is on its way."""

LONGEST_HELD = 0.5
"""How long a frame waits, in seconds."""


class Held(msgspec.Struct, frozen=True, gc=False):
    """A frame and the time until which it waits."""

    emission: ToPort
    deadline: float


class Holding:
    """The waiting frames of all ports."""

    def __init__(self) -> None:
        self._waiting: dict[PortKey, deque[Held]] = {}

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    def __contains__(self, port: PortKey) -> bool:
        return port in self._waiting

    def add(self, emission: ToPort, now: float) -> bool:
        """Have a frame wait, if there is room for it."""
        queue = self._waiting.setdefault(emission.port, deque())
        if len(queue) >= MOST_HELD:
            return False
        queue.append(Held(emission, now + LONGEST_HELD))
        return True

    def take(self, port: PortKey) -> tuple[Held, ...]:
        """Let go of all frames that wait for a port, oldest first."""
        return tuple(self._waiting.pop(port, ()))

    def put_back(self, port: PortKey, frames: list[Held]) -> None:
        """Have frames that were taken wait on, before any that came since."""
        if frames:
            self._waiting[port] = deque((*frames, *self._waiting.get(port, ())))

    def expired(self, now: float) -> list[ToPort]:
        """Let go of the frames that have waited for too long."""
        found = []
        for port, queue in list(self._waiting.items()):
            while queue and queue[0].deadline <= now:
                found.append(queue.popleft().emission)
            if not queue:
                del self._waiting[port]
        return found
