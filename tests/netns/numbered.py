"""Hosts that are the test itself: they send numbered packets to a gateway, and look at all that comes.

    hv1, by IPv4 only          hv2, by IPv6 only
    red's web1 and db1         red's web2 and db2
    blue's web2 and db2        blue's web1 and db1
          |                          |
          +------- underlay ---------+
                       |
                    edge-1 (isthmus run)

Red and Blue have the same customer addresses and MACs, and each has them where the other has not. As
Open vSwitch does, a host sends whatever a VM sends to the gateway; so every packet passes it, by IPv4 and
IPv6 and from one to the other. Whatever arrives anywhere is compared, octet by octet, with what it has to be.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import pytest

from gateway.lab import nodes
from gateway.lab.capture import read_frames
from gateway.lab.nodes import LookupPlan
from gateway.lab.processes import Process
from gateway.lab.topology import UPLINK, Datacenter, Node, Plan, Vm, standard_plan
from gateway.packets import ethernet, ip, nvgre, transport
from gateway.packets.checksum import internet_checksum, transport_checksum
from gateway.underlay.packet_filter import NOTHING, attach
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid, gateway_mac
from policies.errors import MalformedPacket
from policies.facts import UDP

PORT = 7007
GRE = 47
FIRST_SOURCE_PORT = 40000
LONGEST_FILLER = 300
IN_THE_LONG_RUN = (pytest.mark.interop, pytest.mark.long)
"""Of what holds for both engines and every way, the normal run has the fast path's decisive ones."""

BOTH_ENGINES = (pytest.param("python", marks=IN_THE_LONG_RUN), "xdp")

STRAGGLERS = 0.4
"""Seconds after the last packet in which one that was sent may still come."""

_NUMBERED = struct.Struct("!8sIII")  # what it is, whose talk, which flow, number
_WHAT = b"numbered"
_UDP = struct.Struct("!HHHH")
_RING = bytes(range(256)) * 3
_TALKS = itertools.count(1)


def plan(
    *, engine: str, tenants: Sequence[str] = ("red", "blue"), mtu: int = 1500, vms_per_subnet: int = 2
) -> Plan:
    """Plan what is drawn above."""
    planned = standard_plan(tenants=tenants, engine=engine, underlay_mtu=mtu, vms_per_subnet=vms_per_subnet)
    hosts = tuple(
        Node(host.name, tuple(str(each) for each in host.interfaces if each.version == version))
        for host, version in zip(planned.hosts, (4, 6), strict=True)
    )
    elsewhere = {hosts[0].name: hosts[1].name, hosts[1].name: hosts[0].name}
    vms = tuple(
        msgspec.structs.replace(vm, host=elsewhere[vm.host]) if vm.tenant == "blue" else vm
        for vm in planned.vms
    )
    return msgspec.structs.replace(planned, hosts=hosts, vms=vms)


