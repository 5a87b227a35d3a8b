"""What an operator ought to know: the last of it, and a log that a flood cannot fill."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from enum import StrEnum

import msgspec

from policies.token_bucket import TokenBucket

_LOG = logging.getLogger("isthmus.lookup")

KEPT = 200
LOGGED_A_SECOND = 1.0
LOGGED_AT_ONCE = 10.0


class AlertKind(StrEnum):
    """What has happened."""

    REFUSED = "refused"
    """Somebody asked for what they may not have."""
    UNKNOWN = "unknown"
    """Somebody asked whom we do not know."""
    FROZEN = "frozen"
    """A record has moved too often."""
    NO_LEASE = "no-lease"
    """A tenant gets no more provider addresses of a gateway's pools."""


class Alert(msgspec.Struct, frozen=True):
    """One thing that happened. `at` is in seconds of Unix time."""

    at: float
    kind: AlertKind
    message: str


class Alerts:
    """The last alerts, how many there were of each kind, and a limited log."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.last: deque[Alert] = deque(maxlen=KEPT)
        self.counts: Counter[AlertKind] = Counter()
        self._now = now
        self._bucket = TokenBucket(LOGGED_A_SECOND, LOGGED_AT_ONCE)
        self._unlogged = 0

    def tell(self, kind: AlertKind, message: str, tenant: str = "") -> None:
        """Note that something has happened, and to whose disadvantage if that is known."""
        now = self._now()
        self.counts[kind] += 1
        self.last.append(Alert(now, kind, message))
        if not self._bucket.take(1, now):
            self._unlogged += 1
            return
        if self._unlogged:
            about = {"event": "left-out"}
            _LOG.warning("%d alerts before this one were not logged", self._unlogged, extra=about)
            self._unlogged = 0
        about = {"event": "alert", "cause": kind.value, "tenant": tenant}
        _LOG.warning("%s: %s", kind, message, extra=about)
