"""Our requests about child SAs, each made when its turn comes, and what their answers come to.

`plan`, which each is given, queues what an answer has made due.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from policies.ipsec import Group
from tunnels.effects import Effect, SiteRekeyed
from tunnels.ike.child import REMAKE, RETRY, Child, ChildState, Want
from tunnels.ike.child_exchange import AgreedChild, ChildOffer, group_asked
from tunnels.ike.child_table import ChildTable
from tunnels.ike.constants import ExchangeType, NotifyType, Protocol
from tunnels.ike.keys import Nonces
from tunnels.ike.payloads import Delete, Notify, Payload, error_in
from tunnels.ike.rejected import Refused

Plan = Callable[[float], None]


class CreateChild:
    """Ask for a child SA that policy wants (RFC 7296 section 1.3.1)."""

    exchange = ExchangeType.CREATE_CHILD_SA

    def __init__(self, table: ChildTable, want: Want, plan: Plan) -> None:
        self._table, self._want, self._plan = table, want, plan
        self._sa = table.sa
        self._offer: ChildOffer | None = None

    def first_offer(self) -> tuple[Payload, ...]:
        """Say what we offer in IKE_AUTH."""
        self._offer = self._table.terms.first_offer(self._want.selectors)
        return self._offer.payloads()

    def request(self, _now: float) -> tuple[Payload, ...] | None:
        """Say what we offer, unless the peer has made such a child SA meanwhile."""
        want, table = self._want, self._table
        if self._sa is not table.sa:
            return None
        if table.covers(want):
            want.is_asked, want.due = False, None
            return None
        self._offer = table.terms.offer(want.selectors, want.group)
        table.begin(self)
        return self._offer.payloads()

    def answered(self, payloads: Sequence[Payload], now: float, nonces: Nonces | None = None) -> list[Effect]:
        """Install what was agreed on, or ask again later; `nonces` are given in IKE_AUTH."""
        self._table.end(self)
        self._want.is_asked = False
        effects = self._take(self._offer, payloads, now, nonces) if self._offer is not None else []
        self._plan(now)
        return effects

    def _take(
        self, offer: ChildOffer, payloads: Sequence[Payload], now: float, nonces: Nonces | None
    ) -> list[Effect]:
        table, want = self._table, self._want
        error = error_in(payloads)
        if error is not None:
            return self._take_refusal(offer, error, now)
        try:
            agreed = _accepted(table, offer, payloads, nonces)
        except Refused as refused:
            return self._try_later(refused.words, now, refused.notify)
        want.failures, want.due = 0, None
        if agreed.has_more:
            table.wants.add_rest(want, agreed.selectors, now)
        return self._install(table.terms.child(agreed, want, now))

    def _install(self, child: Child) -> list[Effect]:
        """Where the peer has made one like it meanwhile, the one of lower rank goes."""
        doubles = [
            each
            for each in self._table
            if each.selector_set == child.selector_set and each.state is ChildState.CURRENT
        ]
        winner = max([child, *doubles], key=lambda each: each.rank)
        effects = self._table.install(child, sending=winner is child)
        for loser in [child, *doubles]:
            if loser is not winner:
                loser.state, loser.successor = ChildState.DELETING, winner
        return effects

    def _take_refusal(self, offer: ChildOffer, error: Notify, now: float) -> list[Effect]:
        want = self._want
        group = _other_group(self._table, error, offer)
        if group is not None:
            want.group, want.due = group, now
            return []
        if error.type == NotifyType.SINGLE_PAIR_REQUIRED and self._table.wants.split(want, now):
            return []
        return self._try_later(_words(error, want.name), now, error.type)

    def _try_later(self, words: str, now: float, error: int | None = None) -> list[Effect]:
        self._want.failures += 1
        self._want.due = now + self._table.terms.pause(REMAKE, self._want.failures)
        return self._table.complain(error, words, now)


class RekeyChild:
    """Replace a child SA (section 1.3.3)."""

    exchange = ExchangeType.CREATE_CHILD_SA

    def __init__(self, table: ChildTable, child: Child, plan: Plan) -> None:
        self._table, self._old, self._plan = table, child, plan
        self._sa = table.sa
        self._offer: ChildOffer | None = None

    def request(self, _now: float) -> tuple[Payload, ...] | None:
        """Say what we offer, unless it has been replaced or deleted meanwhile."""
        table, old = self._table, self._old
        if self._sa is not table.sa:
            return None
        if old not in table or old.state is not ChildState.CURRENT:
            old.is_rekeying = False
            return None
        # Neither narrower nor wider than what there is (section 2.9.2).
        self._offer = table.terms.offer(old.sa.selectors, old.group)
        table.begin(self)
        spi = old.sa.inbound_spi.to_bytes(4)
        return (Notify(NotifyType.REKEY_SA, b"", Protocol.ESP, spi), *self._offer.payloads())

    def answered(self, payloads: Sequence[Payload], now: float) -> list[Effect]:
        """Send by the new one and delete the old one, or whatever the collision asks for."""
        self._table.end(self)
        self._old.is_rekeying = False
        effects = self._take(self._offer, payloads, now) if self._offer is not None else []
        self._plan(now)
        return effects

    def _take(self, offer: ChildOffer, payloads: Sequence[Payload], now: float) -> list[Effect]:
        table, old = self._table, self._old
        error = error_in(payloads)
        if error is not None:
            return self._take_refusal(offer, error, now)
        try:
            agreed = _accepted(table, offer, payloads)
        except Refused as refused:
            return self._try_later(refused.words, now, refused.notify)
        return self._replace(table.terms.child(agreed, old.want, now))

    def _replace(self, new: Child) -> list[Effect]:
        """Go over to the new one, unless the peer's rekey of the old one wins (section 2.8.1)."""
        table, old = self._table, self._old
        new.rank = old.rank
        if old.rival is not None and new.nonce < old.rival:
            new.state, new.successor = ChildState.DELETING, old.successor
            return table.install(new, sending=False)
        effects = table.install(new, sending=True)
        rival = old.successor
        if rival is not None and rival in table and rival.state is ChildState.CURRENT:
            # Its maker, the peer, deletes it.
            rival.state, rival.successor = ChildState.REPLACED, new
        if old in table:
            old.state, old.successor = ChildState.DELETING, new
        return [*effects, SiteRekeyed(table.terms.policy.site, new.sa.name)]

    def _take_refusal(self, offer: ChildOffer, error: Notify, now: float) -> list[Effect]:
        table, old = self._table, self._old
        if old not in table or old.state is not ChildState.CURRENT:
            return []  # the peer's own rekey, or its deletion, came first (section 2.8.1)
        group = _other_group(table, error, offer)
        if group is not None:
            old.group, old.rekey_at = group, now
            return []
        if error.type == NotifyType.CHILD_SA_NOT_FOUND:
            old.want.due = now  # made from scratch, as section 2.25 asks
            return table.remove(old)
        return self._try_later(_words(error, old.sa.name), now, error.type)

    def _try_later(self, words: str, now: float, error: int | None = None) -> list[Effect]:
        self._old.failures += 1
        self._old.rekey_at = now + self._table.terms.pause(RETRY, self._old.failures)
        return self._table.complain(error, words, now)