class Flow(msgspec.Struct, frozen=True):
    """What one VM sends another of its tenant by one IP version."""

    number: int
    source: Vm
    target: Vm
    version: int
    behind: str = ""
    """An address that routes lead to the target for, instead of its own."""
    has_options: bool = False
    """With IPv4 options, which the fast path leaves to Python."""

    @property
    def is_switched(self) -> bool:
        return self.source.vsid == self.target.vsid and not self.behind

    @property
    def tenant(self) -> str:
        return self.source.tenant

    def __str__(self) -> str:
        behind = f" for {self.behind}" if self.behind else ""
        options = " with options" if self.has_options else ""
        return f"{self.source.name} to {self.target.name}{behind} by IPv{self.version}{options}"

    def datagram(self, talk: int, number: int) -> bytes:
        """The UDP datagram of a number: of its own length and with octets of its own."""
        length = number * 7 % LONGEST_FILLER
        filler = _RING[number & 0xFF :][:length]
        data = _NUMBERED.pack(_WHAT, talk, self.number, number) + filler
        ports = FIRST_SOURCE_PORT + self.number, PORT
        header = _UDP.pack(*ports, _UDP.size + len(data), 0)
        checksum = transport_checksum(*self._addresses, UDP, header + data)
        return header[:6] + checksum.to_bytes(2) + data

    @property
    def _addresses(self) -> tuple[bytes, bytes]:
        target = self.behind or self.target.address(self.version)
        return CustomerAddress.parse(self.source.address(self.version)), CustomerAddress.parse(target)

    def _packet(self, talk: int, number: int, hop_limit: int) -> bytes:
        packet = ip.build(*self._addresses, UDP, self.datagram(talk, number), hop_limit=hop_limit)
        return _with_options(packet) if self.has_options else packet

    def sent(self, talk: int, number: int) -> bytes:
        """The GRE packet as the source's host sends it."""
        packet = self._packet(talk, number, 64)
        to = MacAddress.parse(self.target.mac) if self.is_switched else gateway_mac(Vsid(self.source.vsid))
        header = ethernet.EthernetHeader(
            to, MacAddress.parse(self.source.mac), ethernet.OF_IP_VERSION[self.version]
        )
        return nvgre.encode(self.source.vsid) + header.encode() + packet

    def arriving(self, talk: int, number: int) -> bytes:
        """The GRE packet as it has to come to the target's host."""
        packet = self._packet(talk, number, 64 if self.is_switched else 63)
        source = (
            MacAddress.parse(self.source.mac) if self.is_switched else gateway_mac(Vsid(self.target.vsid))
        )
        header = ethernet.EthernetHeader(
            MacAddress.parse(self.target.mac), source, ethernet.OF_IP_VERSION[self.version]
        )
        flow_id = transport.flow_id(ip.decode_untrusted(packet))
        return nvgre.encode(self.target.vsid, flow_id) + header.encode() + packet


def _with_options(packet: bytes) -> bytes:
    header = bytearray(packet[: ip.IPV4_HEADER_LENGTH])
    header[0] = 0x46
    header[2:4] = (len(packet) + 4).to_bytes(2)
    header[10:12] = bytes(2)
    options = b"\x01\x01\x01\0"  # three times nothing, and the end
    header[10:12] = internet_checksum(bytes(header) + options).to_bytes(2)
    return bytes(header) + options + packet[ip.IPV4_HEADER_LENGTH :]


def flows(
    plan: Plan, *, tenants: Iterable[str] | None = None, versions: Sequence[int] = (4, 6)
) -> list[Flow]:
    """Return a flow from every VM to every other of its tenant."""
    chosen = plan.vms if tenants is None else [vm for vm in plan.vms if vm.tenant in set(tenants)]
    pairs = [(a, b) for a in chosen for b in chosen if a.tenant == b.tenant and a is not b]
    found = itertools.product(pairs, versions)
    return [Flow(number, a, b, version) for number, ((a, b), version) in enumerate(found)]


class Outcome(msgspec.Struct):
    """What was sent of each flow, and what of it came."""

    flows: list[Flow]
    sent: list[list[float]]
    """Of each flow the times at which its packets were sent; their places are their numbers."""
    came: list[Counter[int]]
    """Of each flow how often each number came, to the right host and as it has to be."""
    ways: list[dict[int, Flow]]
    """Of each flow as what each number came."""
    wrong: list[str] = []
    """Numbered packets that came elsewhere, or otherwise than they have to."""
    others: list[str] = []
    """What else came from the gateway."""

    def lost(self, flow: Flow) -> list[int]:
        """Return the numbers that never came."""
        place = self.flows.index(flow)
        return [number for number in range(len(self.sent[place])) if number not in self.came[place]]

    def lost_sent_at(self) -> list[float]:
        """Return when those were sent that never came, in order."""
        return sorted(
            self.sent[place][number] for place, flow in enumerate(self.flows) for number in self.lost(flow)
        )

    def came_sent_after(self, time: float, *, tenant: str | None = None) -> int:
        """Return how many have come that were sent after a time."""
        return sum(
            self.sent[place][number] > time
            for place, flow in enumerate(self.flows)
            if tenant in (None, flow.tenant)
            for number in self.came[place]
        )

    @property
    def packets(self) -> int:
        """How many were sent."""
        return sum(map(len, self.sent))

    @property
    def missing(self) -> int:
        """How many never came."""
        return len(self.lost_sent_at())

    @property
    def duplicates(self) -> int:
        """How many came more than once."""
        return sum(count > 1 for came in self.came for count in came.values())

    def assert_nothing_wrong(self, *, errors: str = "none") -> None:
        """Hold it to that every packet came where it has to, as it has to, and at most once.

        Nothing else may come but the ICMP errors that match a pattern.
        """
        assert self.wrong == [], self.wrong[:5]
        others = [each for each in self.others if not re.search(errors, each)]
        assert others == [], others[:5]
        assert self.duplicates == 0

    def __str__(self) -> str:
        lost = self.lost_sent_at()
        over = f", sent within {lost[-1] - lost[0]:.3f} s" if len(lost) > 1 else ""
        return (
            f"{self.packets} packets of {len(self.flows)} flows: {self.missing} lost{over}, "
            f"{self.duplicates} twice, {len(self.wrong)} wrong"
        )


