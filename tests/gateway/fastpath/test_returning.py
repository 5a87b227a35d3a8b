"""When an interface that is without the program is tried, and what the log says of it."""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable

import pytest
import trio
from pyroute2.netlink.exceptions import NetlinkError
from trio.testing import MockClock

from gateway.fastpath.attaching import GONE, LOSES, TAKEN_OFF
from gateway.fastpath.kernel import BpfRefused
from gateway.fastpath.returning import (
    CALM,
    FIRST_WAIT,
    LONGEST_WAIT,
    LOOK_EVERY,
    NO_CARRIER,
    SETTLING,
    Patience,
    Returning,
)
from gateway.fastpath.status import Attached
from policies.model import FastPathMode

ETH1, REMADE = 7, 9


def test_interface_is_tried_once_it_has_been_the_same_for_a_while() -> None:
    patience = Patience()

    assert not patience.is_due(ETH1, 0, is_there=True)
    assert not patience.is_due(None, 10, is_there=False)
    assert not patience.is_due(REMADE, 20, is_there=False)
    assert not patience.is_due(REMADE + 1, 20.9, is_there=False)
    assert not patience.is_due(REMADE + 1, 20.9 + SETTLING - 0.1, is_there=False)
    assert patience.is_due(REMADE + 1, 20.9 + SETTLING, is_there=False)


def test_interface_that_has_been_there_all_the_time_is_tried_at_once() -> None:
    patience = Patience()
    patience.is_due(ETH1, 0, is_there=True)

    assert patience.is_due(ETH1, 10, is_there=False)


def test_rests_between_trials_grow_up_to_the_longest_one() -> None:
    patience, now, rests = Patience(), 0.0, list[float]()
    patience.is_due(ETH1, now, is_there=True)
    for _ in range(8):
        patience.tried(now)
        began = now
        while not patience.is_due(ETH1, now, is_there=False):
            now += 0.5
        rests.append(now - began)

    assert rests == [2, 4, 8, 16, 32, 64, 64, 64] == [*rests[:5], *[LONGEST_WAIT] * 3]


@pytest.mark.parametrize("then", ["another interface", "a calm time"])
def test_rests_begin_anew(then: str) -> None:
    patience, now = Patience(), 100.0
    patience.is_due(ETH1, 0, is_there=True)
    for _ in range(8):
        patience.tried(now)
    index = ETH1
    if then == "another interface":
        index = REMADE
        patience.is_due(index, now, is_there=False)
    else:
        now += LONGEST_WAIT + CALM
        patience.is_due(index, now, is_there=True)

    patience.tried(now)

    assert not patience.is_due(index, now + FIRST_WAIT - 0.1, is_there=False)
    assert patience.is_due(index, now + FIRST_WAIT, is_there=False)


class Machine:
    """An interface, the program on it, and whoever attaches it."""

    def __init__(self) -> None:
        self.index: int | None = ETH1
        self.is_there = True
        self.is_ready = True
        self.refusal: Exception | None = None
        self.told = 0
        self.tried: list[float] = []
        self.why = ""
        self._attached = Attached("eth1", FastPathMode.NATIVE)
        self._had = ETH1

    # What Links is to Returning.

    @property
    def attached(self) -> tuple[Attached, ...]:
        return (self._attached,)

    def present(self) -> dict[str, int | None]:
        return {"eth1": self.index}

    def look(self, present: dict[str, int | None]) -> None:
        if self._attached.is_there and not self.is_there:
            why = self.why or (TAKEN_OFF if present["eth1"] == self._had else GONE)
            self._attached = Attached("eth1", FastPathMode.GENERIC, why, is_there=False)

    def say(self, name: str, why: str) -> None:
        self._attached = Attached(name, FastPathMode.GENERIC, why, is_there=False)

    # What happens to it.

    def lose(self, index: int | None) -> None:
        self.is_there, self.index = False, index

    def lost(self) -> None:
        self.told += 1

    async def attach(self, name: str, index: int) -> bool:
        assert (name, index) == ("eth1", self.index)
        await trio.lowlevel.checkpoint()
        self.tried.append(trio.current_time())
        if self.refusal is not None:
            raise self.refusal
        if self.is_ready:
            self.is_there, self._had = True, index
            self._attached = Attached("eth1", FastPathMode.GENERIC, self.why)
        return self.is_ready


Happening = Callable[[Machine], Awaitable[None]]
WhileWatched = Callable[[Happening], list[str]]


