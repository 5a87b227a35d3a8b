"""One site's peer: the sessions with it that come and go, and who starts the next one when.

A tunnel that shall be up is tried for ever, with pauses that grow to half a
minute. For a while there can be several sessions: while the peer's new one
replaces that from before its reboot, after a change of secrets, and where both
sides have called each other at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from policies.ipsec import SiteStart
from policies.token_bucket import TokenBucket
from tunnels.effects import IKE_PORT, Effect, Endpoint, Path
from tunnels.ike.entropy import Entropy
from tunnels.ike.life import State
from tunnels.ike.policy import PeerPolicy
from tunnels.ike.session import IkeSession
from tunnels.ike.spis import NO_SPI
from tunnels.retransmit import Backoff

_PAUSES = Backoff(first=1.0, factor=2.0, ceiling=30.0, jitter=0.5)

# A session that ends sooner than this has solved nothing: the pauses go on growing.
LASTING = 30.0
# Seconds in which two established sessions count as both sides' call at the same time.
AT_ONCE = 10.0
# How long a session by an old secret may stand while none by the new one can be had, in seconds.
REAUTHENTICATE_WITHIN = 300.0
# Times a second that a peer may call us and prove who it is; more often counts like a failure.
CALLS = 3.0

RECONFIGURED = "its configuration has changed"
REPLACED = "another IKE SA has replaced it"
REMOVED = "removed from the configuration"
STOPPED = "this node stops"

Dial = Callable[[PeerPolicy, Path, bool], IkeSession]
"""Makes a session that calls the peer, and may say that it is the only one."""


class Peer:
    """What is going on with the peer of one site."""

    def __init__(self, policy: PeerPolicy, entropy: Entropy, dial: Dial) -> None:
        self.policy = policy
        self.sessions: list[IkeSession] = []
        """Oldest first. What has closed is forgotten by `heed`."""
        self.deadline: float | None = None
        """When `handle_timeout` wants calling."""
        self.calls = TokenBucket(CALLS, CALLS)
        """How often the peer may call and prove itself at no cost."""
        self._entropy = entropy
        self._dial = dial
        self._established: set[IkeSession] = set()
        self._pauses = 0
        self._retry_at: float | None = None
        self._rests_until = -math.inf
        """Until when no packet makes us call again, after a call that came to nothing."""
        self._redundant: dict[IkeSession, float] = {}
        """Sessions to be closed, and when."""
        self._is_removed = False

    @property
    def session(self) -> IkeSession | None:
        """The newest established session."""
        established = (each for each in reversed(self.sessions) if each.state is State.ESTABLISHED)
        return next(established, None)

    @property
    def is_connecting(self) -> bool:
        return any(each.state in (State.CONNECTING, State.HALF_OPEN) for each in self.sessions)

    @property
    def is_over(self) -> bool:
        """Removed from the configuration, and nothing is left of it."""
        return self._is_removed and not self.sessions

    @property
    def retry_at(self) -> float | None:
        """When the next attempt begins, if one waits."""
        return self._retry_at

    def begin(self, now: float) -> list[Effect]:
        """Dial, where the policy says that we start."""
        return self._connect(now) if self.policy.start is SiteStart.START else []

    def wanted(self, now: float) -> list[Effect]:
        """A packet wants to go there: dial, unless that is under way or has just failed."""
        if self.session is not None:
            return self.session.wanted(now)
        if self.sessions or self._retry_at is not None or self.policy.start is SiteStart.RESPOND:
            return []
        if now < self._rests_until:
            return []
        return self._connect(now)

    def reconfigure(self, policy: PeerPolicy, now: float) -> list[Effect]:
        """Hold the peer to a changed policy: authenticate again, and only then let the old session go."""
        if policy == self.policy:
            return []
        self.policy = policy
        self._pauses = 0
        self._retry_at = None
        self._rests_until = -math.inf
        effects: list[Effect] = []
        for each in list(self.sessions):
            if each.state in (State.CONNECTING, State.HALF_OPEN):
                effects += self._drop(each, now)
            elif each.state is State.ESTABLISHED and self._may_dial:
                self._redundant.setdefault(each, now + REAUTHENTICATE_WITHIN)
            else:
                effects += each.close(now, RECONFIGURED)
        if self._may_dial and (policy.start is SiteStart.START or self._redundant):
            effects += self._connect(now)
        self._reckon()
        return effects

    def remove(self, now: float, why: str = REMOVED) -> list[Effect]:
        """End everything, at the peer too, and say why."""
        self._is_removed = True
        self._retry_at = None
        effects: list[Effect] = []
        for each in list(self.sessions):
            is_begun = each.state in (State.CONNECTING, State.HALF_OPEN)
            effects += self._drop(each, now) if is_begun else each.close(now, why)
        self._reckon()
        return effects

    def heed(self, session: IkeSession, now: float) -> list[Effect]:
        """Take note of what has become of a session after something happened to it."""
        effects: list[Effect] = []
        if session.successor is not None and session.successor not in self.sessions:
            self._succeeded(session, session.successor)
        if session.state is State.CLOSED:
            effects += self._closed(session, now)
        else:
            if session not in self.sessions:
                self.sessions.append(session)
            if session.state is State.ESTABLISHED and session not in self._established:
                effects += self._opened(session, now)
        self._reckon()
        return effects

    def handle_timeout(self, now: float) -> list[Effect]:
        """Do what is due: dial again, close what is redundant."""
        effects: list[Effect] = []
        for session, when in list(self._redundant.items()):
            if when <= now:
                del self._redundant[session]
                effects += session.close(now, RECONFIGURED if session.policy != self.policy else REPLACED)
        if self._retry_at is not None and self._retry_at <= now:
            self._retry_at = None
            effects += self._connect(now)
        self._reckon()
        return effects

    @property
    def _may_dial(self) -> bool:
        return self.policy.remote_address is not None and self.policy.start is not SiteStart.RESPOND

    def _connect(self, now: float) -> list[Effect]:
        path = self._path()
        if path is None or self._is_removed:
            return []
        is_only_one = not any(each.state is State.ESTABLISHED for each in self.sessions)
        session = self._dial(self.policy, path, is_only_one)
        self.sessions.append(session)
        return session.start(now)

    def _path(self) -> Path | None:
        remote = self.policy.remote_address
        if remote is None:
            return None
        for local in self.policy.local_addresses:
            if local.version == remote.version:
                return Path(Endpoint(local, IKE_PORT), Endpoint(remote, IKE_PORT))
        return None

    def _opened(self, session: IkeSession, now: float) -> list[Effect]:
        self._established.add(session)
        self._retry_at = None
        effects: list[Effect] = []
        for other in list(self.sessions):
            if other is session or other.state is State.CLOSING:
                continue
            if other.state is not State.ESTABLISHED:
                # A call of ours that the peer has not answered is not needed any more. Once it has, it may
                # take the IKE SA for established; and what the peer has begun is its own affair.
                if session.policy == self.policy and other.is_initiator and other.peer_spi == NO_SPI:
                    effects += self._drop(other, now)
            elif self._called_at_once(session, other, now):
                loser = max(session, other, key=lambda each: each.initiator_spi)
                # Who made the loser closes it at once; if that doesn't happen, the other does.
                self._redundant[loser] = now if loser.is_initiator else now + AT_ONCE
            elif session.is_initial_contact:
                effects += self._drop(other, now)  # the peer has forgotten it
            else:
                self._redundant[other] = now
        return effects

    def _succeeded(self, session: IkeSession, successor: IkeSession) -> None:
        """The IKE SA has been rekeyed: what was true of the old one is true of the new one."""
        self.sessions.append(successor)
        self._established.add(successor)
        if session in self._redundant:
            self._redundant[successor] = self._redundant.pop(session)

    def _called_at_once(self, session: IkeSession, other: IkeSession, now: float) -> bool:
        began = other.established_at
        return (
            session.is_initiator != other.is_initiator
            and session.policy == other.policy
            and began is not None
            and now - began < AT_ONCE
        )

    def _closed(self, session: IkeSession, now: float) -> list[Effect]:
        if session not in self.sessions:
            return []
        self.sessions.remove(session)
        self._redundant.pop(session, None)
        was_up = session in self._established
        self._established.discard(session)
        self._reprieve()
        if session.successor is not None or self._is_removed or self._retry_at is not None:
            return []
        if any(each.state is not State.CLOSED for each in self.sessions if each not in self._redundant):
            return []
        if was_up and session.established_at is not None and now - session.established_at >= LASTING:
            self._pauses = 0
        self._pauses += 1
        pause_ends = now + _PAUSES.delay(self._pauses, self._entropy.fraction())
        if self.policy.start is SiteStart.START or (self._redundant and self._may_dial):
            self._retry_at = pause_ends
        elif not was_up:
            self._rests_until = pause_ends
        return []

    def _reprieve(self) -> None:
        """Keep the newest session that was to be closed in favour of others, once all of those have gone.

        Both sides may have called at once, as it seems to one, while the other has authenticated again.
        """
        standing = [each for each in self.sessions if each.state is State.ESTABLISHED]
        if any(each not in self._redundant for each in standing):
            return
        kept = next((each for each in reversed(standing) if each.policy == self.policy), None)
        if kept is not None:
            del self._redundant[kept]

    def _drop(self, session: IkeSession, now: float) -> list[Effect]:
        """End a session without a word to the peer; `heed` forgets it."""
        self._redundant.pop(session, None)
        return session.abandon(now)

    def _reckon(self) -> None:
        wanted = [*self._redundant.values()]
        if self._retry_at is not None:
            wanted.append(self._retry_at)
        self.deadline = min(wanted, default=None)
