"""One line a happening: for people or as JSON, with the tenant and the site of it, and never a flood.

A module says what happens with Python's logging, and what it concerns by `extra`: an `event`, which is
its name, and any of `FIELDS`. No line names its tenant and site in words, since its written form does.
Whatever repeats too often is counted instead, and that count is a line of its own.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import trio

from policies.errors import Problem
from policies.model import LogFormat
from policies.token_bucket import TokenBucket

FIELDS = (
    "tenant",
    "site",
    "subnet",
    "vsid",
    "ca",
    "mac",
    "host",
    "previous_host",
    "interface",
    "cause",
    "what",
)
"""What a line can say of what it concerns, besides its words."""

# Lines of one kind about one thing: a second, and at once.
RATE, BURST = 5.0, 50.0
# The same of all lines together.
RATE_OF_ALL, BURST_OF_ALL = 200.0, 2000.0
# Kinds of lines about one thing that are told apart; what is more shares one account.
MOST_KINDS = 4096
# Kinds of which it is told one by one how many lines were left out.
MOST_TOLD = 20
# Seconds between two times that this is told.
TELL_EVERY = 10.0

Key = tuple[str, str, str, str]
"""The logger, the event (or what the words are made of), the tenant and the site."""

_NAMED = re.compile(r"tenant\[(?P<tenant>[^]]+)\](?:\.site\[(?P<site>[^]]+)\])?")

_OTHERS: Key = ("isthmus", "", "", "")

# What could end a line early, or write over a terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


class _Account:
    """How many lines of a kind there may be, and how many were left out since that was last told."""

    __slots__ = ("bucket", "left_out")

    def __init__(self) -> None:
        self.bucket = TokenBucket(RATE, BURST)
        self.left_out = 0


class Limit:
    """Says which lines are too many. What it remembers is bounded, whatever comes."""

    def __init__(self) -> None:
        self._accounts: dict[Key, _Account] = {}
        self._all = TokenBucket(RATE_OF_ALL, BURST_OF_ALL)

    def allows(self, record: logging.LogRecord, now: float) -> bool:
        """Take a line into account, and say whether it may be written. `now` is in seconds, of any clock."""
        key = _key(record)
        account = self._accounts.get(key)
        if account is None:
            if len(self._accounts) >= MOST_KINDS:
                key = _OTHERS
            account = self._accounts.setdefault(key, _Account())
        if account.bucket.take(1, now) and self._all.take(1, now):
            return True
        account.left_out += 1
        return False

    def leave_out(self, record: logging.LogRecord) -> None:
        """Count a line that was allowed, and for which there was no room."""
        account = self._accounts.get(_key(record)) or self._accounts.setdefault(_OTHERS, _Account())
        account.left_out += 1

    def left_out(self) -> dict[Key, int]:
        """Return how many lines of each kind were left out since that was told."""
        if len(self._accounts) >= MOST_KINDS:
            self._accounts = {key: account for key, account in self._accounts.items() if account.left_out}
        return {key: account.left_out for key, account in self._accounts.items() if account.left_out}

    def told(self, key: Key) -> None:
        """Take note that it has been told how many of a kind were left out."""
        self._accounts[key].left_out = 0


class Limited(logging.Handler):
    """Gives lines to `take`, unless there are too many of a kind. It neither blocks nor fails.

    `take` returns whether there was room for the line.
    """

    def __init__(self, take: Callable[[logging.LogRecord], bool], clock: Callable[[], float]) -> None:
        super().__init__()
        self._take = take
        self._clock = clock
        self._limit = Limit()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line, or count it as left out."""
        try:
            if self._limit.allows(record, self._clock()) and not self._take(record):
                self._limit.leave_out(record)
        except Exception:
            self.handleError(record)

    def tell_left_out(self) -> None:
        """Say how many lines were left out, if any: the kinds with the most, and the rest in one line."""
        self.acquire()
        try:
            left_out = sorted(self._limit.left_out().items(), key=lambda each: each[1], reverse=True)
            for key, count in left_out[:MOST_TOLD]:
                if self._take(_left_out(key, "left out %d lines like %s", count, key[1] or "these")):
                    self._limit.told(key)
            rest = left_out[MOST_TOLD:]
            count = sum(count for _, count in rest)
            if rest and self._take(
                _left_out(_OTHERS, "left out %d lines of %d other kinds", count, len(rest))
            ):
                for key, _ in rest:
                    self._limit.told(key)
        finally:
            self.release()


def _left_out(key: Key, words: str, *values: object) -> logging.LogRecord:
    name, _, tenant, site = key
    record = logging.LogRecord(name, logging.WARNING, "", 0, words, values, None)
    record.event, record.tenant, record.site = "left-out", tenant, site
    return record


def writing(write: Callable[[str], bool], form: LogFormat, clock: Callable[[], float]) -> Limited:
    """Return a handler that writes lines in a form.

    `write` must neither block nor fail, and returns whether there was room for the line.
    """
    formatter = _JsonLines() if form is LogFormat.JSON else _ConsoleLines()
    return Limited(lambda record: write(formatter.format(record) + "\n"), clock)


async def tell_left_out() -> None:
    """Have all handlers say now and then what they have left out, for ever."""
    while True:
        await trio.sleep(TELL_EVERY)
        for handler in logging.getLogger().handlers:
            if isinstance(handler, Limited):
                handler.tell_left_out()


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a line concerns: those of `FIELDS` that it names, as numbers and as text."""
    found = {}
    for name in FIELDS:
        value = record.__dict__.get(name)
        if value is not None and value != "":
            found[name] = value if isinstance(value, int) else clean(str(value))
    return found


def concerned(problem: Problem) -> dict[str, str]:
    """Return which tenant and site a problem with the configuration concerns, by its path."""
    named = _NAMED.match(problem.path)
    return {} if named is None else {key: name for key, name in named.groupdict().items() if name}


def event_of(record: logging.LogRecord) -> str:
    """Return the name of what has happened; "other" where the line has none."""
    return str(record.__dict__.get("event", "other"))


def clean(text: str) -> str:
    """Return a text in one line, whoever has written it."""
    return text.translate(_CONTROLS).encode(errors="backslashreplace").decode()


class _ConsoleLines(logging.Formatter):
    """For people: the time here, the level, who says it, what it concerns, and the words."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - it is logging's name
        """Return the line of a record, without a traceback."""
        record.message = prefix(record) + clean(record.message)
        return super().formatMessage(record)


class _JsonLines(logging.Formatter):
    """For machines: an object a line. The time is RFC 3339's, in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": event_of(record),
            "message": clean(record.getMessage()),
            **fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def prefix(record: logging.LogRecord) -> str:
    """Return what people read of whom a line concerns."""
    tenant, site = record.__dict__.get("tenant"), record.__dict__.get("site")
    if not tenant:
        return ""
    return clean(f"tenant {tenant} site {site}: " if site else f"tenant {tenant}: ")


def _key(record: logging.LogRecord) -> Key:
    about = record.__dict__
    what = about.get("event") or record.msg
    return (record.name, str(what), str(about.get("tenant", "")), str(about.get("site", "")))
