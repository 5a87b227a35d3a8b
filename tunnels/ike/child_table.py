"""The child SAs that are installed under an IKE SA, and what is asked about them just now."""

from __future__ import annotations

from collections.abc import Iterator

from policies.ipsec import SiteStart
from tunnels.effects import Cause, Effect, InstallChild, RemoveChild, SendBy, SiteRekeyed, SiteTrouble
from tunnels.ike.child import REMAKE, Child, ChildState, SelectorSet, Want
from tunnels.ike.child_terms import Terms
from tunnels.ike.child_wants import Wants
from tunnels.ike.constants import NotifyType
from tunnels.ike.exchange import Task
from tunnels.ike.ike_sa import IkeSa
from tunnels.ike.rejected import cause_of

# Child SAs that a peer may make beyond four for each that policy names.
_SPARE = 16

# A peer that wants another group so many times in a row waits for its next request.
MOST_REGROUPINGS = 5


class ChildTable:
    """`sa` is the IKE SA that they belong to now; what was queued under another is no longer asked."""

    def __init__(self, sa: IkeSa, terms: Terms) -> None:
        self.sa = sa
        self.terms = terms
        self.limit = 4 * len(terms.policy.children) + _SPARE
        self.wants = Wants(terms.policy.children, self.limit)
        self.asked: Task | None = None
        """Our request about child SAs that is unanswered."""
        self.unwanted: list[int] = []
        """SPIs of ours that the peer knows and we don't: it is to delete them."""
        self.is_deletion_queued = False
        self.put_off_since: float | None = None
        """Since when the peer has answered TEMPORARY_FAILURE and nothing else."""
        self._regroupings = 0
        self._children: dict[int, Child] = {}
        self._senders: dict[SelectorSet, Child] = {}
        self._deleted_early: set[int] = set()

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children.values())

    def __len__(self) -> int:
        return len(self._children)

    def __contains__(self, child: Child) -> bool:
        return self._children.get(child.sa.inbound_spi) is child

    def get(self, inbound_spi: int) -> Child | None:
        """Find a child SA by the SPI that we receive at."""
        return self._children.get(inbound_spi)

    def by_peers(self, spi: bytes) -> Child | None:
        """Find a child SA by the SPI that the peer receives at."""
        number = int.from_bytes(spi) if len(spi) == 4 else None
        return next((each for each in self if each.sa.outbound_spi == number), None)

    def covers(self, want: Want) -> bool:
        """Whether there is a child SA for what policy wants, not about to go."""
        return any(each.want is want and each.state is not ChildState.DELETING for each in self)

    def install(self, child: Child, *, sending: bool) -> list[Effect]:
        """Receive by a child SA from now on, and send by it if told so."""
        self._children[child.sa.inbound_spi] = child
        if sending:
            self._senders[child.selector_set] = child
        return [InstallChild(child.sa, sending)]

    def is_sent_by(self, selectors: SelectorSet) -> bool:
        """Whether there is a child SA that packets of these selectors are sent by."""
        return selectors in self._senders

    def remove(self, child: Child) -> list[Effect]:
        """Take a child SA away, and have what is left sent by the one that follows it."""
        del self._children[child.sa.inbound_spi]
        for each in self:
            if each.state is ChildState.REPLACED and each.successor is child:
                # Its successor went first, so it is in use again until it is replaced by another.
                each.state, each.successor = ChildState.CURRENT, None
        effects: list[Effect] = []
        if self._senders.get(child.selector_set) is child:
            del self._senders[child.selector_set]
            heir = self._heir(child)
            if heir is not None:
                self._senders[heir.selector_set] = heir
                effects.append(SendBy(heir.sa.inbound_spi))
        return [*effects, RemoveChild(child.sa.inbound_spi, linger=True)]

    def retire(self, child: Child, now: float, *, by_peer: bool) -> list[Effect]:
        """Remove what has been deleted; where nothing replaces it, report it and have it made again."""
        effects = self.remove(child)
        site, want = self.terms.policy.site, child.want
        if child.successor is not None:
            is_rekeyed = by_peer and child.state is ChildState.REPLACED
            return [*effects, SiteRekeyed(site, child.sa.name)] if is_rekeyed else effects
        if self.covers(want):
            return effects
        if self.terms.policy.start is SiteStart.START and want.due is None and not want.is_asked:
            want.due = now + self.terms.pause(REMAKE, 1)
        if by_peer:
            effects.append(SiteTrouble(site, f"the peer has deleted child SA {child.sa.name}"))
        return effects

    def clear(self, *, linger: bool) -> list[Effect]:
        """Remove all of them."""
        effects: list[Effect] = [RemoveChild(spi, linger) for spi in self._children]
        self._children.clear()
        self._senders.clear()
        return effects

    def take_deletions(self) -> tuple[list[int], list[Child]]:
        """Return the SPIs that the next Delete names, and those of our child SAs among them."""
        gone = [each for each in self if each.state is ChildState.DELETING and not each.is_delete_sent]
        for each in gone:
            each.is_delete_sent = True
        spis = [each.sa.inbound_spi for each in gone] + self.unwanted
        self.unwanted = []
        self.is_deletion_queued = False
        return spis, gone

    @property
    def has_deletions(self) -> bool:
        """Whether the peer is to delete something and has not been told."""
        return bool(self.unwanted) or any(
            each.state is ChildState.DELETING and not each.is_delete_sent for each in self
        )

    def begin(self, task: Task) -> None:
        """Remember that a request about child SAs is unanswered."""
        self.asked = task
        self._deleted_early.clear()

    def end(self, task: Task) -> None:
        """Forget it."""
        if self.asked is task:
            self.asked = None

    def delete_early(self, spi: bytes) -> None:
        """Remember that the peer has deleted a child SA that we don't know.

        It may be the one that we have asked for, as the answer may come after the deletion.
        Whoever deletes more than there can be wants only to fill our memory.
        """
        if self.asked is not None and len(self._deleted_early) < self.limit:
            self._deleted_early.add(int.from_bytes(spi))

    def was_deleted_early(self, outbound_spi: int) -> bool:
        """Whether the peer has deleted what its answer speaks of."""
        return outbound_spi in self._deleted_early

    def may_regroup(self) -> bool:
        """Whether to ask at once with the group that the peer wants, which may be another each time."""
        self._regroupings = (self._regroupings + 1) % MOST_REGROUPINGS
        return self._regroupings > 0

    def agreed(self) -> None:
        """A request has led to an SA, so the peer knows what it wants."""
        self._regroupings = 0
        self.put_off_since = None

    def complain(self, error: int | None, words: str, now: float) -> list[Effect]:
        """Report a request that failed; TEMPORARY_FAILURE is part of every day (section 2.25)."""
        if error != NotifyType.TEMPORARY_FAILURE:
            self.put_off_since = None
            cause = Cause.OTHER if error is None else cause_of(error)
            return [SiteTrouble(self.terms.policy.site, words, cause)]
        if self.put_off_since is None:
            self.put_off_since = now
        return []

    def _heir(self, child: Child) -> Child | None:
        heir = child.successor
        while heir is not None and heir not in self:
            heir = heir.successor
        if heir is not None and heir.state is not ChildState.DELETING:
            return heir
        same = [each for each in self if each.selector_set == child.selector_set]
        return next((each for each in reversed(same) if each.state is not ChildState.DELETING), None)
