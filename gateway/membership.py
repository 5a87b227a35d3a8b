"""How an appliance takes part in the lookup service: it serves it, follows it, or both with a data path."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import msgspec
import trio

from gateway.aio import EventLoop
from gateway.changes.reload import Undo
from gateway.datapath import DataPath
from gateway.feed import Feed
from gateway.forwarding.directory import Change
from gateway.host.agent import Agent
from gateway.lookup.answers import Hint
from gateway.lookup.asking import Asking
from gateway.lookup.claims import Mode
from gateway.lookup.figures import LookupReport, figures
from gateway.lookup.http.service import Beside
from gateway.lookup.movements import Move
from gateway.lookup.network import AddressTaken
from gateway.lookup.replica import Replica
from gateway.lookup.roles import (
    REACHED_WITHIN,
    TRY_AGAIN,
    Following,
    Serving,
    StoreAway,
    TakenOver,
    follow_records,
    serve_records,
)
from gateway.lookup.store import StoreUnavailable
from gateway.operating import logs
from gateway.operating.health import NEARLY_EMPTY, LeaseStatus, LookupStatus, PoolStatus
from gateway.operating.overview import Inventory
from gateway.sites.policies import Keyring
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance, Lease, LookupRecord, Network

log = logging.getLogger("isthmus.lookup")

T = TypeVar("T")

POOLS = "pools"
"""The key whose problems are the machine's, and go without anything being told of it."""
POOLS_AGAIN = 30.0
"""Seconds between two attempts to serve pools that could not be served."""


