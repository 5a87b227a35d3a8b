"""IP rewrite from port to port: between rewritten VMs, encapsulated ones, sites and the gateway."""

from __future__ import annotations

import msgspec
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6TimeExceeded, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from gateway.forwarding.verdicts import Drop, Held, ToPort, ToProvider, ToUnderlay, Verdict
from policies.addresses import CustomerAddress, Vsid
from tests import networks as n
from tests.rewriting import Vm, World

WEB5: Vm = ("red", "web", 5)
WEB6: Vm = ("red", "web", 6)
DB5: Vm = ("red", "db", 5)
DB6: Vm = ("red", "db", 6)
ALL = [WEB5, WEB6, DB5, DB6]
SITED = n.network(
    n.tenant("red", sites=(n.site("seattle", *n.SEATTLE),)),
    n.tenant("blue", sites=(n.site("seattle", *n.SEATTLE),)),
)


def sited(*rewritten: Vm, mtu: int = 1400) -> World:
    world = World(rewritten, net=SITED)
    for tenant in ("red", "blue"):
        world.nodes["edge-1"].sites.site_is_up((tenant, "seattle"), mtu, [n.BY_SEATTLE])
    return world


def to_site(vm: Vm, version: int = 4, upper: Packet | None = None, **fields: object) -> Packet:
    layer = IP if version == 4 else IPv6
    own, mac = n.ca(vm[1], vm[2], version), str(n.mac(*vm))
    upper = upper or UDP(sport=1111, dport=2222) / Raw(b"payload")
    to = str(n.router_mac(vm[0], vm[1]))
    return Ether(dst=to, src=mac) / layer(src=own, dst=n.on_premise(version=version), **fields) / upper


def arrived(world: World, at: Vm) -> Ether:
    """The one frame that has come to a VM."""
    ((_, frame),) = world.at_ports
    assert frame.port == n.port(*at)
    return Ether(frame.frame)


def wire(world: World) -> list[type]:
    return [type(each) for each in world.on_wire]


@pytest.mark.parametrize("version", [4, 6])
def test_two_rewritten_vms_of_a_subnet_see_each_others_frames_untouched(version: int) -> None:
    world = World(ALL)
    sent = n.frame("red", ("web", 5), ("web", 6), version=version, upper=n.tcp("PA", size=100))

    world.send(WEB5, sent)

    assert bytes(arrived(world, WEB6)) == bytes(sent)
    (packet,) = world.on_wire
    assert isinstance(packet, ToProvider)
    layer = IP if version == 4 else IPv6
    own, other = world.record(WEB5, version).pa, world.record(WEB6, version).pa
    expected = bytes(sent[layer].copy())
    built = layer(expected)
    built.src, built.dst = str(own), str(other)
    if version == 4:
        del built.chksum
    del built[TCP].chksum
    assert packet.packet == bytes(built)


@pytest.mark.parametrize("version", [4, 6])
def test_between_subnets_the_sending_host_is_one_hop(version: int) -> None:
    world = World(ALL)
    field = {"ttl": 9} if version == 4 else {"hlim": 9}
    world.send(WEB5, n.frame("red", ("web", 5), ("db", 5), version=version, **field))

    frame = arrived(world, DB5)
    assert (frame.src, frame.dst) == (str(n.router_mac("red", "db")), str(n.mac(*DB5)))
    assert (frame[IP].ttl if version == 4 else frame[IPv6].hlim) == 8
    assert wire(world) == [ToProvider]


def test_full_1500_octets_cross_between_rewritten_vms_and_not_to_encapsulated_ones() -> None:
    upper = UDP(sport=1, dport=2) / Raw(bytes(1472))
    world = World(ALL)
    world.send(WEB5, n.frame("red", ("web", 5), ("web", 6), upper=upper, flags="DF"))
    assert len(arrived(world, WEB6)) == 1514

    mixed = World([WEB5])
    mixed.send(WEB5, n.frame("red", ("web", 5), ("db", 5), upper=upper, flags="DF"))
    told = arrived(mixed, WEB5)
    assert (told[ICMP].type, told[ICMP].code, told[ICMP].nexthopmtu) == (3, 4, 1458)
    assert told[IP].src == n.ca("db", 5)
    quoted = told[ICMP].payload
    assert (quoted.src, quoted.dst) == (n.ca("web", 5), n.ca("db", 5))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("peer", [WEB6, DB5], ids=["same subnet", "another subnet"])
