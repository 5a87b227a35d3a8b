"""A lookup node for tests: a store in memory, its replica and the HTTP service, and someone who asks."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import aiohttp
import msgspec

from gateway.http.door import Door
from gateway.http.principals import Credentials, Principal
from gateway.lookup.authority import Authority
from gateway.lookup.claims import FlapLimits
from gateway.lookup.entries import Kind, Placement, RecordKey
from gateway.lookup.follow import follow
from gateway.lookup.http.service import Beside, serve
from gateway.lookup.network import apply
from gateway.lookup.replica import Replica
from gateway.lookup.store import Expect, Prefix
from gateway.lookup.stores.memory import MemoryStore
from policies import addresses
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import IkeIdentity, Network, ProviderGateway, ProviderHost, Site, Tenant, VirtualSubnet
from policies.services import LookupSettings, Role

WEB, DB, BLUE = Vsid(5001), Vsid(5002), Vsid(6001)

OPERATOR = Principal("op", Role.OPERATOR)
GATEWAY = Principal("edge-1", Role.GATEWAY)
HV1 = Principal("hv1", Role.HOST)
HV2 = Principal("hv2", Role.HOST)
HV3 = Principal("hv3", Role.HOST)
READER = Principal("dashboard", Role.READER, frozenset({"red"}))
TOKENS = {
    each.name: f"token-of-{each.name}-0123456789" for each in (OPERATOR, GATEWAY, HV1, HV2, HV3, READER)
}


def ca(text: str) -> CustomerAddress:
    return CustomerAddress.parse(text)


def pa(text: str) -> ProviderAddress:
    return ProviderAddress.parse(text)


def mac(number: int) -> MacAddress:
    return MacAddress(b"\x02\x00" + number.to_bytes(4))


def prefix(text: str) -> addresses.Prefix:
    return ipaddress.ip_network(text)


def _subnet(name: str, vsid: Vsid, *prefixes: str) -> VirtualSubnet:
    found = tuple(prefix(each) for each in prefixes)
    gateways = tuple(CustomerAddress((each.network_address + 1).packed) for each in found)
    return VirtualSubnet(name, vsid, found, gateways)


SEATTLE = Site(
    name="seattle",
    gateway="edge-1",
    prefixes=(prefix("172.16.0.0/16"),),
    peer=pa("203.0.113.7"),
    ike=IkeIdentity("edge-1.example", "seattle.example"),
)

NETWORK = Network(
    hosts=(
        ProviderHost("hv1", (pa("198.51.100.11"),), ("red",)),
        ProviderHost("hv2", (pa("198.51.100.12"), pa("2001:db8::12")), ("red", "blue")),
        ProviderHost("hv3", (pa("198.51.100.13"),), ("blue",)),
    ),
    gateways=(ProviderGateway("edge-1", (pa("192.0.2.254"),)),),
    tenants=(
        Tenant(
            "red",
            ("edge-1",),
            (_subnet("web", WEB, "10.0.1.0/24", "fd00:1::/64"), _subnet("db", DB, "10.0.2.0/24")),
            sites=(SEATTLE,),
        ),
        Tenant("blue", ("edge-1",), (_subnet("web", BLUE, "10.0.1.0/24"),)),
    ),
)


class Serving(NamedTuple):
    """A lookup node, with its port."""

    store: MemoryStore
    replica: Replica
    authority: Authority
    port: int
    door: Door


@asynccontextmanager
async def lookup_node(
    settings: LookupSettings | None = None,
    *,
    network: Network = NETWORK,
    history: int = 65536,
    beside: Serving | None = None,
    answering: Beside | None = None,
) -> AsyncIterator[Serving]:
    """A lookup node on a port of its own. Without settings of the caller's, the tokens are those above.

    `beside` another, it has the same store. `answering` says what else it answers.
    """
    store = beside.store if beside is not None else MemoryStore()
    await apply(store, network)
    replica = Replica(partial(follow, store), history=history)
    authority = Authority(store, replica, FlapLimits(), now=time.time)
    door = Door()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    tasks = [asyncio.create_task(replica.run())]
    assert await replica.reached((await store.page(Prefix(Kind.HOST), None, 1)).revision, 5)
    listening = settings or LookupSettings(listen="127.0.0.1:0")
    tasks.append(
        asyncio.create_task(
            serve(listening, authority, replica, door, started=port.set_result, beside=answering)
        )
    )
    ready: list[asyncio.Future[Any]] = [port, tasks[1]]
    await asyncio.wait(ready, return_when=asyncio.FIRST_COMPLETED)
    if not port.done():
        tasks[0].cancel()
        await tasks.pop()
    if settings is None:
        everybody = (OPERATOR, GATEWAY, HV1, HV2, HV3, READER)
        door.credentials = Credentials([(TOKENS[each.name].encode(), each) for each in everybody], {})
    try:
        yield Serving(store, replica, authority, port.result(), door)
    finally:
        for task in reversed(tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if beside is None:
            await store.close()


class Answer(NamedTuple):
    """What was answered."""

    status: int
    body: Any
    headers: Mapping[str, str]


class Asker:
    """Asks a lookup node as somebody."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str | None) -> None:
        self.session = session
        self.url = url
        self.headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    async def __call__(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """Ask; underscores in the names of headers are hyphens."""
        sent = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        content: bytes | None = None
        if body is not None:
            content = body if isinstance(body, bytes) else msgspec.json.encode(body)
            sent.setdefault("Content-Type", "application/json")
        async with self.session.request(method, self.url + path, data=content, headers=sent) as response:
            octets = await response.read()
            is_json = "json" in response.headers.get("Content-Type", "") and octets
            return Answer(
                response.status, msgspec.json.decode(octets) if is_json else octets, response.headers
            )


@asynccontextmanager
async def asking(node: Serving, principal: Principal | None = OPERATOR) -> AsyncIterator[Asker]:
    """Somebody with one session to a node."""
    token = None if principal is None else TOKENS[principal.name]
    async with aiohttp.ClientSession() as session:
        yield Asker(session, f"http://127.0.0.1:{node.port}", token)


class Watcher:
    """Reads a watch line by line."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def line(self) -> dict[str, Any]:
        """The next line."""
        async with asyncio.timeout(5):
            text = await self.response.content.readline()
        if not text:
            raise EOFError
        found: dict[str, Any] = msgspec.json.decode(text)
        return found

    async def until_progress(self) -> list[dict[str, Any]]:
        """All lines up to the next progress, and that."""
        lines = [await self.line()]
        while lines[-1]["type"] != "progress":
            lines.append(await self.line())
        return lines


@asynccontextmanager
async def watching(asker: Asker, query: str = "") -> AsyncIterator[Watcher]:
    """A watch of somebody's."""
    async with asker.session.get(f"{asker.url}/v1/watch{query}", headers=asker.headers) as response:
        assert response.status == 200, await response.text()
        yield Watcher(response)


async def place(node: Serving, vsid: Vsid, text: str, number: int, host: str) -> int:
    """Write a record, and wait until the node shows it; return its revision."""
    owner = next(each for each in NETWORK.hosts if each.name == host)
    value = Placement(mac(number), owner.provider_addresses[0], host)
    stored = await node.store.put(RecordKey(vsid, ca(text)), value, Expect.ANY)
    assert await node.replica.reached(stored.revision, 2)
    return stored.revision
