"""Records from a file, against a lookup node: nothing is written before all is judged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from gateway.lookup.claims import Mode
from gateway.lookup.client import LookupClient, importing
from gateway.lookup.client.exchange_commands import import_
from gateway.lookup.exchange.reading import Format, read
from gateway.lookup.exchange.rows import Given
from gateway.lookup.store import Expect, StoreUnavailable
from policies.errors import ConfigurationError
from policies.model import LookupRecord, Network, Translation
from policies.services import LookupAccess
from tests.gateway.lookup.serving import NETWORK, TOKENS, WEB, Serving, ca, lookup_node, mac, pa, prefix

HEADER = "vsid,ca,mac,pa,host\n"
FIFTH = "5001,10.0.1.5,02:00:00:00:01:05,198.51.100.11,hv1\n"
SIXTH = "5001,10.0.1.6,02:00:00:00:01:06,198.51.100.12,\n"


@asynccontextmanager
async def asking(
    tmp_path: Path, network: Network = NETWORK, who: str = "op"
) -> AsyncIterator[tuple[Serving, LookupClient]]:
    token = tmp_path / "token"
    token.write_text(TOKENS[who])
    async with lookup_node(network=network) as node:
        access = LookupAccess((f"http://127.0.0.1:{node.port}",), token)
        async with LookupClient(access) as client:
            yield node, client


async def run(client: LookupClient, text: str, **options: bool) -> int:
    wanted = {"replace": False, "dry_run": False, "json": True, **options}
    return await import_(client, read(text.encode(), Format.AUTO), **wanted)


def summary(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found = msgspec.json.decode(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_new_records_are_written_at_the_hosts_that_have_their_provider_addresses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with asking(tmp_path) as (node, client):
            assert await run(client, HEADER + FIFTH + SIXTH) == 0
            found = [node.replica.find(WEB, ca(text)) for text in ("10.0.1.5", "10.0.1.6")]
            assert [record.host for record in found if record] == ["hv1", "hv2"]

    asyncio.run(main())
    assert summary(capsys)["created"] == 2


REWRITTEN = Network(
    hosts=tuple(
        replace(each, pools=(prefix(f"198.51.100.{16 * number}/28"), prefix(f"2001:db8:{number}::/112")))
        for number, each in enumerate(NETWORK.hosts, 8)
    ),
    gateways=tuple(
        replace(each, pools=(prefix("192.0.2.64/26"), prefix("2001:db8:2::/112")))
        for each in NETWORK.gateways
    ),
    tenants=tuple(
        replace(
            tenant, subnets=tuple(replace(each, translation=Translation.REWRITE) for each in tenant.subnets)
        )
        for tenant in NETWORK.tenants
    ),
)


def test_rewritten_records_are_written_by_their_own_addresses_or_by_those_that_the_service_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        HEADER
        + "5001,10.0.1.5,02:00:00:00:01:05,198.51.100.130,hv1\n"
        + "5001,10.0.1.6,02:00:00:00:01:06,198.51.100.150,\n"
        + "5001,10.0.1.7,02:00:00:00:01:07,,hv2\n"
    )

    async def main() -> None:
        async with asking(tmp_path, REWRITTEN) as (node, client):
            assert await run(client, text) == 0
            found = [node.replica.find(WEB, ca(f"10.0.1.{number}")) for number in (5, 6, 7)]
            assert [(each.host, each.translation) for each in found if each] == [
                ("hv1", Translation.REWRITE),
                ("hv2", Translation.REWRITE),
                ("hv2", Translation.REWRITE),
            ]
            chosen = [each.pa for each in found if each]
            assert chosen[:2] == [pa("198.51.100.130"), pa("198.51.100.150")]
            assert chosen[2].ip in REWRITTEN.hosts[1].pools[0]
            assert await run(client, text) == 0

    asyncio.run(main())
    assert [msgspec.json.decode(line)["created"] for line in capsys.readouterr().out.splitlines()] == [3, 0]


def test_a_provider_address_that_is_another_records_or_of_no_pool_is_told_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = "5001,10.0.1.5,02:00:00:00:01:05,198.51.100.130,hv1\n"
    second = "5001,10.0.1.6,02:00:00:00:01:06,198.51.100.130,hv1\n"
    text = HEADER + first + second

    async def main() -> None:
        async with asking(tmp_path, REWRITTEN) as (_, client):
            with pytest.raises(ConfigurationError) as raised:
                await run(client, text)
            assert [str(each) for each in raised.value.problems] == [
                "line 3: 198.51.100.130 is the record's at line 2, and can be one's alone"
            ]
            assert await run(client, HEADER + first) == 0
            assert await run(client, HEADER + second) == 1
            with pytest.raises(ConfigurationError) as raised:
                await run(client, text.replace("198.51.100.130", "198.51.100.11"))
            assert [str(each) for each in raised.value.problems] == [
                "line 2: 198.51.100.11 is in no pool of hv1",
                "line 3: 198.51.100.11 is the record's at line 2, and can be one's alone",
                "line 3: 198.51.100.11 is in no pool of hv1",
            ]

    asyncio.run(main())
    created, refused = (msgspec.json.decode(line) for line in capsys.readouterr().out.splitlines())
    assert (created["created"], refused["created"]) == (1, 0)
    assert "198.51.100.130 is taken" in str(refused)


def test_the_same_file_again_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with asking(tmp_path) as (node, client):
            assert await run(client, HEADER + FIFTH) == 0
            before = node.replica.revision
            capsys.readouterr()
            assert await run(client, HEADER + FIFTH) == 0
            assert node.replica.revision == before

    asyncio.run(main())
    assert (summary(capsys))["same"] == 1


def test_a_dry_run_says_what_would_be_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with asking(tmp_path) as (node, client):
            assert await run(client, HEADER + FIFTH, dry_run=True, json=False) == 0
            assert len(node.replica) == 0

    asyncio.run(main())
    assert capsys.readouterr().out.startswith("1 would be created, 0 would be replaced, 0 as in the file")


@pytest.mark.parametrize("replace", [False, True])
def test_what_is_in_the_way_stops_all_unless_the_file_wins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], replace: bool
) -> None:
    async def main() -> None:
        async with asking(tmp_path) as (node, client):
            assert await run(client, HEADER + FIFTH) == 0
            capsys.readouterr()
            elsewhere = FIFTH.replace("198.51.100.11,hv1", "198.51.100.12,hv2")
            code = await run(client, HEADER + SIXTH + elsewhere, replace=replace)
            assert code == (0 if replace else 1)
            record = node.replica.find(WEB, ca("10.0.1.5"))
            assert record is not None
            assert (record.host, record.epoch) == (("hv2", 2) if replace else ("hv1", 1))
            assert (node.replica.find(WEB, ca("10.0.1.6")) is not None) == replace

    asyncio.run(main())
    found = summary(capsys)
    assert (found["created"], found["replaced"]) == ((1, 1) if replace else (0, 0))
    there = "5001/10.0.1.5 is 02:00:00:00:01:05 at hv1 (198.51.100.11) already; --replace has the file win"
    assert found["failed"] == ([] if replace else [{"path": "line 3", "message": there}])


def test_a_static_record_is_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    static = LookupRecord(WEB, ca("10.0.1.5"), mac(0x105), pa("198.51.100.11"), "hv1")
    red = msgspec.structs.replace(NETWORK.tenants[0], records=(static,))
    network = msgspec.structs.replace(NETWORK, tenants=(red, *NETWORK.tenants[1:]))

    async def main() -> None:
        async with asking(tmp_path, network) as (_, client):
            elsewhere = FIFTH.replace("198.51.100.11,hv1", "198.51.100.12,hv2")
            assert await run(client, HEADER + elsewhere, replace=True) == 1

    asyncio.run(main())
    assert "is static" in summary(capsys)["failed"][0]["message"]


def test_everything_that_the_network_does_not_have_is_told_at_once(tmp_path: Path) -> None:
    text = HEADER + (
        "4999,10.0.1.5,02:00:00:00:01:05,198.51.100.11,\n"
        "5001,10.0.9.5,01:00:00:00:01:05,198.51.100.99,\n"
        "5001,10.0.1.6,02:00:00:00:01:06,198.51.100.11,hv2\n"
        "6001,10.0.1.6,02:00:00:00:01:06,198.51.100.11,\n"
        "5001,10.0.1.7,02:00:00:00:01:07,198.51.100.11,hv9\n"
        "5001,10.0.1.7,02:00:00:00:01:07,198.51.100.11,hv1\n"
        "1,10.0.1.7,02:00:00:00:01:07,198.51.100.11,hv1\n"
    )

    async def main() -> None:
        async with asking(tmp_path) as (node, client):
            before = node.replica.revision
            with pytest.raises(ConfigurationError) as raised:
                await run(client, text)
            assert [str(problem) for problem in raised.value.problems] == [
                "line 8: vsid: '1' is no number from 4096 to 16777214",
                "line 2: no virtual subnet has VSID 4999",
                "line 3: 10.0.9.5 is outside the prefixes of VSID 5001",
                "line 3: 01:00:00:00:01:05 is no station's address",
                "line 3: no host has 198.51.100.99",
                "line 4: 198.51.100.11 is no provider address of hv2",
                "line 5: hv1 is not allowed the tenant blue",
                "line 6: there is no host hv9",
                "line 7: 5001/10.0.1.7 is there before, at line 6",
            ]
            assert node.replica.revision == before

    asyncio.run(main())


def test_the_gateways_own_address_of_windows_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"CustomerAddress": "10.0.1.1", "VirtualSubnetID": 5001, "MACAddress": "026973001389"}

    async def main() -> None:
        async with asking(tmp_path) as (_, client):
            text = msgspec.json.encode([{**row, "ProviderAddress": "192.0.2.254", "Rule": 1}]).decode()
            assert await run(client, text) == 0

    asyncio.run(main())
    assert summary(capsys)["passed_over"] == 1


def test_whoever_may_not_write_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = "".join(f"5001,10.0.1.{n},02:00:00:00:01:{n:02x},198.51.100.11,hv1\n" for n in range(2, 250))

    async def main() -> None:
        async with asking(tmp_path, who="hv1") as (_, client):
            assert await run(client, HEADER + lines) == 1

    asyncio.run(main())
    captured = capsys.readouterr()
    assert msgspec.json.decode(captured.out)["untried"] == 248
    assert msgspec.json.decode(captured.out)["failed"] == []
    assert captured.err == "isthmus: only an operator may\n"


class Flaky:
    """A client of which some writes come to something else."""

    def __init__(self, put: Callable[[int], Awaitable[None]]) -> None:
        self.puts = 0
        self._put = put

    async def put(self, *_: object, **__: object) -> None:
        self.puts += 1
        await self._put(self.puts)


def writes(count: int) -> list[importing.Write]:
    given = [Given(f"line {n}", WEB, ca(f"10.0.1.{n}"), mac(n), pa("198.51.100.11")) for n in range(count)]
    return [importing.Write(each, "hv1", Expect.ABSENT) for each in given]


def test_a_store_that_goes_away_breaks_it_off_and_says_what_is_not_known() -> None:
    async def put(number: int) -> None:
        await asyncio.sleep(0)
        if number > 100:
            raise StoreUnavailable("no lookup node can answer")

    wanted = writes(250)
    outcome = importing.Outcome(len(wanted))
    asyncio.run(importing.carry_out(Flaky(put), wanted, outcome, lambda _: None))  # type: ignore[arg-type]
    assert outcome.created == 100
    assert outcome.broken_off == "no lookup node can answer: the same command goes on from here"
    assert {each.message for each in outcome.failed} == {"it is not known whether this was written"}
    assert 1 <= len(outcome.failed) <= importing.AT_ONCE
    assert outcome.untried == 250 - 100 - len(outcome.failed)


def test_an_interrupted_import_knows_what_it_has_written() -> None:
    async def put(number: int) -> None:
        if number > 10:
            await asyncio.sleep(3600)

    async def main() -> importing.Outcome:
        outcome = importing.Outcome(50)
        task = asyncio.create_task(importing.carry_out(Flaky(put), writes(50), outcome, lambda _: None))  # type: ignore[arg-type]
        for _ in range(100):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return outcome

    outcome = asyncio.run(main())
    assert (outcome.created, outcome.untried) == (10, 40)


def test_a_vm_that_moves_meanwhile_is_not_moved_back(tmp_path: Path) -> None:
    """Between the judgement and the write, the record gets a new epoch."""

    async def main() -> None:
        async with asking(tmp_path) as (node, client):
            assert await run(client, HEADER + FIFTH) == 0
            reading = read((HEADER + FIFTH.replace("11,hv1", "12,hv2")).encode(), Format.CSV)
            judge = importing.Judge(await client.network())
            plan = await importing.plan(client, judge, reading.given, replace=True, advance=lambda _: None)
            await client.claim(WEB, mac(0x105), pa("198.51.100.12"), Mode.ORCHESTRATE, host="hv2", wait=())
            await client.claim(WEB, mac(0x105), pa("198.51.100.11"), Mode.ORCHESTRATE, host="hv1", wait=())
            outcome = importing.Outcome(1)
            await importing.carry_out(client, plan.writes, outcome, lambda _: None)
            assert "has changed meanwhile" in outcome.failed[0].message
            record = node.replica.find(WEB, ca("10.0.1.5"))
            assert record is not None
            assert record.host == "hv1"

    asyncio.run(main())
