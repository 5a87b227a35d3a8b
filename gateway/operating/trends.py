"""What each site and virtual subnet has carried lately, and when each site was up: in memory, and bounded.

Counters are looked at every few seconds by one task, and never per packet. The last quarter of an hour is
kept finely, the last day coarsely. A restart forgets both.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import msgspec
import trio

from gateway.operating.commands import Asker, Command, Commands
from gateway.operating.report import Carried, Report
from gateway.sites.status import SiteStatus
from policies.errors import ConfigurationError, Problem

LOOK_EVERY = 5.0
"""Seconds between two points of the fine series."""
FINE_POINTS = 180
FINE_POINTS_IN_A_COARSE_ONE = 60
COARSE_POINTS = 288
AT_MOST_EVERY = 1.0
"""Seconds between two looks, however many ask."""

AT_ONCE = 100
"""Series that get their points before packets get their turn."""

MOST_SERIES = 4096
"""Sites and virtual subnets that series are kept of, at 7.5 kB each; those beyond have live rates alone."""
MOST_TURNS = 200
"""Times of going up or down that are kept of each site."""

_UNWATCHED = "nothing is known of it: it is not here, or you may not see it, or too many others are watched"


class Key(msgspec.Struct, frozen=True, gc=False):
    """A site or a virtual subnet; the other name is empty."""

    tenant: str
    site: str = ""
    subnet: str = ""


class Rates(msgspec.Struct, frozen=True, gc=False):
    """What is carried each second: sent from there, received there."""

    sent_packets: float = 0.0
    sent_octets: float = 0.0
    received_packets: float = 0.0
    received_octets: float = 0.0


STILL = Rates()


class Series(msgspec.Struct, frozen=True):
    """Rates at equal distances of `step` seconds, oldest first; the last is that of `end`, Unix time."""

    step: float
    end: float
    sent_packets: list[float]
    sent_octets: list[float]
    received_packets: list[float]
    received_octets: list[float]


class TurnOfSite(msgspec.Struct, frozen=True, gc=False):
    """A site went up or down. `at` is in seconds since 1970, UTC."""

    at: float
    is_up: bool


class Trend(msgspec.Struct, frozen=True):
    """What is known of one site or virtual subnet."""

    tenant: str
    site: str
    subnet: str
    at: float
    """Now, in seconds since 1970, UTC."""
    watched_since: float
    fine: Series
    coarse: Series
    status: SiteStatus | None
    """Of a site whose tunnel is here: all of it."""
    turns: list[TurnOfSite]
    """Of a site: its state when it was seen first, and each time that changed, oldest first."""


class Watched(Protocol):
    """A data path, as far as its counters and its sites are looked at."""

    def report(self) -> Report: ...

    def sites(self) -> list[SiteStatus]: ...


class Look(msgspec.Struct, frozen=True):
    """What was seen at one moment, with what is carried and dropped each second since the moment before."""

    at: float
    """In seconds since 1970, UTC."""
    report: Report
    sites: list[SiteStatus]
    rates: Mapping[Key, Rates]
    drop_rates: Mapping[tuple[str, str], float]
    """Packets a second, by reason and tenant."""


class _Ring:
    """The last so many rates, as single-precision numbers."""

    def __init__(self, points: int) -> None:
        self._most = 4 * points
        self._values = array("f")
        self._next = 0

    def append(self, rates: Rates) -> None:
        four = array("f", msgspec.structs.astuple(rates))
        if len(self._values) < self._most:
            self._values += four
        else:
            self._values[self._next : self._next + 4] = four
            self._next = (self._next + 4) % self._most

    def series(self, step: float, end: float) -> Series:
        values = self._values[self._next :] + self._values[: self._next]
        columns = ([round(value, 1) for value in values[at::4]] for at in range(4))
        return Series(step, end, *columns)


class _History:
    """One site or virtual subnet over time."""

    def __init__(self, now: float, wall: float, carried: Carried) -> None:
        self.since = wall
        self.fine = _Ring(FINE_POINTS)
        self.coarse = _Ring(COARSE_POINTS)
        self.turns: deque[TurnOfSite] = deque(maxlen=MOST_TURNS)
        self.state_since = wall
        self._fine_before = self._coarse_before = (now, carried)

    def point(self, now: float, carried: Carried, *, is_coarse: bool) -> None:
        self.fine.append(_rates(self._fine_before, (now, carried)))
        self._fine_before = now, carried
        if is_coarse:
            self.coarse.append(_rates(self._coarse_before, (now, carried)))
            self._coarse_before = now, carried

    def state(self, site: SiteStatus, wall: float) -> None:
        is_up = site.state == "up"
        if not self.turns:
            self.turns.append(TurnOfSite(wall, is_up))
        elif self.turns[-1].is_up != is_up:
            self.turns.append(TurnOfSite(site.since, is_up))
        elif site.since > self.state_since:
            # It left this state and came back between two looks: how it was in between lasted a moment.
            self.turns.append(TurnOfSite(site.since, not is_up))
            self.turns.append(TurnOfSite(site.since, is_up))
        self.state_since = site.since


class Trends:
    """Looks at a data path: every few seconds for the series, and for whoever asks for what is now."""

    def __init__(self, path: Watched, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        """`clock` is monotonic and `wall_clock` in seconds since 1970, UTC."""
        self._path = path
        self._clock = clock
        self._wall_clock = wall_clock
        self._histories: dict[Key, _History] = {}
        self._points = 0
        self._last_point = wall_clock()
        self._look: tuple[float, Look] | None = None

    async def run(self) -> None:
        """Add a point to each series every few seconds, until cancelled."""
        while True:
            for _ in self.adding_point():
                await trio.lowlevel.checkpoint()  # packets get their turn
            await trio.sleep(LOOK_EVERY)

    def look(self) -> Look:
        """What is now, or was within the last second."""
        now = self._clock()
        if self._look is not None and now < self._look[0] + AT_MOST_EVERY:
            return self._look[1]
        report, sites, wall = self._path.report(), self._path.sites(), self._wall_clock()
        carried = _carried(report)
        drops = {(drop.reason, drop.tenant): drop.packets for drop in report.drops}
        rates: dict[Key, Rates] = {}
        drop_rates: dict[tuple[str, str], float] = {}
        if self._look is not None:
            then, before = self._look
            carried_then = _carried(before.report)
            drops_then = {(drop.reason, drop.tenant): drop.packets for drop in before.report.drops}
            for key, each in carried.items():
                rates[key] = _rates((then, carried_then.get(key, each)), (now, each))
            for reason, packets in drops.items():
                drop_rates[reason] = max(0, packets - drops_then.get(reason, 0)) / (now - then)
        found = Look(wall, report, sites, rates, drop_rates)
        self._look = now, found
        return found

    def add_point(self) -> None:
        """Add a point to each series, and forget those of what is no longer there."""
        for _ in self.adding_point():
            continue

    def adding_point(self) -> Iterator[None]:
        """The same, some series at a time."""
        look = self.look()
        now, wall = self._clock(), look.at
        carried = _carried(look.report)
        for gone in self._histories.keys() - carried.keys():
            del self._histories[gone]
        self._points += 1
        self._last_point = wall
        is_coarse = self._points % FINE_POINTS_IN_A_COARSE_ONE == 0
        yield
        for number, (key, each) in enumerate(carried.items(), start=1):
            history = self._histories.get(key)
            if history is not None:
                history.point(now, each, is_coarse=is_coarse)
            elif len(self._histories) < MOST_SERIES:
                self._histories[key] = _History(now, wall, each)
            if number % AT_ONCE == 0:
                yield
        for site in look.sites:
            history = self._histories.get(Key(site.tenant, site=site.site))
            if history is not None:
                history.state(site, wall)

    def trend(self, key: Key) -> Trend | None:
        """What is known of a site or a virtual subnet; None where it is not watched."""
        history = self._histories.get(key)
        if history is None:
            return None
        coarse_ago = self._points % FINE_POINTS_IN_A_COARSE_ONE * LOOK_EVERY
        return Trend(
            tenant=key.tenant,
            site=key.site,
            subnet=key.subnet,
            at=self._wall_clock(),
            watched_since=history.since,
            fine=history.fine.series(LOOK_EVERY, self._last_point),
            coarse=history.coarse.series(
                LOOK_EVERY * FINE_POINTS_IN_A_COARSE_ONE, self._last_point - coarse_ago
            ),
            status=next((each for each in self.look().sites if _is_of(each, key)), None),
            turns=list(history.turns),
        )


class TrendWanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which trend: of a tenant's site, or of its virtual subnet."""

    tenant: str
    site: str = ""
    subnet: str = ""


