"""Two real sessions joined by a link that a test can make lose, repeat, delay and change messages.

    one = pair(left=policy(...), right=policy(...))
    one.connect()
    assert one.left.is_up and one.right.is_up

The link delivers after `delay` seconds unless a rule says otherwise; time passes only by
`run`. Each side is a list of sessions, as rekeys make new ones; what they ask for is kept.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from policies.addresses import ProviderAddress
from policies.errors import MalformedPacket
from tests.tunnels.ike.entropy import SeededEntropy
from tests.tunnels.ike.esp import Esp
from tests.tunnels.ike.policies import LEFT, RIGHT, policy
from tunnels.effects import (
    IKE_PORT,
    NAT_PORT,
    ChildSa,
    Effect,
    Endpoint,
    Path,
    SendDatagram,
    SiteTrouble,
)
from tunnels.ike import informational, wire
from tunnels.ike.constants import ExchangeType
from tunnels.ike.life import State
from tunnels.ike.liveness import Traffic
from tunnels.ike.payloads import Header
from tunnels.ike.policy import PeerPolicy
from tunnels.ike.session import IkeSession

UTC_NOW = datetime(2026, 6, 1, tzinfo=UTC)

_Kind = TypeVar("_Kind")


class Datagram(msgspec.Struct, frozen=True):
    """An IKE message on its way, with the path as its sender sees it."""

    path: Path
    message: bytes

    @property
    def header(self) -> Header:
        return wire.decode_header_untrusted(self.message)

    @property
    def exchange(self) -> int:
        return self.header.exchange

    @property
    def is_response(self) -> bool:
        return self.header.is_response


Rule = Callable[[Datagram], "Iterable[tuple[float, Datagram]] | None"]
"""What becomes of a datagram: copies with their delays, or None for a single one after the usual delay."""


class Side:
    """One gateway: its sessions, what they asked for, and the ESP pairs that this comes to."""

    def __init__(self, policies: tuple[PeerPolicy, ...], address: ProviderAddress, seed: int) -> None:
        self.policies = policies
        self.address = address
        self.entropy = SeededEntropy(seed)
        self.sessions: list[IkeSession] = []
        self.effects: list[Effect] = []
        self.esp = Esp()
        self.traffic = Traffic.none()

    @property
    def policy(self) -> PeerPolicy:
        return self.policies[0]

    @property
    def installed(self) -> dict[int, ChildSa]:
        return self.esp.installed

    @property
    def session(self) -> IkeSession:
        """The newest session that is established, else the newest."""
        established = [each for each in self.sessions if each.state is State.ESTABLISHED]
        return (established or self.sessions)[-1]

    @property
    def is_up(self) -> bool:
        return any(each.state is State.ESTABLISHED for each in self.sessions)

    @property
    def deadline(self) -> float:
        return min((each.deadline for each in self.sessions if each.deadline is not None), default=math.inf)

    def asked(self, kind: type[_Kind]) -> list[_Kind]:
        """Return all effects of a kind so far."""
        return [each for each in self.effects if isinstance(each, kind)]

    @property
    def troubles(self) -> list[str]:
        return [each.reason for each in self.asked(SiteTrouble)]

    def take(self, effects: Iterable[Effect], now: float) -> list[SendDatagram]:
        """Do what ESP would do, and return what is to be sent."""
        sent = []
        for effect in effects:
            self.effects.append(effect)
            self.esp.apply(effect, now)
            if isinstance(effect, SendDatagram):
                sent.append(effect)
        for session in list(self.sessions):
            self.sessions += [each for each in session.kin if each not in self.sessions]
        return sent

    def owner(self, message: bytes) -> IkeSession | None:
        """Find the session that a message is for, by our SPI."""
        header = wire.decode_header_untrusted(message)
        own_spi = header.responder_spi if header.from_initiator else header.initiator_spi
        for each in reversed(self.sessions):
            if each.own_spi == own_spi and each.is_initiator is not header.from_initiator:
                return each
            if header.exchange == ExchangeType.IKE_SA_INIT and each.peer_spi == header.initiator_spi:
                return each
        return None


class Pair:
    """Both sides, the link between them and the clock."""

    def __init__(self, left: Side, right: Side) -> None:
        self.left, self.right = left, right
        self.now = 1000.0
        self.delay = 0.01
        self.rules: list[Rule] = []
        self.log: list[Datagram] = []
        """Everything that was sent, lost or not."""
        self.nat: Nat | None = None
        self._under_way: list[tuple[float, int, Datagram]] = []
        self._count = 0

    def connect(self, seconds: float = 5.0, *, initial_contact: bool = False) -> None:
        """Let the left side call the right one, and wait."""
        self.dial(self.left, initial_contact=initial_contact)
        self.run(seconds)

    def dial(self, side: Side, *, initial_contact: bool = False) -> IkeSession:
        other = self.right if side is self.left else self.left
        path = Path(Endpoint(side.address, IKE_PORT), Endpoint(other.address, IKE_PORT))
        session = IkeSession.initiate(side.policy, path, side.entropy, initial_contact=initial_contact)
        side.sessions.append(session)
        self.carry_out(side, session.start(self.now))
        return session

    def probe(self, side: Side) -> Datagram:
        """Have a side ask whether the peer is there; return what it sends."""
        side.session._protected.submit(informational.probe())
        self.carry_out(side, side.session.go_on(self.now))
        return self.log[-1]

    def carry_out(self, side: Side, effects: Iterable[Effect]) -> None:
        """Take effects that a session returned, and put what is to be sent on the link."""
        for sent in side.take(effects, self.now):
            datagram = Datagram(sent.path, sent.message)
            self.log.append(datagram)
            self._send(datagram)

    def _send(self, datagram: Datagram) -> None:
        for rule in self.rules:
            copies = rule(datagram)
            if copies is not None:
                for delay, copy in copies:
                    self.put(copy, delay)
                return
        self.put(datagram, self.delay)

    def put(self, datagram: Datagram, delay: float = 0.0) -> None:
        """Put a datagram on the link."""
        self._count += 1
        heapq.heappush(self._under_way, (self.now + delay, self._count, datagram))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        for _ in range(200_000):
            arrival = self._under_way[0][0] if self._under_way else math.inf
            due = min(arrival, self.left.deadline, self.right.deadline)
            if due > end:
                self.now = end
                return
            self.now = max(self.now, due)
            if arrival <= due:
                self.deliver(heapq.heappop(self._under_way)[2])
                continue
            for side in (self.left, self.right):
                for session in list(side.sessions):
                    if session.deadline is not None and session.deadline <= self.now:
                        self.carry_out(side, session.handle_timeout(self.now, side.traffic))
        raise AssertionError("the sessions wake up again and again without time passing")

    def deliver(self, datagram: Datagram) -> None:
        """Hand a datagram to the side that it is for, with the path as that side sees it."""
        path = Path(datagram.path.remote, datagram.path.local)
        if self.nat is not None:
            translated = self.nat.translate(path)
            if translated is None:
                return
            path = translated
        for side in (self.left, self.right):
            if side.address == path.local.address:
                self.carry_out(side, self.hand_in(side, path, datagram.message))

    def hand_in(self, side: Side, path: Path, message: bytes) -> list[Effect]:
        """Give a side a message as its endpoint would do."""
        try:
            header = wire.decode_header_untrusted(message)
        except MalformedPacket:
            return []
        session = side.owner(message)
        if session is not None:
            return session.handle_datagram_untrusted(path, message, self.now, UTC_NOW)
        if header.exchange != ExchangeType.IKE_SA_INIT or header.is_response:
            return []
        request = wire.decode_message_untrusted(message)
        made, effects = IkeSession.respond(side.policies, path, request, message, side.entropy, self.now)
        if made is not None:
            side.sessions.append(made)
        return effects

    def of(self, exchange: ExchangeType, *, is_response: bool | None = None) -> list[Datagram]:
        """Return what was sent of an exchange."""
        return [
            each for each in self.log if each.exchange == exchange and is_response in (None, each.is_response)
        ]


class Nat:
    """A router before one side: it sees `inside` as `outside`, each port as another."""

    def __init__(self, inside: ProviderAddress, outside: ProviderAddress, first_port: int = 20000) -> None:
        self.inside, self.outside = inside, outside
        self.first_port = first_port

    def reboot(self) -> None:
        """Forget all mappings: from now on other ports are used."""
        self.first_port += 10000

    def translate(self, path: Path) -> Path | None:
        """Change a path, given as its receiver sees it, on its way out or in."""
        if path.remote.address == self.inside:
            port = self.first_port + path.remote.port
            return Path(path.local, Endpoint(self.outside, port))
        if path.local.address == self.outside:
            port = path.local.port - self.first_port
            if port not in (IKE_PORT, NAT_PORT):
                return None  # no mapping
            return Path(Endpoint(self.inside, port), path.remote)
        return path


def pair(
    left: PeerPolicy | None = None,
    right: PeerPolicy | tuple[PeerPolicy, ...] | None = None,
    *,
    seed: int = 1,
    addresses: tuple[ProviderAddress, ProviderAddress] = (LEFT, RIGHT),
) -> Pair:
    """Return two sides that have not spoken yet; `right` may have several policies to choose from."""
    if right is None:
        right = policy(is_left=False, addresses=addresses)
    rights = right if isinstance(right, tuple) else (right,)
    left = left or policy(addresses=addresses)
    return Pair(Side((left,), addresses[0], seed), Side(rights, addresses[1], seed + 1000))


def connected() -> Pair:
    """Return two sides that are up, and whose log begins now."""
    both = pair()
    both.connect()
    assert both.left.is_up
    assert both.right.is_up
    both.log.clear()
    return both


def drop(which: Callable[[Datagram], bool], times: int = 1) -> Rule:
    """Return a rule that loses the first datagrams of a kind."""
    left = [times]

    def rule(datagram: Datagram) -> Iterable[tuple[float, Datagram]] | None:
        if left[0] and which(datagram):
            left[0] -= 1
            return ()
        return None

    return rule
