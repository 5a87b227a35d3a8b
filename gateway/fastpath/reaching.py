"""How the program reaches each host: next hops, interfaces and path MTUs, told to all instances there are.

A hop is told only if its interface has the program too: many drivers send what is redirected to them only
while they have one themselves, and lose it otherwise. What cannot be told Python carries.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import trio

from gateway.fastpath.features import Interface
from gateway.fastpath.hops import NextHop
from gateway.fastpath.instance import Instance
from gateway.fastpath.nexthops import NextHops, NextHopsStatus
from gateway.fastpath.peers import destinations_of, owners_of, packed_hop
from gateway.fastpath.sizes import Full
from gateway.forwarding.node import Node
from gateway.forwarding.pmtu import PathMtu
from policies.addresses import ProviderAddress
from policies.tables import Tables

# Seconds between two looks at which path MTUs have become old.
_LOOK_EVERY = 1.0


class Reaching:
    """What instances know of the way to each host. Times are those of trio's clock."""

    def __init__(
        self,
        instances: Sequence[Instance],
        interfaces: Sequence[Interface],
        crowded: Callable[[], object],
    ) -> None:
        """`instances` may become others; `interfaces` are the underlay's, in the order of their ports.

        `crowded` is called where an instance has no room for a hop.
        """
        self._instances = instances
        self._interfaces = {each.name: (each.index, each.mac) for each in interfaces}
        self._crowded = crowded
        self._attached = frozenset(each.index for each in interfaces)
        self._hops = NextHops(self._attached)
        self.known: dict[ProviderAddress, NextHop] = {}
        """The next hops of the addresses that have one."""
        self._lowered: set[ProviderAddress] = set()
        """Addresses that less is sent to than the underlay carries, for a while."""

    def follow(self, tables: Tables, node: Node, paths: PathMtu) -> None:
        """Go by these tables, this node and these path MTUs; addresses are watched by `watch` alone."""
        self._tables, self._node, self._paths = tables, node, paths

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep next hops right until cancelled; started once those that are watched are known."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._hops.serve, self.reached)
            nursery.start_soon(self.watch_paths)
            task_status.started()

    def watch(self, tables: Tables, node: Node) -> None:
        """Keep the next hops of all where records of these tables may lead."""
        self._tables, self._node = tables, node
        watched = destinations_of(tables, node)
        self._hops.replace(watched, watched)
        for gone in self.known.keys() - watched.keys():
            self.reached(gone, None)

    def settle(self, instance: Instance) -> None:
        """Tell an instance what is ours."""
        instance.settle(self._node, dict(self._interfaces.values()))

    async def write(self, instance: Instance) -> None:
        """Tell an instance of all peers, and how they are reached. Raises Full."""
        instance.peers.know(owners_of(self._tables))
        for address, hop in self.known.items():
            instance.peers.reach(address, self._packed(instance, address, hop), trio.current_time())
        await trio.lowlevel.checkpoint()

    def reached(self, address: ProviderAddress, hop: NextHop | None) -> None:
        """Take over by which next hop an address is reached, None where by none."""
        if hop is None:
            self.known.pop(address, None)
        else:
            self.known[address] = hop
            self._heed_mac(hop.interface, hop.source_mac)
        now = trio.current_time()
        for instance in self._instances:
            try:
                instance.peers.reach(address, self._packed(instance, address, hop), now)
            except Full:
                instance.peers.reach(address, None, now)
                self._crowded()

    def path_changed(self, address: ProviderAddress) -> None:
        """Heed that the path to an address carries less, or more again."""
        if address in self.known:
            self.reached(address, self.known[address])

    def attached(self, interfaces: Collection[int]) -> None:
        """Heed which interfaces have the program now: hops by the others are left to Python."""
        turned = self._attached ^ frozenset(interfaces)
        self._attached = frozenset(interfaces)
        for address, hop in list(self.known.items()):
            if hop.interface in turned:
                self.reached(address, hop)

    def moved(self, name: str, index: int) -> None:
        """Heed that an interface is known by this index now. It keeps its port."""
        before, mac = self._interfaces[name]
        if index != before:
            self._interfaces[name] = (index, mac)
            self._hops.send_by([each for each, _ in self._interfaces.values()])

    def came_back(self, interface: Interface) -> None:
        """Heed that an interface has the program again."""
        self._interfaces[interface.name] = (interface.index, interface.mac)
        self._settle_all()

    def status(self, most: int) -> NextHopsStatus:
        """Return how it is, with so many examples of what has no next hop."""
        return self._hops.status(most)

    async def watch_paths(self) -> None:
        """Let larger packets through again where what the underlay had said of a path has become old."""
        while True:
            await trio.sleep(_LOOK_EVERY)
            paths, now = self._paths, trio.current_time()
            for address in [
                each for each in self._lowered if paths.outer_mtu(each, now) == paths.underlay_mtu
            ]:
                self._lowered.remove(address)
                self.path_changed(address)

    def _heed_mac(self, index: int, mac: bytes) -> None:
        for name, known in self._interfaces.items():
            if known[0] == index and known[1] != mac:
                self._interfaces[name] = (index, mac)
                self._settle_all()
                return

    def _settle_all(self) -> None:
        for instance in self._instances:
            self.settle(instance)

    def _packed(self, instance: Instance, address: ProviderAddress, hop: NextHop | None) -> bytes | None:
        """Return how a peer is reached, as the program reads it; None: it is not."""
        if hop is None or hop.interface not in self._attached:
            return None
        source = self._node.address_towards(address)
        port = instance.port_of(hop.interface)
        if port is None or source is None:
            return None
        paths, now = self._paths, trio.current_time()
        if paths.outer_mtu(address, now) < paths.underlay_mtu:
            self._lowered.add(address)
        has_zero = address in self._tables.zero_flow_id
        return packed_hop(address, source, hop, port, paths, now, zero_flow_id=has_zero)
