"""Hosts and gateways that lease provider addresses at two lookup nodes, which fail with their store.

    hv1, hv2, edge-1, edge-2 --ask--> authorities A, B --> store
                             <--watch-- replicas A, B <--follow--

Hosts send, to CAs of a site, of VMs, and of nobody; the gateways know which addresses come. Whatever is
decided on the way is what runs: only forwarding, which knows no time, is a few lines here.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

from gateway.feed import changes_of
from gateway.forwarding.directory import Directory
from gateway.host.leasing import (
    ASKED_FOR,
    LEASE_IDLE,
    MOST_UNDER_WAY,
    Apply,
    Ask,
    Effect,
    Lacking,
    Leasing,
    Refuse,
    Return,
)
from gateway.host.uses import Key
from gateway.http.principals import Principal
from gateway.lookup.authority import Authority
from gateway.lookup.batches import Batch
from gateway.lookup.claims import FlapLimits
from gateway.lookup.entries import Kind, NamedKey, Placement, RecordKey
from gateway.lookup.follow import entries
from gateway.lookup.grants import QUARANTINE
from gateway.lookup.outcomes import NoLease
from gateway.lookup.replica import Replica
from gateway.lookup.store import Expect, Prefix, StoreError, StoreUnavailable
from gateway.lookup.visibility import EVERYTHING
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import (
    Appliance,
    Engine,
    IkeIdentity,
    Lease,
    Network,
    ProviderGateway,
    ProviderHost,
    Site,
    Tenant,
    Translation,
    VirtualSubnet,
)
from policies.services import Role
from tests.sim.lookup import World as Weather

T = TypeVar("T")

WEB = Vsid(5001)
WEB_PREFIX, SITE_PREFIX = ip_network("10.0.1.0/24"), ip_network("172.16.0.0/24")
OWN = CustomerAddress.parse("10.0.1.1")
VMS = tuple(CustomerAddress(bytes((10, 0, 1, number))) for number in range(5, 9))
NOBODY = tuple(CustomerAddress(bytes((10, 0, 1, number))) for number in range(100, 104))
DISTANT = tuple(CustomerAddress(bytes((172, 16, 0, number))) for number in range(1, 13))
GATEWAYS = {
    "edge-1": ProviderGateway(
        "edge-1", (ProviderAddress.parse("192.0.2.254"),), (ip_network("198.18.0.0/27"),)
    ),
    "edge-2": ProviderGateway(
        "edge-2", (ProviderAddress.parse("192.0.2.253"),), (ip_network("198.18.1.0/27"),)
    ),
}
HOSTS = {
    f"hv{number}": ProviderHost(
        f"hv{number}",
        (ProviderAddress(bytes((198, 51, 100, number))),),
        ("red",),
        pools=(ip_network(f"198.18.{number + 1}.0/27"),),
    )
    for number in (1, 2)
}
SAMPLE_EVERY = 60.0
WEATHER, CALM = 600.0, 40.0
"""Seconds in which everything fails, and within which everybody then has what is wanted."""


def red(leases: int) -> Tenant:
    """The tenant: a rewritten subnet, and a site at edge-1."""
    web = VirtualSubnet("web", WEB, (WEB_PREFIX,), (OWN,), Translation.REWRITE)
    ike = IkeIdentity("edge-1.example", "seattle.example")
    seattle = Site("seattle", "edge-1", (SITE_PREFIX,), None, ike)
    return Tenant("red", tuple(GATEWAYS), (web,), sites=(seattle,), leases=leases)


class Member:
    """A host or a gateway: its replica, its directory, its machine, and what carries that out."""

    def __init__(self, world: World, principal: Principal, replica: Replica) -> None:
        self.world, self.name, self.principal, self.replica = world, principal.name, principal, replica
        self.directory = Directory()
        self.is_gateway = principal.role is Role.GATEWAY
        self.leasing = Leasing(self.name if self.is_gateway else None, self.directory.find)
        self.used: set[bytes] = set()
        self.refused: set[Key] = set()
        """What is wanted and was refused since it was last had."""
        self.asked: dict[Key, float] = {}
        self.under_way = 0
        self._batches: deque[Batch] = deque()
        self._come = asyncio.Event()
        self._due = asyncio.Event()
        replica.subscribe(self._take)

    @property
    def work(self) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
        """What it does all the time."""
        return self._feed, self._keep_time, self._look, self._sample

    @property
    def is_lost(self) -> bool:
        """Whether it has been cut off for so long that addresses may be others' than it knows."""
        since = self.replica.stale_since
        return since is not None and self.world.time() - since > QUARANTINE - SAMPLE_EVERY

    def send(self, key: Key) -> None:
        """Have a packet to or from a CA, and see what becomes of it."""
        record = self.directory.find(*key)
        if record is not None and record.translation is Translation.REWRITE:
            return
        every = self.directory.leases(*key)
        leases = [lease for lease in every if not self.is_gateway or lease.node == self.name]
        if not leases:
            self.leasing.wanted(*key, self.world.time())
            self._due.set()
            return
        self.refused.discard(key)
        self.world.arrive(key, leases[0], self)

    def _take(self, batch: Batch) -> None:
        self._batches.append(batch)
        self._come.set()

    async def _feed(self) -> None:
        """Tell what the replica learns, as the feed does: a few changes at a time, and late."""
        while True:
            await self._come.wait()
            self._come.clear()
            while self._batches:
                batch = self._batches.popleft()
                for change in changes_of(batch):
                    self.directory.apply(change)
                    self.leasing.changed(change, self.world.time())
                    self._due.set()
                    await self.world.linger()
                if batch.network is not None:
                    self._carry_out(self.leasing.configure(self._appliance(batch.network), self.world.time()))
                self._carry_out(self.leasing.applied(batch.revision, self.world.time()))

    async def _keep_time(self) -> None:
        while True:
            self._due.clear()
            rest = max(0.0, self.leasing.deadline - self.world.time())
            try:
                async with asyncio.timeout(min(rest, 1000.0)):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._carry_out(self.leasing.handle_timeout(self.world.time()))

    async def _look(self) -> None:
        was = False
        while True:
            is_connected = self.replica.stale_since is None
            if is_connected and not was:
                self._carry_out(self.leasing.reconnected(self.world.time()))
            was = is_connected
            await asyncio.sleep(1.0)

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_EVERY)
            used, self.used = self.used, set()
            self.leasing.used(sorted(used), self.world.time())
            self._carry_out(self.leasing.expire(self.world.time()))

    def _appliance(self, network: Network) -> Appliance:
        return Appliance(self.name, Path(), Engine.PYTHON, None, self.is_gateway, None, None, network)

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Ask(vsid, ca):
                    self._check_asked((vsid, ca))
                    self.world.spawn(self._ask((vsid, ca)))
                case Return(pas):
                    self.world.spawn(self._return(pas))
                case Apply(change):
                    self.directory.apply(change)
                case Refuse(vsid, ca):
                    self.refused.add((vsid, ca))
                case Lacking():
                    pass

    def _check_asked(self, key: Key) -> None:
        now = self.world.time()
        if now < self.asked.get(key, 0.0):
            self.world.problems.append(f"{self.name} asks for {key} too early, at {now}")
        self.asked[key] = float("inf")
        self.under_way += 1
        if self.under_way > MOST_UNDER_WAY:
            self.world.problems.append(f"{self.name} asks for {self.under_way} at once")

    async def _ask(self, key: Key) -> None:
        try:
            answer = await self.world.call(lambda node: node.lease(self.principal, *key))
        except NoLease as none:
            effects = self.leasing.refused(key, none.reason, self._answered(key))
        except (StoreError, TimeoutError):
            effects = self.leasing.failed(key, self._answered(key))
        else:
            effects = self.leasing.answered(key, answer, self._answered(key))
        self._carry_out(effects)
        self._due.set()

    def _answered(self, key: Key) -> float:
        self.under_way -= 1
        now = self.world.time()
        self.asked[key] = now + ASKED_FOR
        return now

    async def _return(self, pas: tuple[ProviderAddress, ...]) -> None:
        try:
            await self.world.call(lambda node: node.return_leases(self.principal, pas))
        except (StoreError, TimeoutError):
            effects = self.leasing.return_failed(self.world.time())
        else:
            effects = self.leasing.returned(self.world.time())
        self._carry_out(effects)
        self._due.set()


