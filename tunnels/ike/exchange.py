"""Requests and responses of one IKE SA: numbered, repeated, answered once (RFC 7296 sections 2.1 to 2.3).

The window is 1: a request of ours waits until the one before it has been
answered. What comes is shown to anybody only when it is authentic, whole and
new. What is authentic but not new causes at most that our response is sent
once more, and everything else causes nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import msgspec

from policies.errors import MalformedPacket
from tunnels.effects import Effect, Path, SendDatagram
from tunnels.ike import wire
from tunnels.ike.ciphers import NotAuthentic
from tunnels.ike.constants import MAJOR_VERSION, ExchangeType, NotifyType
from tunnels.ike.entropy import Entropy
from tunnels.ike.fragments import Reassembly
from tunnels.ike.ike_sa import IkeSa
from tunnels.ike.nat import fragment_limit
from tunnels.ike.payloads import Header, Notify, Payload
from tunnels.ike.protection import Protection
from tunnels.ike.rejected import UnsupportedCriticalPayload
from tunnels.retransmit import Backoff

# Half a minute in all. The RFC suggests minutes, as for a peer that nobody would call again;
# ours is called again at once, with new keys (section 2.4).
PATIENT = Backoff(first=0.5, factor=2.0, attempts=7, ceiling=8.0)

# A response is not sent again more often than a peer could want it, in seconds: whoever repeats a
# peer's request with a false source gets no more than that out of us.
_REPEAT_AFTER = 0.1


class Task(Protocol):
    """One request of ours. Its turn comes when the one before it has been answered: the window is 1."""

    @property
    def exchange(self) -> ExchangeType:
        """Which exchange it is."""

    def request(self, now: float) -> tuple[Payload, ...] | None:
        """Say what to ask, just before it is sent; None when it is no longer needed."""

    def answered(self, payloads: tuple[Payload, ...], now: float) -> list[Effect]:
        """Take the answer, which is authentic and decoded but may say anything."""


class Retransmission:
    """One request of ours, the same octets each time, until it is answered or given up."""

    def __init__(self, messages: Sequence[bytes]) -> None:
        self.deadline: float | None = None
        self.is_given_up = False
        self.is_urgent = False
        self.began = math.inf
        """When it was first sent."""
        self._messages = messages
        self._backoff, self._attempt = PATIENT, 0

    def transmit(self, path: Path, now: float) -> list[Effect]:
        self._attempt += 1
        self.began = min(self.began, now)
        self.deadline = now + self._backoff.delay(self._attempt)
        return [SendDatagram(path, message) for message in self._messages]

    def begin_again(self, backoff: Backoff, path: Path, now: float, *, urgent: bool) -> list[Effect]:
        """Send it now, and from now on by this backoff."""
        self._backoff, self._attempt = backoff, 0
        self.is_given_up, self.is_urgent = False, urgent
        return self.transmit(path, now)

    def handle_timeout(self, path: Path, now: float) -> list[Effect]:
        if self.deadline is None or now < self.deadline:
            return []
        if not self._backoff.is_over(self._attempt):
            return self.transmit(path, now)
        self.deadline = None
        self.is_given_up = True
        return []


class Request(msgspec.Struct, frozen=True):
    """The peer's next request."""

    exchange: ExchangeType | int
    message_id: int
    payloads: tuple[Payload, ...]


class Answer(msgspec.Struct, frozen=True):
    """The peer's response to a task of ours."""

    task: Task
    payloads: tuple[Payload, ...]


class Unreadable(msgspec.Struct, frozen=True):
    """An authentic, new message whose payloads break the format, or one of them is critical and unknown."""

    is_response: bool
    exchange: ExchangeType | int
    message_id: int
    notify: Notify
    words: str


class Repeated(msgspec.Struct, frozen=True):
    """The peer's last request once more: our response goes out again, and nothing else happens."""

    effects: list[Effect]


Received = Request | Answer | Unreadable | Repeated


