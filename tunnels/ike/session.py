"""One IKE SA, from its first message to its end.

Datagrams and time go in, effects come out. Whatever a stranger sends changes
nothing: a message counts only when it is authentic, whole and new, and only such
a message is proof that the peer lives, or that it has moved.
"""

from __future__ import annotations

import math
from datetime import datetime

from policies.errors import MalformedPacket
from tunnels.effects import Cause, Effect, Path, SendKeepalive
from tunnels.ike import informational, wire
from tunnels.ike.children import Children
from tunnels.ike.constants import ExchangeType, NotifyType
from tunnels.ike.exchange import PATIENT, Answer, Received, Repeated, Request, Task, Unreadable
from tunnels.ike.informational import Telling
from tunnels.ike.introduction import Introduction
from tunnels.ike.life import State
from tunnels.ike.liveness import KEEPALIVE, Question, Traffic
from tunnels.ike.payloads import Delete, Notify, Payload, notified


class IkeSession(Introduction):
    """The life of one IKE SA; `initiate` and `respond` make one.

    What differs from a plain machine of four states: `CLOSING` is an IKE SA that is being
    deleted, and one that is `CLOSED` and has a deadline still repeats its last response. A
    rekey makes further sessions, `kin`, whose messages are to be delivered at once.
    """

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
                note = self._initiation.note
                if note is not None:
                    return effects + self._fail(note.reason, note.cause, now)
                return effects + self._fail(self._no_answer(now), Cause.NO_ANSWER, now)
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
        return effects + self.go_on(now)

    def expiring(self, inbound_spi: int, now: float) -> list[Effect]:
        """A child SA has carried so much that it is to be replaced."""
        if self.state is not State.ESTABLISHED or self.children is None:
            return []
        return self.children.expiring(inbound_spi, now) + self.go_on(now)

    def wanted(self, now: float) -> list[Effect]:
        """A packet wants to go where no child SA goes: ask for those of the policy that are missing."""
        if self.state is not State.ESTABLISHED or self.children is None:
            return []
        return self.children.demand(now) + self.go_on(now)

    def moved(self, path: Path) -> list[Effect]:
        """An authentic, new packet of a child SA has come along another path (RFC 7296 section 2.23)."""
        return self._follow(path) if self.state is State.ESTABLISHED and self.in_udp else []

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
        return effects + self.go_on(now)

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
        return refusal + self.abandon(now, f"the peer began an exchange of type {request.exchange:d}")

    def _answer_informational(
        self, request: Request, children: Children, path: Path, now: float
    ) -> list[Effect]:
        answer: list[Payload] = []
        effects: list[Effect] = []
        if informational.ends_ike_sa(request.payloads):
            effects += self._protected.respond(request, (), path, now)
            if self.state is State.ESTABLISHED:
                effects += children.handle_ike_delete(now)
                effects += self.settle(now)
            return effects + self.abandon(now, "the peer closed it")
        for each in request.payloads:
            if isinstance(each, Delete):
                answers, caused = children.handle_delete(each, now, self._the_sa)
                answer += answers
                effects += caused
        effects += self._protected.respond(request, answer, path, now)
        if informational.rejects_proof(request.payloads):
            effects += self.abandon(now, "the peer does not believe our proof of identity")
        return effects

    def _answered(self, task: Task, payloads: tuple[Payload, ...], now: float) -> list[Effect]:
        if isinstance(task, Telling) and task.is_last:
            self.finish(now)
            return []
        if self.state is State.CLOSING and self.successor is None:
            return []  # whatever it was about has been given up
        effects = task.answered(payloads, now)
        if notified(NotifyType.INVALID_SYNTAX, payloads) is not None:
            # Then it has closed the IKE SA already (section 2.21.3).
            effects += self.abandon(now, "the peer could not read our request")
        return effects

    def _take_unreadable(self, message: Unreadable, path: Path, now: float) -> list[Effect]:
        if message.is_response:
            # No error is sent for a response (section 2.21), but the IKE SA cannot go on.
            if self.state is State.ESTABLISHED:
                return self.close(now, f"the peer's answer makes no sense: {message.words}")
            return (
                self._fail(message.words, Cause.OTHER, now)
                if self.state is State.CONNECTING
                else self.abandon(now)
            )
        if self._introduction is not None:
            return []  # not before it has proved who it is
        effects = self._protected.respond(message, (message.notify,), path, now)
        if self.state is State.HALF_OPEN:
            return effects + self._fail(message.words, Cause.OTHER, now)
        if message.notify.type == NotifyType.INVALID_SYNTAX:
            # Fatal on both sides, without a deletion (section 2.21.3).
            effects += self.abandon(now, f"the peer sent what makes no sense: {message.words}")
        return effects

    # Time.

    def _expire(self, now: float) -> list[Effect]:
        if self.state is State.CLOSED:
            self._exchanges = None
            return []
        if self.state is State.CLOSING:
            return self._say_last(informational.goodbye(), now)
        return self._fail("the peer began and did not go on", Cause.NO_ANSWER, now)

    def _give_up(self, now: float) -> list[Effect]:
        if self.state is State.ESTABLISHED:
            return self.abandon(now, self._no_answer(now))
        if self.state is State.CONNECTING:
            return self._fail(self._no_answer(now), Cause.NO_ANSWER, now)
        self.finish(now)
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
            if unanswered is not None and unanswered.is_urgent and self._liveness is not None:
                began = self._liveness.silent_since
        return f"no answer from {self.path.remote.address} in {now - began:.0f} s"