class World(Weather):
    """One history, by its seed."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.limit = self.chance.choice((1000, 1000, 8))
        self.members: dict[str, Member] = {}
        self.authorities: list[Authority] = []
        self.flows: set[tuple[str, Key]] = set()
        """Who sends to which CA; a gateway, who has packets from it."""
        self.arrived: set[Key] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def live(self) -> None:
        """Send, fail and recover; then see that everybody has what is wanted, and at last nothing."""
        random.seed(self.chance.random())
        try:
            await self._begin()
            await asyncio.sleep(WEATHER)
            self.is_calm = True
            self.store.come_back()
            await self._until_all_know()
            await asyncio.sleep(CALM)
            await self._check_flows()
            self.flows.clear()
            await asyncio.sleep(LEASE_IDLE + 3 * SAMPLE_EVERY)
            await self._check_rest()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def call(self, ask: Callable[[Authority], Awaitable[T]]) -> T:
        """Ask one of the lookup nodes, by a network that loses and delays questions and answers."""
        async with asyncio.timeout(5.0):
            await self._travel()
            answer = await ask(self.chance.choice(self.authorities))
            await self._travel()
            return answer

    async def linger(self) -> None:
        """Let others have their turn, and now and then much happen meanwhile."""
        if not self.is_calm and self.chance.random() < self.trouble:
            await asyncio.sleep(self.chance.choice((0.01, 0.5, 5.0)))

    def arrive(self, key: Key, lease: Lease, sender: Member) -> None:
        """A packet comes to a gateway, to the address that stands for a CA where it comes from."""
        gateway = self.members[lease.node]
        holder = gateway.directory.holder(lease.pa)
        if isinstance(holder, Lease):
            if (holder.vsid, holder.ca) != key and not (sender.is_lost or gateway.is_lost):
                self.problems.append(f"{lease.node} takes what is for {key[1]} for {holder.ca}'s")
            gateway.used.add(bytes(lease.pa))
            self.arrived.add(key)

    def _now(self) -> float:
        return 1000.0 + self.time()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.problems.append(f"a task has ended: {task.exception()!r}")

    async def _begin(self) -> None:
        for host in HOSTS.values():
            await self.store.put(NamedKey(Kind.HOST, host.name), host, Expect.ABSENT)
        for gateway in GATEWAYS.values():
            await self.store.put(NamedKey(Kind.GATEWAY, gateway.name), gateway, Expect.ABSENT)
        await self.store.put(NamedKey(Kind.TENANT, "red"), red(self.limit), Expect.ABSENT)
        for _ in range(2):
            replica = Replica(self._faulty(self._of_store), patience=0.0)
            self.near.append(replica)
            self.authorities.append(
                Authority(self.store, replica, FlapLimits(), now=self._now, clock=self.time)
            )
            self.spawn(replica.run())
        for name in (*HOSTS, *GATEWAYS):
            role = Role.HOST if name in HOSTS else Role.GATEWAY
            replica = Replica(self._faulty(partial(self._of_a_replica, EVERYTHING)))
            self.members[name] = member = Member(self, Principal(name, role), replica)
            for work in (replica.run, *member.work):
                self.spawn(work())
        for trouble in (self._send, self._change, self._lose_store, self._sweep):
            self.spawn(trouble())

    async def _send(self) -> None:
        while True:
            for name, key in sorted(self.flows):
                self.members[name].send(key)
            await asyncio.sleep(0.5)

    async def _change(self) -> None:
        """Have other packets sent, and other VMs there."""
        while not self.is_calm:
            await asyncio.sleep(self.chance.choice((0.0, 1.0, 10.0)))
            name = self.chance.choice((*HOSTS, "edge-1"))
            if len(self.flows) > 20 or (self.flows and self.chance.random() < 0.3):
                self.flows.remove(self.chance.choice(sorted(self.flows)))
            elif self.chance.random() < 0.8:
                cas = (*DISTANT, *VMS) if name == "edge-1" else (*DISTANT, *VMS, *NOBODY, OWN)
                self.flows.add((name, (WEB, self.chance.choice(cas))))
            else:
                with suppress(StoreError):
                    await self._change_record()

    async def _change_record(self) -> None:
        ca = self.chance.choice(VMS)
        key = RecordKey(WEB, ca)
        if self.chance.random() < 0.2:
            await self.store.delete(key, Expect.ANY)
            return
        host = self.chance.choice(list(HOSTS.values()))
        own = ProviderAddress(bytes(host.pools[0][ca[3]].packed))
        is_rewritten = self.chance.random() < 0.3
        translation = Translation.REWRITE if is_rewritten else Translation.ENCAP
        pa = own if is_rewritten else host.provider_addresses[0]
        mac = MacAddress(bytes((2, 0, 0, 0, 1, ca[3])))
        await self.store.put(key, Placement(mac, pa, host.name, translation), Expect.ANY)

    async def _lose_store(self) -> None:
        while not self.is_calm:
            await asyncio.sleep(self.chance.choice((10.0, 100.0)))
            if self.chance.random() < self.trouble * 3 and not self.is_calm:
                self.store.go_away("its machines are down")
                await asyncio.sleep(self.chance.choice((0.1, 20.0, 60.0)))
                self.store.come_back()

    async def _sweep(self) -> None:
        while self.chance.random() < 0.9:
            await asyncio.sleep(SAMPLE_EVERY)
            with suppress(StoreError):
                await self.chance.choice(self.authorities).leasing.sweep()

    async def _travel(self) -> None:
        await asyncio.sleep(self.chance.random() * (0.01 if self.is_calm else 0.1 + self.slowness))
        if not self.is_calm and self.chance.random() < self.trouble:
            await asyncio.sleep(self.chance.choice((0.0, 1.0, 10.0)))
            raise StoreUnavailable("lost on the way")

    async def _until_all_know(self) -> None:
        replicas = [*self.near, *(member.replica for member in self.members.values())]
        for _ in range(300):
            await asyncio.sleep(1.0)
            head = self.store._revision
            if all(each.revision == head and each.stale_since is None for each in replicas):
                return
        self.problems.append("not everybody knows what the store has")

    async def _check_flows(self) -> None:
        """Whatever is sent arrives, if it is somebody's; or it is known that there is no address for it."""
        self.arrived.clear()
        await asyncio.sleep(3.0)
        for name, key in self.flows:
            member = self.members[name]
            record = member.directory.find(*key)
            if record is not None and record.translation is Translation.REWRITE:
                continue
            is_somebody = key[1] in (*DISTANT, OWN) or record is not None
            # A lease of a VM that has gone stays for as long as somebody sends there.
            is_nobody = key[1] in NOBODY
            if is_somebody and key not in self.arrived and (self.limit == 1000 or key not in member.refused):
                self.problems.append(f"{name} does not reach {key[1]}")
            if is_nobody and (key in self.arrived or key not in member.refused):
                self.problems.append(f"{name} reaches {key[1]}, which is nobody's")

    async def _check_rest(self) -> None:
        """All is returned but the gateways' own CAs; everybody knows that, and nothing is left of it."""
        held = {entry.lease async for entry in entries(self.store, Prefix(Kind.LEASE))} - {None}
        leases = {lease for lease in held if lease is not None and lease.node in GATEWAYS}
        if sorted((lease.node, lease.ca) for lease in leases) != [(name, OWN) for name in GATEWAYS]:
            self.problems.append(f"at the end these are leased: {leases}")
        for member in self.members.values():
            if (known := set(member.directory.all_leases())) != leases:
                self.problems.append(f"{member.name} knows of {known}, and not of {leases}")
            if member.under_way or member.leasing.deadline < self.time():
                self.problems.append(f"{member.name} is not at rest")
