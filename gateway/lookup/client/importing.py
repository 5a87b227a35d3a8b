"""Records from a file, written to the lookup service: nothing before all of them are judged.

Each is written only if what is there has not changed since it was judged, so two who import at once, or a VM
that moves meanwhile, lose nothing. What is as the file says already is passed over: the same command
again goes on where one was broken off.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import msgspec

from gateway.lookup.claims import Refused
from gateway.lookup.client.client import LookupClient
from gateway.lookup.entries import RecordKey
from gateway.lookup.exchange.rows import Given
from gateway.lookup.outcomes import Forbidden, Unacceptable
from gateway.lookup.soundness import address_fault, mac_fault, place_fault
from gateway.lookup.store import Conflict, Expect, Expected, StoreUnavailable, Taken
from policies.addresses import ProviderAddress, Vsid
from policies.errors import Problem
from policies.model import LookupRecord, Network, ProviderHost, Tenant, Translation, VirtualSubnet
from policies.tables import PrefixTable

AT_ONCE = 64
"""Writes under way together: the embedded store makes one commit of those that come together."""

ASKED_AT_ONCE = 1000

AGAIN = "the same command goes on from here"


class Write(msgspec.Struct, frozen=True, gc=False):
    """A record that is to be written, if it is still as it was: absent, or of this epoch."""

    given: Given
    host: str
    expected: Expected


class Plan(msgspec.Struct):
    """What an import comes to, before anything is written."""

    writes: list[Write]
    same: int
    in_the_way: list[Problem]
    """What is there already and is something else, or is static."""


class Outcome:
    """What an import of so many records has come to so far."""

    def __init__(self, wanted: int) -> None:
        self.created = 0
        self.replaced = 0
        self.failed: list[Problem] = []
        self.broken_off: str | None = None
        """Why the rest is not tried."""
        self._wanted = wanted

    @property
    def untried(self) -> int:
        """How many have not been written, and not been refused either."""
        return self._wanted - self.created - self.replaced - len(self.failed)


class Judge:
    """Says which of a file's records may be written, by the network as the service has it."""

    def __init__(self, network: Network) -> None:
        self._hosts = {host.name: host for host in network.hosts}
        self._owners = {pa: host for host in network.hosts for pa in host.provider_addresses}
        pools = Counter(pool for host in network.hosts for pool in host.pools)
        self._pools = PrefixTable(
            (pool, host) for host in network.hosts for pool in host.pools if pools[pool] == 1
        )
        self._subnets: dict[Vsid, tuple[Tenant, VirtualSubnet]] = {
            subnet.vsid: (tenant, subnet) for tenant in network.tenants for subnet in tenant.subnets
        }

    def problems(self, given: Sequence[Given]) -> Iterator[Problem]:
        """Yield everything that is wrong with a file's records, each with its place."""
        seen: dict[RecordKey, str] = {}
        leased: dict[ProviderAddress, str] = {}
        for each in given:
            key = RecordKey(each.vsid, each.ca)
            first = seen.setdefault(key, each.where)
            if first != each.where:
                yield Problem(each.where, f"{each.vsid}/{each.ca} is there before, at {first}")
            elif each.pa is not None and self._translation(each) is Translation.REWRITE:
                other = leased.setdefault(each.pa, each.where)
                if other != each.where:
                    yield Problem(each.where, f"{each.pa} is the record's at {other}, and can be one's alone")
            for fault in self._faults(each):
                yield Problem(each.where, fault)

    def is_gateway(self, given: Given) -> bool:
        """Whether this is a virtual subnet's gateway address, which Windows keeps as a record."""
        found = self._subnets.get(given.vsid)
        return found is not None and given.ca in found[1].gateway_addresses

    def host_of(self, given: Given) -> ProviderHost | None:
        """Return the host that a record names, or that has its provider address to itself, or in a pool."""
        if given.host is not None:
            return self._hosts.get(given.host)
        if given.pa is None:
            return None
        return self._owners.get(given.pa) or self._pools.lookup(given.pa)

    def _translation(self, given: Given) -> Translation:
        found = self._subnets.get(given.vsid)
        return given.translation or (found[1].translation if found is not None else Translation.ENCAP)

    def _faults(self, given: Given) -> Iterator[str]:
        found = self._subnets.get(given.vsid)
        if found is None:
            yield f"no virtual subnet has VSID {given.vsid}"
            return
        tenant, subnet = found
        faults = (address_fault(subnet, given.ca), mac_fault(given.vsid, given.mac))
        yield from (fault for fault in faults if fault is not None)
        host = self.host_of(given)
        if host is None:
            yield f"no host has {given.pa}" if given.host is None else f"there is no host {given.host}"
            return
        if given.pa is not None:
            fault = place_fault(host, given.ca, given.pa, self._translation(given))
            if fault is not None:
                yield fault
        if tenant.name not in host.tenants:
            yield f"{host.name} is not allowed the tenant {tenant.name}"


