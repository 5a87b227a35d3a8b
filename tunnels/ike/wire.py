"""IKEv2 messages to bytes and back: the header and the chain of payloads (RFC 7296 section 3).

Reserved fields are ignored on receipt and sent as zero (section 2.5), payloads
come in any order, and types, transforms and notifications that we don't know
are kept by their numbers: what to make of them is not decided here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from policies.errors import MalformedPacket
from tunnels.ike import proposal_wire, selector_wire
from tunnels.ike.constants import (
    AuthMethod,
    CertificateEncoding,
    ExchangeType,
    IdType,
    NotifyType,
    PayloadType,
    Protocol,
    named,
)
from tunnels.ike.payloads import (
    Authentication,
    Certificate,
    CertificateRequest,
    Delete,
    Header,
    Identification,
    KeyExchange,
    Message,
    Nonce,
    Notify,
    Payload,
    SecurityAssociation,
    TrafficSelectors,
    Unknown,
    VendorId,
)
from tunnels.ike.rejected import UnsupportedCriticalPayload

HEADER_LENGTH = 28
PAYLOAD_HEADER_LENGTH = 4

MOST_PAYLOADS = 128
MOST_DELETED = 1024
LONGEST_IDENTIFICATION = 2048
"""In octets. Names are looked at and logged before they are proved."""

# SPIs, first payload, versions, exchange, flags, message ID, length of all.
_HEADER = struct.Struct("!8s8sBBBBII")
_FROM_INITIATOR = 0x08
_RESPONSE = 0x20

_PAYLOAD = struct.Struct("!BBH")  # next payload, critical bit, length with this header
_CRITICAL = 0x80

_KEY_EXCHANGE = struct.Struct("!HH")  # group, reserved
_NOTIFY = struct.Struct("!BBH")  # protocol, size of the SPI, type
_DELETE = struct.Struct("!BBH")  # protocol, size of an SPI, count

_SHORTEST_NONCE, _LONGEST_NONCE = 16, 256
_ADDRESS_SIZES: dict[int, int] = {IdType.IPV4_ADDRESS: 4, IdType.IPV6_ADDRESS: 16}
_DELETED_SPI_SIZES: dict[int, int] = {Protocol.IKE: 0, Protocol.AH: 4, Protocol.ESP: 4}

# Their next payload is the first one inside, so they are the last of a message (section 3.14, RFC 7383
# section 2.5).
_SEALED = (PayloadType.ENCRYPTED, PayloadType.ENCRYPTED_FRAGMENT)


def decode_header_untrusted(datagram: bytes) -> Header:
    """Return the header of a message that fills its datagram.

    Of another major version too: whoever asks has to look. Raises MalformedPacket.
    """
    if len(datagram) < HEADER_LENGTH:
        raise MalformedPacket(f"{len(datagram)} octets are too short for an IKE header")
    initiator_spi, responder_spi, first, version, exchange, flags, message_id, length = _HEADER.unpack_from(
        datagram
    )
    if length != len(datagram):
        raise MalformedPacket(f"an IKE message of {length} octets came as {len(datagram)}")
    if not any(initiator_spi):
        raise MalformedPacket("the initiator's SPI is zero")  # section 3.1 forbids it
    return Header(
        initiator_spi,
        responder_spi,
        named(ExchangeType, exchange),
        message_id,
        is_response=bool(flags & _RESPONSE),
        from_initiator=bool(flags & _FROM_INITIATOR),
        next_payload=named(PayloadType, first),
        major_version=version >> 4,
    )


def decode_payloads_untrusted(first: int, body: bytes) -> tuple[Payload, ...]:
    """Return the payloads of a message in the clear, or of what was encrypted.

    `first` is the type of the first one. Payloads that we don't use (CP, EAP, and those that
    encrypt) are `Unknown`. Raises MalformedPacket, and UnsupportedCriticalPayload for a
    payload of an unknown type that is marked critical.
    """
    payloads: list[Payload] = []
    kind, position = first, 0
    while kind != PayloadType.NONE:
        if len(payloads) == MOST_PAYLOADS:
            raise MalformedPacket(f"more than {MOST_PAYLOADS} payloads")
        if len(body) < position + PAYLOAD_HEADER_LENGTH:
            raise MalformedPacket(f"the message ends before its payload of type {kind}")
        following, flags, length = _PAYLOAD.unpack_from(body, position)
        end = position + length
        if length < PAYLOAD_HEADER_LENGTH or end > len(body):
            raise MalformedPacket(f"{length} octets cannot be a payload's length")
        content = body[position + PAYLOAD_HEADER_LENGTH : end]
        if kind in _DECODERS:
            payloads.append(_DECODERS[kind](content))
        elif flags & _CRITICAL and kind not in _KNOWN:
            raise UnsupportedCriticalPayload(kind)
        else:
            payloads.append(Unknown(named(PayloadType, kind), content))
        kind = PayloadType.NONE if kind in _SEALED else following
        position = end
    if position != len(body):
        raise MalformedPacket(f"{len(body) - position} octets behind the last payload")
    return tuple(payloads)


def decode_message_untrusted(datagram: bytes) -> Message:
    """Return a whole message in the clear, with what the two functions above raise."""
    header = decode_header_untrusted(datagram)
    return Message(header, decode_payloads_untrusted(header.next_payload, datagram[HEADER_LENGTH:]))


def encode_header(header: Header, length: int) -> bytes:
    """Return the 28 octets before a message's payloads; `length` is that of the whole message, in octets."""
    flags = _FROM_INITIATOR * header.from_initiator | _RESPONSE * header.is_response
    return _HEADER.pack(
        header.initiator_spi,
        header.responder_spi,
        header.next_payload,
        header.major_version << 4,
        header.exchange,
        flags,
        header.message_id,
        length,
    )