class NumberedWorld(Datacenter):
    """The hosts' places, without VMs, and the gateway."""

    gateway: Process

    def __init__(
        self, plan: Plan, *, change: Callable[[str], str] = str, lookup: LookupPlan | None = None
    ) -> None:
        """`change` is what to do with the gateway's configuration before it is written.

        With a lookup service, which the gateway serves, records have to be registered there.
        """
        super().__init__(plan)
        self._change = change
        self._lookup = lookup
        self.prefix: tuple[str, ...] = ()
        """What goes before the gateway's command."""

    def add_vm(self, vm: Vm) -> None:
        """Build none: hosts send for them."""
        self._hosts[vm.name] = vm.host

    def write(self, plan: Plan | None = None, change: Callable[[str], str] | None = None) -> None:
        """Write the gateway's configuration, by another plan or with another change if there is one."""
        node = self.plan.gateways[0]
        state = self.directory / node.name
        text = nodes.configuration(plan or self.plan, node, state=state, lookup=self._lookup)
        (self.directory / f"{node.name}.toml").write_text((change or self._change)(text))

    def start_gateway(self) -> Process:
        """Start the gateway by its configuration as it is, and wait until it is ready."""
        name = self.plan.gateways[0].name
        command = nodes.run_command(self.directory / f"{name}.toml")
        self.gateway = self.start(name, self.node(name), *self.prefix, *command)
        self.gateway.wait_for(r"\bready\b", 20)
        return self.gateway

    def isthmus(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Type a command at the gateway, as its operator."""
        name = self.plan.gateways[0].name
        file = str(self.directory / f"{name}.toml")
        return self.node(name).run(sys.executable, "-m", "gateway.cli", command, file, *options, check=False)

    def report(self) -> dict[str, Any]:
        """Return the gateway's counters."""
        return nodes.counters(self.gateway)

    def gateway_address(self, version: int) -> str:
        """Return the gateway's provider address of an IP version."""
        addresses = self.plan.gateways[0].interfaces
        return next(str(each.ip) for each in addresses if each.version == version)

    def address_of(self, host: str) -> ProviderAddress:
        """Return a host's only provider address."""
        node = next(node for node in self.plan.hosts if node.name == host)
        return ProviderAddress.parse(node.provider_addresses[0])

    def sender(self, host: str) -> Sender:
        """Return a sender of GRE packets at a host."""
        address = self.address_of(host)
        return Sender(self, host, self.gateway_address(address.version))

    @contextlib.contextmanager
    def traffic(
        self, flows: Sequence[Flow], *, rate: float = 1000, alternatively: Sequence[Flow] = ()
    ) -> Iterator[Outcome]:
        """Send packets of these flows in turn, so many a second in all; what came is known at the end.

        Packets may come as an alternative of the same number too.
        """
        talk = next(_TALKS)
        files = {host.name: self.directory / f"talk-{talk}-{host.name}.pcap" for host in self.plan.hosts}
        captures = [self.capture(self.node(host), UPLINK, file) for host, file in files.items()]
        outcome = Outcome(list(flows), [[] for _ in flows], [Counter() for _ in flows], [{} for _ in flows])
        with contextlib.ExitStack() as stack:
            senders = {host: stack.enter_context(self.sender(host)) for host in files}
            over = threading.Event()

            def send() -> None:
                for turn in itertools.count():
                    if over.wait(max(0.0, begun + turn / rate - time.monotonic())):
                        return
                    flow = outcome.flows[turn % len(flows)]
                    times = outcome.sent[turn % len(flows)]
                    # Before it is sent, so that nothing that came by what held before is taken for later.
                    times.append(time.monotonic())
                    senders[flow.source.host].send(flow.sent(talk, len(times) - 1))

            thread = threading.Thread(target=send)
            begun = time.monotonic()
            thread.start()
            try:
                yield outcome
            finally:
                over.set()
                thread.join()
                time.sleep(STRAGGLERS)
                for process in captures:
                    process.stop()
        for host, file in files.items():
            self._look_at(outcome, talk, host, read_frames(file), alternatively)
            file.unlink()

    def _look_at(
        self, outcome: Outcome, talk: int, host: str, frames: Iterable[bytes], alternatively: Sequence[Flow]
    ) -> None:
        """Compare what has come to a host with what has to."""
        own = self.address_of(host)
        for frame in frames:
            packet = frame[ethernet.HEADER_LENGTH :]
            try:
                outer = ip.decode_untrusted(packet)
            except MalformedPacket:
                continue  # ARP, for instance
            if outer.protocol != GRE or outer.source == own:
                continue
            payload = packet[outer.header_length : outer.total_length]
            found = _read(payload)
            if isinstance(found, str):
                outcome.others.append(f"at {host}: {found}")
                continue
            of, number_of_flow, number = found
            if of != talk:
                continue
            place = next(n for n, each in enumerate(outcome.flows) if each.number == number_of_flow)
            flows = outcome.flows[place], *(each for each in alternatively if each.number == number_of_flow)
            here = [each for each in flows if each.target.host == host]
            right = next((each for each in here if each.arriving(talk, number) == payload), None)
            if right is None:
                wanted = [each.arriving(talk, number).hex() for each in here]
                outcome.wrong.append(f"{flows[0]}, {number}, at {host}: {payload.hex()} instead of {wanted}")
                continue
            # The router on the way to the host takes one of the outer hop limit, and one on the way
            # from the sender's; the gateway takes one where it only switches, as the packet goes on.
            hop_limit = 64 - 3 if right.is_switched else 64 - 1
            gateway = ProviderAddress.parse(self.gateway_address(own.version))
            is_right = (outer.source, outer.destination, outer.hop_limit) == (gateway, own, hop_limit)
            if not is_right or outer.traffic_class or (own.version == 4 and internet_checksum(packet[:20])):
                outcome.wrong.append(f"{right}, {number}, at {host}: outer header {packet[:40].hex()}")
                continue
            outcome.came[place][number] += 1
            outcome.ways[place][number] = right


def _read(payload: bytes) -> tuple[int, int, int] | str:
    """Return the talk, flow and number of a GRE packet that has one, and else what it is."""
    try:
        vsid = nvgre.decode_untrusted(payload).vsid
        inner = ip.decode_untrusted(payload[nvgre.HEADER_LENGTH + ethernet.HEADER_LENGTH :])
    except MalformedPacket as malformed:
        return f"{malformed}: {payload.hex()}"
    at = payload.find(_WHAT)
    if inner.protocol == UDP and at >= 0:
        _, *found = _NUMBERED.unpack_from(payload, at)
        return found[0], found[1], found[2]
    return f"VSID {vsid}, protocol {inner.protocol}, type {inner.icmp_type}: {payload.hex()}"


class Sender:
    """Sends GRE packets from a host to the gateway, whatever they are. A context manager."""

    def __init__(self, world: NumberedWorld, host: str, gateway: str) -> None:
        address = world.address_of(host)
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        self._target = (gateway, 0)
        self._socket = world.node(host).call(socket.socket, family, socket.SOCK_RAW, GRE)
        # It is there so that the kernel does not call GRE unreachable, and takes nothing.
        attach(self._socket, NOTHING)
        self._socket.bind((str(address), 0))

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, packet: bytes) -> None:
        """Send a GRE packet to the gateway."""
        self._socket.sendto(packet, self._target)


def punted(report: dict[str, Any]) -> int:
    """How many packets the fast path has handed to Python so far."""
    return sum((report["fastpath"] or {"passed": {}})["passed"].values())


def mostly_carried_by(
    world: NumberedWorld, before: dict[str, Any], outcome: Outcome, *, but: int = 0
) -> None:
    """Hold it to that the planned engine has carried this since a report before, but for so many packets."""
    report = world.report()
    assert report["engine"] == world.plan.engine
    if world.plan.engine != "python":
        assert punted(report) - punted(before) <= but + outcome.packets / 20, (before, report)
