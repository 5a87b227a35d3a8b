"""Packets shown as they pass: which are wanted, and a bounded queue of those for whoever reads them.

Forwarding never waits for a reader. What the queue has no room for is counted as lost.
"""

from __future__ import annotations

import ipaddress
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Literal, Protocol

import msgspec
import trio

from gateway.forwarding.directory import Holder
from gateway.operating import pcapng
from gateway.operating.commands import Asker, Commands, Stream, Tell
from gateway.operating.seen import Seen
from gateway.operating.sightings import Sightings
from gateway.taps import Observer
from policies.addresses import ProviderAddress
from policies.errors import ConfigurationError, Problem
from policies.tables import Tables

FRAMES = 10_000
"""How many packets a capture takes, unless it says otherwise."""
MOST_FRAMES = 1_000_000
WHOLE = 65_535 + 14
"""Of the largest frame, in octets."""

MOST_AT_ONCE = 4
"""Captures that run together."""

# What waits for a reader at most.
_QUEUED_FRAMES = 8192
_QUEUED_OCTETS = 8 << 20
# What a reader is told in one piece.
_TOLD_FRAMES = 256
_TOLD_OCTETS = 1 << 18


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which packets, and how many. Those that match all that is named."""

    tenant: str | None = None
    site: str | None = None
    """TENANT/SITE, or with a tenant its site alone."""
    vsid: int | None = None
    address: str | None = None
    """A customer address, or a prefix of them, that sends or is sent to."""
    host: str | None = None
    """A host or gateway by its name, or a provider address: also a site's peer."""
    side: Literal["inner", "outer", "both"] = "inner"
    """Before encapsulation, rewriting or encryption, after it, or both."""
    dropped: bool = False
    """Only those that are dropped."""
    frames: Annotated[int, msgspec.Meta(ge=1, le=MOST_FRAMES)] = FRAMES
    seconds: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None
    octets: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How many are kept in all."""
    snaplen: Annotated[int, msgspec.Meta(ge=14, le=WHOLE)] = WHOLE
    """How many octets of each packet are kept."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One packet at one place."""

    at: float
    """In seconds since 1970, UTC."""
    place: str
    """TENANT/SUBNET, with the interface where it is a port's; TENANT/SITE; or `underlay ADDRESS`."""
    tenant: str
    is_ethernet: bool
    """Else it begins with an IP header."""
    is_inbound: bool
    """Whether it came to this appliance there, or left it."""
    octets: bytes
    """Base64 in JSON; no more of it than was asked for."""
    length: int
    """What it had before it was cut."""
    dropped: str = ""
    """Why it went no further, or, after `held: `, what it waits for."""
    is_rewritten: bool = False
    """Whether the underlay carries it by IP rewrite; on the inner side it has its customer addresses."""

    @property
    def end(self) -> str:
        """Why it went no further, if so, after `dropped: ` or `held: `."""
        is_dropped = self.dropped and not self.dropped.startswith("held: ")
        return f"dropped: {self.dropped}" if is_dropped else self.dropped


class Told(msgspec.Struct, frozen=True):
    """What has been captured since the last was told."""

    frames: list[Frame]
    lost: int = 0
    """Since the capture began: packets that the reader was too slow for."""


class CaptureFile:
    """What is told, as a pcapng file."""

    def __init__(self, snaplen: int = WHOLE) -> None:
        self._writer = pcapng.Writer(snaplen)
        self._lost = 0
        self._last = 0

    def begin(self) -> bytes:
        """The first octets."""
        return self._writer.begin("isthmus")

    def add(self, told: Told) -> bytes:
        """The octets of what has been told."""
        self._lost = told.lost
        return b"".join(map(self._packet, told.frames))

    def end(self) -> bytes:
        """The last octets, which say how many packets were lost."""
        return self._writer.end(self._last, self._lost)

    def _packet(self, frame: Frame) -> bytes:
        self._last = int(frame.at * 1e9)
        return self._writer.packet(
            frame.place,
            pcapng.ETHERNET if frame.is_ethernet else pcapng.RAW_IP,
            self._last,
            frame.octets,
            length=frame.length,
            is_inbound=frame.is_inbound,
            comment=", ".join(filter(None, ("rewritten" if frame.is_rewritten else "", frame.end))),
        )