class Membership:
    """Feeds the data path, if there is one, and speaks for it to the lookup service."""

    def __init__(
        self, appliance: Appliance, loop: EventLoop, path: DataPath | None, keyring: Keyring
    ) -> None:
        self._appliance = appliance
        self._loop = loop
        self._path = path
        self._keyring = keyring
        self._agent: Agent | None = None
        self._serving: Serving | None = None
        self._replica: Replica | None = None
        self._refused: tuple[Problem, ...] = ()
        self._applied = 0
        self._has_applied = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._one_at_a_time = trio.Lock()
        self._to_undo: list[TakenOver] = []
        self._undoing = trio.Lock()
        self.outlasts_us = appliance.lookup is not None
        """Whether what is taken is still there when this process has ended: in the store."""

    @property
    def appliance(self) -> Appliance:
        """The configuration in force, with the network that is decided by."""
        return self._appliance

    async def start(self, nursery: trio.Nursery, beside: Beside | None = None) -> None:
        """Serve or follow in the nursery until that is cancelled. Raises ConfigurationError.

        `beside` records, a node that serves them answers what that says.
        """
        appliance, self._nursery = self._appliance, nursery
        side: Serving | Following
        if appliance.lookup is not None:
            side = self._serving = await nursery.start(
                self._until_cancelled, partial(serve_records, beside=beside), appliance
            )
        else:
            side = await nursery.start(self._until_cancelled, follow_records, appliance)
        self._replica = side.replica
        if self._path is not None:
            self._feed(nursery, self._path, side.replica, side.asking(appliance))

    @property
    def replica(self) -> Replica | None:
        """What is known of the records, on the asyncio thread; None before the start."""
        return self._replica

    async def moves(self) -> list[Move]:
        """Return the last moves of records that this node has seen, the newest first."""
        return [] if self._replica is None else await self._loop.run(self._replica.movements.latest)

    async def inventory(self) -> Inventory:
        """Return what is in the network, where no packets are carried and so nothing is adopted."""
        replica = self._replica
        if replica is None:
            return Inventory(self._appliance.network, {}, {}, None)

        async def look() -> Inventory:
            network = replica.network
            by_subnet = {int(vsid): replica.count(vsid) for vsid in replica.vsids()}
            by_host = {host.name: replica.held_by(host.name) for host in network.hosts}
            return Inventory(network, by_subnet, by_host, None)

        return await self._loop.run(look)

    async def in_short(self) -> LookupStatus | None:
        """Return how good what is known of the network and its records is; None before the start."""
        replica, serving = self._replica, self._serving
        if replica is None:
            return None

        async def look() -> LookupReport:
            return figures(replica, serving.authority if serving is not None else None)

        found = await self._loop.run(look)
        followers = found.followers
        return LookupStatus(
            serves=serving is not None,
            is_synced=found.is_synced,
            stale_seconds=found.stale_seconds,
            revision=found.revision,
            records=sum(found.records.values()),
            followers=sum(followers.nodes.values()) if followers is not None else 0,
            most_behind=followers.most_behind if followers is not None else 0.0,
            not_served=[str(problem) for problem in self._refused],
            pools=[
                PoolStatus(
                    pool=str(pool.prefix),
                    nodes=list(pool.nodes),
                    size=pool.size,
                    held=pool.held,
                    quarantined=pool.quarantined,
                    free=pool.free,
                )
                for pool in found.pools
            ],
            short_of_leases=[
                LeaseStatus(tenant=tenant, node=node, held=held, limit=found.lease_limits[tenant])
                for (tenant, node), held in found.leases.items()
                if held > (1 - NEARLY_EMPTY) * found.lease_limits[tenant]
            ],
        )

    async def compared(self, wanted: Appliance) -> tuple[Appliance, Appliance]:
        """Return what runs, and what would if a file was taken: with the store's network, where we serve it.

        Raises ConfigurationError where the store is away.
        """
        before = after = self._appliance.network
        if self._serving is not None:
            try:
                before, after = await self._loop.run(self._serving.compared, wanted.network)
            except StoreUnavailable as error:
                raise _away(error) from None
        replace = msgspec.structs.replace
        return replace(self._appliance, network=before), replace(wanted, network=after)

    async def take(self, wanted: Appliance, keyring: Keyring) -> Undo:
        """Take a changed file over: its network goes to the store, and comes back from there.

        Returns what puts back what was. Raises ConfigurationError, and then what was goes on: of the
        store too, at once or as soon as it can be written again.
        """
        try:
            await self._undo_late()
        except StoreUnavailable as error:
            raise _away(error) from None
        before = self._appliance, self._keyring
        refused = frozenset(self._refused)
        taken: TakenOver | None = None

        async def undo() -> list[str]:
            left = await self._undo_here(*before)
            return left if taken is None else left + await self._undo_in_store(taken)

        await self._adopt_file(wanted, keyring)
        try:
            self._check_served(refused)
            if self._serving is not None:
                taken = await self._loop.run(self._serving.take, wanted)
                await self._until_applied()
                self._check_served(refused)
        except StoreAway as away:
            taken = away.taken
            left = await undo()
            raise _away(away.why, *left) from None
        except ConfigurationError as error:
            left = await undo()
            raise ConfigurationError([*error.problems, *(Problem("", words) for words in left)]) from None
        return undo

    def _check_served(self, refused: Collection[Problem]) -> None:
        """Refuse a file by which something is not served now, besides what was `refused` before it."""
        if new := [problem for problem in self._refused if problem not in refused]:
            raise ConfigurationError(new)

    async def _adopt_file(self, wanted: Appliance, keyring: Keyring) -> None:
        async with self._one_at_a_time:
            before, self._keyring = self._keyring, keyring
            try:
                await self._adopt(msgspec.structs.replace(wanted, network=self._appliance.network))
            except ConfigurationError:
                self._keyring = before
                raise

    async def _undo_here(self, appliance: Appliance, keyring: Keyring) -> list[str]:
        try:
            await self._adopt_file(appliance, keyring)
        except ConfigurationError as error:
            return [str(problem) for problem in error.problems]
        return []

    async def _undo_in_store(self, taken: TakenOver) -> list[str]:
        """Undo what has been written; where the store is away, as soon as it is there again."""
        self._to_undo.append(taken)
        try:
            left = await self._undo_in_order()
        except StoreUnavailable as error:
            if self._nursery is not None and len(self._to_undo) == 1:
                self._nursery.start_soon(self._undo_when_possible)
            return [f"the store is away ({error}): what was written is undone as soon as it is there again"]
        await self._until_applied()
        return left

    async def _undo_in_order(self) -> list[str]:
        """Undo what is to be, each before what was taken earlier. Raises StoreUnavailable."""
        left: list[str] = []
        async with self._undoing:
            while self._to_undo:
                left += await self._loop.run(self._to_undo[0].undo)
                del self._to_undo[0]
        return left

    async def _undo_when_possible(self) -> None:
        while self._to_undo:
            await trio.sleep(TRY_AGAIN)
            try:
                await self._undo_late()
            except StoreUnavailable as error:
                words = "what was written to the store cannot be undone yet: %s"
                log.warning(words, error, extra={"event": "rolled-back"})

    async def _undo_late(self) -> None:
        """Undo what the store was away for, if anything: also before a file is taken, and never after."""
        if not self._to_undo:
            return
        left = await self._undo_in_order()
        log.warning("undone in the store, which is there again", extra={"event": "rolled-back"})
        for words in left:
            log.error("not undone: %s", words, extra={"event": "rolled-back"})

    async def _until_applied(self) -> None:
        """Wait until the data path has all that this node's replica has, or for a while."""
        if self._path is None or self._replica is None:
            return
        revision = self._replica.revision
        with trio.move_on_after(REACHED_WITHIN):
            while self._applied < revision:
                await self._has_applied.wait()

    async def _adopt(self, appliance: Appliance) -> None:
        if self._path is not None:
            refused = await self._path.adopt(appliance, self._keyring)
            for problem in refused:
                if problem not in self._refused:
                    until = "it can be" if problem.path == POOLS else "the next change"
                    about = {"event": "not-served", **logs.concerned(problem)}
                    log.error("not served until %s: %s", until, problem, extra=about)
            if _of_pools(self._refused) and not _of_pools(refused):
                log.info("the pools are served by now", extra={"event": "not-served"})
            self._refused = refused
        if self._agent is not None:
            self._agent.configure(appliance)
        self._appliance = appliance

    async def _serve_pools_when_possible(self) -> None:
        """Try again what the machine is in the way of: nothing is told when that has been put right."""
        while True:
            await trio.sleep(POOLS_AGAIN)
            if _of_pools(self._refused):
                async with self._one_at_a_time:
                    with suppress(ConfigurationError):  # of a port's interface, which its own reload tells
                        await self._adopt(self._appliance)

    def _feed(self, nursery: trio.Nursery, path: DataPath, replica: Replica, asking: Asking) -> None:
        self._agent = agent = Agent(
            self._appliance,
            AcrossThreads(self._loop, asking),
            find=path.find,
            probe=path.probe,
            is_connected=lambda: replica.stale_since is None,
            in_use=path.in_use,
            refuse=path.refuse,
            apply=path.apply,
            used_leases=path.used_leases,
        )
        path.tell(agent)

        def apply(changes: Sequence[Change]) -> None:
            path.apply(changes)
            agent.changed(changes)

        async def adopt(network: Network) -> None:
            async with self._one_at_a_time:
                await self._adopt(msgspec.structs.replace(self._appliance, network=network))

        def applied(revision: int) -> None:
            agent.applied(revision)
            self._applied = revision
            self._has_applied.set()
            self._has_applied = trio.Event()

        feed = Feed(apply, adopt, applied)
        nursery.start_soon(agent.run)
        nursery.start_soon(feed.run)
        nursery.start_soon(self._serve_pools_when_possible)
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

    async def lease(self, vsid: Vsid, ca: CustomerAddress) -> Lease | LookupRecord:
        return await self._loop.run(self._asking.lease, vsid, ca)

    async def return_leases(self, pas: Sequence[ProviderAddress]) -> None:
        await self._loop.run(self._asking.return_leases, pas)

    async def acknowledge(self, revision: int) -> None:
        await self._loop.run(self._asking.acknowledge, revision)


def _of_pools(refused: Iterable[Problem]) -> bool:
    return any(problem.path == POOLS for problem in refused)


def _away(why: StoreUnavailable, *more: str) -> ConfigurationError:
    words = str(why) if isinstance(why, AddressTaken) else f"the store is away: {why}"
    return ConfigurationError([Problem("lookup", "; ".join((words, *more)))])
