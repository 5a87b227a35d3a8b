"""What the program has counted, brought to where Python counts the same.

Each processor counts for itself in memory that is shared. Here it is told what has come to that
since the last look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from gateway.fastpath.layout import DROPPED, METER_WORDS, OUTCOMES, Passed
from gateway.forwarding.drops import DropReason
from gateway.forwarding.pipeline import Forwarder
from policies.addresses import Vsid

_WORD = 8

# So much memory is compared at once before any of it is read.
_BLOCK = 4096


class Metered(msgspec.Struct, frozen=True, gc=False):
    """What a virtual subnet has sent and received since the last look."""

    vsid: Vsid
    sent_packets: int
    sent_octets: int
    received_packets: int
    received_octets: int


class Counts:
    """The counters of one instance. `tenants` and `subnets` say whose a number is, once it is given."""

    def __init__(
        self, counts: memoryview, meters: memoryview, processors: int, tenants: int, subnets: int
    ) -> None:
        """The memory is that of the maps `counts` and `meters`, with room for so many tenants and subnets."""
        self.tenants: dict[int, str] = {0: ""}
        self.subnets: dict[int, Vsid] = {}
        self.passed: Counter[str] = Counter()
        """Packets left to Python, by why, as far as has been looked."""
        self.carried = 0
        """Packets sent on, as far as has been looked."""
        self._counts = _Changes(counts[: processors * tenants * OUTCOMES * _WORD])
        self._meters = _Changes(meters[: processors * subnets * METER_WORDS * _WORD])
        self._tenant_room = tenants
        self._subnet_room = subnets

    def take(
        self, dropped: Callable[[DropReason, str, int], object], metered: Callable[[Metered], object]
    ) -> None:
        """Tell what has been counted since the last time."""
        for index, more in self._counts.take():
            outcome = index % OUTCOMES
            reason = DROPPED.get(outcome)
            if reason is None:
                self.passed[Passed(outcome).word] += more
            else:
                dropped(reason, self.tenants[index // OUTCOMES % self._tenant_room], more)
        changes: dict[Vsid, list[int]] = {}
        for index, more in self._meters.take():
            vsid = self.subnets[index // METER_WORDS % self._subnet_room]
            changes.setdefault(vsid, [0] * METER_WORDS)[index % METER_WORDS] += more
        for vsid, words in changes.items():
            change = Metered(vsid, *words)
            self.carried += change.received_packets
            metered(change)


class Totals:
    """What all instances have counted that there have been, told to a forwarder."""

    def __init__(self) -> None:
        self._counting: list[Counts] = []
        self._passed: Counter[str] = Counter()
        self._carried = 0

    def follow(self, forwarder: Forwarder) -> None:
        """Tell this forwarder what is counted."""
        self._forwarder = forwarder

    def begin(self, counts: Counts) -> None:
        """Heed what one more instance counts."""
        self._counting.append(counts)

    def end(self, counts: Counts) -> None:
        """Heed no more of an instance than it has counted by now."""
        self._counting.remove(counts)
        counts.take(self._dropped, self._metered)
        self._passed += counts.passed
        self._carried += counts.carried

    def take(self) -> None:
        """Tell what has been counted since the last time."""
        for counts in self._counting:
            counts.take(self._dropped, self._metered)

    @property
    def passed(self) -> Counter[str]:
        """Packets left to Python, by why, as far as has been told."""
        return sum((counts.passed for counts in self._counting), self._passed)

    @property
    def carried(self) -> int:
        """Packets sent on, as far as has been told."""
        return self._carried + sum(counts.carried for counts in self._counting)

    def _dropped(self, reason: DropReason, tenant: str, packets: int) -> None:
        self._forwarder.drops.count(reason, tenant, packets)

    def _metered(self, carried: Metered) -> None:
        meter = self._forwarder.meters.get(carried.vsid)
        if meter is not None:
            meter.sent_packets += carried.sent_packets
            meter.sent_octets += carried.sent_octets
            meter.received_packets += carried.received_packets
            meter.received_octets += carried.received_octets


class _Changes:
    """Counters in memory, and what they were when last looked at."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._before: dict[int, bytes] = {}
        """Of the blocks that are not all zeros: on a machine that may have many processors, most are."""

    def take(self) -> Iterator[tuple[int, int]]:
        """Yield the number of each counter that has changed, and by how much."""
        memory, before = self._memory, self._before
        for start in range(0, len(memory), _BLOCK):
            now = bytes(memory[start : start + _BLOCK])
            old = before.get(start) or bytes(len(now))
            if now == old:
                continue
            before[start] = now
            first = start // _WORD
            for at, (new, last) in enumerate(
                zip(memoryview(now).cast("Q"), memoryview(old).cast("Q"), strict=True)
            ):
                if new != last:
                    yield first + at, new - last
