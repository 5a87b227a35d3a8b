"""What forwarding notices that others should act on: a VM that has come here, a sender that is behind.

It is told at once, to one function that must be quick and must not raise. It may be told again and
again: whoever acts on it limits how often. Here only a flood is kept off.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import msgspec

from gateway.forwarding.verdicts import PortKey
from policies.addresses import CustomerAddress, ProviderAddress
from policies.model import LookupRecord

STALE_EVERY = 1.0
"""So many seconds lie between two happenings about one sender and one record."""

HEARD_EVERY = 0.1
"""So many seconds lie between two happenings of one kind about one address at one port."""

# What is remembered of the told ones; the oldest makes room, and may be told once more.
CAPACITY = 4096


class Heard(msgspec.Struct, frozen=True, gc=False):
    """A VM was heard at its port here, while its record is elsewhere or missing."""

    port: PortKey
    addresses: tuple[CustomerAddress, ...]
    """Those that it was heard with: none if it named only its MAC."""
    is_announcement: bool
    """Whether it said of its own accord, or when asked, where it is."""


class Stale(msgspec.Struct, frozen=True, gc=False):
    """A node sent what it would have sent elsewhere by this record: it should be taught."""

    sender: ProviderAddress
    record: LookupRecord


Happening = Heard | Stale


class Happenings:
    """Tells the same not too often. While nobody listens, nothing is remembered either."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.on_happening: Callable[[Happening], None] | None = None
        self._capacity = capacity
        self._told: dict[Hashable, float] = {}

    def stale(self, sender: bytes, record: LookupRecord, now: float) -> None:
        """A node lacks a record, or has an older one."""
        if self.on_happening is None:
            return
        if self._is_due((sender, record.vsid, record.ca), STALE_EVERY, now):
            self.on_happening(Stale(ProviderAddress(sender), record))

    def heard(
        self, port: PortKey, address: CustomerAddress | None, is_announcement: bool, now: float
    ) -> None:
        """A VM whose record is not here speaks at its port."""
        if self.on_happening is None:
            return
        if self._is_due((port, address, is_announcement), HEARD_EVERY, now):
            self.on_happening(Heard(port, () if address is None else (address,), is_announcement))

    def _is_due(self, what: Hashable, every: float, now: float) -> bool:
        told = self._told.get(what)
        if told is not None and now - told < every:
            return False
        self._told.pop(what, None)
        if len(self._told) >= self._capacity:
            del self._told[next(iter(self._told))]
        self._told[what] = now
        return True