def test_a_rewritten_and_an_encapsulated_vm_reach_each_other_through_the_gateway(
    peer: Vm, version: int
) -> None:
    world = World([WEB5])
    hop = {"ttl": 20} if version == 4 else {"hlim": 20}
    left = 20 if peer == WEB6 else 19

    world.send(WEB5, n.frame("red", WEB5[1:], peer[1:], version=version, **hop))
    there = arrived(world, peer)
    assert wire(world) == [ToProvider, ToUnderlay]
    world.at_ports.clear()
    world.on_wire.clear()
    world.send(peer, n.frame("red", peer[1:], WEB5[1:], version=version, **hop))
    back = arrived(world, WEB5)
    assert wire(world) == [ToUnderlay, ToProvider]

    for frame in (there, back):
        assert (frame[IP].ttl if version == 4 else frame[IPv6].hlim) == left
        raw = frame[UDP]
        rebuilt = type(frame)(bytes(frame))
        del rebuilt[UDP].chksum
        assert type(frame)(bytes(rebuilt))[UDP].chksum == raw.chksum
    expected = n.mac(*peer) if peer == WEB6 else n.router_mac("red", "web")
    assert back.src == str(expected)


@pytest.mark.parametrize("version", [4, 6])
def test_a_rewritten_vm_and_its_site_reach_each_other_and_the_gateway_is_the_hop(version: int) -> None:
    world = sited(WEB5)
    hop = {"ttl": 20} if version == 4 else {"hlim": 20}
    world.send(WEB5, to_site(WEB5, version, **hop))

    ((_, sent),) = world.at_sites
    packet = (IP if version == 4 else IPv6)(sent.packet)
    assert (packet.src, packet.dst) == (n.ca("web", 5, version), n.on_premise(version=version))
    assert (packet.ttl if version == 4 else packet.hlim) == 19

    layer = IP if version == 4 else IPv6
    answer = layer(src=n.on_premise(version=version), dst=n.ca("web", 5, version), **hop) / UDP(
        sport=2, dport=1
    )
    world.from_site(answer)
    frame = arrived(world, WEB5)
    assert (frame[layer].ttl if version == 4 else frame[layer].hlim) == 19
    assert frame.src == str(n.router_mac("red", "web"))
    assert wire(world) == [ToProvider, ToProvider]


def test_traceroute_to_a_site_shows_the_gateway_and_then_the_site() -> None:
    world = sited(WEB5)
    world.lease(*_gateway_address())
    world.send(WEB5, to_site(WEB5, ttl=1, upper=UDP(sport=9, dport=33434)))

    told = arrived(world, WEB5)
    assert told[IP].src == n.ca("web", 1)
    assert told[ICMP].type == 11
    assert (told[ICMP].payload.src, told[ICMP].payload.dst) == (n.ca("web", 5), n.on_premise())
    assert not world.at_sites


def test_traceroute_in_ipv6_to_a_site_shows_the_gateway() -> None:
    world = sited(WEB5)
    world.lease(*_gateway_address(6))
    world.send(WEB5, to_site(WEB5, 6, hlim=1, upper=ICMPv6EchoRequest()))

    told = arrived(world, WEB5)
    assert told[IPv6].src == n.ca("web", 1, 6)
    assert told.haslayer(ICMPv6TimeExceeded)


def test_traceroute_between_rewritten_subnets_shows_the_gateway_at_the_sending_host() -> None:
    world = World(ALL)
    world.send(WEB5, n.frame("red", ("web", 5), ("db", 5), ttl=1))

    told = arrived(world, WEB5)
    assert (told[IP].src, told[ICMP].type) == (n.ca("web", 1), 11)
    assert not world.on_wire


def test_the_gateways_own_address_answers_at_the_host() -> None:
    world = World(ALL)
    echo = Ether(dst=str(n.router_mac("red", "web")), src=str(n.mac(*WEB5)))
    echo /= IP(src=n.ca("web", 5), dst=n.ca("web", 1)) / ICMP(id=7, seq=1)
    world.send(WEB5, echo)

    assert arrived(world, WEB5)[ICMP].type == 0
    assert not world.on_wire


