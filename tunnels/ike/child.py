"""One child SA and its place in a rekey, and one child SA that policy wants (RFC 7296 section 2.8)."""

from __future__ import annotations

from enum import Enum, auto

from policies.ipsec import Group, Lifetimes
from policies.selectors import Selectors, TrafficSelector
from tunnels.effects import ChildSa
from tunnels.retransmit import Backoff

SelectorSet = tuple[frozenset[TrafficSelector], frozenset[TrafficSelector]]

JITTER = 0.1
"""Which part of a lifetime chance takes away, so that both sides don't rekey at once (section 2.8)."""
HARD = 1.1
"""What of its lifetime an SA may live for that could not be replaced,"""
GRACE = 30.0
"""and how many seconds more at least: a peer may have to repeat its messages."""
RETRY = Backoff(first=4.0, ceiling=60.0, jitter=0.75)
"""After a rekey that failed, or one that the peer has no time for: never at once (section 2.25)."""
REMAKE = Backoff(first=8.0, ceiling=300.0, jitter=0.75)
"""Before a child SA that is missing is asked for again."""
REPLACED_FOR = 60.0
"""Seconds that the peer has to delete what it has replaced, before we do."""

# Without ESN a sequence number has 32 bits and may not wrap (RFC 4303 section 3.3.3). What is left
# is for the packets that are sent while the rekey goes on.
_MOST_SHORT_PACKETS = 3 << 30


def hard_limit(lifetime: float) -> float:
    """Return after how many seconds an SA ends that could not be replaced in its lifetime."""
    return max(lifetime * HARD, lifetime + GRACE)


class Want:
    """A child SA that the site shall have: an offer of ours, a bound for the peer's."""

    def __init__(self, name: str, selectors: Selectors) -> None:
        self.name = name
        self.selectors = selectors
        self.due: float | None = None
        """When we ask for it."""
        self.is_asked = False
        """A task for it waits for its turn or for its answer."""
        self.failures = 0
        self.group: Group | None = None
        """What the peer asked to begin the key exchange with."""


class ChildState(Enum):
    """Who is to end a child SA."""

    CURRENT = auto()
    """Nobody yet: it is the one in use."""
    REPLACED = auto()
    """The peer, which has made the successor."""
    DELETING = auto()
    """We: our request to delete it waits for its turn or for its answer."""


class Child:
    """A pair of ESP SAs that is installed."""

    def __init__(self, sa: ChildSa, want: Want, nonce: bytes, lifetimes: Lifetimes, now: float) -> None:
        self.sa = sa
        self.want = want
        self.nonce = nonce
        """The lower one of the exchange that made it."""
        self.rank = nonce
        """Between child SAs with the same selectors that don't replace each other; kept through rekeys."""
        self.state = ChildState.CURRENT
        self.successor: Child | None = None
        self.rival: bytes | None = None
        """The lower nonce of the peer's rekey of this one, which may collide with ours."""
        self.is_delete_sent = False
        self.is_rekeying = False
        """A task to rekey it waits for its turn or for its answer."""
        self.failures = 0
        self.group = sa.suite.group
        """What our next rekey begins its key exchange with; NONE leaves it to policy."""
        self.rekey_at = now + lifetimes.child_seconds
        self.ends_at = now + hard_limit(lifetimes.child_seconds)

    @property
    def selector_set(self) -> SelectorSet:
        return selector_set(self.sa.selectors)

    @property
    def deadline(self) -> float | None:
        """When it is to be rekeyed or has come to its end."""
        if self.state is ChildState.DELETING:
            return None
        if self.state is ChildState.REPLACED or self.is_rekeying:
            return self.ends_at
        return min(self.rekey_at, self.ends_at)


def selector_set(selectors: Selectors) -> SelectorSet:
    """Return the selectors without an order: both sides may list them differently."""
    return frozenset(selectors.local), frozenset(selectors.remote)


def soft_packets(lifetimes: Lifetimes, *, extended: bool, fraction: float) -> int:
    """Return after how many packets a child SA is to be replaced."""
    most = lifetimes.child_packets if extended else min(lifetimes.child_packets, _MOST_SHORT_PACKETS)
    return int(most * (1 - JITTER * fraction))
