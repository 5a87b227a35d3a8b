from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import msgspec
import pytest

from gateway.http.principals import Principal
from gateway.lookup import authority as authorities
from gateway.lookup.alerts import AlertKind
from gateway.lookup.authority import Authority, NoRecord
from gateway.lookup.claims import FlapLimits, Mode, Reason, Refused
from gateway.lookup.entries import Kind, NamedKey, Placement, RecordKey, Stored
from gateway.lookup.follow import follow
from gateway.lookup.network import apply
from gateway.lookup.outcomes import Forbidden, Unacceptable
from gateway.lookup.replica import Replica
from gateway.lookup.store import Conflict, Expect, StoreUnavailable
from gateway.lookup.stores.memory import MemoryStore
from policies.addresses import Vsid, gateway_mac
from policies.model import LookupRecord, ProviderHost
from policies.services import Role
from tests.gateway.lookup.serving import (
    BLUE,
    GATEWAY,
    HV1,
    HV2,
    HV3,
    NETWORK,
    OPERATOR,
    READER,
    WEB,
    ca,
    mac,
    pa,
)

KEY = RecordKey(WEB, ca("10.0.1.5"))
PA1, PA2 = pa("198.51.100.11"), pa("198.51.100.12")


class House(NamedTuple):
    """An authority over a store of its own."""

    authority: Authority
    store: MemoryStore
    replica: Replica

    async def place(self, key: RecordKey, number: int, host: str, **more: Any) -> Stored:
        owner = next(each for each in NETWORK.hosts if each.name == host)
        value = Placement(mac(number), owner.provider_addresses[0], host, **more)
        stored = await self.store.put(key, value, Expect.ANY)
        assert await self.replica.reached(stored.revision, 5)
        return stored


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def authority(clock: Clock | None = None) -> AsyncIterator[House]:
    store = MemoryStore()
    await apply(store, NETWORK)
    replica = Replica(partial(follow, store))
    running = asyncio.create_task(replica.run())
    assert await replica.reached(len(NETWORK.hosts) + len(NETWORK.tenants) + 1, 5)
    ticking = clock or Clock()
    yield House(Authority(store, replica, FlapLimits(), now=ticking, clock=ticking), store, replica)
    running.cancel()
    await asyncio.wait([running])


def with_authority(test: Callable[[House], Awaitable[None]]) -> None:
    async def main() -> None:
        async with authority() as house:
            await test(house)

    asyncio.run(main())


async def moved(house: House, principal: Principal, **changed: Any) -> tuple[LookupRecord, ...]:
    """Claim KEY's VM for hv1, but for what is named otherwise."""
    asked: dict[str, Any] = {"vsid": WEB, "mac": mac(5), "pa": PA1} | changed
    return (await house.authority.claim(principal, **asked)).records


def test_host_claims_its_vm_and_reads_it_back_at_once() -> None:
    async def test(house: House) -> None:
        records = await moved(house, HV1, addresses=(KEY.ca,))
        assert [(each.host, each.pa, each.epoch) for each in records] == [("hv1", PA1, 1)]
        assert house.replica.find(WEB, KEY.ca) == records[0]
        assert house.authority.alerts.counts.total() == 0

    with_authority(test)


def test_claim_is_judged_by_the_network_that_the_store_has_by_now() -> None:
    async def test(house: House) -> None:
        hv9 = ProviderHost("hv9", (pa("198.51.100.19"),), ("red",))
        await house.store.put(NamedKey(Kind.HOST, "hv9"), hv9, Expect.ABSENT)
        assert hv9 not in house.replica.network.hosts
        principal = Principal("hv9", Role.HOST)
        records = await moved(house, principal, pa=hv9.provider_addresses[0], addresses=(KEY.ca,))
        assert [each.host for each in records] == ["hv9"]
        assert house.authority.alerts.counts.total() == 0

    with_authority(test)


