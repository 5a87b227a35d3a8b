"""Every operation on records and on the network, with who may do it.

The HTTP service asks here, and so does a gateway or a host in the same process.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import msgspec

from gateway.http.principals import Principal
from gateway.lookup import network as networks
from gateway.lookup.alerts import AlertKind, Alerts
from gateway.lookup.claims import MOST_OF_A_HOST, Claim, FlapLimits, Mode, Reason, Refused, unfrozen
from gateway.lookup.domains import Domains
from gateway.lookup.entries import Placement, RecordKey, Stored
from gateway.lookup.follow import latest_revision
from gateway.lookup.followers import Followers
from gateway.lookup.granting import Granting
from gateway.lookup.judgement import Judgement
from gateway.lookup.leasing import Leasing
from gateway.lookup.outcomes import ClaimAnswer, Forbidden, Unacceptable
from gateway.lookup.replica import Replica
from gateway.lookup.soundness import faults
from gateway.lookup.store import Conflict, Expect, Expected, LookupStore, StoreUnavailable
from gateway.lookup.visibility import Views
from gateway.lookup.writes import OWN_REPLICA_SECONDS, Writes, persistently
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import Lease, LookupRecord, Network, Translation
from policies.services import Role

# How long whoever claims what cannot be so waits for this node to know the latest network.
LATEST_NETWORK_SECONDS = 1.0
WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 10.0
FAULTS_TOLD = 10


class NoRecord(Exception):
    """There is no such record."""


class Authority:
    """The store behind its permissions. `now` tells Unix time, `clock` measures: both in seconds."""

    def __init__(
        self,
        store: LookupStore,
        replica: Replica,
        limits: FlapLimits,
        *,
        now: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.alerts = Alerts(now)
        self.followers = Followers(clock)
        self.views = Views(lambda: replica.network)
        self.moves: Counter[Mode] = Counter()
        """Records that claims have moved here, by mode."""
        self.writes = Writes(clock)
        self.granting = Granting(store, replica, self.writes, now=now)
        domains = Domains(lambda: replica.network)
        self.leasing = Leasing(store, replica, self.granting, domains, self.alerts, now=now)
        self._judge = Judgement(replica, self.views, self.granting, domains)
        self._store = store
        self._replica = replica
        self._limits = limits
        self._now = now
        self._clock = clock

    async def claim(
        self,
        principal: Principal,
        *,
        vsid: Vsid,
        mac: MacAddress,
        pa: ProviderAddress,
        mode: Mode = Mode.ANNOUNCE,
        addresses: tuple[CustomerAddress, ...] = (),
        host: str | None = None,
        wait: Iterable[str] | None = None,
        wait_seconds: float = WAIT_SECONDS,
    ) -> ClaimAnswer:
        """Say that a MAC is at a provider address, for all of its customer addresses at once.

        Waits for the followers named in `wait`, at whichever lookup node they watch; by default an
        orchestrated move waits for the old and the new host, since the VM must not resume before
        both know (RFC 8394 section 2.2).
        Raises Forbidden, Unacceptable, Refused and StoreUnavailable.
        """
        self._must_know()
        began = self._clock()
        with self._reporting(principal, f"claim of {vsid}/{mac} at {pa}", vsid):
            try:
                owner, subnet = self._judge.claimant(principal, host, pa, mode, vsid, mac, addresses)
            except Unacceptable:
                # It may have become so a moment ago, through another lookup node.
                latest = await latest_revision(self._store)
                await self._replica.reached(latest, LATEST_NETWORK_SECONDS)
                owner, subnet = self._judge.claimant(principal, host, pa, mode, vsid, mac, addresses)
        before = self._replica.find_by_mac(vsid, mac)
        if principal.role is Role.HOST:
            self._check_room(owner.name, {*(record.ca for record in before), *addresses}, vsid)
        claim = Claim(
            vsid=vsid,
            mac=mac,
            pa=pa,
            host=owner.name,
            mode=mode,
            now=self._now(),
            addresses=addresses,
            translation=subnet.translation,
            pools=owner.pools,
            limits=self._limits,
        )
        try:
            entries = await self.granting.claim(claim)
        except Refused as refused:
            if refused.reason is Reason.FROZEN:
                words = f"{owner.name} claims {vsid}/{mac}, which is frozen"
                self.alerts.tell(AlertKind.FROZEN, words, self._judge.tenant_of(vsid))
            raise
        await self._seen(entries)
        return await self._learned(claim, before, entries, wait, wait_seconds, began)

    async def put(
        self,
        principal: Principal,
        key: RecordKey,
        *,
        mac: MacAddress,
        pa: ProviderAddress | None = None,
        host: str,
        translation: Translation | None = None,
        expected: Expected,
    ) -> Stored:
        """Write a record. `expected` is its epoch, ABSENT, or ANY for one that is there.

        Without a provider address, it is the host's first; of a rewritten record, the one that it has if the
        host may have that too, or else a free one of the host's pools.
        Raises Forbidden, Unacceptable, Conflict, Taken, Refused for a pinned one or where no address is free,
        and StoreUnavailable.
        """
        self._operator(principal, f"put of {key}")
        self._must_know()
        owner, subnet = self._judge.placement(host, key.vsid, key.ca, mac)

        async def write() -> Stored:
            current = await self._expected(key, expected)
            before = current.value if current is not None else None
            kept = before if isinstance(before, Placement) else None
            way = translation or (kept.translation if kept is not None else subnet.translation)
            # Where any epoch is as good, it is the one that has just been read.
            as_read = current.epoch if expected is Expect.ANY and current is not None else expected

            async def place(address: ProviderAddress) -> Stored:
                value = Placement(mac, address, host, way)
                if kept is not None:
                    value = msgspec.structs.replace(value, frozen=kept.frozen, moves=kept.moves)
                return await self._put(key, value, as_read)

            address = self._judge.address(owner, key.ca, way, pa, kept)
            if address is not None:
                return await place(address)
            stored = await self.granting.with_address(owner.pools, key.vsid, key.ca, place)
            if stored is None:
                raise Refused(Reason.NO_ADDRESS, current)
            return stored

        return await persistently(write) if expected is Expect.ANY else await write()

    async def delete(self, principal: Principal, key: RecordKey, expected: Expected) -> None:
        """Delete a record.

        Raises Forbidden, NoRecord, Conflict, Refused for a pinned one, and StoreUnavailable.
        """
        self._operator(principal, f"deletion of {key}")
        current = await self._store.get(key)
        if current is None or current.value is None:
            raise NoRecord(f"there is no {key}")
        _check_pin(current)
        with self.writes.timed():
            gone = await self._store.delete(key, expected)
        if gone is not None:
            await self._seen([gone])

    async def unfreeze(self, principal: Principal, key: RecordKey) -> Stored:
        """Let a record move again. Raises Forbidden, NoRecord, Conflict and StoreUnavailable."""
        self._operator(principal, f"unfreezing of {key}")

        async def write() -> Stored:
            current = await self._store.get(key)
            if current is None or not isinstance(current.value, Placement):
                raise NoRecord(f"there is no {key}")
            return await self._put(key, unfrozen(current.value), current.epoch)

        return await persistently(write)

    async def apply_network(
        self, principal: Principal, network: Network, *, dry_run: bool = False
    ) -> list[networks.Step]:
        """Write a whole network's configuration as a difference, and return what that changes.

        Raises Forbidden, Unacceptable and StoreUnavailable.
        """
        self._operator(principal, "change of the network")
        if found := list(islice(faults(network), FAULTS_TOLD)):
            raise Unacceptable("; ".join(found))
        return await networks.apply(self._store, network, dry_run=dry_run)

    def hint(
        self, principal: Principal, host: str, vsid: Vsid, ca: CustomerAddress, *, forget: bool = False
    ) -> None:
        """Have a host taught a record, or stop that. What the host may not see is passed over.

        A gateway hints for every host; a host for itself, and for those that share the tenant, of records
        that there are: else it could have another host forget what that one uses.
        Raises Forbidden, and StoreUnavailable before anything is known here.
        """
        self._must_know()
        with self._reporting(principal, f"hint for {host}", vsid):
            if principal.role is Role.READER:
                raise Forbidden("a reader gives no hints")
            if principal.role is Role.HOST and principal.name != host:
                if forget:
                    raise Forbidden("a host forgets for itself only")
                if not self.views.of(principal).sees(vsid):
                    raise Forbidden(f"VSID {vsid} is none of {principal.name}'s tenants")
        key = RecordKey(vsid, ca)
        if forget:
            self.followers.forget(host, key)
        elif principal.role is Role.HOST and principal.name != host and self._replica.find(vsid, ca) is None:
            return
        elif self.views.of(Principal(host, Role.HOST)).sees(vsid):
            self.followers.teach(host, key)

    def acknowledge(self, principal: Principal, revision: int, *, is_local: bool = True) -> None:
        """A host or a gateway has applied everything up to a revision. Raises Forbidden.

        What has not happened yet is not believed. `is_local` is for one in this process, which has no watch.
        """
        self._check_follower(principal)
        self.followers.acknowledge(principal, min(revision, self._replica.revision), is_local=is_local)

    async def acknowledge_remotely(self, principal: Principal, revision: int) -> None:
        """The same of a follower that is not in this process, and may have it from another lookup node.

        If it is ahead of this node's own replica, that is waited for a while. Raises Forbidden.
        """
        self._check_follower(principal)
        await self._replica.reached(revision, OWN_REPLICA_SECONDS)
        self.acknowledge(principal, revision, is_local=False)

    async def lease(
        self, principal: Principal, vsid: Vsid, ca: CustomerAddress, gateway: str | None = None
    ) -> Lease | LookupRecord:
        """Have an address of a gateway's pool stand for a CA that has none of its own.

        A gateway gets one of its own pools, a host one of the gateway by which it reaches the CA; an operator
        may say whose. A CA with an address of its own has its record returned, which a host is taught.
        Raises NoLease, Forbidden, Unacceptable and StoreUnavailable.
        """
        self._must_know()
        with self._reporting(principal, f"lease for {vsid}/{ca}", vsid):
            domain, gateway = self._judge.lessee(principal, vsid, ca, gateway)
        found = await self.leasing.lease(domain, vsid, ca, gateway)
        if principal.role is Role.HOST and isinstance(found, LookupRecord):
            self.followers.teach(principal.name, RecordKey(vsid, ca))
        return found

    async def return_leases(self, principal: Principal, pas: Sequence[ProviderAddress]) -> None:
        """Return addresses of gateways' pools; those that nobody holds are passed over.

        A gateway returns its own. Raises Forbidden, Unacceptable and StoreUnavailable.
        """
        self._must_know()
        what = f"return of {len(pas)} leases"
        if principal.role not in (Role.GATEWAY, Role.OPERATOR):
            raise self.refuse(principal, what, "only gateways and operators return leases")
        try:
            await self.leasing.give_back(pas, principal.name if principal.role is Role.GATEWAY else None)
        except Forbidden as error:
            raise self.refuse(principal, what, str(error)) from None

    def refuse(self, principal: Principal, what: str, reason: str, tenant: str = "") -> Forbidden:
        """Count and report that somebody asked for what they may not have; return what is to be raised."""
        self.alerts.tell(AlertKind.REFUSED, f"{principal.role} {principal.name}: {what}: {reason}", tenant)
        return Forbidden(reason)

    @contextmanager
    def _reporting(self, principal: Principal, what: str, vsid: Vsid) -> Iterator[None]:
        """Report what is forbidden; to a host, what it claims and cannot be so is forbidden too."""
        try:
            yield
        except Forbidden as error:
            raise self.refuse(principal, what, str(error), self._judge.tenant_of(vsid)) from None
        except Unacceptable as error:
            if principal.role is not Role.HOST:
                raise
            raise self.refuse(principal, what, str(error), self._judge.tenant_of(vsid)) from None

    def _must_know(self) -> None:
        """Judge nobody by a network that has not been read yet; another node may have read it."""
        if not self._replica.has_contents:
            raise StoreUnavailable("this node has not read the network yet")

    def _check_follower(self, principal: Principal) -> None:
        if principal.role not in (Role.HOST, Role.GATEWAY):
            raise self.refuse(principal, "acknowledgement", "only hosts and gateways acknowledge")

    def _operator(self, principal: Principal, what: str) -> None:
        if principal.role is not Role.OPERATOR:
            raise self.refuse(principal, what, "only an operator may")

    def _check_room(self, host: str, addresses: set[CustomerAddress], vsid: Vsid) -> None:
        """Raise Refused where a host would claim more records than it may have, as far as is known here."""
        found = (self._replica.find(vsid, ca) for ca in addresses)
        new = sum(record is None or record.host != host for record in found)
        if new and self._replica.held_by(host) + new > MOST_OF_A_HOST:
            raise Refused(Reason.TOO_MANY)

    async def _expected(self, key: RecordKey, expected: Expected) -> Stored | None:
        """Return what is stored of a record that is to be written. Raises Conflict and Refused."""
        current = await self._store.get(key)
        if expected is Expect.ANY and (current is None or current.value is None):
            raise Conflict(key, current)
        if current is not None and expected is not Expect.ABSENT:
            _check_pin(current)
        return current

    async def _put(self, key: RecordKey, value: Placement, expected: Expected) -> Stored:
        with self.writes.timed():
            entry = await self._store.put(key, value, expected)
        await self._seen([entry])
        return entry

    async def _seen(self, entries: Iterable[Stored]) -> None:
        revision = max((entry.revision for entry in entries), default=0)
        await self._replica.reached(revision, OWN_REPLICA_SECONDS)

    async def _learned(
        self,
        claim: Claim,
        before: tuple[LookupRecord, ...],
        entries: list[Stored],
        wait: Iterable[str] | None,
        wait_seconds: float,
        began: float,
    ) -> ClaimAnswer:
        old = {record.ca: record for record in before}
        records = tuple(record for entry in entries if (record := entry.record) is not None)
        moved = [each for each in records if (was := old.get(each.ca)) is not None and was.host != each.host]
        self.moves[claim.mode] += len(moved)
        for entry in entries:
            if moved and isinstance(entry.value, Placement) and entry.value.frozen:
                words = f"{entry.key} has moved too often, last to {claim.host}"
                self.alerts.tell(AlertKind.FROZEN, words, self._judge.tenant_of(claim.vsid))
        if wait is None:
            both = {claim.host, *(record.host for record in before)}
            wait = both if claim.mode is Mode.ORCHESTRATE else ()
        keys = [RecordKey(record.vsid, record.ca) for record in records]
        revision = max((record.revision for record in records), default=0)
        named = frozenset(wait)
        learning = self.followers.learn(revision, keys, began if moved else None, named)
        if moved:
            self._replica.movements.claimed(claim.mode, learning, claim.vsid, claim.mac)
        learned = await learning.wait(named, min(wait_seconds, LONGEST_WAIT_SECONDS))
        return ClaimAnswer(records, learned)


def _check_pin(current: Stored) -> None:
    if isinstance(current.value, Placement) and current.value.pinned:
        raise Refused(Reason.PINNED, current)
