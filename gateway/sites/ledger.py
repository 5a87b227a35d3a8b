"""What has happened to each site, for people: up or down since when, why, and how often rekeyed."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from tunnels.effects import Cause, SiteDown, SiteKey, SiteRekeyed, SiteTrouble, SiteUp

REMEMBERED = 20
"""Turns of events that are kept for each site."""


class Turn(msgspec.Struct, frozen=True):
    """One turn of events: `at` is in seconds since 1970, UTC."""

    at: float
    what: str
    """authenticated, up, down or trouble."""
    why: str = ""


class Entry(msgspec.Struct):
    """What is known of one site."""

    since: float
    is_up: bool = False
    """Whether packets can be sent there; an IKE SA alone carries none."""
    last_error: Turn | None = None
    failures: int = 0
    """Attempts that came to nothing since the peer proved itself last."""
    failed: Counter[Cause] = msgspec.field(default_factory=Counter)
    """All attempts that came to nothing."""
    turns_down: int = 0
    """How often it could no longer be sent to."""
    ike_rekeys: int = 0
    child_rekeys: int = 0
    history: deque[Turn] = msgspec.field(default_factory=lambda: deque(maxlen=REMEMBERED))


class Ledger:
    """One entry a configured site, there from the start: a site that never came up is down, not missing."""

    def __init__(self, past: Mapping[SiteKey, Sequence[Turn]] | None = None) -> None:
        """`past` is what happened to sites before a restart, oldest first."""
        self.entries: dict[SiteKey, Entry] = {}
        self._past = dict(past or {})

    def configure(self, sites: Iterable[SiteKey], now: float) -> None:
        """Keep the entries of these sites, and only these. Times are in seconds since 1970, UTC."""
        self.entries = {site: self.entries.get(site) or self._first(site, now) for site in sites}

    def _first(self, site: SiteKey, now: float) -> Entry:
        """Return the entry of a site that was not configured until now: down for as long as it has been."""
        past = self._past.pop(site, ())
        changes = [turn for turn in past if turn.what in ("up", "down")]
        last = changes[-1] if changes else past[0] if past else None
        since = now if last is None or last.what == "up" else last.at
        return Entry(since=min(since, now), history=deque(past, maxlen=REMEMBERED))

    def note(self, effect: SiteUp | SiteDown | SiteTrouble | SiteRekeyed, now: float) -> Turn | None:
        """Write down what an effect says of a site, and return it if it is news."""
        entry = self.entries.get(effect.site)
        if entry is None:
            return None
        match effect:
            case SiteUp(suite=suite, path=path):
                entry.failures = 0
                return _append(entry, Turn(now, "authenticated", f"{suite}, {path}"))
            case SiteDown(reason=reason):
                entry.last_error = Turn(now, "down", reason)
                return _append(entry, entry.last_error)
            case SiteTrouble(reason=reason, cause=cause, goes_on=goes_on):
                if not goes_on:
                    entry.failures += 1
                    entry.failed[cause] += 1
                entry.last_error = Turn(now, "trouble", reason)
                return _append(entry, entry.last_error)
            case SiteRekeyed(what=what):
                if what == "ike":
                    entry.ike_rekeys += 1
                else:
                    entry.child_rekeys += 1
        return None

    def is_up(self, site: SiteKey) -> bool:
        """Whether packets can be sent to a site, as far as is written down."""
        entry = self.entries.get(site)
        return entry is not None and entry.is_up

    def carries(self, site: SiteKey, words: str | None, now: float) -> Turn | None:
        """Write down whether packets can be sent to a site, `words` saying by what; return it if it is news.

        Where they cannot any more, an effect tells why.
        """
        entry = self.entries.get(site)
        if entry is None or entry.is_up == (words is not None):
            return None
        entry.is_up, entry.since = words is not None, now
        entry.turns_down += not entry.is_up
        return _append(entry, Turn(now, "up", words)) if words is not None else None


def _append(entry: Entry, turn: Turn) -> Turn | None:
    last = entry.history[-1] if entry.history else None
    # A site that stays down for a day would fill its history with one sentence.
    if last is not None and (last.what, last.why) == (turn.what, turn.why):
        return None
    entry.history.append(turn)
    return turn
