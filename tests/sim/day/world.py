"""A day in the life of a gateway, two hosts and two sites' devices, on a clock that jumps.

    hv1, hv2 --- edge-1 ---+--- device-red
                           +- NAT --- device-blue

Red's web is rewritten, and all else is in NVGRE.
Each node is the builtin data path as an appliance runs it, with its key exchange, its ESP and its
timers; only the sockets are `wires`. What speaks HTTP runs on asyncio, and has a day of its own in
`test_lookup_day`. Every packet that a VM sends is numbered: it arrives, or somebody has said beforehand
that it may be lost, and every drop is one that was caused on purpose.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
import trio

import gateway.builtin
import gateway.sites.tunnels
from gateway.builtin import Builtin
from gateway.forwarding.directory import Change, Directory, Put, PutLease, configured_directory
from gateway.forwarding.drops import USUAL, DropReason
from gateway.forwarding.verdicts import OuterHeader, PortKey
from gateway.host.agent import Agent
from gateway.operating.trends import Trends
from gateway.packets import ip, nvgre
from gateway.sites.policies import Keyring
from gateway.sites.status import SiteStatus
from gateway.underlay.interfaces import Attachment
from policies.addresses import ProviderAddress, Vsid
from policies.config import parse
from policies.facts import TCP, UDP
from policies.model import Appliance, LookupRecord, Network, Translation
from policies.services import LookupAccess
from tests.sim.day import plan
from tests.sim.day import wires as w
from tests.sim.day.census import Census, take
from tests.sim.day.lessor import Lessor
from tests.sim.day.plan import FLOWS, NAT, PROVIDER, REWRITTEN, STREAMS, TENANTS, Stream, Vm, vms
from tunnels.effects import NAT_PORT, Endpoint, SiteKey
from tunnels.effects import Path as TunnelPath

_SYN = (1024).to_bytes(2) + (9).to_bytes(2) + bytes(8) + b"\x50\x02" + bytes(6)


class Node:
    """One appliance that runs; a crash takes all that it knew."""

    def __init__(self, name: str, appliance: Appliance, lessor: Lessor, nursery: trio.Nursery) -> None:
        self.name = name
        self.appliance = appliance
        self.scope = trio.CancelScope()
        self._ended = trio.Event()
        w.Ports.node = name
        directory = Directory() if appliance.takes_part else configured_directory(appliance)
        self.path = Builtin(appliance, Attachment(("eth0",), 1500), directory)
        self.trends = Trends(self.path, trio.current_time, trio.current_time)
        self.agent: Agent | None = None
        if appliance.takes_part:
            # Without its host's part, which claims VMs: where they are, this day's nodes are told.
            self.agent = Agent(
                msgspec.structs.replace(appliance, host=None),
                lessor,
                find=self.path.find,
                probe=self.path.probe,
                is_connected=lambda: True,
                refuse=self.path.refuse,
                apply=self.path.apply,
                used_leases=self.path.used_leases,
            )
            self.path.tell(self.agent)
        self._nursery = nursery

    def tell(self, changes: Sequence[Change], revision: int) -> None:
        """Tell it of records and leases, as the feed does."""
        self.path.apply(changes)
        if self.agent is not None:
            self.agent.changed(changes)
            self.agent.applied(revision)

    async def start(self) -> None:
        """Run until it is stopped."""
        await self._nursery.start(self._run)

    async def adopt(self, network: Network) -> None:
        """Reload."""
        self.appliance = msgspec.structs.replace(self.appliance, network=network)
        refused = await self.path.adopt(self.appliance, Keyring())
        assert not refused
        if self.agent is not None:
            self.agent.configure(self.appliance)

    async def stop(self, *, kindly: bool) -> None:
        """End it, with or without a word to the peers."""
        if kindly:
            await self.path.say_goodbye()
        self.scope.cancel()
        await self._ended.wait()

    async def _run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                await self.path.start(nursery, self.appliance)
                await self.adopt(self.appliance.network)
                nursery.start_soon(self.trends.run)
                if self.agent is not None:
                    nursery.start_soon(self.agent.run)
                task_status.started()
        self._ended.set()


class World:
    """Everything, and what is wrong with it."""

    def __init__(self, files: Path, nursery: trio.Nursery, seed: int = 7637) -> None:
        self.chance = random.Random(seed)
        self.wires = w.Underlay.wires = w.Provider.wires = w.TunnelSockets.wires = w.Ports.wires = w.Wires(
            self.chance
        )
        self.wires.heard = self._heard
        self.wires.hide(ProviderAddress.parse(PROVIDER["device-blue"]), ProviderAddress.parse(NAT))
        self.vms = vms()
        self.nodes: dict[str, Node] = {}
        self.problems: list[str] = []
        self.expected: Counter[tuple[str, DropReason, str]] = Counter()
        """Drops that were caused on purpose: node, reason, tenant."""
        self.arrived: Counter[Stream] = Counter()
        self.sent: Counter[Stream] = Counter()
        self.answers: Counter[str] = Counter()
        """What else VMs were told, by the frame's kind."""
        self._files = files
        self._nursery = nursery
        self._number = 0
        self.lessor = Lessor(self._tell)
        self._under_way: dict[int, Stream] = {}
        self._excused: dict[Stream, float] = {}
        self._known_drops: Counter[tuple[str, DropReason, str]] = Counter()
        self._by_port = {vm.key: vm for vm in self.vms.values()}

    async def begin(self) -> None:
        """Start all nodes and wait until the sites are up."""
        for tenant in TENANTS:
            (self._files / f"{tenant}.psk").write_text(
                f"a secret of {tenant} that is long enough, and random"
            )
        for name in PROVIDER:
            await self.start(name)
        for tenant in TENANTS:
            for name, host in (("web", "hv1"), ("db", "hv2")):
                self.place(self.vms[tenant, name], host)
            self.plug(f"device-{tenant}", self.vms[tenant, "office"]).put_in()
        await trio.sleep(5)

    async def start(self, name: str) -> None:
        """Start a node anew, with nothing but its file."""
        node = self.nodes[name] = Node(name, self.appliance(name), self.lessor, self._nursery)
        await node.start()
        node.tell([PutLease(lease) for lease in self.lessor.leases.values()], self.lessor.revision)
        tenant = name.removeprefix("device-")
        if tenant in TENANTS and (name, self.vms[tenant, "office"].key) in self.wires.plugged:
            self.plug(name, self.vms[tenant, "office"]).put_in()

    async def stop(self, name: str, *, kindly: bool) -> None:
        """End a node; its counters are accounted for first."""
        self.account()
        await self.nodes.pop(name).stop(kindly=kindly)
        for known in [known for known in self._known_drops if known[0] == name]:
            del self._known_drops[known]

    def appliance(self, name: str, extra: str = "") -> Appliance:
        """A node's configuration, with more tables of the network where those are given."""
        text = f'[appliance]\nname = "{name}"\n[underlay]\nprovider_addresses = ["{PROVIDER[name]}"]\n'
        tenant = name.removeprefix("device-")
        if tenant in TENANTS:
            return parse(text + plan.device(name, self.vms[tenant, "office"]), base=self._files)
        network = parse(
            plan.AS_EDGE + plan.datacenter(extra),
            base=self._files,
        )
        access = LookupAccess(("http://127.0.0.1:7637",))
        if name == "edge-1":
            return msgspec.structs.replace(network, lookup=None, lookup_access=access)
        host = parse(text + plan.host(name, self.vms.values()), base=self._files)
        return msgspec.structs.replace(host, lookup_access=access, network=network.network)

    def plug(self, node: str, vm: Vm) -> w.Plug:
        """A VM's interface at a node."""
        return self.wires.plugged[node, vm.key]

    def place(self, vm: Vm, host: str) -> None:
        """Have a VM be at a host, and everybody know it: an orchestrated move."""
        for other in ("hv1", "hv2"):
            if other != host and self.plug(other, vm).is_in:
                self.plug(other, vm).pull_out()
        self.tell(vm, host)
        self.plug(host, vm).put_in()

    def tell(self, vm: Vm, host: str) -> None:
        """Tell all nodes of the datacenter where a VM is."""
        self.lessor.revision += 1
        revision = self.lessor.revision
        is_rewritten = (vm.tenant, vm.name) == REWRITTEN
        record = LookupRecord(
            vsid=vm.key[0],
            ca=vm.ca,
            mac=vm.key[1],
            pa=vm.pa(host),
            host=host,
            translation=Translation.REWRITE if is_rewritten else Translation.ENCAP,
            epoch=revision,
            revision=revision,
        )
        self._tell([Put(record)], revision)

    def _tell(self, changes: Sequence[Change], revision: int) -> None:
        """Tell all nodes of the datacenter."""
        for name in ("edge-1", "hv1", "hv2"):
            if name in self.nodes:
                self.nodes[name].tell(changes, revision)

    def where(self, vm: Vm) -> str:
        """The node at which a VM's interface is in."""
        return next(node for (node, key), plug in self.wires.plugged.items() if key == vm.key and plug.is_in)

    def excuse(self, seconds: float, *streams: Stream) -> None:
        """Packets of some streams may be lost for a while."""
        until = trio.current_time() + seconds
        for stream in streams:
            self._excused[stream] = max(until, self._excused.get(stream, 0.0))

    def send(self, stream: Stream) -> None:
        """Have a VM send the next packet to another."""
        tenant, source, target = stream
        sender = self.vms[tenant, source]
        self._number += 1
        frame = sender.frame(self.vms[tenant, target].ca, self._number % FLOWS, self._number)
        self.sent[stream] += 1
        self._under_way[self._number] = stream
        self.plug(self.where(sender), sender).send(frame)

    def send_all(self) -> None:
        """Have each stream send its next packet, where its VMs are there."""
        for stream in STREAMS:
            if stream[1] != "office" or f"device-{stream[0]}" in self.nodes:
                self.send(stream)

    def settle(self) -> None:
        """See to it that whatever was sent before has arrived, or was excused."""
        now = trio.current_time()
        for stream, lost in Counter(self._under_way.values()).items():
            if now > self._excused.get(stream, -1.0):
                self.problems.append(f"{now:.0f} s: {lost} packets of {'/'.join(stream)} are lost")
        self._under_way.clear()

    def account(self) -> None:
        """See to it that every drop since the last look was caused on purpose."""
        found: Counter[tuple[str, DropReason, str]] = Counter()
        for name, node in self.nodes.items():
            found.update({(name, *key): count for key, count in node.path.drops.counts.items()})
        fresh = found - self._known_drops
        for key, count in fresh.items():
            if key[1] in USUAL or (key[1] is DropReason.SITE_DOWN and self._is_excused(key[2])):
                continue
            if self.expected[key] < count:
                missing = count - self.expected[key]
                self.problems.append(
                    f"{trio.current_time():.0f} s: {key[0]} dropped {missing} of {key[2]}: {key[1].value}"
                )
        for key, count in self.expected.items():
            if fresh[key] < count:
                self.problems.append(
                    f"{trio.current_time():.0f} s: {key[0]} dropped {fresh[key]} and not {count} of {key[2]}:"
                    f" {key[1].value}"
                )
        self.expected.clear()
        self._known_drops = found

    def _is_excused(self, tenant: str) -> bool:
        """Whether some packets of a tenant may be lost now, or could be a moment ago."""
        now = trio.current_time()
        return any(now <= until + 1.0 for stream, until in self._excused.items() if stream[0] == tenant)

    def site(self, node: str, key: SiteKey) -> SiteStatus:
        """How a site is at a node."""
        return next(each for each in self.nodes[node].path.sites() if (each.tenant, each.site) == key)

    def is_up(self, tenant: str) -> bool:
        """Whether both ends of a tenant's site say so."""
        return all(
            self.site(node, (tenant, site)).state == "up"
            for node, site in (("edge-1", "office"), (f"device-{tenant}", "dc"))
        )

    def strangers(self, count: int) -> None:
        """Throw at the gateway what no peer of its would: on its underlay, and at its key exchange."""
        edge = ProviderAddress.parse(PROVIDER["edge-1"])
        web, db = self.vms["red", "web"], self.vms["red", "db"]
        spoofed = nvgre.encode(web.key[0]) + web.frame(db.ca, 1, 0)
        office = self.vms["red", "office"]
        distant = next(lease for lease in self.lessor.leases.values() if lease.ca == office.ca)
        for number in range(count):
            stranger = w.stranger_port(number)
            for payload, reason, tenant in (
                (spoofed, DropReason.SPOOFED_SOURCE, "red"),
                (nvgre.encode(Vsid(9999)) + spoofed[8:], DropReason.UNKNOWN_VSID, ""),
                (b"\xff" * 40, DropReason.NOT_NVGRE, ""),
                (b"\x20\x00", DropReason.MALFORMED, ""),
            ):
                outer = OuterHeader(stranger.address, edge)
                self.wires.nvgre[edge](outer, payload, trio.current_time())
                self.expected["edge-1", reason, tenant] += 1
            packet = ip.build(stranger.address, distant.pa, TCP, _SYN)
            self.wires.carry_rewritten(packet)
            self.expected["edge-1", DropReason.UNKNOWN_PROVIDER_ADDRESS, "red"] += 1
            self.wires.nvgre[edge](OuterHeader(edge, edge), spoofed, trio.current_time())
            self.expected["edge-1", DropReason.LOOP, ""] += 1
            to = self.wires.tunnels[edge]
            path = TunnelPath(Endpoint(edge, NAT_PORT), stranger)
            to.ike(path, self.chance.randbytes(self.chance.randrange(200)), trio.current_time())
            to.esp(path, self.chance.randbytes(64), 0, trio.current_time())

    def census(self) -> Census:
        """Count what all nodes hold."""
        return take(*(part for node in self.nodes.values() for part in (node.path, node.trends, node.agent)))

    def _heard(self, port: PortKey, frame: bytes) -> None:
        vm = self._by_port[port]
        if frame[12:14] == b"\x08\x00" and frame[23] == UDP and frame[36:38] == b"\x00\x09":
            number = int.from_bytes(frame[42:50])
            if not number:
                return
            stream = self._under_way.pop(number, None)
            if stream is None or (stream[0], stream[2]) != (vm.tenant, vm.name):
                self.problems.append(f"{trio.current_time():.0f} s: {vm.name} of {vm.tenant} heard {stream}")
            else:
                self.arrived[stream] += 1
        else:
            self.answers[kind_of(frame)] += 1


