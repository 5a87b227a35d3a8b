"""The judge of packets is judged: what is right it takes, and each thing that can be wrong it finds."""

from __future__ import annotations

import ipaddress
import struct
import time
from collections.abc import Iterator

import pytest

from policies.addresses import Vsid, gateway_mac
from tests.soak.edge import GATEWAY4, GATEWAY6, places, talkers
from tests.soak.numbered import SUBNETS, Ends, Judgement, Kind, Layout, Numbered

PLACES = places()
LOOPBACK = 1


def numbered(kind: Kind = Kind.ROUTED) -> Numbered:
    """The programs, with packets of one kind, at a gateway where every record is at place 0."""
    made = Numbered(Layout(shift=4), {kind: 1.0}, hot_share=0.0)
    ends = Ends(
        gateway_mac=bytes.fromhex("020000000001"),
        own_mac=bytes.fromhex("020000000002"),
        gateway4=GATEWAY4,
        gateway6=GATEWAY6,
        links=(LOOPBACK, LOOPBACK + 1),
        talkers=talkers(),
        places=PLACES,
    )
    made.write(ends, [0] * made.layout.records)
    return made


@pytest.fixture
def programs(require_bpf: None) -> Iterator[Numbered]:
    with numbered() as made:
        yield made


class Made:
    """A packet as it was made, and as a gateway would send it: all of it can be spoilt before."""

    def __init__(self, programs: Numbered) -> None:
        packet = programs.made()
        outer = 40 if packet[12:14] == b"\x86\xdd" else 20
        self.frame = bytearray(packet[14 + outer + 8 :])
        self.mark = struct.unpack("=IIQQBB", self.frame[-32:-6])
        _, self.record, _, _, kind, _ = self.mark
        self.subnet = SUBNETS[self.record >> programs.layout.shift]
        self.is_switched = kind == Kind.SWITCHED
        self.vsid = self.subnet.vsid
        self.place = 0
        self.ttl = 63 if self.is_switched else 64
        if not self.is_switched:
            self.frame[:6] = bytes.fromhex(programs.layout.mac(self.record).replace(":", ""))
            self.frame[6:12] = gateway_mac(Vsid(self.vsid))
            self.be_older()

    def be_older(self) -> None:
        """Have one hop less to go (RFC 1141)."""
        if self.frame[14] >> 4 == 6:
            self.frame[21] -= 1
            return
        self.frame[22] -= 1
        self.sum_up()

    def sum_up(self) -> None:
        """Put the inner IPv4 header's checksum right."""
        self.frame[24:26] = bytes(2)
        self.frame[24:26] = checksum(self.frame[14:34]).to_bytes(2)

    def sent(self) -> bytes:
        """What the gateway sends."""
        payload = struct.pack("!HHI", 0x2000, 0x6558, self.vsid << 8 | 77) + self.frame
        to = ipaddress.ip_address(PLACES[self.place].address)
        if to.version == 6:
            six = struct.pack("!IHBB", 6 << 28, len(payload), 47, self.ttl)
            six += ipaddress.ip_address(GATEWAY6).packed + to.packed
            return bytes(12) + b"\x86\xdd" + six + payload
        source = ipaddress.ip_address(GATEWAY4).packed
        header = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, self.ttl, 47, 0))
        header += source + to.packed
        header[10:12] = checksum(header).to_bytes(2)
        return bytes(12) + b"\x08\x00" + bytes(header) + payload


def checksum(octets: bytes | bytearray) -> int:
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def of_version(programs: Numbered, version: int) -> Made:
    """A packet of one IP version; which comes is drawn at random."""
    while (made := Made(programs)).frame[14] >> 4 != version:
        pass
    return made


@pytest.mark.parametrize("kind", [Kind.ROUTED, Kind.SWITCHED, Kind.ALLOWED, Kind.LIMITED])
def test_packets_that_are_carried_as_they_should_be_are_right(require_bpf: None, kind: Kind) -> None:
    with numbered(kind) as programs:
        for _ in range(40):
            assert programs.judge(Made(programs).sent()) is Judgement.RIGHT
        counts = programs.counts()
        assert (
            counts.sent[kind]
            == counts.by_kind[kind]
            == sum(counts.to_packets)
            == sum(counts.from_packets)
            == 40
        )
        assert programs.offenders() == []


@pytest.mark.parametrize("place", range(0, 16, 4))
def test_a_record_is_looked_for_where_it_is_said_to_be(programs: Numbered, place: int) -> None:
    made = Made(programs)
    programs.will_change([made.record], place)
    programs.has_changed([made.record])
    later = Made(programs)
    while later.record != made.record:
        later = Made(programs)
    later.place = place

    assert programs.judge(later.sent()) is Judgement.RIGHT


