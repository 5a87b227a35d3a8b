"""The builtin data path as its network changes; its sockets are not real here."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.datapath import Builtin
from gateway.forwarding.directory import Directory
from gateway.membership import Membership
from gateway.sites.policies import Keyring
from gateway.underlay.interfaces import Attachment
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance, Engine, HostPort, HostRole, Port, Underlay
from tests.networks import mac, network, pa, tenant


def appliance(*interfaces: str) -> Appliance:
    ports = tuple(
        HostPort(name, "red", "web", mac("red", "web", number), ())
        for number, name in enumerate(interfaces, 5)
    )
    return Appliance(
        name="hv1",
        state=Path("/nowhere"),
        engine=Engine.AUTO,
        underlay=Underlay((pa("hv1"),)),
        gateway=False,
        lookup=None,
        host=HostRole("hv1", ports),
        network=network(tenant("red")),
    )


def fake_ports(path: Builtin, refused: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ports that open nothing; those of the interfaces in `refused` cannot be served."""

    async def serve(port: Port, *_: object, task_status: trio.TaskStatus[None]) -> None:
        if port.interface in refused:
            raise ConfigurationError([Problem(port.interface, "is served by another isthmus already")])
        task_status.started()
        await trio.sleep_forever()

    monkeypatch.setattr(path.ports, "serve", serve)


def served(path: Builtin) -> list[str]:
    return sorted(port.interface for port in path._served)


def run(test: Callable[[Builtin, set[str]], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        path, refused = Builtin(appliance(), Attachment((), 1500), Directory()), set[str]()
        fake_ports(path, refused, monkeypatch)
        async with trio.open_nursery() as nursery:
            path._nursery = nursery
            await test(path, refused)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_port_that_is_refused_keeps_none_of_the_others_from_service(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(path: Builtin, refused: set[str]) -> None:
        refused.add("vm-b")
        problems = await path.adopt(appliance("vm-a", "vm-b", "vm-c"), Keyring())
        assert [problem.path for problem in problems] == ["vm-b"]
        assert served(path) == ["vm-a", "vm-c"]

    run(test, monkeypatch)


def test_port_that_was_refused_is_tried_again_at_the_next_change(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(path: Builtin, refused: set[str]) -> None:
        refused.add("vm-b")
        await path.adopt(appliance("vm-a", "vm-b"), Keyring())
        refused.clear()
        assert await path.adopt(appliance("vm-a", "vm-b", "vm-c"), Keyring()) == ()
        assert served(path) == ["vm-a", "vm-b", "vm-c"]

    run(test, monkeypatch)


def test_why_a_port_is_refused_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(path: Builtin, refused: set[str]) -> None:
        refused.add("vm-b")
        wanted = appliance("vm-a", "vm-b")
        loop: Any = None
        membership = Membership(wanted, loop, path, Keyring())
        with caplog.at_level(logging.ERROR):
            await membership._adopt(wanted)
            await membership._adopt(wanted)
        assert [record.getMessage() for record in caplog.records] == [
            "not served until the next change: vm-b: is served by another isthmus already"
        ]

    run(test, monkeypatch)
