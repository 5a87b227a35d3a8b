"""Cases of inner frames: what breaks its format, what is not carried, and what only Python answers."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import ip_network

from scapy.compat import raw
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from policies.addresses import CustomerAddress
from policies.model import AddressHop, CustomerRoute
from tests.fastpath.cases_carried import (
    DB,
    OTHER_WEB,
    ROUTED,
    ROUTED_V6,
    SWITCHED,
    SWITCHED_V6,
    WEB,
    with_macs,
)
from tests.fastpath.outcomes import Answered, ByPython, Case, Dropped, GoesOn, Passed, Told, Why, World
from tests.fastpath.scenes import WORLD, tenant, world
from tests.fastpath.wire import arriving, arriving_with, forwarded, gre, mixed, routed, with_ip
from tests.networks import BROADCAST, arp_request, frame, mac, router_mac, solicitation

_MALFORMED = Dropped(DropReason.MALFORMED)
_TAGGED = Dropped(DropReason.VLAN_TAGGED)
_NOT_IP = Dropped(DropReason.NOT_IP)
_GATEWAY = str(router_mac("red", "web"))

ACCEPTS_GROUPS = world(tenant(broadcast=True))
BY_DEFAULT = world(
    tenant(
        routes=tuple(
            CustomerRoute(ip_network(prefix), AddressHop(CustomerAddress.parse(via)))
            for prefix, via in (("0.0.0.0/0", "10.0.2.5"), ("::/0", "fd00:2::5"))
        )
    )
)
"""All that is nobody's goes to db .5, and may come from there."""


def _truncated() -> Iterator[Case]:
    for words, whole, lengths in (
        ("IPv4", raw(ROUTED), (1, 13, 14, 15, 33, 34, 38, 41, 48)),
        ("IPv6", raw(ROUTED_V6), (13, 14, 15, 53, 54, 61, 68)),
        ("TCP", raw(frame("red", WEB, DB, upper=TCP(flags="A"))), (34, 35, 49, 50, 53)),
        ("ICMP", raw(frame("red", WEB, DB, upper=ICMP() / Raw(b"x"))), (34, 41, 42)),
    ):
        for length in lengths:
            yield _left(
                f"an inner {words} frame that ends at octet {length}",
                whole[:length],
                Why.MALFORMED,
                _MALFORMED,
            )
    for version in (4, 6):
        yield Case(
            f"GRE and nothing behind it, by IPv{version}",
            arriving_with(gre(5001 << 8, b""), version=version),
            Passed(Why.MALFORMED, _MALFORMED),
            WORLD,
        )


def _broken_ip() -> Iterator[Case]:
    packet = raw(ROUTED)[14:]
    for words, changed in (
        ("a wrong checksum", packet[:10] + bytes((packet[10] ^ 1,)) + packet[11:]),
        ("a TTL that its checksum does not know", packet[:8] + b"\x3f" + packet[9:]),
        ("a header length below the least", _summed(b"\x44" + packet[1:])),
        ("a header length above the packet's", _summed(b"\x4f" + packet[1:])),
        ("a length above the frame's", _summed(packet[:2] + (len(packet) + 1).to_bytes(2) + packet[4:])),
        ("a length below the header's", _summed(packet[:2] + b"\0\x13" + packet[4:])),
        ("a length of zero", _summed(packet[:2] + b"\0\0" + packet[4:])),
        ("version 6 under the ethertype of IPv4", raw(ROUTED_V6)[14:]),
        ("version 5", _summed(b"\x55" + packet[1:])),
        ("all zeros", bytes(len(packet))),
        ("all ones", b"\xff" * len(packet)),
    ):
        yield _left(f"inner IPv4 with {words}", raw(ROUTED)[:14] + changed, Why.MALFORMED, _MALFORMED)
    packet = raw(ROUTED_V6)[14:]
    for words, changed in (
        ("a length above the frame's", packet[:4] + (len(packet) - 39).to_bytes(2) + packet[6:]),
        ("a length that cuts its UDP header", packet[:4] + b"\0\x07" + packet[6:]),
        ("version 4 under the ethertype of IPv6", raw(ROUTED)[14:]),
        ("version 7", b"\x70" + packet[1:]),
    ):
        yield _left(f"inner IPv6 with {words}", raw(ROUTED_V6)[:14] + changed, Why.MALFORMED, _MALFORMED)