class DeleteChildren:
    """Delete child SAs at the peer (section 1.4.1)."""

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, table: ChildTable, plan: Plan) -> None:
        self._table, self._plan = table, plan
        self._sa = table.sa
        self._deleted: list[Child] = []

    def request(self, _now: float) -> tuple[Payload, ...] | None:
        """List all that wait for deletion."""
        if self._sa is not self._table.sa:
            return None
        spis, self._deleted = self._table.take_deletions()
        if not spis:
            return None
        self._table.begin(self)
        return (Delete(Protocol.ESP, tuple(spi.to_bytes(4) for spi in spis)),)

    def answered(self, _payloads: Sequence[Payload], now: float) -> list[Effect]:
        """Remove them here. Whether the peer had them still makes no difference."""
        self._table.end(self)
        effects: list[Effect] = []
        for child in self._deleted:
            if child in self._table:
                effects += self._table.retire(child, now, by_peer=False)
        self._plan(now)
        return effects


def _accepted(
    table: ChildTable, offer: ChildOffer, payloads: Sequence[Payload], nonces: Nonces | None = None
) -> AgreedChild:
    try:
        agreed = offer.accepted(payloads, table.sa, nonces)
    except Refused:
        table.unwanted.append(offer.spi)
        raise
    table.agreed()
    if table.was_deleted_early(agreed.peer_spi):
        raise Refused(NotifyType.CHILD_SA_NOT_FOUND, "the peer has deleted the child SA that it has made")
    return agreed


def _other_group(table: ChildTable, error: Notify, offer: ChildOffer) -> Group | None:
    """Return the group that the peer asks for, if it is another that we allow, to be tried at once."""
    if error.type != NotifyType.INVALID_KE_PAYLOAD:
        return None
    group = group_asked(error, table.terms.groups)
    return group if group is not offer.group and table.may_regroup() else None


_MEANINGS: dict[int, str] = {
    NotifyType.TS_UNACCEPTABLE: "its traffic selectors have nothing in common with ours",
    NotifyType.NO_PROPOSAL_CHOSEN: "it takes none of our ESP proposals",
}


def _words(error: Notify, name: str) -> str:
    kind = error.type.name if isinstance(error.type, NotifyType) else str(error.type)
    meaning = _MEANINGS.get(error.type)
    return f"the peer refuses child SA {name}: {kind}{f', {meaning}' if meaning else ''}"