def commands(trends: Trends | None) -> Commands:
    """Return what can be asked about the past. None: this node carries nothing."""

    async def answer(asker: Asker, wanted: TrendWanted) -> Trend:
        if bool(wanted.site) == bool(wanted.subnet):
            raise ConfigurationError([Problem("site", "name a site or a subnet of the tenant, and one only")])
        found = None
        if trends is not None and asker.sees(wanted.tenant):
            found = trends.trend(Key(wanted.tenant, wanted.site, wanted.subnet))
        if found is None:
            which = f"site {wanted.site}" if wanted.site else f"subnet {wanted.subnet}"
            raise ConfigurationError([Problem("", f"tenant {wanted.tenant} {which}: {_UNWATCHED}")])
        return found

    return {"trends": Command(answer, TrendWanted)}


def _is_of(site: SiteStatus, key: Key) -> bool:
    return (site.tenant, site.site) == (key.tenant, key.site)


def _carried(report: Report) -> dict[Key, Carried]:
    return dict(_each(report))


def _each(report: Report) -> Iterator[tuple[Key, Carried]]:
    for site in report.sites:
        yield Key(site.tenant, site=site.site), site
    for subnet in report.meters:
        yield Key(subnet.tenant, subnet=subnet.subnet), subnet


def _rates(before: tuple[float, Carried], after: tuple[float, Carried]) -> Rates:
    """What was carried each second between two moments. Counters that begin anew count as nothing."""
    (then, old), (now, new) = before, after
    if now <= then:
        return STILL
    return Rates(
        sent_packets=max(0, new.sent_packets - old.sent_packets) / (now - then),
        sent_octets=max(0, new.sent_octets - old.sent_octets) / (now - then),
        received_packets=max(0, new.received_packets - old.received_packets) / (now - then),
        received_octets=max(0, new.received_octets - old.received_octets) / (now - then),
    )
