"""The network's configuration in the store: taken apart, put together, and changed step by step."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from gateway.lookup.entries import (
    NAMED_KINDS,
    Grant,
    Key,
    Kind,
    NamedKey,
    Placement,
    RecordKey,
    Stored,
    Value,
)
from gateway.lookup.follow import entries
from gateway.lookup.grants import QUARANTINE
from gateway.lookup.soundness import faults
from gateway.lookup.store import Conflict, Expect, Expected, LookupStore, Prefix, StoreUnavailable, Taken
from policies.addresses import Vsid
from policies.model import (
    CustomerRoute,
    LookupRecord,
    Network,
    ProviderGateway,
    ProviderHost,
    SiteHop,
    SubnetHop,
    Tenant,
)

Named = TypeVar("Named", ProviderHost, ProviderGateway, Tenant)


# So often the store may change between our reading and our writing before we give up.
_ATTEMPTS = 20

_BUSY = "others change the network's configuration all the while"

# Writes under way together.
_AT_ONCE = 64


class NotTakenBack(Exception):
    """What was before does not go with what others have changed since: the message says where."""


class AddressTaken(StoreUnavailable):
    """A static record does not get the provider address that it names: whose that is, `taken` says."""

    def __init__(self, key: Key, taken: Taken) -> None:
        super().__init__(_why(key, taken))
        self.key = key
        self.taken = taken


class Step(msgspec.Struct, frozen=True):
    """One write that brings the store nearer to a network; a value of None deletes."""

    key: Key
    value: Value | None
    expected: Expected


def entries_of(network: Network) -> dict[Key, Value]:
    """Return what the store holds of a network: hosts, gateways, tenants, and static records, pinned."""
    found: dict[Key, Value] = {}
    for host in network.hosts:
        found[NamedKey(Kind.HOST, host.name)] = host
    for gateway in network.gateways:
        found[NamedKey(Kind.GATEWAY, gateway.name)] = gateway
    for tenant in network.tenants:
        found[NamedKey(Kind.TENANT, tenant.name)] = msgspec.structs.replace(tenant, records=())
        for record in tenant.records:
            found[RecordKey(record.vsid, record.ca)] = Placement(
                record.mac, record.pa, record.host, record.translation, pinned=True
            )
    return found


def assemble(values: Iterable[Value]) -> Network:
    """Put a network together from any part of its entries, in the order of names, without static records.

    Whatever refers to something that is not there is left out, so that a network of which
    a part is written still compiles.
    """
    found = list(values)
    tenants = _by_name(found, Tenant)
    gateways = _by_name(found, ProviderGateway)
    claimed = Counter(subnet.vsid for tenant in tenants for subnet in tenant.subnets)
    # While a virtual subnet goes from one tenant to another it is nobody's: packets of the
    # one would reach the other's VMs.
    clear = {vsid for vsid, count in claimed.items() if count == 1}
    tenant_names = {tenant.name for tenant in tenants}
    gateway_names = {gateway.name for gateway in gateways}
    return Network(
        hosts=tuple(
            msgspec.structs.replace(
                host, tenants=tuple(name for name in host.tenants if name in tenant_names)
            )
            for host in _by_name(found, ProviderHost)
        ),
        gateways=gateways,
        tenants=tuple(_sound(tenant, gateway_names, clear) for tenant in tenants),
    )


def network_of(found: Mapping[Key, Value]) -> Network:
    """Put a network together from all of its entries, in the order of names: the inverse of `entries_of`."""
    values = list(found.values())
    pinned: dict[Vsid, list[LookupRecord]] = {}
    for key in sorted(key for key in found if isinstance(key, RecordKey)):
        value = found[key]
        if isinstance(value, Placement) and value.pinned:
            record = LookupRecord(key.vsid, key.ca, value.mac, value.pa, value.host, value.translation)
            pinned.setdefault(key.vsid, []).append(record)
    return Network(
        hosts=_by_name(values, ProviderHost),
        gateways=_by_name(values, ProviderGateway),
        tenants=tuple(
            msgspec.structs.replace(
                tenant, records=tuple(record for vsid in _vsids(tenant) for record in pinned.get(vsid, ()))
            )
            for tenant in _by_name(values, Tenant)
        ),
    )


def without(
    current: Network, before: Network, after: Network, left: Container[Key] = ()
) -> tuple[Network, list[Key]]:
    """Return a network without what led from one to another, and the keys of that which has changed since.

    What others have changed since is left as they have made it, and so is what is to be `left`.
    """
    old, new, target = entries_of(before), entries_of(after), entries_of(current)
    kept: list[Key] = []
    for key in old.keys() | new.keys():
        if old.get(key) == new.get(key) or target.get(key) == old.get(key):
            continue
        if target.get(key) != new.get(key) or key in left:
            kept.append(key)
        elif key in old:
            target[key] = old[key]
        else:
            del target[key]
    return network_of(target), sorted(kept, key=str)


def phases(wanted: Network, current: Iterable[Stored], now: float) -> list[list[Step]]:
    """Return the steps from what is stored to a network, of which any may be the last, in phases.

    Phases are taken one after the other, and the steps of one in any order.
    Hosts, gateways and tenants come before what refers to them, and go after it. A virtual
    subnet that goes, or goes to another tenant, loses all its records and gives back its
    leases, at a Unix time; other dynamic records and leases are left alone.
    """
    live = {entry.key: entry for entry in current if entry.value is not None}
    target = entries_of(wanted)
    owners = _Owners(live.values(), target.values())
    records = {key: entry for key, entry in live.items() if isinstance(key, RecordKey)}
    strays = {key: entry for key, entry in records.items() if key.vsid not in owners.settled}
    unclean = owners.changing | {key.vsid for key in strays}

    released: list[Step] = []
    written: dict[Kind, list[Step]] = {kind: [] for kind in Kind}
    for key, value in target.items():
        entry = live.get(key)
        expected: Expected = entry.epoch if entry is not None else Expect.ABSENT
        if key in strays:
            expected = Expect.ABSENT
        elif entry is not None and entry.value == value:
            continue
        elif entry is not None and isinstance(value, Tenant) and isinstance(entry.value, Tenant):
            # What it does not keep it gives up first, and what another has had it gets later.
            clean = tuple(subnet for subnet in value.subnets if subnet.vsid not in unclean)
            if _vsids(entry.value) - {subnet.vsid for subnet in clean}:
                interim = msgspec.structs.replace(value, subnets=clean)
                released.append(Step(key, interim, expected))
                if interim == value:
                    continue
                expected = entry.epoch + 1
        written[key.kind].append(Step(key, value, expected))
    unwanted = [entry for key, entry in live.items() if key not in target or key in strays]
    deleted = {
        kind: [Step(each.key, None, each.epoch) for each in unwanted if each.key.kind is kind]
        for kind in NAMED_KINDS
    }
    pins = (entry for entry in unwanted if isinstance(entry.value, Placement))
    left = [Step(each.key, None, each.epoch) for each in pins if each.key in strays or _is_pinned(each)]
    for entry in live.values():
        if entry.lease is not None and entry.lease.vsid in owners.changing and isinstance(entry.value, Grant):
            returned = msgspec.structs.replace(entry.value, returned_at=now)
            left.append(Step(entry.key, returned, entry.epoch))
    return [
        written[Kind.HOST],
        written[Kind.GATEWAY],
        deleted[Kind.TENANT],
        released,
        left,
        written[Kind.TENANT],
        written[Kind.RECORD],
        deleted[Kind.GATEWAY],
        deleted[Kind.HOST],
    ]


async def apply(store: LookupStore, network: Network, *, dry_run: bool = False) -> list[Step]:
    """Bring the store to a network, and return the steps taken; or with `dry_run` those that would be.

    Where somebody else writes meanwhile, the rest is worked out anew. Raises StoreUnavailable, and
    AddressTaken where a static record's provider address is another's, with a part written perhaps: the same
    network applied again does the rest.
    """
    taken: list[Step] = []
    for _ in range(_ATTEMPTS):
        wanted = phases(network, await _read(store, network), time.time())
        if dry_run or not any(wanted):
            return taken + [step for phase in wanted for step in phase]
        if await _are_taken(store, wanted, taken):
            return taken
    raise StoreUnavailable(_BUSY)


async def stored(store: LookupStore) -> Network:
    """Return the network that is in a store, with its static records. Raises StoreUnavailable."""
    found: dict[Key, Value] = {}
    async for entry in entries(store, *map(Prefix, NAMED_KINDS), Prefix(Kind.RECORD)):
        # Of a large store's records hardly any is static, and the others would be sorted for nothing.
        if entry.value is not None and (not isinstance(entry.key, RecordKey) or _is_pinned(entry)):
            found[entry.key] = entry.value
    return network_of(found)


async def take_back(store: LookupStore, before: Network, after: Network) -> list[Key]:
    """Undo in a store what led from one network to another, and return what others have changed since.

    That is left as they have made it, also where they do it meanwhile: every write is a comparison, too. A
    static record whose provider address is another's by now is left, too.
    Raises NotTakenBack where that would leave something unsound, such as a VSID with two owners, and then has
    undone nothing; and StoreUnavailable, with a part undone perhaps: undoing it again does the rest.
    """
    others: set[Key] = set()
    for _ in range(_ATTEMPTS):
        current = await stored(store)
        target, kept = without(current, before, after, others)
        if unsound := sorted({*faults(target)} - {*faults(current)}):
            raise NotTakenBack(f"it does not go with what others have changed since: {unsound[0]}")
        try:
            if await _are_taken(store, phases(target, await _read(store, target), time.time()), []):
                return kept
        except AddressTaken as error:
            others.add(error.key)
    raise StoreUnavailable(_BUSY)


async def _are_taken(store: LookupStore, wanted: Iterable[Sequence[Step]], taken: list[Step]) -> bool:
    """Take phases, and say whether all of them could be, or somebody else has written meanwhile."""
    try:
        for phase in wanted:
            for some in _batches(phase):
                await _take(store, some, taken)
    except Conflict:
        return False
    return True


def _batches(steps: Sequence[Step]) -> Iterator[Sequence[Step]]:
    for start in range(0, len(steps), _AT_ONCE):
        yield steps[start : start + _AT_ONCE]


async def _take(store: LookupStore, steps: Sequence[Step], taken: list[Step]) -> None:
    """Take steps at once, and note those that are done, also where others fail.

    A large network is followed all the faster: whoever follows works out the whole for each batch of changes.
    """

    async def take(step: Step) -> None:
        if step.value is None:
            await store.delete(step.key, step.expected)
            return
        try:
            await store.put(step.key, step.value, step.expected)
        except Taken as error:
            raise AddressTaken(step.key, error) from None

    failures: list[BaseException] = []
    for step, failure in zip(
        steps, await asyncio.gather(*map(take, steps), return_exceptions=True), strict=True
    ):
        if failure is None:
            taken.append(step)
        else:
            failures.append(failure)
    if failures:
        # A conflict means to work the rest out anew; anything else is worse.
        raise min(failures, key=lambda failure: isinstance(failure, Conflict))


def _why(key: Key, taken: Taken) -> str:
    """Why a static record does not get the provider address that it names."""
    if taken.holder is not None:
        return f"{taken} by {taken.holder.key}, so that {key} cannot have it; give one of the two another"
    return f"{taken} by another, or was within {QUARANTINE:.0f} s: {key} cannot have it yet"


class _Owners:
    """Which tenants have each virtual subnet, in the store and as wanted."""

    def __init__(self, stored: Iterable[Stored], wanted: Iterable[Value]) -> None:
        before = _owners(entry.value for entry in stored if entry.value is not None)
        after = _owners(wanted)
        self.settled = {
            vsid for vsid, names in before.items() if len(names) == 1 and after.get(vsid) == names
        }
        self.changing = before.keys() - self.settled


def _owners(values: Iterable[Value]) -> Mapping[Vsid, set[str]]:
    owners: dict[Vsid, set[str]] = {}
    for value in values:
        if isinstance(value, Tenant):
            for vsid in _vsids(value):
                owners.setdefault(vsid, set()).add(value.name)
    return owners


def _vsids(tenant: Tenant) -> set[Vsid]:
    return {subnet.vsid for subnet in tenant.subnets}


def _is_pinned(entry: Stored) -> bool:
    return isinstance(entry.value, Placement) and entry.value.pinned


async def _read(store: LookupStore, network: Network) -> list[Stored]:
    """Read what matters to a network: everything but the dynamic records and leases of subnets that stay."""
    found = [entry async for entry in entries(store, *map(Prefix, NAMED_KINDS))]
    target = entries_of(network)
    owners = _Owners(found, target.values())
    settled = owners.settled
    if owners.changing:
        found += [entry async for entry in entries(store, Prefix(Kind.LEASE)) if entry.lease is not None]
    async for entry in entries(store, Prefix(Kind.RECORD)):
        key = entry.key
        is_left = isinstance(key, RecordKey) and key.vsid in settled and not _is_pinned(entry)
        if key in target or not is_left:
            found.append(entry)
    return found


def _by_name(values: Iterable[Value], kind: type[Named]) -> tuple[Named, ...]:
    return tuple(sorted((value for value in values if isinstance(value, kind)), key=lambda value: value.name))


def _sound(tenant: Tenant, gateways: set[str], vsids: set[Vsid]) -> Tenant:
    """Leave out of a tenant what refers to nothing.

    Access rules stay, whatever they name: one that names nothing matches nothing, and
    a tenant without any rule would be open.
    """
    subnets = tuple(subnet for subnet in tenant.subnets if subnet.vsid in vsids)
    return msgspec.structs.replace(
        tenant,
        gateways=tuple(name for name in tenant.gateways if name in gateways),
        subnets=subnets,
        records=(),
        routes=tuple(
            route
            for route in tenant.routes
            if _leads_somewhere(route, {subnet.vsid for subnet in subnets}, {s.name for s in tenant.sites})
        ),
    )


def _leads_somewhere(route: CustomerRoute, vsids: set[Vsid], sites: set[str]) -> bool:
    match route.next_hop:
        case SubnetHop(vsid=vsid):
            return vsid in vsids
        case SiteHop(site=site):
            return site in sites
        case _:
            return True
