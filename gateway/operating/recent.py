"""What was dropped in the last minute, from a few looks at the counters."""

from __future__ import annotations

from collections import Counter, deque

import trio

from gateway.forwarding.drops import DropReason, Drops
from gateway.operating.report import DropReport

LOOK_EVERY = 5.0
MINUTE = 60.0


class RecentDrops:
    """The counters of the last minute's looks. A node that has just started has fewer."""

    def __init__(self, drops: Drops) -> None:
        self._drops = drops
        self._looks: deque[Counter[tuple[DropReason, str]]] = deque(maxlen=int(MINUTE / LOOK_EVERY))
        self._looks.append(Counter(drops.counts))

    async def watch(self) -> None:
        """Look at the counters now and then, for ever."""
        while True:
            await trio.sleep(LOOK_EVERY)
            self._looks.append(Counter(self._drops.counts))

    def last_minute(self) -> list[DropReport]:
        """Return what was dropped since the oldest look, most first."""
        counts = Counter(self._drops.counts) - self._looks[0]
        return [
            DropReport(reason.value, tenant, packets) for (reason, tenant), packets in counts.most_common()
        ]
