"""How an appliance takes part in the lookup service: it serves it, follows it, or both with a data path."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
import trio

from gateway.aio import EventLoop
from gateway.datapath import DataPath
from gateway.feed import Feed
from gateway.forwarding.directory import Change
from gateway.host.agent import Agent
from gateway.lookup.answers import Hint
from gateway.lookup.asking import Asking
from gateway.lookup.claims import Mode
from gateway.lookup.replica import Replica
from gateway.lookup.roles import Following, Serving, follow_records, serve_records
from gateway.lookup.store import StoreUnavailable
from gateway.operating import logs
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance, Network

log = logging.getLogger("isthmus.lookup")

T = TypeVar("T")


class Membership:
    """Feeds the data path, if there is one, and speaks for it to the lookup service."""

    def __init__(self, appliance: Appliance, loop: EventLoop, path: DataPath | None) -> None:
        self._appliance = appliance
        self._loop = loop
        self._path = path
        self._agent: Agent | None = None
        self._serving: Serving | None = None
        self._refused: tuple[Problem, ...] = ()
        self._one_at_a_time = trio.Lock()

    async def start(self, nursery: trio.Nursery) -> None:
        """Serve or follow in the nursery until that is cancelled. Raises ConfigurationError."""
        appliance = self._appliance
        side: Serving | Following
        if appliance.lookup is not None:
            side = self._serving = await nursery.start(self._until_cancelled, serve_records, appliance)
        else:
            side = await nursery.start(self._until_cancelled, follow_records, appliance)
        if self._path is not None:
            self._feed(nursery, self._path, side.replica, side.asking(appliance))

    async def take(self, wanted: Appliance) -> None:
        """Take a changed file over: its network goes to the store, and comes back from there."""
        async with self._one_at_a_time:
            if self._serving is not None:
                try:
                    await self._loop.run(self._serving.take, wanted)
                except StoreUnavailable as error:
                    raise ConfigurationError([Problem("lookup", f"the store is away: {error}")]) from None
            appliance = msgspec.structs.replace(wanted, network=self._appliance.network)
            await self._adopt(appliance)

    async def _adopt(self, appliance: Appliance) -> None:
        if self._path is not None:
            refused = await self._path.adopt(appliance)
            for problem in refused:
                if problem not in self._refused:
                    about = {"event": "not-served", **logs.concerned(problem)}
                    log.error("not served until the next change: %s", problem, extra=about)
            self._refused = refused
        if self._agent is not None:
            self._agent.configure(appliance)
        self._appliance = appliance

    def _feed(self, nursery: trio.Nursery, path: DataPath, replica: Replica, asking: Asking) -> None:
        self._agent = agent = Agent(
            self._appliance,
            AcrossThreads(self._loop, asking),
            find=path.find,
            probe=path.probe,
            is_connected=lambda: replica.stale_since is None,
            in_use=path.in_use,
        )
        path.tell(agent)

        def apply(changes: Sequence[Change]) -> None:
            path.apply(changes)
            agent.changed(changes)

        async def adopt(network: Network) -> None:
            async with self._one_at_a_time:
                await self._adopt(msgspec.structs.replace(self._appliance, network=network))

        feed = Feed(apply, adopt, agent.applied)
        nursery.start_soon(agent.run)
        nursery.start_soon(feed.run)
        self._loop.call_soon(replica.subscribe, lambda batch: self._loop.to_trio(feed.take, batch))

    async def _until_cancelled(
        self,
        function: Callable[[Appliance, Callable[[T], None]], Awaitable[None]],
        appliance: Appliance,
        *,
        task_status: trio.TaskStatus[T] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run one side of the lookup service on the asyncio thread; started once that says so."""
        await self._loop.run(function, appliance, lambda it: self._loop.to_trio(task_status.started, it))


class AcrossThreads(Asking):
    """What the lookup service is asked from trio, asked on the asyncio thread."""

    def __init__(self, loop: EventLoop, asking: Asking) -> None:
        self._loop = loop
        self._asking = asking

    async def claim(
        self,
        vsid: Vsid,
        mac: MacAddress,
        pa: ProviderAddress,
        mode: Mode,
        addresses: tuple[CustomerAddress, ...],
    ) -> object:
        return await self._loop.run(self._asking.claim, vsid, mac, pa, mode, addresses)

    async def hints(self, hints: Sequence[Hint]) -> None:
        await self._loop.run(self._asking.hints, hints)

    async def acknowledge(self, revision: int) -> None:
        await self._loop.run(self._asking.acknowledge, revision)
