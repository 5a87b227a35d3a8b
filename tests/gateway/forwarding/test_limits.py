"""How much is carried, and how much may be."""

from __future__ import annotations

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from gateway.forwarding.metering import Meter
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Forward
from policies.addresses import Vsid
from policies.model import Limits
from policies.token_bucket import TokenBucket
from tests import networks as n

# Eight packets of 1000 octets at once, then one each second.
LIMITS = Limits(rate=8000, burst=8000)


def limited() -> Forwarder:
    return n.gateway(n.network(n.tenant("red", limits=LIMITS), n.tenant("blue")))


def thousand(tenant: str = "red", **addressing: object) -> Packet:
    """A frame with an IP packet of 1000 octets."""
    frame = n.frame(tenant, ("web", 5), ("db", 5), upper=UDP(sport=1, dport=2) / Raw(bytes(972)))
    for field, value in addressing.items():
        setattr(frame, field, value)
    return frame


def carried(forwarder: Forwarder, count: int, tenant: str = "red", now: float = 0) -> int:
    verdicts = [n.receive(forwarder, thousand(tenant), tenant=tenant, now=now) for _ in range(count)]
    return sum(isinstance(verdict, Forward) for verdict in verdicts)


def test_tenant_gets_its_burst_and_then_its_rate() -> None:
    forwarder = limited()

    assert carried(forwarder, 20, now=0) == 8
    assert carried(forwarder, 20, now=0.5) == 0
    assert carried(forwarder, 20, now=3) == 3
    assert carried(forwarder, 20, now=1000) == 8
    assert forwarder.drops.counts == {(DropReason.RATE_LIMITED, "red"): 80 - 8 - 3 - 8}


def test_excess_of_one_tenant_is_none_of_the_others() -> None:
    forwarder = limited()
    assert carried(forwarder, 1000) == 8

    assert carried(forwarder, 1000, "blue") == 1000


def test_nobody_is_told_of_what_is_above_the_rate() -> None:
    forwarder = limited()
    carried(forwarder, 8)

    assert n.dropped(n.receive(forwarder, thousand()), DropReason.RATE_LIMITED) == ()


def test_switched_and_routed_packets_share_the_tenants_rate() -> None:
    forwarder = limited()
    carried(forwarder, 7)

    switched = thousand(dst=str(n.mac("red", "db", 5)))
    n.to_underlay(n.receive(forwarder, switched, subnet="db"))
    n.dropped(n.receive(forwarder, switched, subnet="db"), DropReason.RATE_LIMITED)


def test_packet_that_was_refused_takes_nothing() -> None:
    forwarder = limited()
    for _ in range(20):
        n.receive(forwarder, thousand(), sender="edge-1")  # a loop
        n.receive(forwarder, thousand(dst="02:00:00:00:00:99"))  # an unknown MAC

    assert carried(forwarder, 20) == 8


def test_limit_holds_for_known_flows_too() -> None:
    """The first packet of a flow is decided in full, those after it by what was remembered."""
    forwarder = limited()

    assert [carried(forwarder, 1) for _ in range(9)] == [1] * 8 + [0]


@pytest.mark.parametrize("version", [4, 6])
def test_packets_and_octets_are_metered_where_they_come_from_and_where_they_go(version: int) -> None:
    forwarder = n.gateway()
    frame = n.frame(
        "red", ("web", 5), ("db", 5), version=version, upper=UDP(sport=1, dport=2) / Raw(bytes(72))
    )
    octets = 100 if version == 4 else 120
    for _ in range(3):
        n.receive(forwarder, bytes(frame) + bytes(30))

    web, db = (forwarder.meters[Vsid(n.VSIDS["red", subnet])] for subnet in ("web", "db"))
    assert (web.sent_packets, web.sent_octets, web.received_packets) == (3, 3 * octets, 0)
    assert (db.received_packets, db.received_octets, db.sent_packets) == (3, 3 * octets, 0)
    assert all(forwarder.meters[Vsid(n.VSIDS["blue", subnet])].sent_packets == 0 for subnet in ("web", "db"))