def encode_payloads(payloads: Sequence[Payload]) -> tuple[int, bytes]:
    """Return the type of the first payload, 0 where there is none, and the octets of all.

    None is marked critical: responses must not have that, and requests don't need it (section 2.5).
    """
    following: int = PayloadType.NONE
    parts: list[bytes] = []
    for payload in reversed(payloads):
        kind, content = _type_and_content(payload)
        parts += [content, _PAYLOAD.pack(following, 0, PAYLOAD_HEADER_LENGTH + len(content))]
        following = kind
    return following, b"".join(reversed(parts))


def encode_message(header: Header, payloads: Sequence[Payload]) -> bytes:
    """Return a message in the clear; the header's `next_payload` is found from the payloads."""
    first, body = encode_payloads(payloads)
    header = msgspec.structs.replace(header, next_payload=first)
    return encode_header(header, HEADER_LENGTH + len(body)) + body


def _key_exchange(content: bytes) -> KeyExchange:
    _need(content, _KEY_EXCHANGE.size, "KE")
    group, _reserved = _KEY_EXCHANGE.unpack_from(content)
    return KeyExchange(group, content[_KEY_EXCHANGE.size :])


def _identification(content: bytes, *, of_initiator: bool) -> Identification:
    _need(content, 4, "identification")
    kind, data = named(IdType, content[0]), content[4:]
    if len(data) != _ADDRESS_SIZES.get(kind, len(data)):
        raise MalformedPacket(f"an identification by address has {len(data)} octets")
    if len(data) > LONGEST_IDENTIFICATION:
        raise MalformedPacket(f"an identification has {len(data)} octets")
    return Identification(of_initiator, kind, data, reserved=content[1:4])


def _certificate(content: bytes) -> Certificate:
    _need(content, 1, "certificate")
    return Certificate(named(CertificateEncoding, content[0]), content[1:])


def _certificate_request(content: bytes) -> CertificateRequest:
    _need(content, 1, "certificate request")
    return CertificateRequest(named(CertificateEncoding, content[0]), content[1:])


def _authentication(content: bytes) -> Authentication:
    _need(content, 4, "authentication")
    return Authentication(named(AuthMethod, content[0]), content[4:])


def _nonce(content: bytes) -> Nonce:
    if not _SHORTEST_NONCE <= len(content) <= _LONGEST_NONCE:
        raise MalformedPacket(f"a nonce has {len(content)} octets")  # section 3.9
    return Nonce(content)