class Exchanges:
    """Both directions of one IKE SA. `next_own` and `next_peers` are the message IDs of the next requests."""

    def __init__(self, sa: IkeSa, entropy: Entropy, *, next_own: int, next_peers: int) -> None:
        keys = sa.keys
        initiators = Protection(sa.suite, keys.encryption_initiator, keys.integrity_initiator)
        responders = Protection(sa.suite, keys.encryption_responder, keys.integrity_responder)
        self._outbound, self._inbound = (
            (initiators, responders) if sa.is_initiator else (responders, initiators)
        )
        self.may_fragment = False
        """Whether the peer has said that it understands fragments (RFC 7383 section 2.3)."""
        self._sa = sa
        self._entropy = entropy
        self._waiting: deque[Task] = deque()
        self._task: Task | None = None
        self._retransmission: Retransmission | None = None
        self._next_own = next_own
        self._next_peers = next_peers
        self._response: list[bytes] = []
        self._response_sent = -math.inf
        self._requests, self._responses = Reassembly(), Reassembly()

    @property
    def deadline(self) -> float | None:
        """When `handle_timeout` wants calling."""
        return self._retransmission.deadline if self._retransmission is not None else None

    @property
    def unanswered(self) -> Retransmission | None:
        """The request of ours that waits for its answer."""
        return self._retransmission

    def submit(self, task: Task) -> None:
        """Have something asked after all that was submitted before."""
        self._waiting.append(task)

    @property
    def has_responded(self) -> bool:
        """Whether there is a response that the peer could want once more."""
        return bool(self._response)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is asked and nothing waits for being asked."""
        return self._task is None and not self._waiting

    def withdraw(self) -> None:
        """Take back what was submitted and has not been sent."""
        self._waiting.clear()

    def discard(self) -> None:
        """Ask nothing more, and don't wait for an answer."""
        self._waiting.clear()
        self._task = self._retransmission = None

    def hasten(self, backoff: Backoff, path: Path, now: float) -> list[Effect]:
        """Repeat what is unanswered, or send what is next, by a backoff that is more urgent."""
        if self._retransmission is None:
            return self.send_next(path, now, backoff, urgent=True)
        if self._retransmission.is_urgent:
            return []
        return self._retransmission.begin_again(backoff, path, now, urgent=True)

    def send_next(
        self, path: Path, now: float, backoff: Backoff = PATIENT, *, urgent: bool = False
    ) -> list[Effect]:
        """Send the next request, if there is one and its turn has come."""
        while self._task is None and self._waiting:
            task = self._waiting.popleft()
            payloads = task.request(now)
            if payloads is None:
                continue
            self._task = task
            messages = self._seal(task.exchange, self._next_own, payloads, path, is_response=False)
            self._retransmission = Retransmission(messages)
            return self._retransmission.begin_again(backoff, path, now, urgent=urgent)
        return []

    def handle_timeout(self, path: Path, now: float) -> list[Effect]:
        """Repeat the request of ours that is unanswered, or give it up."""
        return self._retransmission.handle_timeout(path, now) if self._retransmission is not None else []

    def respond(
        self, request: Request | Unreadable, payloads: Sequence[Payload], path: Path, now: float
    ) -> list[Effect]:
        """Answer the peer's request; the next one may come."""
        self._next_peers = request.message_id + 1
        self._response = self._seal(request.exchange, request.message_id, payloads, path, is_response=True)
        self._response_sent = now
        return [SendDatagram(path, message) for message in self._response]

    def receive_untrusted(self, header: Header, path: Path, datagram: bytes, now: float) -> Received | None:
        """Open a message of this IKE SA. None: forged, not whole yet, or of no use."""
        if not self._concerns(header):
            return None
        try:
            opened = self._inbound.open_untrusted(datagram)
        except (MalformedPacket, NotAuthentic):
            return None
        if not header.is_response and header.message_id == self._next_peers - 1:
            # Of a request in fragments only the first asks for the response (RFC 7383 section 2.6.1).
            is_asked = opened.fragment is None or opened.fragment[0] == 1
            return self._repeat(path, now) if is_asked else None
        first, plaintext = opened.first_payload, opened.plaintext
        if opened.fragment is not None:
            reassembly = self._responses if header.is_response else self._requests
            whole = reassembly.add(header.message_id, *opened.fragment, first, plaintext)
            if whole is None:
                return None
            first, plaintext = whole
        return self._take(header, first, plaintext)

    def _concerns(self, header: Header) -> bool:
        if (header.initiator_spi, header.responder_spi) != (self._sa.initiator_spi, self._sa.responder_spi):
            return False
        if header.from_initiator == self._sa.is_initiator or header.major_version != MAJOR_VERSION:
            return False
        if header.is_response:
            task = self._task
            return (
                task is not None and header.message_id == self._next_own and header.exchange == task.exchange
            )
        # Outside the window a request is dropped; to say INVALID_MESSAGE_ID is optional (section 2.3).
        return header.message_id in (self._next_peers, self._next_peers - 1)

    def _repeat(self, path: Path, now: float) -> Received | None:
        if not self._response or now < self._response_sent + _REPEAT_AFTER:
            return None
        self._response_sent = now
        return Repeated([SendDatagram(path, message) for message in self._response])

    def _take(self, header: Header, first: int, plaintext: bytes) -> Received:
        try:
            payloads = wire.decode_payloads_untrusted(first, plaintext)
        except MalformedPacket as malformed:
            received: Received = self._unreadable(header, Notify(NotifyType.INVALID_SYNTAX), str(malformed))
        except UnsupportedCriticalPayload as refused:
            received = self._unreadable(header, Notify(refused.notify, refused.data), refused.words)
        else:
            task = self._task
            if not header.is_response or task is None:
                return Request(header.exchange, header.message_id, payloads)
            received = Answer(task, payloads)
        if header.is_response:
            self._task = self._retransmission = None
            self._next_own += 1
        return received

    def _unreadable(self, header: Header, notify: Notify, words: str) -> Unreadable:
        return Unreadable(header.is_response, header.exchange, header.message_id, notify, words)

    def _seal(
        self,
        exchange: ExchangeType | int,
        message_id: int,
        payloads: Sequence[Payload],
        path: Path,
        *,
        is_response: bool,
    ) -> list[bytes]:
        header = Header(
            self._sa.initiator_spi,
            self._sa.responder_spi,
            exchange,
            message_id,
            is_response,
            from_initiator=self._sa.is_initiator,
        )
        if not self.may_fragment:
            return [self._outbound.seal(header, payloads, self._entropy)]
        return self._outbound.seal_fragments(header, payloads, fragment_limit(path), self._entropy)
