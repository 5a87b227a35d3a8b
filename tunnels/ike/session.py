"""One IKE SA, from its first message to its end.

Datagrams and time go in, effects come out. Whatever a stranger sends changes
nothing: a message counts only when it is authentic, whole and new, and only such
a message is proof that the peer lives, or that it has moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from enum import Enum

import msgspec

from policies.errors import MalformedPacket
from policies.ipsec import IkeSuite
from tunnels.effects import (
    Effect,
    MoveChildren,
    Path,
    SendDatagram,
    SendKeepalive,
    SiteDown,
    SiteTrouble,
    SiteUp,
)
from tunnels.ike import auth, informational, sa_init, wire
from tunnels.ike.children import Children
from tunnels.ike.constants import ExchangeType, NotifyType
from tunnels.ike.entropy import Entropy
from tunnels.ike.exchange import PATIENT, Answer, Exchanges, Received, Repeated, Request, Task, Unreadable
from tunnels.ike.ike_rekey import Discard, GiveUp, NewIkeSa, ReplacedBy
from tunnels.ike.ike_sa import IkeSa
from tunnels.ike.informational import Telling
from tunnels.ike.liveness import KEEPALIVE, Liveness, Question, Traffic
from tunnels.ike.nat import Nat, Route
from tunnels.ike.payloads import Delete, Message, Notify, Payload
from tunnels.ike.policy import PeerPolicy
from tunnels.ike.rejected import Refused
from tunnels.ike.sa_init import NO_SPI, Agreed, Initiation, notified
from tunnels.retransmit import Backoff

# Seconds that a peer has to prove itself after its first message.
HALF_OPEN_FOR = 30.0
# How long the last response of a session that has ended is still repeated for the peer, in seconds.
LINGER = 5.0
# How long the peer has to delete an IKE SA that is its to delete; then we do, in seconds.
DELETED_WITHIN = 30.0

# Whoever leaves does not wait long for the answer.
_FAREWELL = Backoff(first=0.5, factor=2.0, attempts=3)


SpiAllocator = Callable[[], int]
"""Gives an SPI for ESP that nobody else on the node receives at."""


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


class IkeSession:
    """The life of one IKE SA; `initiate` and `respond` make one."""

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
        self.successor: IkeSession | None = None
        """The session that has this one's children, after a rekey of the IKE SA."""
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
        self._predecessor: IkeSession | None = None
        self._offspring: dict[bytes, IkeSession] = {}
        """The sessions of IKE SAs that a rekey has made, by our SPI: two where both sides ask for it."""

    @classmethod
    def initiate(
        cls,
        policy: PeerPolicy,
        path: Path,
        entropy: Entropy,
        _now: float,
        *,
        initial_contact: bool = False,
        allocate_spi: SpiAllocator | None = None,
    ) -> IkeSession:
        """Make a session that calls the peer, with `start`.

        `initial_contact` says that we know of no other IKE SA with it: the peer may
        forget those that it has. `allocate_spi` gives an SPI for ESP that nobody else on the
        node receives at; without it, one is drawn at random.
        """
        initiation = Initiation(policy, path, entropy)
        session = cls(policy, initiation.own_spi, Route(path), entropy, allocate_spi or _drawn_from(entropy))
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
    ) -> tuple[IkeSession | None, list[Effect]]:
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
            if len(policies) == 1 and refused.notify != NotifyType.INVALID_KE_PAYLOAD:
                answer.append(SiteTrouble(policies[0].site, refused.words))
            return None, answer
        allocate = allocate_spi or _drawn_from(entropy)
        session = cls(None, agreed.sa.own_spi, Route(path), entropy, allocate)
        session._policies = policies
        session.is_initiator = False
        session.state = State.HALF_OPEN
        session._expires_at = now + HALF_OPEN_FOR
        session._agree(agreed, next_own=0, next_peers=1)
        return session, [SendDatagram(path, agreed.own_message)]

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
    def kin(self) -> tuple[IkeSession, ...]:
        """The other sessions of a rekey that is going on: what happens to one may change them all."""
        older = (
            () if self._predecessor is None else (self._predecessor, *self._predecessor._offspring.values())
        )
        return tuple(each for each in (*older, *self._offspring.values()) if each is not self)

    @property
    def deadline(self) -> float | None:
        """When `handle_timeout` wants calling."""
        wanted: list[float | None] = [self._expires_at]
        if self._initiation is not None:
            wanted.append(self._initiation.retransmission.deadline)
        if self._exchanges is not None:
            wanted.append(self._exchanges.deadline)
        if self.state is State.ESTABLISHED and self.children is not None and self._liveness is not None:
            wanted += [self.children.deadline, self._liveness.deadline, self._keepalive_at]
        return min((each for each in wanted if each is not None and each != math.inf), default=None)

    def start(self, now: float) -> list[Effect]:
        """Send the first message."""
        return self._initiation.start(now) if self._initiation is not None else []

    def handle_datagram_untrusted(
        self, path: Path, datagram: bytes, now: float, utc: datetime
    ) -> list[Effect]:
        """Take a message for this session, from anyone. `utc` is what certificates are judged by."""
        try:
            header = wire.decode_header_untrusted(datagram)
        except MalformedPacket:
            return []
        if header.exchange == ExchangeType.IKE_SA_INIT:
            if self._initiation is not None:
                found = self._initiation.handle_response_untrusted(header, path, datagram, now)
                return found if isinstance(found, list) else self._introduce(found, now)
            return self._repeat_first(path, datagram)
        if self._exchanges is None:
            return []
        received = self._exchanges.receive_untrusted(header, path, datagram, now)
        if isinstance(received, Repeated):
            return received.effects
        if received is None or self.state is State.CLOSED:
            return []
        return self._take(received, path, now, utc)

    def handle_timeout(self, now: float, traffic: Traffic) -> list[Effect]:
        """Do what is due."""
        if self._expires_at is not None and now >= self._expires_at:
            self._expires_at = None
            return self._expire(now)
        effects: list[Effect] = []
        if self._initiation is not None:
            effects += self._initiation.retransmission.handle_timeout(self.path, now)
            if self._initiation.retransmission.is_given_up:
                return effects + self._fail(self._initiation.note or self._no_answer(now), now)
        if self._exchanges is None:
            return effects
        effects += self._exchanges.handle_timeout(self.path, now)
        unanswered = self._exchanges.unanswered
        if unanswered is not None and unanswered.is_given_up:
            if not (unanswered.is_urgent and traffic.last_received > unanswered.began):
                return effects + self._give_up(now)
            # Packets of the peer's do come, so it is only its IKE that is slow.
            effects += unanswered.begin_again(PATIENT, self.path, now, urgent=False)
        if self.state is State.ESTABLISHED and self.children is not None:
            effects += self._ask_whether_alive(now, traffic)
            effects += self._keep_mapping(now, traffic)
            effects += self.children.handle_timeout(now)
        return effects + self._go_on(now)

    def expiring(self, inbound_spi: int, now: float) -> list[Effect]:
        """A child SA has carried so much that it is to be replaced."""
        if self.state is not State.ESTABLISHED or self.children is None:
            return []
        return self.children.expiring(inbound_spi, now) + self._go_on(now)

    def moved(self, path: Path, _now: float) -> list[Effect]:
        """An authentic, new packet of a child SA has come along another path (RFC 7296 section 2.23)."""
        return self._follow(path) if self.state is State.ESTABLISHED and self.in_udp else []

    def close(self, now: float, reason: str = "closed here") -> list[Effect]:
        """End the session at the peer too; `state` is CLOSED once that has answered, or after some tries."""
        if self.state is State.CLOSING or self._exchanges is None or self.children is None:
            return [] if self.state is State.CLOSING else self.abandon(now, reason)
        if self.state is not State.ESTABLISHED:
            return self.abandon(now, reason)
        self.state = State.CLOSING
        self.failure = reason
        effects = [*self.children.close(linger=False), SiteDown(self._site_policy.site, reason)]
        return effects + self._say_last(informational.goodbye(), now)

    def abandon(self, now: float, reason: str = "closed here") -> list[Effect]:
        """End the session without a word to the peer."""
        was_up = self.state is State.ESTABLISHED
        effects: list[Effect] = []
        if was_up and self.children is not None:
            effects += [*self.children.close(linger=False), SiteDown(self._site_policy.site, reason)]
        self.failure = self.failure or reason
        self._closed(now)
        return effects

    # From the first message to both proofs.

    def _agree(self, agreed: Agreed, *, next_own: int, next_peers: int) -> Exchanges:
        self._agreed, self._initiation = agreed, None
        self._route.path, self._route.nat = agreed.path, agreed.nat
        return self._open(
            agreed.sa, next_own=next_own, next_peers=next_peers, may_fragment=agreed.may_fragment
        )

    def _introduce(self, agreed: Agreed, now: float) -> list[Effect]:
        """Keys are agreed on: say who we are, and prove it."""
        exchanges = self._agree(agreed, next_own=1, next_peers=0)
        self.children = self._new_children(agreed.sa, self._site_policy, now)
        payloads = auth.request(
            agreed,
            self._site_policy,
            self.children.first_offer(now),
            initial_contact=self._says_initial_contact,
        )
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
            return effects + self._fail(refused.words, now, candidate)
        self.policy = policy
        self.is_initial_contact = notified(NotifyType.INITIAL_CONTACT, request.payloads) is not None
        self._sa = msgspec.structs.replace(agreed.sa, site=policy.site)
        self.children = self._new_children(self._sa, policy, now)
        answer, made = self.children.first_request(request.payloads, agreed.nonces, now)
        response = auth.response(agreed, policy, answer)
        effects = [*self._establish(now), *made, *self._protected.respond(request, response, path, now)]
        return effects + self._go_on(now)

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
            effects = self._fail(refused.words, now)
            if auth.has_proof(payloads):
                # The peer takes the IKE SA for established.
                self.state = State.CLOSING
                effects += self._say_last(informational.distrust(), now)
            return effects
        self.is_initial_contact = notified(NotifyType.INITIAL_CONTACT, payloads) is not None
        effects = [*self._establish(now), *self._follow(path)]
        effects += children.first_answered(payloads, agreed.nonces, now)
        return effects + self._go_on(now)

    def _establish(self, now: float) -> list[Effect]:
        policy = self._site_policy
        self._become_established(now)
        # What is only for IKE_AUTH has secrets in it.
        self._agreed = self._introduction = None
        self._route.is_forced = policy.force_udp
        return [SiteUp(policy.site, self._the_sa.suite, self.path)]

    def _fail(self, words: str, now: float, policy: PeerPolicy | None = None) -> list[Effect]:
        """It came to nothing. Where it is unclear whose peer it was, only `failure` says why."""
        policy = policy or self.policy
        self.failure = words
        self._closed(now)
        return [SiteTrouble(policy.site, words)] if policy is not None else []

    # Messages that are authentic, whole and new.

    def _take(self, received: Received, path: Path, now: float, utc: datetime) -> list[Effect]:
        if self._liveness is not None:
            self._liveness.heard(now)
        effects = self._follow(path) if self.state is State.ESTABLISHED else []
        match received:
            case Request() if self.state is State.HALF_OPEN:
                return self._take_introduction(received, path, now, utc)
            case Request():
                effects += self._answer(received, path, now)
            case Answer(task, payloads) if task is self._introduction:
                return self._take_proof(payloads, path, now, utc)
            case Answer(task, payloads):
                effects += self._answered(task, payloads, now)
            case Unreadable():
                effects += self._take_unreadable(received, path, now)
        return effects + self._go_on(now)

    def _answer(self, request: Request, path: Path, now: float) -> list[Effect]:
        children = self.children
        if children is None or self.policy is None or self._introduction is not None:
            return []  # not before it has proved who it is
        if request.exchange == ExchangeType.CREATE_CHILD_SA:
            answer, effects = children.handle_create(request.payloads, now, self._the_sa)
            return effects + self._protected.respond(request, answer, path, now)
        if request.exchange == ExchangeType.INFORMATIONAL:
            return self._answer_informational(request, children, path, now)
        # An exchange that neither side has announced to know.
        refusal = self._protected.respond(request, (Notify(NotifyType.INVALID_SYNTAX),), path, now)
        return refusal + self._end(f"the peer began an exchange of type {request.exchange:d}", now)

    def _answer_informational(
        self, request: Request, children: Children, path: Path, now: float
    ) -> list[Effect]:
        answer: list[Payload] = []
        effects: list[Effect] = []
        if informational.ends_ike_sa(request.payloads):
            effects += self._protected.respond(request, (), path, now)
            if self.state is State.ESTABLISHED:
                effects += children.handle_ike_delete(now)
                effects += self._settle(now)
            return effects + self._end("the peer closed it", now)
        for each in request.payloads:
            if isinstance(each, Delete):
                answers, caused = children.handle_delete(each, now, self._the_sa)
                answer += answers
                effects += caused
        effects += self._protected.respond(request, answer, path, now)
        if informational.rejects_proof(request.payloads):
            effects += self._end("the peer does not believe our proof of identity", now)
        return effects

    def _answered(self, task: Task, payloads: tuple[Payload, ...], now: float) -> list[Effect]:
        if isinstance(task, Telling) and task.is_last:
            self._closed(now)
            return []
        if self.state is State.CLOSING and self.successor is None:
            return []  # whatever it was about has been given up
        effects = task.answered(payloads, now)
        if notified(NotifyType.INVALID_SYNTAX, payloads) is not None:
            # Then it has closed the IKE SA already (section 2.21.3).
            effects += self._end("the peer could not read our request", now)
        return effects

    def _take_unreadable(self, message: Unreadable, path: Path, now: float) -> list[Effect]:
        if message.is_response:
            # No error is sent for a response (section 2.21), but the IKE SA cannot go on.
            if self.state is State.ESTABLISHED:
                return self.close(now, f"the peer's answer makes no sense: {message.words}")
            return self._fail(message.words, now) if self.state is State.CONNECTING else self.abandon(now)
        effects = self._protected.respond(message, (message.notify,), path, now)
        if self.state is State.HALF_OPEN:
            return effects + self._fail(message.words, now)
        if message.notify.type == NotifyType.INVALID_SYNTAX:
            # Fatal on both sides, without a deletion (section 2.21.3).
            effects += self._end(f"the peer sent what makes no sense: {message.words}", now)
        return effects

    # Time.

    def _expire(self, now: float) -> list[Effect]:
        if self.state is State.CLOSED:
            self._exchanges = None
            return []
        if self.state is State.CLOSING:
            return self._say_last(informational.goodbye(), now)
        return self._fail("the peer began and did not go on", now)

    def _give_up(self, now: float) -> list[Effect]:
        if self.state is State.ESTABLISHED:
            return self._end(self._no_answer(now), now)
        if self.state is State.CONNECTING:
            return self._fail(self._no_answer(now), now)
        self._closed(now)
        return []

    def _ask_whether_alive(self, now: float, traffic: Traffic) -> list[Effect]:
        liveness, exchanges = self._liveness, self._protected
        question = liveness.check(now, traffic) if liveness is not None else Question.NONE
        if liveness is None or question is Question.NONE:
            return []
        if exchanges.is_idle:
            exchanges.submit(informational.probe())
        return exchanges.hasten(liveness.urgent, self.path, now) if question is Question.URGENT else []

    def _keep_mapping(self, now: float, traffic: Traffic) -> list[Effect]:
        if not self.nat.ours or now < self._keepalive_at:
            return []
        idle_at = traffic.last_sent + KEEPALIVE
        if now < idle_at:
            self._keepalive_at = idle_at
            return []
        self._keepalive_at = now + KEEPALIVE
        return [SendKeepalive(self.path)]

    def _no_answer(self, now: float) -> str:
        if self._initiation is not None:
            began = self._initiation.retransmission.began
        else:
            unanswered = self._exchanges.unanswered if self._exchanges is not None else None
            began = unanswered.began if unanswered is not None else now
        return f"no answer from {self.path.remote.address} in {now - began:.0f} s"

    # Common steps.

    def _go_on(self, now: float) -> list[Effect]:
        """Do what has become possible: carry out what the children decided, and ask what they want asked."""
        effects: list[Effect] = []
        if self.children is None or self._exchanges is None or self.state is State.CLOSED:
            return effects
        effects += self._settle(now)
        if self.state is State.ESTABLISHED:
            for task in self.children.take_tasks():
                self._exchanges.submit(task)
        return effects + self._exchanges.send_next(
            self.path, now, _FAREWELL if self.state is State.CLOSING else PATIENT
        )

    def _open(self, sa: IkeSa, *, next_own: int, next_peers: int, may_fragment: bool) -> Exchanges:
        self._sa, self.suite = sa, sa.suite
        self.peer_spi, self.is_initiator = sa.peer_spi, sa.is_initiator
        self._exchanges = Exchanges(sa, self._entropy, next_own=next_own, next_peers=next_peers)
        self._exchanges.may_fragment = may_fragment
        return self._exchanges

    def _become_established(self, now: float) -> None:
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

    def _settle(self, now: float) -> list[Effect]:
        """Carry out what has become of the IKE SA by rekeying."""
        if self._predecessor is not None and self.state is State.CONNECTING:
            return self._predecessor._settle(now)
        effects: list[Effect] = []
        for outcome in self.children.take_outcomes() if self.children is not None else ():
            match outcome:
                case NewIkeSa(sa):
                    self._offspring_for(sa)
                case ReplacedBy(sa):
                    effects += self._hand_over(self._offspring_for(sa), now)
                case Discard(sa):
                    effects += self._offspring_for(sa)._await_deletion(now)
                case GiveUp(reason):
                    effects += self.close(now, reason)
        return effects

    def _offspring_for(self, sa: IkeSa) -> IkeSession:
        known = self._offspring.get(sa.own_spi)
        if known is not None:
            return known
        new = IkeSession(self.policy, sa.own_spi, self._route, self._entropy, self._allocate_spi)
        new._open(sa, next_own=0, next_peers=0, may_fragment=self._protected.may_fragment)
        new.children = self.children
        new._predecessor = self
        self._offspring[sa.own_spi] = new
        return new

    def _hand_over(self, new: IkeSession, now: float) -> list[Effect]:
        """Leave the children to the IKE SA that replaces this one, whose initiator deletes this one."""
        new._become_established(now)
        self.successor = new
        self._protected.withdraw()
        effects: list[Effect] = []
        self.state = State.CLOSING
        if new.is_initiator:
            effects += self._say_last(informational.goodbye(), now)
        else:
            self._expires_at = now + DELETED_WITHIN
        return effects + new._go_on(now)

    def _await_deletion(self, now: float) -> list[Effect]:
        self.state = State.CLOSING
        if self.is_initiator:
            return self._say_last(informational.goodbye(), now)
        self._expires_at = now + DELETED_WITHIN
        return []

    def _say_last(self, telling: Telling, now: float) -> list[Effect]:
        exchanges = self._protected
        exchanges.withdraw()
        exchanges.submit(telling)
        self._expires_at = None
        return exchanges.hasten(_FAREWELL, self.path, now)

    def _end(self, reason: str, now: float) -> list[Effect]:
        """It is over for both sides."""
        effects: list[Effect] = []
        if self.state is State.ESTABLISHED and self.children is not None:
            effects += [*self.children.close(linger=False), SiteDown(self._site_policy.site, reason)]
        self.failure = self.failure or reason
        self._closed(now)
        return effects

    def _closed(self, now: float) -> None:
        self.state = State.CLOSED
        self.children = self._agreed = self._initiation = self._introduction = None
        self._expires_at = None
        if self._exchanges is not None:
            self._exchanges.discard()
            if self._exchanges.has_responded:
                self._expires_at = now + LINGER
            else:
                self._exchanges = None
        for each in self._offspring.values():
            each._predecessor = None
            if each.state is State.CONNECTING:
                each._closed(now)

    def _new_children(self, sa: IkeSa, policy: PeerPolicy, now: float) -> Children:
        route = self._route
        return Children(
            sa, policy, self._entropy, lambda: (route.path, route.in_udp), self._allocate_spi, now
        )

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


def _drawn_from(entropy: Entropy) -> SpiAllocator:
    def allocate() -> int:
        # The first 255 are reserved (RFC 4303 section 2.1).
        while (spi := int.from_bytes(entropy.octets(4))) <= 255:
            continue
        return spi

    return allocate