def test_to_where_a_record_was_goes_what_was_made_before_the_change_was_applied(programs: Numbered) -> None:
    before, during = Made(programs), Made(programs)
    while during.record != before.record:
        during = Made(programs)
    programs.will_change([before.record], 4)
    assert programs.judge(before.sent()) is Judgement.OLD_IN_TIME
    programs.has_changed([before.record])
    assert programs.judge(during.sent()) is Judgement.OLD_IN_TIME
    assert programs.counts().wrong == {}


def test_a_stale_delivery_is_found_and_kept(programs: Numbered) -> None:
    first = Made(programs)
    programs.will_change([first.record], 4)
    programs.has_changed([first.record])
    time.sleep(0.001)
    late = Made(programs)
    while late.record != first.record:
        late = Made(programs)

    assert programs.judge(late.sent()) is Judgement.STALE
    assert programs.counts().wrong == {"STALE": 1}
    (kept,) = programs.offenders()
    assert (kept.judgement, kept.now, kept.before, kept.packet) == (Judgement.STALE, 4, 0, late.sent()[:192])
    assert kept.since < kept.at


def test_what_goes_where_its_record_never_was_is_found(programs: Numbered) -> None:
    made = Made(programs)
    made.place = 8

    assert programs.judge(made.sent()) is Judgement.WRONG_PLACE


def test_what_comes_by_another_link_than_its_place_is_behind_is_found(programs: Numbered) -> None:
    made = Made(programs)
    programs.will_change([made.record], 2)  # behind the other link, which is not the loopback
    made.place = 2

    assert programs.judge(made.sent()) is Judgement.WRONG_PLACE


def test_another_tenants_virtual_subnet_is_found(programs: Numbered) -> None:
    made = Made(programs)
    made.vsid = 6001

    assert programs.judge(made.sent()) is Judgement.WRONG_TENANT


def test_a_packet_that_comes_twice_is_found(programs: Numbered) -> None:
    made = Made(programs).sent()

    assert programs.judge(made) is Judgement.RIGHT
    assert programs.judge(made) is Judgement.TWICE


@pytest.mark.parametrize("kind", [Kind.DENIED, Kind.EXPIRED, Kind.NO_SUBNET, Kind.SPOOFED, Kind.CONGESTED])
def test_what_should_go_nowhere_is_found(require_bpf: None, kind: Kind) -> None:
    with numbered(kind) as programs:
        made = Made(programs)
        if kind is Kind.EXPIRED:  # as one hop more had been left
            made.frame[21 if made.frame[14] >> 4 == 6 else 22] = 63
            if made.frame[14] >> 4 == 4:
                made.sum_up()
        assert programs.judge(made.sent()) is Judgement.FORBIDDEN


def test_each_thing_that_a_gateway_should_have_done_is_looked_for(programs: Numbered) -> None:
    def judged(spoil: str) -> Judgement:
        made = of_version(programs, 4)
        match spoil:
            case "hop limit":
                made.be_older()
            case "checksum":
                made.frame[24] ^= 1
            case "outer hop limit":
                made.ttl = 63
            case "destination's MAC":
                made.frame[5] ^= 1
            case "source's MAC":
                made.frame[11] ^= 1
            case "payload":
                made.frame[-1] ^= 1
            case "padding":
                made.frame += bytes(6)
        return programs.judge(made.sent())

    spoilt = (
        "hop limit",
        "checksum",
        "outer hop limit",
        "destination's MAC",
        "source's MAC",
        "payload",
        "padding",
    )
    assert {each: judged(each) for each in spoilt} == dict.fromkeys(spoilt, Judgement.MALFORMED)


def test_an_outer_checksum_that_is_wrong_is_found(programs: Numbered) -> None:
    packet = bytearray(Made(programs).sent())
    packet[24] ^= 1

    assert programs.judge(bytes(packet)) is Judgement.MALFORMED


def test_nvgre_that_is_not_ours_is_found(programs: Numbered) -> None:
    packet = bytearray(Made(programs).sent())
    packet[-32] ^= 1

    assert programs.judge(bytes(packet)) is Judgement.UNKNOWN


def test_what_is_no_nvgre_is_left_to_the_machine(programs: Numbered) -> None:
    assert programs.judge(bytes(12) + b"\x08\x06" + bytes(46)) is Judgement.NOT_NVGRE_HERE
