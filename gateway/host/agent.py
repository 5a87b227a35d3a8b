"""Speaks for a host or a gateway to the lookup service: claims, leases, acknowledgements and hints.

What forwarding, the ports and the records' feed tell is taken at once and without waiting; what has to
be said goes out by tasks of its own. Everything that waits is bounded: one claim for each
port, some CAs that want a provider address, the newest revision, and the newest hints.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import trio

from gateway.forwarding.directory import Change, Delete, Put
from gateway.forwarding.happenings import Happening, Heard, Wanted
from gateway.forwarding.verdicts import PortKey
from gateway.host import leasing, registration
from gateway.host.leasing import Apply, Ask, Lacking, Leasing, Refuse, Return
from gateway.host.registration import Cancel, Claim, Complaint, Find, Probe, Registrar
from gateway.host.uses import Key, Uses
from gateway.lookup.answers import Hint
from gateway.lookup.asking import Asking
from gateway.lookup.claims import Mode, Reason, Refused
from gateway.lookup.outcomes import WHY_NO_LEASE, Forbidden, NoLease, Unacceptable
from gateway.lookup.store import StoreUnavailable
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.model import Appliance, RecordsKept, Translation

log = logging.getLogger("isthmus.lookup")

# Seconds after which a claim is given up that nobody answers. It may have been carried out.
CLAIM_SECONDS = 10.0
# How many claims are under way at once. VMs that come do not wait behind those that were here.
AT_ONCE = {Mode.ANNOUNCE: 32, Mode.REGISTER: 8}

# Seconds after which it is given up to have an address leased, and many taken back.
LEASE_SECONDS = 5.0
RETURN_SECONDS = 30.0

HINTS_KEPT = 4096
HINTS_AT_ONCE = 500
# Seconds between two calls with hints, and after one that failed.
HINT_EVERY = 0.05
PAUSE = 1.0

# What the lookup service says in one word.
IN_WORDS: dict[str, str] = {
    Reason.NO_ADDRESS: "the host's pools have no address left",
    **WHY_NO_LEASE,
}

# How often the connection is looked at, and how often what is used, in seconds.
LOOK = 1.0
SAMPLE = 60.0
# Leases looked at before packets get their turn: some two milliseconds.
LOOKED_AT_ONCE = 512


class Agent:
    """Takes what happens on the trio thread, at any time; `run` says what is to be said.

    `find` reads a record as it is known here. `probe` asks a VM at its port for an address, and does not
    raise. `is_connected` says whether records are being followed. `in_use` returns the records that have been
    used since it was last called; without it, what a host was taught is taught anew now and then.

    `refuse` tells forwarding that there is no provider address for a CA, and `apply` that there is one, ahead
    of the feed. `used_leases` returns a gateway's addresses that have been used since it was last called.
    """

    def __init__(
        self,
        appliance: Appliance,
        lookup: Asking,
        *,
        find: Find,
        probe: Callable[[PortKey, CustomerAddress], object],
        is_connected: Callable[[], bool],
        in_use: Callable[[], Iterable[Key]] = tuple,
        refuse: Callable[[Vsid, CustomerAddress], object] = lambda _vsid, _ca: None,
        apply: Callable[[Sequence[Change]], object] = lambda _changes: None,
        used_leases: Callable[[], Iterable[bytes]] = tuple,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._lookup = lookup
        self._probe = probe
        self._is_connected = is_connected
        self._in_use = in_use
        self._refuse = refuse
        self._apply = apply
        self._used_leases = used_leases
        self._name = appliance.host.name if appliance.host is not None else None
        self._registrar: Registrar | None = None
        if appliance.host is not None and appliance.underlay is not None:
            self._pa = appliance.underlay.provider_addresses[0]
            self._registrar = Registrar(appliance.host.name, self._pa, find, jitter)
        keeps_used = appliance.host is not None and appliance.host.records is RecordsKept.USED
        self._uses: Uses[Key] | None = Uses() if keeps_used else None
        self._leasing = Leasing(appliance.name if appliance.gateway else None, find)
        self._lease_due = trio.Event()
        self._hosts: dict[ProviderAddress, str] = {}
        self._tenants: dict[Vsid, str] = {}
        self._nursery: trio.Nursery | None = None
        self._not_yet: list[registration.Effect | leasing.Effect] = []
        self._limits = {mode: trio.CapacityLimiter(count) for mode, count in AT_ONCE.items()}
        self._in_flight: dict[int, trio.CancelScope] = {}
        self._earlier = trio.Event()
        self._revision: int | None = None
        self._revision_come = trio.Event()
        self._hints: dict[tuple[str, Vsid, CustomerAddress], Hint] = {}
        self._hint_come = trio.Event()

    # --- what happens

    def configure(self, appliance: Appliance) -> None:
        """Take over which ports and which hosts there are."""
        network = appliance.network
        self._hosts = {pa: host.name for host in network.hosts for pa in host.provider_addresses}
        self._tenants = {subnet.vsid: tenant.name for tenant in network.tenants for subnet in tenant.subnets}
        if self._registrar is not None and appliance.host is not None:
            ports = appliance.host.ports_in(network)
            pools = [pool for host in network.hosts if host.name == self._name for pool in host.pools]
            self._take(self._registrar.configure(ports, trio.current_time(), pools))
        self._take(self._leasing.configure(appliance, trio.current_time()))

    def port_opened(self, key: PortKey) -> None:
        """A VM's port is there."""
        if self._registrar is not None:
            self._take(self._registrar.port_opened(key, trio.current_time()))

    def port_closed(self, key: PortKey) -> None:
        """A VM's port has gone."""
        if self._registrar is not None:
            self._take(self._registrar.port_closed(key))

    def happened(self, happening: Happening) -> None:
        """Forwarding has noticed something."""
        if isinstance(happening, Heard):
            if self._registrar is not None:
                self._take(self._registrar.heard(happening.port, trio.current_time()))
            return
        if isinstance(happening, Wanted):
            self._leasing.wanted(happening.vsid, happening.ca, trio.current_time())
            self._lease_due.set()
            return
        host = self._hosts.get(happening.sender)
        if host is not None:
            self._hint(Hint(host, happening.record.vsid, happening.record.ca))

    def changed(self, changes: Iterable[Change]) -> None:
        """These changes of records and leases have been made."""
        now = trio.current_time()
        for change in changes:
            self._leasing.changed(change, now)
        self._lease_due.set()
        if self._registrar is None:
            return
        effects: list[registration.Effect] = []
        for change in changes:
            if isinstance(change, Put):
                record = change.record
                effects += self._registrar.record_changed(record.vsid, record.ca, now)
                is_always_told = record.host == self._name or record.translation is Translation.REWRITE
                if self._uses is not None and not is_always_told:
                    self._let_go(self._uses.learned((record.vsid, record.ca), now))
            elif isinstance(change, Delete):
                effects += self._registrar.record_changed(change.vsid, CustomerAddress(change.ca), now)
        self._take(effects)

    def applied(self, revision: int) -> None:
        """Everything up to a revision has been applied."""
        self._take(self._leasing.applied(revision, trio.current_time()))
        if revision != self._revision:
            self._revision = revision
            self._revision_come.set()

    # --- what is said of it

    async def run(self) -> None:
        """Say what is to be said, for ever."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            not_yet, self._not_yet = self._not_yet, []
            self._take(not_yet)
            nursery.start_soon(self._acknowledge)
            nursery.start_soon(self._give_hints)
            nursery.start_soon(self._watch_connection)
            nursery.start_soon(self._keep_leases)
            nursery.start_soon(self._watch_leases)
            if self._registrar is not None:
                nursery.start_soon(self._keep_time, self._registrar)
            if self._uses is not None:
                nursery.start_soon(self._watch_uses, self._uses)

    def _take(self, effects: Iterable[registration.Effect | leasing.Effect]) -> None:
        if self._nursery is None:
            self._not_yet += effects
            return
        for effect in effects:
            match effect:
                case Claim():
                    self._in_flight[effect.number] = trio.CancelScope()
                    self._nursery.start_soon(self._claim, effect, self._in_flight[effect.number])
                case Cancel(number):
                    if number in self._in_flight:
                        self._in_flight[number].cancel()
                case Probe(port, ca):
                    self._probe(port, ca)
                case Complaint((vsid, mac), reason):
                    words = "the VM %s in virtual subnet %d cannot be claimed: %s"
                    about = self._about("claim-refused", (vsid, mac))
                    log.warning(words, mac, vsid, IN_WORDS.get(reason, reason), extra=about)
                case Ask():
                    self._nursery.start_soon(self._lease, effect)
                case Return(pas):
                    self._nursery.start_soon(self._return, pas)
                case Refuse(vsid, ca):
                    self._refuse(vsid, ca)
                case Apply(change):
                    self._apply([change])
                case Lacking(vsid, ca, reason):
                    words = "no provider address for %s in virtual subnet %d: %s"
                    about = {"event": "lease-refused", "tenant": self._tenants.get(vsid), "vsid": vsid}
                    log.warning(words, ca, vsid, IN_WORDS.get(reason, reason), extra=about)
        self._earlier.set()

    async def _keep_time(self, registrar: Registrar) -> None:
        while True:
            self._earlier = trio.Event()
            with trio.move_on_at(registrar.deadline):
                await self._earlier.wait()
            self._take(registrar.handle_timeout(trio.current_time()))

    async def _claim(self, claim: Claim, scope: trio.CancelScope) -> None:
        try:
            with scope:
                effects = await self._claimed(claim)
        finally:
            del self._in_flight[claim.number]
        if not scope.cancelled_caught:
            self._take(effects)

    async def _claimed(self, claim: Claim) -> list[registration.Effect]:
        registrar = self._registrar
        if registrar is None:
            raise RuntimeError("a claim without a host")
        vsid, mac = claim.port
        try:
            async with self._limits[claim.mode]:
                with trio.fail_after(CLAIM_SECONDS):
                    await self._lookup.claim(vsid, mac, self._pa, claim.mode, claim.addresses)
        except Refused as refused:
            return registrar.refused(claim, refused.reason, trio.current_time())
        except (Forbidden, Unacceptable) as refused:
            return registrar.refused(claim, str(refused), trio.current_time())
        except (StoreUnavailable, trio.TooSlowError) as error:
            log.debug("%s of %s in virtual subnet %d is tried again: %s", claim.mode, mac, vsid, error)
            return registrar.failed(claim, trio.current_time())
        about = self._about("claimed", claim.port)
        log.info("the VM %s in virtual subnet %d is claimed (%s)", mac, vsid, claim.mode, extra=about)
        return registrar.answered(claim, trio.current_time())

    async def _keep_leases(self) -> None:
        while True:
            self._lease_due = trio.Event()
            with trio.move_on_at(self._leasing.deadline):
                await self._lease_due.wait()
            self._take(self._leasing.handle_timeout(trio.current_time()))

    async def _lease(self, wanted: Ask) -> None:
        key = wanted.vsid, wanted.ca
        try:
            with trio.fail_after(LEASE_SECONDS):
                answer = await self._lookup.lease(*key)
        except NoLease as none:
            self._take(self._leasing.refused(key, none.reason, trio.current_time()))
        except (Forbidden, Unacceptable) as refused:
            self._take(self._leasing.refused(key, str(refused), trio.current_time()))
        except (StoreUnavailable, trio.TooSlowError) as error:
            log.debug("no lease for %s in virtual subnet %d: %s", wanted.ca, wanted.vsid, error)
            self._take(self._leasing.failed(key, trio.current_time()))
        else:
            self._take(self._leasing.answered(key, answer, trio.current_time()))

    async def _watch_leases(self) -> None:
        while True:
            await trio.sleep(SAMPLE)
            used = iter(self._used_leases())
            while some := tuple(islice(used, LOOKED_AT_ONCE)):
                self._leasing.used(some, trio.current_time())
                await trio.lowlevel.checkpoint()
            self._take(self._leasing.expire(trio.current_time()))

    async def _return(self, pas: Sequence[ProviderAddress]) -> None:
        try:
            with trio.fail_after(RETURN_SECONDS):
                await self._lookup.return_leases(pas)
        except (StoreUnavailable, trio.TooSlowError) as error:
            log.debug("%d leases are returned later: %s", len(pas), error)
        except (Forbidden, Unacceptable) as error:
            about = {"event": "lease-refused"}
            log.warning("%d leases cannot be returned: %s", len(pas), error, extra=about)
        else:
            self._take(self._leasing.returned(trio.current_time()))
            return
        self._leasing.return_failed(trio.current_time())
        self._lease_due.set()

    def _about(self, event: str, port: PortKey) -> dict[str, object]:
        """Return what a line about a VM concerns."""
        vsid, mac = port
        return {"event": event, "tenant": self._tenants.get(vsid), "vsid": vsid, "mac": mac}

    async def _acknowledge(self) -> None:
        while True:
            await self._revision_come.wait()
            self._revision_come = trio.Event()
            try:
                if self._revision is not None:
                    await self._lookup.acknowledge(self._revision)
            except StoreUnavailable:
                self._revision_come.set()
                await trio.sleep(PAUSE)
            except (Forbidden, Unacceptable) as error:
                about = {"event": "acknowledgement-refused"}
                log.warning("what is applied here cannot be acknowledged: %s", error, extra=about)
                await trio.sleep(PAUSE)

    def _hint(self, hint: Hint) -> None:
        key = (hint.host, hint.vsid, hint.ca)
        self._hints.pop(key, None)
        self._hints[key] = hint
        if len(self._hints) > HINTS_KEPT:
            del self._hints[next(iter(self._hints))]
        self._hint_come.set()

    async def _give_hints(self) -> None:
        while True:
            await self._hint_come.wait()
            if not self._hints:
                self._hint_come = trio.Event()
                continue
            hints = list(islice(reversed(self._hints.values()), HINTS_AT_ONCE))
            try:
                await self._lookup.hints(hints)
            except StoreUnavailable:
                await trio.sleep(PAUSE)
                continue
            except (Forbidden, Unacceptable) as error:
                log.warning("hosts cannot be taught: %s", error, extra={"event": "hints-refused"})
                await trio.sleep(PAUSE)
            for hint in hints:
                key = (hint.host, hint.vsid, hint.ca)
                if self._hints.get(key) is hint:
                    del self._hints[key]
            await trio.sleep(HINT_EVERY)

    async def _watch_connection(self) -> None:
        was = False
        while True:
            is_connected = self._is_connected()
            if is_connected and not was:
                if self._registrar is not None:
                    self._take(self._registrar.reconnected(trio.current_time()))
                self._take(self._leasing.reconnected(trio.current_time()))
                if self._revision is not None:
                    self._revision_come.set()
                for key in reversed(self._uses.all() if self._uses is not None else ()):
                    self._interest(key)
            was = is_connected
            await trio.sleep(LOOK)

    async def _watch_uses(self, uses: Uses[Key]) -> None:
        while True:
            await trio.sleep(SAMPLE)
            now = trio.current_time()
            uses.used(self._in_use(), now)
            self._let_go(uses.expire(now))

    def _interest(self, key: Key, *, forget: bool = False) -> None:
        """Say what this host itself wants to be told, or no longer."""
        if self._name is not None:
            self._hint(Hint(self._name, *key, forget))

    def _let_go(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._interest(key, forget=True)
