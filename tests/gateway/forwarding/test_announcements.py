"""By what a VM, or its hypervisor, says that it is here: heard at its port, and carried no further."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from gateway.forwarding.directory import Put
from gateway.forwarding.drops import DropReason
from gateway.forwarding.happenings import HEARD_EVERY, Happening, Happenings, Heard, Stale
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import ToPort
from policies.addresses import CustomerAddress, Vsid
from policies.model import LookupRecord
from tests import networks as n

WEB5 = n.port("red", "web", 5)
SELF = str(WEB5[1])
ROUTER = str(n.router_mac("red", "web"))
CA, CA6 = (CustomerAddress.parse(n.ca("web", 5, version)) for version in (4, 6))

# QEMU's announce_self, as it goes over the wire: broadcast, with padding.
QEMU_RARP = bytes.fromhex(
    "ffffffffffff 020000000005 8035 0001 0800 06 04 0003 020000000005 00000000 020000000005 00000000"
) + bytes(18)


def gratuitous(op: int) -> Packet:
    arp = ARP(op=op, hwsrc=SELF, psrc=str(CA), hwdst="00:00:00:00:00:00", pdst=str(CA))
    return Ether(src=SELF, dst=n.BROADCAST) / arp


def advertisement(target: str, source: str | None = None, mac: str = SELF) -> Packet:
    return (
        Ether(src=SELF, dst="33:33:00:00:00:01")
        / IPv6(src=source or target, dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt=target, R=0, S=0, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=mac)
    )


ANNOUNCEMENTS = [
    pytest.param(QEMU_RARP, (), id="RARP of QEMU"),
    pytest.param(gratuitous(1), (CA,), id="gratuitous ARP, request"),
    pytest.param(gratuitous(2), (CA,), id="gratuitous ARP, reply"),
    pytest.param(advertisement(str(CA6)), (CA6,), id="unsolicited NA"),
    pytest.param(advertisement("fe80::5"), (), id="unsolicited NA of a link-local address"),
]


def moved_away(forwarder: Forwarder) -> Forwarder:
    """The host with records that say that web 5 is at hv2."""
    changes = [
        Put(LookupRecord(Vsid(WEB5[0]), ca, WEB5[1], n.pa("hv2"), "hv2", epoch=2, revision=2))
        for ca in (CA, CA6)
    ]
    forwarder.moves.apply(changes, 0)
    return forwarder


def listen(forwarder: Forwarder) -> list[Happening]:
    heard: list[Happening] = []
    forwarder.happenings.on_happening = heard.append
    return heard


@pytest.mark.parametrize(("said", "addresses"), ANNOUNCEMENTS)
def test_announcement_is_heard_wherever_the_record_is_and_goes_no_further(
    said: Packet | bytes, addresses: tuple[CustomerAddress, ...]
) -> None:
    hv1 = moved_away(n.host("hv1"))
    heard = listen(hv1)

    verdict = n.send(hv1, ("red", "web", 5), said)

    assert n.dropped(verdict, DropReason.ANNOUNCEMENT) == ()
    assert heard == [Heard(WEB5, addresses, True)]


@pytest.mark.parametrize(("said", "_addresses"), ANNOUNCEMENTS)
def test_announcement_of_a_vm_whose_record_is_here_is_no_news(
    said: Packet | bytes, _addresses: object
) -> None:
    hv1 = n.host("hv1")
    heard = listen(hv1)

    n.dropped(n.send(hv1, ("red", "web", 5), said), DropReason.ANNOUNCEMENT)

    assert heard == []


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(QEMU_RARP.replace(WEB5[1], n.mac("red", "web", 6)), id="another VM's"),
        pytest.param(QEMU_RARP[:22] + n.mac("red", "web", 6) + QEMU_RARP[28:], id="another's as the sender"),
        pytest.param(QEMU_RARP[:32] + n.mac("red", "web", 6) + QEMU_RARP[38:], id="about another"),
    ],
)
def test_reverse_arp_for_another_mac_than_the_ports_is_refused(said: bytes) -> None:
    hv1 = moved_away(n.host("hv1"))
    heard = listen(hv1)

    n.dropped(n.send(hv1, ("red", "web", 5), said), DropReason.SPOOFED_SOURCE)

    assert heard == []


@pytest.mark.parametrize("length", range(14, 42))
def test_truncated_reverse_arp_is_malformed(length: int) -> None:
    n.dropped(n.send(n.host("hv1"), ("red", "web", 5), QEMU_RARP[:length]), DropReason.MALFORMED)


def test_reverse_arp_from_the_underlay_is_nobodys() -> None:
    n.dropped(n.receive(n.gateway(), QEMU_RARP), DropReason.NOT_IP)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(advertisement("fd00:1::6", str(CA6)), id="another's address"),
        pytest.param(advertisement(str(CA6), mac="02:00:00:00:00:06"), id="another MAC"),
    ],
)
def test_advertisement_that_is_not_of_the_ports_own_is_not_believed(said: Packet) -> None:
    hv1 = moved_away(n.host("hv1"))
    heard = listen(hv1)

    n.dropped(n.send(hv1, ("red", "web", 5), said), DropReason.NEIGHBOUR_REPLY)

    assert heard == []


def test_announcement_of_an_address_that_another_has_is_answered() -> None:
    """RFC 5227 section 2.4: whoever announces it learns of the conflict."""
    hv1 = n.host("hv1")
    theirs = LookupRecord(Vsid(WEB5[0]), CA, n.mac("red", "web", 9), n.pa("hv2"), "hv2", epoch=2, revision=2)
    hv1.moves.apply([Put(theirs)], 0)

    _, reply = n.to_port(n.send(hv1, ("red", "web", 5), gratuitous(1)))

    assert reply[ARP].hwsrc == str(theirs.mac)


def test_announcement_of_an_unknown_address_stays_here() -> None:
    hv1 = n.host("hv1", known=n.own_records("hv2"))
    heard = listen(hv1)

    n.dropped(n.send(hv1, ("red", "web", 5), gratuitous(1)), DropReason.ANNOUNCEMENT)

    assert heard == [Heard(WEB5, (CA,), True)]


def test_what_is_heard_again_and_again_is_told_now_and_then() -> None:
    hv1 = moved_away(n.host("hv1"))
    heard = listen(hv1)
    for now in (0.0, HEARD_EVERY / 2, HEARD_EVERY * 1.5):
        n.send(hv1, ("red", "web", 5), gratuitous(1), now)
    assert len(heard) == 2

    hv1.moves.port_closed(WEB5)
    hv1.moves.port_opened(WEB5, 0.2)
    n.send(hv1, ("red", "web", 5), gratuitous(1), HEARD_EVERY * 1.6)

    assert len(heard) == 3, "a VM that has come back in the meantime is news"


def test_probe_is_the_gateways_question_and_its_answer_an_announcement() -> None:
    hv1 = moved_away(n.host("hv1"))
    heard = listen(hv1)
    probe = hv1.probe(WEB5, CA)
    assert isinstance(probe, ToPort)
    request = Ether(probe.frame)
    assert (request.src, request.dst) == (ROUTER, SELF)
    assert (request[ARP].op, request[ARP].hwsrc, request[ARP].psrc, request[ARP].pdst) == (
        1,
        ROUTER,
        n.ca("web", 1),
        str(CA),
    )

    reply = Ether(src=SELF, dst=ROUTER) / ARP(
        op=2, hwsrc=SELF, psrc=str(CA), hwdst=ROUTER, pdst=request[ARP].psrc
    )
    n.dropped(n.send(hv1, ("red", "web", 5), reply), DropReason.ANNOUNCEMENT)

    assert heard == [Heard(WEB5, (CA,), True)]


def test_probe_of_an_ipv6_address_is_a_solicitation_and_its_answer_an_announcement() -> None:
    hv1 = moved_away(n.host("hv1"))
    heard = listen(hv1)
    probe = hv1.probe(WEB5, CA6)
    assert isinstance(probe, ToPort)
    request = Ether(probe.frame)
    assert (request.src, request.dst, request[IPv6].hlim) == (ROUTER, SELF, 255)
    assert (request[IPv6].src, request[IPv6].dst) == (n.ca("web", 1, 6), "ff02::1:ff00:5")
    assert request[ICMPv6ND_NS].tgt == str(CA6)

    reply = (
        Ether(src=SELF, dst=ROUTER)
        / IPv6(src=str(CA6), dst=request[IPv6].src, hlim=255)
        / ICMPv6ND_NA(tgt=str(CA6), R=0, S=1, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=SELF)
    )
    n.dropped(n.send(hv1, ("red", "web", 5), reply), DropReason.ANNOUNCEMENT)

    assert heard == [Heard(WEB5, (CA6,), True)]


def test_no_probe_in_a_virtual_subnet_that_is_gone() -> None:
    assert n.host("hv1").probe((Vsid(0x1234), WEB5[1]), CA) is None


def test_what_is_remembered_of_stale_senders_is_bounded() -> None:
    told: list[Happening] = []
    happenings = Happenings(capacity=2)
    happenings.on_happening = told.append
    records = [
        LookupRecord(Vsid(5001), CustomerAddress.parse(f"10.0.1.{last}"), WEB5[1], n.pa("hv2"), "hv2")
        for last in (5, 6, 7)
    ]
    for record in (*records, records[2], records[0]):
        happenings.stale(n.pa("hv1"), record, 0.0)

    assert told == [Stale(n.pa("hv1"), record) for record in (*records, records[0])]


def test_frame_of_a_vm_with_another_address_is_told_without_it() -> None:
    hv1 = moved_away(n.host("hv1"))
    heard = listen(hv1)
    hv1.moves.port_opened(WEB5, 0)

    own = n.frame("red", ("web", 5), ("web", 6), version=6)
    own[IPv6].src = "fe80::5"
    n.send(hv1, ("red", "web", 5), own)
    n.send(hv1, ("red", "web", 5), n.frame("red", ("web", 5), ("web", 6)))

    assert heard == [Heard(WEB5, (), False), Heard(WEB5, (CA,), False)]


def test_port_that_was_taken_away_is_heard_anew_once_it_is_back() -> None:
    hv1 = moved_away(n.host("hv1"))
    heard = listen(hv1)
    ports = hv1.node.ports

    for _ in range(2):
        n.send(hv1, ("red", "web", 5), gratuitous(1))
        hv1.replace_tables(hv1.tables, {})
        hv1.replace_tables(hv1.tables, ports)

    assert heard == [Heard(WEB5, (CA,), True)] * 2