class Capturing(Protocol):
    """A data path, as far as packets can be seen there."""

    def observe(self, observer: Observer | None, tenants: Collection[str] | None = ()) -> None: ...

    def holder(self, pa: bytes) -> Holder | None: ...

    @property
    def tables(self) -> Tables: ...


class Captures:
    """All captures that run. The data path is observed while there is one."""

    def __init__(self, path: Capturing | None, clock: Callable[[], float]) -> None:
        """`clock` gives the seconds since 1970. Without a path, there are no packets."""
        self._path = path
        self._clock = clock
        self._running: list[_Capture] = []
        self._sightings: Sightings | None = None

    def commands(self) -> Commands:
        """What can be asked of it. Whoever sees packets sees what is in them: operators alone."""
        return {"capture": Stream(self._tell, arguments=Wanted, told=Told, for_operators=True)}

    async def _tell(self, _asker: Asker, wanted: Wanted, tell: Tell) -> None:
        path = self._path
        if path is None:
            raise ConfigurationError([Problem("", "no packet comes to this appliance: it has no data path")])
        capture = _Capture(wanted, *_filter(wanted, path.tables))
        deadline = trio.current_time() + (wanted.seconds or math.inf)
        with self._observed(path, capture):
            # Whoever reads it knows by this that nothing more is missed.
            await tell(Told([]))
            while not capture.is_full and await capture.has_some(deadline):
                await tell(Told(capture.take(), capture.lost))
        while frames := capture.take():
            await tell(Told(frames, capture.lost))
        await tell(Told([], capture.lost))

    @contextmanager
    def _observed(self, path: Capturing, capture: _Capture) -> Iterator[None]:
        if len(self._running) >= MOST_AT_ONCE:
            raise ConfigurationError([Problem("", f"{MOST_AT_ONCE} captures run already")])
        if not self._running:
            self._sightings = Sightings(lambda: path.tables, path.holder, self._offer)
        self._running.append(capture)
        try:
            self._heed(path)
            yield
        finally:
            self._running.remove(capture)
            if self._running:
                self._heed(path)
            else:
                path.observe(None)

    def _heed(self, path: Capturing) -> None:
        """Have only those tenants' packets offered that somebody may want."""
        named = {capture.tenant for capture in self._running}
        if self._sightings is not None:
            tenants = None if None in named else frozenset(name for name in named if name is not None)
            self._sightings.tenants = tenants
            path.observe(self._sightings, tenants)

    def _offer(self, seen: Seen) -> None:
        for capture in self._running:
            capture.offer(seen, self._clock)


class _Capture:
    """One capture: what it wants, and what waits for its reader."""

    def __init__(self, wanted: Wanted, tenant: str | None, matches: Callable[[Seen], bool]) -> None:
        self.tenant = tenant
        self.lost = 0
        self._wanted = wanted
        self._matches = matches
        self._waiting: deque[Frame] = deque()
        self._waiting_octets = 0
        self._frames_left = wanted.frames
        self._octets_left = wanted.octets or math.inf
        self._has_come = trio.Event()

    @property
    def is_full(self) -> bool:
        """Whether there has been enough."""
        return self._frames_left <= 0 or self._octets_left <= 0

    def offer(self, seen: Seen, clock: Callable[[], float]) -> None:
        """Keep what is wanted of a packet, if there is room."""
        if self.is_full or not self._matches(seen):
            return
        wanted, now = self._wanted, clock()
        if wanted.side != "outer" and seen.inner is not None and seen.inner_place:
            self._keep(now, seen, seen.inner_place, seen.inner, is_ethernet=seen.is_ethernet)
        # What is dropped before it is read has no inner side; whoever asks for what is dropped is to see it.
        is_all_there_is = wanted.dropped and seen.inner is None
        if seen.outer is not None and (wanted.side != "inner" or is_all_there_is):
            self._keep(now, seen, seen.outer.place, seen.outer.packet(), is_ethernet=False)

    async def has_some(self, deadline: float) -> bool:
        """Wait until something has come, and return whether it has before the deadline."""
        with trio.move_on_at(deadline):
            await self._has_come.wait()
            return True
        return False

    def take(self) -> list[Frame]:
        """Return what has come first, in a piece that a reader can be told."""
        frames: list[Frame] = []
        octets = 0
        while self._waiting and len(frames) < _TOLD_FRAMES and octets < _TOLD_OCTETS:
            frame = self._waiting.popleft()
            octets += len(frame.octets)
            frames.append(frame)
        self._waiting_octets -= octets
        if not self._waiting:
            self._has_come = trio.Event()
        return frames

    def _keep(self, now: float, seen: Seen, place: str, packet: bytes, *, is_ethernet: bool) -> None:
        if self.is_full:
            return
        if len(self._waiting) >= _QUEUED_FRAMES or self._waiting_octets >= _QUEUED_OCTETS:
            self.lost += 1
            return
        octets = packet[: self._wanted.snaplen]
        self._frames_left -= 1
        self._octets_left -= len(octets)
        self._waiting_octets += len(octets)
        self._waiting.append(
            Frame(
                at=now,
                place=place,
                tenant=seen.tenant,
                is_ethernet=is_ethernet,
                is_inbound=seen.is_inbound,
                octets=octets,
                length=len(packet),
                dropped=seen.dropped,
                is_rewritten=seen.is_rewritten,
            )
        )
        self._has_come.set()


