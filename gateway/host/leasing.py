"""Which provider addresses a node asks for, and which a gateway gives back, decided without a clock.

A packet from or to a rewritten VM needs a provider address for either end. Forwarding says which CA it
lacks one for; that is asked once, and what was refused is not asked again for a while. A gateway has its
own CAs leased beforehand, since they are the sources of its ICMP errors, and gives back what no packet uses.

What is leased comes through the records' feed, like a record; an answer may be ahead of that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import msgspec

from gateway.forwarding.directory import Change, DeleteLease, Put, PutLease
from gateway.host.ahead import Ahead
from gateway.host.uses import Key, Uses
from gateway.host.waiting import Waiting
from gateway.lookup.outcomes import WHY_NO_LEASE, WhyNoLease
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.model import Appliance, Lease, LookupRecord, Translation
from policies.tables import PrefixTable

Find = Callable[[Vsid, CustomerAddress], LookupRecord | None]

MOST_UNDER_WAY = 64
"""CAs that are being asked for at once."""
MOST_WAITING = 256
"""CAs of one virtual subnet that wait for their turn. What is wanted beyond that is not asked: if it still
is when there is room, forwarding says so again."""
REMEMBERED = 4096
"""CAs that are not asked for again for now. The oldest makes room."""

# Seconds until the same CA is asked for again: after an answer, or none ...
ASKED_FOR = 1.0
# ... after a refusal that a new record ends, and after any other.
UNKNOWN_FOR = 5.0
REFUSED_FOR = 10.0
# And until a gateway's own CA is, which nobody waits for.
LACKING_FOR = 30.0
# Between two complaints of one kind about one virtual subnet.
COMPLAIN_EVERY = 60.0

LEASE_IDLE = 300.0
"""After so many seconds without a packet a gateway returns a lease."""
RETURNED_AT_ONCE = 500
# Seconds to the next attempt to return leases where nobody answers: doubled up to the last.
FIRST_RETRY = 1.0
LAST_RETRY = 60.0


class Ask(msgspec.Struct, frozen=True):
    """Have a provider address leased. What comes of it is told by `answered`, `refused` or `failed`."""

    vsid: Vsid
    ca: CustomerAddress


class Refuse(msgspec.Struct, frozen=True):
    """Tell forwarding that there is none: what waits for it, waits in vain."""

    vsid: Vsid
    ca: CustomerAddress


class Apply(msgspec.Struct, frozen=True):
    """Change what forwarding knows, ahead of the feed."""

    change: PutLease | DeleteLease


class Return(msgspec.Struct, frozen=True):
    """Give addresses back. What comes of it is told by `returned` or `return_failed`."""

    pas: tuple[ProviderAddress, ...]


class Lacking(msgspec.Struct, frozen=True):
    """There is no provider address for a CA, for a reason that an operator should know of."""

    vsid: Vsid
    ca: CustomerAddress
    reason: str


Effect = Ask | Refuse | Apply | Return | Lacking


class _Pause(msgspec.Struct, frozen=True, gc=False):
    """Until when a CA is not asked for, and whether it was refused."""

    until: float
    is_refusal: bool


class Leasing:
    """Keeps one node in the provider addresses that it needs. Times are of one monotonic clock.

    `gateway` is the name of the gateway that this node is, if it is one; `find` reads records as they are
    known here.
    """

    def __init__(self, gateway: str | None, find: Find) -> None:
        self._gateway = gateway
        self._find = find
        self._waiting = Waiting()
        self._under_way: set[Key] = set()
        self._pauses: dict[Key, _Pause] = {}
        self._in_vain: dict[Key, None] = {}
        """Wanted since `handle_timeout`, although they are refused."""
        self._complained: dict[tuple[Vsid, str], float] = {}
        self._ahead = Ahead()
        self._vsids: frozenset[Vsid] = frozenset()
        """Of the tenants that this is a gateway of."""
        self._pools: PrefixTable[bool] = PrefixTable(())
        self._standing: dict[Key, None] = {}
        """This gateway's own CAs, which are leased for ever."""
        self._lacking: dict[Key, float] = {}
        """Those that have no lease, and when each is asked for next."""
        self._own: dict[ProviderAddress, Lease] = {}
        self._by_key: dict[Key, dict[ProviderAddress, None]] = {}
        self._uses: Uses[ProviderAddress] = Uses(LEASE_IDLE, capacity=None)
        self._seconds: dict[ProviderAddress, None] = {}
        """Leases that are not the first of their CA, as `expire` found them last."""
        self._unused: dict[ProviderAddress, None] = {}
        """Own leases that are to be returned."""
        self._returning: tuple[ProviderAddress, ...] = ()
        self._return_at = -math.inf
        self._failures = 0

    @property
    def deadline(self) -> float:
        """When `handle_timeout` is to be called next, if nothing happens before."""
        if self._in_vain or (self._waiting and len(self._under_way) < MOST_UNDER_WAY):
            return -math.inf
        returning = self._return_at if self._unused and not self._returning else math.inf
        return min(returning, self._ahead.deadline, *self._lacking.values())

    # --- what happens

    def configure(self, appliance: Appliance, now: float) -> list[Effect]:
        """Take over which tenants this is a gateway of, and with which pools."""
        if self._gateway is None:
            return []
        network = appliance.network
        pools = [pool for each in network.gateways if each.name == self._gateway for pool in each.pools]
        families = {pool.version for pool in pools}
        tenants = [tenant for tenant in network.tenants if self._gateway in tenant.gateways]
        self._pools = PrefixTable((pool, True) for pool in pools)
        self._vsids = frozenset(subnet.vsid for tenant in tenants for subnet in tenant.subnets)
        self._standing = {
            (subnet.vsid, ca): None
            for tenant in tenants
            if any(subnet.translation is Translation.REWRITE for subnet in tenant.subnets)
            for subnet in tenant.subnets
            for ca in subnet.gateway_addresses
            if ca.version in families
        }
        self._lacking = {
            key: self._lacking.get(key, now) for key in self._standing if self._first(key) is None
        }
        return self.handle_timeout(now)

    def wanted(self, vsid: Vsid, ca: CustomerAddress, now: float) -> None:
        """Packets wait for an address. It is forwarding that says so: what follows is due in a moment."""
        key = vsid, ca
        if key in self._under_way:
            return
        pause = self._pauses.get(key)
        if pause is None or pause.until <= now:
            self._waiting.add(key, MOST_WAITING)
        elif pause.is_refusal:
            self._in_vain[key] = None

    def changed(self, change: Change, now: float) -> None:
        """The feed has made a change."""
        match change:
            case Put(record):
                key = record.vsid, record.ca
                if record.translation is Translation.REWRITE:
                    self._waiting.discard(key)
                pause = self._pauses.get(key)
                if pause is not None and pause.is_refusal:
                    self._pause(key, min(pause.until, now + ASKED_FOR), is_refusal=False)
            case PutLease(lease):
                self._ahead.told(lease.pa, lease.revision)
                self._learn(lease, now)
            case DeleteLease(pa):
                self._ahead.told(pa, None)
                self._forget(pa, now)

    def applied(self, revision: int, now: float) -> list[Effect]:
        """Everything up to a revision has come by the feed; less than before, if a store was restored."""
        return self._withdraw(self._ahead.applied(revision), now)

    def answered(self, key: Key, answer: Lease | LookupRecord, now: float) -> list[Effect]:
        """A CA that was asked for has an address: a lease, or its own record's, which the feed tells."""
        self._under_way.discard(key)
        self._pause(key, now + ASKED_FOR)
        effects: list[Effect] = []
        if (
            isinstance(answer, Lease)
            and (answer.vsid, answer.ca) == key
            and self._ahead.answered(answer, now)
        ):
            self._learn(answer, now)
            effects.append(Apply(PutLease(answer)))
        return effects + self._ask()

    def refused(self, key: Key, reason: str, now: float) -> list[Effect]:
        """It has none and gets none: for a `WhyNoLease`, or because this node may not ask."""
        self._under_way.discard(key)
        is_unknown = reason == WhyNoLease.UNKNOWN
        self._pause(key, now + (UNKNOWN_FOR if is_unknown else REFUSED_FOR), is_refusal=True)
        effects: list[Effect] = [Refuse(*key)]
        if (not is_unknown or key in self._standing) and self._is_news(key[0], reason, now):
            effects.append(Lacking(*key, reason))
        return effects + self._ask()

    def failed(self, key: Key, now: float) -> list[Effect]:
        """Nobody could be asked, or nobody knows what came of it."""
        self._under_way.discard(key)
        self._pause(key, now + ASKED_FOR)
        return self._ask()

    def reconnected(self, now: float) -> list[Effect]:
        """The lookup service is back: what only failed need not wait."""
        self._lacking = dict.fromkeys(self._lacking, now)
        self._return_at = now
        self._failures = 0
        return self.handle_timeout(now)

    def used(self, pas: Iterable[bytes], now: float) -> None:
        """Packets have come to these addresses, or went out from them, since this was last called."""
        for octets in pas:
            pa = ProviderAddress(octets)
            lease = self._own.get(pa)
            if lease is not None and self._is_needed(lease):
                self._use(pa, now)

    def expire(self, now: float) -> list[Effect]:
        """Give back what has not been used for `LEASE_IDLE`. Call it every minute or so, after `used`.

        What is used but not needed counts as unused, so that nothing is given back for what the configuration
        says only for a moment. Only what is second for its CA goes at the call after the one that found it:
        by then everybody knows of the first.
        """
        for key in self._standing:
            lease = self._first(key)
            if lease is not None:
                self._use(lease.pa, now)
        found, self._seconds = self._seconds, dict.fromkeys(self._find_seconds())
        for pa in self._seconds:
            if pa in found:
                self._uses.forget(pa)
                self._unused[pa] = None
        self._unused.update(dict.fromkeys(self._uses.expire(now)))
        return self._give_back(now)

    def returned(self, now: float) -> list[Effect]:
        """Addresses have been taken back. The feed tells so; if it does not, they are returned once more."""
        pas, self._returning = self._returning, ()
        for pa in pas:
            self._unused.pop(pa, None)
            if pa in self._own:
                self._uses.learned(pa, now)
        self._failures = 0
        return self._give_back(now)

    def return_failed(self, now: float) -> list[Effect]:
        """Nobody could be asked to take them back, or did."""
        self._returning = ()
        self._return_at = now + min(FIRST_RETRY * 2.0**self._failures, LAST_RETRY)
        self._failures = min(self._failures + 1, 16)
        return []

    def handle_timeout(self, now: float) -> list[Effect]:
        """Do what is due."""
        effects = self._withdraw(self._ahead.expire(now), now)
        effects += (Refuse(*key) for key in self._in_vain)
        self._in_vain.clear()
        for key, due in self._lacking.items():
            if due > now:
                continue
            pause = self._pauses.get(key)
            if pause is not None and pause.until > now:
                self._lacking[key] = pause.until
            else:
                self._lacking[key] = now + LACKING_FOR
                if key not in self._under_way:
                    self._waiting.add(key)
        return effects + self._ask() + self._give_back(now)

    # --- what is asked

    def _ask(self) -> list[Effect]:
        effects: list[Effect] = []
        while self._waiting and len(self._under_way) < MOST_UNDER_WAY:
            key = self._waiting.take()
            self._under_way.add(key)
            effects.append(Ask(*key))
        return effects

    def _pause(self, key: Key, until: float, *, is_refusal: bool = False) -> None:
        self._pauses.pop(key, None)
        self._pauses[key] = _Pause(until, is_refusal)
        if len(self._pauses) > REMEMBERED:
            del self._pauses[next(iter(self._pauses))]

    def _is_news(self, vsid: Vsid, reason: str, now: float) -> bool:
        """Whether an operator has not been told lately."""
        # Other reasons may name the CA, so there may be as many as CAs: one stands for them all.
        what = vsid, reason if reason in WHY_NO_LEASE else ""
        if now - self._complained.get(what, -math.inf) < COMPLAIN_EVERY:
            return False
        lately = {each: at for each, at in self._complained.items() if now - at < COMPLAIN_EVERY}
        self._complained = {**lately, what: now}
        return True

    def _withdraw(self, pas: list[ProviderAddress], now: float) -> list[Effect]:
        """Have done with leases that the feed has not told of."""
        for pa in pas:
            self._forget(pa, now)
        return [Apply(DeleteLease(pa)) for pa in pas]

    # --- what this gateway has

    def _learn(self, lease: Lease, now: float) -> None:
        """Somebody's lease of a CA has come. A gateway needs one of its own."""
        key = lease.vsid, lease.ca
        self._forget(lease.pa, now)
        if self._gateway is None or lease.node == self._gateway:
            self._waiting.discard(key)
        if lease.node == self._gateway:
            self._own[lease.pa] = lease
            self._by_key.setdefault(key, {})[lease.pa] = None
            if self._first(key) is not None:
                self._lacking.pop(key, None)
            self._uses.learned(lease.pa, now)

    def _forget(self, pa: ProviderAddress, now: float) -> None:
        lease = self._own.pop(pa, None)
        if lease is None:
            return
        self._uses.forget(pa)
        self._unused.pop(pa, None)
        key = lease.vsid, lease.ca
        del self._by_key[key][pa]
        if not self._by_key[key]:
            del self._by_key[key]
        if key in self._standing and self._first(key) is None:
            self._lacking.setdefault(key, now)

    def _use(self, pa: ProviderAddress, now: float) -> None:
        if pa not in self._returning:
            self._unused.pop(pa, None)
            self._uses.learned(pa, now)

    def _first(self, key: Key) -> Lease | None:
        """Return our lease of a CA. Of two that were made at once the earlier stands, at the service too."""
        every = (self._own[pa] for pa in self._by_key.get(key, ()) if self._pools.lookup(pa) is not None)
        return min(every, key=lambda lease: (lease.revision, lease.pa), default=None)

    def _find_seconds(self) -> Iterator[ProviderAddress]:
        """Each of our leases for whose CA there is an earlier one."""
        for key, pas in self._by_key.items():
            if len(pas) > 1 and (first := self._first(key)) is not None:
                yield from (pa for pa in pas if pa != first.pa)

    def _is_needed(self, lease: Lease) -> bool:
        """Whether it is of our pools and tenants, the first of its CA, and the CA has no record with one."""
        if lease.vsid not in self._vsids or lease != self._first((lease.vsid, lease.ca)):
            return False
        record = self._find(lease.vsid, lease.ca)
        return record is None or record.translation is not Translation.REWRITE

    def _give_back(self, now: float) -> list[Effect]:
        if self._returning or not self._unused or now < self._return_at:
            return []
        self._returning = tuple(islice(self._unused, RETURNED_AT_ONCE))
        return [Return(self._returning)]
