"""A replica takes what its source tells, key by key and by revision."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_network

import pytest

from gateway.lookup.batches import Batch
from gateway.lookup.entries import (
    Event,
    Grant,
    Key,
    Kind,
    LeaseKey,
    Placement,
    Progress,
    RecordKey,
    Reset,
    Stored,
)
from gateway.lookup.replica import Replica
from gateway.lookup.store import StoreUnavailable
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from tests.sim.lookup import run as in_virtual_time

VSID = Vsid(5001)
MAC = MacAddress.parse("02:00:00:00:01:05")


class Source:
    """Tells what a test says, and remembers from where it was asked to go on."""

    def __init__(self) -> None:
        self.asked: list[int | None] = []
        self._events: asyncio.Queue[Event | BaseException] = asyncio.Queue()

    async def __call__(self, after: int | None) -> AsyncIterator[Event]:
        self.asked.append(after)
        while True:
            event = await self._events.get()
            if isinstance(event, BaseException):
                raise event
            yield event

    async def tell(self, *events: Event | BaseException) -> None:
        """Have the replica take these, and whatever follows at once from them."""
        for event in events:
            self._events.put_nowait(event)
        for _ in range(5):
            await asyncio.sleep(0)


def key(number: int, vsid: Vsid = VSID) -> RecordKey:
    return RecordKey(vsid, CustomerAddress(bytes((10, 0, 1, number))))


def at(number: int, revision: int, host: str = "hv1", *, epoch: int = 1, mac: MacAddress = MAC) -> Stored:
    return Stored(key(number), Placement(mac, ProviderAddress.parse("198.51.100.11"), host), epoch, revision)


def gone(number: int, revision: int) -> Stored:
    return Stored(key(number), None, 2, revision)


def granted(
    number: int, revision: int, returned_at: float | None = None, *, vsid: Vsid = VSID, leased: bool = True
) -> Stored:
    grant = Grant(vsid, key(9).ca, "edge-1" if leased else "hv1", returned_at, leased)
    return Stored(LeaseKey(ProviderAddress(bytes((192, 0, 2, number)))), grant, 1, revision)


def host_of(replica: Replica, number: int) -> str | None:
    record = replica.find(VSID, key(number).ca)
    return record.host if record is not None else None


def followed(test: Callable[[Source, Replica], Awaitable[None]], *, history: int = 100) -> None:
    """Run a test beside a replica that follows its source."""

    async def main() -> None:
        source = Source()
        replica = Replica(source, history=history)
        running = asyncio.create_task(replica.run())
        await asyncio.sleep(0)
        await test(source, replica)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    in_virtual_time(main())


def test_what_is_listed_is_there_and_synced_at_its_progress() -> None:
    async def test(source: Source, replica: Replica) -> None:
        await source.tell(Reset(7), at(5, 3), at(6, 7))
        assert not replica.is_synced
        assert not replica.has_contents
        await source.tell(Progress(7))
        assert (replica.is_synced, replica.has_contents, replica.stale_since) == (True, True, None)
        assert (len(replica), replica.revision) == (2, 7)
        assert source.asked == [None]

    followed(test)


def test_an_older_or_repeated_event_changes_nothing() -> None:
    async def test(source: Source, replica: Replica) -> None:
        await source.tell(Reset(1), at(5, 1), Progress(1), at(5, 9, "hv2"), at(5, 4, "hv3"), at(5, 9, "hv4"))
        assert host_of(replica, 5) == "hv2"

    followed(test)


def test_a_late_older_put_resurrects_nothing() -> None:
    async def test(source: Source, replica: Replica) -> None:
        await source.tell(Reset(1), at(5, 1), Progress(1), gone(5, 9), at(5, 4))
        assert host_of(replica, 5) is None
        await source.tell(at(5, 10))
        assert host_of(replica, 5) == "hv1"

    followed(test)


def test_a_reset_tells_the_differences_alone() -> None:
    async def test(source: Source, replica: Replica) -> None:
        await source.tell(Reset(3), at(5, 1), at(6, 2), at(7, 3), Progress(3))
        told: list[Batch] = []
        replica.subscribe(told.append)
        told.clear()
        position = replica.history.position
        await source.tell(Reset(8), at(5, 1), at(6, 8, "hv2"))
        assert host_of(replica, 6) == "hv1"
        await source.tell(Progress(8))
        changes = [change for batch in told for change in batch.changes]
        assert {(change.key, change.value is None) for change in changes} == {
            (key(6), False),
            (key(7), True),
        }
        assert replica.history.since(position) == changes

    followed(test)


def test_a_lost_source_is_gone_on_with_from_the_latest_whole_revision() -> None:
    async def test(source: Source, replica: Replica) -> None:
        await source.tell(Reset(3), Progress(3), Progress(5), at(5, 6), StoreUnavailable("away"))
        assert replica.stale_since is not None
        assert host_of(replica, 5) == "hv1"
        await asyncio.sleep(0.2)
        # A claim's changes share a revision, so that others of revision 6 may be missing.
        assert source.asked == [None, 5]
        await source.tell(Progress(6))
        assert replica.stale_since is None

    followed(test)


def test_a_source_that_is_away_is_logged_once_from_the_start_on(caplog: pytest.LogCaptureFixture) -> None:
    def warnings() -> int:
        return sum("store is away: refused" in message for message in caplog.messages)

    async def test(source: Source, replica: Replica) -> None:
        for _ in range(3):
            await source.tell(StoreUnavailable("refused"))
            await asyncio.sleep(20)
        assert warnings() == 1
        await source.tell(Reset(7), Progress(7), StoreUnavailable("refused"))
        assert warnings() == 2

    followed(test)


def test_subscribers_get_the_replicas_own_record_objects() -> None:
    async def test(source: Source, replica: Replica) -> None:
        await source.tell(Reset(3), at(5, 1), Progress(3))
        told: list[Batch] = []
        replica.subscribe(told.append)
        assert told[0].records == (replica.find(VSID, key(5).ca),)
        await source.tell(at(6, 4), gone(5, 5))
        (batch,) = told[1:]
        assert batch.records[0] is replica.find(VSID, key(6).ca)
        assert batch.records[1] is None
        assert batch.revision == 5

    followed(test)


def test_records_come_in_the_order_of_keys() -> None:
    async def test(source: Source, replica: Replica) -> None:
        await source.tell(Reset(3), at(9, 1), at(5, 2), at(7, 3), Progress(3))
        first = replica.records(VSID, None, 2)
        assert [record.ca for record in first] == [key(5).ca, key(7).ca]
        await source.tell(at(8, 4), gone(9, 5))
        assert [record.ca for record in replica.records(VSID, first[-1].ca, 2)] == [key(8).ca]
        assert replica.vsids() == [VSID]

    followed(test)


def test_an_entry_is_as_the_store_has_it() -> None:
    async def test(source: Source, replica: Replica) -> None:
        pinned = Stored(key(6), Placement(MAC, ProviderAddress(b"abcd"), "hv1", pinned=True), 3, 2)
        known: list[Stored] = [at(5, 1), pinned]
        await source.tell(Reset(3), *known, Progress(3))
        keys: list[Key] = [entry.key for entry in known]
        assert [replica.entry(each) for each in keys] == known
        assert list(replica.entries(Kind.RECORD)) == known
        record = replica.find(VSID, key(6).ca)
        assert record is not None
        assert record.epoch == 0

    followed(test)


def test_a_source_that_is_behind_is_not_believed_until_our_patience_ends() -> None:
    async def main() -> None:
        source = Source()
        replica = Replica(source, patience=0.5)
        running = asyncio.create_task(replica.run())
        await asyncio.sleep(0)
        await source.tell(Reset(9), at(5, 9), Progress(9), ConnectionResetError())
        began = asyncio.get_running_loop().time()
        while host_of(replica, 5) == "hv1":
            await asyncio.sleep(0.01)
            await source.tell(Reset(4), at(5, 4, "hv2"), Progress(4))
        assert asyncio.get_running_loop().time() - began > 0.5
        assert (replica.revision, replica.complete, host_of(replica, 5)) == (4, 4, "hv2")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    in_virtual_time(main())


def test_a_source_that_goes_on_behind_us_is_left() -> None:
    async def test(source: Source, replica: Replica) -> None:
        await source.tell(Reset(3), Progress(3), at(5, 9), ConnectionResetError())
        await asyncio.sleep(0.2)
        await source.tell(Progress(3))
        assert replica.stale_since is not None
        await asyncio.sleep(0.5)
        assert source.asked == [None, 3, 3]
        await source.tell(Progress(9))
        assert replica.stale_since is None

    followed(test)


def test_a_listing_cut_short_changes_nothing() -> None:
    async def test(source: Source, replica: Replica) -> None:
        await source.tell(Reset(3), at(5, 1), at(6, 2), Progress(3))
        await source.tell(Reset(8), at(5, 7, "hv2"), TimeoutError())
        assert (host_of(replica, 5), host_of(replica, 6)) == ("hv1", "hv1")
        await asyncio.sleep(0.2)
        assert source.asked == [None, 3]

    followed(test)


def test_what_is_no_longer_told_of_can_be_told_of_again() -> None:
    async def test(source: Source, replica: Replica) -> None:
        await source.tell(Reset(3), at(5, 1), Progress(3), Stored(key(5), None, 1, 1))
        assert host_of(replica, 5) is None
        await source.tell(at(5, 1))
        assert host_of(replica, 5) == "hv1"

    followed(test)


def test_all_records_of_a_mac_are_found_as_they_come_move_and_go() -> None:
    other = MacAddress.parse("02:00:00:00:01:06")

    async def test(source: Source, replica: Replica) -> None:
        await source.tell(Reset(3), at(5, 1), at(6, 2), Progress(3))

        def found(mac: MacAddress) -> list[CustomerAddress]:
            return sorted(record.ca for record in replica.find_by_mac(VSID, mac))

        assert found(MAC) == [key(5).ca, key(6).ca]
        await source.tell(at(6, 4, mac=other), at(7, 5), gone(5, 6))
        assert found(MAC) == [key(7).ca]
        assert found(other) == [key(6).ca]
        await source.tell(gone(6, 7), gone(7, 8))
        assert found(other) == found(MAC) == []

    followed(test)


def test_whoever_is_told_everything_hears_again_of_what_is_not_complete_yet() -> None:
    async def test(source: Source, replica: Replica) -> None:
        await source.tell(Reset(3), at(5, 1), at(6, 2), Progress(3))
        assert replica.whole_position == replica.history.position
        await source.tell(at(7, 4), gone(6, 5))
        assert replica.history.since(replica.whole_position) == [at(7, 4), gone(6, 5)]
        await source.tell(Progress(4))
        assert replica.history.since(replica.whole_position) == [gone(6, 5)]
        await source.tell(Progress(5))
        assert replica.whole_position == replica.history.position

    followed(test)


def test_who_waits_for_a_revision_hears_when_it_is_there_or_that_it_is_not() -> None:
    async def test(source: Source, replica: Replica) -> None:
        await source.tell(Reset(3), Progress(3))
        waiting = asyncio.create_task(replica.reached(5, timeout=10))
        await source.tell(at(5, 5))
        assert await waiting
        assert not await replica.reached(6, timeout=1)

    followed(test)


def test_a_thousand_watchers_hear_of_a_change() -> None:
    async def test(source: Source, replica: Replica) -> None:
        await source.tell(Reset(3), Progress(3))
        position = replica.history.position
        waiting = [asyncio.create_task(replica.history.changed(position)) for _ in range(1000)]
        await source.tell(at(5, 4))
        await asyncio.gather(*waiting)
        assert replica.history.since(position) == [at(5, 4)]
        assert replica.position_after(3) == position
        assert replica.position_after(5) is None

    followed(test)


def test_a_whole_larger_than_a_batch_is_told_in_several() -> None:
    async def test(source: Source, replica: Replica) -> None:
        many = [
            Stored(RecordKey(VSID, CustomerAddress(number.to_bytes(4))), at(5, 1).value, 1, number + 1)
            for number in range(2500)
        ]
        told: list[Batch] = []
        replica.subscribe(told.append)
        await source.tell(Reset(2500), *many, Progress(2500))
        await asyncio.sleep(0.01)
        late: list[Batch] = []
        replica.subscribe(late.append)
        for batches in (told, late):
            assert max(len(batch.changes) for batch in batches) <= 1000
            assert [change for batch in batches for change in batch.changes] == many
            assert batches[-1].is_synced
            assert sum(batch.network is not None for batch in batches) == 1

    followed(test)


def test_leases_come_and_go_and_what_records_have_is_kept_but_not_for_watchers() -> None:
    async def test(source: Source, replica: Replica) -> None:
        told: list[Batch] = []
        replica.subscribe(told.append)
        await source.tell(Reset(3), at(5, 1), granted(65, 2), granted(66, 3, leased=False), Progress(3))
        position = replica.history.position
        assert (
            replica.granted.grant(ProviderAddress(b"\xc0\x00\x02\x42")) == granted(66, 3, leased=False).value
        )
        assert [lease.pa[3] for lease in replica.granted.leases_of(VSID, key(9).ca)] == [65]
        assert (replica.granted.held({VSID}, "edge-1"), replica.granted.held({VSID}, "hv1")) == (1, 0)
        assert [pa[3] for pa, _ in replica.granted.within(ip_network("192.0.2.64/26"))] == [65, 66]
        later = [granted(66, 4, 9.0, leased=False), granted(67, 5), granted(65, 6, 9.0)]
        await source.tell(*later)
        assert replica.history.since(position) == later[1:]
        assert [change for batch in told for change in batch.changes][-3:] == later
        assert list(replica.entries(Kind.LEASE)) == [granted(65, 6, 9.0), later[0], granted(67, 5)]
        assert replica.granted.leased_vsids() == [VSID]

    followed(test)


def test_a_reset_takes_away_the_leases_that_are_not_told_again() -> None:
    async def test(source: Source, replica: Replica) -> None:
        await source.tell(Reset(3), granted(65, 1), granted(66, 2), granted(67, 3), Progress(3))
        told: list[Batch] = []
        replica.subscribe(told.append)
        told.clear()
        await source.tell(Reset(8), granted(65, 1), granted(66, 7, 9.0), Progress(8))
        (batch,) = told
        assert [(str(change.key), change.lease) for change in batch.changes] == [
            ("lease 192.0.2.66", None),
            ("lease 192.0.2.67", None),
        ]
        assert [lease.pa[3] for lease in replica.granted.leases_in(VSID)] == [65]

    followed(test)


@pytest.mark.parametrize(
    ("now", "is_seen"),
    [
        pytest.param([granted(65, 7, 9.0)], True, id="returned"),
        pytest.param([granted(65, 7, leased=False)], True, id="a record of the same virtual subnet has it"),
        pytest.param([granted(65, 7, vsid=Vsid(5002))], False, id="leased for another virtual subnet"),
        pytest.param([granted(65, 7, leased=False, vsid=Vsid(5002))], False, id="another's record has it"),
        pytest.param([], False, id="forgotten"),
    ],
)
def test_watchers_who_cannot_see_that_a_lease_has_ended_begin_anew(now: list[Stored], is_seen: bool) -> None:
    async def test(source: Source, replica: Replica) -> None:
        await source.tell(Reset(3), granted(65, 1), Progress(3))
        position = replica.history.position
        await source.tell(Reset(8), *now, Progress(8))
        assert replica.history.since(position) == (now if is_seen else None)
        assert replica.position_after(8) is not None

    followed(test)
