"""24 simulated hours of a lookup node: what it holds does not grow, and whoever follows it has the same.

The loop's time is virtual. HTTP and the connection of a follower are left out: that one has the node's
own history, as its watch tells it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

from gateway.http.principals import Principal
from gateway.lookup.authority import Authority
from gateway.lookup.claims import FlapLimits, Mode, Refused
from gateway.lookup.entries import Event, Kind, Placement, Progress, RecordKey, Reset
from gateway.lookup.follow import follow
from gateway.lookup.network import apply
from gateway.lookup.outcomes import Forbidden
from gateway.lookup.replica import Replica
from gateway.lookup.store import Expect, StoreUnavailable
from gateway.lookup.stores.memory import MemoryStore
from policies.addresses import CustomerAddress
from tests.gateway.lookup.serving import GATEWAY, HV1, HV2, HV3, NETWORK, WEB, ca, mac, pa
from tests.sim.day.census import Census, grown, take
from tests.sim.lookup import contents, run

HOURS, EARLY = 24, 8
SHORT_LIVED = 10
"""Minutes that a VM is there that comes with an address which nobody had before."""
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
        self.refused = self.claimed = 0

    async def live(self) -> None:
        """Let a day pass."""
        random.seed(7637)  # a replica's back-off draws from the module's own generator
        loop = asyncio.get_running_loop()
        await apply(self.store, NETWORK)
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
        assert contents(self.near) == contents(self.far)
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

    async def _of_the_node(self, after: int | None) -> AsyncIterator[Event]:
        """What the node tells on a watch."""
        replica = self.near
        if not replica.has_contents:
            raise StoreUnavailable("it has nothing yet")
        position = replica.position_after(after) if after is not None else None
        if position is None:
            position = replica.position
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
        while not (changes := self.near.since(position)):
            if changes is None:
                return []
            await self.near.changed(position)
        return list(changes)


def _fresh(minute: int) -> CustomerAddress:
    """An address that nobody had before, as IPv6 guests make them."""
    return CustomerAddress.parse(f"fd00:1::{0x1000 + minute:x}")


def test_a_lookup_node_holds_no_more_after_a_day_than_after_its_first_hours() -> None:
    day = LookupDay()
    run(day.live())

    assert day.claimed > 1400
    assert day.refused > 1400
    assert len(day.censuses) == HOURS
    found = grown(day.censuses[:EARLY], day.censuses[-EARLY:])
    assert {name: n for name, n in found.items() if name not in FILLS} == {}
