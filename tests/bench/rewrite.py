"""What IP rewrite costs beside NVGRE: the codec, then each node's whole decision, without sockets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Emission, Forward, ToPort, ToProvider, ToUnderlay, Verdict
from gateway.packets import ethernet, icmp, ip, nvgre
from gateway.packets.checksum import transport_checksum
from gateway.packets.ethernet import EthernetHeader
from gateway.packets.rewriting import rewritten
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.facts import TCP, UDP
from tests import networks
from tests.bench.results import Result
from tests.rewriting import Vm, World

FLOWS = 5_000
RUNS = 9
SIZES = (64, 1400)

CUSTOMERS = {
    4: (CustomerAddress.parse("10.0.1.5"), CustomerAddress.parse("10.0.2.5")),
    6: (CustomerAddress.parse("fd00:1::5"), CustomerAddress.parse("fd00:2::5")),
}
PROVIDERS = {
    4: (ProviderAddress.parse("100.64.1.1"), ProviderAddress.parse("100.64.2.1")),
    6: (ProviderAddress.parse("2001:db8:64:1::1"), ProviderAddress.parse("2001:db8:64:2::1")),
}

# Of Red's VMs only one is rewritten, and Blue's all are. Which host each is on is in tests.networks.
SENDER: Vm = ("red", "web", 6)
RECEIVER: Vm = ("red", "db", 6)
REWRITTEN: Vm = ("red", "web", 5)
DISTANT: Vm = ("red", "db", 5)
REWRITTEN_SENDER: Vm = ("blue", "web", 6)
REWRITTEN_RECEIVER: Vm = ("blue", "db", 6)

Put = Callable[[bytes], object]


class Way(msgspec.Struct, frozen=True):
    """What comes to a node, how it is put to it, what it leaves as, and the way it is compared with."""

    packets: Sequence[bytes]
    put: Callable[[bytes], Verdict]
    leaves_as: type[Emission]
    against: str | None = None


def benchmark() -> Iterator[Result]:
    """Measure in turns, so that all have the same machine, and only packets of known flows."""
    for kind, samples in _measured(_codec_kinds()).items():
        name = f"rewrite: {kind}"
        base = f"rewrite: NVGRE headers in front, {1400 if '1400' in kind else 64} B"
        yield Result(name, "us", samples, against=base if name != base else None)
    for size in SIZES:
        ways = _ways(size)
        for way in ways.values():
            for packet in way.packets:
                _only(way.put(packet), way.leaves_as)
        measured = _measured({name: (way.packets, way.put) for name, way in ways.items()})
        for name, samples in measured.items():
            against = ways[name].against
            yield Result(
                f"rewrite: {name}, {size} B",
                "us",
                samples,
                against=f"rewrite: {against}, {size} B" if against is not None else None,
            )


def _measured(kinds: Mapping[str, tuple[Sequence[bytes], Put]]) -> dict[str, tuple[float, ...]]:
    """Return what each kind of packet costs, in microseconds."""
    samples: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(RUNS):
        for name, (packets, put) in kinds.items():
            began = time.perf_counter()
            for packet in packets:
                put(packet)
            samples[name].append((time.perf_counter() - began) / len(packets) * 1e6)
    return {name: tuple(each) for name, each in samples.items()}


def _codec_kinds() -> dict[str, tuple[Sequence[bytes], Put]]:
    """A flow has its NVGRE and Ethernet headers ready, and its provider addresses."""
    header = EthernetHeader(networks.mac(*SENDER), networks.mac(*RECEIVER), ethernet.IPV4).encode()
    gre = nvgre.encode(networks.VSIDS["red", "web"], 7)
    ports = range(1024, 1024 + FLOWS)
    kinds: dict[str, tuple[Sequence[bytes], Put]] = {}
    for size in SIZES:
        packets = [_packet(CUSTOMERS[4], TCP, port, size) for port in ports]
        kinds[f"NVGRE headers in front, {size} B"] = packets, lambda packet: gre + (header + packet)
        for version, protocol in ((4, TCP), (4, UDP), (6, TCP), (6, UDP)):
            packets = [_packet(CUSTOMERS[version], protocol, port, size) for port in ports]
            name = "TCP" if protocol == TCP else "UDP"
            kinds[f"{name} in IPv{version}, {size} B"] = packets, _rewriting(version)
    for version in (4, 6):
        errors = []
        for port in ports:
            about = _packet(CUSTOMERS[version], UDP, port, 64)
            errors.append(icmp.time_exceeded(CUSTOMERS[version][1], about, ip.decode_untrusted(about)))
        kinds[f"ICMP error in IPv{version}, about 64 B"] = errors, _rewriting(version)
    return kinds


def _rewriting(version: int) -> Put:
    source, destination = PROVIDERS[version]
    quoted = destination, source
    return lambda packet: rewritten(packet, source, destination, quoted)


def _ways(size: int) -> dict[str, Way]:
    """All that a packet goes between a VM's port and another's; what one node sends comes to the next."""
    world = World([REWRITTEN, REWRITTEN_SENDER, REWRITTEN_RECEIVER])
    hv1, hv2, edge = (world.nodes[name] for name in ("hv1", "hv2", "edge-1"))
    subnet = Vsid(networks.VSIDS[DISTANT[:2]])
    world.lease(subnet, CustomerAddress.parse(networks.ca(*DISTANT[1:])))

    encapsulated = Way(_frames(SENDER, RECEIVER, size), _from_port(hv2, SENDER), ToUnderlay)
    plain = Way(
        _frames(REWRITTEN_SENDER, REWRITTEN_RECEIVER, size),
        _from_port(hv2, REWRITTEN_SENDER),
        ToProvider,
        "port to NVGRE",
    )
    to_lease = Way(_frames(REWRITTEN, DISTANT, size), _from_port(hv1, REWRITTEN), ToProvider, "port to NVGRE")
    from_distant = Way(_frames(DISTANT, REWRITTEN, size), _from_port(hv2, DISTANT), ToUnderlay)
    # A host that knows no better leaves the routing to the gateway.
    gre = nvgre.encode(networks.VSIDS[SENDER[:2]], 7)
    unrouted = [gre + frame for frame in encapsulated.packets]
    by_edge, by_hv1 = _from_underlay(edge, "hv2"), _from_underlay(hv1, "hv2")
    return {
        "port to NVGRE": encapsulated,
        "port to rewritten": plain,
        "port to rewritten, by a lease": to_lease,
        "NVGRE to port": Way(_sent(encapsulated), by_hv1, ToPort),
        "rewritten to port": Way(_sent(plain), _from_provider(hv1), ToPort, "NVGRE to port"),
        "NVGRE to NVGRE": Way(unrouted, by_edge, ToUnderlay),
        "NVGRE to rewritten": Way(_sent(from_distant), by_edge, ToProvider, "NVGRE to NVGRE"),
        "rewritten to NVGRE": Way(_sent(to_lease), _from_provider(edge), ToUnderlay, "NVGRE to NVGRE"),
    }


def _from_port(host: Forwarder, vm: Vm) -> Callable[[bytes], Verdict]:
    port = networks.port(*vm)
    return lambda frame: host.from_port(port, frame, 0.0)


def _from_underlay(node: Forwarder, sender: str) -> Callable[[bytes], Verdict]:
    outer = networks.from_host(sender, to=node.node.name)
    return lambda payload: node.from_underlay(outer, payload, 0.0)


def _from_provider(node: Forwarder) -> Callable[[bytes], Verdict]:
    return lambda packet: node.from_provider(packet, 0.0)


def _sent(way: Way) -> list[bytes]:
    """What the underlay carries of it."""
    sent = []
    for packet in way.packets:
        emission = _only(way.put(packet), way.leaves_as)
        if isinstance(emission, ToUnderlay):
            sent.append(emission.payload)
        elif isinstance(emission, ToProvider):
            sent.append(emission.packet)
    return sent


def _only(verdict: Verdict, kind: type[Emission]) -> Emission:
    if (
        isinstance(verdict, Forward)
        and len(verdict.emissions) == 1
        and isinstance(verdict.emissions[0], kind)
    ):
        return verdict.emissions[0]
    raise AssertionError(f"not one {kind.__name__}: {verdict}")


def _frames(sender: Vm, receiver: Vm, size: int) -> list[bytes]:
    """UDP from one VM to another in another virtual subnet, of many flows."""
    ends = CustomerAddress.parse(networks.ca(*sender[1:])), CustomerAddress.parse(networks.ca(*receiver[1:]))
    router = networks.router_mac(*sender[:2])
    header = EthernetHeader(router, networks.mac(*sender), ethernet.IPV4).encode()
    length = size - ethernet.HEADER_LENGTH
    return [header + _packet(ends, UDP, port, length) for port in range(1024, 1024 + FLOWS)]


def _packet(ends: tuple[CustomerAddress, CustomerAddress], protocol: int, port: int, size: int) -> bytes:
    """A packet of `size` octets with right checksums."""
    length = size - (20 if ends[0].version == 4 else 40)
    head = port.to_bytes(2) + (5432).to_bytes(2)
    if protocol == UDP:
        segment, at = head + length.to_bytes(2) + bytes(length - 6), 6
    else:
        segment, at = head + bytes(8) + b"\x50\x10\x02\x00" + bytes(length - 16), 16
    checksum = transport_checksum(*ends, protocol, segment)
    return ip.build(*ends, protocol, segment[:at] + checksum.to_bytes(2) + segment[at + 2 :])
