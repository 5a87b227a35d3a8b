"""What the nodes of a simulated day have instead of sockets: one underlay, in memory.

A datagram is given to whom it is for as soon as the task that sent it pauses. Peers may be behind a
NAT, which gives them another address and ports, and gives them others whenever it likes; packets of
tunnels may be lost; and a VM's interface is there or not.
"""

from __future__ import annotations

import errno
import os
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence

import trio

from gateway.forwarding.drops import Drops
from gateway.forwarding.verdicts import OuterHeader, PortKey, ToPort, ToUnderlay
from gateway.host.ports import MtuReport, PortReport, Receive
from gateway.packets import ip
from gateway.underlay import provider
from gateway.underlay.answering import AnswersFor
from gateway.underlay.interfaces import Attachment
from gateway.underlay.provider import Receive as ReceiveRewritten
from gateway.underlay.service import Receive as ReceiveNvgre
from policies.addresses import Prefix, ProviderAddress
from policies.model import Port
from tunnels.effects import NAT_PORT, Endpoint, Path
from tunnels.esp.associations import Sealed
from tunnels.esp.service import ReceiveEsp, ReceiveIke

VM_MTU = 1400


class Wires:
    """The underlay, with its NATs, and the VMs' interfaces."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.loss = 0.0
        self.nvgre: dict[bytes, ReceiveNvgre] = {}
        self.tunnels: dict[ProviderAddress, TunnelSockets] = {}
        self.plugged: dict[tuple[str, PortKey], Plug] = {}
        self.rewritten: list[tuple[AnswersFor, ReceiveRewritten]] = []
        self.heard: Callable[[PortKey, bytes], object] = lambda _port, _frame: None
        self._outside: dict[Endpoint, Endpoint] = {}
        self._inside: dict[Endpoint, Endpoint] = {}
        self._behind: dict[ProviderAddress, ProviderAddress] = {}
        self._way: deque[Callable[[], object]] = deque()

    def post(self, arrive: Callable[[], object]) -> None:
        """Have something arrive."""
        if not self._way:
            trio.lowlevel.current_trio_token().run_sync_soon(self._deliver)
        self._way.append(arrive)

    def _deliver(self) -> None:
        while self._way:
            self._way.popleft()()

    def hide(self, inside: ProviderAddress, outside: ProviderAddress) -> None:
        """Put an address behind a NAT."""
        self._behind[inside] = outside

    def forget_mappings(self) -> None:
        """Have every NAT give others to whoever sends next."""
        self._outside.clear()
        self._inside.clear()

    def carry_rewritten(self, packet: bytes) -> None:
        """Bring a packet to whoever answers for where it is going; without one, it is lost."""
        destination = ip.decode_untrusted(packet).destination
        for answers_for, receive in self.rewritten:
            if answers_for(destination):
                receive(packet, trio.current_time())
                return

    def carry(self, path: Path, give: Callable[[TunnelSockets, Path], object]) -> None:
        """Bring a tunnel's packet from one end of a path to the other, unless it is lost."""
        if self.chance.random() < self.loss:
            return
        source = self._translated(path.local)
        target = self._inside.get(path.remote, path.remote)
        sockets = self.tunnels.get(target.address)
        if sockets is not None and target.address not in self._behind.values():
            self.post(lambda: give(sockets, Path(target, source)))

    def _translated(self, inside: Endpoint) -> Endpoint:
        if inside.address not in self._behind:
            return inside
        outside = self._outside.get(inside)
        while outside is None:
            chosen = Endpoint(self._behind[inside.address], self.chance.randrange(1024, 65536))
            if chosen not in self._inside:
                outside = self._outside[inside] = chosen
                self._inside[chosen] = inside
        return outside


class Underlay:
    """One node's GRE sockets."""

    wires: Wires

    def __init__(self) -> None:
        self.merged = self.icmp_errors = self.kernel_drops = 0

    def send(self, packet: ToUnderlay) -> None:
        receive = self.wires.nvgre.get(packet.destination)
        if receive is None:
            raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
        outer = OuterHeader(packet.source, packet.destination, packet.ecn, packet.hop_limit)
        self.wires.post(lambda: receive(outer, packet.payload, trio.current_time()))

    async def serve(
        self,
        addresses: Iterable[ProviderAddress],
        attachment: Attachment,
        receive: ReceiveNvgre,
        *_others: object,
        task_status: trio.TaskStatus[None],
    ) -> None:
        ours = list(addresses)
        self.wires.nvgre |= dict.fromkeys(ours, receive)
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            for address in ours:
                del self.wires.nvgre[address]


