"""How a session comes to be: the first message, and both proofs of identity (RFC 7296 section 1.2)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Self

import msgspec

from policies.errors import MalformedPacket
from tunnels.effects import Cause, Effect, Path, SendDatagram, SiteTrouble, SiteUp, StrangerRefused
from tunnels.ike import auth, informational, sa_init
from tunnels.ike.constants import ExchangeType, NotifyType
from tunnels.ike.entropy import Entropy
from tunnels.ike.exchange import Exchanges, Request
from tunnels.ike.informational import Telling
from tunnels.ike.life import State
from tunnels.ike.nat import Route
from tunnels.ike.payloads import Message, Notify, Payload, notified
from tunnels.ike.policy import PeerPolicy
from tunnels.ike.rejected import Refused
from tunnels.ike.sa_init import Agreed, Initiation
from tunnels.ike.spis import SpiAllocator, never_twice
from tunnels.ike.succession import Succession

# Seconds that a peer has to prove itself after its first message.
HALF_OPEN_FOR = 30.0


class Introduction(Succession):
    """A session that is made by a call, ours or the peer's."""

    @classmethod
    def initiate(
        cls,
        policy: PeerPolicy,
        path: Path,
        entropy: Entropy,
        *,
        initial_contact: bool = False,
        allocate_spi: SpiAllocator | None = None,
    ) -> Self:
        """Make a session that calls the peer, with `start`.

        `initial_contact` says that we know of no other IKE SA with it: the peer may
        forget those that it has. `allocate_spi` gives an SPI for ESP that nobody else on the
        node receives at; without it, the session sees only to its own.
        """
        initiation = Initiation(policy, path, entropy)
        session = cls(policy, initiation.own_spi, Route(path), entropy, allocate_spi or never_twice(entropy))
        session._initiation = initiation
        session._says_initial_contact = initial_contact
        return session

    @classmethod
    def respond(
        cls,
        policies: Sequence[PeerPolicy],
        path: Path,
        request: Message,
        request_octets: bytes,
        entropy: Entropy,
        now: float,
        *,
        allocate_spi: SpiAllocator | None = None,
    ) -> tuple[Self | None, list[Effect]]:
        """Answer a first message that is worth it: the endpoint has looked at cookies and limits.

        The policies are those of the peers that may call from there, with one set of
        proposals; IKE_AUTH shows which it is. There is no session where the answer is an error.
        """
        try:
            agreed = sa_init.respond(policies, path, request, request_octets, entropy)
        except MalformedPacket:
            return None, []
        except Refused as refused:
            answer: list[Effect] = [SendDatagram(path, sa_init.error_response(request.header, refused))]
            if refused.notify != NotifyType.INVALID_KE_PAYLOAD:
                words = refused.words
                is_known = len(policies) == 1
                answer.append(
                    SiteTrouble(policies[0].site, words, refused.cause)
                    if is_known
                    else StrangerRefused(path, words)
                )
            return None, answer
        allocate = allocate_spi or never_twice(entropy)
        session = cls(None, agreed.sa.own_spi, Route(path), entropy, allocate)
        session._policies = policies
        session.is_initiator = False
        session.state = State.HALF_OPEN
        session._expires_at = now + HALF_OPEN_FOR
        session._agree(agreed, next_own=0, next_peers=1)
        return session, [SendDatagram(path, agreed.own_message)]

    def start(self, now: float) -> list[Effect]:
        """Send the first message."""
        return self._initiation.start(now) if self._initiation is not None else []

    def _agree(self, agreed: Agreed, *, next_own: int, next_peers: int) -> Exchanges:
        self._agreed, self._initiation = agreed, None
        self._route.path, self._route.nat = agreed.path, agreed.nat
        return self.open(
            agreed.sa, next_own=next_own, next_peers=next_peers, may_fragment=agreed.may_fragment
        )

    def _introduce(self, agreed: Agreed, now: float) -> list[Effect]:
        """Keys are agreed on: say who we are, and prove it."""
        exchanges = self._agree(agreed, next_own=1, next_peers=0)
        children = self._give_children(self._site_policy, agreed.sa, now)
        offer = children.first_offer()
        payloads = auth.request(agreed, self._site_policy, offer, initial_contact=self._says_initial_contact)
        self._introduction = Telling(*payloads, exchange=ExchangeType.IKE_AUTH)
        exchanges.submit(self._introduction)
        return exchanges.send_next(self.path, now)

    def _repeat_first(self, path: Path, datagram: bytes) -> list[Effect]:
        """Answer the first message once more, if it is the same (section 2.1)."""
        agreed = self._agreed
        if self.state is not State.HALF_OPEN or agreed is None or datagram != agreed.peer_message:
            return []
        return [SendDatagram(path, agreed.own_message)]

    def _take_introduction(self, request: Request, path: Path, now: float, utc: datetime) -> list[Effect]:
        """The peer that called says who it is."""
        agreed = self._agreed
        if agreed is None or request.exchange != ExchangeType.IKE_AUTH:
            return []
        # The peer may have changed to port 4500 with this message, whoever is behind a NAT.
        self._route.path = path
        candidate = auth.choose(self._policies, request.payloads)
        try:
            policy = auth.verify_initiator(agreed, self._policies, request.payloads, utc)
        except Refused as refused:
            effects = self._protected.respond(request, (Notify(NotifyType.AUTHENTICATION_FAILED),), path, now)
            if candidate is None and len(self._policies) == 1:
                candidate = self._policies[0]
            return effects + self._fail(refused.words, refused.cause, now, candidate)
        self.policy = policy
        self.is_initial_contact = notified(NotifyType.INITIAL_CONTACT, request.payloads) is not None
        self._sa = msgspec.structs.replace(agreed.sa, site=policy.site)
        children = self._give_children(policy, self._sa, now)
        answer, made = children.first_request(request.payloads, agreed.nonces, now)
        response = auth.response(agreed, policy, answer)
        effects = [*self._establish(now), *made, *self._protected.respond(request, response, path, now)]
        return effects + self.go_on(now)

    def _take_proof(
        self, payloads: tuple[Payload, ...], path: Path, now: float, utc: datetime
    ) -> list[Effect]:
        """The peer that we called says who it is."""
        agreed, policy, children = self._agreed, self._site_policy, self.children
        if agreed is None or children is None:
            return []
        try:
            auth.verify_responder(agreed, policy, payloads, utc)
        except Refused as refused:
            if not auth.has_proof(payloads):
                return self._fail(refused.words, refused.cause, now)
            # The peer takes the IKE SA for established.
            self.state, self.failure, self.children = State.CLOSING, refused.words, None
            return [
                SiteTrouble(policy.site, refused.words, refused.cause),
                *self._say_last(informational.distrust(), now),
            ]
        self.is_initial_contact = notified(NotifyType.INITIAL_CONTACT, payloads) is not None
        effects = [*self._establish(now), *self._follow(path)]
        effects += children.first_answered(payloads, agreed.nonces, now)
        return effects + self.go_on(now)

    def _establish(self, now: float) -> list[Effect]:
        policy = self._site_policy
        self.become_established(now)
        # What is only for IKE_AUTH has secrets in it.
        self._agreed = self._introduction = None
        return [SiteUp(policy.site, self._the_sa.suite, self.path)]

    def _fail(self, words: str, cause: Cause, now: float, policy: PeerPolicy | None = None) -> list[Effect]:
        """It came to nothing. Where it is unclear whose peer it was, only `failure` says why."""
        policy = policy or self.policy
        self.failure = words
        self.finish(now)
        return [SiteTrouble(policy.site, words, cause)] if policy is not None else []
