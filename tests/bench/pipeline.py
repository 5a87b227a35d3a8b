"""What the gateway's decision costs: no sockets, one tenant with an access rule, between two subnets."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator

from gateway.forwarding.directory import Directory
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Forward, OuterHeader
from gateway.packets import ethernet, ip, nvgre
from gateway.packets.ethernet import EthernetHeader
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid, gateway_mac
from policies.facts import UDP
from policies.model import (
    AccessRule,
    Action,
    LookupRecord,
    Network,
    ProviderGateway,
    ProviderHost,
    Tenant,
    VirtualSubnet,
)
from policies.tables import Tables
from tests.bench.results import Result

FLOWS = 20_000
RUNS = 5

EDGE = ProviderAddress.parse("192.0.2.254")
SENDER = ProviderAddress.parse("198.51.100.11")
RECEIVER = ProviderAddress.parse("203.0.113.12")
WEB, DB = Vsid(5001), Vsid(5002)
SERVER = LookupRecord(DB, CustomerAddress.parse("10.0.2.5"), MacAddress(b"\x02\0\0\0\2\5"), RECEIVER, "hv2")
CLIENT = LookupRecord(WEB, CustomerAddress.parse("10.0.1.5"), MacAddress(b"\x02\0\0\0\1\5"), SENDER, "hv1")


def benchmark() -> Iterator[Result]:
    """Send each flow once, then once more, so that the second time its decision is remembered."""
    for size in (64, 1400):
        packets = [_nvgre(source_port, size) for source_port in range(1024, 1024 + FLOWS)]
        new: list[float] = []
        known: list[float] = []
        for _ in range(RUNS):
            forwarder = _forwarder()
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
    outer = OuterHeader(source=SENDER, destination=EDGE)
    verdict = forwarder.from_underlay(outer, packets[0], 0.0)
    if not isinstance(verdict, Forward) or len(verdict.emissions) != 1:
        raise AssertionError(f"the gateway does not forward: {verdict}")
    began = time.perf_counter()
    for packet in packets:
        forwarder.from_underlay(outer, packet, 0.0)
    return (time.perf_counter() - began) / len(packets) * 1e6


def _nvgre(source_port: int, size: int) -> bytes:
    """A UDP packet in an inner frame of `size` octets."""
    length = size - ethernet.HEADER_LENGTH - 20
    datagram = source_port.to_bytes(2) + (5432).to_bytes(2) + length.to_bytes(2) + bytes(length - 6)
    frame = EthernetHeader(gateway_mac(WEB), CLIENT.mac, ethernet.IPV4).encode()
    return nvgre.encode(WEB) + frame + ip.build(CLIENT.ca, SERVER.ca, UDP, datagram)


def _forwarder() -> Forwarder:
    tenant = Tenant(
        name="red",
        gateways=("edge-1",),
        subnets=(_subnet("web", WEB, "10.0.1"), _subnet("db", DB, "10.0.2")),
        access=(AccessRule(name="all", action=Action.ALLOW),),
    )
    network = Network(
        hosts=(ProviderHost("hv1", (SENDER,), ("red",)), ProviderHost("hv2", (RECEIVER,), ("red",))),
        gateways=(ProviderGateway("edge-1", (EDGE,)),),
        tenants=(tenant,),
    )
    node = Node("edge-1", (EDGE,), underlay_mtu=1500, is_gateway=True, ports={})
    return Forwarder(node, Tables.compile(network), Directory([CLIENT, SERVER]))


def _subnet(name: str, vsid: Vsid, octets: str) -> VirtualSubnet:
    prefix = ipaddress.ip_network(f"{octets}.0/24")
    return VirtualSubnet(name, vsid, (prefix,), (CustomerAddress.parse(f"{octets}.1"),))
