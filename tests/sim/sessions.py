"""The collisions once more, between real sessions: with messages that are sealed, numbered and repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from policies.ipsec import SiteStart
from tests.sim.collisions import LATENCY, SETTLED, Act
from tests.tunnels.ike.pair import Datagram, Pair, Side
from tests.tunnels.ike.policies import DMZ, LEFT, NET, RIGHT, mirrored, policy
from tunnels.effects import Effect
from tunnels.ike.children import Children
from tunnels.ike.life import State

Fates = Callable[[int], tuple[float, ...]]


class World(Pair):
    """Two gateways in the middle of their life: one child SA is there, another is missing."""

    def __init__(self, seed: int) -> None:
        ours = (NET, DMZ)
        left = policy(children=ours, start=SiteStart.START)
        right = policy(is_left=False, children=mirrored(ours), start=SiteStart.START)
        super().__init__(Side((left,), LEFT, seed), Side((right,), RIGHT, seed + 1000))
        self.delay = LATENCY
        self.lost_packets: list[str] = []
        self.is_watched = False
        self.connect(1.0)
        (dmz,) = (each for each in self.left.installed.values() if each.name == "dmz")
        self._ask(self.left, lambda: _children(self.left).delete(dmz.inbound_spi, self.now))
        self.run(0.5)

    def carry_out(self, side: Side, effects: Iterable[Effect]) -> None:
        super().carry_out(side, effects)
        if self.is_watched:
            self._watch()

    def _watch(self) -> None:
        for side, other in ((self.left, self.right), (self.right, self.left)):
            spi = side.esp.sends_by(side.policy.children[0].selectors)
            if spi is None or not other.esp.receives(spi, self.now):
                self.lost_packets.append(f"{self.now:.3f}: nothing gets through from {side.address}")

    def act(self, side: Side, act: Act) -> None:
        """Begin something, where the IKE SA is still there."""
        if not side.is_up:
            return
        children = _children(side)
        nets = [each.inbound_spi for each in children.pairs if each.name == "net"]
        match act:
            case Act.REKEY if nets:
                self.carry_out(side, side.session.expiring(nets[-1], self.now))
            case Act.DELETE if nets:
                self._ask(side, lambda: children.delete(nets[-1], self.now))
            case Act.REKEY_IKE:
                self._ask(side, lambda: children.rekey_ike(self.now))
            case Act.DELETE_IKE:
                self.carry_out(side, side.session.close(self.now))
            case Act.CREATE:
                self._ask(side, lambda: children.demand(self.now))
            case _:
                pass

    def _ask(self, side: Side, what: Callable[[], list[Effect]]) -> None:
        effects = what()
        self.carry_out(side, effects + side.session.handle_timeout(self.now, side.traffic))

    def problems(self) -> list[str]:
        """Say what is not as it should be once everything has settled."""
        found = [*self.lost_packets]
        sides = (self.left, self.right)
        if not self.left.is_up or not self.right.is_up:
            found += [f"{each.address} is up alone" for each in sides if each.is_up]
            return found + [f"{each.address} keeps {each.installed}" for each in sides if each.installed]
        for side, other in (sides, sides[::-1]):
            wanted = [each.selectors for each in side.policy.children]
            found += side.esp.problems(other.esp, wanted, self.now)
            alive = [each for each in side.sessions if each.state is not State.CLOSED]
            if len(alive) != 1 or alive[0].peer_spi != other.session.own_spi:
                found.append(f"{side.address} has {[each.state.value for each in alive]}")
        return found


def collide(acts: tuple[Act, Act], offset: float, fate: Fates, seed: int = 1) -> World:
    """Have the left side begin one thing and the right side another, and return what it has come to."""
    world = World(seed)
    sent = [0]

    def rule(datagram: Datagram) -> Iterable[tuple[float, Datagram]] | None:
        sent[0] += 1
        return [(delay, datagram) for delay in fate(sent[0] - 1)]

    world.rules.append(rule)
    world.is_watched = not {Act.DELETE, Act.DELETE_IKE} & set(acts)
    world.act(world.left, acts[0])
    world.run(offset)
    world.act(world.right, acts[1])
    world.run(SETTLED)
    return world


def _children(side: Side) -> Children:
    children = side.session.children
    assert children is not None, "the session is not established, or has ended"
    return children
