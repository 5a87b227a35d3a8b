"""All child SAs of one IKE SA, and the rekey of the IKE SA itself (RFC 7296 sections 1.3, 2.8, 2.9 and 2.25).

Payloads come in, payloads and effects go out; the messages and their order are
the session's. After each call the session takes `take_tasks()`, requests of
ours for it to submit, and `take_outcomes()`, what becomes of the IKE SA
(`ike_rekey` says what each means).

When an IKE SA is replaced, the one `Children` object goes over to the new
one, so each request is handed in with the IKE SA that it came by. A rekey
never leaves a gap: the new pair is there in both places before the old one
goes. Whoever asked for the rekey sends by the new pair at once and deletes the
old one; the other side sends by it when that deletion, or a packet, arrives.

Of two child SAs that collide the one with the lowest nonce goes. The RFC has
this rule for rekeys only (section 2.8.1). Here it settles too what two sides
make anew at the same time with the same selectors, but nothing that a
peer adds on purpose: parallel child SAs are its right (section 2.8).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from policies.ipsec import Group, SiteStart
from policies.selectors import Selectors
from tunnels.effects import (
    ChildSa,
    Effect,
    InstallChild,
    Path,
    RemoveChild,
    SendBy,
    SiteRekeyed,
    SiteTrouble,
)
from tunnels.ike.child import (
    HARD,
    JITTER,
    REMAKE,
    REPLACED_FOR,
    RETRY,
    Child,
    SelectorSet,
    State,
    Want,
    selector_set,
    soft_packets,
)
from tunnels.ike.child_exchange import (
    Agreed,
    ChildOffer,
    Nonces,
    answer_child,
    error_in,
    find,
    group_asked,
    pairs,
    tidied,
)
from tunnels.ike.child_tasks import CreateChild, DeleteChildren, RekeyChild, RekeyIkeSa
from tunnels.ike.constants import NotifyType, Protocol
from tunnels.ike.entropy import Entropy
from tunnels.ike.exchange import Task
from tunnels.ike.ike_rekey import GiveUp, IkeRekey, Outcome, ReplacedBy
from tunnels.ike.ike_sa import IkeSa
from tunnels.ike.payloads import Delete, Notify, Payload, SecurityAssociation
from tunnels.ike.policy import PeerPolicy
from tunnels.ike.rejected import Refused

_OUT_OF_STEP = 300.0
"""Seconds of nothing but TEMPORARY_FAILURE after which both sides are taken to disagree (section 2.25)."""
_SPARE = 16
"""Child SAs that a peer may make beyond four for each that policy names."""

Answer = tuple[tuple[Payload, ...], list[Effect]]


class Children:
    """The child SAs of one site's IKE SA and of those that replace it.

    `route` says where ESP goes now, and whether in UDP; `allocate_spi` gives an SPI above
    255 that no child SA here has.
    """

    def __init__(
        self,
        sa: IkeSa,
        policy: PeerPolicy,
        entropy: Entropy,
        route: Callable[[], tuple[Path, bool]],
        allocate_spi: Callable[[], int],
        now: float,
    ) -> None:
        self.sa = sa
        self._policy, self._entropy = policy, entropy
        self._route, self._allocate_spi = route, allocate_spi
        self._children: dict[int, Child] = {}
        self._senders: dict[SelectorSet, Child] = {}
        self._wants = [Want(each.name, each.selectors) for each in policy.children]
        self._limit = 4 * len(self._wants) + _SPARE
        self._first: ChildOffer | None = None
        self._tasks: list[Task] = []
        self._outcomes: list[Outcome] = []
        self._asked: Task | None = None
        self._deleted_early: set[int] = set()
        self._unwanted: list[int] = []
        self._is_deletion_queued = False
        self._is_closed = False
        self._is_given_up = False
        self._put_off_since: float | None = None
        self._begin_ike_life(now)

    def _begin_ike_life(self, now: float) -> None:
        self._rekey = IkeRekey(self.sa, self._policy.ike_proposals, self._entropy)
        lifetime = self._policy.lifetimes.ike_seconds
        self._ike_rekey_at = now + self._jittered(lifetime)
        self._ike_ends_at = now + lifetime * HARD
        self._is_ike_rekey_queued = False
        self._ike_failures = 0

    # What the session sees of it.

    @property
    def pairs(self) -> tuple[ChildSa, ...]:
        """The child SAs that are installed, in the order of their making."""
        return tuple(child.sa for child in self._children.values())

    @property
    def spis(self) -> tuple[int, ...]:
        """The SPIs that we receive at."""
        return tuple(self._children)

    @property
    def deadline(self) -> float | None:
        """When `handle_timeout` wants calling."""
        if self._is_closed or self._is_given_up:
            return None
        times = [want.due for want in self._wants if want.due is not None and not want.is_asked]
        times += [each.deadline for each in self._children.values() if each.deadline is not None]
        times.append(self._ike_ends_at if self._is_ike_rekey_queued else self._ike_rekey_at)
        return min(times)

    def take_tasks(self) -> list[Task]:
        """Return the requests to submit under the present IKE SA."""
        tasks, self._tasks = self._tasks, []
        return tasks

    def take_outcomes(self) -> list[Outcome]:
        """Return what has become of the IKE SA, in the order in which it is to be carried out."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    # The first child SA, in IKE_AUTH.

    def first_offer(self, _now: float) -> tuple[Payload, ...]:
        """Return SA, TSi and TSr of the IKE_AUTH request."""
        want = self._wants[0]
        want.is_asked = True
        self._first = ChildOffer(
            want.selectors, self._policy.esp_proposals, self._allocate_spi(), None, self._entropy
        )
        return self._first.payloads()

    def first_answered(self, payloads: Sequence[Payload], nonces: Nonces, now: float) -> list[Effect]:
        """Take what the IKE_AUTH response says of the first child SA, and ask for the others."""
        offer, self._first = self._first, None
        if offer is None:
            return []
        want = self._wants[0]
        want.is_asked = False
        for other in self._wants[1:]:
            other.due = now
        effects = self.created(want, offer, payloads, now, nonces)
        self._plan(now)
        return effects

    def first_request(self, payloads: Sequence[Payload], nonces: Nonces, now: float) -> Answer:
        """Answer what an IKE_AUTH request says of a child SA; the IKE SA stands even where it is refused."""
        if self._policy.start is SiteStart.START:
            # The peer asks for the others too, and is given the time to.
            for want in self._wants:
                want.due = now + REMAKE.delay(1, self._entropy.fraction())
        if find(payloads, SecurityAssociation) is None:
            return (), []
        try:
            return self._accept(payloads, None, now, nonces)
        except Refused as refused:
            return self._refuse(refused)

    # What the peer asks.

    def handle_create(self, payloads: Sequence[Payload], now: float, under: IkeSa | None = None) -> Answer:
        """Answer a CREATE_CHILD_SA request: a new child SA, the rekey of one, or of the IKE SA.

        `under` is the IKE SA that it came by, where that need not be the present one.
        """
        settled = self._settle(under, now)
        try:
            if self._is_closed or (under is not None and under != self.sa):
                raise Refused(NotifyType.TEMPORARY_FAILURE, "the peer asks for an SA while its IKE SA ends")
            offer = find(payloads, SecurityAssociation)
            if offer is not None and offer.proposals and offer.proposals[0].protocol == Protocol.IKE:
                answer, effects = self._handle_ike_rekey(payloads, now)
            elif self._rekey.is_asked:
                raise Refused(
                    NotifyType.TEMPORARY_FAILURE, "the peer asks for a child SA while we rekey the IKE SA"
                )
            else:
                answer, effects = self._handle_child(payloads, now)
        except Refused as refused:
            answer, effects = self._refuse(refused)
        self._plan(now)
        return answer, [*settled, *effects]

    def handle_delete(self, delete: Delete, now: float, under: IkeSa | None = None) -> Answer:
        """Take away what the peer has deleted; the answer names ours of each pair (section 1.4.1)."""
        if delete.protocol != Protocol.ESP:
            return (), []
        effects = self._settle(under, now)
        ours: list[bytes] = []
        for spi in delete.spis:
            child = self._by_peers(spi)
            if child is None:
                # It may be the one whose making we have not heard of, as the answer is lost.
                if self._may_make():
                    self._deleted_early.add(int.from_bytes(spi))
                continue
            # Where our own deletion is on its way, its answer stands for this one (section 1.4.1).
            if not child.is_delete_sent:
                ours.append(child.sa.inbound_spi.to_bytes(4))
            effects += self._remove(child)
            effects += self._after_deletion(child, now, "the peer has deleted")
        self._plan(now)
        return ((Delete(Protocol.ESP, tuple(ours)),) if ours else ()), effects

    def handle_ike_delete(self, now: float) -> list[Effect]:
        """Hear that the peer deletes the IKE SA. Where the outcome is `ReplacedBy`, another takes its place.

        A peer that did not notice that both rekeyed does so (section 2.8.2).
        """
        effects = self._conclude(self._rekey.settle(), now)
        self._plan(now)
        return effects

    # What time, ESP and operators ask.

    def handle_timeout(self, now: float) -> list[Effect]:
        """Begin what is due."""
        if self._is_closed:
            return []
        for child in self._children.values():
            if child.state is State.DELETING or now < child.ends_at:
                continue
            if child.state is State.REPLACED:
                child.state = State.DELETING
            else:
                self._give_up(f"child SA {child.sa.name} could not be replaced before its end")
        if now >= self._ike_ends_at:
            self._give_up("the IKE SA could not be replaced before its end")
        self._plan(now)
        return []

    def expiring(self, inbound_spi: int, now: float) -> list[Effect]:
        """Replace a child SA that has carried as much as it may."""
        child = self._children.get(inbound_spi)
        if child is not None and child.state is State.CURRENT and not child.failures:
            child.rekey_at = min(child.rekey_at, now)
            self._plan(now)
        return []

    def rekey_ike(self, now: float) -> list[Effect]:
        """Replace the IKE SA now."""
        if not self._ike_failures:
            self._ike_rekey_at = min(self._ike_rekey_at, now)
        self._plan(now)
        return []

    def delete(self, inbound_spi: int, now: float) -> list[Effect]:
        """Delete a child SA at the peer. Policy makes it again where it is for us to start it."""
        child = self._children.get(inbound_spi)
        if child is not None:
            child.state = State.DELETING
            self._plan(now)
        return []

    def demand(self, now: float) -> list[Effect]:
        """Ask for each child SA of the policy that is missing: a packet wants to go there."""
        for want in self._wants:
            if not want.is_asked and not want.failures and not self.covers(want):
                want.due = now
        self._plan(now)
        return []

    def close(self, *, linger: bool) -> list[Effect]:
        """End with the IKE SA: remove all child SAs, ask for nothing more."""
        self._is_closed = True
        self._tasks.clear()
        effects: list[Effect] = [RemoveChild(spi, linger) for spi in self._children]
        self._children.clear()
        self._senders.clear()
        return effects

    # What the tasks ask of it.

    def begin(self, task: Task) -> None:
        """Remember that a request about child SAs is unanswered."""
        self._asked = task
        self._deleted_early.clear()

    def end(self, task: Task) -> None:
        """Forget it."""
        if self._asked is task:
            self._asked = None

    def has(self, child: Child) -> bool:
        """Whether a child SA is still there."""
        return self._children.get(child.sa.inbound_spi) is child

    def covers(self, want: Want) -> bool:
        """Whether there is a child SA for what policy wants, not about to go."""
        return any(each.want is want and each.state is not State.DELETING for each in self._children.values())

    def offer(self, selectors: Selectors, group: Group | None) -> ChildOffer:
        """Return a fresh offer that begins with a group, else with the one that policy prefers."""
        allowed = self._groups()
        first = (
            group if group in allowed and group is not Group.NONE else allowed[0] if allowed else Group.NONE
        )
        return ChildOffer(selectors, self._policy.esp_proposals, self._allocate_spi(), first, self._entropy)

    def created(
        self,
        want: Want,
        offer: ChildOffer,
        payloads: Sequence[Payload],
        now: float,
        nonces: Nonces | None = None,
    ) -> list[Effect]:
        """Take the answer to a request for a new child SA."""
        error = error_in(payloads)
        if error is not None:
            effects = self._not_created(want, offer, error, now)
        else:
            try:
                agreed = self._accepted(offer, payloads, nonces)
            except Refused as refused:
                effects = self._try_later(want, refused.words, now)
            else:
                want.failures, want.due = 0, None
                self._put_off_since = None
                effects = self._made_new(self._child(agreed, want, now))
                if agreed.has_more:
                    self._want_the_rest(want, agreed.selectors, now)
        self._plan(now)
        return effects

    def rekeyed(self, old: Child, offer: ChildOffer, payloads: Sequence[Payload], now: float) -> list[Effect]:
        """Take the answer to a rekey of ours."""
        error = error_in(payloads)
        if error is not None:
            effects = self._not_rekeyed(old, offer, error, now)
        else:
            try:
                agreed = self._accepted(offer, payloads, None)
            except Refused as refused:
                effects = self._rekey_later(old, refused.words, now)
            else:
                self._put_off_since = None
                effects = self._replace(old, self._child(agreed, old.want, now))
        self._plan(now)
        return effects

    def take_deletions(self) -> tuple[list[int], list[Child]]:
        """Return the SPIs that the next Delete names, and those of our child SAs among them."""
        self._is_deletion_queued = False
        gone = [
            each
            for each in self._children.values()
            if each.state is State.DELETING and not each.is_delete_sent
        ]
        for each in gone:
            each.is_delete_sent = True
        spis = [each.sa.inbound_spi for each in gone] + self._unwanted
        self._unwanted = []
        return spis, gone

    def deleted(self, gone: Sequence[Child], now: float) -> list[Effect]:
        """Remove what the peer has deleted for us."""
        effects: list[Effect] = []
        for child in gone:
            if self.has(child):
                effects += self._remove(child)
                effects += self._after_deletion(child, now, None)
        self._plan(now)
        return effects

    def ike_rekeyed(self, rekey: IkeRekey, payloads: Sequence[Payload], now: float) -> list[Effect]:
        """Take the answer to our rekey of the IKE SA."""
        if self._is_closed:
            return []
        effects: list[Effect] = []
        tried = rekey.group
        try:
            effects = self._conclude(rekey.answered(payloads), now)
            self._put_off_since = None
        except Refused as refused:
            self._is_ike_rekey_queued = False
            if rekey.group is not tried:
                self._ike_rekey_at = now
            else:
                self._ike_failures += 1
                self._ike_rekey_at = now + RETRY.delay(self._ike_failures, self._entropy.fraction())
                effects = self._complain(refused.notify, refused.words, now)
        self._plan(now)
        return effects

    # Requests of the peer, one by one.

    def _handle_ike_rekey(self, payloads: Sequence[Payload], now: float) -> Answer:
        if self._asked is not None:
            # We are creating, rekeying or closing a child SA (section 2.25.1).
            raise Refused(
                NotifyType.TEMPORARY_FAILURE, "the peer rekeys the IKE SA while we change a child SA"
            )
        answer, outcomes = self._rekey.answer(payloads)
        return answer, self._conclude(outcomes, now)

    def _handle_child(self, payloads: Sequence[Payload], now: float) -> Answer:
        notifies = (each for each in payloads if isinstance(each, Notify))
        rekey = next((each for each in notifies if each.type == NotifyType.REKEY_SA), None)
        if rekey is None:
            if len(self._children) >= self._limit:
                raise Refused(
                    NotifyType.NO_ADDITIONAL_SAS, f"the peer asks for more than {self._limit} child SAs"
                )
            return self._accept(payloads, None, now)
        old = self._by_peers(rekey.spi)
        if old is None and self._may_make():
            # It may be the one whose making we have not heard of, as the answer is lost.
            raise Refused(NotifyType.TEMPORARY_FAILURE, "the peer rekeys a child SA that we don't have yet")
        if old is None or rekey.protocol != Protocol.ESP:
            missing = Notify(NotifyType.CHILD_SA_NOT_FOUND, b"", rekey.protocol, rekey.spi)
            return (missing,), []
        if old.state is not State.CURRENT:
            raise Refused(NotifyType.TEMPORARY_FAILURE, "the peer rekeys a child SA that is about to end")
        if len(self._children) >= 3 * self._limit:
            raise Refused(
                NotifyType.NO_ADDITIONAL_SAS, "the peer replaces child SAs and does not delete them"
            )
        return self._accept(payloads, old, now)

    def _accept(
        self, payloads: Sequence[Payload], old: Child | None, now: float, nonces: Nonces | None = None
    ) -> Answer:
        wants: list[Want] = []

        def narrow(offered: Selectors) -> Selectors | None:
            found = self._narrow(offered, old)
            if found is None:
                return None
            wants.append(found[0])
            return found[1]

        answer, agreed = answer_child(
            payloads,
            self.sa,
            self._policy.esp_proposals,
            narrow,
            self._allocate_spi(),
            self._entropy,
            nonces,
        )
        child = self._child(agreed, wants[0], now)
        if old is None:
            is_sending = not any(each.selector_set == child.selector_set for each in self._children.values())
            child.want.failures = 0
            if not child.want.is_asked:
                child.want.due = None
            return answer, self._install(child, sending=is_sending)
        child.rank = old.rank
        old.rival = child.nonce
        old.state, old.successor = State.REPLACED, child
        old.ends_at = min(old.ends_at, now + REPLACED_FOR)
        return answer, self._install(child, sending=False)

    def _narrow(self, offered: Selectors, old: Child | None) -> tuple[Want, Selectors] | None:
        """Return what policy allows of an offer. A rekey stays with the want that it began with."""
        best: tuple[Want, Selectors] | None = None
        best_score = (-1, -1, -1)
        # The first selectors may be those of the packet that the peer wants to send (section 2.9).
        packet = Selectors(offered.local[:1], offered.remote[:1])
        for want in self._wants if old is None else [old.want]:
            narrowed = want.selectors.narrowed_to(offered)
            if narrowed is None:
                continue
            score = (
                want.selectors.narrowed_to(packet) is not None,
                selector_set(narrowed) == selector_set(offered),
                not self.covers(want),
            )
            if score > best_score:
                best, best_score = (want, tidied(narrowed)), score
        return best

    def _refuse(self, refused: Refused) -> Answer:
        notify = Notify(refused.notify, refused.data)
        if refused.notify in (NotifyType.TEMPORARY_FAILURE, NotifyType.INVALID_KE_PAYLOAD):
            return (notify,), []  # part of every day
        return (notify,), [SiteTrouble(self._policy.site, refused.words)]

    # Answers of the peer, one by one.

    def _made_new(self, child: Child) -> list[Effect]:
        """Install what we asked for anew; where the peer did so too, the one of lower rank goes."""
        doubles = [
            each
            for each in self._children.values()
            if each.selector_set == child.selector_set and each.state is State.CURRENT
        ]
        winner = max([child, *doubles], key=lambda each: each.rank)
        effects = self._install(child, sending=winner is child)
        for loser in [child, *doubles]:
            if loser is not winner:
                loser.state, loser.successor = State.DELETING, winner
        return effects

    def _replace(self, old: Child, new: Child) -> list[Effect]:
        """Go over from the old to the new one, unless the peer's rekey of it wins (section 2.8.1)."""
        new.rank = old.rank
        if old.rival is not None and new.nonce < old.rival:
            new.state, new.successor = State.DELETING, old.successor
            return self._install(new, sending=False)
        effects = self._install(new, sending=True)
        rival = old.successor
        if rival is not None and self.has(rival) and rival.state is State.CURRENT:
            # Its maker, the peer, deletes it.
            rival.state, rival.successor = State.REPLACED, new
        if self.has(old):
            old.state, old.successor = State.DELETING, new
        return [*effects, SiteRekeyed(self._policy.site, new.sa.name)]

    def _accepted(self, offer: ChildOffer, payloads: Sequence[Payload], nonces: Nonces | None) -> Agreed:
        early, self._deleted_early = self._deleted_early, set()
        try:
            agreed = offer.accepted(payloads, self.sa, nonces)
        except Refused:
            self._unwanted.append(offer.spi)
            raise
        if agreed.peer_spi in early:
            raise Refused(NotifyType.CHILD_SA_NOT_FOUND, "the peer has deleted the child SA that it has made")
        return agreed

    def _not_created(self, want: Want, offer: ChildOffer, error: Notify, now: float) -> list[Effect]:
        group = self._other_group(error, offer)
        if group is not None:
            want.group, want.due = group, now
            return []
        if error.type == NotifyType.SINGLE_PAIR_REQUIRED:
            single = pairs(want.selectors)
            if len(single) > 1:
                self._wants.remove(want)
                self._want(want.name, single, now)
                return []
        return self._try_later(want, _words(error, want.name), now, error.type)

    def _not_rekeyed(self, old: Child, offer: ChildOffer, error: Notify, now: float) -> list[Effect]:
        if not self.has(old) or old.state is not State.CURRENT:
            return []  # the peer's own rekey, or its deletion, came first (section 2.8.1)
        group = self._other_group(error, offer)
        if group is not None:
            old.group, old.rekey_at = group, now
            return []
        if error.type == NotifyType.CHILD_SA_NOT_FOUND:
            old.want.due = now  # made from scratch, as section 2.25 asks
            return self._remove(old)
        return self._rekey_later(old, _words(error, old.sa.name), now, error.type)

    def _other_group(self, error: Notify, offer: ChildOffer) -> Group | None:
        if error.type != NotifyType.INVALID_KE_PAYLOAD:
            return None
        group = group_asked(error, self._groups())
        return group if group is not offer.group else None

    def _try_later(self, want: Want, words: str, now: float, error: int | None = None) -> list[Effect]:
        want.failures += 1
        want.due = now + REMAKE.delay(want.failures, self._entropy.fraction())
        return self._complain(error, words, now)

    def _rekey_later(self, old: Child, words: str, now: float, error: int | None = None) -> list[Effect]:
        old.failures += 1
        old.rekey_at = now + RETRY.delay(old.failures, self._entropy.fraction())
        return self._complain(error, words, now)

    def _complain(self, error: int | None, words: str, now: float) -> list[Effect]:
        if error != NotifyType.TEMPORARY_FAILURE:
            self._put_off_since = None
            return [SiteTrouble(self._policy.site, words)]
        if self._put_off_since is None:
            self._put_off_since = now
        elif now > self._put_off_since + _OUT_OF_STEP:
            self._give_up("the peer has put off all requests for minutes")
        return []

    def _want_the_rest(self, want: Want, given: Selectors, now: float) -> None:
        """Ask for each pair that the peer left out of a child SA, in one of its own (section 2.9)."""
        rest = [pair for pair in pairs(want.selectors) if given.narrowed_to(pair) is None]
        self._want(want.name, rest, now)

    def _want(self, name: str, selectors: Sequence[Selectors], now: float) -> None:
        known = [selector_set(each.selectors) for each in self._wants]
        for each in selectors:
            if selector_set(each) not in known and len(self._wants) < self._limit:
                want = Want(name, each)
                want.due = now
                self._wants.append(want)

    # The table of child SAs.

    def _child(self, agreed: Agreed, want: Want, now: float) -> Child:
        lifetimes = self._policy.lifetimes
        path, in_udp = self._route()
        sa = ChildSa(
            self._policy.site,
            want.name,
            agreed.own_spi,
            agreed.peer_spi,
            agreed.suite,
            agreed.inbound,
            agreed.outbound,
            agreed.selectors,
            path,
            in_udp,
            soft_bytes=int(self._jittered(lifetimes.child_bytes)),
            soft_packets=soft_packets(
                lifetimes,
                extended=agreed.suite.extended_sequence_numbers,
                fraction=self._entropy.fraction(),
            ),
        )
        child = Child(sa, want, agreed.nonces.lowest, lifetimes, now)
        child.rekey_at = now + self._jittered(lifetimes.child_seconds)
        return child

    def _install(self, child: Child, *, sending: bool) -> list[Effect]:
        self._children[child.sa.inbound_spi] = child
        if sending:
            self._senders[child.selector_set] = child
        return [InstallChild(child.sa, sending)]

    def _remove(self, child: Child) -> list[Effect]:
        """Take a child SA away, and have what is left sent by the one that follows it."""
        del self._children[child.sa.inbound_spi]
        for each in self._children.values():
            if each.state is State.REPLACED and each.successor is child:
                # Its successor went first, so it is in use again until it is replaced by another.
                each.state, each.successor = State.CURRENT, None
        effects: list[Effect] = []
        if self._senders.get(child.selector_set) is child:
            del self._senders[child.selector_set]
            heir = self._heir(child)
            if heir is not None:
                self._senders[heir.selector_set] = heir
                effects.append(SendBy(heir.sa.inbound_spi))
        return [*effects, RemoveChild(child.sa.inbound_spi, linger=True)]

    def _heir(self, child: Child) -> Child | None:
        heir = child.successor
        while heir is not None and not self.has(heir):
            heir = heir.successor
        if heir is not None and heir.state is not State.DELETING:
            return heir
        same = [each for each in self._children.values() if each.selector_set == child.selector_set]
        return next((each for each in reversed(same) if each.state is not State.DELETING), None)

    def _after_deletion(self, child: Child, now: float, who: str | None) -> list[Effect]:
        """Report what was replaced, or have made again what is missing now."""
        if child.successor is not None:
            if who is not None and child.state is State.REPLACED:
                return [SiteRekeyed(self._policy.site, child.sa.name)]
            return []
        want = child.want
        if self.covers(want):
            return []
        if self._policy.start is SiteStart.START and want.due is None and not want.is_asked:
            want.due = now + REMAKE.delay(1, self._entropy.fraction())
        return [] if who is None else [SiteTrouble(self._policy.site, f"{who} child SA {child.sa.name}")]

    def _may_make(self) -> bool:
        """Whether the peer may have made a child SA for us that we don't know yet."""
        return isinstance(self._asked, CreateChild | RekeyChild)

    def _by_peers(self, spi: bytes) -> Child | None:
        """Find a child SA by the SPI that the peer receives at."""
        number = int.from_bytes(spi) if len(spi) == 4 else None
        return next((each for each in self._children.values() if each.sa.outbound_spi == number), None)

    # The IKE SA.

    def _settle(self, under: IkeSa | None, now: float) -> list[Effect]:
        """Go over to what the peer made of the IKE SA, for it makes requests by it."""
        if under is None or under != self._rekey.candidate:
            return []
        return self._conclude(self._rekey.settle(), now)

    def _conclude(self, outcomes: Sequence[Outcome], now: float) -> list[Effect]:
        self._outcomes += outcomes
        replaced = [each.sa for each in outcomes if isinstance(each, ReplacedBy)]
        for sa in replaced:
            self.sa = sa
            self._begin_ike_life(now)
            # What waited for its turn under the old one is asked under the new one.
            self._tasks = []
            self._is_deletion_queued = False
            for want in self._wants:
                if want.is_asked:
                    want.is_asked, want.due = False, now
            for child in self._children.values():
                child.is_rekeying = False
        return [SiteRekeyed(self._policy.site, "ike") for _ in replaced]

    def _give_up(self, reason: str) -> None:
        if not self._is_given_up:
            self._is_given_up = True
            self._outcomes.append(GiveUp(reason))

    # When our requests are made.

    def _plan(self, now: float) -> None:
        """Queue a task for all that is due and not queued yet."""
        if self._is_closed:
            return
        if not self._is_deletion_queued and (
            self._unwanted
            or any(
                each.state is State.DELETING and not each.is_delete_sent for each in self._children.values()
            )
        ):
            self._is_deletion_queued = True
            self._tasks.append(DeleteChildren(self))
        for child in self._children.values():
            if child.state is State.CURRENT and not child.is_rekeying and now >= child.rekey_at:
                child.is_rekeying = True
                self._tasks.append(RekeyChild(self, child))
        for want in self._wants:
            if want.due is not None and now >= want.due and not want.is_asked:
                want.is_asked = True
                self._tasks.append(CreateChild(self, want))
        if not self._is_ike_rekey_queued and now >= self._ike_rekey_at:
            self._is_ike_rekey_queued = True
            self._tasks.append(RekeyIkeSa(self, self._rekey))

    def _groups(self) -> list[Group]:
        """Return the groups that policy allows for a key exchange, the preferred one first."""
        groups = (group for proposal in self._policy.esp_proposals for group in proposal.groups)
        return [group for group in dict.fromkeys(groups) if group is not Group.NONE]

    def _jittered(self, limit: float) -> float:
        return limit * (1 - JITTER * self._entropy.fraction())


def _words(error: Notify, name: str) -> str:
    known = set(NotifyType)
    kind = NotifyType(error.type).name if error.type in known else str(error.type)
    return f"the peer refuses child SA {name}: {kind}"
