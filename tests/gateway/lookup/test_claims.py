"""What writes come to: epochs, pins, claims and freezing, without any store."""

from __future__ import annotations

from ipaddress import ip_network
from typing import cast

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from gateway.lookup.claims import (
    MOST_IN_A_WRITE,
    MOST_OF_A_MAC,
    Claim,
    FlapLimits,
    Mode,
    Reason,
    Refused,
    Write,
    decide,
    next_write,
    unfrozen,
)
from gateway.lookup.entries import Placement, RecordKey, Stored, Value
from policies.addresses import CustomerAddress, ProviderAddress
from policies.model import Translation
from tests.gateway.lookup.entries import CA4, CA6, KEY4, KEY6, MAC, OTHER_MAC, PROVIDER, WEB, at, claim


def stored(value: Value | None, *, key: RecordKey = KEY4, epoch: int = 3) -> Stored:
    return Stored(key, value, epoch, revision=100 + epoch)


def after(writes: tuple[Write, ...], entry: Stored) -> Stored:
    """The entry once the writes are made."""
    for write in writes:
        if write.key == entry.key:
            return Stored(write.key, write.value, write.epoch, entry.revision + 1)
    return entry


def refusal(refused: Claim, *entries: Stored) -> tuple[Reason, Stored | None]:
    with pytest.raises(Refused) as raised:
        decide(refused, entries)
    return raised.value.reason, raised.value.current


def test_first_value_of_a_key_has_epoch_1() -> None:
    assert next_write(None, KEY4, at("hv1")) == Write(KEY4, at("hv1"), 1)


def test_deletion_and_creation_each_raise_the_epoch() -> None:
    assert next_write(stored(at("hv1")), KEY4, None) == Write(KEY4, None, 4)
    assert next_write(stored(None, epoch=4), KEY4, at("hv1")) == Write(KEY4, at("hv1"), 5)


def test_what_is_there_already_is_no_write() -> None:
    assert next_write(stored(at("hv1")), KEY4, at("hv1")) is None
    assert next_write(stored(None), KEY4, None) is None
    assert next_write(None, KEY4, None) is None


def test_epoch_does_not_rise_by_what_readers_do_not_see() -> None:
    hidden = msgspec.structs.replace(at("hv1"), frozen=True, moves=(1.0,))
    assert next_write(stored(at("hv1")), KEY4, hidden) == Write(KEY4, hidden, 3)
    assert next_write(stored(at("hv1")), KEY4, at("hv1", pinned=True)) == Write(
        KEY4, at("hv1", pinned=True), 4
    )


def test_announced_move_is_counted_and_keeps_the_translation() -> None:
    before = msgspec.structs.replace(at("hv1"), moves=(900.0,))
    writes = decide(claim("hv2", now=1_000.0), [stored(before)])
    assert writes == (Write(KEY4, msgspec.structs.replace(at("hv2"), moves=(900.0, 1_000.0)), 4),)


def test_moves_that_are_long_ago_are_forgotten() -> None:
    before = msgspec.structs.replace(at("hv1"), moves=(100.0, 200.0, 819.9, 820.0))
    (write,) = decide(claim("hv2", now=1_000.0), [stored(before)])
    assert cast("Placement", write.value).moves == (820.0, 1_000.0)


def test_clock_that_is_set_back_neither_freezes_nor_excuses_for_ever() -> None:
    entry = stored(at("hv1"))
    for number in range(4):
        entry = after(decide(claim(f"hv{number + 2}", now=1e9), [entry]), entry)
    entry = after(decide(claim("hv1", now=1e9 - 3_600), [entry]), entry)
    assert entry.value == msgspec.structs.replace(at("hv1"), moves=(1e9 - 3_600,))


def test_fifth_move_in_time_is_made_and_freezes() -> None:
    entry = stored(at("hv1"))
    for number in range(5):
        assert not cast("Placement", entry.value).frozen
        entry = after(decide(claim(f"hv{number % 2 + 2}", now=1_000.0 + 44 * number), [entry]), entry)
    assert cast("Placement", entry.value).frozen
    assert entry.epoch == 8
    assert refusal(claim("hv1", now=1_176.0), entry) == (Reason.FROZEN, entry)
    # It does not thaw by itself.
    assert refusal(claim("hv1", now=9_999.0), entry) == (Reason.FROZEN, entry)