def test_host_claims_no_more_records_than_it_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorities, "MOST_OF_A_HOST", 2)

    async def test(house: House) -> None:
        await moved(house, HV1, addresses=(KEY.ca, ca("fd00:1::5")))
        with pytest.raises(Refused) as refused:
            await moved(house, HV1, mac=mac(6), addresses=(ca("10.0.1.6"),))
        assert refused.value.reason is Reason.TOO_MANY
        await moved(house, HV1, addresses=(KEY.ca,))  # which it has
        await moved(house, OPERATOR, mac=mac(6), addresses=(ca("10.0.1.6"),))
        await house.store.delete(KEY, Expect.ANY)
        await house.place(RecordKey(WEB, ca("10.0.1.6")), 6, "hv2")
        await moved(house, HV1, mac=mac(6))

    with_authority(test)


def test_repeated_claim_changes_nothing() -> None:
    async def test(house: House) -> None:
        first = await moved(house, HV1, addresses=(KEY.ca,))
        assert await moved(house, HV1, addresses=(KEY.ca,)) == first
        assert await moved(house, HV1, mode=Mode.REGISTER) == first

    with_authority(test)


@pytest.mark.parametrize(
    ("principal", "asked"),
    [
        (READER, {}),
        (GATEWAY, {}),
        (HV2, {}),
        (HV1, {"pa": pa("198.51.100.99")}),
        (HV1, {"host": "hv2"}),
        (HV1, {"host": "hv2", "pa": PA2}),
        (HV1, {"mode": Mode.ORCHESTRATE}),
        (HV1, {"vsid": BLUE}),
        (HV1, {"vsid": Vsid(9999)}),
        (HV1, {"addresses": (ca("10.0.2.5"),)}),
        (HV1, {"addresses": (ca("10.0.1.1"),)}),
        (HV1, {"addresses": (ca("10.0.1.0"),)}),
        (HV1, {"addresses": (ca("10.0.1.255"),)}),
        (HV1, {"addresses": (ca("224.0.0.5"),)}),
        (HV1, {"addresses": (ca("fd00:1::"),)}),
        (HV1, {"addresses": (ca("fe80::5"),)}),
        (HV1, {"mac": gateway_mac(WEB)}),
        (HV1, {"mac": mac(0)[:0] + b"\x01" + mac(5)[1:]}),
        (Principal("hv9", Role.HOST), {}),
    ],
    ids=str,
)
def test_claim_beyond_what_its_claimant_may_is_forbidden_counted_and_changes_nothing(
    principal: Principal, asked: dict[str, Any]
) -> None:
    async def test(house: House) -> None:
        before = await house.place(KEY, 5, "hv1")
        if "mac" in asked:
            asked["mac"] = type(mac(5))(asked["mac"])
        with pytest.raises(Forbidden):
            await moved(house, principal, **asked)
        assert house.authority.alerts.counts == {AlertKind.REFUSED: 1}
        assert principal.name in house.authority.alerts.last[0].message
        assert await house.store.get(KEY) == before

    with_authority(test)


@pytest.mark.parametrize(
    "asked",
    [
        {"host": "hv9"},
        {"host": "hv1", "pa": PA2},
        {"pa": pa("203.0.113.1")},
        {"host": "hv3", "pa": pa("198.51.100.13")},
        {"vsid": Vsid(9999)},
        {"addresses": (ca("10.0.1.1"),)},
    ],
    ids=str,
)
def test_operator_is_told_what_cannot_be_so_in_the_network(asked: dict[str, Any]) -> None:
    async def test(house: House) -> None:
        with pytest.raises(Unacceptable):
            await moved(house, OPERATOR, **asked)
        assert house.authority.alerts.counts.total() == 0

    with_authority(test)


