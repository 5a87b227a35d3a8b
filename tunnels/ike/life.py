"""What every part of a session's life builds on: its state, where it sends, and how it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import Self

from policies.ipsec import IkeSuite
from tunnels.effects import Effect, MoveChildren, Path, SiteDown
from tunnels.ike import informational
from tunnels.ike.children import Children
from tunnels.ike.entropy import Entropy
from tunnels.ike.exchange import Exchanges
from tunnels.ike.ike_sa import IkeSa
from tunnels.ike.informational import Telling
from tunnels.ike.liveness import KEEPALIVE, Liveness
from tunnels.ike.nat import Nat, Route
from tunnels.ike.policy import PeerPolicy
from tunnels.ike.sa_init import Agreed, Initiation
from tunnels.ike.spis import NO_SPI, SpiAllocator
from tunnels.retransmit import Backoff

# How long the last response of a session that has ended is still repeated for the peer, in seconds.
LINGER = 5.0
# Whoever leaves does not wait long for the answer.
FAREWELL = Backoff(first=0.5, factor=2.0, attempts=3)


class State(Enum):
    """Where a session is in its life."""

    CONNECTING = "connecting"
    """We call, and nobody has proved anything; or a rekey has made it and has not been decided yet."""
    HALF_OPEN = "half-open"
    """The peer calls, and has not proved who it is."""
    ESTABLISHED = "established"
    """Both sides have proved who they are."""
    CLOSING = "closing"
    """It carries nothing any more, and is being deleted at the peer or by it."""
    CLOSED = "closed"
    """It has ended. As long as it has a deadline it repeats its last response for a peer that missed it."""


class Life:
    """One IKE SA, in whatever state it is."""

    def __init__(
        self,
        policy: PeerPolicy | None,
        own_spi: bytes,
        route: Route,
        entropy: Entropy,
        allocate_spi: SpiAllocator,
    ) -> None:
        self.policy = policy
        """None until a peer that called has shown whose it is."""
        self.own_spi = own_spi
        self.peer_spi = NO_SPI
        self.is_initiator = True
        self.state = State.CONNECTING
        self.suite: IkeSuite | None = None
        self.established_at: float | None = None
        self.is_initial_contact = False
        """Whether the peer says that it knows of no other IKE SA with us (RFC 7296 section 2.4)."""
        self.failure: str | None = None
        """Why it has ended, for people."""
        self.children: Children | None = None
        self.successor: Self | None = None
        """The session that has this one's children, after a rekey of the IKE SA."""
        self.predecessor: Self | None = None
        self.offspring: dict[bytes, Self] = {}
        """The sessions of IKE SAs that a rekey has made, by our SPI: two where both sides ask for it."""
        self._route = route
        self._entropy = entropy
        self._allocate_spi = allocate_spi
        self._policies: Sequence[PeerPolicy] = () if policy is None else (policy,)
        self._initiation: Initiation | None = None
        self._says_initial_contact = False
        self._agreed: Agreed | None = None
        self._introduction: Telling | None = None
        self._sa: IkeSa | None = None
        self._exchanges: Exchanges | None = None
        self._liveness: Liveness | None = None
        self._expires_at: float | None = None
        self._keepalive_at = math.inf

    @property
    def initiator_spi(self) -> bytes:
        return self.own_spi if self.is_initiator else self.peer_spi

    @property
    def path(self) -> Path:
        """Where we send now."""
        return self._route.path

    @property
    def nat(self) -> Nat:
        """What IKE_SA_INIT has shown of NATs on the path."""
        return self._route.nat

    @property
    def in_udp(self) -> bool:
        """Whether ESP goes in UDP."""
        return self._route.in_udp

    @property
    def kin(self) -> tuple[Self, ...]:
        """The other sessions of a rekey that is going on: what happens to one may change them all."""
        older = () if self.predecessor is None else (self.predecessor, *self.predecessor.offspring.values())
        return tuple(each for each in (*older, *self.offspring.values()) if each is not self)

    def close(self, now: float, reason: str = "closed here") -> list[Effect]:
        """End the session at the peer too; `state` is CLOSED once that has answered, or after some tries."""
        if self.state is State.CLOSING:
            return []
        if self.state is not State.ESTABLISHED or self.children is None:
            return self.abandon(now, reason)
        self.state = State.CLOSING
        self.failure = reason
        effects = [*self.children.close(linger=True), SiteDown(self._site_policy.site, reason)]
        return effects + self._say_last(informational.goodbye(), now)

    def abandon(self, now: float, reason: str = "closed here") -> list[Effect]:
        """End the session without a word to the peer, which knows it, or can't be told."""
        effects: list[Effect] = []
        if self.state is State.ESTABLISHED and self.children is not None:
            effects += [*self.children.close(linger=False), SiteDown(self._site_policy.site, reason)]
        self.failure = self.failure or reason
        self.finish(now)
        return effects

    def open(self, sa: IkeSa, *, next_own: int, next_peers: int, may_fragment: bool) -> Exchanges:
        """Exchange protected messages from now on."""
        self._sa, self.suite = sa, sa.suite
        self.peer_spi, self.is_initiator = sa.peer_spi, sa.is_initiator
        self._exchanges = Exchanges(sa, self._entropy, next_own=next_own, next_peers=next_peers)
        self._exchanges.may_fragment = may_fragment
        return self._exchanges

    def become_established(self, now: float) -> None:
        """Take the children, and watch over the peer."""
        self.state = State.ESTABLISHED
        self.established_at = now
        self._expires_at = None
        self._liveness = Liveness(self._site_policy.liveness, now)
        if self.nat.ours:
            self._keepalive_at = now + KEEPALIVE

    def _follow(self, path: Path) -> list[Effect]:
        was = self.path
        if not self._route.follow(path) or self.children is None or not self.children.spis:
            return []
        is_same = (was.local.address, was.remote.address) == (path.local.address, path.remote.address)
        return [] if is_same and not self.in_udp else [MoveChildren(self.children.spis, path)]

    def _say_last(self, telling: Telling, now: float) -> list[Effect]:
        exchanges = self._protected
        exchanges.withdraw()
        exchanges.submit(telling)
        self._expires_at = None
        return exchanges.hasten(FAREWELL, self.path, now)

    def finish(self, now: float) -> None:
        """Let go of everything but the last response, which the peer may have missed."""
        self.state = State.CLOSED
        self.children = self._agreed = self._initiation = self._introduction = None
        self._expires_at = None
        if self._exchanges is not None:
            self._exchanges.discard()
            if self._exchanges.has_responded:
                self._expires_at = now + LINGER
            else:
                self._exchanges = None
        for each in self.offspring.values():
            each.predecessor = None
            if each.state is State.CONNECTING:
                each.finish(now)

    def _give_children(self, policy: PeerPolicy, sa: IkeSa, now: float) -> Children:
        route = self._route
        route.is_forced = policy.force_udp
        self.children = Children(
            sa, policy, self._entropy, lambda: (route.path, route.in_udp), self._allocate_spi, now
        )
        return self.children

    @property
    def _site_policy(self) -> PeerPolicy:
        if self.policy is None:
            raise ValueError("whose session it is shows IKE_AUTH")
        return self.policy

    @property
    def _the_sa(self) -> IkeSa:
        if self._sa is None:
            raise ValueError("an IKE SA comes of IKE_SA_INIT")
        return self._sa

    @property
    def _protected(self) -> Exchanges:
        if self._exchanges is None:
            raise ValueError("messages are protected after IKE_SA_INIT")
        return self._exchanges