def test_errors_of_the_tenant_quote_what_it_sent() -> None:
    world = World(ALL)
    refused = n.frame("red", ("web", 6), ("web", 5), upper=UDP(sport=53, dport=9))
    inner = IP(bytes(refused[IP]))
    error = Ether(dst=str(n.mac(*WEB6)), src=str(n.mac(*WEB5)))
    error /= IP(src=n.ca("web", 5), dst=n.ca("web", 6)) / ICMP(type=3, code=3) / inner
    world.send(WEB5, error)

    assert bytes(arrived(world, WEB6)) == bytes(error)
    (packet,) = world.on_wire
    assert isinstance(packet, ToProvider)
    quoted = IP(packet.packet)[ICMP].payload
    assert (quoted.src, quoted.dst) == (str(world.record(WEB6).pa), str(world.record(WEB5).pa))


def test_a_first_packet_waits_for_its_lease_and_only_so_long() -> None:
    world = sited(WEB5)
    world.leasing = False
    world.send(WEB5, to_site(WEB5))
    host = world.nodes["hv1"]
    assert len(host.waiting) == 1
    assert not world.at_sites

    (asked,) = world.asked
    world.leasing = True
    world.lease(asked[1], asked[2])
    assert len(world.at_sites) == 1
    assert not host.waiting

    world.send(WEB5, to_site(WEB5))
    assert len(world.at_sites) == 2


def test_what_waits_in_vain_is_dropped_under_its_own_reason() -> None:
    world = sited(WEB5)
    world.leasing = False
    world.send(WEB5, to_site(WEB5))
    host = world.nodes["hv1"]
    host.expire(0.9)
    assert host.drops.total(DropReason.NO_LEASE) == 0
    host.expire(1.0)
    assert host.drops.counts == {(DropReason.NO_LEASE, "red"): 1}


def test_a_refused_lease_tells_the_sender_and_lets_nothing_wait_for_a_while() -> None:
    world = sited(WEB5)
    world.leasing = False
    world.send(WEB5, to_site(WEB5))
    host = world.nodes["hv1"]
    ((_, vsid, ca),) = world.asked
    (told,) = host.refuse(vsid, ca, 0.1)
    assert isinstance(told, ToPort)
    assert Ether(told.frame)[ICMP].type == 3
    verdict = host.from_port(n.port(*WEB5), bytes(to_site(WEB5)), 0.2)
    assert isinstance(verdict, Drop)
    assert verdict.reason is DropReason.NO_LEASE
    assert not host.waiting


def test_a_refused_lease_of_an_encapsulated_vm_is_told_the_sender_too() -> None:
    world = World([WEB5])
    world.leasing = False
    world.send(WEB5, n.frame("red", ("web", 5), ("db", 5)))
    host = world.nodes["hv1"]
    ((_, vsid, ca),) = world.asked
    (told,) = host.refuse(vsid, ca, 0.1)
    assert isinstance(told, ToPort)
    assert (Ether(told.frame)[IP].src, Ether(told.frame)[ICMP].type) == ("10.0.1.1", 3)


def test_what_comes_from_another_tenants_address_is_dropped() -> None:
    blue: Vm = ("blue", "web", 6)
    world = World([WEB5, blue])
    packet = IP(src=str(world.record(blue).pa), dst=str(world.record(WEB5).pa)) / UDP()
    verdict = world.nodes["hv1"].from_provider(bytes(packet), 0)
    assert n.dropped(verdict, DropReason.OTHER_TENANT) == ()


@pytest.mark.parametrize("source", ["198.51.100.77", "198.51.100.11"])
def test_what_comes_from_nobodys_address_is_dropped(source: str) -> None:
    world = World([WEB5])
    packet = IP(src=source, dst=str(world.record(WEB5).pa)) / UDP()
    n.dropped(world.nodes["hv1"].from_provider(bytes(packet), 0), DropReason.UNKNOWN_PROVIDER_ADDRESS)


def test_what_is_for_nobodys_address_is_dropped() -> None:
    world = World([WEB5, WEB6])
    packet = IP(src=str(world.record(WEB6).pa), dst="100.64.1.200") / UDP()
    host = world.nodes["hv1"]
    assert isinstance(host.from_provider(bytes(packet), 0), Held)
    host.expire(1.0)
    assert host.drops.counts == {(DropReason.UNKNOWN_PROVIDER_ADDRESS, ""): 1}


