"""A host's or a gateway's agent beside a lookup service that answers, refuses, is away, or is silent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio
import trio.testing

from gateway.forwarding.directory import Change, Delete, Directory, Put
from gateway.forwarding.verdicts import PortKey
from gateway.host.agent import Agent
from gateway.host.uses import Key
from gateway.lookup.answers import Hint
from gateway.lookup.claims import Mode
from gateway.lookup.store import StoreUnavailable
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.config import parse
from policies.model import Lease, LookupRecord
from tests.configurations import node, provider_gateway, provider_host, subnet, tenant

VSID = Vsid(5001)
HERE = ProviderAddress.parse("198.51.100.11")
THERE = ProviderAddress.parse("203.0.113.12")
GATEWAY = ProviderAddress.parse("192.0.2.254")
PORTS = 40

NETWORK = (
    provider_host("hv1", HERE)
    + provider_host("hv2", THERE)
    + provider_gateway("edge-1", GATEWAY)
    + tenant("red")
    + subnet("web", VSID, "10.0.0.0/16")
)
HEAD = node("hv1", HERE)
HOST = HEAD + '[host]\nname = "hv1"\n'
LEARNING_HOST = HOST + 'lookup = ["http://localhost:7637"]\nrecords = "used"\n'


def mac(number: int) -> MacAddress:
    return MacAddress(bytes((2, 0, 0, 0, 1, number)))


def ca(number: int) -> CustomerAddress:
    return CustomerAddress(bytes((10, 0, 1, number)))


def key(number: int) -> PortKey:
    return VSID, mac(number)


def record(number: int, host: str = "hv2", revision: int = 1) -> LookupRecord:
    return LookupRecord(
        VSID, ca(number), mac(number), THERE if host == "hv2" else HERE, host, revision=revision
    )


def ports(count: int = PORTS) -> str:
    return "".join(
        f'[[host.port]]\ninterface = "vnet{number}"\ntenant = "red"\nsubnet = "web"\n'
        f'mac = "{mac(number)}"\naddresses = ["{ca(number)}"]\n'
        for number in range(2, 2 + count)
    )


class Lookup:
    """A lookup service that says of each call when it came, and answers as it is told to."""

    def __init__(self) -> None:
        self.claims: list[tuple[float, MacAddress, Mode]] = []
        self.given: list[Hint] = []
        self.calls_with_hints = 0
        self.acknowledged: list[tuple[float, int]] = []
        self.asked: list[tuple[float, CustomerAddress]] = []
        self.leases: dict[Key, Lease] = {}
        self.returned: list[tuple[float, list[ProviderAddress]]] = []
        self.answer: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self.under_way = 0
        self.most_under_way = 0
        self.cancelled = 0

    async def claim(
        self,
        vsid: Vsid,
        mac: MacAddress,
        pa: ProviderAddress,
        mode: Mode,
        addresses: tuple[CustomerAddress, ...],
    ) -> object:
        assert (vsid, pa, len(addresses)) == (VSID, HERE, 1)
        self.claims.append((trio.current_time(), mac, mode))
        await self._answered()
        return None

    async def hints(self, hints: Sequence[Hint]) -> None:
        self.calls_with_hints += 1
        await self._answered()
        self.given += hints

    async def lease(self, vsid: Vsid, ca: CustomerAddress) -> Lease | LookupRecord:
        self.asked.append((trio.current_time(), ca))
        await self._answered()
        return self.leases[vsid, ca]

    async def return_leases(self, pas: Sequence[ProviderAddress]) -> None:
        await self._answered()
        self.returned.append((trio.current_time(), list(pas)))

    async def acknowledge(self, revision: int) -> None:
        await self._answered()
        self.acknowledged.append((trio.current_time(), revision))

    async def _answered(self) -> None:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.answer()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1


class Node:
    """A host, or with `text` another node, and its agent. What it is told comes from the directory."""

    def __init__(self, text: str = HOST + ports() + NETWORK) -> None:
        self.lookup = Lookup()
        self.directory = Directory()
        self.probes: list[tuple[float, CustomerAddress]] = []
        self.is_connected = True
        self.used: list[Key] = []
        self.refused: list[tuple[float, Vsid, CustomerAddress]] = []
        self.used_leases: list[bytes] = []
        self.appliance = parse(text)
        self.agent = Agent(
            self.appliance,
            self.lookup,
            find=self.directory.find,
            probe=lambda _key, address: self.probes.append((trio.current_time(), address)),
            is_connected=lambda: self.is_connected,
            in_use=lambda: self.used,
            refuse=lambda vsid, address: self.refused.append((trio.current_time(), vsid, address)),
            apply=self.apply,
            used_leases=lambda: self.used_leases,
            jitter=lambda: 0.0,
        )

    def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self.directory.apply(change)

    def tell(self, *changes: Change) -> None:
        self.apply(changes)
        self.agent.changed(changes)

    def put(self, *records: LookupRecord) -> None:
        self.tell(*map(Put, records))

    def delete(self, number: int) -> None:
        self.tell(Delete(VSID, ca(number)))


def run(main: Callable[[Node], Awaitable[None]], node: Callable[[], Node] = Node) -> None:
    """Run a test beside a node's agent, in virtual time that begins with 0."""

    async def whole() -> None:
        it = node()
        it.agent.configure(it.appliance)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.agent.run)
            await trio.testing.wait_all_tasks_blocked()
            await main(it)
            nursery.cancel_scope.cancel()

    trio.run(whole, clock=trio.testing.MockClock(autojump_threshold=0))


async def away() -> None:
    raise StoreUnavailable("nobody is there")


async def never() -> None:
    await trio.sleep_forever()
