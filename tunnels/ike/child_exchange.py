"""How one child SA is agreed on, seen from either side (RFC 7296 sections 1.3.1, 2.9 and 2.17).

An IKE_AUTH exchange makes its child SA with the nonces of IKE_SA_INIT and without a key
exchange; a CREATE_CHILD_SA exchange brings nonces of its own and, for forward secrecy, a key exchange.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from policies.ipsec import EspProposal, EspSuite, Group
from policies.secret import Secret
from policies.selectors import Selectors, TrafficSelector
from tunnels.effects import EspKeys
from tunnels.ike.constants import NotifyType
from tunnels.ike.entropy import Entropy
from tunnels.ike.ike_sa import IkeSa
from tunnels.ike.keys import NONCE_LENGTH, KeyPair, Nonces, child_keys
from tunnels.ike.payloads import (
    KeyExchange,
    Nonce,
    Notify,
    Payload,
    SecurityAssociation,
    TrafficSelectors,
    first_of,
    need,
    notified,
)
from tunnels.ike.rejected import Refused
from tunnels.ike.transforms import accepted_esp, choose_esp, group_name, group_number, group_of, offer_esp


class AgreedChild(msgspec.Struct, frozen=True):
    """What both sides hold after the exchange. The SPIs are those that we and the peer receive at."""

    own_spi: int
    peer_spi: int
    suite: EspSuite
    inbound: EspKeys
    outbound: EspKeys
    selectors: Selectors
    nonces: Nonces
    has_more: bool = False
    """The peer would take more selectors, in a child SA of their own (ADDITIONAL_TS_POSSIBLE)."""


def group_asked(notify: Notify, allowed: Iterable[Group]) -> Group | None:
    """Return the group that INVALID_KE_PAYLOAD asks for, where we allow it (section 1.3)."""
    group = group_of(int.from_bytes(notify.data)) if len(notify.data) == 2 else None
    return group if group in tuple(allowed) and group is not Group.NONE else None


def offered_selectors(payloads: Sequence[Payload], *, by_us: bool) -> Selectors:
    """Return TSi and TSr as seen from our side; `by_us`: we began the exchange. Raises Refused."""
    ends = {each.of_initiator: each.selectors for each in payloads if isinstance(each, TrafficSelectors)}
    if len(ends) != 2:
        raise Refused(NotifyType.INVALID_SYNTAX, "the peer's message lacks its traffic selectors")
    return Selectors(local=ends[by_us], remote=ends[not by_us])


def tidied(selectors: Selectors) -> Selectors:
    """Leave out what lies within another selector: an offer may begin with a packet's own (section 2.9)."""
    return Selectors(_widest(selectors.local), _widest(selectors.remote))


class ChildOffer:
    """A request of ours for a child SA, kept until its answer is here.

    `group` is that of the key exchange; None stands for IKE_AUTH, which has none.
    """

    def __init__(
        self,
        selectors: Selectors,
        proposals: Sequence[EspProposal],
        spi: int,
        group: Group | None,
        entropy: Entropy,
    ) -> None:
        self.spi = spi
        self.group = group
        self._selectors = selectors
        self._nonce = entropy.octets(NONCE_LENGTH)
        self._pair = KeyPair.generate(group, entropy) if group not in (None, Group.NONE) else None
        self._offer = offer_esp(proposals, spi.to_bytes(4), with_groups=group is not None)

    def payloads(self) -> tuple[Payload, ...]:
        """Return what the request says of the child SA."""
        fresh: list[Payload] = [] if self.group is None else [Nonce(self._nonce)]
        if self._pair is not None:
            fresh.append(KeyExchange(group_number(self._pair.group), self._pair.public))
        selectors = (
            TrafficSelectors(True, self._selectors.local),
            TrafficSelectors(False, self._selectors.remote),
        )
        return (self._offer, *fresh, *selectors)

    def accepted(self, payloads: Sequence[Payload], sa: IkeSa, nonces: Nonces | None = None) -> AgreedChild:
        """Return what an answer that is no refusal agrees on; `nonces` are given in IKE_AUTH.

        Raises Refused where it is not what we offered: the peer then has a child SA that we don't.
        """
        suite, peer_spi = accepted_esp(need(SecurityAssociation, payloads), self._offer)
        nonces = nonces or Nonces(self._nonce, need(Nonce, payloads).data)
        shared: Secret | None = None
        if suite.group is not Group.NONE:
            theirs = need(KeyExchange, payloads)
            if self._pair is None or suite.group is not self._pair.group:
                raise Refused(
                    NotifyType.INVALID_SYNTAX, f"the peer chose {suite.group}, which has no KE payload"
                )
            if theirs.group != group_number(self._pair.group):
                raise Refused(NotifyType.INVALID_SYNTAX, f"the peer answers {suite.group} with another group")
            shared = self._pair.shared(theirs.data)
        answered = offered_selectors(payloads, by_us=True)
        selectors = self._selectors.narrowed_to(answered)
        if selectors is None:
            words = f"the peer answers {answered}, and we offered {self._selectors}"
            raise Refused(NotifyType.TS_UNACCEPTABLE, words)
        forth, back = child_keys(sa.suite.prf, sa.keys.derive, suite, shared, nonces)
        return AgreedChild(
            self.spi,
            int.from_bytes(peer_spi),
            suite,
            inbound=back,
            outbound=forth,
            selectors=tidied(selectors),
            nonces=nonces,
            has_more=notified(NotifyType.ADDITIONAL_TS_POSSIBLE, payloads) is not None,
        )


