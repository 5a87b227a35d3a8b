"""What etcd's JSON gateway says, as frozen values.

Octets are base64, 64-bit integers are text, and what is 0 or empty is left out: msgspec reads all of that.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T")


class Header(msgspec.Struct, frozen=True, gc=False):
    """Which cluster has answered, and at which revision it was."""

    cluster_id: int = 0
    revision: int = 0


class KeyValue(msgspec.Struct, frozen=True, gc=False):
    """A key as it is, or as it was at a revision. `version` counts its values."""

    key: bytes
    value: bytes = b""
    mod_revision: int = 0
    version: int = 0


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What every answer begins with."""

    header: Header


class RangeAnswer(Answer, frozen=True, gc=False):
    """Keys in their order."""

    kvs: tuple[KeyValue, ...] = ()
    more: bool = False

    @property
    def only(self) -> KeyValue | None:
        """What was found of a single key."""
        return self.kvs[0] if self.kvs else None


class Response(msgspec.Struct, frozen=True, gc=False):
    """What one operation of a transaction came to; only that of a range says anything."""

    response_range: RangeAnswer | None = None


class TxnAnswer(Answer, frozen=True, gc=False):
    """What a transaction came to."""

    succeeded: bool = False
    responses: tuple[Response, ...] = ()
    is_repeated: bool = False
    """Whether an earlier attempt may have been carried out already."""

    @property
    def ranges(self) -> list[RangeAnswer]:
        return [each.response_range for each in self.responses if each.response_range is not None]


class KeyEvent(msgspec.Struct, frozen=True, gc=False):
    """A change that a watch tells."""

    kv: KeyValue
    type: str = "PUT"


class WatchAnswer(msgspec.Struct, frozen=True, gc=False):
    """Some changes in order; or that the watch stands, has ended, or has nothing to tell up to a revision."""

    header: Header = Header()
    created: bool = False
    canceled: bool = False
    cancel_reason: str = ""
    compact_revision: int = 0
    fragment: bool = False
    events: tuple[KeyEvent, ...] = ()


class Failure(msgspec.Struct, frozen=True, gc=False):
    """What a member says instead of an answer."""

    message: str = ""
    code: int = 0


class WatchLine(msgspec.Struct, frozen=True, gc=False):
    """One line of a watch."""

    result: WatchAnswer | None = None
    error: Failure | None = None


def read(found: bytes, kind: type[T]) -> T:
    """Read an answer. Raises msgspec.DecodeError."""
    return msgspec.json.decode(found, type=kind, strict=False)
