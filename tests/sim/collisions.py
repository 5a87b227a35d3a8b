"""Two ends that act at the same time over a network that loses, delays and repeats, under traffic."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from enum import Enum

from policies.ipsec import SiteStart
from tests.tunnels.ike.duo import Duo, Sent, Side
from tests.tunnels.ike.policies import DMZ, NET, mirrored, policy

LATENCY = 0.02
ESP_LATENCY = 0.013
SETTLED = 200.0
"""Seconds after which nothing may be left to do but to rekey after an hour."""


class Act(Enum):
    """What a side begins."""

    REKEY = "rekey child"
    DELETE = "delete child"
    REKEY_IKE = "rekey IKE SA"
    DELETE_IKE = "delete IKE SA"
    CREATE = "create child"


PAIRS = list(itertools.product(Act, Act))


def named(acts: tuple[Act, Act]) -> str:
    """Say which acts meet, for the names of tests."""
    return f"{acts[0].value} meets {acts[1].value}"


class Fate(Enum):
    """What becomes of a message."""

    LOST = "lost"
    LATE = "late"
    """It arrives after its first repetition."""
    VERY_LATE = "very late"
    """It arrives after most of what follows."""
    TWICE = "twice"


ARRIVALS: dict[Fate, tuple[float, ...]] = {
    Fate.LOST: (),
    Fate.LATE: (0.61,),
    Fate.VERY_LATE: (4.3,),
    Fate.TWICE: (LATENCY, 0.27),
}


class World(Duo):
    """A duo on an event queue, in the middle of its life: one child SA is there, another is missing.

    `fate` says when the message of a number arrives, not at all, or several times.
    """

    def __init__(self, seed: int, fate: Callable[[int], tuple[float, ...]]) -> None:
        self._queue: list[tuple[float, int, Callable[[], None], bool]] = []
        self._order = itertools.count()
        self._fate: Callable[[int], tuple[float, ...]] = lambda _number: (LATENCY,)
        self.sent = 0
        self.lost_packets: list[str] = []
        self.is_watched = False
        a = policy([NET, DMZ], start=SiteStart.START)
        super().__init__(a, policy(mirrored(a.children), start=SiteStart.START), seed=seed, established=False)
        self.authenticate()
        self.until(0.5)
        self.a.take(self.a.children.delete(self.a.child("dmz").inbound_spi, self.now))
        self.until(1.0)
        self.sent = 0
        self._fate = fate

    def send(self, message: Sent) -> None:
        for delay in self._fate(self.sent):
            self.after(delay, lambda: self.arrive(message))
        self.sent += 1

    def after(self, delay: float, event: Callable[[], None], *, is_packet: bool = False) -> None:
        """Have something happen."""
        heapq.heappush(self._queue, (self.now + delay, next(self._order), event, is_packet))

    def act(self, side: Side, act: Act) -> None:
        """Begin something, where the IKE SA is still there."""
        if not side.is_up:
            return
        children = side.children
        nets = [each.inbound_spi for each in children.pairs if each.name == "net"]
        match act:
            case Act.REKEY if nets:
                side.take(children.expiring(nets[-1], self.now))
            case Act.DELETE if nets:
                side.take(children.delete(nets[-1], self.now))
            case Act.REKEY_IKE:
                side.take(children.rekey_ike(self.now))
            case Act.DELETE_IKE:
                side.delete_ike()
            case Act.CREATE:
                side.take(children.demand(self.now))
            case _:
                pass

    def until(self, end: float) -> None:
        """Let everything happen that does until then."""
        while True:
            deadlines = [each.deadline for each in (self.a, self.b) if each.deadline is not None]
            due = min(deadlines, default=end)
            is_packet = False
            if self._queue and self._queue[0][0] <= min(due, end):
                self.now, _, event, is_packet = heapq.heappop(self._queue)
                event()
            elif due < end:
                assert due > self.now - 60.0, "a deadline has passed, and nothing comes of it"
                self.at(max(due, self.now))
            else:
                self.now = end
                return
            if self.is_watched and not is_packet:
                self._send_packets()

    def _send_packets(self) -> None:
        """Send a packet each way, by whatever each side sends by now."""
        for side in (self.a, self.b):
            spi = side.esp.sends_by(side.policy.children[0].selectors)
            if spi is None:
                self.lost_packets.append(f"{self.now:.3f}: {side.name} has nothing to send by")
            else:
                self._check(self.other(side), spi)
                self.after(ESP_LATENCY, self._packet(self.other(side), spi), is_packet=True)

    def _packet(self, to: Side, spi: int) -> Callable[[], None]:
        def arrive() -> None:
            self._check(to, spi)
            to.esp.arrived(spi)

        return arrive

    def _check(self, to: Side, spi: int) -> None:
        if not to.esp.receives(spi, self.now):
            self.lost_packets.append(f"{self.now:.3f}: {to.name} does not receive by {spi:#x}")

    def problems(self) -> list[str]:
        """Say what is not as it should be once everything has settled."""
        sides = (self.a, self.b)
        found = [*self.lost_packets]
        if not self.a.is_up or not self.b.is_up:
            found += [f"{each.name} is up alone" for each in sides if each.is_up]
            return found + [f"{each.name} keeps {each.pairs()}" for each in sides if each.pairs()]
        own, theirs = self.a.children.sa, self.b.children.sa
        if (own.own_spi, own.peer_spi) != (theirs.peer_spi, theirs.own_spi):
            found.append("they speak by different IKE SAs")
        for side in sides:
            wanted = [each.selectors for each in side.policy.children]
            found += side.esp.problems(self.other(side).esp, wanted, self.now)
            if len(side.lines) != 1:
                found.append(f"{side.name} has {len(side.lines)} IKE SAs")
        return found


def collide(
    acts: tuple[Act, Act],
    offset: float,
    fate: Callable[[int], tuple[float, ...]],
    seed: int = 1,
) -> World:
    """Have `a` begin one thing and `b` another one an offset later, and return what it has come to."""
    world = World(seed, fate)
    world.is_watched = not {Act.DELETE, Act.DELETE_IKE} & set(acts)
    world.after(0, lambda: world.act(world.a, acts[0]))
    world.after(offset, lambda: world.act(world.b, acts[1]))
    world.until(SETTLED)
    return world


def fated(number: int, fate: Fate) -> Callable[[int], tuple[float, ...]]:
    """Return what lets one message, by its number, meet with a fate, and all others pass."""
    return lambda each: ARRIVALS[fate] if each == number else (LATENCY,)
