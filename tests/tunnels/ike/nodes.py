"""Whole endpoints on a network that a test can cut, and whose nodes can lose their memory.

net = Network()
edge = net.node("192.0.2.1")
device = net.node("198.51.100.1")
edge.configure(site("seattle", ...))
net.run(5)
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable

from policies.addresses import ProviderAddress
from tests.tunnels.ike.entropy import SeededEntropy
from tests.tunnels.ike.pair import UTC_NOW
from tunnels.effects import (
    ChildSa,
    Effect,
    InstallChild,
    Path,
    RemoveChild,
    SendBy,
    SendDatagram,
    SiteDown,
    SiteKey,
    SiteTrouble,
    SiteUp,
)
from tunnels.ike.endpoint import IkeEndpoint
from tunnels.ike.life import State
from tunnels.ike.liveness import Traffic
from tunnels.ike.policy import PeerPolicy
from tunnels.ike.session import IkeSession


class Node:
    """One endpoint, and what it has asked for."""

    def __init__(self, network: Network, address: ProviderAddress, seed: int) -> None:
        self.network = network
        self.address = address
        self.policies: tuple[PeerPolicy, ...] = ()
        self.reboot(seed)

    def reboot(self, seed: int = 1000) -> None:
        """Forget everything; what was configured has to be configured again."""
        self.endpoint = IkeEndpoint(SeededEntropy(seed), self.traffic_of)
        self.installed: dict[int, ChildSa] = {}
        self.effects: list[Effect] = []
        self.sending: dict[SiteKey, list[int]] = {}
        """The inbound SPIs of the pairs to send by; the last one is used."""
        self.traffic: dict[SiteKey, Traffic] = {}

    def traffic_of(self, site: SiteKey) -> Traffic:
        return self.traffic.get(site, Traffic.none())

    def configure(self, *policies: PeerPolicy) -> None:
        self.policies = policies
        self.take(self.endpoint.configure(policies, self.network.now))

    def take(self, effects: Iterable[Effect]) -> None:
        """Do what ESP and the sockets would do."""
        for effect in effects:
            self.effects.append(effect)
            match effect:
                case SendDatagram(path, message):
                    self.network.send(path, message)
                case InstallChild(child, sending):
                    assert child.inbound_spi not in self.installed
                    self.installed[child.inbound_spi] = child
                    if sending:
                        self.send_by(child)
                case SendBy(spi):
                    self.send_by(self.installed[spi])
                case RemoveChild(spi):
                    child = self.installed.pop(spi)
                    sending_by = self.sending.get(child.site, [])
                    if spi in sending_by:
                        sending_by.remove(spi)

    def send_by(self, child: ChildSa) -> None:
        sending_by = self.sending.setdefault(child.site, [])
        if child.inbound_spi in sending_by:
            sending_by.remove(child.inbound_spi)
        sending_by.append(child.inbound_spi)

    def sessions(self, site: SiteKey) -> list[IkeSession]:
        """The established sessions with a site's peer."""
        return [each for each in self.endpoint.peers[site].sessions if each.state is State.ESTABLISHED]

    def is_up(self, site: SiteKey) -> bool:
        return bool(self.sending.get(site))

    def troubles(self, site: SiteKey) -> list[str]:
        return [each.reason for each in self.effects if isinstance(each, SiteTrouble) and each.site == site]

    def turns(self, site: SiteKey) -> list[type]:
        """Its ups and downs, in order."""
        turns = (each for each in self.effects if isinstance(each, SiteUp | SiteDown))
        return [type(each) for each in turns if each.site == site]


class Network:
    """The nodes, the messages between them, and the clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.delay = 0.01
        self.is_cut = False
        self.log: list[tuple[Path, bytes]] = []
        self.loses: Callable[[Path, bytes], bool] = lambda _path, _message: False
        self._nodes: dict[ProviderAddress, Node] = {}
        self._under_way: list[tuple[float, int, Path, bytes]] = []
        self._count = 0

    def node(self, address: str) -> Node:
        """Add a node."""
        parsed = ProviderAddress.parse(address)
        node = self._nodes[parsed] = Node(self, parsed, seed=len(self._nodes))
        return node

    def send(self, path: Path, message: bytes) -> None:
        self.log.append((path, message))
        if not self.is_cut and not self.loses(path, message):
            self._count += 1
            heapq.heappush(self._under_way, (self.now + self.delay, self._count, path, message))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        for _ in range(2_000_000):
            arrival = self._under_way[0][0] if self._under_way else math.inf
            due = min(arrival, *(node.endpoint.deadline for node in self._nodes.values()))
            if due > end:
                self.now = end
                return
            self.now = max(self.now, due)
            if arrival <= self.now:
                _, _, path, message = heapq.heappop(self._under_way)
                self.deliver(path, message)
                continue
            for node in self._nodes.values():
                if node.endpoint.deadline <= self.now:
                    node.take(node.endpoint.handle_timeout(self.now))
        raise AssertionError("an endpoint wakes up again and again without time passing")

    def deliver(self, path: Path, message: bytes) -> None:
        """Give a message, with the path as its sender sees it, to the node that it is for."""
        node = self._nodes.get(path.remote.address)
        if node is not None:
            seen = Path(path.remote, path.local)
            node.take(node.endpoint.handle_datagram_untrusted(seen, message, self.now, UTC_NOW))
