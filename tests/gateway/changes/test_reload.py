"""Reloads: taken whole or not at all, and for a time only unless they are confirmed."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from gateway.changes.reload import MOST_READERS, READ_WITHIN, Reload, Undo
from gateway.operating.commands import OWNER, Asker, NotAllowed, carry_out
from gateway.sites.policies import Keyring
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance, Engine, IkeIdentity, Network, Site, Underlay
from policies.services import Credential, LookupSettings, Role
from tests.networks import pa, tenant

NOW = 1_700_000_000.0


def appliance(*tenants: str, **changes: object) -> Appliance:
    made = Appliance(
        name="edge-1",
        state=Path("/var/lib/isthmus"),
        engine=Engine.AUTO,
        underlay=Underlay((pa("edge-1"),)),
        gateway=True,
        lookup=None,
        host=None,
        network=Network(tenants=tuple(msgspec.structs.replace(tenant("red"), name=name) for name in tenants)),
    )
    return msgspec.structs.replace(made, **changes)


def in_trio(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test on a clock that goes on only when `passes` says so."""

    @functools.wraps(test)
    def run(*args: object, **named: object) -> None:
        trio.run(functools.partial(test, *args, **named), clock=trio.testing.MockClock())

    return run


async def passes(seconds: float) -> None:
    """Let time pass, and everything happen that is due."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what is done in another thread meanwhile."""
    while not condition():
        await trio.to_thread.run_sync(threading.Event().wait, 0.001)


def refusal(path: str) -> ConfigurationError:
    return ConfigurationError([Problem(path, "is refused")])


class Source:
    """Where the network comes from, in a test: what is taken is `running` from then on."""

    outlasts_us = False

    def __init__(self, running: Appliance) -> None:
        self.running = running
        self.keyring = Keyring()
        self.refuses = False
        self.cannot_undo: list[str] = []
        self.taken: list[Appliance] = []

    async def compared(self, wanted: Appliance) -> tuple[Appliance, Appliance]:
        return self.running, wanted

    async def take(self, wanted: Appliance, keyring: Keyring) -> Undo:
        if self.refuses:
            raise refusal("source")
        before, self.running, self.keyring = (self.running, self.keyring), wanted, keyring
        self.taken.append(wanted)

        async def undo() -> list[str]:
            self.running, self.keyring = before
            return self.cannot_undo

        return undo


class World:
    """A reload of an appliance whose file holds `file`."""

    def __init__(self) -> None:
        self.file: Appliance | ConfigurationError = appliance("red")
        self.others: dict[Path, Appliance] = {}
        self.comes_to_its_end: threading.Event | None = None
        self.source = Source(appliance("red"))
        keyring = self.source.keyring
        self.reload = Reload(self.source, self.read, keyring, wall_clock=lambda: NOW + trio.current_time())

    def read(self, file: Path | None) -> Appliance:
        if self.comes_to_its_end is not None:
            self.comes_to_its_end.wait()
        found = self.file if file is None else self.others[file]
        if isinstance(found, ConfigurationError):
            raise found
        return found

    @property
    def tenants(self) -> list[str]:
        return [each.name for each in self.source.running.network.tenants]

    def part(self, name: str, told: list[str], *, refuses: bool = False) -> None:
        """Add a part that takes its share, and tells so."""

        async def take(_: Appliance) -> Undo:
            if refuses:
                raise refusal(name)
            told.append(f"{name} takes")

            async def undo() -> list[str]:
                told.append(f"{name} undoes")
                return []

            return undo

        self.reload.also(take)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    made = World()
    async with trio.open_nursery() as nursery:
        await nursery.start(made.reload.run)
        yield made
        nursery.cancel_scope.cancel()


async def refused(attempt: Callable[[], Awaitable[object]]) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        await attempt()
    return [problem.path for problem in raised.value.problems]


