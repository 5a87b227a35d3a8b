"""The operating interface by HTTP, on the asyncio thread: its commands are carried out on the trio thread."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import trio

from gateway.aio import EventLoop
from gateway.api.interface import interface, serve
from gateway.api.measured import Listener, Scrape
from gateway.api.operating import Operating, told
from gateway.http.door import Door
from gateway.http.interface import Interface
from gateway.http.measures import Measures
from gateway.http.principals import Credentials
from gateway.lookup.figures import LookupReport, figures
from gateway.lookup.http.calls import Node
from gateway.lookup.replica import Replica
from gateway.operating.capture import CaptureFile
from gateway.operating.commands import OWNER, Asker, Commands, carry_out
from policies.model import Appliance, Network
from policies.services import ApiSettings

log = logging.getLogger("isthmus.http")


class Asked:
    """What is asked of an appliance by HTTP: at [api], or beside the lookup service at [lookup]."""

    def __init__(
        self,
        loop: EventLoop,
        settings: ApiSettings | None,
        commands: Commands,
        network: Callable[[], Network],
        replica: Callable[[], Replica | None] = lambda: None,
    ) -> None:
        """`settings` are None where the lookup service's listener is used, if there is one.

        The network and the replica of who follows the lookup service are asked for on the asyncio thread.
        """
        self._loop = loop
        self._settings = settings
        self._commands = commands
        self._network = network
        self._replica = replica
        self._door = Door(stranger=_unknown)
        self._node: Node | None = None
        self._listeners: dict[str, Listener] = {}

    def beside(self, node: Node) -> Interface:
        """Return what a lookup node answers besides its own paths. For the asyncio thread."""
        self._node = node
        self._listeners["lookup"] = Listener(node.measures, node.door)
        if self._settings is not None:
            return Interface((), {}, {})
        return self._interface(node.door, node)

    async def run(
        self, settings: ApiSettings, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Answer at [api] until cancelled; started with the port once it is open.

        Raises ConfigurationError.
        """
        measures = Measures()
        self._listeners["api"] = Listener(measures, self._door)
        await self._loop.run(
            serve,
            settings,
            self._interface(self._door, None),
            self._door,
            measures,
            lambda port: self._loop.to_trio(task_status.started, port),
        )

    async def take(self, wanted: Appliance) -> Callable[[], Awaitable[list[str]]]:
        """Take over who may ask at [api], and return what puts back who might. Raises ConfigurationError.

        Who may ask at [lookup] is the lookup service's to take over.
        """
        before = self._door.credentials
        if wanted.api is not None:
            load = partial(Credentials.load, wanted.api.credentials, "api")
            self._door.credentials = await trio.to_thread.run_sync(load)

        async def undo() -> list[str]:
            self._door.credentials = before
            return []

        return undo

    def _interface(self, door: Door, beside: Node | None) -> Interface:
        asking = _Across(self._loop, self._commands)

        async def gather() -> Scrape:
            report = await told(asking.ask(OWNER, "report", {}))
            return Scrape(report, self._lookup_figures(), self._listeners)

        operating = Operating(asking, self._commands, self._network, door, CaptureFile, beside)
        return interface(operating, gather)

    def _lookup_figures(self) -> LookupReport | None:
        if self._node is not None:
            return figures(self._node.replica, self._node.authority, self._node.watches)
        replica = self._replica()
        return figures(replica) if replica is not None else None


def _unknown(words: str) -> None:
    log.warning("nobody known asks at [api]: %s", words, extra={"event": "unknown-asker"})


class _Across:
    """Asks an appliance's commands from the asyncio thread."""

    def __init__(self, loop: EventLoop, commands: Commands) -> None:
        self._loop = loop
        self._commands = commands

    async def ask(self, asker: Asker, command: str, arguments: Mapping[str, Any]) -> Any:
        return await self._loop.ask(carry_out, self._commands, asker, command, arguments, _unheard)

    def follow(
        self, asker: Asker, command: str, arguments: Mapping[str, Any]
    ) -> AsyncGenerator[list[Any], None]:
        return self._loop.follow(carry_out, self._commands, asker, command, arguments)


async def _unheard(_thing: Any) -> None:
    """A command that answers once tells nothing before."""