@pytest.fixture
def while_watched(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> WhileWatched:
    """Have something happen to a machine that is looked at, and return what the log says."""

    async def run_here(work: Callable[..., object], *arguments: object) -> object:
        await trio.lowlevel.checkpoint()
        return work(*arguments)

    async def watch(happening: Happening) -> None:
        machine = Machine()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Returning(machine, machine.lost, machine.attach).serve)  # type: ignore[arg-type]
            await trio.sleep(10.5)
            await happening(machine)
            nursery.cancel_scope.cancel()

    def run(happening: Happening) -> list[str]:
        trio.run(watch, happening, clock=MockClock(autojump_threshold=0))
        return [record.getMessage() for record in caplog.records]

    # The clock would not wait for a thread.
    monkeypatch.setattr(trio.to_thread, "run_sync", run_here)
    caplog.set_level(logging.INFO, logger="isthmus")
    return run


def test_nothing_is_tried_or_said_while_all_is_well(while_watched: WhileWatched) -> None:
    async def happening(machine: Machine) -> None:
        await trio.sleep(100)
        assert (machine.tried, machine.told) == ([], 0)

    assert while_watched(happening) == []


def test_program_that_is_detached_is_back_with_the_next_look(while_watched: WhileWatched) -> None:
    async def happening(machine: Machine) -> None:
        machine.lose(ETH1)
        await trio.sleep(LOOK_EVERY)
        assert machine.attached[0].is_there
        assert machine.told == 1

    lost, back = while_watched(happening)
    assert lost.startswith(
        "the fast path is no longer attached to eth1: somebody has detached it, and it will"
    )
    assert lost.endswith('engine = "python" switches it off')
    assert back == "the fast path is attached to eth1 again, generic"


def test_interface_that_would_lose_what_is_sent_there_is_tried_at_once_and_the_log_says_why(
    while_watched: WhileWatched,
) -> None:
    async def happening(machine: Machine) -> None:
        machine.why = LOSES
        machine.lose(ETH1)
        await trio.sleep(LOOK_EVERY)
        assert machine.attached[0].is_there
        assert machine.told == 1

    lost, back = while_watched(happening)
    assert lost.endswith(f"attached to eth1: {LOSES}, and it will be attached again as that can be now")
    assert back == f"the fast path is attached to eth1 again, generic: {LOSES}"


def test_interface_that_is_made_anew_is_tried_when_it_has_settled(while_watched: WhileWatched) -> None:
    async def happening(machine: Machine) -> None:
        machine.lose(None)
        await trio.sleep(20)
        assert machine.tried == []
        machine.index, began = REMADE, trio.current_time()
        await trio.sleep(5)
        assert [at - began for at in machine.tried] == [pytest.approx(LOOK_EVERY / 2 + SETTLING)]

    assert while_watched(happening) == [
        "the fast path is no longer attached to eth1: the interface is gone, and it is waited for",
        "the fast path is attached to eth1 again, generic",
    ]


def test_interface_without_a_carrier_is_waited_for_without_longer_rests(while_watched: WhileWatched) -> None:
    async def happening(machine: Machine) -> None:
        machine.is_ready = False
        machine.lose(REMADE)
        await trio.sleep(300)
        assert machine.attached[0].why == NO_CARRIER
        machine.is_ready = True
        await trio.sleep(LOOK_EVERY)
        assert machine.attached[0].is_there

    assert len(while_watched(happening)) == 2


@pytest.mark.parametrize(
    "refusal",
    [
        BpfRefused(errno.EBUSY, "attaching to eth1", "program 7"),
        NetlinkError(errno.EINTR, "program 7"),
        PermissionError(errno.EACCES, "program 7"),
    ],
    ids=lambda refusal: type(refusal).__name__,
)
def test_refusal_is_said_once_and_tried_ever_more_rarely(
    while_watched: WhileWatched, refusal: Exception
) -> None:
    async def happening(machine: Machine) -> None:
        machine.refusal = refusal
        machine.lose(ETH1)
        await trio.sleep(130)
        rests = [after - before for before, after in zip(machine.tried, machine.tried[1:], strict=False)]
        assert rests == [2, 4, 8, 16, 32, 64]
        assert "program 7" in machine.attached[0].why
        machine.refusal = None
        await trio.sleep(LONGEST_WAIT)
        assert machine.attached[0].is_there

    _, refused, back = while_watched(happening)
    assert refused.startswith("the fast path cannot be attached to eth1 again, and is tried now and then: ")
    assert "program 7" in refused
    assert back == "the fast path is attached to eth1 again, generic"


def test_whoever_detaches_it_each_time_is_let_be_for_longer_and_longer(while_watched: WhileWatched) -> None:
    async def happening(machine: Machine) -> None:
        until = trio.current_time() + 300
        while trio.current_time() < until:
            if machine.is_there:
                machine.lose(ETH1)
            await trio.sleep(0.1)
        assert len(machine.tried) <= 9

    while_watched(happening)
