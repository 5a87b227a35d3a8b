"""Packets that wait for a provider address: few, and briefly.

Only IP rewrite has them: what NVGRE carries needs no more than the record of where it goes. A packet waits
for the address that its CA is to have, or until it is known whose address it came from.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

import msgspec

from gateway.forwarding.verdicts import Awaited, Verdict

PATIENCE = 1.0
"""How long a packet waits, in seconds."""


class Room(msgspec.Struct, frozen=True):
    """How many packets may wait: for one address, of one tenant, and in all."""

    of_one: int
    of_a_tenant: int
    of_all: int


# A lease takes some 15 ms, and ten times that at a lookup node that is busy: enough for a thousand a second.
FOR_A_LEASE = Room(of_one=256, of_a_tenant=512, of_all=2048)
# A VM that has moved is sent what it was sent before, as fast, while the news of its new address is on its
# way. The room is another: strangers, who can send from addresses that nobody has, must not take the room of
# leases.
FOR_NEWS = Room(of_one=1024, of_a_tenant=1024, of_all=2048)

REFUSED_FOR = 5.0
"""So many seconds nothing waits for an address that could not be had."""
# Refusals that are remembered; the oldest makes room.
REFUSALS = 4096


class Waiter(msgspec.Struct, frozen=True, gc=False):
    """A packet, as what decides it anew, and the time until which it waits."""

    wanted: Awaited
    tenant: str
    decide: Callable[[float], Verdict]
    deadline: float


class Waiting:
    """The packets of all tenants that wait, in order."""

    def __init__(self) -> None:
        self._queues: dict[Awaited, deque[Waiter]] = {}
        self._kinds: Counter[type] = Counter()
        self._tenants: Counter[tuple[type, str]] = Counter()
        self._refused: dict[Awaited, float] = {}

    def take_over(self, other: Waiting) -> None:
        """Know what could not be had as another does now. Packets that wait stay with it."""
        self._refused = dict(other._refused)

    def __len__(self) -> int:
        return self._kinds.total()

    def __contains__(self, wanted: Awaited) -> bool:
        return wanted in self._queues

    def add(self, waiter: Waiter) -> bool:
        """Have a packet wait, if there is room for it."""
        queue = self._queues.get(waiter.wanted, ())
        kind, tenant = _kinds_of(waiter)
        room = FOR_A_LEASE if kind is tuple else FOR_NEWS
        if (
            len(queue) >= room.of_one
            or self._tenants[tenant] >= room.of_a_tenant
            or self._kinds[kind] >= room.of_all
        ):
            return False
        self._queues.setdefault(waiter.wanted, deque()).append(waiter)
        self._kinds[kind] += 1
        self._tenants[tenant] += 1
        return True

    def take(self, wanted: Awaited) -> tuple[Waiter, ...]:
        """Let go of all packets that wait for an address, oldest first."""
        self._refused.pop(wanted, None)
        return self._let_go(self._queues.pop(wanted, ()))

    def refuse(self, wanted: Awaited, now: float) -> tuple[Waiter, ...]:
        """Let go of all packets that wait for an address, since it cannot be had for now."""
        waiters = self.take(wanted)
        if len(self._refused) >= REFUSALS:
            del self._refused[next(iter(self._refused))]
        self._refused[wanted] = now + REFUSED_FOR
        return waiters

    def is_refused(self, wanted: Awaited, now: float) -> bool:
        """Whether an address was refused a moment ago."""
        until = self._refused.get(wanted)
        return until is not None and now < until

    def expired(self, now: float) -> tuple[Waiter, ...]:
        """Let go of the packets that have waited for too long."""
        found: list[Waiter] = []
        for wanted, queue in [*self._queues.items()]:
            while queue and queue[0].deadline <= now:
                found.append(queue.popleft())
            if not queue:
                del self._queues[wanted]
        return self._let_go(found)

    def _let_go(self, waiters: deque[Waiter] | list[Waiter] | tuple[Waiter, ...]) -> tuple[Waiter, ...]:
        for waiter in waiters:
            kind, tenant = _kinds_of(waiter)
            self._kinds[kind] -= 1
            self._tenants[tenant] -= 1
            if not self._tenants[tenant]:
                del self._tenants[tenant]
        return tuple(waiters)


def _kinds_of(waiter: Waiter) -> tuple[type, tuple[type, str]]:
    """Whose room a packet takes: its kind's, and of that its tenant's."""
    kind = type(waiter.wanted)
    return kind, (kind, waiter.tenant)
