"""The lookup service's client for trio: the calls of `gateway.lookup.client`, by way of the asyncio thread.

Import it from here; what it raises and returns is described there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, Self, TypeVar

import trio

from gateway.aio import EventLoop, event_loop
from gateway.lookup.allocation import PoolUsage
from gateway.lookup.answers import Hint, RecordPage
from gateway.lookup.claims import Mode
from gateway.lookup.client.client import CACHED_RECORDS, CACHED_SECONDS, LookupClient
from gateway.lookup.entries import Event, Kind
from gateway.lookup.followers import NodeStatus
from gateway.lookup.limits import MOST_LISTED
from gateway.lookup.outcomes import ClaimAnswer
from gateway.lookup.store import Expect, Expected
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import Lease, LookupRecord, Network, Translation
from policies.services import LookupAccess

T = TypeVar("T")

MOST_READ_AHEAD = 1000
"""Events of a watch that wait for trio; behind them, the node waits."""


class TrioLookupClient:
    """Asks the lookup service, within `async with`; on a loop of its own unless it is given one."""

    def __init__(
        self,
        access: LookupAccess,
        loop: EventLoop | None = None,
        *,
        cached: int = CACHED_RECORDS,
        cached_seconds: float = CACHED_SECONDS,
    ) -> None:
        self._client = LookupClient(access, cached=cached, cached_seconds=cached_seconds)
        self._given = loop
        self._entered = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            given = self._given
            self._loop = given if given is not None else await stack.enter_async_context(event_loop())
            await self._loop.run(self._client.__aenter__)
            self._entered = stack.pop_all()
        return self

    async def __aexit__(self, *error: Any) -> bool | None:
        with trio.CancelScope(shield=True):
            await self._loop.run(self._client.__aexit__, *error)
        return await self._entered.__aexit__(*error)

    async def resolve(self, vsid: Vsid, ca: CustomerAddress) -> LookupRecord | None:
        """Return where a customer address is, or None if there is no record of it."""
        return await self._loop.run(self._client.resolve, vsid, ca)

    async def resolve_many(self, wanted: Sequence[tuple[Vsid, CustomerAddress]]) -> list[LookupRecord | None]:
        """Return where customer addresses are, in their order."""
        return await self._loop.run(self._client.resolve_many, wanted)

    async def page(
        self,
        *,
        tenant: str | None = None,
        vsid: Vsid | None = None,
        limit: int = MOST_LISTED,
        rest: str | None = None,
    ) -> RecordPage:
        """Return some records in the order of keys; `rest` of the page before asks for the next."""
        return await self._run(self._client.page, tenant=tenant, vsid=vsid, limit=limit, rest=rest)

    async def put(
        self,
        vsid: Vsid,
        ca: CustomerAddress,
        *,
        mac: MacAddress,
        host: str,
        pa: ProviderAddress | None = None,
        translation: Translation | None = None,
        expected: Expected = Expect.ABSENT,
    ) -> LookupRecord:
        """Write a record that is as expected."""
        place = {"mac": mac, "pa": pa, "host": host, "translation": translation}
        return await self._run(self._client.put, vsid, ca, **place, expected=expected)

    async def delete(self, vsid: Vsid, ca: CustomerAddress, expected: int | None = None) -> bool:
        """Delete a record, of this epoch if one is given. Returns whether there was one."""
        return await self._loop.run(self._client.delete, vsid, ca, expected)

    async def unfreeze(self, vsid: Vsid, ca: CustomerAddress) -> LookupRecord | None:
        """Let a record move again that has moved too often; None if there is none."""
        return await self._loop.run(self._client.unfreeze, vsid, ca)

    async def claim(
        self,
        vsid: Vsid,
        mac: MacAddress,
        pa: ProviderAddress,
        mode: Mode = Mode.ANNOUNCE,
        addresses: Iterable[CustomerAddress] = (),
        host: str | None = None,
        wait: Iterable[str] | None = None,
        wait_seconds: float | None = None,
    ) -> ClaimAnswer:
        """Say that a MAC is at a provider address, with all of its customer addresses."""
        return await self._loop.run(
            self._client.claim, vsid, mac, pa, mode, addresses, host, wait, wait_seconds
        )

    async def hint(self, host: str, vsid: Vsid, ca: CustomerAddress, forget: bool = False) -> None:
        """Have a host taught a record that it lacks, or no longer told of it."""
        await self._loop.run(self._client.hint, host, vsid, ca, forget)

    async def hints(self, hints: Sequence[Hint]) -> None:
        """Give many hints."""
        await self._loop.run(self._client.hints, hints)

    async def acknowledge(self, revision: int) -> None:
        """Say that this host or gateway has applied everything up to a revision."""
        await self._loop.run(self._client.acknowledge, revision)

    async def lease(
        self, vsid: Vsid, ca: CustomerAddress, gateway: str | None = None
    ) -> Lease | LookupRecord:
        """Have an address of a gateway's pool stand for a customer address that has none of its own."""
        return await self._loop.run(self._client.lease, vsid, ca, gateway)

    async def return_leases(self, pas: Sequence[ProviderAddress]) -> None:
        """Say that addresses of a gateway's pools are not in use any more."""
        await self._loop.run(self._client.return_leases, pas)

    async def pools(self) -> list[PoolUsage]:
        """Return how the pools of provider addresses are used."""
        return await self._loop.run(self._client.pools)

    async def nodes(self) -> list[NodeStatus]:
        """Return the connected hosts and gateways, and what they have learned."""
        return await self._loop.run(self._client.nodes)

    async def network(self) -> Network:
        """Return the network's configuration as this credential may see it."""
        return await self._loop.run(self._client.network)

    async def apply(self, network: Network, *, dry_run: bool = False) -> list[dict[str, Any]]:
        """Have the network be as given, and return what that changes, or would change."""
        return await self._run(self._client.apply, network, dry_run=dry_run)

    async def status(self) -> dict[str, Any]:
        """Return what a node says of itself."""
        return await self._loop.run(self._client.status)

    @asynccontextmanager
    async def watch(
        self,
        *,
        tenant: str | None = None,
        vsid: Vsid | None = None,
        kind: Kind | None = None,
        only_used: bool = False,
        after: int | None = None,
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Watch within `async with`, which gives an iterator of events."""
        pump = _Pump(self._client, tenant=tenant, vsid=vsid, kind=kind, only_used=only_used, after=after)
        await self._loop.run(pump.start)
        try:
            yield _Events(self._loop, pump)
        finally:
            with trio.CancelScope(shield=True):
                await self._loop.run(pump.stop)

    async def _run(self, function: Callable[..., Awaitable[T]], *args: Any, **settings: Any) -> T:
        return await self._loop.run(lambda: function(*args, **settings))


class _Pump:
    """Reads a watch on the asyncio thread, as far ahead as there is room."""

    def __init__(self, client: LookupClient, **filters: Any) -> None:
        self._client = client
        self._filters = filters
        self._read_ahead: list[Event] = []
        self._is_anything_new = asyncio.Event()
        self._is_room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._read())
        self._task.add_done_callback(lambda _: self._is_anything_new.set())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def take(self) -> list[Event]:
        """Return the events that have come, at least one. Raises what ended the watch."""
        while not self._read_ahead:
            if self._task is not None and self._task.done():
                self._task.result()
            self._is_anything_new.clear()
            await self._is_anything_new.wait()
        found, self._read_ahead = self._read_ahead, []
        self._is_room.set()
        return found

    async def _read(self) -> None:
        async with aclosing(self._client.watch(**self._filters)) as events:
            async for event in events:
                self._read_ahead.append(event)
                self._is_anything_new.set()
                while len(self._read_ahead) >= MOST_READ_AHEAD:
                    self._is_room.clear()
                    await self._is_room.wait()


class _Events(AsyncIterator[Event]):
    """A watch's events for trio, many at a time across the threads. A step that is cancelled loses none."""

    def __init__(self, loop: EventLoop, pump: _Pump) -> None:
        self._loop = loop
        self._pump = pump
        self._come: deque[Event] = deque()

    async def __anext__(self) -> Event:
        if not self._come:
            self._come.extend(await self._loop.run(self._pump.take))
        return self._come.popleft()