def from_a_router(world: World, message: ICMP) -> Verdict:
    """What a router of the underlay says of a packet between the two VMs of web."""
    about = IP(src=str(world.record(WEB5).pa), dst=str(world.record(WEB6).pa), flags="DF") / UDP(dport=9)
    packet = IP(src="198.51.100.1", dst=str(world.record(WEB5).pa)) / message / about
    return world.nodes["hv1"].from_provider(bytes(packet), 0)


def test_what_the_underlay_says_of_a_path_is_told_by_the_gateway_and_heeded() -> None:
    world = World(ALL)
    emission, told = n.to_port(from_a_router(world, ICMP(type=3, code=4, nexthopmtu=1400)))

    assert emission.port == n.port(*WEB5)
    assert (told[IP].src, told[IP].dst, told[ICMP].nexthopmtu) == (n.ca("web", 1), n.ca("web", 5), 1400)
    assert (told[ICMP].payload.src, told[ICMP].payload.dst) == (n.ca("web", 5), n.ca("web", 6))
    upper = UDP(sport=1, dport=2) / Raw(bytes(1400))
    world.send(WEB5, n.frame("red", ("web", 5), ("web", 6), upper=upper, flags="DF"))
    assert arrived(world, WEB5)[ICMP].nexthopmtu == 1400


def says_a_router(packet: bytes, message: ICMP) -> bytes:
    """What a router of the underlay says of a packet that it cannot carry on."""
    about = IP(packet)
    return bytes(IP(src="198.51.100.1", dst=about.src) / message / about)


def test_what_the_underlay_says_of_an_encapsulated_vms_packet_is_told_to_that_vm() -> None:
    world = World([WEB5])
    world.send(DB5, n.frame("red", DB5[1:], WEB5[1:]))
    plain = world.on_wire[-1]
    assert isinstance(plain, ToProvider)
    world.at_ports.clear()

    error = says_a_router(plain.packet, ICMP(type=3, code=4, nexthopmtu=1400))
    world.carry("edge-1", world.nodes["edge-1"].from_provider(error, 0))

    told = arrived(world, DB5)
    assert isinstance(world.on_wire[-1], ToUnderlay)
    assert (told[IP].src, told[IP].dst, told[ICMP].nexthopmtu) == (n.ca("db", 1), n.ca("db", 5), 1400)
    assert (told[ICMP].payload.src, told[ICMP].payload.dst) == (n.ca("db", 5), n.ca("web", 5))


def test_what_the_underlay_says_of_a_sites_packet_is_told_to_the_site() -> None:
    world = sited(WEB5)
    world.from_site(IP(src=n.on_premise(), dst=n.ca("web", 5), ttl=9) / UDP(sport=1, dport=2))
    plain = world.on_wire[-1]
    assert isinstance(plain, ToProvider)

    world.carry("edge-1", world.nodes["edge-1"].from_provider(says_a_router(plain.packet, ICMP(type=11)), 0))

    ((_, sent),) = world.at_sites
    told = IP(sent.packet)
    assert (told.src, told.dst, told[ICMP].type) == (n.ca("web", 1), n.on_premise(), 11)
    assert (told[ICMP].payload.src, told[ICMP].payload.dst) == (n.on_premise(), n.ca("web", 5))


def test_what_the_underlay_says_of_an_answer_of_the_gateways_own_is_heeded_alone() -> None:
    world = World([WEB5])
    own = world.lease(*_gateway_address())
    about = IP(src=str(own.pa), dst=str(world.record(WEB5).pa), flags="DF") / UDP()
    error = says_a_router(bytes(about), ICMP(type=3, code=4, nexthopmtu=1400))
    n.dropped(world.nodes["edge-1"].from_provider(error, 0), DropReason.UNDERLAY_ERROR)


def test_the_underlays_redirects_are_not_for_the_tenant() -> None:
    n.dropped(from_a_router(World(ALL), ICMP(type=5, gw="192.0.2.99")), DropReason.UNKNOWN_PROVIDER_ADDRESS)


