"""The operating interface by HTTP, on the asyncio thread: its commands are carried out on the trio thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import trio

from gateway.aio import EventLoop
from gateway.api.interface import interface, serve
from gateway.api.operating import Operating
from gateway.http.door import Door
from gateway.http.interface import Interface
from gateway.http.measures import Measures
from gateway.http.principals import Credentials
from gateway.lookup.http.calls import Node
from gateway.operating.commands import Asker, Commands, carry_out
from policies.model import ApiSettings, Appliance, Network


class Asked:
    """What is asked of an appliance by HTTP: at [api], or beside the lookup service at [lookup]."""

    def __init__(
        self,
        loop: EventLoop,
        settings: ApiSettings | None,
        commands: Commands,
        network: Callable[[], Network],
    ) -> None:
        """`settings` are None where the lookup service's listener is used, if there is one."""
        self._loop = loop
        self._settings = settings
        self._commands = commands
        self._network = network
        self._door = Door()
        self._measures = Measures()
        self._node: Node | None = None

    def beside(self, node: Node) -> Interface:
        """Return what a lookup node answers besides its own paths. For the asyncio thread."""
        self._node = node
        if self._settings is not None:
            return Interface((), {}, {})
        return interface(self._operating(node.door, node.measures, node))

    async def run(
        self, settings: ApiSettings, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Answer at [api] until cancelled; started once that is open. Raises ConfigurationError."""
        operating = self._operating(self._door, self._measures, None)
        await self._loop.run(
            serve, settings, operating, lambda _port: self._loop.to_trio(task_status.started)
        )

    def take(self, wanted: Appliance) -> Callable[[], None]:
        """Take over who may ask at [api], and return what undoes that. Raises ConfigurationError.

        Who may ask at [lookup] is the lookup service's to take over.
        """
        door, before = self._door, self._door.credentials
        if wanted.api is not None:
            door.credentials = Credentials.load(wanted.api.credentials, "api")

        def undo() -> None:
            door.credentials = before

        return undo

    def _operating(self, door: Door, measures: Measures, beside: Node | None) -> Operating:
        asking = _Across(self._loop, self._commands)
        return Operating(asking, self._commands, self._network, door, measures, beside)


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
