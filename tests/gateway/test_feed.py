"""What a replica learns reaches the data path in order, and packets get their turn."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
import trio
import trio.testing

from gateway.feed import AT_ONCE, Feed
from gateway.forwarding.directory import Change, Delete, DeleteLease, Put, PutLease
from gateway.lookup.batches import Batch
from gateway.lookup.entries import Grant, Kind, LeaseKey, NamedKey, Placement, RecordKey, Stored
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.errors import ConfigurationError, Problem
from policies.model import Lease, Network

VSID = Vsid(5001)
PLACE = Placement(MacAddress.parse("02:00:00:00:01:05"), ProviderAddress.parse("198.51.100.11"), "hv1")


def address(number: int) -> CustomerAddress:
    return CustomerAddress((0x0A000000 + number).to_bytes(4))


def put(number: int, revision: int) -> Stored:
    return Stored(RecordKey(VSID, address(number)), PLACE, 1, revision)


def batch(*changes: Stored, network: Network | None = None, revision: int = 1) -> Batch:
    return Batch(changes, tuple(each.record for each in changes), network, revision, True)


class Seen:
    """A data path that remembers what it was told, in order."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.changes: list[Change] = []
        self.refuses = False

    def apply(self, changes: Sequence[Change]) -> None:
        self.changes += changes
        self.steps.append(f"{len(changes)} changes")

    async def adopt(self, _network: Network) -> None:
        if self.refuses:
            raise ConfigurationError([Problem("tenant[red].site[seattle].ike", "there is no such file")])
        self.steps.append("network")

    def applied(self, revision: int) -> None:
        self.steps.append(f"revision {revision}")


async def told(seen: Seen, *batches: Batch) -> None:
    feed = Feed(seen.apply, seen.adopt, seen.applied)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        for each in batches:
            feed.take(each)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


def test_records_come_before_the_network_and_then_the_revision_is_said() -> None:
    seen = Seen()

    trio.run(told, seen, batch(put(1, 7), network=Network(), revision=7), batch(put(2, 8), revision=8))

    assert seen.steps == ["1 changes", "network", "revision 7", "1 changes", "revision 8"]


def test_many_records_are_taken_over_a_few_at_a_time() -> None:
    seen = Seen()

    trio.run(told, seen, batch(*(put(number, 9) for number in range(AT_ONCE + 1)), revision=9))

    assert seen.steps == [f"{AT_ONCE} changes", "1 changes", "revision 9"]


def test_a_tombstone_deletes_and_entries_of_other_kinds_are_left_out() -> None:
    seen = Seen()
    gone = Stored(RecordKey(VSID, address(1)), None, 2, 10)
    tenant = Stored(NamedKey(Kind.TENANT, "red"), None, 2, 11)

    trio.run(told, seen, batch(put(1, 9), gone, tenant, revision=11))

    first = put(1, 9).record
    assert first is not None
    assert seen.changes == [Put(first), Delete(VSID, address(1))]


def test_leases_come_among_the_records_in_order_and_what_a_record_has_is_no_lease() -> None:
    seen = Seen()
    pa, other = ProviderAddress.parse("192.0.2.65"), ProviderAddress.parse("192.0.2.66")
    leased = Stored(LeaseKey(pa), Grant(VSID, address(9), "edge-1", leased=True), 1, 9)
    returned = Stored(LeaseKey(pa), Grant(VSID, address(9), "edge-1", 5.0, leased=True), 2, 10)
    of_a_record = Stored(LeaseKey(other), Grant(VSID, address(8), "hv1"), 1, 11)
    gone = Stored(LeaseKey(other), None, 2, 12)

    trio.run(told, seen, batch(leased, put(1, 9), returned, of_a_record, gone, revision=12))

    record = put(1, 9).record
    assert record is not None
    lease = Lease(pa, VSID, address(9), "edge-1", 9)
    ended = DeleteLease(other)
    assert seen.changes == [PutLease(lease), Put(record), DeleteLease(pa), ended, ended]


def test_a_network_that_cannot_be_adopted_is_said_and_does_not_end_the_feed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = Seen()
    seen.refuses = True

    with caplog.at_level(logging.ERROR):
        trio.run(told, seen, batch(network=Network(), revision=12), batch(put(3, 13), revision=13))

    assert seen.steps == ["revision 12", "1 changes", "revision 13"]
    assert "tenant[red].site[seattle].ike: there is no such file" in caplog.text