def _broken_upper_layers() -> Iterator[Case]:
    for version in (4, 6):
        for words, upper in (
            ("a UDP length below eight", UDP(len=7)),
            ("a UDP length above the packet's", UDP(len=9)),
            ("a UDP length of zero", UDP(len=0) / Raw(b"jumbo")),
            ("a TCP data offset below five", TCP(dataofs=4, flags="A")),
            ("a TCP data offset above the packet's", TCP(dataofs=6, flags="A")),
            ("a TCP data offset of zero", TCP(dataofs=0, flags="A") / Raw(bytes(40))),
        ):
            sent = frame("red", WEB, DB, version=version, upper=upper)
            yield _left(f"IPv{version} with {words}", sent, Why.MALFORMED, _MALFORMED)
        field = "proto" if version == 4 else "nh"
        for words, protocol, size in (
            ("TCP of 19 octets", 6, 19),
            ("TCP of 15 octets", 6, 15),
            ("UDP of 7 octets", 17, 7),
            ("no UDP header at all", 17, 0),
            ("ICMP of 7 octets", 1 if version == 4 else 58, 7),
        ):
            sent = frame("red", WEB, DB, version=version, upper=Raw(b"\x50" * size), **{field: protocol})
            yield _left(f"IPv{version} with {words}", sent, Why.MALFORMED, _MALFORMED)
    sent = frame("red", WEB, DB, upper=Raw(b"\0" * 7), proto=58)
    yield Case("ICMPv6 in IPv4 is a protocol like any other", arriving(sent), forwarded(routed(sent)), WORLD)
    sent = frame("red", WEB, DB, version=6, upper=Raw(b"\x08" * 7), nh=1)
    yield Case("ICMP in IPv6 likewise", arriving(sent), forwarded(routed(sent)), WORLD)


def _unusual() -> Iterator[Case]:
    for words, options in (
        ("router alert", [IPOption(b"\x94\x04\0\0")]),
        ("record route", [IPOption(b"\x07\x07\x04\0\0\0\0")]),
        ("no operation", [IPOption(b"\x01")]),
    ):
        sent = frame("red", WEB, DB, options=options)
        yield _left(f"inner IPv4 with options: {words}", sent, Why.INNER_FORM, forwarded(routed(sent)))
    for words, protocol, flags, offset, upper in (
        ("first", 17, "MF", 0, UDP(len=100) / Raw(bytes(16))),
        ("first, which could be the whole,", 17, "MF", 0, UDP() / Raw(bytes(16))),
        ("first, which has no ports,", 253, "MF", 0, Raw(bytes(16))),
        ("middle", 17, "MF", 3, Raw(bytes(24))),
        ("last", 17, 0, 6, Raw(bytes(9))),
    ):
        sent = frame("red", WEB, DB, upper=upper, proto=protocol, flags=flags, frag=offset, id=7)
        yield _left(
            f"the {words} fragment of an inner IPv4 packet",
            sent,
            Why.INNER_FORM,
            forwarded(routed(sent), flow_id=_of_addresses(sent)),
        )
    header = {
        "hop-by-hop options": IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))]),
        "destination options": IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))]),
        "a routing header": IPv6ExtHdrRouting(type=4, addresses=[]),
        "an atomic fragment header": IPv6ExtHdrFragment(id=7),
    }
    for words, extension in header.items():
        sent = with_extension(ROUTED_V6, extension)
        expected = forwarded(routed(sent), flow_id=forwarded(routed(ROUTED_V6)).frame[14 + 20 + 7])
        yield _left(f"inner IPv6 with {words}", sent, Why.INNER_FORM, expected)
    sent = with_extension(ROUTED_V6, AH(nh=17, payloadlen=4, spi=1, seq=1, icv=bytes(12)))
    yield _left(
        "inner IPv6 with an authentication header",
        sent,
        Why.INNER_FORM,
        forwarded(routed(sent), flow_id=forwarded(routed(ROUTED_V6)).frame[14 + 20 + 7]),
    )
    sent = with_extension(ROUTED_V6, IPv6ExtHdrFragment(id=7, m=1))
    sent = Ether(raw(sent)[: 14 + 40 + 8 + 8])
    sent.payload.plen = None
    yield _left(
        "the first fragment of an inner IPv6 packet",
        sent,
        Why.INNER_FORM,
        forwarded(routed(sent), flow_id=_of_addresses(sent)),
    )
    yield _left(
        "inner IPv6 with an extension header that is cut off",
        with_ip(frame("red", WEB, DB, version=6, upper=Raw(b"\x11\x01" + bytes(6)), nh=60)),
        Why.INNER_FORM,
        _MALFORMED,
    )


