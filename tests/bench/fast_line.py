"""`sender - edge - receiver`, of which edge has one processor, whatever forwards there.

A frame that the sender's program redirects to its eth0 waits in a ring of 256 at edge's end of that link.
It is taken from there by a thread of the kernel (threaded NAPI), which runs on edge's processor; without
one, the sender's processor would do edge's work. What edge sends is counted, and gone, as it comes out of
the other link, on edge's processor too, since there is no third one: so every way bears that cost.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from gateway.fastpath import links
from gateway.fastpath.links import Link
from gateway.lab.laboratory import Laboratory
from gateway.lab.namespaces import LabError, Namespace
from gateway.lab.processes import Process
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress
from tests.bench.fast_frames import (
    CLIENT,
    CLIENT_MAC,
    CLIENTS,
    FIRST,
    PRIORITY,
    SERVERS,
    VSID,
    Frames,
    Sent,
    Traffic,
    attach,
)
from tests.bench.rates import FLAT_OUT
from tests.configurations import node, provider_host, record, subnet, table, tenant

SENDER = ProviderAddress.parse("192.0.2.11")
RECEIVER = ProviderAddress.parse("192.0.2.12")
EDGE = ProviderAddress.parse("192.0.2.254")
MACS = {
    name: MacAddress(b"\x02\0\0\0\0" + bytes([n]))
    for n, name in enumerate(("sender", "to-sender", "to-receiver", "receiver"))
}

RECORDS = 1000
SECONDS = 0.3
FEW = 10_000.0
ATTEMPTS = 10

_THREADED = "mount -t sysfs sysfs /sys && echo {} > /sys/class/net/{}/threaded"


class Line(Laboratory):
    """The namespaces, with nothing in edge that forwards yet."""

    def __init__(self, processor: int) -> None:
        """`processor` is edge's. Building it raises BpfRefused where the kernel has not what it takes."""
        super().__init__()
        self.processor = processor
        self._links: list[Link] = []

    def build(self) -> None:
        sender, edge, receiver = (self.quiet_namespace(name) for name in ("sender", "edge", "receiver"))
        self.link(sender, "eth0", edge, "to-sender")
        self.link(edge, "to-receiver", receiver, "eth0")
        sender.ip(f"link set eth0 address {MACS['sender']}")
        receiver.ip(f"link set eth0 address {MACS['receiver']}")
        edge.ip(*(f"link set {name} address {MACS[name]}" for name in ("to-sender", "to-receiver")))
        self.frames = Frames(sender)
        self.build_ends()
        self.wait_until_ready(self.namespaces.values())

    def build_ends(self) -> None:
        """Have the receiver count. A veth takes no redirected frames unless its far end has a program."""
        self.attach(self.namespaces["receiver"], "eth0", self.frames.programs["count"])
        self.attach(self.namespaces["sender"], "eth0", self.frames.programs["pass"])

    def quiet_namespace(self, name: str) -> Namespace:
        """Make a namespace that sends nothing of its own accord."""
        namespace = self.namespace(name)
        namespace.sysctl({f"net/ipv6/conf/{scope}/disable_ipv6": 1 for scope in ("all", "default")})
        return namespace

    def attach(self, namespace: Namespace, interface: str, program: int) -> None:
        """Attach a program until the end."""
        self._links.append(namespace.call(attach, program, interface))

    @property
    def edge(self) -> Namespace:
        return self.namespaces["edge"]

    def close(self) -> None:
        while self._links:
            self._links.pop().close()
        super().close()

    def route(self) -> None:
        """Give edge its address, and the way to the others."""
        self.edge.ip(
            f"address add {EDGE}/32 dev to-receiver",
            f"route add {SENDER}/32 dev to-sender",
            f"route add {RECEIVER}/32 dev to-receiver",
            f"neighbour add {SENDER} lladdr {MACS['sender']} dev to-sender",
            f"neighbour add {RECEIVER} lladdr {MACS['receiver']} dev to-receiver",
        )

    def forward_by_kernel(self) -> None:
        """Have edge's kernel forward. With GRO, an interface takes redirected frames without a program."""
        self.route()
        self.edge.sysctl({"net/ipv4/ip_forward": 1})
        for interface in ("to-sender", "to-receiver"):
            self.edge.run("ethtool", "-K", interface, "gro", "on")

    def pass_without_merging(self) -> None:
        """Have edge take redirected frames by a program that passes them on, without GRO."""
        for interface in ("to-sender", "to-receiver"):
            self.edge.run("ethtool", "-K", interface, "gro", "off")
            self.attach(self.edge, interface, self.frames.programs["pass"])

    def forward_by_gateway(self, engine: str) -> Process:
        """Have the gateway forward, by an engine. It turns GRO off, so Python's frames pass a program."""
        self.route()
        if engine == "python":
            self.pass_without_merging()
        file = self.directory / "appliance.toml"
        file.write_text(self._configuration(engine))
        process = self.start_python("gateway", self.edge, "gateway.cli", "run", str(file))
        process.wait_for("ready: ", timeout=30)
        if engine == "xdp" and self.edge.call(_program_at, "to-sender") is None:
            raise LabError(f"the gateway is ready, and its program is not at to-sender:\n{process.tail()}")
        return process

    def settle(self, process: Process | None = None) -> None:
        """Have edge's processor receive what comes to edge, and a process forward it there.

        All of it runs ahead of whatever else the machine does, and what receives ahead of what forwards,
        as in a kernel's soft interrupts.
        """
        for thread in Path(f"/proc/{process.pid}/task").iterdir() if process else ():
            run_on(self.processor, int(thread.name), PRIORITY)
        for interface in ("to-sender", "to-receiver"):
            receive_on(self.edge, interface, self.processor)

    def _configuration(self, engine: str) -> str:
        """A tenant with rules and a rate, and the records."""
        place = node("edge-1", EDGE, state=self.directory / "state", engine=engine)
        return (
            f'{place}interfaces = ["to-sender", "to-receiver"]\nmtu = 1500\n[gateway]\n'
            + provider_host("hv1", SENDER)
            + provider_host("hv2", RECEIVER)
            + tenant("red")
            + subnet("web", VSID, CLIENTS)
            + subnet("db", VSID + 1, SERVERS)
            + table("[tenant.limits]", rate="1000 Gbit/s")
            + table(
                "[[tenant.access]]", name="no-ssh", action="deny", to="subnet:db", protocol="tcp", ports=[22]
            )
            + table(
                "[[tenant.access]]",
                name="web-to-db",
                action="allow",
                **{"from": "subnet:web"},
                to="subnet:db",
            )
            + record(CLIENT, CLIENT_MAC, "hv1")
            + "".join(record(ca, mac, "hv2") for ca, mac in servers())
        )


