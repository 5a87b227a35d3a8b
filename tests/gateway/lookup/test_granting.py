"""Which addresses claims and records get of their hosts' pools."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec
import pytest

from gateway.lookup.claims import Claim, Mode, Reason, Refused
from gateway.lookup.entries import Grant, LeaseKey, RecordKey, Stored
from gateway.lookup.grants import QUARANTINE
from gateway.lookup.outcomes import Unacceptable
from gateway.lookup.store import Expect, Taken
from policies.addresses import CustomerAddress
from policies.model import LookupRecord, Translation
from tests.gateway.lookup.pooled import House, pooled, with_house, with_houses
from tests.gateway.lookup.serving import DB, HV1, HV2, OPERATOR, WEB, ca, mac, pa

CA4, CA6 = ca("10.0.1.5"), ca("fd00:1::5")
KEY = RecordKey(WEB, CA4)
SHARED = ip_network("203.0.113.0/28")
PAS = {"hv1": pa("198.51.100.11"), "hv2": pa("198.51.100.12")}


async def claimed(
    house: House, host: str, *addresses: CustomerAddress, **more: Any
) -> dict[Any, LookupRecord]:
    asked: dict[str, Any] = {"vsid": WEB, "mac": mac(5), "pa": PAS[host], "addresses": addresses} | more
    answer = await house.authority.claim(HV1 if host == "hv1" else HV2, **asked)
    return {record.ca: record for record in answer.records}


async def put(house: House, host: str = "hv1", key: RecordKey = KEY, **more: Any) -> LookupRecord:
    asked: dict[str, Any] = {"mac": mac(5), "host": host, "expected": Expect.ABSENT} | more
    entry = await house.authority.put(OPERATOR, key, **asked)
    assert entry.record is not None
    return entry.record


async def grant(house: House, record: LookupRecord) -> Grant:
    entry = await house.store.get(LeaseKey(record.pa))
    assert entry is not None
    assert isinstance(entry.value, Grant)
    return entry.value


def test_claim_in_a_rewritten_subnet_gets_an_address_of_its_hosts_pools_for_each_ca() -> None:
    async def test(house: House) -> None:
        found = await claimed(house, "hv1", CA4, CA6)
        assert {record.translation for record in found.values()} == {Translation.REWRITE}
        assert ip_address(bytes(found[CA4].pa)) in SHARED
        assert ip_address(bytes(found[CA6].pa)) in ip_network("2001:db8:1::/112")
        assert await grant(house, found[CA4]) == Grant(WEB, CA4, "hv1")
        assert await claimed(house, "hv1", CA4, CA6) == found

    with_house(test)


def test_claim_in_an_encapsulated_subnet_takes_no_address() -> None:
    async def test(house: House) -> None:
        found = await claimed(house, "hv1", ca("10.0.2.5"), vsid=DB)
        assert found[ca("10.0.2.5")].pa == PAS["hv1"]
        assert {each.held for each in house.authority.granting.usage()} == {0}

    with_house(test)


def test_vm_that_moves_keeps_the_address_that_both_hosts_may_have_and_changes_the_other() -> None:
    async def test(house: House) -> None:
        before = await claimed(house, "hv1", CA4, CA6)
        after = await claimed(house, "hv2")
        assert after[CA4].pa == before[CA4].pa
        assert after[CA6].pa != before[CA6].pa
        assert ip_address(bytes(after[CA6].pa)) in ip_network("2001:db8:2::/112")
        assert (await grant(house, before[CA6])).returned_at == house.clock.now
        assert await grant(house, after[CA4]) == Grant(WEB, CA4, "hv2")
        back = await claimed(house, "hv1")
        assert back[CA6].pa == before[CA6].pa

    with_house(test)


def test_claim_at_a_host_without_a_pool_of_the_family_is_refused_and_changes_nothing() -> None:
    async def test(house: House) -> None:
        with pytest.raises(Refused) as refused:
            await house.authority.claim(
                OPERATOR, vsid=WEB, mac=mac(5), pa=PAS["hv1"], host="hv1", addresses=(CA4, CA6)
            )
        assert refused.value.reason is Reason.NO_ADDRESS
        assert await house.store.get(KEY) is None

    network = pooled()
    hv1, *others = network.hosts
    with_house(
        test,
        msgspec.structs.replace(network, hosts=(msgspec.structs.replace(hv1, pools=hv1.pools[:1]), *others)),
    )


def test_claims_beyond_a_pool_are_refused_until_an_address_is_out_of_quarantine() -> None:
    async def test(house: House) -> None:
        for number in range(14):
            await claimed(house, "hv1", ca(f"10.0.1.{10 + number}"), mac=mac(100 + number))
        with pytest.raises(Refused) as refused:
            await claimed(house, "hv1", CA4)
        assert refused.value.reason is Reason.NO_ADDRESS
        gone = house.replica.find(WEB, ca("10.0.1.10"))
        assert gone is not None
        await house.authority.delete(OPERATOR, RecordKey(WEB, gone.ca), Expect.ANY)
        with pytest.raises(Refused):
            await claimed(house, "hv1", CA4)
        house.clock.now += QUARANTINE
        assert (await claimed(house, "hv1", CA4))[CA4].pa == gone.pa

    with_house(test)


def test_vm_that_was_gone_gets_its_address_back_within_the_quarantine() -> None:
    async def test(house: House) -> None:
        before = (await claimed(house, "hv1", CA4))[CA4]
        await house.authority.delete(OPERATOR, KEY, Expect.ANY)
        assert (await claimed(house, "hv1", CA4))[CA4].pa == before.pa

    with_house(test)


def test_hosts_that_claim_at_two_lookup_nodes_at_once_each_get_an_address_of_their_own() -> None:
    async def test(houses: Sequence[House]) -> None:
        asked = [
            claimed(
                houses[number % 2], f"hv{number % 2 + 1}", ca(f"10.0.1.{10 + number}"), mac=mac(100 + number)
            )
            for number in range(14)
        ]
        found = [record for each in await asyncio.gather(*asked) for record in each.values()]
        assert len({record.pa for record in found}) == 14

    with_houses(test, 2)


def test_claim_whose_candidate_is_taken_meanwhile_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(house: House) -> None:
        claim, fouls = house.store.claim, 3

        async def overtaken(asked: Claim) -> list[Stored]:
            nonlocal fouls
            if fouls:
                fouls -= 1
                taken = Grant(WEB, ca(f"10.0.1.{200 + fouls}"), "hv2")
                await house.store.put(LeaseKey(asked.candidates[0]), taken, Expect.ANY)
            return await claim(asked)

        monkeypatch.setattr(house.store, "claim", overtaken)
        record = (await claimed(house, "hv1", CA4))[CA4]
        assert await grant(house, record) == Grant(WEB, CA4, "hv1")
        assert fouls == 0

    with_house(test)


def test_record_that_is_rewritten_is_put_with_a_free_address_or_the_one_that_is_named() -> None:
    async def test(house: House) -> None:
        found = await put(house)
        assert found.translation is Translation.REWRITE
        assert ip_address(bytes(found.pa)) in SHARED
        other = pa("203.0.113.3") if found.pa != pa("203.0.113.3") else pa("203.0.113.4")
        again = await put(house, pa=other, expected=found.epoch)
        assert again.pa == other
        assert (await grant(house, found)).returned_at is not None

    with_house(test)


def test_record_that_is_put_without_an_address_keeps_what_its_host_may_have() -> None:
    async def test(house: House) -> None:
        found = await put(house)
        assert (await put(house, "hv2", expected=Expect.ANY)).pa == found.pa
        key = RecordKey(WEB, CA6)
        six = await put(house, key=key)
        moved = await put(house, "hv2", key=key, expected=Expect.ANY)
        assert moved.pa != six.pa
        assert ip_address(bytes(moved.pa)) in ip_network("2001:db8:2::/112")

    with_house(test)


def test_record_changes_the_way_it_is_carried_both_ways() -> None:
    async def test(house: House) -> None:
        first = await put(house)
        plain = await put(house, expected=first.epoch, translation=Translation.ENCAP)
        assert (plain.translation, plain.pa) == (Translation.ENCAP, PAS["hv1"])
        assert (await grant(house, first)).returned_at == house.clock.now
        assert (await put(house, expected=plain.epoch)).translation is Translation.ENCAP
        again = await put(house, expected=plain.epoch, translation=Translation.REWRITE)
        assert (again.translation, again.pa) == (Translation.REWRITE, first.pa)

    with_house(test)


def test_record_is_not_put_with_the_address_of_another() -> None:
    async def test(house: House) -> None:
        first = await put(house)
        with pytest.raises(Taken) as taken:
            await put(house, key=RecordKey(WEB, ca("10.0.1.6")), mac=mac(6), pa=first.pa)
        assert taken.value.holder is not None
        assert taken.value.holder.record == first
        await house.authority.delete(OPERATOR, KEY, Expect.ANY)
        with pytest.raises(Taken) as taken:
            await put(house, key=RecordKey(WEB, ca("10.0.1.6")), mac=mac(6), pa=first.pa)
        assert taken.value.holder is None
        house.clock.now += QUARANTINE
        await put(house, key=RecordKey(WEB, ca("10.0.1.6")), mac=mac(6), pa=first.pa)

    with_house(test)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("198.51.100.11", KEY),
        ("192.0.2.130", KEY),
        ("203.0.113.0", KEY),
        ("203.0.113.15", KEY),
        ("2001:db8:1::5", KEY),
        ("203.0.113.3", RecordKey(WEB, CA6)),
        ("2001:db8:2::5", RecordKey(WEB, CA6)),
    ],
)
def test_rewritten_record_with_an_address_that_its_host_cannot_give_it_is_unacceptable(
    text: str, key: RecordKey
) -> None:
    async def test(house: House) -> None:
        with pytest.raises(Unacceptable):
            await put(house, key=key, pa=pa(text))
        assert await house.store.get(key) is None

    with_house(test)


def test_put_where_the_pool_is_empty_is_refused() -> None:
    async def test(house: House) -> None:
        for number in range(14):
            await put(house, key=RecordKey(WEB, ca(f"10.0.1.{10 + number}")), mac=mac(100 + number))
        with pytest.raises(Refused) as refused:
            await put(house)
        assert refused.value.reason is Reason.NO_ADDRESS

    with_house(test)


def test_orchestrated_move_of_a_rewritten_vm_gives_it_an_address_of_its_new_host() -> None:
    async def test(house: House) -> None:
        before = await claimed(house, "hv1", CA6)
        answer = await house.authority.claim(
            OPERATOR, vsid=WEB, mac=mac(5), pa=PAS["hv2"], mode=Mode.ORCHESTRATE, host="hv2", wait=()
        )
        (record,) = answer.records
        assert record.pa != before[CA6].pa
        assert ip_address(bytes(record.pa)) in ip_network("2001:db8:2::/112")

    with_house(test)
