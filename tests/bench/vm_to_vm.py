"""What gets from one VM to another through both hosts and the gateway, beside the kernels' own forwarding.

    VM - hv1 - underlay - edge-1 - underlay - hv2 - VM

A VM in Red's web subnet sends to one in its db subnet: plain UDP frames at a
rate, counted by the other VM's interface, or one TCP stream with the offloads
that a guest has by default. Hosts lack the records of the db subnet, so that
the gateway carries all of it; answers go from host to host. Beside that, two
machines outside of every tenant are on the same hosts, and the kernels of the
same namespaces forward between them as plain routers, by the same five hops.

Both hosts and the gateway are Python processes, and share the machine's
processors with each other and with the generator: on as many processors as
nodes each would have the figure of the slowest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from gateway.lab import nodes
from gateway.lab.topology import UPLINK, VM_INTERFACE, Datacenter, Node, Vm, standard_plan
from gateway.packets import ethernet
from gateway.packets.ethernet import EthernetHeader
from policies.addresses import CustomerAddress, MacAddress, Vsid, gateway_mac
from tests.bench.generator import udp_frames
from tests.bench.rates import RUNS, Way, generator_apart, receive_on
from tests.bench.results import Result
from tests.bench.streams import megabits_per_second

CLIENT, SERVER = "red-web1", "red-db2"

# Which is on which host; their networks are 10.8.1.0/24 and 10.8.2.0/24.
PLAIN = {"hv1": 1, "hv2": 2}
PLAIN_PORT = "plain"
PLAIN_MAC = MacAddress(b"\x02\0\0\0\xff\1")
PLAIN_PORT_MAC = MacAddress(b"\x02\0\0\0\xff\2")
VIA_GATEWAY = 100  # a routing table


class PlainDatacenter(Datacenter):
    """A datacenter with two more machines, which the kernels of its nodes route to each other."""

    def __init__(self, processor: int) -> None:
        """`processor` is that of the hosts' kernels."""
        super().__init__(standard_plan(tenants=("red",), underlay=(4,)))
        self._processor = processor
        self.remark = ""

    def build(self) -> None:
        super().build()
        for host in self.plan.hosts:
            self._build_plain(host, PLAIN[host.name])
        (edge,) = self.plan.gateways
        # As with the tenant's: what hv1 sends goes by way of edge-1, and what comes back does not.
        self.router.ip(
            f"route add default via {edge.provider_addresses[0]} table {VIA_GATEWAY}",
            f"rule add iif hv1 to 10.8.2.0/24 lookup {VIA_GATEWAY}",
        )
        self.node(edge.name).sysctl(
            {"net/ipv4/ip_forward": 1}
            | {f"net/ipv4/conf/{scope}/send_redirects": 0 for scope in ("all", UPLINK)}
        )
        self.wait_until_ready(self.namespaces.values())

    def _build_plain(self, node: Node, number: int) -> None:
        host, machine = self.node(node.name), self.namespace(f"plain{number}")
        host.sysctl({"net/ipv4/ip_forward": 1})
        self.remark = receive_on(host, self._processor)
        self.link(host, PLAIN_PORT, machine, VM_INTERFACE)
        host.ip(
            f"link set {PLAIN_PORT} address {PLAIN_PORT_MAC}",
            f"address add 10.8.{number}.1/24 dev {PLAIN_PORT}",
        )
        machine.ip(
            f"link set {VM_INTERFACE} address {PLAIN_MAC}",
            f"address add 10.8.{number}.5/24 dev {VM_INTERFACE}",
            f"route add default via 10.8.{number}.1",
        )
        self.router.ip(f"route add 10.8.{number}.0/24 via {node.provider_addresses[0]}")

    def tenants_way(self, size: int) -> Way:
        """From VM to VM."""
        vms = {vm.name: vm for vm in self.plan.vms}
        client, server = vms[CLIENT], vms[SERVER]
        header = EthernetHeader(gateway_mac(Vsid(client.vsid)), MacAddress.parse(client.mac), ethernet.IPV4)
        return self._way(CLIENT, SERVER, header, client.address(), server.address(), size)

    def plain_way(self, size: int) -> Way:
        """By the kernels' forwarding."""
        header = EthernetHeader(PLAIN_PORT_MAC, PLAIN_MAC, ethernet.IPV4)
        return self._way("plain1", "plain2", header, "10.8.1.5", "10.8.2.5", size)

    def _way(
        self, sender: str, receiver: str, header: EthernetHeader, source: str, destination: str, size: int
    ) -> Way:
        frames = udp_frames(header, CustomerAddress.parse(source), CustomerAddress.parse(destination), size)
        return Way(self.vm(sender), self.vm(receiver), frames)


def benchmark() -> Iterator[Result]:
    """Measure the kernels and Isthmus in turn, in the same namespaces."""
    processors = os.sched_getaffinity(0)
    with generator_apart() as processor, PlainDatacenter(processor) as lab:
        processes = nodes.start(lab, _knows)
        for process in processes.values():
            os.sched_setaffinity(process.pid, processors)
        by_isthmus = f"hosts and gateway, three Python processes on {len(processors)} processors"
        for size in (64, 1400):
            kernel = Result(
                f"VM to VM: kernel forwarding, the same five hops, {size} B{lab.remark}",
                "packets/s",
                lab.plain_way(size).highest_rates(),
            )
            yield kernel
            tenants_way = lab.tenants_way(size)
            isthmus = Result(
                f"VM to VM across subnets: {by_isthmus}, {size} B",
                "packets/s",
                tenants_way.highest_rates(),
                against=kernel.name,
            )
            yield isthmus
            yield Result(
                f"VM to VM across subnets: processor time of a packet, all three together, {size} B",
                "us",
                tenants_way.processor_times(processes.values(), isthmus.value),
            )
        stream = Result(
            f"VM to VM: kernel forwarding, one TCP stream{lab.remark}",
            "Mbit/s",
            tuple(megabits_per_second(lab.vm("plain1"), lab.vm("plain2"), "10.8.2.5") for _ in range(RUNS)),
        )
        yield stream
        server = next(vm for vm in lab.plan.vms if vm.name == SERVER)
        yield Result(
            f"VM to VM across subnets: {by_isthmus}, one TCP stream",
            "Mbit/s",
            tuple(megabits_per_second(lab.vm(CLIENT), lab.vm(SERVER), server.address()) for _ in range(RUNS)),
            against=stream.name,
        )


def _knows(node: Node, vm: Vm) -> bool:
    return vm.subnet == "web" or node.name == "edge-1"
