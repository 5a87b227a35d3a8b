"""Whatever comes in at a gateway, a host, or both in one: one verdict, nothing raised, nothing grows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import msgspec
import pytest

from gateway.forwarding import flows, fragments, notices
from gateway.forwarding.directory import Directory
from gateway.forwarding.drops import DropReason
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Answer, Drop, Forward, OuterHeader, Verdict
from gateway.packets import arp, fragmentation, icmp, ip, ndp, nvgre
from gateway.packets.ethernet import ARP, IPV4, IPV6, VLAN, EthernetHeader
from policies.addresses import BROADCAST_MAC, CustomerAddress, MacAddress, ProviderAddress
from policies.facts import ICMP, ICMPV6, TCP, UDP
from policies.model import AccessRule, Action, Limits, Network, ProviderGateway
from policies.tables import Tables
from tests import networks as n
from tests.fuzz.mutation import INPUTS, Repair, ipv4_checksum_at, mutations

SENDER, NEIGHBOUR, SERVER = ("web", 5), ("web", 6), ("db", 5)


def address(place: tuple[str, int], version: int) -> CustomerAddress:
    return CustomerAddress.parse(n.ca(*place, version))


def upper_layers(version: int) -> Iterator[tuple[int, bytes]]:
    yield UDP, bytes.fromhex("c0010035 00180000") + bytes(16)
    yield UDP, bytes.fromhex("c0011538") + (1608).to_bytes(2) + bytes(2 + 1600)
    yield TCP, bytes.fromhex("c0011538 00000001 00000000 6002ffff 00000000 020405b4")
    yield TCP, bytes.fromhex("c0011538 00000001 00000001 5018ffff 00000000") + bytes(100)
    yield ICMP if version == 4 else ICMPV6, bytes((8 if version == 4 else 128, 0)) + bytes(2 + 40)
    yield 47, nvgre.encode(5001, 7) + bytes(30)


def packets(source: CustomerAddress, destination: CustomerAddress) -> Iterator[bytes]:
    """IP packets of each kind: whole, at their last hop, quoted in errors, in fragments, with extensions."""
    for protocol, payload in upper_layers(source.version):
        whole = ip.build(source, destination, protocol, payload)
        yield whole
        yield ip.with_hop_limit(whole, 1)
        back = ip.build(destination, source, protocol, payload)
        yield icmp.time_exceeded(source, back, ip.decode_untrusted(back))
        if source.version == 4:
            header = ip.ipv4_header(
                source, destination, protocol, len(payload), identification=7, dont_fragment=False
            )
            may_be_cut = header + payload
            yield may_be_cut
            yield from fragmentation.fragment(may_be_cut, ip.decode_untrusted(may_be_cut), 68)[:2]
        else:
            yield ip.build(
                source, destination, ip.HOP_BY_HOP, bytes((protocol, 0, 1, 4, 0, 0, 0, 0)) + payload
            )
            yield ip.build(
                source, destination, ip.FRAGMENT, bytes((protocol, 0, 0, 1, 0, 0, 0, 7)) + payload[:24]
            )
            yield ip.build(
                source, destination, ip.FRAGMENT, bytes((protocol, 0, 0, 24, 0, 0, 0, 7)) + payload[24:]
            )


def frames() -> list[bytes]:
    """Ethernet frames of each kind that Red's first VM may send."""
    own, router = n.mac("red", *SENDER), n.router_mac("red", SENDER[0])
    valid = []
    for version, ethertype in ((4, IPV4), (6, IPV6)):
        source = address(SENDER, version)
        ways: list[tuple[bytes, CustomerAddress]] = [
            (n.mac("red", *NEIGHBOUR), address(NEIGHBOUR, version)),
            (router, address(SERVER, version)),
            (router, address((SENDER[0], 1), version)),
            (router, address((SERVER[0], 99), version)),
        ]
        for to, destination in ways:
            header = EthernetHeader(to, own, ethertype).encode()
            valid += [header + packet for packet in packets(source, destination)]
    groups = (("224.0.0.251", IPV4, address(SENDER, 4)), ("ff02::fb", IPV6, address(SENDER, 6)))
    for group, ethertype, source in groups:
        datagram = ip.build(
            source, CustomerAddress.parse(group), UDP, bytes.fromhex("14e914e9000c000000000000")
        )
        valid.append(EthernetHeader(BROADCAST_MAC, own, ethertype).encode() + datagram)
    return valid + neighbour_requests(own, router)


