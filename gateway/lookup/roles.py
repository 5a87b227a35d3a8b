"""The parts of the lookup service put together: a node that serves records, and one that follows.

Both run until they are cancelled.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from gateway.http.door import Door
from gateway.http.principals import Credentials, Principal
from gateway.lookup import forms, network
from gateway.lookup.answers import Hint
from gateway.lookup.asking import Asking
from gateway.lookup.authority import Authority
from gateway.lookup.claims import FlapLimits, Mode
from gateway.lookup.client import LookupClient
from gateway.lookup.client.remote import remote
from gateway.lookup.entries import Kind, Placement, Stored
from gateway.lookup.follow import entries, follow, latest_revision
from gateway.lookup.http.service import Beside, serve
from gateway.lookup.journal import Journal
from gateway.lookup.outcomes import Forbidden, Unacceptable
from gateway.lookup.replica import Replica
from gateway.lookup.store import Conflict, Expect, LookupStore, Prefix, StoreUnavailable, Taken
from gateway.lookup.stores.etcd import EtcdStore
from gateway.lookup.stores.sqlite import SqliteStore
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance, Lease, LookupRecord, Network, RecordsKept
from policies.services import Role

log = logging.getLogger("isthmus.lookup")

LAST_KNOWN_GOOD = "last-known-good"

# How long the store's history is kept for whoever was away, and how often it is cut, in seconds.
HISTORY_SECONDS = 600.0
# How long a node waits for its own replica to have what it has written, in seconds.
REACHED_WITHIN = 5.0
# How often it is looked for leases that nobody needs any more, in seconds, at least.
SWEPT_EVERY = 60.0
# Between two attempts at a store that is away.
TRY_AGAIN = 2.0


class Local(Asking):
    """Asks the authority in this process, as a host or a gateway that is here too."""

    def __init__(self, authority: Authority, host: Principal | None, gateway: Principal | None) -> None:
        self._authority = authority
        self._host = host
        self._gateway = gateway
        self._speaker = host or gateway

    async def claim(
        self,
        vsid: Vsid,
        mac: MacAddress,
        pa: ProviderAddress,
        mode: Mode,
        addresses: tuple[CustomerAddress, ...],
    ) -> object:
        if self._host is None:
            raise Forbidden("there is no host here")
        return await self._authority.claim(
            self._host, vsid=vsid, mac=mac, pa=pa, mode=mode, addresses=addresses
        )

    async def hints(self, hints: Sequence[Hint]) -> None:
        for hint in hints:
            if self._speaker is not None:
                self._authority.hint(self._speaker, hint.host, hint.vsid, hint.ca, forget=hint.forget)

    async def lease(self, vsid: Vsid, ca: CustomerAddress) -> Lease | LookupRecord:
        speakers = [each for each in (self._gateway, self._host) if each is not None]
        for speaker in speakers:
            try:
                return await self._authority.lease(speaker, vsid=vsid, ca=ca)
            except Unacceptable:
                # A gateway that is a host, too, is not every gateway of the tenants whose VMs it has.
                if speaker is speakers[-1]:
                    raise
        raise Forbidden("there is neither a host nor a gateway here")

    async def return_leases(self, pas: Sequence[ProviderAddress]) -> None:
        if self._gateway is None:
            raise Forbidden("there is no gateway here")
        await self._authority.return_leases(self._gateway, pas)

    async def acknowledge(self, revision: int) -> None:
        if self._speaker is not None:
            self._authority.acknowledge(self._speaker, revision)


class Serving(msgspec.Struct, frozen=True):
    """A node that serves records."""

    replica: Replica
    authority: Authority
    store: LookupStore
    state: Path
    door: Door

    def asking(self, appliance: Appliance) -> Asking:
        """Return what this appliance's own host or gateway asks by."""
        host = Principal(appliance.host.name, Role.HOST) if appliance.host is not None else None
        gateway = Principal(appliance.name, Role.GATEWAY) if appliance.gateway else None
        return Local(self.authority, host, gateway)

    async def compared(self, wanted: Network) -> tuple[Network, Network]:
        """Return the store's network, and what it would be if a changed file's was written.

        Raises StoreUnavailable.
        """
        before = await network.stored(self.store)
        if not self.is_to_be_written(wanted):
            return before, before
        return before, network.network_of(network.entries_of(wanted))

    async def take(self, wanted: Appliance) -> TakenOver:
        """Take a changed file over: the tokens in its files, and its network; return what undoes that.

        Raises ConfigurationError for what is wrong with a token, and then has changed nothing; and StoreAway
        where the store goes meanwhile, or a static record does not get its provider address: what has been
        written by then is to be undone.
        """
        known = None if wanted.lookup is None else Credentials.load(wanted.lookup.credentials)
        taken = TakenOver(self, self.door.credentials)
        try:
            await taken.write(wanted.network)
        except StoreUnavailable as error:
            raise StoreAway(error, taken) from None
        if known is not None:
            self.door.credentials = known
        return taken

    async def write_at_start(self, wanted: Network) -> None:
        """Write a file's network to the store, also to one that has been made anew since this node wrote."""
        if (wanted.tenants or wanted.hosts) and not await self._has_network():
            self._mark.unlink(missing_ok=True)
        await self.write(wanted)

    async def write(self, wanted: Network) -> bool:
        """Write a file's network to the store, unless it is what this node has written last.

        So a node that comes back with an old file does not undo what others have changed since.
        A file without tenants and hosts changes nothing. Returns whether anything was to be written.
        """
        if not self.is_to_be_written(wanted):
            return False
        steps = await network.apply(self.store, wanted)
        about = {"event": "network-written"}
        log.info("the file's network is written to the store: %d changes", len(steps), extra=about)
        self.remember(_digest(wanted))
        return True

    @property
    def written_last(self) -> str | None:
        """What tells the network that this node has written last from others; None if it never has."""
        return self._mark.read_text().strip() if self._mark.exists() else None

    def remember(self, digest: str | None) -> None:
        """Keep which network is the last that this node has written."""
        if digest is None:
            self._mark.unlink(missing_ok=True)
            return
        part = self._mark.with_suffix(".part")
        part.touch(mode=0o600)
        part.write_text(digest + "\n")
        part.replace(self._mark)

    def is_to_be_written(self, wanted: Network) -> bool:
        """Whether a file's network says something, and something else than what this node wrote last."""
        return bool(wanted.tenants or wanted.hosts) and self.written_last != _digest(wanted)

    @property
    def _mark(self) -> Path:
        return self.state / "network-written"

    async def _has_network(self) -> bool:
        for kind in (Kind.TENANT, Kind.HOST):
            if (await self.store.page(Prefix(kind), None, 1)).entries:
                return True
        return False


