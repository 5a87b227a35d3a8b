from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from gateway.process.service_manager import ServiceManager


@pytest.fixture
def manager_socket(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listening:
        listening.bind(str(tmp_path / "notify"))
        yield listening


def told(manager: socket.socket) -> list[list[str]]:
    messages = []
    while True:
        try:
            messages.append(manager.recv(4096).decode().splitlines())
        except BlockingIOError:
            return messages


def test_manager_is_told_of_a_whole_life(manager_socket: socket.socket) -> None:
    manager = ServiceManager(manager_socket.getsockname())
    manager.ready("edge-1: gateway")
    manager.reloading()
    manager.ready("edge-1: gateway,\nnow with\ttwo lines")
    manager.stopping("stopping")

    ready, reloading, again, stopping = told(manager_socket)
    assert ready == ["READY=1", "STATUS=edge-1: gateway"]
    assert reloading[0] == "RELOADING=1"
    assert reloading[1].startswith("MONOTONIC_USEC=")
    assert again == ["READY=1", "STATUS=edge-1: gateway, now with two lines"]
    assert stopping[0] == "STOPPING=1"


def test_abstract_address_is_told_too() -> None:
    name = f"isthmus-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        ServiceManager(f"@{name}").ready("well")
        assert listening.recv(4096) == b"READY=1\nSTATUS=well"


def test_children_do_not_inherit_the_manager() -> None:
    environment = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    manager = ServiceManager.from_environment(environment)
    assert environment == {}
    assert manager.watchdog == 3.0


@pytest.mark.parametrize(
    "environment",
    [
        {"WATCHDOG_USEC": "3000000"},
        {"NOTIFY_SOCKET": "/nowhere"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
    ],
)
def test_watchdog_of_nobody_or_of_another_process_is_not_ours(environment: dict[str, str]) -> None:
    assert ServiceManager.from_environment(environment).watchdog is None


def test_manager_that_is_away_is_no_failure(tmp_path: Path) -> None:
    ServiceManager(str(tmp_path / "nobody")).ready("well")
    ServiceManager().ready("well")


def test_no_sign_of_life_comes_while_a_thread_hangs(manager_socket: socket.socket) -> None:
    manager = ServiceManager(manager_socket.getsockname(), watchdog=30.0)
    hangs = False

    async def answers() -> None:
        if hangs:
            await trio.sleep_forever()

    async def main() -> None:
        nonlocal hangs
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.keep_told, lambda: "well", answers)
            await trio.sleep(25)
            assert told(manager_socket) == [["WATCHDOG=1", "STATUS=well"]] * 3
            hangs = True
            await trio.sleep(60)
            assert told(manager_socket) == []
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_signs_of_life_come_thrice_in_each_of_the_watchdogs_periods(manager_socket: socket.socket) -> None:
    manager = ServiceManager(manager_socket.getsockname(), watchdog=3.0)

    async def main() -> None:
        with trio.move_on_after(2.5):
            await manager.keep_told(lambda: "well", trio.lowlevel.checkpoint)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(told(manager_socket)) == 3