def test_operator_moves_a_vm_between_hosts_and_may_leave_the_host_to_its_address() -> None:
    async def test(house: House) -> None:
        await house.place(KEY, 5, "hv1")
        records = await moved(house, OPERATOR, pa=PA2, mode=Mode.ORCHESTRATE)
        assert [(each.host, each.epoch) for each in records] == [("hv2", 2)]
        named = await moved(house, OPERATOR, host="hv1", mode=Mode.ORCHESTRATE)
        assert [(each.host, each.epoch) for each in named] == [("hv1", 3)]

    with_authority(test)


def test_vm_that_moves_too_often_is_frozen_with_an_alert_until_an_operator_unfreezes_it() -> None:
    async def test(house: House) -> None:
        await house.place(KEY, 5, "hv1")
        for number in range(5):
            await moved(house, (HV2, HV1)[number % 2], pa=(PA2, PA1)[number % 2])
        assert house.authority.alerts.counts == {AlertKind.FROZEN: 1}
        with pytest.raises(Refused) as refused:
            await moved(house, HV1)
        assert refused.value.reason is Reason.FROZEN
        with pytest.raises(Forbidden):
            await house.authority.unfreeze(HV1, KEY)
        await house.authority.unfreeze(OPERATOR, KEY)
        assert [each.host for each in await moved(house, HV1)] == ["hv1"]

    with_authority(test)


class Interest:
    def covers(self, key: RecordKey) -> bool:
        return key == KEY

    def teach(self, key: RecordKey) -> None:
        raise AssertionError(key)


def test_orchestrated_claim_is_answered_once_the_old_and_the_new_host_know() -> None:
    async def test(house: House) -> None:
        stored = await house.place(KEY, 5, "hv1")
        for principal in (HV1, HV2, GATEWAY):
            house.authority.followers.connect(principal, Interest())
        claim = asyncio.create_task(
            house.authority.claim(OPERATOR, vsid=WEB, mac=mac(5), pa=PA2, mode=Mode.ORCHESTRATE)
        )
        assert await house.replica.reached(stored.revision + 1, 5)
        await asyncio.sleep(0)
        house.authority.acknowledge(HV1, stored.revision + 1, is_local=False)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not claim.done()
        house.authority.acknowledge(HV2, stored.revision + 1, is_local=False)
        assert (await claim).learned == {"hv1": True, "hv2": True}

    with_authority(test)


def test_claim_waits_no_longer_than_it_says_and_tells_who_has_not_learned() -> None:
    async def test(house: House) -> None:
        await house.place(KEY, 5, "hv1")
        house.authority.followers.connect(HV1, Interest())
        answer = await house.authority.claim(
            OPERATOR, vsid=WEB, mac=mac(5), pa=PA2, wait=["hv1", "hv9"], wait_seconds=0.01
        )
        assert answer.learned == {"hv1": False, "hv9": False}
        assert [each.host for each in answer.records] == ["hv2"]

    with_authority(test)


def test_acknowledgement_of_what_has_not_happened_yet_is_not_believed() -> None:
    async def test(house: House) -> None:
        await house.place(KEY, 5, "hv1")
        house.authority.followers.connect(HV1, Interest())
        house.authority.acknowledge(HV1, 1 << 60, is_local=False)
        answer = await house.authority.claim(
            OPERATOR, vsid=WEB, mac=mac(5), pa=PA2, wait=["hv1"], wait_seconds=0.01
        )
        assert answer.learned == {"hv1": False}

    with_authority(test)


def test_acknowledgement_from_a_node_that_is_ahead_is_believed_once_it_is_seen_here_too() -> None:
    async def test(house: House) -> None:
        stored = await house.place(KEY, 5, "hv1")
        ahead = asyncio.create_task(house.authority.acknowledge_remotely(HV1, stored.revision + 1))
        await asyncio.sleep(0)
        assert not ahead.done()
        await house.place(KEY, 5, "hv2")
        await ahead
        answer = await house.authority.claim(OPERATOR, vsid=WEB, mac=mac(5), pa=PA2, wait=["hv1"])
        assert [each.revision for each in answer.records] == [stored.revision + 1]
        assert answer.learned == {"hv1": True}

    with_authority(test)


