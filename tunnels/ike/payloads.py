"""The payloads of IKEv2, as values (RFC 7296 section 3). `wire` turns them into bytes and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from policies.selectors import TrafficSelector
from tunnels.ike.constants import (
    MAJOR_VERSION,
    AuthMethod,
    CertificateEncoding,
    ExchangeType,
    IdType,
    NotifyType,
    PayloadType,
    Protocol,
    TransformType,
)
from tunnels.ike.rejected import Refused

# Types of notifications below it are errors, known here or not (section 3.10.1).
_FIRST_STATUS = 16384


class Transform(msgspec.Struct, frozen=True):
    """One algorithm that is offered or chosen (section 3.3.2). `key_length` is in bits, where it has one."""

    type: TransformType | int
    id: int
    key_length: int | None = None
    unknown_attributes: bytes = b""
    """As received. A transform that has any must not be chosen; others of its type may be (section 3.3.6)."""


class Proposal(msgspec.Struct, frozen=True):
    """Alternatives of which the other side picks one of each type (section 3.3.1)."""

    number: int
    protocol: Protocol | int
    spi: bytes
    transforms: tuple[Transform, ...]


class SecurityAssociation(msgspec.Struct, frozen=True):
    """What is offered, or the one proposal that was chosen (section 3.3)."""

    proposals: tuple[Proposal, ...]


class KeyExchange(msgspec.Struct, frozen=True):
    """A public Diffie-Hellman value (section 3.4)."""

    group: int
    """IANA's number of the Diffie-Hellman group."""
    data: bytes


class Identification(msgspec.Struct, frozen=True):
    """IDi or IDr; `body` is what AUTH signs of it (section 2.15)."""

    of_initiator: bool
    type: IdType | int
    data: bytes
    reserved: bytes = bytes(3)
    """As received: they mean nothing, but the peer has signed them."""

    @property
    def body(self) -> bytes:
        return bytes((self.type,)) + self.reserved + self.data


class Certificate(msgspec.Struct, frozen=True):
    """A certificate or a CRL (section 3.6)."""

    encoding: CertificateEncoding | int
    data: bytes


class CertificateRequest(msgspec.Struct, frozen=True):
    """Which authorities the sender trusts (section 3.7)."""

    encoding: CertificateEncoding | int
    authorities: bytes
    """SHA-1 hashes of authorities' public keys, 20 octets each (section 3.7)."""


class Authentication(msgspec.Struct, frozen=True):
    """The proof of identity (section 3.8)."""

    method: AuthMethod | int
    data: bytes


class Nonce(msgspec.Struct, frozen=True):
    """16 to 256 fresh octets (section 3.9)."""

    data: bytes


class Notify(msgspec.Struct, frozen=True):
    """An error or a status (section 3.10)."""

    type: NotifyType | int
    data: bytes = b""
    protocol: Protocol | int = Protocol.NONE
    spi: bytes = b""

    @property
    def is_error(self) -> bool:
        return self.type < _FIRST_STATUS


class Delete(msgspec.Struct, frozen=True):
    """Of the IKE SA itself (no SPIs), or of child SAs by the SPIs that the sender receives at."""

    protocol: Protocol | int
    spis: tuple[bytes, ...] = ()


class VendorId(msgspec.Struct, frozen=True):
    """Whose implementation it is; means nothing to us (section 3.12)."""

    data: bytes


class TrafficSelectors(msgspec.Struct, frozen=True):
    """TSi or TSr. Selectors of unknown types are left out when read."""

    of_initiator: bool
    selectors: tuple[TrafficSelector, ...]


class Unknown(msgspec.Struct, frozen=True):
    """A payload that we know nothing about and that is not critical, or one that we don't use."""

    type: PayloadType | int
    data: bytes


Payload = (
    SecurityAssociation
    | KeyExchange
    | Identification
    | Certificate
    | CertificateRequest
    | Authentication
    | Nonce
    | Notify
    | Delete
    | VendorId
    | TrafficSelectors
    | Unknown
)


class Header(msgspec.Struct, frozen=True):
    """The header of a message (section 3.1), without its length. SPIs are 8 octets, zeros where unknown."""

    initiator_spi: bytes
    responder_spi: bytes
    exchange: ExchangeType | int
    message_id: int
    is_response: bool
    from_initiator: bool
    """Whether the original initiator of the IKE SA sends it."""
    next_payload: PayloadType | int = PayloadType.NONE
    major_version: int = MAJOR_VERSION


class Message(msgspec.Struct, frozen=True):
    """A whole message in the clear."""

    header: Header
    payloads: tuple[Payload, ...]


_Kind = TypeVar("_Kind", bound=Payload)


def first_of(kind: type[_Kind], payloads: Iterable[Payload]) -> _Kind | None:
    """Return the first payload of a kind."""
    return next((each for each in payloads if isinstance(each, kind)), None)


def need(kind: type[_Kind], payloads: Iterable[Payload]) -> _Kind:
    """Return the first payload of a kind. Raises Refused where the message breaks the protocol without it."""
    found = first_of(kind, payloads)
    if found is None:
        raise Refused(NotifyType.INVALID_SYNTAX, f"the peer's message lacks its {kind.__name__}")
    return found


def notified(type: NotifyType, payloads: Iterable[Payload]) -> Notify | None:
    """Return the first notification of a type."""
    return next((each for each in payloads if isinstance(each, Notify) and each.type == type), None)


def error_in(payloads: Iterable[Payload]) -> Notify | None:
    """Return the peer's refusal, if the answer is one (section 3.10.1)."""
    return next((each for each in payloads if isinstance(each, Notify) and each.is_error), None)