class TakenOver:
    """What a node that serves records has taken over of a changed file, and what was before."""

    def __init__(self, serving: Serving, credentials: Credentials) -> None:
        self._serving = serving
        self._credentials = credentials
        self._written_last = serving.written_last
        self._networks: tuple[Network, Network] | None = None
        self._lost: list[Stored] = []

    async def write(self, wanted: Network) -> None:
        """Write a network to the store, and wait until our replica has it. Raises StoreUnavailable."""
        serving = self._serving
        if not serving.is_to_be_written(wanted):
            return
        before, after = await serving.compared(wanted)
        if before != after:
            self._lost = await _lost_records(serving.store, before, after)
            self._networks = before, after
        await serving.write(wanted)
        await serving.replica.reached(await latest_revision(serving.store), REACHED_WITHIN)

    async def undo(self) -> list[str]:
        """Put back what was, but for what others have changed since: return in words what that is.

        Raises StoreUnavailable: then it is to be called again.
        """
        serving = self._serving
        serving.door.credentials = self._credentials
        serving.remember(self._written_last)
        if self._networks is None:
            return []
        try:
            kept = await network.take_back(serving.store, *self._networks)
        except network.NotTakenBack as error:
            self._networks = None
            return [f"the network in the store is left as it is: {error}; apply the one that is wanted"]
        left = [f"{key} has been changed by others since, and is left as it is" for key in kept]
        for entry in self._lost:
            # Its host may have registered it anew.
            with suppress(Conflict):
                try:
                    if entry.value is not None:
                        await serving.store.put(entry.key, entry.value, Expect.ABSENT)
                except Taken as error:
                    left.append(f"{entry.key}, whose provider address {error.key.pa} is another's by now")
        self._networks = None
        await serving.replica.reached(await latest_revision(serving.store), REACHED_WITHIN)
        return left


class StoreAway(Exception):
    """A changed file could not be written whole. The message says why, in words for an operator."""

    def __init__(self, why: StoreUnavailable, taken: TakenOver) -> None:
        super().__init__(str(why))
        self.why = why
        self.taken = taken


