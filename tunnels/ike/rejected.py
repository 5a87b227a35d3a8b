"""Messages that are well formed and not acceptable, and the notification that says so to the peer."""

from __future__ import annotations

from policies.errors import Rejected
from tunnels.effects import Cause
from tunnels.ike.constants import NotifyType

_CAUSES: dict[int, Cause] = {
    NotifyType.NO_PROPOSAL_CHOSEN: Cause.NO_PROPOSAL,
    NotifyType.INVALID_KE_PAYLOAD: Cause.NO_PROPOSAL,
    NotifyType.AUTHENTICATION_FAILED: Cause.AUTHENTICATION,
    NotifyType.TS_UNACCEPTABLE: Cause.SELECTORS,
    NotifyType.SINGLE_PAIR_REQUIRED: Cause.SELECTORS,
    NotifyType.INVALID_SELECTORS: Cause.SELECTORS,
}


class Refused(Rejected):
    """What the peer asks for or answers cannot be agreed to.

    `notify` and `data` are for the peer (RFC 7296 section 3.10.1); the words are for people on our side,
    and the cause for our counters.
    """

    def __init__(
        self, notify: NotifyType, words: str, data: bytes = b"", *, cause: Cause | None = None
    ) -> None:
        super().__init__(words)
        self.cause = cause or cause_of(notify)
        self.notify = notify
        self.words = words
        self.data = data


def cause_of(notify: NotifyType | int) -> Cause:
    """Return what an error that one side sends the other counts as."""
    return _CAUSES.get(notify, Cause.REFUSED)


class UnsupportedCriticalPayload(Refused):
    """A payload of a type that we don't know, and the sender insists on it (RFC 7296 section 2.5)."""

    def __init__(self, type: int) -> None:
        words = f"the peer insists on a payload of type {type}, which is unknown here"
        super().__init__(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, words, bytes((type,)))
        self.type = type
