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

from policies.ipsec import SiteStart
from policies.token_bucket import TokenBucket
from tunnels.effects import ChildSa, Effect, Path, SiteRekeyed, SiteTrouble
from tunnels.ike.child import REMAKE, REPLACED_FOR, RETRY, Child, ChildState, hard_limit
from tunnels.ike.child_exchange import answer_child, offered_selectors
from tunnels.ike.child_table import ChildTable
from tunnels.ike.child_tasks import CreateChild, DeleteChildren, RekeyChild
from tunnels.ike.child_terms import Terms
from tunnels.ike.constants import ExchangeType, NotifyType, Protocol
from tunnels.ike.entropy import Entropy
from tunnels.ike.exchange import Task
from tunnels.ike.ike_rekey import GiveUp, IkeRekey, Outcome, ReplacedBy
from tunnels.ike.ike_sa import IkeSa
from tunnels.ike.keys import Nonces
from tunnels.ike.payloads import Delete, Notify, Payload, SecurityAssociation, first_of, notified
from tunnels.ike.policy import PeerPolicy
from tunnels.ike.rejected import Refused

# Seconds of nothing but TEMPORARY_FAILURE after which both sides are taken to disagree (section 2.25).
_OUT_OF_STEP = 300.0
# SAs a second that a peer may make; each costs us a key exchange, and one tenant must not have all our time.
CREATIONS = 100.0