def _notify(content: bytes) -> Notify:
    _need(content, _NOTIFY.size, "notification")
    protocol, spi_size, kind = _NOTIFY.unpack_from(content)
    end = _NOTIFY.size + spi_size
    _need(content, end, "notification")
    spi, data = content[_NOTIFY.size : end], content[end:]
    return Notify(named(NotifyType, kind), data, named(Protocol, protocol), spi)


def _delete(content: bytes) -> Delete:
    _need(content, _DELETE.size, "deletion")
    protocol, size, count = _DELETE.unpack_from(content)
    spis = content[_DELETE.size :]
    if size != _DELETED_SPI_SIZES.get(protocol, size) or len(spis) != size * count or count > MOST_DELETED:
        raise MalformedPacket(f"a deletion has {len(spis)} octets for {count} SPIs of {size}")
    return Delete(
        named(Protocol, protocol),
        tuple(spis[place : place + size] for place in range(0, len(spis), size)) if size else (),
    )


def _selectors(content: bytes, *, of_initiator: bool) -> TrafficSelectors:
    return TrafficSelectors(of_initiator, selector_wire.decode_untrusted(content))


def _need(content: bytes, size: int, what: str) -> None:
    if len(content) < size:
        raise MalformedPacket(f"{len(content)} octets are too short for a payload of {what}")


_DECODERS: dict[int, Callable[[bytes], Payload]] = {
    PayloadType.SECURITY_ASSOCIATION: proposal_wire.decode_untrusted,
    PayloadType.KEY_EXCHANGE: _key_exchange,
    PayloadType.IDENTIFICATION_INITIATOR: partial(_identification, of_initiator=True),
    PayloadType.IDENTIFICATION_RESPONDER: partial(_identification, of_initiator=False),
    PayloadType.CERTIFICATE: _certificate,
    PayloadType.CERTIFICATE_REQUEST: _certificate_request,
    PayloadType.AUTHENTICATION: _authentication,
    PayloadType.NONCE: _nonce,
    PayloadType.NOTIFY: _notify,
    PayloadType.DELETE: _delete,
    PayloadType.VENDOR_ID: VendorId,
    PayloadType.TRAFFIC_SELECTOR_INITIATOR: partial(_selectors, of_initiator=True),
    PayloadType.TRAFFIC_SELECTOR_RESPONDER: partial(_selectors, of_initiator=False),
}
_KNOWN = frozenset(PayloadType)


def _type_and_content(payload: Payload) -> tuple[int, bytes]:
    match payload:
        case SecurityAssociation():
            return PayloadType.SECURITY_ASSOCIATION, proposal_wire.encode(payload)
        case KeyExchange(group, data):
            return PayloadType.KEY_EXCHANGE, _KEY_EXCHANGE.pack(group, 0) + data
        case Identification(of_initiator=True):
            return PayloadType.IDENTIFICATION_INITIATOR, payload.body
        case Identification():
            return PayloadType.IDENTIFICATION_RESPONDER, payload.body
        case Certificate(encoding, data):
            return PayloadType.CERTIFICATE, bytes((encoding,)) + data
        case CertificateRequest(encoding, authorities):
            return PayloadType.CERTIFICATE_REQUEST, bytes((encoding,)) + authorities
        case Authentication(method, data):
            return PayloadType.AUTHENTICATION, bytes((method, 0, 0, 0)) + data
        case Nonce(data):
            return PayloadType.NONCE, data
        case Notify(kind, data, protocol, spi):
            return PayloadType.NOTIFY, _NOTIFY.pack(protocol, len(spi), kind) + spi + data
        case Delete(protocol, spis):
            size = len(spis[0]) if spis else _DELETED_SPI_SIZES.get(protocol, 0)
            return PayloadType.DELETE, _DELETE.pack(protocol, size, len(spis)) + b"".join(spis)
        case VendorId(data):
            return PayloadType.VENDOR_ID, data
        case TrafficSelectors(True, selectors):
            return PayloadType.TRAFFIC_SELECTOR_INITIATOR, selector_wire.encode(selectors)
        case TrafficSelectors(_, selectors):
            return PayloadType.TRAFFIC_SELECTOR_RESPONDER, selector_wire.encode(selectors)
        case Unknown(kind, data):
            return kind, data
