"""A reload where the network goes to the store and comes back: whole or not at all, also in the store."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from gateway.lookup.roles import StoreAway
from gateway.lookup.store import StoreUnavailable
from gateway.membership import Membership
from gateway.sites.policies import Keyring
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance, Engine, Network, Underlay
from policies.services import LookupSettings
from tests.networks import pa, tenant


def in_trio(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: object, **named: object) -> None:
        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(functools.partial(test, *args, **named), clock=clock)

    return run


def appliance(*tenants: str, listen: str = "127.0.0.1:7637") -> Appliance:
    return Appliance(
        name="edge-1",
        state=Path("/nowhere"),
        engine=Engine.AUTO,
        underlay=Underlay((pa("edge-1"),)),
        gateway=True,
        lookup=LookupSettings(listen=listen),
        host=None,
        network=Network(tenants=tuple(msgspec.structs.replace(tenant("red"), name=name) for name in tenants)),
    )


class DataPath:
    """A data path that notes what it adopts; some of it is refused."""

    def __init__(self) -> None:
        self.adopted: list[tuple[Appliance, Keyring]] = []
        self.refused: tuple[Problem, ...] = ()
        self.fails = False

    async def adopt(self, wanted: Appliance, keyring: Keyring) -> tuple[Problem, ...]:
        if self.fails:
            raise ConfigurationError([Problem("gateway.site_addresses", "no socket")])
        self.adopted.append((wanted, keyring))
        return self.refused


class Taken:
    """What a store has taken over."""

    def __init__(self, store: Store, before: Network) -> None:
        self._store = store
        self._before = before

    async def undo(self) -> list[str]:
        if self._store.away:
            raise StoreUnavailable("connection refused")
        self._store.network = self._before
        return []


class Store:
    """The part of a lookup node that holds the network; asked on the trio thread here."""

    def __init__(self) -> None:
        self.network = appliance("red").network
        self.away = False
        self.goes_away_at_once = False
        self.then: Callable[[], None] = lambda: None

    async def compared(self, wanted: Network) -> tuple[Network, Network]:
        if self.away:
            raise StoreUnavailable("connection refused")
        return self.network, wanted

    async def take(self, wanted: Appliance) -> Taken:
        taken = Taken(self, self.network)
        self.network = wanted.network
        if self.goes_away_at_once:
            self.away = True
            raise StoreAway(StoreUnavailable("connection refused"), taken)  # type: ignore[arg-type]
        self.then()
        return taken


class Loop:
    async def run(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return await function(*args)


def membership(nursery: trio.Nursery | None = None) -> tuple[Membership, DataPath, Store]:
    path, store, loop = DataPath(), Store(), Loop()
    made = Membership(appliance("red"), loop, path, Keyring())  # type: ignore[arg-type]
    made._serving = store  # type: ignore[assignment]
    made._nursery = nursery
    return made, path, store


def names(network: Network) -> list[str]:
    return [each.name for each in network.tenants]


@in_trio
async def test_file_is_taken_here_and_in_the_store_and_undone_in_both() -> None:
    made, path, store = membership()
    before, keyring = made._keyring, Keyring()

    undo = await made.take(appliance("red", "blue"), keyring)
    assert names(store.network) == ["red", "blue"]
    assert path.adopted[-1][1] is keyring
    assert names(path.adopted[-1][0].network) == ["red"], "the rest comes from the store"

    assert await undo() == []
    assert names(store.network) == ["red"]
    assert path.adopted[-1][1] is before


@in_trio
async def test_data_path_that_cannot_adopt_a_file_keeps_it_from_the_store() -> None:
    made, path, store = membership()
    before, path.fails = made._keyring, True
    with pytest.raises(ConfigurationError, match="no socket"):
        await made.take(appliance("red", "blue"), Keyring())
    assert names(store.network) == ["red"]
    assert made._keyring is before


@in_trio
async def test_port_that_is_refused_undoes_the_file_before_anything_is_written() -> None:
    made, path, store = membership()
    before = made.appliance
    path.refused = (Problem("host.port[vnet0]", "is served by another isthmus already"),)

    with pytest.raises(ConfigurationError, match="another isthmus"):
        await made.take(appliance("red", "blue"), Keyring())

    assert names(store.network) == ["red"]
    assert [wanted for wanted, _ in path.adopted][-1] == before


@in_trio
async def test_what_was_not_served_before_keeps_no_reload_from_being_taken() -> None:
    made, path, store = membership()
    path.refused = (Problem("host.port[vnet0]", "is served by another isthmus already"),)
    await made._adopt(made.appliance)
    await made.take(appliance("red", "blue"), Keyring())
    assert names(store.network) == ["red", "blue"]


@in_trio
async def test_network_that_is_not_served_when_it_comes_back_is_undone_in_the_store() -> None:
    made, _, store = membership()

    def comes_back() -> None:
        made._refused = (Problem("tenant[blue].site[boston].ike.psk_file", "is empty"),)

    store.then = comes_back
    with pytest.raises(ConfigurationError, match="is empty"):
        await made.take(appliance("red", "blue"), Keyring())
    assert names(store.network) == ["red"]


@in_trio
async def test_store_that_goes_in_the_midst_is_undone_as_soon_as_it_is_there_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    async with trio.open_nursery() as nursery:
        made, path, store = membership(nursery)
        before, store.goes_away_at_once = made._keyring, True

        with pytest.raises(ConfigurationError) as refused:
            await made.take(appliance("red", "blue"), Keyring())
        assert "what was written is undone as soon as it is there again" in str(refused.value)
        assert path.adopted[-1][1] is before, "what is here is undone at once"
        assert names(store.network) == ["red", "blue"]

        await trio.sleep(10)
        store.away = False
        await trio.sleep(10)
        assert names(store.network) == ["red"]
    assert caplog.messages[-1] == "undone in the store, which is there again"


@in_trio
async def test_what_waits_to_be_undone_is_undone_before_the_next_file_and_never_after_it() -> None:
    async with trio.open_nursery() as nursery:
        made, _, store = membership(nursery)
        store.goes_away_at_once = True
        with pytest.raises(ConfigurationError, match="as soon as it is there again"):
            await made.take(appliance("red", "blue"), Keyring())
        with pytest.raises(ConfigurationError, match="the store is away: connection refused"):
            await made.take(appliance("red", "green"), Keyring())
        assert names(store.network) == ["red", "blue"]

        store.away = store.goes_away_at_once = False
        undo = await made.take(appliance("red", "green"), Keyring())
        await trio.sleep(10)
        assert names(store.network) == ["red", "green"]
        await undo()
        assert names(store.network) == ["red"]


@in_trio
async def test_several_files_are_undone_in_the_store_the_last_one_first() -> None:
    async with trio.open_nursery() as nursery:
        made, _, store = membership(nursery)
        undo_first = await made.take(appliance("red", "blue"), Keyring())
        undo_second = await made.take(appliance("red", "blue", "green"), Keyring())
        store.away = True
        await undo_second()
        await undo_first()
        assert names(store.network) == ["red", "blue", "green"]

        store.away = False
        await trio.sleep(10)
        assert names(store.network) == ["red"]


@in_trio
async def test_store_that_is_away_from_the_start_changes_nothing() -> None:
    made, path, store = membership()
    store.away = True
    with pytest.raises(ConfigurationError, match="the store is away: connection refused"):
        await made.compared(appliance("red", "blue"))
    assert path.adopted == []


def refused(made: Membership) -> int:
    return len(made._refused)


@in_trio
async def test_pools_that_the_machine_is_in_the_way_of_are_told_and_served_once_it_is_not() -> None:
    made, path, _ = membership()
    path.refused = (Problem("pools", "198.51.100.140 of lo lies in the pool 198.51.100.128/27"),)
    await made._adopt(appliance("red"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made._serve_pools_when_possible)
        await trio.sleep(100)
        assert refused(made) == 1
        path.refused = ()
        await trio.sleep(31)
        assert refused(made) == 0
        adopted = len(path.adopted)
        await trio.sleep(1000)
        assert len(path.adopted) == adopted, "what is served is left in peace"
        nursery.cancel_scope.cancel()


@in_trio
async def test_port_that_is_refused_waits_for_the_next_change() -> None:
    made, path, _ = membership()
    path.refused = (Problem("vnet0", "is served by another isthmus already"),)
    await made._adopt(appliance("red"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made._serve_pools_when_possible)
        await trio.sleep(1000)
        assert len(path.adopted) == 1
        nursery.cancel_scope.cancel()