def traffic(
    size: int,
    *,
    destination: ProviderAddress = EDGE,
    next_hop: MacAddress = MACS["to-sender"],
    tenants: int = 1,
    records: int = RECORDS,
    stride: int = 1,
) -> Traffic:
    """What the sender sends; `size` is that of the inner frame, `records` are each tenant's."""
    return Traffic(
        tenants=tenants,
        records=records,
        size=size,
        source=SENDER,
        destination=destination,
        source_mac=MACS["sender"],
        next_hop=next_hop,
        stride=stride,
    )


class LiveWay:
    """From the sender to the receiver by what forwards in a line."""

    def __init__(self, line: Line, traffic: Traffic) -> None:
        self._line = line
        self._traffic = traffic
        self._is_routed = traffic.destination == EDGE

    def sending_rate(self) -> float:
        """Return how many packets a second are sent at most, whatever becomes of them."""
        sent = self._line.frames.send(self._traffic, FLAT_OUT, SECONDS)
        return sent.sent / sent.seconds

    def trial(self, rate: float) -> tuple[float, float]:
        """Send at a rate; return how many a second arrived, and the share that was lost."""
        sent = self._send(rate)
        return sent.arrived / sent.seconds, 1 - sent.arrived / sent.sent

    def check(self) -> None:
        """Send a few, until every flow is known. Raises LabError unless all of them arrive then."""
        for _ in range(ATTEMPTS):
            if (sent := self._send(FEW)).arrived == sent.sent and sent.to_the_same:
                return
        raise LabError(f"of {FEW:,.0f} frames a second, not all arrived, {ATTEMPTS} times")

    def _send(self, rate: float) -> Sent:
        sent = self._line.frames.send(self._traffic, rate, SECONDS)
        length = len(self._traffic.frame())
        if (
            sent.arrived > sent.sent
            or sent.others
            or sent.octets != sent.arrived * length
            or sent.routed != (sent.arrived if self._is_routed else 0)
        ):
            raise LabError(f"something else arrived than was sent, in frames of {length} octets: {sent}")
        return sent


def servers() -> list[tuple[CustomerAddress, MacAddress]]:
    """The addresses and MACs of the VMs that are sent to."""
    first = int.from_bytes(FIRST)
    return [
        (CustomerAddress((first + n).to_bytes(4)), MacAddress(b"\x02\0\1" + n.to_bytes(3)))
        for n in range(RECORDS)
    ]


def _program_at(interface: str) -> int | None:
    return links.attached(socket.if_nametoindex(interface))


def receive_on(namespace: Namespace, interface: str, processor: int) -> None:
    """Have a thread of the kernel's, on a processor, receive what comes to an interface."""
    # An interface that takes frames again, by another program, may have a thread already.
    namespace.run("unshare", "--mount", "sh", "-c", _THREADED.format(0, interface))
    before = _threads()
    namespace.run("unshare", "--mount", "sh", "-c", _THREADED.format(1, interface))
    threads = _threads() - before
    if not threads:
        raise LabError(f"{namespace.name}: no thread receives for {interface}")
    for thread in threads:
        run_on(processor, thread, PRIORITY + 1)


def run_on(processor: int, thread: int, priority: int) -> None:
    """Have a thread run on a processor, ahead of all that has no such priority or a lower one."""
    os.sched_setaffinity(thread, [processor])
    os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))


def _threads() -> set[int]:
    """The kernel's threads that receive for an interface."""
    found = set()
    for each in Path("/proc").glob("[0-9]*/comm"):
        try:
            if each.read_text().startswith("napi/"):
                found.add(int(each.parent.name))
        except OSError:  # it has ended meanwhile
            continue
    return found