@pytest.mark.parametrize("principal", [READER, OPERATOR])
def test_only_hosts_and_gateways_acknowledge(principal: Principal) -> None:
    async def test(house: House) -> None:
        with pytest.raises(Forbidden):
            house.authority.acknowledge(principal, 1)

    with_authority(test)


@pytest.mark.parametrize("principal", [READER, HV1, GATEWAY], ids=lambda each: each.role)
def test_records_and_the_network_are_written_by_operators_alone(principal: Principal) -> None:
    async def test(house: House) -> None:
        before = await house.place(KEY, 5, "hv1")
        asked = house.authority
        for forbidden in (
            asked.put(principal, KEY, mac=mac(6), pa=PA1, host="hv1", expected=Expect.ANY),
            asked.delete(principal, KEY, Expect.ANY),
            asked.unfreeze(principal, KEY),
            asked.apply_network(principal, NETWORK),
            asked.apply_network(principal, NETWORK, dry_run=True),
        ):
            with pytest.raises(Forbidden):
                await forbidden
        assert asked.alerts.counts == {AlertKind.REFUSED: 5}
        assert await house.store.get(KEY) == before

    with_authority(test)


def test_record_is_written_and_deleted_as_expected_or_not_at_all() -> None:
    async def test(house: House) -> None:
        put = partial(house.authority.put, OPERATOR, KEY, mac=mac(5), host="hv1", pa=PA1)
        with pytest.raises(Conflict):
            await put(expected=Expect.ANY)
        created = await put(expected=Expect.ABSENT)
        for expected in (Expect.ABSENT, created.epoch + 1):
            with pytest.raises(Conflict) as conflict:
                await put(expected=expected)
            assert conflict.value.current == created
        changed = await house.authority.put(
            OPERATOR, KEY, mac=mac(6), host="hv2", pa=PA2, expected=created.epoch
        )
        assert changed.epoch == created.epoch + 1
        with pytest.raises(Conflict):
            await house.authority.delete(OPERATOR, KEY, created.epoch)
        await house.authority.delete(OPERATOR, KEY, changed.epoch)
        assert house.replica.find(WEB, KEY.ca) is None
        with pytest.raises(NoRecord):
            await house.authority.delete(OPERATOR, KEY, Expect.ANY)
        again = await put(expected=Expect.ABSENT)
        assert again.epoch > changed.epoch

    with_authority(test)


def test_static_record_is_neither_written_nor_deleted_nor_claimed() -> None:
    async def test(house: House) -> None:
        before = await house.place(KEY, 5, "hv1", pinned=True)
        for asked in (
            house.authority.put(OPERATOR, KEY, mac=mac(5), pa=PA2, host="hv2", expected=Expect.ANY),
            house.authority.put(OPERATOR, KEY, mac=mac(5), pa=PA2, host="hv2", expected=0),
            house.authority.delete(OPERATOR, KEY, Expect.ANY),
            moved(house, HV2, pa=PA2),
            moved(house, OPERATOR, pa=PA2, mode=Mode.ORCHESTRATE),
        ):
            with pytest.raises(Refused) as refused:
                await asked
            assert refused.value.reason is Reason.PINNED
            assert refused.value.current == before

    with_authority(test)


def test_write_does_not_thaw_a_frozen_record() -> None:
    async def test(house: House) -> None:
        await house.place(KEY, 5, "hv1", frozen=True, moves=(1.0,))
        await house.authority.put(OPERATOR, KEY, mac=mac(5), pa=PA2, host="hv2", expected=Expect.ANY)
        stored = await house.store.get(KEY)
        assert stored is not None
        assert isinstance(stored.value, Placement)
        assert (stored.value.host, stored.value.frozen) == ("hv2", True)

    with_authority(test)


