"""What the gateway's decision costs: no sockets, one tenant with a rule, between its subnets and a site."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Forward, Verdict
from gateway.packets import ethernet, ip, nvgre
from gateway.packets.ethernet import EthernetHeader
from policies.addresses import CustomerAddress, Vsid
from policies.facts import UDP
from policies.model import AccessRule, Action
from tests import networks
from tests.bench.results import Result

FLOWS = 20_000
RUNS = 5

HV1 = networks.from_host("hv1")

Put = Callable[[Forwarder, bytes], Verdict]


def benchmark() -> Iterator[Result]:
    """Send each flow once, then once more, so that the second time its decision is remembered."""
    everything = AccessRule(name="all", action=Action.ALLOW)
    seattle = networks.site("seattle", *networks.SEATTLE)
    red = networks.tenant("red", access=(everything,), sites=(seattle,))
    ports = range(1024, 1024 + FLOWS)
    vm, server, premise = map(
        CustomerAddress.parse, (networks.ca("web", 5), networks.ca("db", 5), networks.on_premise())
    )
    for size in (64, 1400):
        length = size - ethernet.HEADER_LENGTH
        ways: list[tuple[str, list[bytes], Put]] = [
            ("packet", [_nvgre(_packet(vm, server, port, length)) for port in ports], _from_underlay),
            (
                "packet to a site",
                [_nvgre(_packet(vm, premise, port, length)) for port in ports],
                _from_underlay,
            ),
            ("packet from a site", [_packet(premise, vm, port, length) for port in ports], _from_site),
        ]
        for name, packets, put in ways:
            new: list[float] = []
            known: list[float] = []
            for _ in range(RUNS):
                forwarder = networks.connected(red)
                new.append(_cost(put, forwarder, packets))
                known.append(_cost(put, forwarder, packets))
            yield Result(f"pipeline: {name} of a new flow, {size} B", "us", tuple(new))
            yield Result(
                f"pipeline: {name} of a known flow, {size} B",
                "us",
                tuple(known),
                against=f"pipeline: {name} of a new flow, {size} B",
                at_most=16,
            )


def _from_underlay(forwarder: Forwarder, payload: bytes) -> Verdict:
    return forwarder.from_underlay(HV1, payload, 0.0)


def _from_site(forwarder: Forwarder, packet: bytes) -> Verdict:
    return forwarder.from_site(("red", "seattle"), packet, networks.BY_SEATTLE, 0, 0.0)


def _cost(put: Put, forwarder: Forwarder, packets: list[bytes]) -> float:
    verdict = put(forwarder, packets[0])
    if not isinstance(verdict, Forward) or len(verdict.emissions) != 1:
        raise AssertionError(f"the gateway does not forward: {verdict}")
    began = time.perf_counter()
    for packet in packets:
        put(forwarder, packet)
    return (time.perf_counter() - began) / len(packets) * 1e6


def _packet(source: CustomerAddress, destination: CustomerAddress, source_port: int, size: int) -> bytes:
    """A UDP packet of `size` octets."""
    length = size - 20
    datagram = source_port.to_bytes(2) + (5432).to_bytes(2) + length.to_bytes(2) + bytes(length - 6)
    return ip.build(source, destination, UDP, datagram)


def _nvgre(packet: bytes) -> bytes:
    """The packet in a frame from red-web5 to its gateway."""
    header = EthernetHeader(
        networks.router_mac("red", "web"), networks.mac("red", "web", 5), ethernet.IPV4
    ).encode()
    return nvgre.encode(Vsid(networks.VSIDS["red", "web"])) + header + packet
