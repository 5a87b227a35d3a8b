"""A flow's decision is remembered: every later packet gets what the first would have got."""

from __future__ import annotations

import msgspec
import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

from gateway.forwarding.directory import Delete, Directory, Put
from gateway.forwarding.drops import DropReason
from gateway.forwarding.flows import Flow, FlowCache, key_untrusted
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.sites import Sites
from gateway.forwarding.verdicts import Drop, Forward, OuterHeader
from gateway.forwarding.ways import LocalPort
from gateway.packets.checksum import internet_checksum
from policies.addresses import CustomerAddress, Vsid
from policies.model import AccessRule, Action, Endpoint, LookupRecord
from tests import networks as n


def packet(
    version: int = 4, upper: Packet | None = None, destination: tuple[str, int] = ("db", 5), **fields: object
) -> Packet:
    upper = TCP(sport=1111, dport=5432, flags="A") / Raw(b"data") if upper is None else upper
    return n.frame("red", ("web", 5), destination, version=version, upper=upper, **fields)


UDP_OF = UDP(sport=1111, dport=5432) / Raw(b"data")
VARIATIONS = [
    pytest.param(packet(), id="same packet"),
    pytest.param(packet(ttl=2), id="smaller TTL"),
    pytest.param(packet(ttl=1), id="TTL that ends"),
    pytest.param(packet(ttl=0), id="TTL of 0"),
    pytest.param(packet(tos=0x03), id="CE"),
    pytest.param(packet(tos=0xB8), id="another class"),
    pytest.param(packet(id=99), id="another identification"),
    pytest.param(packet(flags="DF"), id="DF"),
    pytest.param(
        packet(flags="MF", upper=TCP(sport=1111, dport=5432, flags="A") / Raw(bytes(12))), id="first fragment"
    ),
    pytest.param(packet(frag=4, proto=6, upper=Raw(bytes(20))), id="later fragment"),
    pytest.param(packet(options=[IPOption_NOP()] * 4), id="options"),
    pytest.param(packet(chksum=0x1234), id="wrong checksum"),
    pytest.param(packet(len=5000), id="longer than its frame"),
    pytest.param(packet(len=44), id="shorter than its frame"),
    pytest.param(packet(len=38), id="without a whole TCP header"),
    pytest.param(packet(upper=TCP(sport=1111, dport=5432, flags="S", options=[("MSS", 1460)])), id="SYN"),
    pytest.param(packet(upper=TCP(sport=1111, dport=5432, flags="A", dataofs=15)), id="TCP header too long"),
    pytest.param(packet(upper=TCP(sport=1111, dport=5432, flags="A", dataofs=2)), id="TCP header too short"),
    pytest.param(
        packet(upper=TCP(sport=1111, dport=5432, flags="A") / Raw(bytes(1419)), flags="DF"), id="too big"
    ),
    pytest.param(
        packet(upper=TCP(sport=1111, dport=5432, flags="A") / Raw(bytes(3000))), id="to be fragmented"
    ),
    pytest.param(packet(upper=UDP(sport=1111, dport=5432, len=7) / Raw(b"data")), id="UDP too short"),
    pytest.param(packet(upper=UDP(sport=1111, dport=5432, len=99) / Raw(b"data")), id="UDP too long"),
    pytest.param(packet(upper=UDP(sport=1111, dport=5432, len=9) / Raw(b"data")), id="UDP with a tail"),
    pytest.param(packet(6), id="IPv6"),
    pytest.param(packet(6, hlim=1), id="hop limit that ends"),
    pytest.param(packet(6, tc=0x03), id="IPv6 CE"),
    pytest.param(packet(6, fl=0x12345), id="IPv6 flow label"),
    pytest.param(packet(6, plen=5000), id="IPv6 longer than its frame"),
    pytest.param(packet(6, plen=25), id="IPv6 one octet longer than its frame"),
    pytest.param(packet(6, UDP_OF, plen=13), id="IPv6 UDP one octet longer than its frame"),
    pytest.param(packet(6, plen=4), id="IPv6 shorter than its upper layer"),
    pytest.param(packet(6, TCP(sport=1111, dport=5432, flags="A") / Raw(bytes(1500))), id="IPv6 too big"),
    pytest.param(packet(6, UDP(sport=1111, dport=5432, len=99) / Raw(b"data")), id="IPv6 UDP too long"),
]


