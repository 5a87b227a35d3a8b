"""The far ends of a gateway in the kernel: numbered NVGRE packets made, and each judged where it comes out.

numbered.bpf.c has the two programs, and this their tables. Everything is derived from a record's number, so
that a packet alone says what should have become of it: `Layout` says how.
"""

from __future__ import annotations

import ipaddress
import struct
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from gateway.fastpath import elf, kernel
from policies.addresses import Vsid, gateway_mac

OBJECT = Path(__file__).with_name("numbered.bpf.o")
FRAME_OCTETS = 14 + 40 + 8 + 14 + 40 + 8 + 32
"""Of the longest: IPv6 in IPv6."""

FIRST_SUFFIX, TALKER_SUFFIX, FIRST_PLACE = 256, 16, 16
PORT_ALLOWED, PORT_DENIED = 5001, 666
CHANGING = 2**64 - 1
HOT = 256
UNKNOWN_VSID = 0x7FFFF

_SETTINGS = struct.Struct("=6s6sI4s16s2II16III")
_SUBNET = struct.Struct("=IIIIB6sx")
_TALKER = struct.Struct("=4s16s4s")
_PLACE = struct.Struct("=16sII")
_OFFENDER = struct.Struct("=QQQQII192s")
_CONTEXT = struct.Struct("=IIIIII")  # struct xdp_md: data, data_end, data_meta, interface, queue, egress


class Kind(IntEnum):
    """What a packet is made to be."""

    ROUTED = 0
    SWITCHED = 1
    ALLOWED = 2
    DENIED = 3
    LIMITED = 4
    UNRECORDED = 5
    EXPIRED = 6
    NO_SUBNET = 7
    SPOOFED = 8
    NOT_NVGRE = 9
    CONGESTED = 10
    ELSEWHERE = 11


_KINDS = frozenset(Kind)
CARRIED = frozenset({Kind.ROUTED, Kind.SWITCHED, Kind.ALLOWED, Kind.LIMITED, Kind.ELSEWHERE})


class Judgement(IntEnum):
    """What the sink makes of a packet."""

    RIGHT = 16
    OLD_IN_TIME = 17
    """To where it was, by a packet made before the change was told to be applied."""
    STALE = 18
    WRONG_PLACE = 19
    WRONG_TENANT = 20
    MALFORMED = 21
    FORBIDDEN = 22
    """It should have gone nowhere."""
    UNKNOWN = 23
    TWICE = 24
    NOT_NVGRE_HERE = 25
    """ARP and such, which the machine behind the sink answers."""
    BACK = 26
    """What talkers are told: ICMP errors."""


WRONG = (
    Judgement.STALE,
    Judgement.WRONG_PLACE,
    Judgement.WRONG_TENANT,
    Judgement.MALFORMED,
    Judgement.FORBIDDEN,
    Judgement.UNKNOWN,
    Judgement.TWICE,
)
_TO_PACKETS, _TO_OCTETS, _FROM_PACKETS, _FROM_OCTETS, _BY_KIND, _SOON = 32, 48, 64, 80, 96, 112

USUAL_CHANCES: Mapping[Kind, float] = {
    Kind.SWITCHED: 0.05,
    Kind.ALLOWED: 0.08,
    Kind.DENIED: 0.02,
    Kind.LIMITED: 0.02,
    Kind.UNRECORDED: 0.004,
    Kind.EXPIRED: 0.002,
    Kind.NO_SUBNET: 0.005,
    Kind.SPOOFED: 0.002,
    Kind.NOT_NVGRE: 0.005,
    Kind.CONGESTED: 0.005,
    Kind.ELSEWHERE: 0.001,
}
"""Of each kind; the others are routed."""
FLOOD: Mapping[Kind, float] = {**USUAL_CHANCES, Kind.UNRECORDED: 0.3}
"""So many to nobody that a fast path must not leave all of them to Python."""


class Subnet(msgspec.Struct, frozen=True):
    """A virtual subnet: `number` is part of its addresses, which other tenants have too."""

    index: int
    tenant: str
    number: int
    vsid: int

    @property
    def name(self) -> str:
        return f"net{self.number}"

    @property
    def prefixes(self) -> tuple[str, str]:
        return f"10.{self.number}.0.0/16", f"fd00:{self.number:x}::/64"

    def address(self, suffix: int, version: int) -> str:
        """A CA of its."""
        if version == 4:
            return str(ipaddress.IPv4Address(f"10.{self.number}.0.0") + suffix)
        return str(ipaddress.IPv6Address(f"fd00:{self.number:x}::") + suffix)

    @property
    def talker_mac(self) -> str:
        return f"02:ff:00:00:00:{self.number:02x}"