def _tagged() -> Iterator[Case]:
    for words, kind, python in (
        ("a VLAN tag", 0x8100, _TAGGED),
        ("a provider's tag", 0x88A8, _TAGGED),
        ("an old provider's tag", 0x9100, _NOT_IP),
        ("MPLS", 0x8847, _NOT_IP),
        ("LLDP", 0x88CC, _NOT_IP),
        ("RARP", 0x8035, _NOT_IP),
        ("a length (IEEE 802.3)", 46, _NOT_IP),
    ):
        inner = raw(ROUTED)[:12] + kind.to_bytes(2) + b"\0\x64" + raw(ROUTED)[12:]
        yield _left(f"an inner frame with {words}", inner, Why.NOT_IP, python)


def _neighbours() -> Iterator[Case]:
    yield _left("ARP for a neighbour", arp_request("red", WEB, "10.0.1.6"), Why.NEIGHBOURS, Answered())
    yield _left(
        "ARP for the gateway, to it alone",
        arp_request("red", WEB, "10.0.1.1", to=_GATEWAY),
        Why.NEIGHBOURS,
        Answered(),
    )
    own = str(mac("red", *WEB))
    gratuitous = Ether(src=own, dst=BROADCAST) / ARP(op=1, hwsrc=own, psrc="10.0.1.5", pdst="10.0.1.5")
    yield _left("gratuitous ARP", gratuitous, Why.NEIGHBOURS, Dropped(DropReason.NEIGHBOUR_OWN))
    reply = Ether(src=own, dst=str(mac("red", *OTHER_WEB))) / ARP(
        op=2, hwsrc=own, psrc="10.0.1.5", pdst="10.0.1.6"
    )
    yield _left("an ARP reply", reply, Why.NEIGHBOURS, Dropped(DropReason.NEIGHBOUR_REPLY))
    yield _left(
        "a neighbour solicitation to its group",
        solicitation("red", WEB, "fd00:1::6"),
        Why.NEIGHBOURS,
        Answered(),
    )
    yield _left(
        "a neighbour solicitation to one neighbour",
        solicitation("red", WEB, "fd00:1::6", to=str(mac("red", *OTHER_WEB))),
        Why.NEIGHBOURS,
        Answered(),
    )
    yield _left(
        "a neighbour solicitation to the gateway",
        solicitation("red", WEB, "fd00:1::1", to=_GATEWAY),
        Why.NEIGHBOURS,
        Answered(),
    )
    for words, upper in (
        ("a neighbour advertisement", ICMPv6ND_NA(tgt="fd00:1::5")),
        ("a router advertisement of a VM's", ICMPv6ND_RA()),
        ("a router solicitation to a VM", ICMPv6ND_RS()),
        ("an ICMPv6 redirect of a VM's", ICMPv6ND_Redirect(tgt="fd00:1::6", dst="fd00:1::7")),
    ):
        for hops in (255, 64):
            sent = frame("red", WEB, OTHER_WEB, version=6, upper=upper, hlim=hops)
            python: ByPython = Dropped(DropReason.NEIGHBOUR_REPLY)
            if isinstance(upper, ICMPv6ND_RS):
                python = Answered() if hops == 255 else _MALFORMED
            yield _left(f"{words}, with {hops} hops", sent, Why.NEIGHBOURS, python)
    yield _left(
        "a router solicitation to all routers",
        Ether(src=own, dst="33:33:00:00:00:02")
        / with_ip(frame("red", WEB, DB, version=6, upper=ICMPv6ND_RS(), hlim=255), dst="ff02::2").payload,
        Why.NEIGHBOURS,
        Answered(),
    )