async def _lost_records(store: LookupStore, before: Network, after: Network) -> list[Stored]:
    """What VMs' records go with virtual subnets that go, or go to another tenant."""
    owners = {subnet.vsid: tenant.name for tenant in after.tenants for subnet in tenant.subnets}
    lost = {
        subnet.vsid
        for tenant in before.tenants
        for subnet in tenant.subnets
        if owners.get(subnet.vsid) != tenant.name
    }
    listed = entries(store, *(Prefix(Kind.RECORD, vsid) for vsid in lost))
    return [entry async for entry in listed if isinstance(entry.value, Placement) and not entry.value.pinned]


def _digest(wanted: Network) -> str:
    return hashlib.sha256(msgspec.json.encode(forms.form(wanted), order="sorted")).hexdigest()


def _own(state: Path) -> None:
    """Make the folder of what is kept unless it is there. Raises ConfigurationError."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = state.stat().st_mode
    except OSError as error:
        raise ConfigurationError([Problem("appliance.state", f"{state}: {error.strerror}")]) from None
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        message = f"{state}: others may write there, and could say where VMs are: chmod 0700"
        raise ConfigurationError([Problem("appliance.state", message)])


async def serve_records(
    appliance: Appliance, started: Callable[[Serving], None], beside: Beside | None = None
) -> None:
    """Serve records: the store, its replica, and whoever asks by HTTP, of records or `beside` them.

    `started` is told once requests are answered. Raises ConfigurationError for what is
    wrong with the files, the address or the store.
    """
    settings, state = appliance.lookup, appliance.state
    if settings is None:
        raise ConfigurationError([Problem("lookup", "is missing")])
    _own(state)
    store: LookupStore
    if settings.etcd is not None:
        store = await EtcdStore.open(settings.etcd)
        journal = Journal(state / LAST_KNOWN_GOOD)
    else:
        store = await SqliteStore.open(state / "records.sqlite")
        journal = None
    try:
        replica = Replica(partial(follow, store), journal=journal, patience=0.0)
        limits = FlapLimits(settings.flap_moves, settings.flap_seconds)
        authority = Authority(store, replica, limits, now=time.time)
        door = Door()
        serving = Serving(replica, authority, store, state, door)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(replica.run())
            tasks.create_task(_write_when_possible(serving, appliance.network))
            tasks.create_task(_compact(store, replica))
            tasks.create_task(_sweep(authority))
            await serve(
                settings, authority, replica, door, started=lambda _port: started(serving), beside=beside
            )
    finally:
        await store.close()


async def _write_when_possible(serving: Serving, wanted: Network) -> None:
    """A store that is away at the start must not keep the node from answering what it knows."""
    while True:
        try:
            await serving.write_at_start(wanted)
            return
        except StoreUnavailable as error:
            about = {"event": "network-waits"}
            log.warning("the file's network cannot be written yet: %s", error, extra=about)
            await asyncio.sleep(TRY_AGAIN)


async def _compact(store: LookupStore, replica: Replica) -> None:
    """Let the store forget what everybody who follows has long seen."""
    while True:
        seen = replica.revision
        await asyncio.sleep(HISTORY_SECONDS)
        try:
            await store.compact(seen)
        except StoreUnavailable as error:
            log.warning("the store's history is not cut: %s", error, extra={"event": "history-kept"})


async def _sweep(authority: Authority) -> None:
    """Return leases that nobody needs any more, at times that differ from node to node."""
    while True:
        await asyncio.sleep(SWEPT_EVERY * random.uniform(0.5, 1.0))
        try:
            swept = await authority.leasing.sweep()
        except StoreUnavailable as error:
            log.warning("leases are not looked through: %s", error, extra={"event": "leases-kept"})
        else:
            if swept:
                about = {"event": "leases-returned"}
                log.info("leases returned that nobody needs any more: %d", swept, extra=about)


class Following(msgspec.Struct, frozen=True):
    """A node that has its records and its network from others."""

    replica: Replica
    client: LookupClient

    def asking(self, _appliance: Appliance) -> Asking:
        """Return what this appliance's host or gateway asks by."""
        return self.client


async def follow_records(appliance: Appliance, started: Callable[[Following], None]) -> None:
    """Follow the lookup service, with what is known written down for the next start.

    Raises ConfigurationError for what is wrong with the credential's files.
    """
    access, state = appliance.lookup_access, appliance.state
    if access is None:
        raise ConfigurationError([Problem("host.lookup", "is missing")])
    _own(state)
    kept = appliance.host.records if appliance.host is not None else RecordsKept.ALL
    async with LookupClient(access) as client:
        source = remote(client, only_used=kept is RecordsKept.USED)
        # Nobody watches this replica, so there is nobody to keep what has changed for.
        replica = Replica(source, history=1, journal=Journal(state / LAST_KNOWN_GOOD))
        started(Following(replica, client))
        await replica.run()