def test_known_flows_are_decided_as_their_first_packets_were() -> None:
    world = sited(WEB5)
    frames = [n.frame("red", ("web", 5), ("db", 5)), to_site(WEB5)]
    for frame in frames * 3:
        world.send(WEB5, frame)
    delivered = [each.frame for _, each in world.at_ports]
    assert len(delivered) == 3
    assert len(set(delivered)) == 1
    assert len({each.packet for _, each in world.at_sites}) == 1
    assert len(world.nodes["edge-1"].flows) == 2


def test_what_is_for_a_lease_of_another_gateway_is_dropped_at_a_host() -> None:
    world = sited(WEB5, WEB6)
    lease = world.lease(*_gateway_address())
    packet = IP(src=str(world.record(WEB6).pa), dst=str(lease.pa)) / UDP()
    n.dropped(world.nodes["hv1"].from_provider(bytes(packet), 0), DropReason.UNKNOWN_PROVIDER_ADDRESS)


def test_two_distant_addresses_have_nothing_to_say_to_each_other_by_rewriting() -> None:
    world = sited(WEB5)
    vsid = world.record(WEB5).vsid
    one, other = (world.lease(vsid, CustomerAddress.parse(f"172.16.0.{last}")) for last in (5, 6))
    packet = IP(src=str(one.pa), dst=str(other.pa)) / UDP()
    n.dropped(world.nodes["edge-1"].from_provider(bytes(packet), 0), DropReason.SPOOFED_SOURCE)


def test_a_known_flow_goes_by_no_lease_that_was_given_back() -> None:
    world = sited(WEB5)
    for _ in range(2):
        world.send(WEB6, n.frame("red", ("web", 6), ("web", 5)))
    world.leasing = False
    (lease,) = world.nodes["edge-1"].directory.all_leases()

    world.give_back(lease)
    world.send(WEB6, n.frame("red", ("web", 6), ("web", 5)))

    assert isinstance(world.verdicts[-1][1], Held)
    assert len(world.at_ports) == 2


def test_a_known_flow_of_an_encapsulated_vm_has_its_new_mac_once_that_changes() -> None:
    world = sited(WEB5)
    for _ in range(2):
        world.send(WEB6, n.frame("red", ("web", 6), ("web", 5)))
    packet = next(each.packet for each in world.on_wire if isinstance(each, ToProvider))
    mac = n.mac("red", "web", 7)

    world.move(msgspec.structs.replace(world.record(WEB6), mac=mac, revision=9))
    world.carry("hv1", world.nodes["hv1"].from_provider(packet, 0))

    before = str(n.mac(*WEB6))
    assert [Ether(each.frame).src for _, each in world.at_ports] == [before, before, str(mac)]


def test_a_gateway_that_cannot_say_a_thing_for_want_of_an_address_asks_for_one() -> None:
    world = sited(WEB5)
    world.send(WEB5, to_site(WEB5, ttl=1))
    assert not world.at_ports
    assert world.asked[-1] == ("edge-1", *_gateway_address())

    world.lease(*_gateway_address())
    world.send(WEB5, to_site(WEB5, ttl=1))

    assert arrived(world, WEB5)[IP].src == n.ca("web", 1)


def test_a_sites_host_hears_that_a_rewritten_vms_port_carries_less() -> None:
    world = sited(WEB5)
    world.nodes["hv1"].port_mtu_is(n.port(*WEB5), 1000)
    world.from_site(IP(src=n.on_premise(), dst=n.ca("web", 5), flags="DF") / UDP() / Raw(bytes(1200)))

    ((_, told),) = world.at_sites
    error = IP(told.packet)
    assert (error.src, error[ICMP].nexthopmtu) == (n.ca("web", 5), 1000)
    assert (error[ICMP].payload.src, error[ICMP].payload.dst) == (n.on_premise(), n.ca("web", 5))


def test_a_gateway_takes_note_of_the_leases_that_are_used() -> None:
    world = sited(WEB5)
    world.send(WEB5, to_site(WEB5))
    edge = world.nodes["edge-1"]
    assert len(edge.take_used_leases()) == 1
    assert not edge.take_used_leases()
    world.send(WEB5, to_site(WEB5))
    assert len(edge.take_used_leases()) == 1


def _gateway_address(version: int = 4) -> tuple[Vsid, CustomerAddress]:
    return Vsid(n.VSIDS["red", "web"]), CustomerAddress.parse(n.ca("web", 1, version))