TENANTS = ("plain", "ruled", "slow")
"""Without a rule, with rules, and with a rate: the programs know them by these numbers."""
SUBNETS = (
    *(Subnet(n, "plain", n, 5001 + n) for n in range(4)),
    Subnet(4, "ruled", 0, 6001),
    Subnet(5, "slow", 0, 7001),
)


class Layout(msgspec.Struct, frozen=True):
    """How many records there are, and what each of them is.

    `shift`: 2^shift in each virtual subnet. `shared`: 2^shared have one MAC, and move together.
    """

    shift: int = 12
    shared: int = 0

    @property
    def records(self) -> int:
        return len(SUBNETS) << self.shift

    def subnet(self, record: int) -> Subnet:
        return SUBNETS[record >> self.shift]

    def suffix(self, record: int) -> int:
        return FIRST_SUFFIX + (record & (1 << self.shift) - 1)

    def address(self, record: int) -> str:
        """The record's CA: every fourth is IPv6."""
        return self.subnet(record).address(self.suffix(record), 6 if record & 3 == 3 else 4)

    def mac(self, record: int) -> str:
        suffix = self.suffix(record) >> self.shared << self.shared
        return str_of_mac(bytes([2, self.subnet(record).number]) + suffix.to_bytes(4))


class Place(msgspec.Struct, frozen=True):
    """A provider address where records can be: of a host, behind one of the sinks' two links."""

    number: int
    host: str
    link: int
    address: str


def str_of_mac(octets: bytes) -> str:
    """A MAC in words."""
    return ":".join(f"{octet:02x}" for octet in octets)


class Talker(msgspec.Struct, frozen=True):
    """Where a virtual subnet's talker sends from, and the IPv4 address of another host of its tenant."""

    pa4: str
    pa6: str
    other4: str


class Ends(msgspec.Struct, frozen=True):
    """What the programs have to know of the machines that they are in. Interfaces are by number."""

    gateway_mac: bytes
    own_mac: bytes
    gateway4: str
    gateway6: str
    links: tuple[int, int]
    talkers: Sequence[Talker]
    places: Sequence[Place]


class Offender(msgspec.Struct, frozen=True):
    """A packet that should not have come as it did, as it was, and what was expected of it then."""

    judgement: Judgement
    at: int
    now: int
    before: int
    since: int
    interface: int
    packet: bytes

    def __str__(self) -> str:
        since = "while it changed" if self.since == CHANGING else f"since {self.since}"
        return (
            f"{self.judgement.name} at {self.at}: expected at place {self.now} (or {self.before}) {since}, "
            f"interface {self.interface}: {self.packet.hex()}"
        )


class Counts(msgspec.Struct, frozen=True):
    """What was sent, how what came was judged, and what came of each virtual subnet's."""

    sent: Counter[Kind]
    judged: Counter[Judgement]
    by_kind: Counter[Kind]
    """Those that came, and rightly."""
    to_packets: list[int]
    to_octets: list[int]
    from_packets: list[int]
    from_octets: list[int]
    soon: int = 0
    """Those that were made within a millisecond after a change of their record was told to be applied."""

    @property
    def came(self) -> int:
        """All of ours that the sink has had, whatever it made of them."""
        return sum(self.judged[each] for each in (Judgement.RIGHT, Judgement.OLD_IN_TIME, *WRONG))

    @property
    def wrong(self) -> dict[str, int]:
        return {each.name: self.judged[each] for each in WRONG if self.judged[each]}