async def plan(
    client: LookupClient,
    judge: Judge,
    given: Sequence[Given],
    *,
    replace: bool,
    advance: Callable[[int], None],
) -> Plan:
    """Compare a file's sound records with what is there. Raises StoreUnavailable and Forbidden."""
    found = Plan([], 0, [])
    for start in range(0, len(given), ASKED_AT_ONCE):
        some = given[start : start + ASKED_AT_ONCE]
        present = await client.resolve_many([(each.vsid, each.ca) for each in some])
        for each, record in zip(some, present, strict=True):
            _judge(found, judge, each, record, replace=replace)
        advance(len(some))
    return found


async def carry_out(
    client: LookupClient, writes: Sequence[Write], outcome: Outcome, advance: Callable[[int], None]
) -> None:
    """Write records, several at once; what one of them is refused for holds no other up.

    Where no node answers any more, or we may not write at all, the rest is not tried. `outcome`
    is right at any time, also when this is cancelled.
    """
    rest = iter(writes)

    async def write_some() -> None:
        for each in rest:
            try:
                await _write(client, each)
            except (StoreUnavailable, Forbidden) as error:
                outcome.broken_off = str(error)
                if isinstance(error, StoreUnavailable):
                    outcome.broken_off += f": {AGAIN}"
                    what = "it is not known whether this was written"
                    outcome.failed.append(Problem(each.given.where, what))
            except (Conflict, Refused, Taken, Unacceptable) as error:
                outcome.failed.append(Problem(each.given.where, _why(error)))
            else:
                if each.expected is Expect.ABSENT:
                    outcome.created += 1
                else:
                    outcome.replaced += 1
            if outcome.broken_off is not None:
                return
            advance(1)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(AT_ONCE, len(writes))):
            tasks.create_task(write_some())


def _judge(found: Plan, judge: Judge, each: Given, record: LookupRecord | None, *, replace: bool) -> None:
    host = judge.host_of(each)
    name = host.name if host is not None else ""
    if record is None:
        found.writes.append(Write(each, name, Expect.ABSENT))
        return
    wanted = (each.mac, each.pa or record.pa, name, each.translation or record.translation)
    if (record.mac, record.pa, record.host, record.translation) == wanted:
        found.same += 1
    elif not record.epoch:
        found.in_the_way.append(Problem(each.where, f"{_named(record)} is static: the configuration says it"))
    elif replace:
        found.writes.append(Write(each, name, record.epoch))
    else:
        there = f"{_named(record)} is {record.mac} at {record.host} ({record.pa}) already"
        found.in_the_way.append(Problem(each.where, f"{there}; --replace has the file win"))


async def _write(client: LookupClient, write: Write) -> None:
    given = write.given
    await client.put(
        given.vsid,
        given.ca,
        mac=given.mac,
        pa=given.pa,
        host=write.host,
        translation=given.translation,
        expected=write.expected,
    )


def _why(error: Exception) -> str:
    if isinstance(error, Refused):
        return f"refused: {error.reason}"
    if isinstance(error, Conflict):
        return f"{error.key} has changed meanwhile: nothing was written over it"
    return str(error)


def _named(record: LookupRecord) -> str:
    return f"{record.vsid}/{record.ca}"
