"""The records that have left this host for another, and what still comes here by them.

For a while the host sends it on, whoever sent it being taught meanwhile. Directories may
differ while changes are on their way, and several hosts with records of different ages could pass
a frame round. So a host sends the same frame on only once: each time it has travelled
further, and its outer hop limit says so.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from gateway.forwarding.verdicts import PortKey
from policies.addresses import CustomerAddress, Vsid
from policies.model import LookupRecord

LASTS = 30.0
"""How long packets for a VM that has left are sent on, in seconds."""

# Frames that are recognised when they come back: more than are on their way at once.
REMEMBERED = 4096


class Departure(msgspec.Struct, frozen=True, gc=False):
    """A record has left: by which revision, and until when its packets are sent on."""

    revision: int
    until: float


class Redirects:
    """What this host was the last holder of, and sends on for a while; and who may send on to it."""

    def __init__(self) -> None:
        self.packets = 0
        """Sent on so far."""
        self._departures: dict[tuple[Vsid, CustomerAddress], Departure] = {}
        self._seen: dict[int, int] = {}
        self._holders: dict[PortKey, dict[str, float]] = {}

    def __len__(self) -> int:
        return len(self._departures)

    def __iter__(self) -> Iterator[tuple[Vsid, CustomerAddress]]:
        return iter(self._departures)

    def take_over(self, other: Redirects) -> None:
        """Know what has left and come as another does now."""
        self._departures = dict(other._departures)
        self._holders = {port: dict(hosts) for port, hosts in other._holders.items()}

    def left(self, record: LookupRecord, now: float) -> None:
        """A record was here, and now says that its VM is elsewhere."""
        self._departures[record.vsid, record.ca] = Departure(record.revision, now + LASTS)

    def forget(self, vsid: Vsid, ca: CustomerAddress) -> None:
        """It is here again, or nobody has it any more."""
        self._departures.pop((vsid, ca), None)

    def sends_on(self, record: LookupRecord, now: float) -> bool:
        """Whether packets are sent on to where a record says that its VM is."""
        departure = self._departures.get((record.vsid, record.ca))
        return departure is not None and now < departure.until and record.revision >= departure.revision

    def comes_back(self, frame: bytes, hop_limit: int) -> bool:
        """Whether a frame has been sent on from here before, and takes note that it is now."""
        # An equal frame that a sender repeats has come no further than the first.
        mark = hash(frame)
        before = self._seen.get(mark)
        if before is not None:
            if hop_limit < before:
                return True
        elif len(self._seen) >= REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[mark] = hop_limit
        return False

    def came(self, port: PortKey, host: str, now: float) -> None:
        """The VM of one of our ports has left another host, which sends on for a while what comes there."""
        self._holders.setdefault(port, {})[host] = now + LASTS

    def holders(self, port: PortKey, now: float) -> Iterator[str]:
        """Return the hosts that the VM of one of our ports has left not long ago."""
        return (host for host, until in self._holders.get(port, {}).items() if until > now)

    def expire(self, now: float) -> None:
        """Forget what has left or come long ago."""
        for port, hosts in [*self._holders.items()]:
            if all(until <= now for until in hosts.values()):
                del self._holders[port]
        if self._departures:
            over = [key for key, departure in self._departures.items() if departure.until <= now]
            for key in over:
                del self._departures[key]
            if not self._departures:
                self._seen.clear()