def answer_child(
    payloads: Sequence[Payload],
    sa: IkeSa,
    proposals: Sequence[EspProposal],
    selectors: Selectors,
    spi: int,
    entropy: Entropy,
    nonces: Nonces | None = None,
) -> tuple[tuple[Payload, ...], AgreedChild]:
    """Answer the peer's request for a child SA; `nonces` are given in IKE_AUTH.

    `selectors` are what policy allows of the peer's. A request for transport
    mode, for IPComp or for later fragments is declined by not repeating its notification
    (sections 1.3.1 and 2.22). Raises Refused.
    """
    with_groups = nonces is None
    sent = first_of(KeyExchange, payloads) if with_groups else None
    suite, chosen, peer_spi = choose_esp(
        need(SecurityAssociation, payloads),
        proposals,
        with_groups=with_groups,
        sent_group=group_of(sent.group) if sent is not None else Group.NONE,
    )
    fresh: list[Payload] = []
    if nonces is None:
        nonces = Nonces(need(Nonce, payloads).data, entropy.octets(NONCE_LENGTH))
        fresh.append(Nonce(nonces.responder))
    shared = None
    if suite.group is not Group.NONE:
        pair, shared = answered_exchange(suite.group, sent, entropy)
        fresh.append(KeyExchange(group_number(suite.group), pair.public))
    forth, back = child_keys(sa.suite.prf, sa.keys.derive, suite, shared, nonces)
    answer = (
        SecurityAssociation((msgspec.structs.replace(chosen, spi=spi.to_bytes(4)),)),
        *fresh,
        TrafficSelectors(True, selectors.remote),
        TrafficSelectors(False, selectors.local),
    )
    agreed = AgreedChild(
        spi,
        int.from_bytes(peer_spi),
        suite,
        inbound=forth,
        outbound=back,
        selectors=selectors,
        nonces=nonces,
    )
    return answer, agreed


def answered_exchange(group: Group, sent: KeyExchange | None, entropy: Entropy) -> tuple[KeyPair, Secret]:
    """Do our half of the key exchange that the peer began. Raises Refused where it is of another group."""
    number = group_number(group)
    if sent is None or sent.group != number:
        theirs = "no key exchange" if sent is None else group_name(sent.group)
        words = f"the peer began with {theirs}, we ask for {group}"
        raise Refused(NotifyType.INVALID_KE_PAYLOAD, words, number.to_bytes(2))
    pair = KeyPair.generate(group, entropy)
    return pair, pair.shared(sent.data)


def _widest(selectors: tuple[TrafficSelector, ...]) -> tuple[TrafficSelector, ...]:
    return tuple(
        each
        for each in selectors
        if not any(other != each and each.within(other) == each for other in selectors)
    )