def warm() -> Forwarder:
    """A gateway that knows the flows of all variations."""
    forwarder = n.gateway()
    for upper in (None, UDP_OF):
        for version in (4, 6):
            for _ in range(2):
                n.to_underlay(n.receive(forwarder, packet(version, upper)))
    return forwarder


@pytest.mark.parametrize("ecn", range(4))
@pytest.mark.parametrize("variation", VARIATIONS)
def test_known_flow_decides_like_a_new_one(variation: Packet, ecn: int) -> None:
    assert n.receive(warm(), variation, ecn=ecn) == n.receive(n.gateway(), variation, ecn=ecn)


@pytest.mark.parametrize("truncated", range(8, 8 + 14 + 44))
def test_known_flow_refuses_a_truncated_packet(truncated: int) -> None:
    payload = n.nvgre("red", "web", packet())[:truncated]

    verdict = warm().from_underlay(n.from_host("hv1"), payload, now=0)

    n.dropped(verdict, DropReason.MALFORMED)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"sender": "hv2"}, id="from another host"),
        pytest.param({"version": 6}, id="from another provider address"),
    ],
)
def test_flow_is_known_by_where_it_came_from(changed: dict[str, object]) -> None:
    forwarder, fresh = warm(), n.gateway()

    known = n.receive(forwarder, packet(), **changed)  # type: ignore[arg-type]

    assert known == n.receive(fresh, packet(), **changed)  # type: ignore[arg-type]
    assert forwarder.sources_elsewhere == fresh.sources_elsewhere


def test_flow_of_a_host_that_is_not_authorised_is_not_taken_for_a_known_one() -> None:
    forwarder = warm()
    stranger = OuterHeader(bytes((198, 51, 100, 99)), bytes(n.pa("edge-1")))

    verdict = forwarder.from_underlay(stranger, n.nvgre("red", "web", packet()), now=0)

    n.dropped(verdict, DropReason.SPOOFED_SOURCE)


def test_flow_in_another_vsid_is_another_flow() -> None:
    forwarder = n.gateway()
    for _ in range(2):
        n.to_underlay(n.receive(forwarder, packet()))

    n.dropped(n.receive(forwarder, packet(), tenant="blue"), DropReason.UNKNOWN_MAC)


@pytest.mark.parametrize("which", [("web", 5), ("db", 5)], ids=["source", "destination"])
def test_flow_is_decided_again_when_one_of_its_records_changes(which: tuple[str, int]) -> None:
    forwarder = warm()
    vsid, ca = Vsid(n.VSIDS["red", which[0]]), CustomerAddress.parse(n.ca(*which))

    if which[0] == "web":
        moved = msgspec.structs.replace(found(forwarder, vsid, ca), pa=n.pa("hv2"), host="hv2")
        forwarder.directory.apply(Put(moved))
        n.to_underlay(n.receive(forwarder, packet()))
        assert forwarder.sources_elsewhere == {"red": 1}
    else:
        forwarder.directory.apply(Delete(vsid, ca))
        n.dropped(n.receive(forwarder, packet()), DropReason.NO_RECORD)


def found(forwarder: Forwarder, vsid: Vsid, ca: CustomerAddress) -> LookupRecord:
    record = forwarder.directory.find(vsid, ca)
    assert record is not None
    return record


def test_record_that_is_put_again_is_looked_at_again() -> None:
    forwarder = warm()
    vsid, ca = Vsid(n.VSIDS["red", "db"]), CustomerAddress.parse(n.ca("db", 5))
    record = forwarder.directory.find(vsid, ca)
    assert record is not None
    forwarder.directory.apply(Put(LookupRecord(vsid, ca, n.mac("red", "db", 6), n.pa("hv1"), "hv1")))

    emission, inner = n.to_underlay(n.receive(forwarder, packet()))

    assert (emission.destination, inner.dst) == (n.pa("hv1"), str(n.mac("red", "db", 6)))


def test_opening_of_a_connection_is_always_judged_by_the_rules() -> None:
    """The flow is known as a reply; a bare SYN in it is none."""
    rule = AccessRule("db to web", Action.ALLOW, Endpoint(subnet="db"), Endpoint(subnet="web"))
    forwarder = n.gateway(n.network(n.tenant("red", access=(rule,))))
    for _ in range(2):
        n.to_underlay(n.receive(forwarder, packet()))

    n.dropped(
        n.receive(forwarder, packet(upper=TCP(sport=1111, dport=5432, flags="S"))), DropReason.ACCESS_DENIED
    )