def neighbour_requests(own: MacAddress, router: MacAddress) -> list[bytes]:
    valid = []
    source, source6 = address(SENDER, 4), address(SENDER, 6)
    for last in (1, 5, 6, 99):
        target, target6 = address((SENDER[0], last), 4), address((SENDER[0], last), 6)
        group = ndp.solicited_node(target6)
        broadcast = EthernetHeader(BROADCAST_MAC, own, ARP).encode()
        multicast = EthernetHeader(b"\x33\x33" + group[12:], own, IPV6).encode()
        valid += [
            broadcast + arp.ArpPacket(arp.REQUEST, own, source, bytes(6), target).encode(),
            broadcast + arp.ArpPacket(arp.REQUEST, own, bytes(4), bytes(6), target).encode(),
            multicast + ndp.encode_solicitation(source6, group, target6, own),
            multicast + ndp.encode_solicitation(bytes(16), group, target6, None),
        ]
    reply = arp.ArpPacket(arp.REPLY, own, source, router, address((SENDER[0], 1), 4))
    advertisement = ndp.advertisement(
        source6, address((SENDER[0], 1), 6), source6, own, router=False, solicited=True
    )
    return [
        *valid,
        EthernetHeader(router, own, ARP).encode() + reply.encode(),
        EthernetHeader(router, own, IPV6).encode() + advertisement,
        EthernetHeader(router, own, VLAN).encode() + bytes.fromhex("00050800") + bytes(40),
    ]


def network() -> Network:
    """Red has rules, a limit and broadcast, Blue has none of them, and hv2 is their gateway too."""
    rules = (
        AccessRule("databases", Action.ALLOW, protocol=TCP),
        AccessRule("names", Action.ALLOW, protocol=UDP),
        AccessRule("tunnels", Action.DENY, protocol=47),
        AccessRule("the rest", Action.ALLOW),
    )
    red = n.tenant(
        "red",
        access=rules,
        broadcast=True,
        limits=Limits(rate=10**8, burst=10**6),
        sites=(n.site("seattle", *n.SEATTLE), n.site("oslo", *n.OSLO)),
    )
    net = n.network(red, n.tenant("blue"))
    both = ProviderGateway("hv2", (n.pa("hv2"), n.pa("hv2", 6)))
    tenants = tuple(msgspec.structs.replace(each, gateways=("edge-1", "hv2")) for each in net.tenants)
    return msgspec.structs.replace(net, gateways=(*net.gateways, both), tenants=tenants)


def combined(net: Network) -> Forwarder:
    """hv2, which is a gateway too."""
    host = n.host("hv2", net)
    node = msgspec.structs.replace(host.node, is_gateway=True)
    return Forwarder(node, Tables.compile(net), n.directory(net))


def host_that_knows_half(net: Network) -> Forwarder:
    known = Directory(record for number, record in enumerate(n.directory(net)) if number % 2)
    return n.host("hv1", net, known=known)


def from_hv1(forwarder: Forwarder, data: bytes, now: float) -> Verdict:
    """The first octet chooses the outer header, so that it is a part of what is mutated."""
    chosen = data[0] if data else 0
    version = 6 if chosen & 8 else 4
    source = n.PROVIDER[("hv1", "hv1", "hv1", "hv2", "edge-1", "hv1", "hv1", "hv2")[chosen >> 5]]
    own = forwarder.node.address_towards(n.pa("hv1", version))
    assert own is not None
    outer = OuterHeader(ProviderAddress.parse(source[version == 6]), own, ecn=chosen & 3)
    return forwarder.from_underlay(outer, data[1:], now)


def from_first_vm(forwarder: Forwarder, data: bytes, now: float) -> Verdict:
    return forwarder.from_port(n.port("red", *SENDER), data, now)


