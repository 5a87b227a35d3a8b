"""The hosts and gateways that follow: what each is told, what it has learned, and how long that took.

A follower is one name; it may have several watches. It acknowledges what it has applied, to every
lookup node: so a claim can say who has learned of it, wherever it is made and whoever has the watch.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

import msgspec

from gateway.http.measures import Histogram
from gateway.http.principals import Principal
from gateway.lookup.entries import RecordKey
from policies.services import Role

log = logging.getLogger("isthmus.lookup")

MOVES_KEPT = 1000
MOVES_PENDING = 1000
MOST_TAUGHT = 65536
"""Records that one host can be taught; the oldest is forgotten first."""
MOST_ELSEWHERE = 65536
ELSEWHERE_SECONDS = 60.0
"""How long what a follower of another lookup node has acknowledged holds; it says so again every 20 s."""


class Interest(Protocol):
    """One watch of a follower."""

    def covers(self, key: RecordKey) -> bool:
        """Whether changes of a record are told on it."""
        ...

    def teach(self, key: RecordKey) -> None:
        """Tell how a record is now, soon."""
        ...


class NodeStatus(msgspec.Struct, frozen=True):
    """A follower that is connected.

    `behind`: for how many seconds it has been told something that it has not acknowledged.
    """

    name: str
    role: Role
    revision: int
    behind: float
    connected_seconds: float


class Convergence(msgspec.Struct, frozen=True):
    """From a claim's arrival to the last acknowledgement of it, over the last moves."""

    moves: int
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None


class _Follower:
    def __init__(self, principal: Principal, now: float) -> None:
        self.principal = principal
        self.watches: list[Interest] = []
        self.is_local = False
        self.acknowledged = 0
        self.sent = 0
        self.waiting_since: float | None = None
        self.connected_at = now

    def wants(self, keys: Collection[RecordKey]) -> bool:
        return self.is_local or any(watch.covers(key) for watch in self.watches for key in keys)


class _Elsewhere(msgspec.Struct, frozen=True, gc=False):
    """What a follower whose watch is at another lookup node has acknowledged here too."""

    acknowledged: int
    heard_at: float


class Learning:
    """Who has yet to acknowledge a revision.

    `remaining` are of those who watch here, `elsewhere` of those who are waited for and watch at other nodes.
    """

    def __init__(
        self,
        revision: int,
        remaining: set[str],
        elsewhere: set[str],
        present: frozenset[str],
        began: float | None,
    ) -> None:
        self.revision = revision
        self.remaining = remaining
        self.elsewhere = elsewhere
        self.present = present
        self.began = began
        self.told = len(remaining) + len(elsewhere)
        """How many were to learn of it."""
        self.seconds: float | None = None
        """From when it began until all of those who watch here had learned."""
        self._waiting: list[tuple[frozenset[str], asyncio.Future[None]]] = []

    async def wait(self, names: Iterable[str], timeout: float) -> dict[str, bool]:
        """Wait for those of the names that follow; return for each whether it has learned."""
        wanted = frozenset(names)
        if self._lacks(wanted) and timeout > 0:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((wanted, future))
            await asyncio.wait([future], timeout=timeout)
            self._waiting.remove((wanted, future))
        lacking = self._lacks(wanted)
        return {name: name in self.present and name not in lacking for name in sorted(wanted)}

    def discard(self, name: str) -> None:
        """One has learned."""
        self.remaining.discard(name)
        self.elsewhere.discard(name)
        for wanted, future in self._waiting:
            if not future.done() and not self._lacks(wanted):
                future.set_result(None)

    def leave(self, name: str) -> None:
        """One has gone: if it has not learned yet, it cannot be waited for."""
        if name in self.remaining:
            self.present -= {name}
            self.discard(name)

    def _lacks(self, wanted: frozenset[str]) -> frozenset[str]:
        return wanted & (self.remaining | self.elsewhere)