@pytest.mark.parametrize(
    ("principal", "host", "forget", "is_taught"),
    [
        (GATEWAY, "hv1", False, True),
        (OPERATOR, "hv1", False, True),
        (HV1, "hv1", False, True),
        (HV2, "hv1", False, True),
        (GATEWAY, "hv3", False, False),
        (GATEWAY, "hv9", False, False),
    ],
)
def test_host_is_taught_what_it_may_see(
    principal: Principal, host: str, forget: bool, is_taught: bool
) -> None:
    async def test(house: House) -> None:
        await house.place(KEY, 5, "hv2")
        house.authority.hint(principal, host, WEB, KEY.ca, forget=forget)
        assert (KEY in house.authority.followers.taught(host)) is is_taught
        house.authority.hint(Principal(host, Role.HOST), host, WEB, KEY.ca, forget=True)
        assert KEY not in house.authority.followers.taught(host)

    with_authority(test)


@pytest.mark.parametrize(("principal", "is_taught"), [(HV2, False), (HV1, True), (GATEWAY, True)])
def test_host_has_another_taught_nothing_that_is_not_recorded(principal: Principal, is_taught: bool) -> None:
    async def test(house: House) -> None:
        house.authority.hint(principal, "hv1", WEB, KEY.ca)
        assert (KEY in house.authority.followers.taught("hv1")) is is_taught

    with_authority(test)


@pytest.mark.parametrize(
    ("principal", "host", "vsid", "forget"),
    [(READER, "hv1", WEB, False), (HV3, "hv1", WEB, False), (HV2, "hv1", WEB, True)],
)
def test_hint_beyond_its_givers_tenants_or_to_forget_for_another_is_forbidden(
    principal: Principal, host: str, vsid: Vsid, forget: bool
) -> None:
    async def test(house: House) -> None:
        with pytest.raises(Forbidden):
            house.authority.hint(principal, host, vsid, KEY.ca, forget=forget)
        assert house.authority.alerts.counts == {AlertKind.REFUSED: 1}

    with_authority(test)


def test_network_is_written_as_a_difference_and_shown_before_it_is() -> None:
    async def test(house: House) -> None:
        wanted = msgspec.structs.replace(NETWORK, hosts=NETWORK.hosts[:2])
        steps = await house.authority.apply_network(OPERATOR, wanted, dry_run=True)
        assert [(str(step.key), step.value) for step in steps] == [("host hv3", None)]
        assert await house.authority.apply_network(OPERATOR, NETWORK, dry_run=True) == []
        await house.authority.apply_network(OPERATOR, wanted)
        assert await house.authority.apply_network(OPERATOR, wanted) == []

    with_authority(test)


def test_alerts_are_few_and_the_log_of_a_flood_is_short(caplog: pytest.LogCaptureFixture) -> None:
    async def test(house: House) -> None:
        for _ in range(1000):
            with pytest.raises(Forbidden):
                await moved(house, READER)
        assert house.authority.alerts.counts == {AlertKind.REFUSED: 1000}
        assert len(house.authority.alerts.last) == 200

    with_authority(test)
    assert len(caplog.records) == 10


def test_nobody_is_judged_before_the_network_has_been_read() -> None:
    async def test() -> None:
        store = MemoryStore()
        replica = Replica(partial(follow, store))
        unread = Authority(store, replica, FlapLimits(), now=Clock(), clock=Clock())
        with pytest.raises(StoreUnavailable):
            await unread.claim(HV1, vsid=WEB, mac=mac(5), pa=PA1, addresses=(KEY.ca,))
        with pytest.raises(StoreUnavailable):
            await unread.put(OPERATOR, KEY, mac=mac(5), pa=PA1, host="hv1", expected=Expect.ABSENT)
        with pytest.raises(StoreUnavailable):
            unread.hint(HV1, "hv2", WEB, KEY.ca)
        assert not unread.alerts.counts

    asyncio.run(test())