class Numbered:
    """Both programs, loaded, with one set of tables."""

    def __init__(
        self, layout: Layout, chances: Mapping[Kind, float] = USUAL_CHANCES, hot_share: float = 0.5
    ) -> None:
        """`hot_share` of the packets to records are to those that have changed lately. Raises BpfRefused."""
        self.layout = layout
        self._chances = chances
        self._hot_share = hot_share
        self._loaded = kernel.load(elf.read_object(OBJECT.read_bytes()))
        self._maps, self.programs = self._loaded.maps, self._loaded.programs
        # Each store of a value of eight octets is one store of the processor's.
        self._records = self._maps["records"].memory().cast("Q")
        self._hot = self._maps["hot"].memory().cast("Q")
        self._next_hot = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loaded.close()

    def write(self, ends: Ends, where: Sequence[int]) -> None:
        """Fill the tables; `where` has the place of every record."""
        self._ends = ends
        self.mix(self._chances)
        for subnet in SUBNETS:
            first, count = self._records_of(subnet.tenant)
            tenant = TENANTS.index(subnet.tenant)
            mac = gateway_mac(Vsid(subnet.vsid))
            self._set(
                "subnets", subnet.index, _SUBNET.pack(subnet.vsid, tenant, first, count, subnet.number, mac)
            )
            talker = ends.talkers[subnet.index]
            octets = (ipaddress.ip_address(each).packed for each in (talker.pa4, talker.pa6, talker.other4))
            self._set("talkers", subnet.index, _TALKER.pack(*octets))
        for place in ends.places:
            address = ipaddress.ip_address(place.address)
            packed = address.packed.ljust(16, b"\0")
            self._set("places", place.number, _PLACE.pack(packed, address.version == 6, place.link))
        for record, place_number in enumerate(where):
            self._records[2 * record] = place_number | place_number << 32
            self._records[2 * record + 1] = 0
        for slot in range(HOT):
            self._hot[slot] = slot % self.layout.records

    def mix(self, chances: Mapping[Kind, float]) -> None:
        """Have packets made of each kind by these chances from now on; the others are routed."""
        ends, below, thresholds = self._ends, 0.0, [0] * 16
        for kind in range(16):
            below += chances.get(Kind(kind), 0.0) if kind in _KINDS else 0.0
            thresholds[kind] = round(below * 65536)
        settings = _SETTINGS.pack(
            ends.gateway_mac,
            ends.own_mac,
            self.layout.shift,
            ipaddress.ip_address(ends.gateway4).packed,
            ipaddress.ip_address(ends.gateway6).packed,
            *ends.links,
            self.layout.shared,
            *thresholds,
            UNKNOWN_VSID,
            round(self._hot_share * 256),
        )
        self._maps["settings"].update(bytes(4), settings)

    def will_change(self, records: Collection[int], place: int) -> None:
        """Say that records are about to go to a place: from now on they may be at either."""
        for record in records:
            now = self._records[2 * record] & 0xFFFFFFFF
            self._records[2 * record + 1] = CHANGING
            self._records[2 * record] = place | now << 32
            self._hot[self._next_hot] = record
            self._next_hot = (self._next_hot + 1) % HOT

    def has_changed(self, records: Collection[int]) -> None:
        """Say that the change is told to be applied: what is made from now on goes there."""
        now = time.monotonic_ns()
        for record in records:
            self._records[2 * record + 1] = now

    def place_of(self, record: int) -> int:
        """Where a record is, or is about to be."""
        return self._records[2 * record] & 0xFFFFFFFF

    def counts(self) -> Counts:
        """Add up what every processor has counted."""
        by_processor = struct.Struct(f"={kernel.possible_cpus()}Q")
        counts = self._maps["counts"]
        totals = [
            sum(by_processor.unpack(counts.lookup(number.to_bytes(4, "little")) or b""))
            for number in range(counts.definition.max_entries)
        ]
        width = len(SUBNETS)
        return Counts(
            sent=Counter({kind: totals[kind] for kind in Kind}),
            judged=Counter({judgement: totals[judgement] for judgement in Judgement}),
            by_kind=Counter({kind: totals[_BY_KIND + kind] for kind in Kind}),
            to_packets=totals[_TO_PACKETS : _TO_PACKETS + width],
            to_octets=totals[_TO_OCTETS : _TO_OCTETS + width],
            from_packets=totals[_FROM_PACKETS : _FROM_PACKETS + width],
            from_octets=totals[_FROM_OCTETS : _FROM_OCTETS + width],
            soon=totals[_SOON],
        )

    def offenders(self) -> list[Offender]:
        """The first packets that came wrongly."""
        found = []
        for octets in _OFFENDER.iter_unpack(self._maps["offenders"].memory()):
            judgement, at, places, since, interface, length, packet = octets
            if judgement:
                now, before = places & 0xFFFFFFFF, places >> 32
                found.append(
                    Offender(Judgement(judgement), at, now, before, since, interface, packet[:length])
                )
        return found

    def made(self) -> bytes:
        """Make one packet, and return it instead of sending it."""
        return kernel.test_run(self.programs["generate"], bytes(FRAME_OCTETS)).data

    def judge(self, packet: bytes, interface: int = 1) -> Judgement:
        """Have the sink judge one packet that has come in at an interface; by default the loopback's."""
        before = self.counts().judged
        context = _CONTEXT.pack(0, len(packet), 0, interface, 0, 0)
        kernel.test_run(self.programs["sink"], packet, context=context)
        (found,) = (self.counts().judged - before).keys()
        return found

    def send_by(self, interface: int) -> None:
        """Have made packets sent by an interface. Called inside its namespace."""
        self._maps["devices"].update(bytes(4), struct.pack("=I", interface))

    def _set(self, name: str, index: int, value: bytes) -> None:
        self._maps[name].update(struct.pack("=I", index), value)

    def _records_of(self, tenant: str) -> tuple[int, int]:
        indices = [subnet.index for subnet in SUBNETS if subnet.tenant == tenant]
        return indices[0] << self.layout.shift, len(indices) << self.layout.shift