@in_trio
async def test_reload_takes_what_differs_and_says_what_that_is() -> None:
    async with world() as made:
        made.file = appliance("red", "blue")

        report = await made.reload.reload()

        assert [str(each) for each in report.differences] == ["+ tenant[blue]: 2 virtual subnets, 0 sites"]
        assert report.rolls_back_in is None
        assert made.tenants == ["red", "blue"]


@in_trio
async def test_file_that_is_wrong_changes_nothing_and_all_of_it_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world() as made:
        made.file = ConfigurationError([Problem("a", "is wrong"), Problem("b", "is wrong too")])

        assert await refused(made.reload.reload) == ["a", "b"]

        assert made.source.taken == []
        configuration = made.reload.configuration
        assert (configuration.failures, configuration.reloads) == (1, 0)
        assert configuration.differs_since == pytest.approx(NOW + trio.current_time(), abs=5)
        (record,) = caplog.records
        assert record.__dict__["event"] == "reload-failed"
        assert "a: is wrong; b: is wrong too" in record.getMessage()


@in_trio
async def test_what_needs_a_restart_is_refused_with_all_of_it() -> None:
    async with world() as made:
        made.file = appliance("red", "blue", name="edge-2", engine=Engine.PYTHON)

        assert await refused(made.reload.reload) == ["appliance.name", "appliance.engine"]
        assert made.source.taken == []


def with_sites(wanted: Appliance, *secrets: Path) -> Appliance:
    """The appliance, whose first tenant has a site here for each file with a secret."""
    sites = tuple(
        Site(file.stem, wanted.name, (), None, IkeIdentity("edge.example", "site.example", psk_file=file))
        for file in secrets
    )
    first, *others = wanted.network.tenants
    tenants = (msgspec.structs.replace(first, sites=sites), *others)
    return msgspec.structs.replace(wanted, network=Network(tenants=tenants))


@in_trio
async def test_site_whose_secret_could_not_be_read_before_keeps_nothing_else_from_being_taken(
    tmp_path: Path,
) -> None:
    lost, gone = tmp_path / "lost.psk", tmp_path / "gone.psk"
    async with world() as made:
        made.source.running = with_sites(appliance("red"), lost)

        made.file = with_sites(appliance("red", "blue"), lost)
        report = await made.reload.reload()
        assert [each.path for each in report.differences] == ["tenant[blue]"]

        made.file = with_sites(appliance("red"), lost, gone)
        assert await refused(made.reload.reload) == ["tenant[red].site[gone].ike.psk_file"]
        assert made.tenants == ["red", "blue"]


@in_trio
async def test_tokens_are_taken_and_another_address_to_listen_at_is_not() -> None:
    async with world() as made:
        made.source.running = appliance("red", lookup=LookupSettings())
        known = (Credential("ops", Role.OPERATOR, (), Path("ops.token")),)
        made.file = appliance("red", lookup=LookupSettings(credentials=known))
        await made.reload.reload()
        made.file = appliance("red", lookup=LookupSettings(listen="127.0.0.1:9"))
        assert await refused(made.reload.reload) == ["lookup.listen"]


