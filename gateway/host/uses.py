"""What has been used lately: the records of a host that keeps no others, and a gateway's leases."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from gateway.forwarding.directory import Directory
from policies.addresses import CustomerAddress, Vsid
from policies.model import LookupRecord

Key = tuple[Vsid, CustomerAddress]

It = TypeVar("It", bound=Hashable)

IDLE = 300.0
"""After so many seconds without use a record is let go."""

CAPACITY = 65_536


class Uses(Generic[It]):
    """When each was last seen in use, the longest ago first.

    A record that is deleted is kept here until it is idle: whoever is told nothing of it may be
    connected to another node, which has to learn first that it is wanted.
    """

    def __init__(self, idle: float = IDLE, capacity: int | None = CAPACITY) -> None:
        self._idle = idle
        self._capacity = capacity
        self._last: dict[It, float] = {}

    def __len__(self) -> int:
        return len(self._last)

    def learned(self, key: It, now: float) -> list[It]:
        """One has come, as it does when it is to be used. Returns what has to be let go for it."""
        self._last.pop(key, None)
        self._last[key] = now
        if self._capacity is None or len(self._last) <= self._capacity:
            return []
        oldest = next(iter(self._last))
        del self._last[oldest]
        return [oldest]

    def used(self, keys: Iterable[It], now: float) -> None:
        """These have been used since they were last asked for."""
        for key in keys:
            if self._last.pop(key, None) is not None:
                self._last[key] = now

    def forget(self, key: It) -> None:
        """It is not there any more."""
        self._last.pop(key, None)

    def expire(self, now: float) -> list[It]:
        """Let go of what has been idle for too long, and return it."""
        gone: list[It] = []
        for key, at in self._last.items():
            if now - at < self._idle:
                break
            gone.append(key)
        for key in gone:
            del self._last[key]
        return gone

    def all(self) -> list[It]:
        """Everything that is in use, the latest first."""
        return list(reversed(self._last))


class WatchedDirectory(Directory):
    """A directory that remembers which of its records have been read, as both ends of each packet are."""

    is_partial = True

    def __init__(self, records: Iterable[LookupRecord] = ()) -> None:
        self._read: set[Key] = set()
        super().__init__(records)

    def find(self, vsid: int, ca: bytes) -> LookupRecord | None:
        record = super().find(vsid, ca)
        if record is not None:
            self._read.add((record.vsid, record.ca))
        return record

    def find_by_mac(self, vsid: int, mac: bytes) -> tuple[LookupRecord, ...]:
        records = super().find_by_mac(vsid, mac)
        self._read.update((record.vsid, record.ca) for record in records)
        return records

    def take_read(self) -> set[Key]:
        """Return what has been read since this was last asked."""
        read, self._read = self._read, set()
        return read
