"""What the lookup service's HTTP interface says, as values and exceptions, for its clients.

A refusal is the same exception as the authority's own: whoever asks need not know whether the
service is in the same process or not.
"""

from __future__ import annotations

from typing import NoReturn, TypeVar

import msgspec

from gateway.lookup.claims import Reason, Refused
from gateway.lookup.entries import Key, Stored
from gateway.lookup.forms import Malformed
from gateway.lookup.outcomes import Forbidden, Unacceptable
from gateway.lookup.records_wire import customer_address, provider_address
from gateway.lookup.store import Conflict, StoreUnavailable
from policies.addresses import CustomerAddress, MacAddress, Vsid
from policies.model import LookupRecord, Translation

T = TypeVar("T")


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


class ProblemForm(msgspec.Struct, frozen=True):
    """An RFC 9457 problem, with the record that is in the way."""

    title: str = ""
    detail: str = ""
    reason: str | None = None
    current: RecordForm | None = None

    def __str__(self) -> str:
        return self.detail or self.title or "no reason is given"


def decoded(kind: type[T], octets: bytes) -> T:
    """Return what a body or a line says. Raises Malformed."""
    try:
        return msgspec.json.decode(octets, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from None


def raise_refusal(status: int, octets: bytes, key: Key | None = None) -> NoReturn:
    """Raise what it means: Forbidden, Refused, Conflict (of a key), StoreUnavailable or Unacceptable."""
    try:
        problem = decoded(ProblemForm, octets)
        current = Stored.of(problem.current.record()) if problem.current is not None else None
    except Malformed:
        problem, current = ProblemForm(), None
    if status in (401, 403):
        raise Forbidden(str(problem))
    if status == 409 and problem.reason in _REASONS:
        raise Refused(_REASONS[problem.reason], current)
    if status == 412 and key is not None:
        raise Conflict(key, current)
    if status >= 500:
        raise StoreUnavailable(str(problem))
    raise Unacceptable(f"{problem} (status {status})")


_REASONS: dict[str | None, Reason] = {reason.value: reason for reason in Reason}