def test_one_frozen_address_holds_all_of_its_mac() -> None:
    frozen = stored(msgspec.structs.replace(at("hv1"), frozen=True), key=KEY6)
    assert refusal(claim("hv2"), stored(at("hv1")), frozen) == (Reason.FROZEN, frozen)


def test_frozen_record_is_moved_by_orchestration_and_stays_frozen() -> None:
    frozen = stored(msgspec.structs.replace(at("hv1"), frozen=True, moves=(1.0,)))
    (write,) = decide(claim("hv2", Mode.ORCHESTRATE), [frozen])
    assert write.value == msgspec.structs.replace(at("hv2"), frozen=True, moves=(1.0,))
    assert unfrozen(write.value) == at("hv2")


def test_other_provider_address_of_the_same_host_is_no_move() -> None:
    elsewhere = msgspec.structs.replace(claim("hv1"), pa=ProviderAddress.parse("2001:db8::11"))
    for mode in Mode:
        (write,) = decide(msgspec.structs.replace(elsewhere, mode=mode), [stored(at("hv1"))])
        assert write.value == msgspec.structs.replace(at("hv1"), pa=elsewhere.pa)
        assert write.epoch == 4


def test_new_address_of_a_known_mac_goes_where_it_is() -> None:
    writes = decide(claim("hv1", Mode.REGISTER, addresses=(CA6, CA4)), [stored(at("hv1"))])
    assert writes == (Write(KEY6, at("hv1"), 1),)


def test_address_named_twice_is_written_once() -> None:
    writes = decide(claim("hv1", Mode.REGISTER, addresses=(CA4, CA4)), [])
    assert writes == (Write(KEY4, at("hv1"), 1),)


def test_pinned_record_of_the_same_host_is_left_as_it_is() -> None:
    pinned = stored(at("hv1", pinned=True))
    elsewhere = msgspec.structs.replace(claim("hv1"), pa=ProviderAddress.parse("2001:db8::11"))
    assert decide(elsewhere, [pinned]) == ()


def test_deleted_address_of_another_mac_is_free() -> None:
    tombstone = stored(None, key=KEY6, epoch=7)
    assert decide(claim("hv1", Mode.REGISTER, addresses=(CA6,)), [tombstone]) == (Write(KEY6, at("hv1"), 8),)


def test_nothing_recorded_and_nothing_named_is_unknown() -> None:
    assert refusal(claim("hv1")) == (Reason.UNKNOWN, None)
    assert refusal(claim("hv1"), stored(None)) == (Reason.UNKNOWN, None)


def test_mac_gets_no_more_addresses_by_claims_than_move_in_one_write() -> None:
    addresses = [CustomerAddress.parse(f"10.0.2.{number}") for number in range(MOST_OF_A_MAC + 1)]
    recorded = [stored(at("hv1"), key=RecordKey(WEB, ca)) for ca in addresses]

    assert len(decide(claim("hv1", addresses=tuple(addresses[:-1])), [])) == MOST_OF_A_MAC
    one_more = claim("hv1", addresses=(addresses[-1],))
    assert refusal(one_more, *recorded[:-1]) == (Reason.TOO_MANY, None)
    # What an operator has written beyond that moves all the same.
    assert len(decide(claim("hv2"), recorded)) == MOST_OF_A_MAC + 1


POOL = ip_network("203.0.113.0/24")
FIRST, SECOND, THIRD, ELSEWHERE = (
    ProviderAddress.parse(text) for text in ("203.0.113.1", "203.0.113.2", "203.0.113.3", "198.51.99.1")
)


def rewriting(wanted: Claim, *candidates: ProviderAddress) -> Claim:
    return msgspec.structs.replace(
        wanted, translation=Translation.REWRITE, pools=(POOL,), candidates=candidates
    )


def rewritten(pa: ProviderAddress, host: str = "hv1") -> Placement:
    return Placement(MAC, pa, host, Translation.REWRITE)