def test_switched_packet_is_metered_both_ways_in_its_subnet() -> None:
    forwarder = n.gateway()
    n.receive(forwarder, n.frame("red", ("web", 5), ("web", 6)))

    meter = forwarder.meters[Vsid(n.VSIDS["red", "web"])]
    assert (meter.sent_packets, meter.received_packets) == (1, 1)
    assert meter.sent_octets == meter.received_octets == 35


def test_packet_that_a_host_routed_is_metered_in_its_senders_subnet() -> None:
    """It arrives in the VSID of its destination."""
    host = n.host("hv2")
    frame = n.frame("red", ("web", 5), ("db", 5))
    frame.src, frame.dst = str(n.router_mac("red", "db")), str(n.mac("red", "db", 5))
    n.to_port(n.receive(host, frame, subnet="db"))

    assert host.meters[Vsid(n.VSIDS["red", "web"])].sent_packets == 1
    assert host.meters[Vsid(n.VSIDS["red", "db"])].received_packets == 1


def test_packet_that_is_left_to_the_gateway_is_metered_as_sent_only() -> None:
    host = n.host("hv1", known=n.own_records("hv1"))
    n.to_underlay(n.send(host, ("red", "web", 5), n.frame("red", ("web", 5), ("db", 5))))

    assert host.meters[Vsid(n.VSIDS["red", "web"])].sent_packets == 1
    assert sum(meter.received_packets for meter in host.meters.values()) == 0


@pytest.mark.parametrize(
    "frame",
    [
        n.frame("red", ("web", 5), ("db", 5), ttl=1),
        n.frame("red", ("web", 5), ("db", 9)),
        n.frame("red", ("web", 5), ("db", 5), flags="DF", upper=Raw(bytes(1480))),
    ],
    ids=["expired", "nobody's", "too big"],
)
def test_what_is_dropped_is_not_metered(frame: Packet) -> None:
    forwarder = n.gateway()
    n.receive(forwarder, frame)

    assert {(meter.sent_packets, meter.received_packets) for meter in forwarder.meters.values()} == {(0, 0)}


def test_packet_that_is_fragmented_is_metered_as_the_one_that_it_was() -> None:
    forwarder = n.gateway()
    n.receive(forwarder, n.frame("red", ("web", 5), ("db", 5), upper=UDP() / Raw(bytes(3000))))

    meter = forwarder.meters[Vsid(n.VSIDS["red", "db"])]
    assert (meter.received_packets, meter.received_octets) == (1, 3028)


def test_meter_adds_up() -> None:
    meter = Meter()
    for octets in (1, 2, 3):
        meter.sent(octets)
    meter.received(10)

    assert (meter.sent_packets, meter.sent_octets) == (3, 6)
    assert (meter.received_packets, meter.received_octets) == (1, 10)


def test_bucket_fills_with_time_up_to_its_burst() -> None:
    bucket = TokenBucket(rate=10, burst=20)

    assert bucket.take(20, now=5)
    assert not bucket.take(1, now=5)
    assert bucket.take(10, now=6)
    assert not bucket.take(10.1, now=7)
    assert bucket.take(20, now=1000)
    assert not bucket.take(0.1, now=1000)


def test_bucket_gives_all_or_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=10)

    assert not bucket.take(11, now=0)
    assert bucket.take(10, now=0)


def test_time_that_goes_backwards_fills_nothing_and_costs_nothing() -> None:
    bucket = TokenBucket(rate=10, burst=10)
    assert bucket.take(10, now=100)

    assert not bucket.take(1, now=50)
    assert bucket.take(5, now=100.5)


def test_limit_in_bits_is_a_bucket_of_octets() -> None:
    bucket = TokenBucket.of(Limits(rate=800, burst=100))

    assert bucket.take(100, now=0)
    assert bucket.take(100, now=1)
    assert not bucket.take(1, now=1)


def test_tcp_and_ipv6_count_against_the_same_limit() -> None:
    forwarder = limited()
    frame = n.frame("red", ("web", 5), ("db", 5), version=6, upper=TCP(flags="A") / Raw(bytes(940)))
    assert len(bytes(frame[IPv6])) == 1000

    assert carried(forwarder, 7) == 7
    n.to_underlay(n.receive(forwarder, frame))
    n.dropped(n.receive(forwarder, frame), DropReason.RATE_LIMITED)
