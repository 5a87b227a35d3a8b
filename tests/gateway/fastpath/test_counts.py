"""What each processor has counted, told once."""

from __future__ import annotations

from collections import Counter

from gateway.fastpath.counts import Counts, Metered, Totals
from gateway.fastpath.layout import METER_WORDS, OUTCOMES, Passed
from gateway.forwarding.drops import DropReason
from policies.addresses import Vsid
from tests.fastpath.oracle import Oracle
from tests.fastpath.scenes import WORLD

PROCESSORS, TENANTS, SUBNETS = 3, 50, 40
RED, WEB = 7, 9
VSID = Vsid(5001)


class Counted:
    """Counters of three processors, and who listens to them."""

    def __init__(self) -> None:
        # A map's memory may be longer than what is counted in.
        counts = memoryview(bytearray((PROCESSORS * TENANTS * OUTCOMES + 100) * 8))
        meters = memoryview(bytearray((PROCESSORS * SUBNETS * METER_WORDS + 100) * 8))
        self._counts, self._meters = counts.cast("Q"), meters.cast("Q")
        self.counts = Counts(counts, meters, PROCESSORS, TENANTS, SUBNETS)
        self.counts.tenants[RED] = "red"
        self.counts.subnets[WEB] = VSID
        self.dropped: Counter[tuple[DropReason, str]] = Counter()
        self.metered: list[Metered] = []

    def count(self, processor: int, outcome: int, packets: int = 1, tenant: int = RED) -> None:
        self._counts[(processor * TENANTS + tenant) * OUTCOMES + outcome] += packets

    def meter(self, processor: int, *words: int) -> None:
        for number, word in enumerate(words):
            self._meters[(processor * SUBNETS + WEB) * METER_WORDS + number] += word

    def take(self) -> None:
        self.counts.take(self._dropped, self.metered.append)

    def _dropped(self, reason: DropReason, tenant: str, packets: int) -> None:
        self.dropped[reason, tenant] += packets


def test_what_all_processors_dropped_is_told_by_reason_and_tenant() -> None:
    counted = Counted()
    counted.count(0, 3, 5)
    counted.count(2, 3, 2)
    counted.count(1, 1, tenant=0)
    counted.take()

    assert counted.dropped == {(DropReason.ACCESS_DENIED, "red"): 7, (DropReason.UNKNOWN_VSID, ""): 1}


def test_what_was_told_is_not_told_again() -> None:
    counted = Counted()
    counted.count(0, 3, 5)
    counted.meter(0, 1, 60, 0, 0)
    counted.take()
    counted.take()
    assert counted.dropped.total() == 5
    assert len(counted.metered) == 1

    counted.count(0, 3)
    counted.take()
    assert counted.dropped.total() == 6


def test_what_is_left_to_python_is_added_up_by_why() -> None:
    counted = Counted()
    counted.count(0, Passed.TOO_BIG, 2)
    counted.count(1, Passed.TOO_BIG, tenant=0)
    counted.count(1, Passed.NO_RECORD)
    counted.take()

    assert counted.counts.passed == {"too-big": 3, "no-record": 1}
    assert not counted.dropped


def test_meters_of_a_virtual_subnet_are_added_up_over_the_processors() -> None:
    counted = Counted()
    counted.meter(0, 1, 60, 2, 140)
    counted.meter(2, 0, 0, 3, 210)
    counted.take()

    assert counted.metered == [Metered(VSID, 1, 60, 5, 350)]
    assert counted.counts.carried == 5


def test_what_one_instance_has_counted_stays_when_another_has_taken_its_place() -> None:
    forwarder = Oracle(WORLD).forwarder
    first, second, totals = Counted(), Counted(), Totals()
    totals.follow(forwarder)
    totals.begin(first.counts)
    first.meter(0, 0, 0, 2, 140)
    first.count(0, Passed.TOO_BIG)
    totals.take()

    totals.begin(second.counts)
    second.meter(1, 0, 0, 1, 60)
    first.count(1, 3)  # by a packet that was on its way
    first.count(1, Passed.TOO_BIG)
    totals.take()
    assert (totals.carried, totals.passed) == (3, {"too-big": 2})

    first.count(2, 3)
    totals.end(first.counts)
    assert (totals.carried, totals.passed) == (3, {"too-big": 2})
    assert forwarder.drops.counts[DropReason.ACCESS_DENIED, "red"] == 2
    meter = forwarder.meters[VSID]
    assert (meter.received_packets, meter.received_octets) == (3, 200)
