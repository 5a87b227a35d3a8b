"""One TCP stream from VM to VM by way of the fast path, beside all else that could carry it on this machine.

    VM - host - edge - host - VM

A host here is two programs of ours, which put a VM's frames into NVGRE and take them out again, so that
it is edge that is measured, with both directions of the stream. Hosts and VMs share a processor; edge has
the other. The VMs finish their checksums and cut their segments themselves, since programs see frames as
they are. GRO is on at the VMs alone, since no program sees what has been merged.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack

from gateway.fastpath import elf, kernel
from gateway.fastpath.kernel import BpfRefused, Loaded
from gateway.lab.namespaces import Namespace
from gateway.packets import ethernet, ip, nvgre
from gateway.packets.ethernet import EthernetHeader
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid, gateway_mac
from tests.bench import fast_openvswitch
from tests.bench.fast_frames import CLIENT, CLIENT_MAC, GRE, OBJECT, VSID, partial_sum
from tests.bench.fast_line import EDGE, MACS, RECEIVER, SENDER, Line, receive_on, servers
from tests.bench.fast_rates import AF_PACKET_PORTS, AF_XDP_PORTS, KERNEL, WAYS
from tests.bench.rates import RUNS, generator_apart
from tests.bench.results import CannotMeasure, Result
from tests.bench.streams import megabits_per_second

MTU = 1458  # of a VM: NVGRE over IPv4 takes 42 octets of 1500
OFFLOADS = ("tx", "tso", "gso")

_HOST = struct.Struct("<I42s2x")
_NUMBER = struct.Struct("<I")
_UNDERLAY, _VM = 0, 1
(SERVER, SERVER_MAC), *_ = servers()


class StreamLine(Line):
    """A line with a host and a VM at either end."""

    def __init__(self, processor: int, way: str) -> None:
        """`way` names what is going to forward: where the hosts send to depends on it."""
        super().__init__(processor)
        self._is_routed = way != KERNEL
        self._edge_mac = fast_openvswitch.MAC if way in {AF_PACKET_PORTS, AF_XDP_PORTS} else None
        self._hosts: list[Loaded] = []

    def build_ends(self) -> None:
        (others,) = os.sched_getaffinity(0)
        self.client = self._build_end("sender", VSID, (CLIENT, CLIENT_MAC), SENDER, RECEIVER, others)
        self.server = self._build_end(
            "receiver", Vsid(VSID + 1), (SERVER, SERVER_MAC), RECEIVER, SENDER, others
        )
        # By the kernel's forwarding, inner frames arrive as they were sent.
        to_server, to_client = (
            (gateway_mac(VSID), gateway_mac(Vsid(VSID + 1))) if self._is_routed else (SERVER_MAC, CLIENT_MAC)
        )
        self.client.ip(f"neighbour add {SERVER} lladdr {to_server} dev eth0")
        self.server.ip(f"neighbour add {CLIENT} lladdr {to_client} dev eth0")

    def _build_end(
        self,
        name: str,
        vsid: Vsid,
        vm: tuple[CustomerAddress, MacAddress],
        own: ProviderAddress,
        other: ProviderAddress,
        processor: int,
    ) -> Namespace:
        """Make a VM behind a host, and return it."""
        host, guest = self.namespaces[name], self.quiet_namespace(f"{name}-vm")
        self.link(host, "vm", guest, "eth0")
        guest.ip(
            f"link set eth0 mtu {MTU} address {vm[1]}",
            f"address add {vm[0]}/32 dev eth0",
            f"route add default dev eth0 src {vm[0]}",
        )
        guest.run(
            "ethtool", "-K", "eth0", *(word for each in OFFLOADS for word in (each, "off")), "gro", "on"
        )
        loaded = kernel.load(elf.read_object(OBJECT.read_bytes()))
        self._hosts.append(loaded)
        for number, interface in ((_UNDERLAY, "eth0"), (_VM, "vm")):
            index = host.call(socket.if_nametoindex, interface)
            host.call(loaded.maps["ports"].update, _NUMBER.pack(number), _NUMBER.pack(index))
        outer = EthernetHeader(self._edge_mac or MACS[f"to-{name}"], MACS[name], ethernet.IPV4).encode()
        packet = ip.build(own, EDGE if self._is_routed else other, GRE, nvgre.encode(vsid))
        header = bytearray(packet[:20])
        header[2:4] = header[10:12] = bytes(2)
        loaded.maps["host"].update(_NUMBER.pack(0), _HOST.pack(partial_sum(header), outer + packet))
        self.attach(host, "vm", loaded.programs["encapsulate"])
        self.attach(host, "eth0", loaded.programs["decapsulate"])
        for namespace, interface in ((host, "vm"), (host, "eth0"), (guest, "eth0")):
            receive_on(namespace, interface, processor)
        return guest

    def forward_by_kernel(self) -> None:
        """Without GRO: a host's program does not see packets that have been merged."""
        super().forward_by_kernel()
        self.pass_without_merging()

    def close(self) -> None:
        super().close()
        while self._hosts:
            self._hosts.pop().close()


def benchmark() -> Iterator[Result]:
    """Measure the ways in turn."""
    try:
        with generator_apart() as processor, ExitStack() as stack:
            lines = {}
            for name, start in WAYS.items():
                lines[name] = stack.enter_context(StreamLine(processor, name))
                start(lines[name])
            rates: dict[str, list[float]] = {name: [] for name in lines}
            for _ in range(RUNS):
                for name, line in lines.items():
                    rates[name].append(megabits_per_second(line.client, line.server, str(SERVER)))
    except BpfRefused as refused:
        raise CannotMeasure(str(refused)) from refused
    for name, samples in rates.items():
        against = None if name == KERNEL else f"fast path: {KERNEL}, one TCP stream"
        yield Result(f"fast path: {name}, one TCP stream", "Mbit/s", tuple(samples), against=against)
