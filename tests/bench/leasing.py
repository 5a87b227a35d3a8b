"""A hundred thousand leases asked for and returned at a lookup node, as its gateway and hosts would.

Each is found free, granted by the store, and seen in the node's own replica before it is answered.
"""

from __future__ import annotations

import asyncio
import ipaddress
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from gateway.http.principals import Principal
from gateway.lookup.authority import Authority
from gateway.lookup.claims import FlapLimits
from gateway.lookup.follow import follow, latest_revision
from gateway.lookup.network import apply
from gateway.lookup.replica import Replica
from gateway.lookup.store import LookupStore
from gateway.lookup.stores.memory import MemoryStore
from gateway.lookup.stores.sqlite import SqliteStore
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.model import (
    IkeIdentity,
    Lease,
    Network,
    ProviderGateway,
    Site,
    Tenant,
    Translation,
    VirtualSubnet,
)
from policies.services import Role
from tests.bench.lookup_node import at_first
from tests.bench.results import Result

RUNS = 3
LEASES = 100_000
ASKERS = 64
RETURNED_AT_ONCE = 1000
WEB = Vsid(5001)
GATEWAY = Principal("edge-1", Role.GATEWAY)
FIRST = int(ipaddress.ip_address("172.16.0.0"))

NETWORK = Network(
    gateways=(
        ProviderGateway(
            "edge-1", (ProviderAddress.parse("192.0.2.254"),), (ipaddress.ip_network("198.18.0.0/15"),)
        ),
    ),
    tenants=(
        Tenant(
            "red",
            ("edge-1",),
            (VirtualSubnet("web", WEB, (ipaddress.ip_network("10.0.1.0/24"),), (), Translation.REWRITE),),
            sites=(
                Site(
                    "seattle",
                    "edge-1",
                    (ipaddress.ip_network("172.16.0.0/12"),),
                    None,
                    IkeIdentity("edge-1.example", "seattle.example"),
                ),
            ),
            leases=LEASES,
        ),
    ),
)


def benchmark() -> Iterator[Result]:
    """Ask for a hundred thousand, at once and one after the other; and return them."""
    with at_first():
        in_memory = [asyncio.run(_measure(_memory)) for _ in range(RUNS)]
        on_disk = [asyncio.run(_measure(_sqlite)) for _ in range(RUNS)]
    for store, runs in (("in memory", in_memory), ("sqlite", on_disk)):
        made, returned = zip(*runs, strict=True)
        yield Result(f"100,000 leases at a lookup node, {store}: made", "s", made)
        yield Result(f"100,000 leases at a lookup node, {store}: returned", "s", returned)


async def _measure(opened: Callable[[], AsyncIterator[LookupStore]]) -> tuple[float, float]:
    async with asynccontextmanager(opened)() as store:
        await apply(store, NETWORK)
        replica = Replica(partial(follow, store))
        following = asyncio.create_task(replica.run())
        await replica.reached(await latest_revision(store), 10)
        authority = Authority(store, replica, FlapLimits(), now=time.time)
        found: list[ProviderAddress] = []
        left = iter(range(LEASES))

        async def ask() -> None:
            for number in left:
                lease = await authority.lease(GATEWAY, WEB, CustomerAddress((FIRST + number).to_bytes(4)))
                if isinstance(lease, Lease):
                    found.append(lease.pa)

        began = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(ASKERS)))
        made = time.perf_counter() - began
        if len(set(found)) != LEASES:
            raise AssertionError(f"{len(set(found))} addresses are leased of {LEASES}")
        began = time.perf_counter()
        for start in range(0, LEASES, RETURNED_AT_ONCE):
            await authority.return_leases(GATEWAY, found[start : start + RETURNED_AT_ONCE])
        returned = time.perf_counter() - began
        (pool,) = authority.granting.usage()
        if (pool.held, pool.quarantined) != (0, LEASES):
            raise AssertionError(f"{pool.held} addresses are held still")
        following.cancel()
        await asyncio.wait([following])
    return made, returned


async def _memory() -> AsyncIterator[LookupStore]:
    yield MemoryStore()


async def _sqlite() -> AsyncIterator[LookupStore]:
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as directory:
        store = await SqliteStore.open(Path(directory) / "records.sqlite")
        try:
            yield store
        finally:
            await store.close()
