"""A network with pools, where Red's web is rewritten and its db is not; and authorities over one store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import msgspec
import pytest

from gateway.http.principals import Principal
from gateway.lookup.authority import Authority
from gateway.lookup.claims import FlapLimits
from gateway.lookup.entries import Placement, RecordKey
from gateway.lookup.follow import follow, latest_revision
from gateway.lookup.network import apply
from gateway.lookup.outcomes import NoLease, WhyNoLease
from gateway.lookup.replica import Replica
from gateway.lookup.store import Expect, LookupStore
from gateway.lookup.stores.memory import MemoryStore
from policies.addresses import CustomerAddress, Prefix, Vsid
from policies.model import (
    AddressHop,
    CustomerRoute,
    Lease,
    LookupRecord,
    Network,
    ProviderGateway,
    Tenant,
    Translation,
)
from tests.gateway.lookup import serving
from tests.gateway.lookup.entries import Clock
from tests.gateway.lookup.serving import ca, mac, pa, prefix

POOLS: dict[str, tuple[str, ...]] = {
    "hv1": ("203.0.113.0/28", "2001:db8:1::/112"),
    "hv2": ("203.0.113.0/28", "2001:db8:2::/112"),
    "hv3": (),
    "edge-1": ("192.0.2.128/28", "2001:db8:f::/64"),
    "edge-2": ("192.0.2.160/27",),
}
FIREWALLED = CustomerRoute(prefix("10.77.0.0/16"), AddressHop(ca("10.0.2.9")))


def pools(name: str) -> tuple[Prefix, ...]:
    return tuple(map(prefix, POOLS[name]))


def pooled(*, leases: int = 1000, gateways: Sequence[str] = ("edge-1", "edge-2"), **of: Any) -> Network:
    """The network of `serving` with pools; `of` are other pools of some nodes."""
    plain = serving.NETWORK
    edges = (*plain.gateways, ProviderGateway("edge-2", (pa("192.0.2.253"),)))
    return Network(
        hosts=tuple(msgspec.structs.replace(each, pools=pools(each.name)) for each in plain.hosts),
        gateways=tuple(
            msgspec.structs.replace(each, pools=of.get(each.name.replace("-", "_"), pools(each.name)))
            for each in edges
        ),
        tenants=tuple(_with_leases(each, leases, tuple(gateways)) for each in plain.tenants),
    )


def _with_leases(tenant: Tenant, leases: int, gateways: tuple[str, ...]) -> Tenant:
    web, *others = tenant.subnets
    web = msgspec.structs.replace(web, translation=Translation.REWRITE)
    routes = (FIREWALLED,) if tenant.name == "red" else ()
    return msgspec.structs.replace(
        tenant, gateways=gateways, leases=leases, subnets=(web, *others), routes=routes
    )


class House(NamedTuple):
    """A lookup node without its HTTP service."""

    authority: Authority
    store: LookupStore
    replica: Replica
    clock: Clock

    async def place(
        self,
        vsid: Vsid,
        text: str,
        number: int,
        host: str = "hv1",
        own: str | None = None,
    ) -> LookupRecord:
        """Write a record: rewritten, if it has an address of its `own`."""
        owner = next(each for each in self.replica.network.hosts if each.name == host)
        address = owner.provider_addresses[0] if own is None else pa(own)
        way = Translation.ENCAP if own is None else Translation.REWRITE
        value = Placement(mac(number), address, host, way)
        stored = await self.store.put(RecordKey(vsid, ca(text)), value, Expect.ANY)
        assert await self.replica.reached(stored.revision, 5)
        assert stored.record is not None
        return stored.record

    async def apply(self, network: Network) -> None:
        """Change the network."""
        await apply(self.store, network)
        assert await self.replica.reached(await latest_revision(self.store), 5)

    def leases(self) -> list[Lease]:
        """Every lease that is held."""
        return [
            lease
            for vsid in self.replica.granted.leased_vsids()
            for lease in self.replica.granted.leases_in(vsid)
        ]


@asynccontextmanager
async def node(store: LookupStore, clock: Clock) -> AsyncIterator[House]:
    """A lookup node over a store."""
    replica = Replica(partial(follow, store))
    running = asyncio.create_task(replica.run())
    assert await replica.reached(await latest_revision(store), 5)
    try:
        yield House(Authority(store, replica, FlapLimits(), now=clock), store, replica, clock)
    finally:
        running.cancel()
        await asyncio.wait([running])


def with_house(test: Callable[[House], Awaitable[None]], network: Network | None = None) -> None:
    """Run a test with one lookup node."""
    with_houses(lambda houses: test(houses[0]), 1, network)


def with_houses(
    test: Callable[[Sequence[House]], Awaitable[None]], count: int, network: Network | None = None
) -> None:
    """Run a test with so many lookup nodes over one store."""

    async def main() -> None:
        clock = Clock()
        store = MemoryStore(now=clock)
        await apply(store, network if network is not None else pooled())
        async with AsyncExitStack() as stack:
            houses = [await stack.enter_async_context(node(store, clock)) for _ in range(count)]
            await test(houses)

    asyncio.run(main())


async def leased(house: House, principal: Principal, vsid: Vsid, address: CustomerAddress) -> Lease:
    """Ask for a lease, and return it."""
    found = await house.authority.lease(principal, vsid, address)
    assert isinstance(found, Lease)
    return found


async def refused(house: House, principal: Principal, vsid: Vsid, address: CustomerAddress) -> WhyNoLease:
    """Ask for a lease in vain, and return why."""
    with pytest.raises(NoLease) as refusal:
        await house.authority.lease(principal, vsid, address)
    return refusal.value.reason
