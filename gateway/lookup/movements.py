"""The last moves of records, and how soon each was known everywhere.

A replica sees every move, wherever it was made. How it came about, and who has learned of it, is
known to the node that took the claim. Nothing of this is written down.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import msgspec

from gateway.lookup.claims import Mode
from gateway.lookup.followers import Learning
from policies.addresses import CustomerAddress, MacAddress, Vsid
from policies.model import LookupRecord, Network

log = logging.getLogger("isthmus.lookup")

KEPT = 200

MOST_NAMED = 20
"""Followers who have not learned of a move, so many are named."""


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """A VM's records that have changed their host or provider address together."""

    at: float
    """When this node heard of it, in seconds since 1970, UTC."""
    tenant: str
    subnet: str
    vsid: int
    mac: str
    addresses: list[str]
    was: str
    """The host before."""
    was_pa: str
    host: str
    pa: str
    epoch: int
    mode: Mode | None
    """Why, where this node took the claim."""
    seconds: float | None
    """From the claim's arrival until all had learned that follow this node; None: not yet, or not known."""
    learned: int
    """How many of those have."""
    waiting: list[str]
    """Some of those that have not."""


class _Entry:
    """A move as it is kept."""

    __slots__ = ("addresses", "at", "before", "learning", "mode", "now")

    def __init__(self, at: float, before: LookupRecord, now: LookupRecord) -> None:
        self.at = at
        self.before = before
        self.now = now
        self.addresses: list[CustomerAddress] = [now.ca]
        self.mode: Mode | None = None
        self.learning: Learning | None = None

    def is_of(self, vsid: Vsid, mac: MacAddress, revision: int) -> bool:
        return (self.now.vsid, self.now.mac, self.now.revision) == (vsid, mac, revision)


class Movements:
    """The last moves that a replica has seen. `network` is the replica's, as of now."""

    def __init__(self, network: Callable[[], Network], now: Callable[[], float] = time.time) -> None:
        self._network = network
        self._now = now
        self._last: deque[_Entry] = deque(maxlen=KEPT)
        self._unsaid: list[_Entry] = []
        self._names: tuple[Network | None, dict[Vsid, tuple[str, str]]] = (None, {})

    def changed(self, before: LookupRecord, now: LookupRecord) -> None:
        """A record has changed; if it is somewhere else now, that is a move."""
        if before.host == now.host and before.pa == now.pa:
            return
        if self._last and self._last[-1].is_of(now.vsid, now.mac, now.revision):
            # All records of a MAC move at once, at one revision.
            self._last[-1].addresses.append(now.ca)
            return
        entry = _Entry(self._now(), before, now)
        self._last.append(entry)
        if not self._unsaid:
            asyncio.get_running_loop().call_soon(self._say)
        self._unsaid.append(entry)

    def claimed(self, mode: Mode, learning: Learning, vsid: Vsid, mac: MacAddress) -> None:
        """This node has taken the claim that moved a MAC, at the revision that is being learned."""
        for entry in reversed(self._last):
            if entry.is_of(vsid, mac, learning.revision):
                entry.mode, entry.learning = mode, learning
                return

    async def latest(self) -> list[Move]:
        """Return the last moves, the newest first."""
        return [self._move(entry) for entry in reversed(self._last)]

    def _move(self, entry: _Entry) -> Move:
        before, now, learning = entry.before, entry.now, entry.learning
        tenant, subnet = self._named(now.vsid)
        waiting = sorted(learning.remaining | learning.elsewhere) if learning is not None else []
        return Move(
            at=entry.at,
            tenant=tenant,
            subnet=subnet,
            vsid=now.vsid,
            mac=str(now.mac),
            addresses=[str(ca) for ca in entry.addresses],
            was=before.host,
            was_pa=str(before.pa),
            host=now.host,
            pa=str(now.pa),
            epoch=now.epoch,
            mode=entry.mode,
            seconds=learning.seconds if learning is not None else None,
            learned=max(0, learning.told - len(waiting)) if learning is not None else 0,
            waiting=waiting[:MOST_NAMED],
        )

    def _named(self, vsid: Vsid) -> tuple[str, str]:
        """Return the tenant's name and the subnet's; empty where nobody has it any more."""
        network = self._network()
        if self._names[0] is not network:
            names = {
                subnet.vsid: (tenant.name, subnet.name)
                for tenant in network.tenants
                for subnet in tenant.subnets
            }
            self._names = (network, names)
        return self._names[1].get(vsid, ("", ""))

    def _say(self) -> None:
        """Say of each new move that it was, now that all of its addresses are known."""
        for entry in self._unsaid:
            before, now = entry.before, entry.now
            tenant, subnet = self._named(now.vsid)
            about = {
                "event": "moved",
                "tenant": tenant,
                "subnet": subnet,
                "vsid": now.vsid,
                "ca": now.ca,
                "mac": now.mac,
                "host": now.host,
                "previous_host": before.host,
            }
            others = f" and {len(entry.addresses) - 1} more" if len(entry.addresses) > 1 else ""
            log.info(
                "%s%s moved from %s at %s to %s at %s, epoch %d",
                now.ca,
                others,
                before.host,
                before.pa,
                now.host,
                now.pa,
                now.epoch,
                extra=about,
            )
        self._unsaid.clear()


def in_words(move: Move) -> Iterator[str]:
    """Yield lines that say of a move when and where, and who knows."""
    at = datetime.fromtimestamp(move.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    whose = f"{move.tenant}/{move.subnet}" if move.tenant else f"VSID {move.vsid}"
    way = f"from {move.was} at {move.was_pa} to {move.host} at {move.pa}"
    mode = f", {move.mode}" if move.mode is not None else ""
    yield f"{at}  {whose}  {' '.join(move.addresses)}  {way}, epoch {move.epoch}{mode}"
    if move.seconds is not None:
        yield f"    all {move.learned} who follow knew after {move.seconds * 1000:.1f} ms"
    elif move.waiting:
        yield f"    {move.learned} know; not yet: {', '.join(move.waiting)}"