def _dhcp() -> Iterator[Case]:
    own = mac("red", *WEB)
    request = (
        UDP(sport=68, dport=67)
        / BOOTP(chaddr=own, xid=7, ciaddr="10.0.1.5")
        / DHCP(options=[("message-type", "request"), "end"])
    )
    yield _left(
        "DHCP, renewed with the gateway alone",
        with_macs(
            with_ip(frame("red", WEB, DB, upper=request), dst="10.0.1.1"), router_mac("red", "web"), own
        ),
        Why.DHCP,
        Answered(),
    )
    discover = (
        Ether(src=str(own), dst=BROADCAST)
        / IP(src="0.0.0.0", dst="255.255.255.255")
        / UDP(sport=68, dport=67)
        / BOOTP(chaddr=own, xid=7)
        / DHCP(options=[("message-type", "discover"), "end"])
    )
    yield _left("DHCP to everybody", discover, Why.DHCP, Answered())
    sent = frame("red", WEB, OTHER_WEB, upper=request)
    yield Case(
        "DHCP to another VM is a datagram like any other",
        arriving(sent),
        forwarded(sent, subnet="web", ttl=63),
        WORLD,
    )
    answer = UDP(sport=67, dport=68) / BOOTP(op=2, chaddr=own, xid=7)
    sent = frame("red", WEB, OTHER_WEB, upper=answer)
    yield Case(
        "what a VM's own DHCP server answers likewise",
        arriving(sent),
        forwarded(sent, subnet="web", ttl=63),
        WORLD,
    )
    sent = frame("red", WEB, OTHER_WEB, version=6, upper=UDP(sport=546, dport=547) / Raw(b"solicit"))
    yield Case("DHCPv6 likewise", arriving(sent), forwarded(sent, subnet="web", ttl=63), WORLD)


def _groups() -> Iterator[Case]:
    everybody = with_macs(SWITCHED, b"\xff" * 6, mac("red", *WEB))
    for words, sent in (
        ("everybody", with_ip(everybody, dst="255.255.255.255")),
        ("the subnet's broadcast address", with_ip(everybody, dst="10.0.1.255")),
        (
            "a group",
            with_ip(with_macs(SWITCHED, bytes.fromhex("01005e000005"), mac("red", *WEB)), dst="224.0.0.5"),
        ),
        ("one VM, by everybody's MAC", everybody),
        (
            "a group of IPv6",
            with_ip(with_macs(SWITCHED_V6, bytes.fromhex("333300000005"), mac("red", *WEB)), dst="ff02::5"),
        ),
    ):
        yield _left(f"to {words}", sent, Why.GROUP, Dropped(DropReason.GROUP_NOT_ALLOWED))
        yield _left(f"to {words}, in a subnet that carries it", sent, Why.GROUP, GoesOn(), ACCEPTS_GROUPS)
    report = frame("red", WEB, DB, version=6, upper=ICMPv6MLReport2(), hlim=1)
    report = with_ip(with_macs(report, bytes.fromhex("333300000016"), mac("red", *WEB)), dst="ff02::16")
    yield _left("a multicast listener report", report, Why.GROUP, Dropped(DropReason.GROUP_NOT_ALLOWED))
    for words, source in (("a group", b"\x03\0\0\0\0\x05"), ("everybody", b"\xff" * 6)):
        yield _left(
            f"from the MAC of {words}, switched",
            with_macs(SWITCHED, mac("red", *OTHER_WEB), source),
            Why.SENDER,
            Dropped(DropReason.SPOOFED_SOURCE),
        )
        yield _left(
            f"from the MAC of {words}, routed",
            with_macs(ROUTED, router_mac("red", "web"), source),
            Why.SENDER,
            Dropped(DropReason.SPOOFED_SOURCE),
        )
    # By a MAC that is nobody's group, to an address that is one.
    for at_words, at in (("", WORLD), (", though a default route leads by a VM", BY_DEFAULT)):
        for destination in ("224.0.0.5", "239.1.2.3", "255.255.255.255", "ff02::5", "fe80::5"):
            source = ROUTED if "." in destination else ROUTED_V6
            yield _left(
                f"to {destination} by the gateway's MAC{at_words}",
                with_ip(source, dst=destination),
                Why.DESTINATION,
                Dropped(DropReason.NO_ROUTE),
                at,
            )
    for destination in ("10.0.1.255", "10.0.2.255"):
        yield _left(
            f"to {destination}, a broadcast address, by the gateway's MAC",
            with_ip(ROUTED, dst=destination),
            Why.DESTINATION,
            Dropped(DropReason.NO_RECORD),
        )


