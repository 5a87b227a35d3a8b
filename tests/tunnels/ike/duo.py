"""Two `Children` that face each other, with as little of a session around each as they need.

What one side sends lies in `Duo.wire` until a test delivers it, drops it or
delivers it twice. Messages are lists of payloads: what a session adds to them
is numbers, so each side has one `Line` for each IKE SA, with a window of 1.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence

import msgspec

from policies.ipsec import MODERN_IKE, IkeSuite
from policies.secret import Secret
from tests.tunnels.ike.entropy import SeededEntropy
from tests.tunnels.ike.esp import Esp, agree
from tests.tunnels.ike.policies import NET, RIGHT, mirrored, policy
from tunnels.effects import ChildSa, Effect, Endpoint, Path
from tunnels.ike.children import Children
from tunnels.ike.constants import ExchangeType, Protocol
from tunnels.ike.exchange import Task
from tunnels.ike.ike_rekey import Discard, GiveUp, NewIkeSa, Outcome, ReplacedBy
from tunnels.ike.ike_sa import IkeSa
from tunnels.ike.informational import ends_ike_sa, goodbye
from tunnels.ike.keys import Nonces, ike_keys
from tunnels.ike.payloads import Delete, Payload
from tunnels.ike.policy import PeerPolicy

NONCES = Nonces(bytes(32), bytes([1]) * 32)
REPEATS = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
FORGET = 60.0


class Sent(msgspec.Struct, frozen=True):
    """A message on the wire."""

    to: str
    spi: bytes
    """Of the IKE SA, as its receiver has chosen it."""
    exchange: ExchangeType
    number: int
    is_response: bool
    payloads: tuple[Payload, ...]


class Line:
    """One side of one IKE SA."""

    def __init__(self, sa: IkeSa) -> None:
        self.sa = sa
        self.waiting: deque[Task] = deque()
        self.task: Task | None = None
        self.request: Sent | None = None
        self.repeats = 0
        self.repeat_at: float | None = None
        self.next_own = self.next_peers = 0
        self.response: Sent | None = None
        self.ends_at: float | None = None
        self.is_over = False


class Side:
    """One end."""

    def __init__(self, name: str, sa: IkeSa, policy: PeerPolicy, seed: int, duo: Duo) -> None:
        self.name, self.policy, self.duo = name, policy, duo
        self.esp = Esp()
        self.effects: list[Effect] = []
        self.outcomes: list[Outcome] = []
        self.is_up = True
        path = Path(Endpoint(policy.local_addresses[0], 500), Endpoint(RIGHT, 500))
        spis = itertools.count(seed % 0x10000 * 0x10000 + 0x100)
        self.children = Children(
            sa, policy, SeededEntropy(seed), lambda: (path, False), lambda: next(spis), duo.now
        )
        self.lines = {sa.own_spi: Line(sa)}

    @property
    def line(self) -> Line:
        return self.lines[self.children.sa.own_spi]

    def pairs(self) -> set[tuple[int, int]]:
        """The SPIs of each pair, ours first."""
        return self.esp.pairs

    def child(self, name: str = "net") -> ChildSa:
        """The only child SA of a name."""
        (child,) = (each for each in self.children.pairs if each.name == name)
        return child

    def take(self, effects: Sequence[Effect]) -> None:
        """Carry out effects, then whatever the children ask for besides."""
        for effect in effects:
            self.effects.append(effect)
            self.esp.apply(effect, self.duo.now)
        for outcome in self.children.take_outcomes():
            self.outcomes.append(outcome)
            self._carry_out(outcome)
        if self.is_up:
            self.line.waiting.extend(self.children.take_tasks())
        for line in list(self.lines.values()):
            self._send_next(line)

    def _carry_out(self, outcome: Outcome) -> None:
        now = self.duo.now
        match outcome:
            case NewIkeSa(sa):
                self.lines[sa.own_spi] = Line(sa)
            case ReplacedBy(sa):
                for old in self.lines.values():
                    if old.sa != sa and old.ends_at is None:
                        old.waiting.clear()
                        old.ends_at = now + FORGET
                        if sa.is_initiator and not old.is_over:
                            old.waiting.append(goodbye())
                self.lines.setdefault(sa.own_spi, Line(sa)).ends_at = None
            case Discard(sa):
                line = self.lines[sa.own_spi]
                line.ends_at = now + FORGET
                line.waiting.clear()
                if sa.is_initiator:
                    line.waiting.append(goodbye())
            case GiveUp():
                self.close()

    def delete_ike(self) -> None:
        """Delete the IKE SA at the peer."""
        line = self.line
        line.waiting.clear()
        line.waiting.append(goodbye())
        line.ends_at = self.duo.now + FORGET
        self.take(self.children.close(linger=True))
        self.is_up = False
        self._send_next(line)

    def close(self) -> None:
        self.is_up = False
        for line in self.lines.values():
            line.waiting.clear()
        for effect in self.children.close(linger=False):
            self.effects.append(effect)
            self.esp.apply(effect, self.duo.now)

    def _send_next(self, line: Line) -> None:
        while line.task is None and line.waiting and not line.is_over:
            task = line.waiting.popleft()
            payloads = task.request(self.duo.now)
            if payloads is None:
                continue
            line.task, line.repeats = task, 0
            line.request = self._message(line, task.exchange, line.next_own, payloads, is_response=False)
            self._transmit(line)

    def _transmit(self, line: Line) -> None:
        if line.request is None:
            return
        if line.repeats == len(REPEATS):
            line.task = line.request = line.repeat_at = None
            line.is_over = True
            if self.is_up and line is self.line:
                self.close()
            return
        self.duo.send(line.request)
        line.repeat_at = self.duo.now + REPEATS[line.repeats]
        line.repeats += 1

    def _message(
        self,
        line: Line,
        exchange: ExchangeType,
        number: int,
        payloads: tuple[Payload, ...],
        *,
        is_response: bool,
    ) -> Sent:
        return Sent(self.duo.other(self).name, line.sa.peer_spi, exchange, number, is_response, payloads)

    def receive(self, message: Sent) -> None:
        """Take a message, as a session would that has found it authentic."""
        line = self.lines.get(message.spi)
        if line is None:
            return
        if message.is_response:
            task = line.task
            if task is None or message.number != line.next_own:
                return
            line.task = line.request = line.repeat_at = None
            line.next_own += 1
            line.is_over |= getattr(task, "is_last", False)
            self.take(task.answered(message.payloads, self.duo.now))
        elif message.number == line.next_peers - 1 and line.response is not None:
            self.duo.send(line.response)
        elif message.number == line.next_peers:
            line.next_peers += 1
            answer, effects = self._answer(line, message)
            line.response = self._message(line, message.exchange, message.number, answer, is_response=True)
            self.duo.send(line.response)
            self.take(effects)

    def _answer(self, line: Line, message: Sent) -> tuple[tuple[Payload, ...], list[Effect]]:
        now = self.duo.now
        if message.exchange is ExchangeType.CREATE_CHILD_SA:
            return self.children.handle_create(message.payloads, now, line.sa)
        if not ends_ike_sa(message.payloads):
            answer: list[Payload] = []
            effects: list[Effect] = []
            for each in message.payloads:
                if isinstance(each, Delete):
                    said, caused = self.children.handle_delete(each, now, line.sa)
                    answer += said
                    effects += caused
            return tuple(answer), effects
        line.is_over = True
        line.waiting.clear()
        line.task = line.request = line.repeat_at = None
        if line.sa != self.children.sa:
            return (), []
        effects = self.children.handle_ike_delete(now)
        if line.sa == self.children.sa and self.is_up:
            self.is_up = False
            effects += self.children.close(linger=False)
        return (), effects

    @property
    def deadline(self) -> float | None:
        """When `handle_timeout` wants calling."""
        times = [line.repeat_at for line in self.lines.values() if line.repeat_at is not None]
        times += [line.ends_at for line in self.lines.values() if line.ends_at is not None]
        if self.children.deadline is not None:
            times.append(self.children.deadline)
        return min(times, default=None)

    def handle_timeout(self) -> None:
        """Do what is due."""
        now = self.duo.now
        for spi, line in list(self.lines.items()):
            if line.repeat_at is not None and now >= line.repeat_at:
                self._transmit(line)
            if line.ends_at is not None and now >= line.ends_at:
                del self.lines[spi]
        if self.is_up:
            self.take(self.children.handle_timeout(now))


class Duo:
    """Both ends. `a` began the IKE SA; each takes the policy of its own."""

    def __init__(
        self,
        a: PeerPolicy | None = None,
        b: PeerPolicy | None = None,
        *,
        seed: int = 1,
        established: bool = True,
    ) -> None:
        self.now = 0.0
        self.wire: list[Sent] = []
        entropy = SeededEntropy(seed)
        suite = IkeSuite(MODERN_IKE[0].encryption[0], None, MODERN_IKE[0].prf[0], MODERN_IKE[0].groups[0])
        spi_a, spi_b = entropy.octets(8), entropy.octets(8)
        keys = ike_keys(suite, Secret(entropy.octets(32)), Nonces(*(entropy.octets(32),) * 2), spi_a, spi_b)
        policy_a = a or policy([NET])
        policy_b = b or policy(mirrored(policy_a.children))
        self.a = Side(
            "a", IkeSa(policy_a.site, True, spi_a, spi_b, suite, keys), policy_a, 2 * seed + 1, self
        )
        self.b = Side(
            "b", IkeSa(policy_b.site, False, spi_b, spi_a, suite, keys), policy_b, 2 * seed + 2, self
        )
        if established:
            self.authenticate()
            self.run()

    def other(self, side: Side) -> Side:
        return self.b if side is self.a else self.a

    def send(self, message: Sent) -> None:
        """Put a message on the wire."""
        self.wire.append(message)

    def authenticate(self) -> tuple[Payload, ...]:
        """Make the first child SA, as IKE_AUTH does; return what the responder said of it."""
        answer, effects = self.b.children.first_request(self.a.children.first_offer(), NONCES, self.now)
        self.b.take(effects)
        self.a.take(self.a.children.first_answered(answer, NONCES, self.now))
        return answer

    def deliver(self, index: int = 0) -> Sent:
        """Have a message arrive."""
        message = self.wire.pop(index)
        self.arrive(message)
        return message

    def arrive(self, message: Sent) -> None:
        (self.a if message.to == "a" else self.b).receive(message)

    def run(self) -> list[Sent]:
        """Deliver everything in the order in which it was sent; return it."""
        delivered = []
        while self.wire:
            delivered.append(self.deliver())
        return delivered

    def at(self, now: float) -> None:
        """Let time pass: both sides do what is due."""
        self.now = now
        for side in (self.a, self.b):
            if side.deadline is not None and side.deadline <= now:
                side.handle_timeout()

    def agree(self) -> bool:
        """Whether each pair of one side is the other's, seen from there."""
        return agree(self.a.esp, self.b.esp)


def is_ike_delete(message: Sent) -> bool:
    """Whether a message deletes its IKE SA."""
    return any(isinstance(each, Delete) and each.protocol == Protocol.IKE for each in message.payloads)
