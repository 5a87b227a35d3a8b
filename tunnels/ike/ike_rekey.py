"""The rekey of an IKE SA, by either side or both at once (RFC 7296 sections 1.3.2, 2.8.2, 2.18, 2.25.2).

What follows from it is said by outcomes, which the session carries out: it
opens a session for each new IKE SA, and children go to the one that is left.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from policies.ipsec import Group, IkeProposal
from tunnels.ike.child_exchange import answered_exchange, group_asked
from tunnels.ike.constants import NotifyType
from tunnels.ike.entropy import Entropy
from tunnels.ike.ike_sa import IkeSa
from tunnels.ike.keys import NONCE_LENGTH, KeyPair, Nonces, rekeyed_ike_keys
from tunnels.ike.payloads import KeyExchange, Nonce, Payload, SecurityAssociation, error_in, need
from tunnels.ike.rejected import Refused
from tunnels.ike.spis import SPI_LENGTH, fresh_spi
from tunnels.ike.transforms import accepted_ike, choose_ike, group_number, group_of, offer_ike


class NewIkeSa(msgspec.Struct, frozen=True):
    """Open a session for it, without children: the peer made it while our own rekey is unanswered.

    `ReplacedBy` or `Discard` follows. A request that comes by it says that the
    peer has decided: it is given to the children like any other.
    """

    sa: IkeSa


class ReplacedBy(msgspec.Struct, frozen=True):
    """The children go to this IKE SA, and no request but the deletion of itself is made under the old one.

    Where we are the new one's initiator we delete the old one at the peer; else the peer does.
    """

    sa: IkeSa


class Discard(msgspec.Struct, frozen=True):
    """This new IKE SA lost against another: its initiator deletes it.

    The peer may have forgotten it: a session that waits for its deletion ends by itself after a while.
    """

    sa: IkeSa


class GiveUp(msgspec.Struct, frozen=True):
    """An SA could not be replaced in time, so the IKE SA is closed and made again (section 2.8)."""

    reason: str


Outcome = NewIkeSa | ReplacedBy | Discard | GiveUp


class _Attempt:
    """A request of ours to rekey, kept until its answer is here."""

    def __init__(self, proposals: Sequence[IkeProposal], group: Group, entropy: Entropy) -> None:
        self.group = group
        self.spi = fresh_spi(entropy)
        self.nonce = entropy.octets(NONCE_LENGTH)
        self.pair = KeyPair.generate(group, entropy)
        self.offer = offer_ike(proposals, self.spi)

    def payloads(self) -> tuple[Payload, ...]:
        return (self.offer, Nonce(self.nonce), KeyExchange(group_number(self.group), self.pair.public))

    def accepted(self, payloads: Sequence[Payload], old: IkeSa) -> tuple[IkeSa, Nonces]:
        suite, peer_spi = accepted_ike(need(SecurityAssociation, payloads), self.offer)
        theirs = need(KeyExchange, payloads)
        if suite.group is not self.group or theirs.group != group_number(self.group):
            raise Refused(NotifyType.INVALID_SYNTAX, f"the peer answers {self.group} with another group")
        nonces = Nonces(self.nonce, need(Nonce, payloads).data)
        shared = self.pair.shared(theirs.data)
        keys = rekeyed_ike_keys(old.suite.prf, old.keys.derive, suite, shared, nonces, self.spi, peer_spi)
        return IkeSa(old.site, True, self.spi, peer_spi, suite, keys), nonces


class IkeRekey:
    """The rekey of one IKE SA. It ends with an outcome `ReplacedBy`."""

    def __init__(self, sa: IkeSa, proposals: Sequence[IkeProposal], entropy: Entropy) -> None:
        self.sa = sa
        self.candidate: IkeSa | None = None
        """What the peer made of it, while our own request is unanswered."""
        self.group = sa.suite.group
        """Which one our next request begins with."""
        self._proposals, self._entropy = proposals, entropy
        self._candidate_nonces: Nonces | None = None
        self._attempt: _Attempt | None = None
        self._is_over = False

    @property
    def is_asked(self) -> bool:
        """Whether our own request is unanswered."""
        return self._attempt is not None

    def request(self) -> tuple[Payload, ...] | None:
        """Return what our request says, None when it is no longer needed."""
        if self._is_over:
            return None
        self._attempt = _Attempt(self._proposals, self.group, self._entropy)
        return self._attempt.payloads()

    def answer(self, payloads: Sequence[Payload]) -> tuple[tuple[Payload, ...], list[Outcome]]:
        """Answer the peer's request. Raises Refused."""
        if self._is_over or self.candidate is not None:
            # It replaces an IKE SA that has been replaced (section 2.8.2).
            raise Refused(NotifyType.TEMPORARY_FAILURE, "the peer rekeys an IKE SA that is being replaced")
        sent = need(KeyExchange, payloads)
        suite, chosen, peer_spi = choose_ike(
            need(SecurityAssociation, payloads), self._proposals, sent_group=group_of(sent.group)
        )
        if len(peer_spi) != SPI_LENGTH:
            raise Refused(NotifyType.INVALID_SYNTAX, "the peer rekeys the IKE SA without a new SPI")
        if suite.group is Group.NONE:
            raise Refused(NotifyType.NO_PROPOSAL_CHOSEN, "the peer rekeys the IKE SA without a key exchange")
        pair, shared = answered_exchange(suite.group, sent, self._entropy)
        nonces = Nonces(need(Nonce, payloads).data, self._entropy.octets(NONCE_LENGTH))
        spi = fresh_spi(self._entropy)
        old = self.sa
        keys = rekeyed_ike_keys(old.suite.prf, old.keys.derive, suite, shared, nonces, peer_spi, spi)
        new = IkeSa(old.site, False, spi, peer_spi, suite, keys)
        answer = (
            SecurityAssociation((msgspec.structs.replace(chosen, spi=spi),)),
            Nonce(nonces.responder),
            KeyExchange(group_number(suite.group), pair.public),
        )
        if self.is_asked:
            self.candidate, self._candidate_nonces = new, nonces
            return answer, [NewIkeSa(new)]
        self._is_over = True
        return answer, [ReplacedBy(new)]

    def answered(self, payloads: Sequence[Payload]) -> list[Outcome]:
        """Take the answer to our request.

        Raises Refused where it made no IKE SA: then it is as if we had not asked, except that
        after INVALID_KE_PAYLOAD the next request begins with the group that the peer wants.
        """
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return []
        try:
            new, nonces = self._accepted(attempt, payloads)
        except Refused:
            # The peer did not notice ours, or is about to delete the old one (section 2.8.2).
            if self._is_over or self.candidate is not None:
                return self.settle()
            raise
        if self._candidate_nonces is None:
            self._is_over = True
            return [ReplacedBy(new)]
        if nonces.lowest < self._candidate_nonces.lowest:
            return [NewIkeSa(new), Discard(new), *self.settle()]
        if self._is_over:
            return [NewIkeSa(new), Discard(new)]
        self._is_over = True
        return [ReplacedBy(new), *([Discard(self.candidate)] if self.candidate is not None else [])]

    def settle(self) -> list[Outcome]:
        """Take what the peer made: it uses it, has deleted the old one, or refused what we asked."""
        if self._is_over or self.candidate is None:
            return []
        self._is_over = True
        return [ReplacedBy(self.candidate)]

    def _accepted(self, attempt: _Attempt, payloads: Sequence[Payload]) -> tuple[IkeSa, Nonces]:
        error = error_in(payloads)
        if error is None:
            return attempt.accepted(payloads, self.sa)
        kind = error.type if isinstance(error.type, NotifyType) else NotifyType.NO_PROPOSAL_CHOSEN
        if kind is NotifyType.INVALID_KE_PAYLOAD:
            allowed = [group for proposal in self._proposals for group in proposal.groups]
            self.group = group_asked(error, allowed) or self.group
        raise Refused(kind, f"the peer refuses to rekey the IKE SA: {kind.name}")