def _filter(wanted: Wanted, tables: Tables) -> tuple[str | None, Callable[[Seen], bool]]:
    """Return whose packets are wanted, and what tells them from others.

    Raises ConfigurationError for names that are unknown.
    """
    tenant, site = _tenant_and_site(wanted, tables)
    if wanted.vsid is not None and wanted.vsid not in tables.subnets:
        raise _unknown("vsid", str(wanted.vsid), tables.subnets)
    hosts = _addresses_of(wanted.host, tables) if wanted.host is not None else None
    within = _within(wanted.address) if wanted.address is not None else None

    def matches(seen: Seen) -> bool:
        return (
            (tenant is None or seen.tenant == tenant)
            and (site is None or seen.site == site)
            and (wanted.vsid is None or seen.vsid == wanted.vsid)
            and (not wanted.dropped or bool(seen.dropped))
            and (hosts is None or not hosts.isdisjoint(seen.nodes) or wanted.host in seen.names)
            and (within is None or any(map(within, seen.addresses())))
        )

    return tenant, matches


def _tenant_and_site(wanted: Wanted, tables: Tables) -> tuple[str | None, str | None]:
    tenant, site = wanted.tenant, wanted.site
    if site is not None and tenant is None:
        if site.count("/") != 1:
            raise ConfigurationError([Problem("site", f"{site!r} is not TENANT/SITE")])
        tenant, site = site.split("/")
    if tenant is None:
        return None, None
    domain = tables.domains.get(tenant)
    if domain is None:
        raise _unknown("tenant", tenant, tables.domains)
    if site is not None:
        site = site.removeprefix(f"{tenant}/")
        if site not in domain.site_gateways:
            raise _unknown("site", site, domain.site_gateways)
    return tenant, site


def _addresses_of(host: str, tables: Tables) -> frozenset[bytes]:
    gateways = {name: addresses for domain in tables.domains.values() for name, addresses in domain.gateways}
    named = tables.provider_addresses_of.get(host) or gateways.get(host)
    if named is not None:
        return frozenset[bytes](named)
    try:
        return frozenset((ProviderAddress.parse(host),))
    except ValueError:
        raise _unknown("host", host, {*tables.provider_addresses_of, *gateways}) from None


def _within(address: str) -> Callable[[bytes], bool]:
    try:
        prefix = ipaddress.ip_network(address, strict=False)
    except ValueError as error:
        raise ConfigurationError([Problem("address", str(error))]) from None
    length, rest = prefix.max_prefixlen // 8, prefix.max_prefixlen - prefix.prefixlen
    start = int(prefix.network_address) >> rest
    return lambda octets: len(octets) == length and int.from_bytes(octets) >> rest == start


def _unknown(key: str, name: str, known: Iterable[object]) -> ConfigurationError:
    names = ", ".join(sorted(map(str, known)))
    return ConfigurationError([Problem(key, f"there is no {name}; there are: {names or 'none'}")])
