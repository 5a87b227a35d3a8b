"""Who leases provider addresses on the simulated day: the lookup service as nodes see it, without HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_network

import trio

from gateway.forwarding.directory import Change, DeleteLease, PutLease
from gateway.host.uses import Key
from gateway.lookup.answers import Hint
from gateway.lookup.claims import Mode
from gateway.lookup.grants import QUARANTINE
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import Lease
from tests.sim.day.plan import POOLS

GATEWAY = "edge-1"


class Lessor:
    """Gives each CA one address of the gateway's pool, and nobody another's that was just returned."""

    def __init__(self, tell: Callable[[Sequence[Change], int], object]) -> None:
        """`tell` has every node know of changes, and of the revision that they bring."""
        self.leases: dict[ProviderAddress, Lease] = {}
        self.revision = 0
        self.given = 0
        self._tell = tell
        self._addresses: dict[int, list[ProviderAddress]] = {
            pool.version: [ProviderAddress(pool[number].packed) for number in range(1, 63)]
            for pool in map(ip_network, POOLS[GATEWAY])
        }
        self._nobodys_until: dict[ProviderAddress, float] = {}

    @property
    def by_key(self) -> dict[Key, Lease]:
        """What each CA has."""
        return {(lease.vsid, lease.ca): lease for lease in self.leases.values()}

    async def lease(self, vsid: Vsid, ca: CustomerAddress) -> Lease:
        await trio.lowlevel.checkpoint()
        held = self.by_key.get((vsid, ca))
        if held is not None:
            return held
        now = trio.current_time()
        pa = next(
            pa
            for pa in self._addresses[ca.version]
            if pa not in self.leases and self._nobodys_until.get(pa, now) <= now
        )
        self.given += 1
        self.revision += 1
        lease = self.leases[pa] = Lease(pa, vsid, ca, GATEWAY, self.revision)
        self._tell([PutLease(lease)], self.revision)
        return lease

    async def return_leases(self, pas: Sequence[ProviderAddress]) -> None:
        await trio.lowlevel.checkpoint()
        for pa in pas:
            if self.leases.pop(pa, None) is not None:
                self._nobodys_until[pa] = trio.current_time() + QUARANTINE
        self.revision += 1
        self._tell([DeleteLease(pa) for pa in pas], self.revision)

    async def claim(
        self,
        vsid: Vsid,
        mac: MacAddress,
        pa: ProviderAddress,
        mode: Mode,
        addresses: tuple[CustomerAddress, ...],
    ) -> object:
        raise NotImplementedError("this day's hosts have their VMs told of")

    async def hints(self, hints: Sequence[Hint]) -> None:
        await trio.lowlevel.checkpoint()

    async def acknowledge(self, revision: int) -> None:
        await trio.lowlevel.checkpoint()
