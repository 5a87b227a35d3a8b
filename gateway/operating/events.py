"""What has happened lately, for whoever asks, and what happens from now on, for whoever follows."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import trio

from gateway.operating.commands import Asker, Commands, Stream, Tell
from gateway.operating.logs import Limited, event_of, fields
from gateway.operating.logs import clean as in_one_line
from gateway.sites.ledger import Turn
from tunnels.effects import SiteKey

log = logging.getLogger("isthmus")

KEPT = 1000
"""Events that are remembered."""

# Seconds between two times that events are written down.
WRITE_EVERY = 1.0
# Seconds that a stop waits for the last of them to be written.
WRITE_WITHIN = 0.5

# The turns of a site: events of these names, as `Ledger` has them.
_TURNS = {f"site-{what}": what for what in ("authenticated", "up", "down", "trouble")}


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that has happened: `at` is in seconds since 1970, UTC."""

    at: float
    event: str
    """What kind it is, such as site-up."""
    level: str
    """debug, info, warning or error."""
    words: str
    tenant: str = ""
    site: str = ""
    details: dict[str, Any] = {}
    """What else it concerns: see `logs.FIELDS`."""


class EventsWanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which events are asked for. What is left empty chooses none away."""

    event: str = ""
    """Kinds, with commas between them."""
    tenant: str = ""
    site: str = ""
    since: float = 0.0
    """Only what is later: in seconds since 1970, UTC."""
    last: int = KEPT
    """No more than so many of those that have happened already."""
    follow: bool = False
    """Whether to go on with what happens from now on."""

    def chooses(self, event: Event) -> bool:
        """Whether an event is asked for."""
        return (
            (not self.event or event.event in self.event.split(","))
            and (not self.tenant or event.tenant == self.tenant)
            and (not self.site or event.site == self.site)
            and event.at > self.since
        )


class Events:
    """The last events, and those of `before`. They are told on any thread, and read on the trio thread."""

    def __init__(self, clock: Callable[[], float], before: Iterable[Event] = ()) -> None:
        self.handler = Limited(self._take, clock)
        self._token = trio.lowlevel.current_trio_token()
        self._kept: deque[tuple[int, Event]] = deque()
        self._alike: Counter[tuple[str, str, str]] = Counter()
        self._count = 0
        for event in before:
            self._keep(event)
        self._written = self._count
        self._come = trio.Event()

    def last(self) -> list[Event]:
        """Return all that are remembered, oldest first."""
        return self._since(0)[0]

    def turns(self) -> dict[SiteKey, list[Turn]]:
        """Return what has happened to each site, oldest first, as far as it is remembered."""
        found: dict[SiteKey, list[Turn]] = {}
        for event in self.last():
            what = _TURNS.get(event.event)
            if what is not None:
                why = event.words.removeprefix(what).removeprefix(": ")
                found.setdefault((event.tenant, event.site), []).append(Turn(event.at, what, why))
        return found

    async def write_down(self, write: Callable[[list[Event]], None]) -> None:
        """Have `write`, which may block and raise OSError, take what happens; when cancelled, the rest."""
        is_failing = False
        try:
            while True:
                come = self._come
                found, position = self._since(self._written)
                if not found:
                    await come.wait()
                    continue
                try:
                    await trio.to_thread.run_sync(write, found)
                except OSError as error:
                    if not is_failing:
                        words = "what happens is not kept for after a restart: %s"
                        log.warning(words, error, extra={"event": "events-not-kept"})
                    is_failing = True
                else:
                    is_failing, self._written = False, position
                await trio.sleep(WRITE_EVERY)
        finally:
            with (
                trio.CancelScope(shield=True, deadline=trio.current_time() + WRITE_WITHIN),
                suppress(OSError),
            ):
                rest, _ = self._since(self._written)
                await trio.to_thread.run_sync(write, rest, abandon_on_cancel=True)

    async def tell(self, asker: Asker, wanted: EventsWanted, tell: Tell) -> None:
        """Tell the events that an asker wants and may see, oldest first; and what follows, if that is wanted.

        Whoever reads more slowly than things happen misses what is forgotten meanwhile.
        """
        found, position = self._since(0)
        chosen = [event for event in found if asker.sees(event.tenant) and wanted.chooses(event)]
        for event in chosen[max(0, len(chosen) - wanted.last) :]:
            await tell(event)
        while wanted.follow:
            come = self._come
            found, position = self._since(position)
            for event in found:
                if asker.sees(event.tenant) and wanted.chooses(event):
                    await tell(event)
            if not found:
                await come.wait()

    def commands(self) -> Commands:
        """What can be asked of what has happened."""
        return {"events": Stream(self.tell, EventsWanted, told=Event)}

    def _take(self, record: logging.LogRecord) -> bool:
        details = fields(record)
        self._keep(
            Event(
                at=record.created,
                event=event_of(record),
                level=record.levelname.lower(),
                words=in_one_line(record.getMessage()),
                tenant=str(details.pop("tenant", "")),
                site=str(details.pop("site", "")),
                details=details,
            )
        )
        with suppress(trio.RunFinishedError):
            # However many come at once, they are one waking.
            self._token.run_sync_soon(self._wake, idempotent=True)
        return True

    def _keep(self, event: Event) -> None:
        """Keep one more, and forget the oldest of those that there are most of: no flood hides the rest."""
        self._count += 1
        self._kept.append((self._count, event))
        self._alike[_kind(event)] += 1
        if len(self._kept) > KEPT:
            most = max(self._alike.values())
            at, gone = next(
                (at, each) for at, (_, each) in enumerate(self._kept) if self._alike[_kind(each)] == most
            )
            del self._kept[at]
            self._alike[_kind(gone)] -= 1
            if not self._alike[_kind(gone)]:
                del self._alike[_kind(gone)]

    def _since(self, position: int) -> tuple[list[Event], int]:
        """Return what has come since a position, and the next one. Other threads wait meanwhile."""
        self.handler.acquire()
        try:
            return [event for number, event in self._kept if number > position], self._count
        finally:
            self.handler.release()

    def _wake(self) -> None:
        self._come.set()
        self._come = trio.Event()


def _kind(event: Event) -> tuple[str, str, str]:
    return event.event, event.tenant, event.site


@contextmanager
def kept(clock: Callable[[], float], before: Iterable[Event] = ()) -> Iterator[Events]:
    """Remember what is logged, for as long as the block lasts, and what was before it.

    The clock is never set back, in seconds.
    """
    events = Events(clock, before)
    root = logging.getLogger()
    root.addHandler(events.handler)
    try:
        yield events
    finally:
        root.removeHandler(events.handler)
