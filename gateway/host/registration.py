"""When a host claims its VMs, and when it asks whether one is there: decided without a clock or a network.

A port that opens is registered: that takes what nobody holds. A VM that is heard there is
claimed, which moves its records here. One whose records are elsewhere and who says nothing is asked.

A VM may still run here while its records have been moved to where it goes (RFC 8394 section 2.2).
So what leaves this host is never claimed back, or asked for, before its port has opened anew; only
a VM that announces itself is heard then, and that is for forwarding to say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from enum import Enum

import msgspec

from gateway.forwarding.verdicts import PortKey
from gateway.lookup.claims import Mode, Reason
from policies.addresses import CustomerAddress, Prefix, ProviderAddress, Vsid
from policies.model import LookupRecord, Port, Translation
from policies.tables import PrefixTable

Find = Callable[[Vsid, CustomerAddress], LookupRecord | None]

# Seconds from the opening of a silent VM's port to the first question, and at most between two.
FIRST_PROBE = 1.0
LAST_PROBE = 60.0
# Seconds to the next attempt where the lookup service does not answer: doubled up to the last, with
# up to half as much again by chance.
FIRST_RETRY = 0.2
LAST_RETRY = 10.0
# For so long nothing is claimed again that has just been, if no record has changed since ...
CLAIMED_FOR = 1.0
# ... or that was refused.
REFUSED_FOR = 30.0
# After an outage, hosts do not come all at once: seconds.
SPREAD = 2.0


class Claim(msgspec.Struct, frozen=True):
    """Claim a port's addresses. What comes of it is told with the same number."""

    port: PortKey
    number: int
    mode: Mode
    addresses: tuple[CustomerAddress, ...]


class Cancel(msgspec.Struct, frozen=True):
    """Break a claim off: its port has gone."""

    number: int


class Probe(msgspec.Struct, frozen=True):
    """Ask whether a VM is at a port, by its address."""

    port: PortKey
    ca: CustomerAddress


class Complaint(msgspec.Struct, frozen=True):
    """A claim is refused for a reason that has not been told yet."""

    port: PortKey
    reason: str


Effect = Claim | Cancel | Probe | Complaint


class _Place(Enum):
    """Where a port's records are."""

    HERE = "here"
    ELSEWHERE = "elsewhere"
    NOWHERE = "nowhere"
    """At least one is missing or to be put right, and none is at another host."""


class _State:
    """What is known of an open port."""

    __slots__ = (
        "addresses",
        "attempts",
        "due",
        "has_left",
        "in_flight",
        "is_heard",
        "not_before",
        "probe_at",
        "probes",
        "records",
        "refused",
        "told",
        "want",
        "was_here",
    )

    def __init__(self, addresses: tuple[CustomerAddress, ...]) -> None:
        self.addresses = addresses
        self.records: tuple[LookupRecord | None, ...] = ()
        self.want: Mode | None = None
        self.due = 0.0
        self.not_before = -math.inf
        self.attempts = 0
        self.in_flight: Claim | None = None
        self.is_heard = False
        """Since its records were last seen to move."""
        self.has_left = False
        """Its records were here since it opened, and are not any more."""
        self.was_here = False
        self.refused = False
        self.told: str | None = None
        self.probe_at = math.inf
        self.probes = 0

    def wish(self, mode: Mode | None, due: float = math.inf) -> None:
        self.want, self.due = mode, due

    def ask_from(self, at: float) -> None:
        self.probe_at, self.probes = at, 0

    @property
    def deadline(self) -> float:
        waiting = self.want is not None and self.in_flight is None
        return min(self.due if waiting else math.inf, self.probe_at)