@in_trio
async def test_source_that_refuses_leaves_what_was(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as made:
        made.file, made.source.refuses = appliance("blue"), True
        keyring = made.source.keyring

        assert await refused(made.reload.reload) == ["source"]

        assert made.tenants == ["red"]
        assert made.source.keyring is keyring
        made.source.refuses = False
        await made.reload.reload()
        assert made.tenants == ["blue"]
        assert made.reload.configuration.differs_since is None


@pytest.mark.parametrize("which", [0, 1, 2])
@in_trio
async def test_part_that_refuses_has_all_before_it_put_back_last_first(which: int) -> None:
    async with world() as made:
        told: list[str] = []
        for number in range(3):
            made.part(f"part {number}", told, refuses=number == which)
        made.file = appliance("blue")

        assert await refused(made.reload.reload) == [f"part {which}"]

        assert made.tenants == ["red"]
        takes = [f"part {number} takes" for number in range(which)]
        assert told == takes + [f"part {number} undoes" for number in reversed(range(which))]


@in_trio
async def test_what_could_not_be_put_back_is_told_with_the_refusal() -> None:
    async with world() as made:
        made.part("api", [], refuses=True)
        made.source.cannot_undo = ["port vnet0 is taken"]
        made.file = appliance("blue")

        with pytest.raises(ConfigurationError, match="not put back: port vnet0 is taken"):
            await made.reload.reload()


@in_trio
async def test_whoever_asks_before_the_start_is_over_is_told_to_ask_again() -> None:
    with pytest.raises(ConfigurationError, match="ask again in a moment"):
        await World().reload.reload()


@in_trio
async def test_reload_is_done_to_its_end_also_where_whoever_has_asked_goes_away() -> None:
    async with world() as made:
        goes_on = trio.Event()

        async def slow(_: Appliance) -> Undo:
            asker.cancel()
            await goes_on.wait()

            async def undo() -> list[str]:
                return []

            return undo

        made.reload.also(slow)
        made.file = appliance("blue")
        with trio.CancelScope() as asker:
            await made.reload.reload()
        assert asker.cancelled_caught
        goes_on.set()
        await until(lambda: made.reload.configuration.reloads == 1)
        assert made.tenants == ["blue"]


@in_trio
async def test_file_that_is_never_read_to_its_end_keeps_nobody_from_rolling_back_or_stopping() -> None:
    ends = threading.Event()

    try:
        async with world() as made:
            made.file = appliance("green")
            await made.reload.reload(60)
            made.comes_to_its_end = ends
            async with trio.open_nursery() as asking:
                for _ in range(MOST_READERS + 1):
                    asking.start_soon(refused, made.reload.reload)
                    await trio.testing.wait_all_tasks_blocked()
                    await passes(READ_WITHIN)
            assert made.tenants == ["red"]
            assert made.reload.configuration.rollbacks == 1
            made.reload.ask()
            await trio.testing.wait_all_tasks_blocked()
    finally:
        ends.set()


# --- for a time


@in_trio
async def test_unconfirmed_reload_rolls_back_when_its_time_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with world() as made:
        keyring = made.source.keyring
        made.file = appliance("blue")
        report = await made.reload.reload(60)
        began = trio.current_time()
        assert report.rolls_back_in == 60

        await passes(59)
        assert made.tenants == ["blue"]
        assert made.reload.configuration.rolls_back_in == pytest.approx(1, abs=0.1)
        await passes(1.5)

        assert made.tenants == ["red"]
        assert made.source.keyring is keyring, "and the secrets are those from before"
        configuration = made.reload.configuration
        assert configuration.rolls_back_in is None
        assert configuration.rollbacks == 1
        assert configuration.differs_since == pytest.approx(NOW + began + 60, abs=0.5)
        assert configuration.why == "it was rolled back: nobody has confirmed it"
        assert [record.__dict__["event"] for record in caplog.records] == [
            "reload-unconfirmed",
            "rolled-back",
        ]


@in_trio
async def test_confirmed_reload_stays(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with world() as made:
        made.file = appliance("blue")
        await made.reload.reload(60)
        await passes(59)

        configuration = await made.reload.confirm()

        assert configuration.rolls_back_in is None
        await passes(3600)
        assert made.tenants == ["blue"]
        assert caplog.records[-1].__dict__["event"] == "reload-confirmed"


@in_trio
async def test_confirming_what_does_not_wait_says_why() -> None:
    async with world() as made:
        with pytest.raises(ConfigurationError, match=r"nothing waits to be confirmed$"):
            await made.reload.confirm()
        made.file = appliance("blue")
        await made.reload.reload(1)
        await passes(2)
        with pytest.raises(ConfigurationError, match="it was rolled back: nobody has confirmed it"):
            await made.reload.confirm()


@in_trio
async def test_second_trial_starts_the_time_anew_and_goes_back_to_what_was_confirmed_last() -> None:
    async with world() as made:
        made.file = appliance("blue")
        await made.reload.reload(60)
        await passes(50)
        made.file = appliance("green")
        await made.reload.reload(60)

        await passes(50)
        assert made.tenants == ["green"]
        await passes(11)
        assert made.tenants == ["red"]


@in_trio
async def test_reload_without_a_time_confirms_what_waited() -> None:
    async with world() as made:
        made.file = appliance("blue")
        await made.reload.reload(60)
        made.file = appliance("green")
        await made.reload.reload()

        await passes(100)
        assert made.tenants == ["green"]


@in_trio
async def test_refused_reload_neither_confirms_nor_gives_more_time() -> None:
    async with world() as made:
        made.file = appliance("blue")
        await made.reload.reload(60)
        made.file = appliance("blue", name="edge-2")
        for confirm in (None, 60):
            with pytest.raises(ConfigurationError):
                await made.reload.reload(confirm)

        assert made.tenants == ["blue"]
        await passes(61)
        assert made.tenants == ["red"]


@in_trio
async def test_signal_reloads_and_confirms_nothing() -> None:
    async with world() as made:
        made.file = appliance("blue")
        await made.reload.reload(60)
        await passes(30)
        made.file = appliance("green")
        made.reload.ask()
        await until(lambda: made.tenants == ["green"])
        assert made.reload.configuration.rolls_back_in == pytest.approx(30)

        await passes(30)
        assert made.tenants == ["red"]

        made.reload.ask()
        await until(lambda: made.tenants == ["green"])
        await passes(3600)
        assert made.tenants == ["green"]


@in_trio
async def test_signal_for_a_file_that_is_wrong_is_logged_and_the_next_is_heeded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world() as made:
        made.file = refusal("tenant[red]")
        made.reload.ask()
        await until(lambda: made.reload.configuration.failures == 1)
        assert [record.__dict__["event"] for record in caplog.records] == ["reload-failed"]
        made.file = appliance("blue")
        made.reload.ask()
        await until(lambda: made.tenants == ["blue"])


@in_trio
async def test_rollback_tells_what_could_not_be_put_back(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as made:
        made.source.cannot_undo = ["port vnet0 is taken"]
        made.file = appliance("blue")
        await made.reload.reload(5)
        await passes(6)
        assert "not rolled back: port vnet0 is taken" in caplog.messages


@pytest.mark.parametrize(("outlasts", "left"), [(True, ["red"]), (False, ["blue"])])
@in_trio
async def test_stop_undoes_what_would_outlast_it_in_a_store(outlasts: bool, left: Sequence[str]) -> None:
    async with world() as made:
        made.source.outlasts_us = outlasts
        made.file = appliance("blue")
        await made.reload.reload(60)
        await made.reload.leave()
        assert made.tenants == left


# --- as commands


async def ask(made: World, name: str, asker: Asker = OWNER, **arguments: object) -> Any:
    async def tell(_: object) -> None: ...

    return await carry_out(made.reload.commands(), asker, name, arguments, tell)


@in_trio
async def test_diff_compares_a_candidate_with_what_runs_and_changes_nothing() -> None:
    async with world() as made:
        made.others[Path("/srv/new.toml")] = appliance("red", "green")

        found = await ask(made, "diff", file="/srv/new.toml")
        assert [str(each) for each in found] == ["+ tenant[green]: 2 virtual subnets, 0 sites"]
        assert await ask(made, "diff") == []
        assert made.source.taken == []
        assert made.reload.configuration.failures == 0


@pytest.mark.parametrize("seconds", [0, 86401, -1])
@in_trio
async def test_time_to_confirm_is_from_a_second_to_a_day(seconds: int) -> None:
    async with world() as made:
        with pytest.raises(ConfigurationError, match="from 1 to 86400"):
            await ask(made, "reload", confirm=seconds)
        assert made.source.taken == []


@pytest.mark.parametrize("name", ["diff", "reload", "confirm"])
@in_trio
async def test_all_of_it_is_for_operators(name: str) -> None:
    async with world() as made:
        with pytest.raises(NotAllowed):
            await ask(made, name, Asker("reader", is_operator=False, tenants=frozenset({"red"})))