Reply = tuple[tuple[Payload, ...], list[Effect]]


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
        self._terms = Terms(policy, entropy, route, allocate_spi)
        self._table = ChildTable(sa, self._terms)
        self._policy = policy
        self._first: CreateChild | None = None
        self._tasks: list[Task] = []
        self._outcomes: list[Outcome] = []
        self._is_over = False
        self._creations = TokenBucket(CREATIONS, CREATIONS)
        self._begin_ike_life(now)

    def _begin_ike_life(self, now: float) -> None:
        self._rekey = IkeRekey(self.sa, self._policy.ike_proposals, self._terms.entropy)
        lifetime = self._policy.lifetimes.ike_seconds
        self._ike_rekey_at = now + self._terms.jittered(lifetime)
        self._ike_ends_at = now + hard_limit(lifetime)
        self._is_ike_rekey_queued = False
        self._ike_failures = 0

    @property
    def sa(self) -> IkeSa:
        """The IKE SA that they belong to now."""
        return self._table.sa

    @property
    def pairs(self) -> tuple[ChildSa, ...]:
        """The child SAs that are installed, in the order of their making."""
        return tuple(child.sa for child in self._table)

    @property
    def spis(self) -> tuple[int, ...]:
        """The SPIs that we receive at."""
        return tuple(child.sa.inbound_spi for child in self._table)

    @property
    def deadline(self) -> float | None:
        """When `handle_timeout` wants calling."""
        if self._is_over:
            return None
        times = self._table.wants.due
        times += [each.deadline for each in self._table if each.deadline is not None]
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

    def first_offer(self) -> tuple[Payload, ...]:
        """Return SA, TSi and TSr of the IKE_AUTH request."""
        want = self._table.wants.first
        want.is_asked = True
        self._first = CreateChild(self._table, want, self._plan)
        return self._first.first_offer()

    def first_answered(self, payloads: Sequence[Payload], nonces: Nonces, now: float) -> list[Effect]:
        """Take what the IKE_AUTH response says of the first child SA, and ask for the others."""
        first, self._first = self._first, None
        if first is None:
            return []
        for want in self._table.wants:
            want.due = now
        return first.answered(payloads, now, nonces)

    def first_request(self, payloads: Sequence[Payload], nonces: Nonces, now: float) -> Reply:
        """Answer what an IKE_AUTH request says of a child SA; the IKE SA stands even where it is refused."""
        if self._policy.start is SiteStart.START:
            # The peer asks for the others too, and is given the time to.
            for want in self._table.wants:
                want.due = now + self._terms.pause(REMAKE, 1)
        if first_of(SecurityAssociation, payloads) is None:
            return (), []
        try:
            return self._accept(payloads, None, now, nonces)
        except Refused as refused:
            return self._refuse(refused)

    # What the peer asks.

    def handle_create(self, payloads: Sequence[Payload], now: float, under: IkeSa) -> Reply:
        """Answer a CREATE_CHILD_SA request: a new child SA, the rekey of one, or of the IKE SA `under` it."""
        settled = self._settle(under, now)
        try:
            answer, effects = self._handle_create(payloads, now, under)
        except Refused as refused:
            answer, effects = self._refuse(refused)
        self._plan(now)
        return answer, [*settled, *effects]

    def handle_delete(self, delete: Delete, now: float, under: IkeSa) -> Reply:
        """Take away what the peer has deleted; the answer names ours of each pair (section 1.4.1)."""
        if delete.protocol != Protocol.ESP:
            return (), []
        effects = self._settle(under, now)
        ours: list[bytes] = []
        for spi in delete.spis:
            child = self._table.by_peers(spi)
            if child is None:
                self._table.delete_early(spi)
                continue
            # Where our own deletion is on its way, its answer stands for this one (section 1.4.1).
            if not child.is_delete_sent:
                ours.append(child.sa.inbound_spi.to_bytes(4))
            effects += self._table.retire(child, now, by_peer=True)
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
        if self._is_over:
            return []
        for child in self._table:
            if child.state is ChildState.REPLACED and now >= child.ends_at:
                child.state = ChildState.DELETING
            elif child.state is ChildState.CURRENT and now >= child.ends_at:
                self._give_up(f"child SA {child.sa.name} could not be replaced before its end")
        if now >= self._ike_ends_at:
            self._give_up("the IKE SA could not be replaced before its end")
        self._plan(now)
        return []

    def expiring(self, inbound_spi: int, now: float) -> list[Effect]:
        """Replace a child SA that has carried as much as it may."""
        child = self._table.get(inbound_spi)
        if child is not None and child.state is ChildState.CURRENT and not child.failures:
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
        child = self._table.get(inbound_spi)
        if child is not None:
            child.state = ChildState.DELETING
            self._plan(now)
        return []

    def demand(self, now: float) -> list[Effect]:
        """Ask for each child SA of the policy that is missing: a packet wants to go there."""
        for want in self._table.wants:
            if not want.is_asked and not want.failures and not self._table.covers(want):
                want.due = now
        self._plan(now)
        return []

    def close(self, *, linger: bool) -> list[Effect]:
        """End with the IKE SA: remove all child SAs, ask for nothing more."""
        self._is_over = True
        self._tasks.clear()
        return self._table.clear(linger=linger)

    # Requests of the peer, one by one.

    def _handle_create(self, payloads: Sequence[Payload], now: float, under: IkeSa) -> Reply:
        if self._is_over or under != self.sa:
            raise Refused(NotifyType.TEMPORARY_FAILURE, "the peer asks for an SA while its IKE SA ends")
        if not self._creations.take(1, now):
            raise Refused(NotifyType.TEMPORARY_FAILURE, "the peer asks for SAs without end")
        offer = first_of(SecurityAssociation, payloads)
        if offer is not None and offer.proposals and offer.proposals[0].protocol == Protocol.IKE:
            if self._table.asked is not None:
                # We are creating, rekeying or closing a child SA (section 2.25.1).
                words = "the peer rekeys the IKE SA while we change a child SA"
                raise Refused(NotifyType.TEMPORARY_FAILURE, words)
            answer, outcomes = self._rekey.answer(payloads)
            return answer, self._conclude(outcomes, now)
        if self._rekey.is_asked:
            words = "the peer asks for a child SA while we rekey the IKE SA"
            raise Refused(NotifyType.TEMPORARY_FAILURE, words)
        rekey = notified(NotifyType.REKEY_SA, payloads)
        if rekey is not None:
            return self._handle_rekey(rekey, payloads, now)
        if len(self._table) >= self._table.limit:
            words = f"the peer asks for more than {self._table.limit} child SAs"
            raise Refused(NotifyType.NO_ADDITIONAL_SAS, words)
        return self._accept(payloads, None, now)

    def _handle_rekey(self, rekey: Notify, payloads: Sequence[Payload], now: float) -> Reply:
        old = self._table.by_peers(rekey.spi) if rekey.protocol == Protocol.ESP else None
        if old is None and self._table.asked is not None:
            # It may be the one whose making we have not heard of, as the answer is lost.
            words = "the peer rekeys a child SA that we don't have yet"
            raise Refused(NotifyType.TEMPORARY_FAILURE, words)
        if old is None:
            return (Notify(NotifyType.CHILD_SA_NOT_FOUND, b"", rekey.protocol, rekey.spi),), []
        if old.state is not ChildState.CURRENT:
            words = "the peer rekeys a child SA that is about to end"
            raise Refused(NotifyType.TEMPORARY_FAILURE, words)
        if len(self._table) >= 3 * self._table.limit:
            words = "the peer replaces child SAs and does not delete them"
            raise Refused(NotifyType.NO_ADDITIONAL_SAS, words)
        return self._accept(payloads, old, now)

    def _accept(
        self, payloads: Sequence[Payload], old: Child | None, now: float, nonces: Nonces | None = None
    ) -> Reply:
        terms, table = self._terms, self._table
        offered = offered_selectors(payloads, by_us=False)
        # A rekey stays with the want that it began with.
        found = table.wants.narrow(offered, table.covers, only=old.want if old is not None else None)
        if found is None:
            words = f"the peer asks for {offered}, which is not configured"
            raise Refused(NotifyType.TS_UNACCEPTABLE, words)
        want, selectors = found
        answer, agreed = answer_child(
            payloads,
            self.sa,
            self._policy.esp_proposals,
            selectors,
            terms.allocate_spi(),
            terms.entropy,
            nonces,
        )
        child = terms.child(agreed, want, now)
        if old is not None:
            child.rank = old.rank
            old.rival = child.nonce
            old.state, old.successor = ChildState.REPLACED, child
            old.ends_at = min(old.ends_at, now + REPLACED_FOR)
            return answer, table.install(child, sending=False)
        child.want.failures = 0
        if not child.want.is_asked:
            child.want.due = None
        # One that is about to be deleted may be there still, and nothing be sent by it.
        return answer, table.install(child, sending=not table.is_sent_by(child.selector_set))

    def _refuse(self, refused: Refused) -> Reply:
        notify = Notify(refused.notify, refused.data)
        if refused.notify in (NotifyType.TEMPORARY_FAILURE, NotifyType.INVALID_KE_PAYLOAD):
            return (notify,), []  # part of every day
        return (notify,), [SiteTrouble(self._policy.site, refused.words, refused.cause)]

    # The IKE SA.

    def _take_ike_rekey(self, rekey: IkeRekey, payloads: Sequence[Payload], now: float) -> list[Effect]:
        if self._is_over:
            return []
        tried = rekey.group
        try:
            effects = self._conclude(rekey.answered(payloads), now)
        except Refused as refused:
            effects = []
            self._is_ike_rekey_queued = False
            if rekey.group is not tried and self._table.may_regroup():
                self._ike_rekey_at = now
            else:
                self._ike_failures += 1
                self._ike_rekey_at = now + self._terms.pause(RETRY, self._ike_failures)
                effects = self._table.complain(refused.notify, refused.words, now)
        self._plan(now)
        return effects

    def _settle(self, under: IkeSa, now: float) -> list[Effect]:
        """Go over to what the peer made of the IKE SA, for it makes requests by it."""
        return self._conclude(self._rekey.settle(), now) if under == self._rekey.candidate else []

    def _conclude(self, outcomes: Sequence[Outcome], now: float) -> list[Effect]:
        self._outcomes += outcomes
        replaced = [each.sa for each in outcomes if isinstance(each, ReplacedBy)]
        for sa in replaced:
            self._table.sa = sa
            self._table.agreed()
            self._begin_ike_life(now)
            # What waited for its turn under the old one is asked under the new one.
            self._tasks = []
            self._table.is_deletion_queued = False
            for want in self._table.wants:
                if want.is_asked:
                    want.is_asked, want.due = False, now
            for child in self._table:
                child.is_rekeying = False
        return [SiteRekeyed(self._policy.site, "ike") for _ in replaced]

    def _give_up(self, reason: str) -> None:
        if not self._is_over:
            self._is_over = True
            self._outcomes.append(GiveUp(reason))

    # When our requests are made.

    def _plan(self, now: float) -> None:
        """Queue a task for all that is due and not queued yet."""
        table = self._table
        if table.put_off_since is not None and now > table.put_off_since + _OUT_OF_STEP:
            self._give_up("the peer has put off all requests for minutes")
        if self._is_over:
            return
        if table.has_deletions and not table.is_deletion_queued:
            table.is_deletion_queued = True
            self._tasks.append(DeleteChildren(table, self._plan))
        for child in table:
            if child.state is ChildState.CURRENT and not child.is_rekeying and now >= child.rekey_at:
                child.is_rekeying = True
                self._tasks.append(RekeyChild(table, child, self._plan))
        for want in table.wants:
            if want.due is not None and now >= want.due and not want.is_asked:
                want.is_asked = True
                self._tasks.append(CreateChild(table, want, self._plan))
        if not self._is_ike_rekey_queued and now >= self._ike_rekey_at:
            self._is_ike_rekey_queued = True
            self._tasks.append(_RekeyIkeSa(self._rekey, self._take_ike_rekey))


class _RekeyIkeSa:
    """Replace the IKE SA (section 1.3.2)."""

    exchange = ExchangeType.CREATE_CHILD_SA

    def __init__(
        self, rekey: IkeRekey, take: Callable[[IkeRekey, Sequence[Payload], float], list[Effect]]
    ) -> None:
        self._rekey, self._take = rekey, take

    def request(self, _now: float) -> tuple[Payload, ...] | None:
        return self._rekey.request()

    def answered(self, payloads: Sequence[Payload], now: float) -> list[Effect]:
        return self._take(self._rekey, payloads, now)