def gateway_with_tunnels(net: Network) -> Forwarder:
    forwarder = n.gateway(net)
    for name, prefixes in (("seattle", n.SEATTLE), ("oslo", n.OSLO)):
        everywhere = n.selectors(prefixes, ["0.0.0.0/0", "::/0"])
        forwarder.sites.site_is_up(("red", name), 1400, [everywhere])
    return forwarder


def from_seattle(forwarder: Forwarder, data: bytes, now: float) -> Verdict:
    """The first octet holds the ECN field outside, and says whether the child SA is the wrong one."""
    chosen = data[0] if data else 0
    child = WRONG_CHILD if chosen >> 5 == 7 else CHILD
    return forwarder.from_site(("red", "seattle"), data[1:], child, chosen & 3, now)


CHILD = n.selectors(["0.0.0.0/0", "::/0"], ["0.0.0.0/0", "::/0"])
WRONG_CHILD = n.selectors(["192.168.0.0/16"])


def site_packets() -> list[bytes]:
    """Packets of each kind from a host at the site: to VMs, to the gateway, to another site and back."""
    valid = []
    for version in (4, 6):
        source = CustomerAddress.parse(n.on_premise(version=version))
        others = n.on_premise(9, version), "172.17.0.5" if version == 4 else "fd98::5"
        destinations = [
            address(SENDER, version),
            address((SENDER[0], 1), version),
            address((SERVER[0], 99), version),
        ]
        for destination in (*destinations, *(CustomerAddress.parse(other) for other in others)):
            valid += [b"\0" + packet for packet in packets(source, destination)]
    return valid


Input = Callable[[Forwarder, bytes, float], Verdict]

FRAMES = frames()
NVGRE = [
    outer + nvgre.encode(n.VSIDS["red", SENDER[0]], 7) + frame
    for frame in FRAMES
    for outer in (b"\0", b"\x08")
]
TARGETS: dict[str, tuple[Callable[[Network], Forwarder], Input, list[bytes], Repair]] = {
    "gateway": (n.gateway, from_hv1, NVGRE, ipv4_checksum_at(23)),
    "host": (lambda net: n.host("hv2", net), from_hv1, NVGRE, ipv4_checksum_at(23)),
    "host and gateway": (combined, from_hv1, NVGRE, ipv4_checksum_at(23)),
    "port": (lambda net: n.host("hv1", net), from_first_vm, FRAMES, ipv4_checksum_at(14)),
    "site": (gateway_with_tunnels, from_seattle, site_packets(), ipv4_checksum_at(1)),
    "port of a host that knows half": (host_that_knows_half, from_first_vm, FRAMES, ipv4_checksum_at(14)),
}

SHARE = INPUTS // len(TARGETS)

REACHED_BY_EACH = {
    "forwarded",
    DropReason.MALFORMED,
    DropReason.SPOOFED_SOURCE,
}
REACHED_BY_FRAMES = {DropReason.NOT_IP, DropReason.VLAN_TAGGED}
REACHED_BY_SITES = {DropReason.SELECTOR_MISMATCH, DropReason.LOOP, "answered"}


def fuzz(name: str, seed: int) -> Counter[str]:
    make, put_in, corpus, repair = TARGETS[name]
    forwarder = make(network())
    outcomes: Counter[str] = Counter()
    for number, data in enumerate(mutations(corpus, seed, SHARE, repair)):
        now = number / 1000
        before = forwarder.drops.counts.total()
        try:
            verdict = put_in(forwarder, data, now)
        except Exception as failure:  # whatever is raised is what we look for
            pytest.fail(f"{name}: {failure!r} for bytes.fromhex({data.hex()!r})")
        counted = forwarder.drops.counts.total() - before
        if isinstance(verdict, Drop):
            outcomes[verdict.reason] += 1
            assert counted == 1, data.hex()
        else:
            assert isinstance(verdict, Forward | Answer), data.hex()
            outcomes["forwarded" if isinstance(verdict, Forward) else "answered"] += 1
            assert counted == 0, data.hex()
            assert verdict.emissions, data.hex()
        forwarder.path_mtu_reported(data[35:39], int.from_bytes(data[4:7]), int.from_bytes(data[39:41]), now)
        if number % 1000 == 0:
            check_bounds(forwarder)
    check_bounds(forwarder)
    return outcomes


