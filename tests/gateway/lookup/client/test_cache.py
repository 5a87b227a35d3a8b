"""What a client remembers, and for how long it may believe it."""

from __future__ import annotations

from gateway.lookup.client.cache import Cache, Keeper
from gateway.lookup.entries import RecordKey, Stored
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import LookupRecord

WEB, DB = Vsid(5001), Vsid(5002)
KEY = RecordKey(WEB, CustomerAddress.parse("10.0.1.5"))


def record(host: str, revision: int, key: RecordKey = KEY) -> LookupRecord:
    mac, pa = MacAddress(b"\x02\0\0\0\0\x05"), ProviderAddress.parse("198.51.100.11")
    return LookupRecord(key.vsid, key.ca, mac, pa, host, epoch=1, revision=revision)


HERE = record("hv1", 10)
THERE = record("hv2", 20)


def cache() -> Cache:
    return Cache(3, seconds=30.0, seconds_absent=2.0)


def live(revision: int, vsid: Vsid | None = None) -> Keeper:
    keeper = Keeper(vsid)
    keeper.revision = revision
    return keeper


def test_an_answer_is_good_for_a_while() -> None:
    known = cache()
    known.answered(KEY, HERE, 10, now=0)
    assert known.find(KEY, now=29.9) == (HERE,)
    assert known.find(KEY, now=30) is None
    assert KEY in known


def test_that_there_is_no_record_is_good_for_a_shorter_while() -> None:
    known = cache()
    known.answered(KEY, None, 10, now=0)
    assert known.find(KEY, now=1.9) == (None,)
    assert known.find(KEY, now=2) is None


def test_the_one_that_was_asked_for_longest_ago_is_forgotten_first() -> None:
    known = cache()
    keys = [RecordKey(WEB, CustomerAddress.parse(f"10.0.1.{number}")) for number in range(4)]
    for key in keys[:3]:
        known.answered(key, None, 10, now=0)
    assert known.find(keys[0], now=0) is not None
    known.answered(keys[3], None, 10, now=0)
    assert [key in known for key in keys] == [True, False, True, True]
    assert len(known) == 3


def test_an_older_answer_never_replaces_a_newer_one() -> None:
    known = cache()
    assert known.answered(KEY, THERE, 20, now=0) == THERE
    assert known.answered(KEY, HERE, 15, now=40) == THERE
    # A store that was made anew begins with low revisions.
    assert known.answered(KEY, HERE, 15, now=61) == HERE


def test_what_a_watch_keeps_is_good_for_as_long_as_it_runs_and_then_for_a_while() -> None:
    known, keeper = cache(), live(10)
    known.keep(keeper)
    known.answered(KEY, HERE, 10, now=0)
    assert known.find(KEY, now=10_000) == (HERE,)
    known.told(keeper, Stored.of(THERE), now=10_000)
    assert known.find(KEY, now=20_000) == (THERE,)
    known.told(keeper, Stored(KEY, None, 2, 30), now=20_000)
    assert known.find(KEY, now=30_000) == (None,)
    known.told(keeper, Stored.of(record("hv3", 40)), now=30_000)
    known.lose(keeper, now=40_000)
    assert known.find(KEY, now=40_029) == (record("hv3", 40),)
    assert known.find(KEY, now=40_030) is None


def test_a_watch_that_resumes_keeps_what_it_kept() -> None:
    known, keeper = cache(), live(10)
    known.keep(keeper)
    known.answered(KEY, HERE, 10, now=0)
    known.lose(keeper, now=100)
    known.keep(keeper)
    assert known.find(KEY, now=10_000) == (HERE,)


def test_an_answer_of_a_node_that_lags_behind_the_watch_is_not_kept_by_it() -> None:
    known = cache()
    known.keep(live(25))
    known.answered(KEY, HERE, 15, now=0)  # the move of revision 20 has been told already
    assert known.find(KEY, now=29) == (HERE,)
    assert known.find(KEY, now=30) is None


def test_a_watch_of_one_virtual_subnet_keeps_no_other() -> None:
    known = cache()
    known.keep(live(10, DB))
    known.answered(KEY, HERE, 10, now=0)
    assert known.find(KEY, now=30) is None


def test_changes_of_what_nobody_asked_for_are_not_remembered() -> None:
    known, keeper = cache(), live(10)
    known.keep(keeper)
    known.told(keeper, Stored.of(THERE), now=0)
    assert len(known) == 0


def test_an_older_change_moves_nothing_back() -> None:
    known, keeper = cache(), live(10)
    known.keep(keeper)
    known.answered(KEY, THERE, 20, now=0)
    known.told(keeper, Stored.of(HERE), now=0)
    assert known.find(KEY, now=0) == (THERE,)


def test_what_was_written_is_asked_for_again() -> None:
    known = cache()
    known.answered(KEY, HERE, 10, now=0)
    known.forget(KEY)
    assert known.find(KEY, now=0) is None
