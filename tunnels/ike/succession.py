"""The rekey of an IKE SA, as its sessions see it: who gets the children, and who deletes whom."""

from __future__ import annotations

from typing import Self

from tunnels.effects import Effect
from tunnels.ike import informational
from tunnels.ike.exchange import PATIENT
from tunnels.ike.ike_rekey import Discard, GiveUp, NewIkeSa, ReplacedBy
from tunnels.ike.ike_sa import IkeSa
from tunnels.ike.life import FAREWELL, Life, State

# How long the peer has to delete an IKE SA that is its to delete; then we do, in seconds.
DELETED_WITHIN = 30.0


class Succession(Life):
    """An IKE SA that may replace another and be replaced."""

    def go_on(self, now: float) -> list[Effect]:
        """Do what has become possible: carry out what the children decided, and ask what they want asked."""
        if self.children is None or self._exchanges is None:
            return []
        effects = self.settle(now)
        if self.state is State.ESTABLISHED:
            for task in self.children.take_tasks():
                self._exchanges.submit(task)
        elif self.successor is not None:
            effects += self.successor.go_on(now)
        backoff = FAREWELL if self.state is State.CLOSING else PATIENT
        return effects + self._exchanges.send_next(self.path, now, backoff)

    def settle(self, now: float) -> list[Effect]:
        """Carry out what has become of the IKE SA by rekeying."""
        if self.predecessor is not None and self.state is State.CONNECTING:
            return self.predecessor.settle(now)
        effects: list[Effect] = []
        for outcome in self.children.take_outcomes() if self.children is not None else ():
            match outcome:
                case NewIkeSa(sa):
                    self._session_of(sa)
                case ReplacedBy(sa):
                    effects += self._hand_over(self._session_of(sa), now)
                case Discard(sa):
                    effects += self._session_of(sa).await_deletion(now)
                case GiveUp(reason):
                    effects += (self.successor or self).close(now, reason)
        return effects

    def _session_of(self, sa: IkeSa) -> Self:
        known = self.offspring.get(sa.own_spi)
        if known is not None:
            return known
        new = type(self)(self.policy, sa.own_spi, self._route, self._entropy, self._allocate_spi)
        new.open(sa, next_own=0, next_peers=0, may_fragment=self._protected.may_fragment)
        new.children = self.children
        new.predecessor = self
        self.offspring[sa.own_spi] = new
        return new

    def _hand_over(self, new: Self, now: float) -> list[Effect]:
        """Leave the children to the IKE SA that replaces this one, whose initiator deletes this one."""
        if new.state is State.CLOSED:
            return self.close(now, "the peer has deleted the IKE SA that was to replace this one")
        new.become_established(now)
        self.successor = new
        self._protected.withdraw()
        effects: list[Effect] = []
        self.state = State.CLOSING
        if new.is_initiator:
            effects += self._say_last(informational.goodbye(), now)
        else:
            self._expires_at = now + DELETED_WITHIN
        return effects + new.go_on(now)

    def await_deletion(self, now: float) -> list[Effect]:
        """End an IKE SA that another was preferred to; its initiator deletes it, and may have done so."""
        if self.state is State.CLOSED:
            return []
        self.state = State.CLOSING
        if self.is_initiator:
            return self._say_last(informational.goodbye(), now)
        self._expires_at = now + DELETED_WITHIN
        return []
