"""What writes come to, decided without any store: epochs, pins, claims and freezing.

A store reads the entries concerned, asks here, and writes what is said here if nothing of
what it has read has changed meanwhile; else it asks again.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from gateway.lookup.entries import Key, Placement, RecordKey, Stored, Value
from policies.addresses import CustomerAddress, MacAddress, Prefix, ProviderAddress, Vsid
from policies.model import Translation

MOST_OF_A_MAC = 64
"""Customer addresses that claims give to one MAC. All of them move together, in one write."""

MOST_IN_A_WRITE = 120
"""Keys that a claim concerns where it changes rewritten records: each of these takes an address and gives one
back. etcd takes 128 operations in a write unless configured otherwise."""

MOST_OF_A_HOST = 16_384
"""Records that a host's own claims bring it to."""


class Mode(StrEnum):
    """Why a host claims a MAC."""

    REGISTER = "register"
    """It has a port for it, and says so at its start: takes what nobody holds, and moves nothing."""
    ANNOUNCE = "announce"
    """The VM has been heard there: moves it, which counts towards freezing."""
    ORCHESTRATE = "orchestrate"
    """Whoever moves VMs says so beforehand: moves it, frozen or not, and does not count."""


class FlapLimits(msgspec.Struct, frozen=True):
    """So many announced changes of host in so many seconds freeze a record (RFC 7432 section 15.1)."""

    moves: int = 5
    seconds: float = 180.0


class Claim(msgspec.Struct, frozen=True):
    """A host says that a MAC is at one of its provider addresses.

    Rewritten records have addresses of the host's pools instead.
    """

    vsid: Vsid
    mac: MacAddress
    pa: ProviderAddress
    host: str
    mode: Mode
    now: float
    """Unix time, of the lookup node that takes the claim."""
    addresses: tuple[CustomerAddress, ...] = ()
    """What the VM has besides what is recorded of its MAC."""
    limits: FlapLimits = FlapLimits()
    translation: Translation = Translation.ENCAP
    """Of the records that it makes. What there is stays as it is."""
    pools: tuple[Prefix, ...] = ()
    """The host's."""
    candidates: tuple[ProviderAddress, ...] = ()
    """Addresses of the pools that seem to be nobody's, for rewritten records that need another one."""

    def keeps(self, pa: ProviderAddress) -> bool:
        """Whether a rewritten record stays at a provider address: one of the host's pools has it."""
        ip = pa.ip
        return any(ip in pool for pool in self.pools)


class Write(msgspec.Struct, frozen=True):
    """One key's next value (None: a tombstone) and epoch."""

    key: Key
    value: Value | None
    epoch: int


class Reason(StrEnum):
    """Why a claim is refused."""

    PINNED = "pinned"
    """A static record says otherwise."""
    OTHER_MAC = "other-mac"
    """Another MAC has one of the addresses."""
    ELSEWHERE = "elsewhere"
    """It is registered at another host, and nothing has been heard of it here."""
    FROZEN = "frozen"
    """It has moved too often."""
    TOO_MANY = "too-many"
    """The MAC, or the host, would have more addresses than claims give to one."""
    UNKNOWN = "unknown"
    """Nothing is recorded of the MAC, and no address is named."""
    NO_ADDRESS = "no-address"
    """The host's pools have no address left for it."""


class Refused(Exception):
    """A claim changes nothing. `current` is the record in its way, if any."""

    def __init__(self, reason: Reason, current: Stored | None = None) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.current = current


def next_write(current: Stored | None, key: Key, value: Value | None) -> Write | None:
    """Return how a key takes its next value, or None where that changes nothing.

    The epoch goes on through tombstones, and rises only with what readers see.
    """
    before = current.value if current is not None else None
    if before == value:
        return None
    epoch = current.epoch if current is not None else 0
    return Write(key, value, epoch if _looks_same(before, value) else epoch + 1)