def kind_of(frame: bytes) -> str:
    """What a frame to a VM is, other than data."""
    kinds: dict[bytes, Callable[[], str]] = {
        b"\x08\x06": lambda: "arp",
        b"\x08\x00": lambda: "dhcp" if frame[23] == UDP and frame[36:38] == b"\x00\x44" else "icmp",
        b"\x86\xdd": lambda: "advertisement" if frame[20] == 58 and frame[54] == 134 else "ipv6",
    }
    return kinds.get(frame[12:14], frame[12:14].hex)()


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have data paths made with wires instead of sockets, and do at once what would be another thread's."""

    async def at_once(function: Callable[..., object], *args: object) -> object:
        await trio.lowlevel.checkpoint()
        return function(*args)

    monkeypatch.setattr(gateway.builtin, "Underlay", w.Underlay)
    monkeypatch.setattr(gateway.builtin, "Provider", w.Provider)
    monkeypatch.setattr(gateway.builtin, "Ports", w.Ports)
    monkeypatch.setattr(gateway.builtin, "check_ports", lambda *_: None)
    monkeypatch.setattr(gateway.builtin, "read_links", lambda: ())
    monkeypatch.setattr(
        gateway.builtin, "mtus_of", lambda addresses, _links, at: dict.fromkeys(addresses, at.mtu)
    )
    monkeypatch.setattr(gateway.sites.tunnels, "TunnelSockets", w.TunnelSockets)
    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