class Followers:
    """Everybody who follows this lookup node."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._followers: dict[str, _Follower] = {}
        self._elsewhere: dict[str, _Elsewhere] = {}  # those heard of longest ago come first
        self._taught: dict[str, dict[RecordKey, None]] = {}
        self._learning: deque[Learning] = deque()
        # Each for as long as its claim waits for it.
        self._awaited: weakref.WeakSet[Learning] = weakref.WeakSet()
        self._moves: deque[float] = deque(maxlen=MOVES_KEPT)
        self.convergences = Histogram()
        """From a move's claim to the last acknowledgement of it, since the start."""

    def connect(self, principal: Principal, watch: Interest) -> None:
        """A watch of a host or a gateway has begun."""
        follower = self._followers.get(principal.name)
        if follower is None:
            follower = self._followers[principal.name] = _Follower(principal, self._clock())
            known = self._elsewhere.pop(principal.name, None)
            if known is not None:
                follower.acknowledged = known.acknowledged
            _say(principal, "node-follows", "follows")
        follower.watches.append(watch)

    def disconnect(self, principal: Principal, watch: Interest) -> None:
        """A watch has ended; with its last one, a follower is gone."""
        follower = self._followers.get(principal.name)
        if follower is None or watch not in follower.watches:
            return
        follower.watches.remove(watch)
        if follower.watches or follower.is_local:
            return
        del self._followers[principal.name]
        _say(principal, "node-gone", "has gone")
        for learning in self._learning:
            learning.leave(principal.name)
        self._settle()

    def told(self, name: str, revision: int) -> None:
        """Changes up to a revision have been written to a follower's watch."""
        follower = self._followers.get(name)
        if follower is not None and revision > follower.sent:
            follower.sent = revision
            if follower.waiting_since is None and follower.acknowledged < revision:
                follower.waiting_since = self._clock()

    def acknowledge(self, principal: Principal, revision: int, *, is_local: bool) -> None:
        """A follower has applied everything up to a revision, whether it watches here or elsewhere."""
        for learning in self._awaited:
            if learning.revision <= revision:
                learning.discard(principal.name)
        follower = self._followers.get(principal.name)
        if follower is None:
            if not is_local:
                self._hear(principal.name, revision)
                return
            follower = self._followers[principal.name] = _Follower(principal, self._clock())
        follower.is_local |= is_local
        if revision <= follower.acknowledged:
            return
        follower.acknowledged = revision
        follower.waiting_since = None if revision >= follower.sent else self._clock()
        for learning in self._learning:
            if learning.revision > revision:
                break
            learning.discard(principal.name)
        self._settle()

    def _hear(self, name: str, revision: int) -> None:
        now = self._clock()
        self._elsewhere.pop(name, None)
        self._elsewhere[name] = _Elsewhere(revision, now)
        first = next(iter(self._elsewhere))
        if len(self._elsewhere) > MOST_ELSEWHERE or self._elsewhere[first].heard_at + ELSEWHERE_SECONDS < now:
            del self._elsewhere[first]

    def learn(
        self,
        revision: int,
        keys: Collection[RecordKey],
        began: float | None,
        named: Collection[str] = (),
    ) -> Learning:
        """Begin to count who has learned of a change of some records.

        `began` is when a move's claim arrived, by the clock; None where nothing has moved. Of those
        who watch at other lookup nodes, those `named` are counted. What these are told is not known
        here, so each is to acknowledge the revision; how long that takes is no part of `convergence`.
        """
        remaining = {
            name
            for name, follower in self._followers.items()
            if follower.acknowledged < revision and follower.wants(keys)
        }
        oldest = self._clock() - ELSEWHERE_SECONDS
        elsewhere = {
            name: known.acknowledged
            for name in named
            if (known := self._elsewhere.get(name)) is not None and known.heard_at >= oldest
        }
        lacking = {name for name, acknowledged in elsewhere.items() if acknowledged < revision}
        present = frozenset(self._followers).union(elsewhere)
        learning = Learning(revision, remaining, lacking, present, began)
        if lacking:
            self._awaited.add(learning)
        if remaining:
            at = len(self._learning)
            while at and self._learning[at - 1].revision > revision:
                at -= 1
            self._learning.insert(at, learning)
            if len(self._learning) > MOVES_PENDING:
                self._learning.popleft()
        else:
            self._converged(learning)
        return learning

    def teach(self, host: str, key: RecordKey) -> None:
        """Have a host told of a record, now and from now on."""
        self.use(host, key)
        self._tell(host, key)

    def use(self, host: str, key: RecordKey) -> None:
        """A host is told of a record from now on."""
        taught = self._taught.setdefault(host, {})
        taught.pop(key, None)
        taught[key] = None
        if len(taught) > MOST_TAUGHT:
            self.forget(host, next(iter(taught)))

    def forget(self, host: str, key: RecordKey) -> None:
        """A host is not told of a record any more; it is told that it is gone."""
        taught = self._taught.get(host, {})
        if key in taught:
            del taught[key]
            self._tell(host, key)

    def _tell(self, host: str, key: RecordKey) -> None:
        follower = self._followers.get(host)
        if follower is not None:
            for watch in follower.watches:
                watch.teach(key)

    def taught(self, host: str) -> Collection[RecordKey]:
        """Return what a host has been taught, a view that changes with it."""
        return self._taught.setdefault(host, {}).keys()

    def nodes(self) -> list[NodeStatus]:
        """Return everybody who is connected."""
        now = self._clock()
        return [
            NodeStatus(
                name=name,
                role=each.principal.role,
                revision=each.acknowledged,
                behind=0.0 if each.waiting_since is None else now - each.waiting_since,
                connected_seconds=now - each.connected_at,
            )
            for name, each in sorted(self._followers.items())
        ]

    def convergence(self) -> Convergence:
        """Return how long the last moves took to be learned by everybody."""
        moves = list(self._moves)
        if len(moves) < 2:
            only = moves[0] * 1000 if moves else None
            return Convergence(len(moves), only, only, only)
        cuts = statistics.quantiles(moves, n=100, method="inclusive")
        return Convergence(len(moves), cuts[49] * 1000, cuts[98] * 1000, max(moves) * 1000)

    def _settle(self) -> None:
        """Take the time of the moves that everybody has learned of."""
        done = [learning for learning in self._learning if not learning.remaining]
        for learning in done:
            self._learning.remove(learning)
            self._converged(learning)

    def _converged(self, learning: Learning) -> None:
        if learning.began is not None:
            learning.seconds = self._clock() - learning.began
            self._moves.append(learning.seconds)
            self.convergences.tell(learning.seconds)


def _say(principal: Principal, event: str, what: str) -> None:
    about = {"event": event, "host": principal.name, "what": principal.role.value}
    log.info("the %s %s %s", principal.role.value, principal.name, what, extra=about)
