"""24 simulated hours of a lookup node: what it holds does not grow, and whoever follows it has the same.

The loop's time is virtual. HTTP and the connection of a follower are left out: that one has the node's
own history, as its watch tells it.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

from gateway.http.principals import Principal
from gateway.lookup.authority import Authority
from gateway.lookup.claims import FlapLimits, Mode, Refused
from gateway.lookup.entries import Event, Key, Kind, LeaseKey, Placement, Progress, RecordKey, Reset, Stored
from gateway.lookup.follow import follow
from gateway.lookup.network import apply
from gateway.lookup.outcomes import Forbidden
from gateway.lookup.replica import Replica
from gateway.lookup.store import Expect, StoreUnavailable
from gateway.lookup.stores.memory import MemoryStore
from policies.addresses import CustomerAddress
from policies.model import Lease
from tests.gateway.lookup.pooled import pooled
from tests.gateway.lookup.serving import GATEWAY, HV1, HV2, HV3, WEB, ca, mac, pa, prefix
from tests.sim.day.census import Census, grown, take
from tests.sim.lookup import contents, run

HOURS, EARLY = 24, 8
SHORT_LIVED = 10
"""Minutes that a VM is there that comes with an address which nobody had before, and that a lease is held."""
AT_HOME = {"hv1": pa("198.51.100.11"), "hv2": pa("198.51.100.12")}
HOSTS: dict[str, Principal] = {"hv1": HV1, "hv2": HV2}
MOVING = ca("10.0.1.5")

# A watcher who was away for longer lists again.
HISTORY = 100
# The times that the last thousand moves took fill until there are as many.
FILLS = {"Followers._moves"}


class Watch:
    """A host's watch, which is told of everything."""

    def covers(self, key: RecordKey) -> bool:
        return True

    def teach(self, key: RecordKey) -> None:
        pass


class LookupDay:
    """The course of events."""

    def __init__(self) -> None:
        self.chance = random.Random(7637)
        self.store = MemoryStore()
        self.near = Replica(partial(follow, self.store), history=HISTORY)
        self.far = Replica(self._of_the_node, history=HISTORY)
        self.censuses: list[Census] = []
        self.refused = self.claimed = self.leased = 0
        self._leases: deque[Lease] = deque()

    async def live(self) -> None:
        """Let a day pass."""
        random.seed(7637)  # a replica's back-off draws from the module's own generator
        loop = asyncio.get_running_loop()
        await apply(self.store, pooled(edge_1=(prefix("192.0.2.128/27"), prefix("2001:db8:f::/64"))))
        running = [asyncio.create_task(each.run()) for each in (self.near, self.far)]
        self.authority = Authority(self.store, self.near, FlapLimits(), now=loop.time, clock=loop.time)
        await self.near.reached(self.store._revision, 5)
        for minute in range(HOURS * 60):
            await self._minute(minute)
            await asyncio.sleep(60.0)
            if minute % 60 == 59:
                # The store, which tests alone use, remembers for ever what has been.
                self.censuses.append(take(self.authority, self.near, self.far, but=self.store))
        self.refused = self.authority.alerts.counts.total()
        assert _told(self.near) == _told(self.far)
        for task in running:
            task.cancel()
        await asyncio.wait(running)

    async def _minute(self, minute: int) -> None:
        authority, name = self.authority, ("hv1", "hv2")[minute % 2]
        watches = {each: Watch() for each in ("hv1", "hv2")}
        for each, watch in watches.items():
            authority.followers.connect(HOSTS[each], watch)
        await authority.claim(
            HOSTS[name], vsid=WEB, mac=mac(5), pa=AT_HOME[name], mode=Mode.ANNOUNCE, addresses=(MOVING,)
        )
        self.claimed += 1
        await self.store.put(
            RecordKey(WEB, _fresh(minute)), Placement(mac(1000 + minute), AT_HOME[name], name), Expect.ANY
        )
        if minute >= SHORT_LIVED:
            await self.store.delete(RecordKey(WEB, _fresh(minute - SHORT_LIVED)), Expect.ANY)
        await self._lease(minute)
        with suppress(Forbidden, Refused):
            await authority.claim(HV3, vsid=WEB, mac=mac(5), pa=AT_HOME[name], addresses=(MOVING,))
        authority.hint(GATEWAY, "hv1", WEB, MOVING)
        authority.hint(GATEWAY, "hv1", WEB, MOVING, forget=True)
        for host in HOSTS.values():
            authority.acknowledge(host, self.near.revision, is_local=False)
        for each, watch in watches.items():
            authority.followers.disconnect(HOSTS[each], watch)
        if minute % 17 == 0:
            self.store.go_away("its machine restarts")
            await asyncio.sleep(self.chance.uniform(0.0, 5.0))
            self.store.come_back()
        if minute % 10 == 0:
            await self.store.compact(self.store._revision)

    async def _lease(self, minute: int) -> None:
        """A gateway leases an address for somebody at a site, and returns the one that has been idle."""
        lease = await self.authority.lease(GATEWAY, WEB, _at_the_site(minute))
        assert isinstance(lease, Lease)
        assert lease.pa not in {other.pa for other in self._leases}
        self.leased += 1
        self._leases.append(lease)
        if len(self._leases) > SHORT_LIVED:
            await self.authority.return_leases(GATEWAY, [self._leases.popleft().pa])
        await self.authority.leasing.sweep()

    async def _of_the_node(self, after: int | None) -> AsyncIterator[Event]:
        """What the node tells on a watch."""
        replica = self.near
        if not replica.has_contents:
            raise StoreUnavailable("it has nothing yet")
        position = replica.position_after(after) if after is not None else None
        if position is None:
            position = replica.history.position
            yield Reset(replica.complete)
            for kind in Kind:
                for entry in list(replica.entries(kind)):
                    yield entry
        while changes := await self._further(position):
            for change in changes:
                yield change
            position += len(changes)
            yield Progress(replica.complete)
            if self.chance.random() < 0.01:
                raise StoreUnavailable("the connection is lost")

    async def _further(self, position: int) -> list[Event]:
        while not (changes := self.near.history.since(position)):
            if changes is None:
                return []
            await self.near.history.changed(position)
        return list(changes)


def _fresh(minute: int) -> CustomerAddress:
    """An address that nobody had before, as IPv6 guests make them."""
    return CustomerAddress.parse(f"fd00:1::{0x1000 + minute:x}")


def _told(replica: Replica) -> dict[Key, Stored]:
    """What a replica has, but for who had or has an address besides leases: a watch does not tell that."""
    everything = contents(replica).items()
    return {
        key: entry for key, entry in everything if not isinstance(key, LeaseKey) or entry.lease is not None
    }


def _at_the_site(minute: int) -> CustomerAddress:
    """An address at a site that nobody has talked to before."""
    return CustomerAddress(bytes((172, 16, *divmod(minute, 256))))


def test_a_lookup_node_holds_no_more_after_a_day_than_after_its_first_hours() -> None:
    day = LookupDay()
    run(day.live())

    assert day.claimed > 1400
    assert day.refused > 1400
    assert day.leased == HOURS * 60
    assert len(day.censuses) == HOURS
    found = grown(day.censuses[:EARLY], day.censuses[-EARLY:])
    assert {name: n for name, n in found.items() if name not in FILLS} == {}