def decide(claim: Claim, entries: Iterable[Stored]) -> tuple[Write, ...]:
    """Return what a claim changes: nothing, where everything is as it says already.

    `entries` are the records of its MAC, and whatever is stored of its addresses, tombstones too.
    Raises Refused.
    """
    found = {entry.key: entry for entry in entries}
    recorded = [
        key for key, entry in found.items() if _has_mac(entry, claim.mac) and isinstance(key, RecordKey)
    ]
    named = [RecordKey(claim.vsid, ca) for ca in claim.addresses]
    keys = tuple(dict.fromkeys((*recorded, *named)))
    if not keys:
        raise Refused(Reason.UNKNOWN)
    if len(keys) > max(MOST_OF_A_MAC, len(recorded)):
        raise Refused(Reason.TOO_MANY)
    for key in keys:
        _check(claim, found.get(key))
    left = _candidates(claim, found.values()) if claim.candidates else []
    writes = (next_write(found.get(key), key, _placed(claim, left, key, found.get(key))) for key in keys)
    made = tuple(write for write in writes if write is not None)
    rewritten = [write for write in made if _is_rewritten(write.value)]
    if rewritten and len(keys) + 2 * len(rewritten) > MOST_IN_A_WRITE:
        raise Refused(Reason.TOO_MANY)
    return made


def unfrozen(placement: Placement) -> Placement:
    """The same record, free to move again."""
    return msgspec.structs.replace(placement, frozen=False, moves=())


def _check(claim: Claim, entry: Stored | None) -> None:
    """Raise Refused where a record is in a claim's way."""
    value = entry.value if entry is not None else None
    if not isinstance(value, Placement):
        return
    if value.mac != claim.mac:
        raise Refused(Reason.PINNED if value.pinned else Reason.OTHER_MAC, entry)
    if value.host == claim.host:
        return
    if value.pinned:
        raise Refused(Reason.PINNED, entry)
    if claim.mode is Mode.REGISTER:
        raise Refused(Reason.ELSEWHERE, entry)
    if value.frozen and claim.mode is Mode.ANNOUNCE:
        raise Refused(Reason.FROZEN, entry)


def _placed(claim: Claim, left: list[ProviderAddress], key: RecordKey, entry: Stored | None) -> Placement:
    before = entry.value if entry is not None else None
    if not isinstance(before, Placement):
        is_rewritten = claim.translation is Translation.REWRITE
        pa = _address(claim, left, key, entry) if is_rewritten else claim.pa
        return Placement(claim.mac, pa, claim.host, claim.translation)
    if before.pinned:
        return before
    pa = _address(claim, left, key, entry) if _is_rewritten(before) else claim.pa
    moves = before.moves
    if claim.mode is Mode.ANNOUNCE and before.host != claim.host:
        # The clock may have been set back: what lies ahead of it is as recent as what lies behind.
        recent = (at for at in moves if abs(claim.now - at) <= claim.limits.seconds)
        moves = (*recent, claim.now)
    return msgspec.structs.replace(
        before,
        pa=pa,
        host=claim.host,
        moves=moves,
        frozen=before.frozen or len(moves) >= claim.limits.moves,
    )


def _candidates(claim: Claim, entries: Iterable[Stored]) -> list[ProviderAddress]:
    """The candidates that none of a MAC's own records has."""
    present = {entry.value.pa for entry in entries if isinstance(entry.value, Placement)}
    return [pa for pa in dict.fromkeys(claim.candidates) if pa not in present]


def _address(
    claim: Claim, left: list[ProviderAddress], key: RecordKey, entry: Stored | None
) -> ProviderAddress:
    """The provider address of a rewritten record: its own if the host may have it, else one of those left.

    Raises Refused.
    """
    before = entry.value if entry is not None else None
    if isinstance(before, Placement) and claim.keeps(before.pa):
        return before.pa
    for number, pa in enumerate(left):
        if pa.version == key.ca.version:
            return left.pop(number)
    raise Refused(Reason.NO_ADDRESS, entry)


def _is_rewritten(value: Value | None) -> bool:
    return isinstance(value, Placement) and value.translation is Translation.REWRITE


def _has_mac(entry: Stored, mac: MacAddress) -> bool:
    return isinstance(entry.value, Placement) and entry.value.mac == mac


def _looks_same(before: Value | None, after: Value | None) -> bool:
    """Whether a reader sees no difference: a record's history is not for readers."""
    if not isinstance(before, Placement) or not isinstance(after, Placement):
        return False
    return msgspec.structs.replace(before, frozen=after.frozen, moves=after.moves) == after