def _to_the_gateway() -> Iterator[Case]:
    for words, subnet in (("its own subnet", "web"), ("another subnet", "db")):
        number = 1 if subnet == "web" else 2
        for version, upper in ((4, ICMP()), (6, ICMPv6EchoRequest())):
            address = f"10.0.{number}.1" if version == 4 else f"fd00:{number}::1"
            sent = with_ip(frame("red", WEB, DB, version=version, upper=upper), dst=address)
            yield _left(f"an IPv{version} ping of the gateway in {words}", sent, Why.TO_GATEWAY, Answered())
            sent = with_ip(frame("red", WEB, DB, version=version), dst=address)
            yield _left(
                f"an IPv{version} datagram to the gateway in {words}",
                sent,
                Why.TO_GATEWAY,
                Told(DropReason.TO_GATEWAY),
            )
    yield _left(
        "an ICMP reply to the gateway",
        with_ip(frame("red", WEB, DB, upper=ICMP(type=0)), dst="10.0.1.1"),
        Why.TO_GATEWAY,
        Dropped(DropReason.TO_GATEWAY),
    )
    sent = with_ip(ROUTED_V6, dst="fe80::1")
    yield _left("to the router's link-local address", sent, Why.TO_GATEWAY, Told(DropReason.TO_GATEWAY))
    sent = with_ip(SWITCHED, dst="10.0.1.1")
    yield _left(
        "to the gateway's address by the MAC of a VM: switched to that one",
        sent,
        Why.UNKNOWN_MAC,
        forwarded(sent, subnet="web", ttl=63),
    )


def with_extension(sent: Packet, extension: Packet) -> Packet:
    """A frame whose IPv6 packet has an extension header in front of what it carries."""
    copy = sent.copy()
    upper = copy.payload.payload
    copy.payload.remove_payload()
    copy.payload /= extension / upper
    return copy


def _of_addresses(sent: Packet) -> int:
    packet = raw(sent)[14:]
    return mixed((packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]) + bytes(8))


def _summed(packet: bytes) -> bytes:
    """An IPv4 packet whose first 20 octets have the right sum, whatever else is wrong."""
    words = struct.unpack("!10H", packet[:10] + bytes(2) + packet[12:20])
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return packet[:10] + (~total & 0xFFFF).to_bytes(2) + packet[12:]


def _left(description: str, inner: Packet | bytes, why: Why, python: ByPython, at: World = WORLD) -> Case:
    return Case(description, arriving(inner), Passed(why, python), at)


CASES = (
    *_truncated(),
    *_broken_ip(),
    *_broken_upper_layers(),
    *_unusual(),
    *_tagged(),
    *_neighbours(),
    *_dhcp(),
    *_groups(),
    *_to_the_gateway(),
)