def test_known_flow_is_metered_like_a_new_one() -> None:
    known, fresh = n.gateway(), n.gateway()
    for _ in range(5):
        n.receive(known, packet())
    for port in range(5):
        n.receive(fresh, packet(upper=TCP(sport=port, dport=5432, flags="A") / Raw(b"data")))

    for vsid, meter in known.meters.items():
        other = fresh.meters[vsid]
        assert (meter.sent_packets, meter.sent_octets) == (other.sent_packets, other.sent_octets)
        assert (meter.received_packets, meter.received_octets) == (
            other.received_packets,
            other.received_octets,
        )


@pytest.mark.parametrize("destination", [("db", 5), ("web", 6)], ids=["routed", "switched"])
@pytest.mark.parametrize("version", [4, 6])
def test_switched_flow_is_remembered_as_switched(version: int, destination: tuple[str, int]) -> None:
    forwarder = n.gateway()
    frame = packet(version, destination=destination)

    verdicts = [n.receive(forwarder, frame) for _ in range(3)]

    assert isinstance(verdicts[0], Forward)
    assert verdicts[0] == verdicts[1] == verdicts[2]
    _, inner = n.to_underlay(verdicts[2])
    hops = inner[IP].ttl if version == 4 else inner[IPv6].hlim
    assert hops == (63 if destination[0] == "db" else 64)


def test_explained_packets_are_decided_in_full_each_time() -> None:
    steps: list[str] = []
    plain = n.gateway()
    forwarder = Forwarder(
        plain.node, plain.tables, plain.directory, explain=lambda step, _: steps.append(step)
    )
    for _ in range(2):
        n.receive(forwarder, packet())

    assert steps[: len(steps) // 2] == steps[len(steps) // 2 :]
    assert "route" in steps


def test_cache_forgets_everything_at_once_when_it_is_full() -> None:
    """So a port scan costs slow decisions and no memory."""
    record = next(iter(n.directory(n.network())))
    known = Directory([record])
    flow = Flow("red", b"", False, LocalPort((Vsid(5001), record.mac)), None, None, None, record, record)
    cache = FlowCache(capacity=3)

    for number in range(3):
        cache.remember(bytes([number]), flow)
    assert cache.find(b"\x00", known, Sites()) is flow
    cache.remember(b"\x03", flow)

    assert len(cache) == 1
    assert cache.find(b"\x00", known, Sites()) is None


@pytest.mark.parametrize(
    "frame",
    [
        n.arp_request("red", ("web", 5), n.ca("web", 1)),
        n.frame("red", ("web", 5), ("db", 5), upper=Raw(bytes(40)), proto=89),
        packet(upper=TCP(flags="SA")),
        packet(flags="MF", upper=UDP(len=99) / Raw(bytes(8))),
    ],
    ids=["ARP", "another protocol", "SYN/ACK", "fragment"],
)
def test_what_each_packet_must_be_judged_for_belongs_to_no_flow(frame: Packet) -> None:
    assert key_untrusted(b"", n.nvgre("red", "web", frame)) is None


# Octets of an NVGRE packet that differ within a flow. The rest is what a decision reads.
FREE = {
    4: {7, 23, 24, 25, 26, 27, 28, 29, 30, 32, 33, *range(46, 66)},
    6: {7, *range(22, 28), 29, *range(66, 86)},
}


@pytest.mark.parametrize("upper", [None, UDP_OF], ids=["TCP", "UDP"])
@pytest.mark.parametrize("version", [4, 6])
def test_every_octet_that_a_decision_reads_tells_flows_apart(version: int, upper: Packet | None) -> None:
    payload = n.nvgre("red", "web", packet(version, upper))
    key = key_untrusted(b"", payload)
    assert key is not None

    for position in set(range(len(payload))) - FREE[version]:
        changed = bytearray(payload)
        changed[position] ^= 0x10
        if version == 4 and 22 <= position < 42:
            changed[32:34] = bytes(2)
            changed[32:34] = internet_checksum(changed[22:42]).to_bytes(2)
        assert key_untrusted(b"", bytes(changed)) != key, position


def test_dropped_packet_of_a_known_flow_is_counted() -> None:
    forwarder = warm()

    assert isinstance(n.receive(forwarder, packet(ttl=1)), Drop)
    assert forwarder.drops.counts == {(DropReason.HOP_LIMIT, "red"): 1}
