"""CAs that wait for their turn to be asked for: those of a virtual subnet in order, and the subnets in turn.

So a VM that scans a site's prefix delays its own tenant, and nobody else.
"""

from __future__ import annotations

import math

from gateway.host.uses import Key
from policies.addresses import CustomerAddress, Vsid


class Waiting:
    """Each CA waits once. It is empty, and false, when nothing waits."""

    def __init__(self) -> None:
        self._queues: dict[Vsid, dict[CustomerAddress, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, key: Key, most: float = math.inf) -> None:
        """Have a CA wait, unless `most` of its virtual subnet do already."""
        vsid, ca = key
        queue = self._queues.get(vsid, {})
        if len(queue) < most:
            queue[ca] = None
            self._queues[vsid] = queue

    def discard(self, key: Key) -> None:
        """It need not be asked for any more."""
        vsid, ca = key
        queue = self._queues.get(vsid, {})
        queue.pop(ca, None)
        if not queue:
            self._queues.pop(vsid, None)

    def take(self) -> Key:
        """Return whose turn it is: not to be called when nothing waits."""
        vsid, queue = next(iter(self._queues.items()))
        ca = next(iter(queue))
        del self._queues[vsid], queue[ca]
        if queue:
            self._queues[vsid] = queue
        return vsid, ca