def check_bounds(forwarder: Forwarder) -> None:
    """What a node keeps is bounded by the network's size and by its tables' capacities."""
    tenants = len(forwarder.tables.domains)
    assert len(forwarder.flows) <= flows.CAPACITY
    assert all(
        len(table) <= fragments.CAPACITY for table in forwarder.decisions.permission.first_fragments.values()
    )
    assert len(forwarder.decisions.permission.first_fragments) <= tenants
    assert forwarder.paths._reported.keys() <= forwarder.tables.members
    assert len(forwarder.notices._buckets) <= tenants
    assert len(forwarder.sources_elsewhere) <= tenants
    assert len(forwarder.drops.counts) <= len(DropReason) * (tenants + 1)
    assert forwarder.meters.keys() == forwarder.tables.subnets.keys()


@pytest.mark.parametrize("name", TARGETS)
def test_any_input_ends_in_one_verdict(name: str) -> None:
    outcomes = fuzz(name, seed=7637)

    further = REACHED_BY_SITES if name == "site" else REACHED_BY_FRAMES
    assert (REACHED_BY_EACH | further) - outcomes.keys() == set()
    # A host is nobody's router but its own VMs'.
    assert (outcomes["answered"] == 0) is (name == "host")


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_any_of_millions_of_inputs_ends_in_one_verdict(name: str) -> None:
    fuzz(name, seed=2890)


def test_flood_of_flows_is_forgotten_at_the_bound() -> None:
    forwarder = n.gateway()
    forwarder.flows = flows.FlowCache(capacity=100)
    sizes = []
    for port in range(1000):
        datagram = port.to_bytes(2) + bytes.fromhex("0035 0008 0000")
        packet = ip.build(address(SENDER, 4), address(SERVER, 4), UDP, datagram)
        header = EthernetHeader(n.router_mac("red", SENDER[0]), n.mac("red", *SENDER), IPV4).encode()
        payload = nvgre.encode(n.VSIDS["red", SENDER[0]]) + header + packet

        assert isinstance(forwarder.from_underlay(n.from_host("hv1"), payload, now=0), Forward)
        sizes.append(len(forwarder.flows))

    assert max(sizes) == 100


def test_flood_of_first_fragments_is_forgotten_at_the_bound() -> None:
    forwarder = n.gateway(network())
    for identification in range(2000):
        header = ip.ipv4_header(
            address(SENDER, 4),
            address(SERVER, 4),
            UDP,
            1600,
            identification=identification,
            dont_fragment=False,
        )
        whole = header + bytes.fromhex("c0010035 06400000") + bytes(1592)
        first = fragmentation.fragment(whole, ip.decode_untrusted(whole), 68)[0]
        frame = EthernetHeader(n.router_mac("red", SENDER[0]), n.mac("red", *SENDER), IPV4).encode() + first
        payload = nvgre.encode(n.VSIDS["red", SENDER[0]]) + frame

        forwarder.from_underlay(n.from_host("hv1"), payload, now=0)

    assert len(forwarder.decisions.permission.first_fragments["red"]) == fragments.CAPACITY


def test_flood_of_icmp_errors_is_cut_off_at_the_rate() -> None:
    forwarder = n.gateway()
    told = 0
    packet = ip.build(address(SENDER, 4), address(SERVER, 4), UDP, bytes(8)[:4] + b"\0\x08\0\0", hop_limit=1)
    frame = EthernetHeader(n.router_mac("red", SENDER[0]), n.mac("red", *SENDER), IPV4).encode() + packet
    payload = nvgre.encode(n.VSIDS["red", SENDER[0]]) + frame
    for number in range(10_000):
        verdict = forwarder.from_underlay(n.from_host("hv1"), payload, now=number / 10_000)
        told += len(verdict.emissions)

    assert told <= notices.BURST + notices.RATE
    assert told + forwarder.notices.suppressed == 10_000
