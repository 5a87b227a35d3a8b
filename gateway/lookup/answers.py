"""What the lookup service's HTTP interface says, as values and exceptions, for its clients.

A refusal is the same exception as the authority's own: whoever asks need not know whether the
service is in the same process or not.
"""

from __future__ import annotations

from typing import NoReturn, TypeVar

import msgspec

from gateway.lookup.claims import Reason, Refused
from gateway.lookup.entries import Key, LeaseKey, Stored
from gateway.lookup.forms import Malformed
from gateway.lookup.outcomes import Forbidden, NoLease, Unacceptable, WhyNoLease
from gateway.lookup.records_wire import customer_address, provider_address
from gateway.lookup.store import Conflict, StoreUnavailable, Taken
from policies.addresses import CustomerAddress, MacAddress, Vsid
from policies.model import Lease, LookupRecord, Translation

T = TypeVar("T")

ADDRESS_TAKEN = "address-taken"
"""Why a record is not written whose provider address is another's."""


class Hint(msgspec.Struct, frozen=True, gc=False):
    """A host lacks a record, or no longer wants it."""

    host: str
    vsid: Vsid
    ca: CustomerAddress
    forget: bool = False


class RecordPage(msgspec.Struct, frozen=True):
    """Some records in the order of keys. `rest` asks for those that follow; None: there are none."""

    records: tuple[LookupRecord, ...]
    rest: str | None
    revision: int


class Resolved(msgspec.Struct, frozen=True):
    """The records asked for, in that order, as a node had them at a revision of the store."""

    records: tuple[LookupRecord | None, ...]
    revision: int
    stale_seconds: float


class RecordForm(msgspec.Struct, frozen=True, gc=False):
    """A record as the interface has it."""

    vsid: int
    ca: str
    mac: str
    pa: str
    host: str
    translation: Translation = Translation.ENCAP
    epoch: int = 0
    revision: int = 0

    def record(self) -> LookupRecord:
        """The record itself. Raises Malformed."""
        try:
            return LookupRecord(
                vsid=Vsid(self.vsid),
                ca=customer_address(self.ca),
                mac=MacAddress.parse(self.mac),
                pa=provider_address(self.pa),
                host=self.host,
                translation=self.translation,
                epoch=self.epoch,
                revision=self.revision,
            )
        except ValueError as error:
            raise Malformed(f"a record: {error}") from None


class RecordPageForm(msgspec.Struct, frozen=True, rename={"rest": "continue"}):
    """A page of records as the interface has it."""

    records: tuple[RecordForm, ...]
    rest: str | None = None
    revision: int = 0


class ResolvedForm(msgspec.Struct, frozen=True):
    """The answer to several look-ups as the interface has it."""

    records: tuple[RecordForm | None, ...]
    revision: int = 0
    stale_seconds: float | None = None


class ClaimForm(msgspec.Struct, frozen=True):
    """The answer to a claim as the interface has it."""

    records: tuple[RecordForm, ...]
    learned: dict[str, bool] = {}


class LeaseForm(msgspec.Struct, frozen=True, gc=False):
    """A lease as the interface has it."""

    pa: str
    vsid: int
    ca: str
    node: str
    revision: int = 0

    def lease(self) -> Lease:
        """The lease itself. Raises Malformed."""
        try:
            pa, ca = provider_address(self.pa), customer_address(self.ca)
        except ValueError as error:
            raise Malformed(f"a lease: {error}") from None
        return Lease(pa, Vsid(self.vsid), ca, self.node, self.revision)


class LeaseAnswerForm(msgspec.Struct, frozen=True):
    """What stands for a customer address as the interface has it: one of them."""

    lease: LeaseForm | None = None
    record: RecordForm | None = None


class LeasePageForm(msgspec.Struct, frozen=True, rename={"rest": "continue"}):
    """A page of leases as the interface has it."""

    leases: tuple[LeaseForm, ...]
    rest: str | None = None


class ProblemForm(msgspec.Struct, frozen=True):
    """An RFC 9457 problem, with the record that is in the way, and the provider address that it has."""

    title: str = ""
    detail: str = ""
    reason: str | None = None
    current: RecordForm | None = None
    pa: str | None = None

    def __str__(self) -> str:
        return self.detail or self.title or "no reason is given"


def decoded(kind: type[T], octets: bytes) -> T:
    """Return what a body or a line says. Raises Malformed."""
    try:
        return msgspec.json.decode(octets, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from None


def raise_refusal(status: int, octets: bytes, key: Key | None = None) -> NoReturn:
    """Raise what it means: Forbidden, Refused, Taken, Conflict (of a key), StoreUnavailable, Unacceptable."""
    try:
        problem = decoded(ProblemForm, octets)
        current = Stored.of(problem.current.record()) if problem.current is not None else None
        pa = provider_address(problem.pa) if problem.pa is not None else None
    except ValueError:
        problem, current, pa = ProblemForm(), None, None
    if status in (401, 403):
        raise Forbidden(str(problem))
    if status == 409 and problem.reason in _REASONS:
        raise Refused(_REASONS[problem.reason], current)
    if status == 409 and problem.reason == ADDRESS_TAKEN and pa is not None:
        raise Taken(LeaseKey(pa), current)
    if status == 412 and key is not None:
        raise Conflict(key, current)
    if status >= 500:
        raise StoreUnavailable(str(problem))
    raise Unacceptable(f"{problem} (status {status})")


def raise_no_lease(status: int, octets: bytes) -> NoReturn:
    """Raise what it means that a lease is refused: NoLease, or what any refusal means."""
    try:
        reason = decoded(ProblemForm, octets).reason if status == 409 else None
    except Malformed:
        reason = None
    if reason in _WHY_NOT:
        raise NoLease(_WHY_NOT[reason])
    raise_refusal(status, octets)


_REASONS: dict[str | None, Reason] = {reason.value: reason for reason in Reason}
_WHY_NOT: dict[str | None, WhyNoLease] = {reason.value: reason for reason in WhyNoLease}
