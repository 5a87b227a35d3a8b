"""The last moves of records, as a replica sees them and a lookup node knows more of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from gateway.lookup.claims import Mode
from gateway.lookup.entries import RecordKey
from gateway.lookup.movements import KEPT, Move, Movements, in_words
from gateway.lookup.store import Expect
from policies.model import LookupRecord
from tests.gateway.lookup.serving import (
    DB,
    GATEWAY,
    HV1,
    HV2,
    NETWORK,
    OPERATOR,
    WEB,
    Serving,
    ca,
    lookup_node,
    mac,
    pa,
)

HV1_PA, HV2_PA = pa("198.51.100.11"), pa("198.51.100.12")


class Interest:
    def covers(self, key: RecordKey) -> bool:
        return True

    def teach(self, key: RecordKey) -> None: ...


def record(number: int, host: str, revision: int, *, vsid: int = WEB) -> LookupRecord:
    where = HV1_PA if host == "hv1" else HV2_PA
    address = ca(f"10.0.1.{number}")
    return LookupRecord(WEB, address, mac(number), where, host, epoch=revision, revision=revision)


def seen(test: Callable[[Movements], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(Movements(lambda: NETWORK, lambda: 1.7e9))

    asyncio.run(main())


def on_a_node(test: Callable[[Serving], Awaitable[None]]) -> None:
    async def main() -> None:
        async with lookup_node() as node:
            await test(node)

    asyncio.run(main())


async def claimed(node: Serving, host: str, mode: Mode = Mode.ANNOUNCE) -> list[Move]:
    where = HV1_PA if host == "hv1" else HV2_PA
    addresses = (ca("10.0.1.5"), ca("fd00:1::5"))
    await node.authority.claim(
        OPERATOR, vsid=WEB, mac=mac(5), pa=where, host=host, mode=mode, addresses=addresses, wait=()
    )
    return await node.replica.movements.latest()


def test_a_move_is_told_with_where_it_came_from_and_all_of_its_addresses() -> None:
    async def test(node: Serving) -> None:
        assert await claimed(node, "hv1") == []
        (move,) = await claimed(node, "hv2", Mode.ORCHESTRATE)
        assert (move.tenant, move.subnet, move.vsid, move.mac) == ("red", "web", 5001, str(mac(5)))
        assert sorted(move.addresses) == ["10.0.1.5", "fd00:1::5"]
        assert (move.was, move.was_pa, move.host, move.pa) == ("hv1", str(HV1_PA), "hv2", str(HV2_PA))
        assert (move.epoch, move.mode) == (2, Mode.ORCHESTRATE)

    on_a_node(test)


def test_the_newest_move_is_told_first() -> None:
    async def test(node: Serving) -> None:
        await claimed(node, "hv1")
        await claimed(node, "hv2")
        assert [move.host for move in await claimed(node, "hv1")] == ["hv1", "hv2"]

    on_a_node(test)


def test_who_has_not_learned_is_named_until_all_have() -> None:
    async def test(node: Serving) -> None:
        for principal in (HV1, HV2, GATEWAY):
            node.authority.followers.connect(principal, Interest())
        await claimed(node, "hv1")
        (move,) = await claimed(node, "hv2")
        assert (move.seconds, move.learned, move.waiting) == (None, 0, ["edge-1", "hv1", "hv2"])
        node.authority.acknowledge(HV1, node.replica.revision)
        (move,) = await node.replica.movements.latest()
        assert (move.seconds, move.learned, move.waiting) == (None, 1, ["edge-1", "hv2"])
        node.authority.acknowledge(HV2, node.replica.revision)
        node.authority.acknowledge(GATEWAY, node.replica.revision)
        (move,) = await node.replica.movements.latest()
        assert move.seconds is not None
        assert move.seconds > 0
        assert (move.learned, move.waiting) == (3, [])

    on_a_node(test)


def test_a_record_that_an_operator_writes_elsewhere_has_moved_too() -> None:
    async def test(node: Serving) -> None:
        key = RecordKey(DB, ca("10.0.2.5"))
        for host, where, expected in (("hv1", HV1_PA, Expect.ABSENT), ("hv2", HV2_PA, Expect.ANY)):
            await node.authority.put(OPERATOR, key, mac=mac(5), pa=where, host=host, expected=expected)
        (move,) = await node.replica.movements.latest()
        assert (move.was, move.host, move.mode, move.seconds) == ("hv1", "hv2", None, None)

    on_a_node(test)


def test_what_is_told_at_the_start_has_not_moved() -> None:
    async def test(node: Serving) -> None:
        await claimed(node, "hv1")
        await claimed(node, "hv2")
        async with lookup_node(beside=node) as other:
            assert await other.replica.movements.latest() == []
            await claimed(node, "hv1")
            await other.replica.reached(node.replica.revision, 5)
            (move,) = await other.replica.movements.latest()
            assert (move.host, move.mode) == ("hv1", None)

    on_a_node(test)


def test_a_change_of_anything_else_is_no_move() -> None:
    async def test(movements: Movements) -> None:
        movements.changed(record(5, "hv1", 1), record(5, "hv1", 2))
        assert await movements.latest() == []

    seen(test)


def test_only_the_last_moves_are_kept() -> None:
    async def test(movements: Movements) -> None:
        for revision in range(1, KEPT + 100):
            movements.changed(record(5, "hv1", revision), record(5, "hv2", revision + 1))
        found = await movements.latest()
        assert (len(found), found[0].epoch) == (KEPT, KEPT + 100)

    seen(test)


def test_one_line_says_of_a_move_what_it_concerns(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "isthmus.lookup")

    async def test(node: Serving) -> None:
        await claimed(node, "hv1")
        await claimed(node, "hv2")
        await asyncio.sleep(0)

    on_a_node(test)
    (line,) = [each for each in caplog.records if getattr(each, "event", "") == "moved"]
    assert line.getMessage() == (
        "10.0.1.5 and 1 more moved from hv1 at 198.51.100.11 to hv2 at 198.51.100.12, epoch 2"
    )
    assert (line.__dict__["tenant"], line.__dict__["vsid"]) == ("red", 5001)
    assert (line.__dict__["previous_host"], line.__dict__["host"]) == ("hv1", "hv2")


def test_a_move_is_shown_with_when_it_was_and_who_knows() -> None:
    move = Move(
        at=1.7e9,
        tenant="red",
        subnet="web",
        vsid=WEB,
        mac=str(mac(5)),
        addresses=["10.0.1.5", "fd00:1::5"],
        was="hv1",
        was_pa=str(HV1_PA),
        host="hv2",
        pa=str(HV2_PA),
        epoch=8,
        mode=Mode.ORCHESTRATE,
        seconds=0.0213,
        learned=3,
        waiting=[],
    )
    first, second = in_words(move)
    assert first == (
        "2023-11-14 22:13:20 UTC  red/web  10.0.1.5 fd00:1::5  from hv1 at 198.51.100.11"
        " to hv2 at 198.51.100.12, epoch 8, orchestrate"
    )
    assert second == "    all 3 who follow knew after 21.3 ms"
    late = msgspec.structs.replace(move, seconds=None, learned=1, waiting=["hv1", "hv2"])
    assert list(in_words(late))[1] == "    1 know; not yet: hv1, hv2"
