"""What the gateway's decision costs: no sockets, one tenant with an access rule, between two subnets."""

from __future__ import annotations

import time
from collections.abc import Iterator

from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Forward
from gateway.packets import ethernet, ip, nvgre
from gateway.packets.ethernet import EthernetHeader
from policies.addresses import CustomerAddress, Vsid
from policies.facts import UDP
from policies.model import AccessRule, Action
from tests import networks
from tests.bench.results import Result

FLOWS = 20_000
RUNS = 5


def benchmark() -> Iterator[Result]:
    """Send each flow once, then once more, so that the second time its decision is remembered."""
    everything = AccessRule(name="all", action=Action.ALLOW)
    network = networks.network(networks.tenant("red", access=(everything,)))
    for size in (64, 1400):
        packets = [_nvgre(source_port, size) for source_port in range(1024, 1024 + FLOWS)]
        new: list[float] = []
        known: list[float] = []
        for _ in range(RUNS):
            forwarder = networks.gateway(network)
            new.append(_cost(forwarder, packets))
            known.append(_cost(forwarder, packets))
        yield Result(f"pipeline: packet of a new flow, {size} B", "us", tuple(new))
        yield Result(
            f"pipeline: packet of a known flow, {size} B",
            "us",
            tuple(known),
            against=f"pipeline: packet of a new flow, {size} B",
            at_most=16,
        )


def _cost(forwarder: Forwarder, packets: list[bytes]) -> float:
    outer = networks.from_host("hv1")
    verdict = forwarder.from_underlay(outer, packets[0], 0.0)
    if not isinstance(verdict, Forward) or len(verdict.emissions) != 1:
        raise AssertionError(f"the gateway does not forward: {verdict}")
    began = time.perf_counter()
    for packet in packets:
        forwarder.from_underlay(outer, packet, 0.0)
    return (time.perf_counter() - began) / len(packets) * 1e6


def _nvgre(source_port: int, size: int) -> bytes:
    """A UDP packet from red-web5 to red-db5, in an inner frame of `size` octets."""
    length = size - ethernet.HEADER_LENGTH - 20
    datagram = source_port.to_bytes(2) + (5432).to_bytes(2) + length.to_bytes(2) + bytes(length - 6)
    header = EthernetHeader(
        networks.router_mac("red", "web"), networks.mac("red", "web", 5), ethernet.IPV4
    ).encode()
    client, server = (CustomerAddress.parse(networks.ca(subnet, 5)) for subnet in ("web", "db"))
    packet = ip.build(client, server, UDP, datagram)
    return nvgre.encode(Vsid(networks.VSIDS["red", "web"])) + header + packet