class Provider(provider.Provider):
    """One node's way in and out for rewritten packets."""

    wires: Wires

    def send(self, packet: bytes, via: bytes | None = None) -> None:
        # Each pool is one node's alone, so that an address is answered for where `via` is, too.
        self.wires.post(lambda: self.wires.carry_rewritten(packet))

    def announce(self, pa: bytes) -> None:
        pass

    async def serve(
        self,
        pools: Sequence[Prefix],
        attachment: Attachment,
        receive: ReceiveRewritten,
        answers_for: AnswersFor,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        self.pools = tuple(pools)
        self.wires.rewritten.append((answers_for, receive))
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            self.wires.rewritten.remove((answers_for, receive))

    async def replace_pools(self, pools: Sequence[Prefix]) -> None:
        self.pools = tuple(pools)


class TunnelSockets:
    """One node's sockets of tunnels."""

    wires: Wires

    def __init__(self) -> None:
        self.keepalives = self.icmp_errors = self.kernel_drops = 0
        self.unsent: Counter[int] = Counter()
        self.ike: ReceiveIke = lambda *_: None
        self.esp: ReceiveEsp = lambda *_: None

    def send_esp(self, sealed: Sealed, ecn: int) -> None:
        path = sealed.path
        if not sealed.in_udp:
            path = Path(Endpoint(path.local.address, 0), Endpoint(path.remote.address, 0))
        self.wires.carry(path, lambda to, at: to.esp(at, sealed.packet, ecn, trio.current_time()))

    def flush(self) -> None:
        pass

    def send_ike(self, path: Path, message: bytes) -> None:
        self.wires.carry(path, lambda to, at: to.ike(at, message, trio.current_time()))

    def send_keepalive(self, path: Path) -> None:
        def arrive(to: TunnelSockets, _path: Path) -> None:
            to.keepalives += 1

        self.wires.carry(path, arrive)

    async def serve(
        self,
        addresses: Iterable[ProviderAddress],
        receive_ike: ReceiveIke,
        receive_esp: ReceiveEsp,
        _path_mtu_reported: object,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        self.ike, self.esp = receive_ike, receive_esp
        ours = list(addresses)
        self.wires.tunnels |= dict.fromkeys(ours, self)
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            for address in ours:
                del self.wires.tunnels[address]


class Plug:
    """A VM's interface at a node that serves a port for it."""

    def __init__(self, key: PortKey, receive: Receive, opened: PortReport, closed: PortReport) -> None:
        self.key = key
        self._receive, self._opened, self._closed = receive, opened, closed
        self.is_in = False

    def put_in(self) -> None:
        self.is_in = True
        self._opened(self.key)

    def pull_out(self) -> None:
        self.is_in = False
        self._closed(self.key)

    def send(self, frame: bytes) -> None:
        self._receive(self.key, frame, trio.current_time())


class Ports:
    """One node's VM ports. `node` is whose is made next."""

    wires: Wires
    node = ""

    def __init__(self, _drops: Drops) -> None:
        self.kernel_drops = self.unreadable = 0
        self._node = self.node

    def send(self, frame: ToPort) -> None:
        plug = self.wires.plugged.get((self._node, frame.port))
        if plug is None or not plug.is_in:
            raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN))
        self.wires.post(lambda: self.wires.heard(frame.port, frame.frame))

    async def watch(self) -> None:
        await trio.sleep_forever()

    async def serve(
        self,
        port: Port,
        receive: Receive,
        mtu_is: MtuReport,
        opened: PortReport,
        closed: PortReport,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        key = (port.vsid, port.mac)
        self.wires.plugged[self._node, key] = Plug(key, receive, opened, closed)
        mtu_is(key, VM_MTU)
        closed(key)
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            del self.wires.plugged[self._node, key]


def stranger_port(number: int) -> Endpoint:
    """Where a stranger calls from."""
    return Endpoint(ProviderAddress(bytes((198, 18, number >> 8 & 0xFF, number & 0xFF))), NAT_PORT)
