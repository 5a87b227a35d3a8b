"""Whose provider addresses are, without any store."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from gateway.lookup.claims import Write
from gateway.lookup.entries import Grant, Key, LeaseKey, Placement, RecordKey, Stored, Value
from gateway.lookup.grants import QUARANTINE, concerned, grant_writes, holders, is_free, may_take
from gateway.lookup.store import Taken
from policies.addresses import ProviderAddress
from policies.model import Translation
from tests.gateway.lookup.entries import CA4, CA6, DATABASE, HOST_KEY, KEY4, KEY6, MAC, VALUES, WEB, at

FIRST, SECOND = LeaseKey(ProviderAddress.parse("203.0.113.1")), LeaseKey(ProviderAddress.parse("203.0.113.2"))
HELD = Grant(WEB, CA4, "hv1")
RETURNED = msgspec.structs.replace(HELD, returned_at=1_000.0)


class Found(dict[Key, Stored]):
    """What is stored."""

    def __call__(self, key: Key) -> Stored | None:
        return self.get(key)


def stored(values: dict[Key, Value | None]) -> Found:
    found = Found()
    for number, (key, value) in enumerate(values.items()):
        found[key] = Stored(key, value, 5, 10 + number)
    return found


def rewritten(key: LeaseKey, host: str = "hv1") -> Placement:
    return Placement(MAC, key.pa, host, Translation.REWRITE)


def refused(writes: Sequence[Write], find: Found, now: float = 1_000.0) -> tuple[LeaseKey, Stored | None]:
    with pytest.raises(Taken) as taken:
        grant_writes(writes, find, now)
    return taken.value.key, taken.value.holder


def test_address_is_free_unless_it_is_held_or_was_given_back_a_moment_ago() -> None:
    assert is_free(None, 0.0)
    assert not is_free(HELD, 1e9)
    assert not is_free(RETURNED, 1_000.0)
    assert not is_free(RETURNED, 999.9 + QUARANTINE)
    assert is_free(RETURNED, 1_000.0 + QUARANTINE)


def test_address_that_was_given_back_later_than_now_is_in_quarantine() -> None:
    assert not is_free(RETURNED, 0.0)
    assert not is_free(RETURNED, 1_000.0 - 2 * QUARANTINE)


def test_own_address_may_be_taken_at_any_time_and_by_nobody_else() -> None:
    for grant in (HELD, RETURNED):
        assert may_take(grant, WEB, CA4, 1_000.0)
        assert not may_take(grant, DATABASE, CA4, 1_000.0)
        assert not may_take(grant, WEB, CA6, 1_000.0)


def test_what_has_no_address_of_its_own_comes_to_nothing() -> None:
    find = stored({KEY4: at("hv1"), HOST_KEY: VALUES[HOST_KEY]})
    writes = [Write(KEY4, at("hv2"), 6), Write(HOST_KEY, None, 6), Write(KEY6, at("hv1"), 1)]
    assert grant_writes(writes, find, 1_000.0) == ()
    assert list(concerned(writes, find)) == []


def test_address_in_exchange_for_another_is_given_back_before_the_new_one_is_taken() -> None:
    find = stored({KEY4: rewritten(FIRST), FIRST: HELD})
    writes = [Write(KEY4, rewritten(SECOND, "hv2"), 6)]
    assert set(concerned(writes, find)) == {FIRST, SECOND}
    assert list(holders((FIRST, SECOND), find)) == [KEY4]
    assert grant_writes(writes, find, 1_000.0) == (
        Write(FIRST, RETURNED, 6),
        Write(SECOND, Grant(WEB, CA4, "hv2"), 1),
    )


def test_two_records_of_one_write_take_no_address_both() -> None:
    writes = [Write(KEY4, rewritten(FIRST), 1), Write(KEY6, rewritten(FIRST), 1)]
    assert refused(writes, stored({})) == (FIRST, None)


def test_records_of_one_write_do_not_exchange_their_addresses() -> None:
    """Packets to either are under way."""
    find = stored(
        {KEY4: rewritten(FIRST), KEY6: rewritten(SECOND), FIRST: HELD, SECOND: Grant(WEB, CA6, "hv1")}
    )
    writes = [Write(KEY4, rewritten(SECOND), 6), Write(KEY6, rewritten(FIRST), 6)]
    assert refused(writes, find) == (SECOND, find[KEY6])


def test_record_that_was_rewritten_before_there_were_grants_takes_its_address_when_it_is_written() -> None:
    find = stored({KEY4: rewritten(FIRST)})
    moved = [Write(KEY4, rewritten(FIRST, "hv2"), 6)]
    assert grant_writes(moved, find, 1_000.0) == (Write(FIRST, Grant(WEB, CA4, "hv2"), 1),)
    assert grant_writes([Write(KEY4, None, 6)], find, 1_000.0) == ()


def test_address_that_another_has_got_meanwhile_is_not_given_back_for_it() -> None:
    other = Grant(DATABASE, CA4, "hv2")
    find = stored({KEY4: rewritten(FIRST), FIRST: other})
    assert grant_writes([Write(KEY4, None, 6)], find, 1_000.0) == ()


def test_lease_of_the_same_customer_address_becomes_its_records_own() -> None:
    find = stored({FIRST: Grant(WEB, CA4, "edge-1", leased=True)})
    assert grant_writes([Write(KEY4, rewritten(FIRST), 1)], find, 1_000.0) == (Write(FIRST, HELD, 6),)


def test_holder_is_the_record_that_has_the_address_and_no_other_of_the_same_customer_address() -> None:
    lease = Grant(DATABASE, CA4, "edge-1", leased=True)
    key = RecordKey(DATABASE, CA4)
    for value in (None, at("hv1"), rewritten(SECOND)):
        find = stored({FIRST: lease, key: value})
        assert refused([Write(KEY4, rewritten(FIRST), 1)], find) == (FIRST, None)
    find = stored({FIRST: lease, key: rewritten(FIRST)})
    assert refused([Write(KEY4, rewritten(FIRST), 1)], find) == (FIRST, find[key])


def test_refusal_names_the_address() -> None:
    assert str(Taken(FIRST, None)) == "203.0.113.1 is taken"
