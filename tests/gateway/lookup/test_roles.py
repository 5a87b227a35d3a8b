"""A node that serves records, put together: what it writes to its store, and when."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.http.principals import Unauthenticated
from gateway.lookup import grants, roles
from gateway.lookup.entries import Key, Kind, Placement, RecordKey, Stored, Value
from gateway.lookup.follow import latest_revision
from gateway.lookup.network import apply
from gateway.lookup.roles import Serving, StoreAway, serve_records
from gateway.lookup.store import Expect, Expected, Prefix, StoreUnavailable
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.errors import ConfigurationError
from policies.model import Appliance, Engine, Network, Tenant, Translation, VirtualSubnet
from policies.services import Credential, LookupSettings, Role
from tests.gateway.lookup.pooled import pooled
from tests.gateway.lookup.serving import DB, GATEWAY, OPERATOR, ca, mac

PREFIX = ipaddress.ip_network("10.0.1.0/24")


def network(*names: str) -> Network:
    return Network(
        tenants=tuple(
            Tenant(name, (), (VirtualSubnet("web", Vsid(5001 + number), (PREFIX,), ()),))
            for number, name in enumerate(names)
        )
    )


def appliance(state: Path, wanted: Network, **settings: object) -> Appliance:
    return Appliance(
        name="lookup-1",
        state=state,
        engine=Engine.AUTO,
        underlay=None,
        gateway=False,
        lookup=msgspec.structs.replace(LookupSettings(listen="127.0.0.1:0"), **settings),
        host=None,
        network=wanted,
    )


@asynccontextmanager
async def serving(wanted: Appliance) -> AsyncIterator[Serving]:
    started: asyncio.Future[Serving] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve_records(wanted, started.set_result))
    either: list[asyncio.Future[Any]] = [task, started]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield started.result()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def tenants(node: Serving) -> set[str]:
    page = await node.store.page(Prefix(Kind.TENANT), None, 100)
    return {entry.value.name for entry in page.entries if isinstance(entry.value, Tenant)}


async def until_written(node: Serving, expected: set[str]) -> None:
    async with asyncio.timeout(5):
        while await tenants(node) != expected or node.written_last is None:  # noqa: ASYNC110 - nothing wakes us
            await asyncio.sleep(0.01)


def test_files_network_is_written_when_it_differs_from_what_this_node_wrote_last(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(appliance(tmp_path, network("red"))) as node:
            await until_written(node, {"red"})
            assert await node.write(network("red", "blue"))
            assert await tenants(node) == {"red", "blue"}
            assert not await node.write(network("red", "blue"))

    asyncio.run(test())


def test_node_that_comes_back_undoes_nothing_that_others_have_changed_since(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(appliance(tmp_path, network("red"))) as node:
            await until_written(node, {"red"})
            await apply(node.store, network("red", "green"))
        async with serving(appliance(tmp_path, network("red"))) as node:
            assert not await node.write(network("red"))
            assert await tenants(node) == {"red", "green"}

    asyncio.run(test())


def test_store_that_was_made_anew_is_given_the_files_network_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(appliance(tmp_path, network("red"))) as node:
            await until_written(node, {"red"})

    asyncio.run(test())
    for file in tmp_path.glob("records.sqlite*"):
        file.unlink()
    asyncio.run(test())


def test_file_without_tenants_and_hosts_changes_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(appliance(tmp_path, network("red"))) as node:
            await until_written(node, {"red"})
            assert not await node.write(Network())
            assert await tenants(node) == {"red"}

    asyncio.run(test())


def test_reload_takes_a_changed_token(tmp_path: Path) -> None:
    token = tmp_path / "operator.token"
    token.touch(mode=0o600)
    token.write_text("the-first-token-long-enough")
    credentials = (Credential("operator", Role.OPERATOR, token_file=token),)
    wanted = appliance(tmp_path / "state", network("red"), credentials=credentials)

    async def test() -> None:
        async with serving(wanted) as node:
            token.write_text("the-second-token-long-enough")
            await node.take(wanted)
            known = node.door.credentials
            assert known.identify("Bearer the-second-token-long-enough").name == "operator"
            with pytest.raises(Unauthenticated):
                known.identify("Bearer the-first-token-long-enough")

    asyncio.run(test())


async def rest(node: Serving) -> set[str]:
    """The addresses of all records."""
    return {str(entry.key) for entry in (await node.store.page(Prefix(Kind.RECORD), None, 100)).entries}


def test_what_was_taken_over_is_undone_with_the_tokens_and_the_vms_that_were_lost(tmp_path: Path) -> None:
    token = tmp_path / "operator.token"
    token.touch(mode=0o600)
    token.write_text("the-first-token-long-enough")
    credentials = (Credential("operator", Role.OPERATOR, token_file=token),)
    before = appliance(tmp_path / "state", network("red", "blue"), credentials=credentials)
    after = appliance(tmp_path / "state", network("red"), credentials=credentials)
    vm = RecordKey(Vsid(5002), CustomerAddress.parse("10.0.1.5"))
    place = Placement(MacAddress(b"\x02\0\0\0\0\x05"), ProviderAddress.parse("198.51.100.11"), "hv1")

    async def test() -> None:
        async with serving(before) as node:
            await until_written(node, {"red", "blue"})
            await node.store.put(vm, place, Expect.ABSENT)
            mark = node.written_last
            token.write_text("the-second-token-long-enough")

            taken = await node.take(after)
            assert await tenants(node) == {"red"}
            assert await rest(node) == set()

            assert await taken.undo() == []
            assert await tenants(node) == {"red", "blue"}
            assert await rest(node) == {str(vm)}
            assert node.door.credentials.identify("Bearer the-first-token-long-enough").name == "operator"
            assert node.written_last == mark
            assert await node.write(network("red")), "the file is written again at the next start"

    asyncio.run(test())


def test_rollback_leaves_out_a_vm_whose_provider_address_is_anothers_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants, "QUARANTINE", 0.0)  # the trial took longer
    lost, other = (RecordKey(Vsid(vsid), ca("10.0.1.5")) for vsid in (5002, 5001))
    place = Placement(mac(5), ProviderAddress.parse("198.51.100.130"), "hv1", Translation.REWRITE)

    async def test() -> None:
        async with serving(appliance(tmp_path, network("red", "blue"))) as node:
            await until_written(node, {"red", "blue"})
            await node.store.put(lost, place, Expect.ABSENT)
            taken = await node.take(appliance(tmp_path, network("red")))
            await node.store.put(other, place, Expect.ABSENT)

            assert await taken.undo() == [
                "record 5002/10.0.1.5, whose provider address 198.51.100.130 is another's by now"
            ]

            assert await tenants(node) == {"red", "blue"}
            assert await rest(node) == {str(other)}
            assert await taken.undo() == []

    asyncio.run(test())


def test_rollback_gives_no_vm_of_a_lost_subnet_to_whoever_has_its_vsid_now(tmp_path: Path) -> None:
    vm = RecordKey(Vsid(5002), CustomerAddress.parse("10.0.1.5"))
    place = Placement(MacAddress(b"\x02\0\0\0\0\x05"), ProviderAddress.parse("198.51.100.11"), "hv1")

    async def test() -> None:
        async with serving(appliance(tmp_path, network("red", "blue"))) as node:
            await until_written(node, {"red", "blue"})
            await node.store.put(vm, place, Expect.ABSENT)
            taken = await node.take(appliance(tmp_path, network("red")))
            await apply(node.store, network("red", "green"))

            (words,) = await taken.undo()

            assert "left as it is" in words
            assert "5002" in words
            assert await tenants(node) == {"red", "green"}
            assert await rest(node) == set()

    asyncio.run(test())


def test_node_that_found_everything_written_by_another_writes_its_file_again_after_a_rollback(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        async with serving(appliance(tmp_path, network("red"))) as node:
            await until_written(node, {"red"})
            mark = node.written_last
            await apply(node.store, network("red", "blue"))

            taken = await node.take(appliance(tmp_path, network("red", "blue")))
            assert node.written_last != mark
            assert await taken.undo() == []
            assert await tenants(node) == {"red", "blue"}, "that was another's"
            assert node.written_last == mark

    asyncio.run(test())


def test_store_is_not_listed_for_a_file_whose_network_this_node_has_written_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = appliance(tmp_path, network("red"))

    async def refuse(*_: object) -> None:
        raise StoreUnavailable("it is away")

    async def test() -> None:
        async with serving(wanted) as node:
            await until_written(node, {"red"})
            mark = node.written_last
            with monkeypatch.context() as patch:
                patch.setattr(node.store, "page", refuse)
                await node.take(wanted)
            assert node.written_last == mark

    asyncio.run(test())


def test_store_that_goes_in_the_midst_is_undone_when_it_is_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = appliance(tmp_path, network("red", "blue", "green"))

    async def test() -> None:
        async with serving(appliance(tmp_path, network("red"))) as node:
            await until_written(node, {"red"})
            put, calls, is_away = node.store.put, 0, True

            async def fail_at_the_second(key: Key, value: Value, expected: Expected) -> Stored:
                nonlocal calls
                calls += 1
                if is_away and calls > 1:
                    raise StoreUnavailable("the disk is full")
                return await put(key, value, expected)

            monkeypatch.setattr(node.store, "put", fail_at_the_second)
            with pytest.raises(StoreAway, match="the disk is full") as away:
                await node.take(wanted)
            assert len(await tenants(node)) == 2, "half of it is written"
            is_away = False
            assert await away.value.taken.undo() == []
            assert await tenants(node) == {"red"}

    asyncio.run(test())


def test_file_that_this_node_has_written_last_differs_in_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(appliance(tmp_path, network("red"))) as node:
            await until_written(node, {"red"})
            await apply(node.store, network("red", "green"))
            before, after = await node.compared(network("red"))
            assert before == after
            before, after = await node.compared(network("red", "blue"))
            assert [tenant.name for tenant in before.tenants] == ["green", "red"]
            assert [tenant.name for tenant in after.tenants] == ["blue", "red"]

    asyncio.run(test())


def test_state_folder_and_store_are_their_owners_alone(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(appliance(tmp_path / "state", network("red"))) as node:
            await until_written(node, {"red"})
            folder = tmp_path / "state"
            assert folder.stat().st_mode & 0o777 == 0o700
            for file in ("records.sqlite", "network-written"):
                assert (folder / file).stat().st_mode & 0o777 == 0o600

    asyncio.run(test())


def test_state_that_others_may_write_or_that_is_no_folder_is_refused_in_words(tmp_path: Path) -> None:
    open_to_all, file = tmp_path / "open", tmp_path / "file"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    file.touch()

    def start(state: Path) -> None:
        asyncio.run(serve_records(appliance(state, network("red")), lambda _: None))

    with pytest.raises(ConfigurationError, match="others may write there"):
        start(open_to_all)
    with pytest.raises(ConfigurationError, match="File exists"):
        start(file)


def test_node_returns_leases_that_nobody_needs_any_more_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(roles, "SWEPT_EVERY", 0.01)

    async def test() -> None:
        async with serving(appliance(tmp_path, pooled())) as node:
            await until_written(node, {"red", "blue"})
            await node.replica.reached(await latest_revision(node.store), 5)
            for number in (5, 6):
                await node.authority.put(
                    OPERATOR,
                    RecordKey(DB, ca(f"10.0.2.{number}")),
                    mac=mac(number),
                    host="hv1",
                    expected=Expect.ABSENT,
                )
                await node.authority.lease(GATEWAY, DB, ca(f"10.0.2.{number}"))
            await node.authority.delete(OPERATOR, RecordKey(DB, ca("10.0.2.5")), Expect.ANY)
            async with asyncio.timeout(5):
                while len(node.replica.granted.leases_in(DB)) > 1:
                    await node.replica.history.changed(node.replica.history.position)
            assert [lease.ca for lease in node.replica.granted.leases_in(DB)] == [ca("10.0.2.6")]

    with caplog.at_level(logging.INFO):
        asyncio.run(test())
    assert "nobody needs any more: 1" in caplog.text
