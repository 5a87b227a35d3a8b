"""What forwarding notices that others should act on: a VM that has come here, a sender that is behind.

It is told at once, to one function that must be quick and must not raise. It may be told again and
again: whoever acts on it limits how often. Here only a flood is kept off.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar

import msgspec

from gateway.forwarding.verdicts import PortKey
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.model import LookupRecord

Key = TypeVar("Key", bound=Hashable)

STALE_EVERY = 1.0
"""So many seconds lie between two happenings about one sender and one record."""

WANTED_EVERY = 0.25
"""So many seconds lie between two happenings about one CA that is wanted."""

HEARD_EVERY = 0.1
"""So many seconds lie between two happenings of one kind about one address at one port."""

# What is remembered of stale senders; the oldest makes room, and may be told once more.
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


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """Packets wait for the provider address of a CA: for its record, or for one of a gateway's pool."""

    vsid: Vsid
    ca: CustomerAddress


Happening = Heard | Stale | Wanted


class Listener(Protocol):
    """Whoever acts on what happens: quick, and without raising."""

    def port_opened(self, key: PortKey) -> None:
        """A VM's port is there."""
        ...

    def port_closed(self, key: PortKey) -> None:
        """A VM's port has gone."""
        ...

    def happened(self, happening: Happening) -> None:
        """Forwarding has noticed something."""
        ...


class Happenings:
    """Tells the same not too often. While nobody listens, nothing is remembered either.

    Of a port, only addresses that it has or a record gives it are told, so that is bounded.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.on_happening: Callable[[Happening], None] | None = None
        self._capacity = capacity
        self._stale: dict[tuple[bytes, Vsid, CustomerAddress], float] = {}
        self._wanted: dict[tuple[Vsid, CustomerAddress], float] = {}
        self._heard: dict[PortKey, dict[tuple[CustomerAddress | None, bool], float]] = {}

    def stale(self, sender: bytes, record: LookupRecord, now: float) -> None:
        """A node lacks a record, or has an older one."""
        if self.on_happening is None:
            return
        what = sender, record.vsid, record.ca
        if what not in self._stale and len(self._stale) >= self._capacity:
            del self._stale[next(iter(self._stale))]
        if _is_due(self._stale, what, STALE_EVERY, now):
            self.on_happening(Stale(ProviderAddress(sender), record))

    def wanted(self, vsid: Vsid, ca: CustomerAddress, now: float) -> None:
        """Nobody here knows by which provider address a CA is reached."""
        if self.on_happening is None:
            return
        what = vsid, ca
        if what not in self._wanted and len(self._wanted) >= self._capacity:
            del self._wanted[next(iter(self._wanted))]
        if _is_due(self._wanted, what, WANTED_EVERY, now):
            self.on_happening(Wanted(vsid, ca))

    def heard(
        self, port: PortKey, address: CustomerAddress | None, is_announcement: bool, now: float
    ) -> None:
        """A VM whose record is not here speaks at its port."""
        if self.on_happening is None:
            return
        if _is_due(self._heard.setdefault(port, {}), (address, is_announcement), HEARD_EVERY, now):
            self.on_happening(Heard(port, () if address is None else (address,), is_announcement))

    def forget(self, port: PortKey) -> None:
        """Whoever is heard at a port from now on has come anew."""
        self._heard.pop(port, None)


def _is_due(told: dict[Key, float], what: Key, every: float, now: float) -> bool:
    """Whether something has not been told lately, and takes note that it is told now."""
    before = told.get(what)
    if before is not None and now - before < every:
        return False
    told[what] = now
    return True