class Registrar:
    """Keeps the lookup service right about one host's open ports. Times are of one monotonic clock.

    `find` reads the records as they are known here; `jitter` returns a chance from 0 to 1.
    """

    def __init__(self, host: str, pa: ProviderAddress, find: Find, jitter: Callable[[], float]) -> None:
        self._host = host
        self._pa = pa
        self._find = find
        self._jitter = jitter
        self._pools: PrefixTable[bool] = PrefixTable(())
        self._ports: dict[PortKey, Port] = {}
        self._is_open: set[PortKey] = set()
        self._states: dict[PortKey, _State] = {}
        self._by_address: dict[tuple[Vsid, CustomerAddress], PortKey] = {}
        self._last_number = 0

    @property
    def deadline(self) -> float:
        """When `handle_timeout` is to be called next, if nothing happens before."""
        return min((state.deadline for state in self._states.values()), default=math.inf)

    def configure(self, ports: Iterable[Port], now: float, pools: Collection[Prefix] = ()) -> list[Effect]:
        """Take over which ports there are, and the host's pools.

        Whatever was refused is tried again: it may be allowed now. What is rewritten, and has an address
        of no pool any more, gets another by being registered.
        """
        self._pools = PrefixTable((pool, True) for pool in pools)
        self._ports = {(port.vsid, port.mac): port for port in ports}
        self._by_address = {
            (port.vsid, ca): key for key, port in self._ports.items() for ca in port.addresses
        }
        effects: list[Effect] = []
        for key in self._states.keys() - self._ports.keys():
            effects += self._forget(key)
        for key, port in self._ports.items():
            state = self._states.get(key)
            if state is None:
                if key in self._is_open:
                    effects += self._begin(key, port, now)
            elif state.addresses != port.addresses:
                effects += self._forget(key)
                effects += self._begin(key, port, now)
            elif state.refused or self._is_out_of_pool(state):
                self._try_again(state, now)
                effects += self._step(key, state, now)
        return effects

    def port_opened(self, key: PortKey, now: float) -> list[Effect]:
        """A port's interface is there."""
        if key in self._is_open:
            return []
        self._is_open.add(key)
        port = self._ports.get(key)
        return self._begin(key, port, now) if port is not None else []

    def port_closed(self, key: PortKey) -> list[Effect]:
        """It has gone. Its records stay: the VM may be on its way to another host, which claims them."""
        self._is_open.discard(key)
        return self._forget(key)

    def heard(self, key: PortKey, now: float) -> list[Effect]:
        """A VM was heard at its port, while its records are not here."""
        state = self._states.get(key)
        if state is None or self._place(key, state) is _Place.HERE:
            return []
        state.is_heard = True
        state.probe_at = math.inf
        if state.want is not Mode.ANNOUNCE:
            state.wish(Mode.ANNOUNCE, max(now, state.not_before))
        return self._step(key, state, now)

    def record_changed(self, vsid: Vsid, ca: CustomerAddress, now: float) -> list[Effect]:
        """The record of an address has changed, perhaps one of ours."""
        key = self._by_address.get((vsid, ca))
        state = self._states.get(key) if key is not None else None
        if key is None or state is None:
            return []
        before, place_before = state.records, self._place(key, state)
        state.records = self._records(key, state)
        place = self._place(key, state)
        state.not_before = now
        if place is _Place.HERE:
            self._settle(state)
        elif place is _Place.ELSEWHERE and _places(state.records) != _places(before):
            self._moved_away(state, now)
        elif place_before is not _Place.HERE and (state.refused or place is not place_before):
            self._try_again(state, now)
        elif state.want is None and state.in_flight is None:
            self._see_to_address(state, now)
        return self._step(key, state, now)

    def answered(self, claim: Claim, now: float) -> list[Effect]:
        """A claim was carried out."""
        state = self._answered(claim)
        if state is None:
            return []
        attempts = state.attempts
        self._settle(state)
        state.not_before = now + CLAIMED_FOR
        state.attempts = attempts
        self._see_to_address(state, now)
        return []

    def refused(self, claim: Claim, reason: str, now: float) -> list[Effect]:
        """A claim changes nothing: for a `claims.Reason`, or because this host may not."""
        state = self._answered(claim)
        if state is None:
            return []
        if state.want is claim.mode:
            state.wish(None)
        if claim.mode is Mode.REGISTER and reason == Reason.ELSEWHERE:
            if state.want is None and not state.was_here and state.probe_at == math.inf:
                state.ask_from(now + FIRST_PROBE)
            return self._step(claim.port, state, now)
        state.refused = True
        state.not_before = now + REFUSED_FOR
        if reason == Reason.NO_ADDRESS and state.want is None:
            # Addresses come back without anything being told of it here.
            state.wish(claim.mode, state.not_before)
        complaints: list[Effect] = []
        if reason != state.told:
            state.told = reason
            complaints.append(Complaint(claim.port, reason))
        return complaints + self._step(claim.port, state, now)

    def failed(self, claim: Claim, now: float) -> list[Effect]:
        """Nobody could be asked, or nobody knows what came of it: a claim may be repeated."""
        state = self._answered(claim)
        if state is None:
            return []
        pause = min(FIRST_RETRY * 2.0**state.attempts, LAST_RETRY)
        state.attempts = min(state.attempts + 1, 16)
        if state.want is claim.mode:
            state.due = now + pause * (1 + self._jitter() / 2)
        return self._step(claim.port, state, now)

    def reconnected(self, now: float) -> list[Effect]:
        """The lookup service is back: it may have lost what it was told last, so all is registered again."""
        effects: list[Effect] = []
        for key, state in self._states.items():
            state.attempts = 0
            if state.want is not None:
                state.due = min(state.due, now + self._jitter() * SPREAD)
            elif self._place(key, state) is not _Place.ELSEWHERE and not state.has_left:
                state.wish(Mode.REGISTER, now + self._jitter() * SPREAD)
            effects += self._step(key, state, now)
        return effects

    def handle_timeout(self, now: float) -> list[Effect]:
        """Do what is due."""
        return [effect for key, state in self._states.items() for effect in self._step(key, state, now)]

    def _begin(self, key: PortKey, port: Port, now: float) -> list[Effect]:
        self._states[key] = state = _State(port.addresses)
        state.records = self._records(key, state)
        place = self._place(key, state)
        state.was_here = place is _Place.HERE
        if place is _Place.ELSEWHERE:
            # To register it would be refused; if that is not so any more, we are going to hear of it.
            state.ask_from(now + FIRST_PROBE)
        else:
            state.wish(Mode.REGISTER, now)
        return self._step(key, state, now)

    def _forget(self, key: PortKey) -> list[Effect]:
        state = self._states.pop(key, None)
        return [Cancel(state.in_flight.number)] if state is not None and state.in_flight is not None else []

    def _settle(self, state: _State) -> None:
        """Its records are here."""
        state.wish(None)
        state.attempts = 0
        state.is_heard = state.has_left = state.refused = False
        state.was_here = True
        state.told = None
        state.probe_at = math.inf

    def _moved_away(self, state: _State, now: float) -> None:
        """Somebody else has them since. That is newer than what was heard here."""
        state.has_left = state.was_here
        state.wish(None)
        state.is_heard = state.refused = False
        state.ask_from(math.inf if state.has_left else now + FIRST_PROBE)

    def _try_again(self, state: _State, now: float) -> None:
        """What stood in the way may do so no longer."""
        state.refused = False
        state.not_before = now
        if state.is_heard or not state.has_left:
            state.wish(Mode.ANNOUNCE if state.is_heard else Mode.REGISTER, now)

    def _see_to_address(self, state: _State, now: float) -> None:
        """Register anew what is here by an address of no pool.

        The lookup node that gave or left it may not have heard of the pools yet, or we of its answer.
        """
        if self._is_out_of_pool(state):
            state.wish(Mode.REGISTER, now + min(CLAIMED_FOR * 2.0**state.attempts, REFUSED_FOR))
            state.attempts = min(state.attempts + 1, 16)
        else:
            state.attempts = 0

    def _answered(self, claim: Claim) -> _State | None:
        """The state of the port that a claim in flight was made for, if it is still that."""
        state = self._states.get(claim.port)
        if state is None or state.in_flight is not claim:
            return None
        state.in_flight = None
        return state

    def _step(self, key: PortKey, state: _State, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if state.want is not None and state.in_flight is None and state.due <= now:
            self._last_number += 1
            state.in_flight = Claim(key, self._last_number, state.want, state.addresses)
            effects.append(state.in_flight)
        if state.probe_at <= now:
            effects += (Probe(key, ca) for ca in state.addresses)
            state.probes += 1
            state.probe_at = now + min(FIRST_PROBE * 2.0 ** min(state.probes, 16), LAST_PROBE)
        return effects

    def _records(self, key: PortKey, state: _State) -> tuple[LookupRecord | None, ...]:
        return tuple(self._find(key[0], ca) for ca in state.addresses)

    def _place(self, key: PortKey, state: _State) -> _Place:
        if any(record is not None and record.host != self._host for record in state.records):
            return _Place.ELSEWHERE
        if all(
            record is not None and record.mac == key[1] and self._is_ours(record) for record in state.records
        ):
            return _Place.HERE
        return _Place.NOWHERE

    def _is_out_of_pool(self, state: _State) -> bool:
        """Whether a record is this host's, but its address is not any more."""
        ours = (record for record in state.records if record is not None and record.host == self._host)
        return any(record.translation is Translation.REWRITE and not self._is_ours(record) for record in ours)

    def _is_ours(self, record: LookupRecord) -> bool:
        """Whether a record of this host has an address by which it is reached here."""
        if record.translation is Translation.REWRITE:
            return self._pools.lookup(record.pa) is not None
        return record.pa == self._pa


def _places(records: Iterable[LookupRecord | None]) -> list[object]:
    return [None if record is None else (record.mac, record.pa, record.host) for record in records]
