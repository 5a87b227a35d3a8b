"""How many packets a second the gateway alone forwards, beside the kernel's own forwarding.

One machine in three namespaces, `sender - edge - receiver`. The same NVGRE
packets are sent twice: to the gateway's provider address, for the gateway to
decapsulate, decide and send on, and to the receiver's, for edge's kernel to
forward as they are. The figure is the highest rate at which at most 1 % is lost;
sizes are those of the inner frame.

Edge has one processor: its kernel handles there what arrives, be it for the
gateway or to be forwarded, and the gateway runs there too. The generator has
the other. What is received is counted by the receiver's interface, so that
nothing but the way through edge takes time. Where the kernel's figure is near
that of the generator alone, it is the generator's, and the kernel could do more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from gateway.lab.laboratory import Laboratory
from gateway.lab.processes import Process
from gateway.packets import ethernet, ip, nvgre
from gateway.packets.ethernet import EthernetHeader
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid, gateway_mac
from tests.bench.generator import udp_frames
from tests.bench.rates import RUNS, Way, generator_apart, receive_on
from tests.bench.results import Result
from tests.configurations import DB, RED, node, provider_host, record

GRE = 47

SENDER = ProviderAddress.parse("198.51.100.11")
EDGE = ProviderAddress.parse("192.0.2.254")
RECEIVER = ProviderAddress.parse("203.0.113.12")
CLIENT, SERVER = CustomerAddress.parse("10.0.1.5"), CustomerAddress.parse("10.0.2.5")
CLIENT_MAC = MacAddress.parse("02:00:00:00:01:05")
WEB = Vsid(5001)
NOBODY = MacAddress(b"\x02\0\0\0\xff\xff")
LINK_MACS = {
    name: MacAddress(b"\x02\0\0\0\0" + bytes([n]))
    for n, name in enumerate(("sender", "to-sender", "to-receiver", "receiver"))
}


class Line(Laboratory):
    """`sender - edge - receiver`. The receiver takes frames and answers nothing."""

    def __init__(self, processor: int) -> None:
        """`processor` is edge's."""
        super().__init__()
        self._processor = processor
        self.remark = ""

    def build(self) -> None:
        sender, edge, receiver = (self.namespace(name) for name in ("sender", "edge", "receiver"))
        edge.sysctl({"net/ipv4/ip_forward": 1})
        self.remark = receive_on(edge, self._processor)
        self.link(sender, "eth0", edge, "to-sender")
        self.link(edge, "to-receiver", receiver, "eth0")
        sender.ip(f"link set eth0 address {LINK_MACS['sender']}")
        receiver.ip(f"link set eth0 address {LINK_MACS['receiver']}")
        edge.ip(
            *(f"link set {name} address {LINK_MACS[name]}" for name in ("to-sender", "to-receiver")),
            f"address add {EDGE}/32 dev to-receiver",
            f"route add {SENDER}/32 dev to-sender",
            f"route add {RECEIVER}/32 dev to-receiver",
            f"neighbour add {SENDER} lladdr {LINK_MACS['sender']} dev to-sender",
            f"neighbour add {RECEIVER} lladdr {LINK_MACS['receiver']} dev to-receiver",
        )
        self.wait_until_ready(self.namespaces.values())

    def start_gateway(self) -> Process:
        """Run the gateway in edge."""
        file = self.directory / "appliance.toml"
        file.write_text(self.configuration())
        gateway = self.start_python("gateway", self.namespaces["edge"], "gateway.cli", "run", str(file))
        os.sched_setaffinity(gateway.pid, [self._processor])
        gateway.wait_for("ready: ")
        return gateway

    def configuration(self) -> str:
        """The gateway's appliance.toml."""
        return self.gateway() + self.network()

    def network(self) -> str:
        """The sender and the receiver as hosts, with a VM of Red on each."""
        return (
            provider_host("hv1", SENDER)
            + provider_host("hv2", RECEIVER)
            + RED
            + DB
            + record(CLIENT, CLIENT_MAC, "hv1")
            + record(SERVER, "02:00:00:00:02:05", "hv2")
        )

    def gateway(self) -> str:
        """Its role and place, by which the rest of a configuration begins."""
        place = node("edge-1", EDGE, state=self.directory / "state", engine="python")
        return f"{place}mtu = 1500\n[gateway]\n"

    def way(
        self, destination: ProviderAddress, size: int, next_hop: MacAddress = LINK_MACS["to-sender"]
    ) -> Way:
        """The way of NVGRE packets to a provider address, their inner frames of `size` octets."""
        outer = EthernetHeader(next_hop, LINK_MACS["sender"], ethernet.IPV4).encode()
        inner = EthernetHeader(gateway_mac(WEB), CLIENT_MAC, ethernet.IPV4)
        frames = [
            outer + ip.build(SENDER, destination, GRE, nvgre.encode(WEB, flow) + frame)
            for flow, frame in enumerate(udp_frames(inner, CLIENT, SERVER, size))
        ]
        return Way(self.namespaces["sender"], self.namespaces["receiver"], frames)


def benchmark() -> Iterator[Result]:
    """Measure the kernel and the gateway in turn, in the same namespaces."""
    with generator_apart() as processor, Line(processor) as line:
        gateway = line.start_gateway()
        for size in (64, 1400):
            yield from _of_size(line, gateway, size)


def _of_size(line: Line, process: Process, size: int) -> Iterator[Result]:
    alone, by_kernel, by_gateway = (
        line.way(RECEIVER, size, next_hop=NOBODY),
        line.way(RECEIVER, size),
        line.way(EDGE, size),
    )
    kind = f"{size} B{line.remark}"
    yield Result(
        f"live: generator alone, {kind}", "packets/s", tuple(alone.sending_rate() for _ in range(RUNS))
    )
    kernel = Result(
        f"live: kernel forwarding, up to the generator's rate, {kind}", "packets/s", by_kernel.highest_rates()
    )
    yield kernel
    gateway = Result(
        f"live: Python gateway, NVGRE to NVGRE, {kind}",
        "packets/s",
        by_gateway.highest_rates(),
        against=kernel.name,
        at_least=40_000 if size == 64 else None,
    )
    yield gateway
    yield Result(
        f"live: Python gateway, processor time of a packet, {kind}",
        "us",
        by_gateway.processor_times([process], gateway.value),
    )