def test_candidate_that_the_mac_has_already_or_that_is_named_twice_is_given_once() -> None:
    """Else its own claim would be refused for ever."""
    addresses = tuple(CustomerAddress.parse(f"10.0.2.{number}") for number in (1, 2))
    wanted = rewriting(claim("hv1", Mode.REGISTER, addresses=addresses), FIRST, SECOND, SECOND, THIRD)
    writes = decide(wanted, [stored(rewritten(FIRST))])
    assert [cast("Placement", write.value).pa for write in writes] == [SECOND, THIRD]


def test_rewritten_record_keeps_what_the_host_may_have_and_changes_what_it_may_not() -> None:
    for mode in Mode:
        kept = rewriting(claim("hv1", mode), SECOND)
        assert decide(kept, [stored(rewritten(FIRST))]) == ()
        assert decide(kept, [stored(rewritten(ELSEWHERE))]) == (Write(KEY4, rewritten(SECOND), 4),)


def test_encapsulated_record_stays_so_in_a_subnet_that_is_rewritten_now() -> None:
    (write,) = decide(rewriting(claim("hv2", Mode.ORCHESTRATE), FIRST), [stored(at("hv1"))])
    assert write.value == at("hv2")


def test_host_without_pools_gets_no_rewritten_record() -> None:
    entry = stored(rewritten(FIRST))
    assert refusal(claim("hv2", Mode.ORCHESTRATE), entry) == (Reason.NO_ADDRESS, entry)
    new = msgspec.structs.replace(
        claim("hv2", Mode.REGISTER, addresses=(CA4,)), translation=Translation.REWRITE
    )
    assert refusal(new) == (Reason.NO_ADDRESS, None)


def test_address_of_the_other_family_is_no_candidate() -> None:
    six = stored(rewritten(ProviderAddress.parse("2001:db8::1")), key=KEY6)
    assert refusal(rewriting(claim("hv1"), FIRST), six) == (Reason.NO_ADDRESS, six)


def test_rewritten_records_of_a_mac_are_no_more_than_change_in_one_write() -> None:
    many = MOST_IN_A_WRITE // 3
    addresses = [CustomerAddress.parse(f"10.0.2.{number}") for number in range(many + 1)]
    recorded = [
        stored(rewritten(ProviderAddress.parse(f"203.0.113.{n}")), key=RecordKey(WEB, ca))
        for n, ca in enumerate(addresses)
    ]
    assert len(decide(rewriting(claim("hv2", Mode.ORCHESTRATE)), recorded[:-1])) == many
    assert refusal(rewriting(claim("hv2", Mode.ORCHESTRATE)), *recorded) == (Reason.TOO_MANY, None)
    # What changes nothing is refused for nothing.
    assert decide(rewriting(claim("hv1")), recorded) == ()


_moves = st.tuples(
    st.sampled_from(sorted(PROVIDER)[:3]),
    st.sampled_from(Mode),
    st.floats(-200.0, 200.0, allow_nan=False),
    st.sampled_from((MAC, MAC, MAC, OTHER_MAC)),
)


@hypothesis.given(st.lists(_moves, max_size=30), st.booleans())
def test_whatever_is_claimed_epochs_never_fall_and_a_pin_never_moves(
    moves: list[tuple[str, Mode, float, bytes]], is_pinned: bool
) -> None:
    entries = {KEY4: stored(at("hv1", pinned=is_pinned)), KEY6: stored(at("hv1"), key=KEY6)}
    now = 1_000.0
    for host, mode, step, mac in moves:
        now += step
        wanted = Claim(WEB, type(MAC)(mac), PROVIDER[host], host, mode, now, (CA4,), FlapLimits(3, 100.0))
        try:
            writes = decide(wanted, entries.values())
        except Refused:
            continue
        for write in writes:
            entry = entries[cast("RecordKey", write.key)]
            has_moved = cast("Placement", write.value).host != cast("Placement", entry.value).host
            assert write.epoch == entry.epoch + has_moved
            assert not cast("Placement", entry.value).pinned
            assert not (cast("Placement", entry.value).frozen and mode is Mode.ANNOUNCE and has_moved)
            assert len(cast("Placement", write.value).moves) <= 3
            entries[cast("RecordKey", write.key)] = after((write,), entry)
        if writes and not is_pinned:
            assert {cast("Placement", entry.value).host for entry in entries.values()} == {host}
