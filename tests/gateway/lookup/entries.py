"""Entries, claims and watches that the tests of lookup stores share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from ipaddress import ip_network
from pathlib import Path
from time import time
from typing import Any, Protocol, cast

import pytest

from gateway.lookup.claims import Claim, FlapLimits, Mode, Reason, Refused
from gateway.lookup.entries import (
    Grant,
    Key,
    Kind,
    LeaseKey,
    NamedKey,
    Placement,
    Progress,
    RecordKey,
    Stored,
    Value,
)
from gateway.lookup.store import LookupStore, Prefix
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import (
    CustomerRoute,
    IkeIdentity,
    ProviderGateway,
    ProviderHost,
    Site,
    SiteHop,
    Tenant,
    Translation,
    VirtualSubnet,
)


class OpenStore(Protocol):
    """Makes a store without entries, which is closed at the end."""

    def __call__(self, now: Callable[[], float] = time) -> AbstractAsyncContextManager[LookupStore]: ...


class Clock:
    """Unix time, as a test has it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


WEB, DATABASE = Vsid(5001), Vsid(5002)
MAC = MacAddress.parse("02:00:00:00:01:05")
OTHER_MAC = MacAddress.parse("02:00:00:00:01:06")
PROVIDER = {f"hv{n}": ProviderAddress.parse(f"198.51.100.{n}") for n in range(1, 10)}
CA4, CA6 = CustomerAddress.parse("10.0.1.5"), CustomerAddress.parse("fd00:1::5")
KEY4, KEY6 = RecordKey(WEB, CA4), RecordKey(WEB, CA6)
HOST_KEY = NamedKey(Kind.HOST, "hv1")


def at(host: str, *, mac: MacAddress = MAC, pinned: bool = False) -> Placement:
    return Placement(mac, PROVIDER[host], host, pinned=pinned)


def claim(
    host: str,
    mode: Mode = Mode.ANNOUNCE,
    *,
    now: float = 1_000.0,
    addresses: tuple[CustomerAddress, ...] = (),
    mac: MacAddress = MAC,
    vsid: Vsid = WEB,
) -> Claim:
    return Claim(vsid, mac, PROVIDER[host], host, mode, now, addresses, FlapLimits(5, 180.0))


async def revision_of(store: LookupStore) -> int:
    return (await store.page(Prefix(Kind.RECORD), None, 1)).revision


def events_of(store: LookupStore, after: int) -> aclosing[AsyncGenerator[Stored | Progress, None]]:
    return aclosing(cast("AsyncGenerator[Stored | Progress, None]", store.watch(after)))


async def told(store: LookupStore, after: int, upto: int) -> list[Stored]:
    """What a watch tells after a revision, until it says that it has told up to another one."""
    changes = []
    async with events_of(store, after) as events:
        async for event in events:
            if isinstance(event, Stored):
                changes.append(event)
            elif event.revision >= upto:
                break
    return changes


async def listed(store: LookupStore, prefix: Prefix, limit: int = 1_000) -> list[Stored]:
    """All live entries, page by page."""
    found: list[Stored] = []
    while True:
        page = await store.page(prefix, found[-1].key if found else None, limit)
        assert len(page.entries) <= limit
        found += page.entries
        if not page.more:
            return found


def scenario(test: Callable[[Any, LookupStore], Awaitable[None]]) -> Callable[[Any, OpenStore], None]:
    """Run an asynchronous test on a new store."""

    def run(self: object, open_store: OpenStore) -> None:
        async def main() -> None:
            async with asyncio.timeout(60), open_store() as store:
                await test(self, store)

        asyncio.run(main())

    run.__name__ = test.__name__
    return run


def timed_scenario(
    test: Callable[[Any, LookupStore, Clock], Awaitable[None]],
) -> Callable[[Any, OpenStore], None]:
    """Run an asynchronous test on a new store with a clock."""

    def run(self: object, open_store: OpenStore) -> None:
        async def main() -> None:
            clock = Clock()
            async with asyncio.timeout(60), open_store(clock) as store:
                await test(self, store, clock)

        asyncio.run(main())

    run.__name__ = test.__name__
    return run


async def refusal(store: LookupStore, refused: Claim) -> tuple[Reason, Stored | None]:
    with pytest.raises(Refused) as refusal:
        await store.claim(refused)
    return refusal.value.reason, refusal.value.current


def key_of(entry: Stored) -> Any:
    return entry.key


VALUES: dict[Key, Value] = {
    KEY4: Placement(
        MAC,
        ProviderAddress.parse("2001:db8::11"),
        "hv1",
        Translation.REWRITE,
        pinned=True,
        frozen=True,
        moves=(1.5, 1732278000.123456),
    ),
    KEY6: at("hv2"),
    HOST_KEY: ProviderHost("hv1", (PROVIDER["hv1"], ProviderAddress.parse("2001:db8::11")), ("red", "blue")),
    LeaseKey(ProviderAddress.parse("2001:db8:5::9")): Grant(
        DATABASE, CA6, "kante-ü", 1732278000.5, leased=True
    ),
    NamedKey(Kind.GATEWAY, "kante-ü"): ProviderGateway("kante-ü", (PROVIDER["hv9"],)),
    NamedKey(Kind.TENANT, "hv1"): Tenant(
        "hv1",
        ("edge-1",),
        (VirtualSubnet("web", WEB, (ip_network("10.0.1.0/24"), ip_network("fd00:1::/64")), (CA4, CA6)),),
        routes=(CustomerRoute(ip_network("10.9.0.0/16"), SiteHop("seattle")),),
        sites=(
            Site(
                "seattle",
                "edge-1",
                (ip_network("172.16.0.0/16"),),
                None,
                IkeIdentity("edge-1.example", "seattle.example", psk_file=Path("/etc/isthmus/seattle.psk")),
            ),
        ),
    ),
}
