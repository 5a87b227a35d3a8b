from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import MalformedPacket
from tests.tunnels.ike import messages as m
from tunnels.ike import wire
from tunnels.ike.constants import IdType, NotifyType, PayloadType, Protocol
from tunnels.ike.payloads import (
    Delete,
    Header,
    Identification,
    Notify,
    Payload,
    SecurityAssociation,
    TrafficSelectors,
    Unknown,
    VendorId,
)
from tunnels.ike.rejected import UnsupportedCriticalPayload

MESSAGES = [m.with_header(chain) for chain in m.CHAINS_OF_PEERS]


def decode_one(kind: int, content: bytes) -> Payload:
    (only,) = wire.decode_payloads_untrusted(kind, m.payload(kind, content))
    return only


@given(m.CHAINS)
def test_payloads_are_decoded_as_they_were_encoded(payloads: tuple[Payload, ...]) -> None:
    assert wire.decode_payloads_untrusted(*wire.encode_payloads(payloads)) == payloads


@given(m.HEADERS, m.CHAINS)
def test_message_is_decoded_as_it_was_encoded(header: Header, payloads: tuple[Payload, ...]) -> None:
    message = wire.decode_message_untrusted(wire.encode_message(header, payloads))

    first = message.header.next_payload
    assert message.header == msgspec.structs.replace(header, next_payload=first)
    assert message.payloads == payloads
    assert (first == PayloadType.NONE) == (not payloads)


@pytest.mark.parametrize("payloads", m.CHAINS_OF_PEERS)
def test_whole_message_is_read(payloads: tuple[Payload, ...]) -> None:
    assert wire.decode_message_untrusted(m.with_header(payloads)).payloads == payloads


@given(st.sampled_from(MESSAGES), st.data())
def test_truncated_message_is_malformed(message: bytes, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(message) - 1))

    with pytest.raises(MalformedPacket):
        wire.decode_message_untrusted(message[:length])


@pytest.mark.parametrize("payloads", m.CHAINS_OF_PEERS)
def test_truncated_chain_is_malformed_wherever_it_ends(payloads: tuple[Payload, ...]) -> None:
    first, body = wire.encode_payloads(payloads)

    for length in range(len(body)):
        with pytest.raises(MalformedPacket):
            wire.decode_payloads_untrusted(first, body[:length])


@pytest.mark.parametrize("message", MESSAGES)
def test_message_with_a_tail_is_malformed(message: bytes) -> None:
    with pytest.raises(MalformedPacket):
        wire.decode_message_untrusted(message + b"\0")


def test_chain_with_a_tail_is_malformed() -> None:
    first, body = wire.encode_payloads(m.DELETION)

    with pytest.raises(MalformedPacket):
        wire.decode_payloads_untrusted(first, body + bytes(4))


def test_message_without_payloads_is_its_header() -> None:
    message = wire.encode_message(m.HEADER, ())

    assert len(message) == wire.HEADER_LENGTH
    assert wire.decode_message_untrusted(message).payloads == ()


def test_header_tells_who_sends_and_what_it_answers() -> None:
    header = wire.decode_header_untrusted(
        bytes.fromhex("00" * 7 + "01" + "00" * 7 + "02" + "29202520 00000007 0000001c")
    )

    assert header == Header(
        bytes(7) + b"\1",
        bytes(7) + b"\2",
        37,
        7,
        is_response=True,
        from_initiator=False,
        next_payload=PayloadType.NOTIFY,
    )


@pytest.mark.parametrize("length", [0, 27, 29, 0xFFFFFFFF])
def test_header_whose_length_is_not_the_datagram_s_is_malformed(length: int) -> None:
    with pytest.raises(MalformedPacket):
        wire.decode_header_untrusted(wire.encode_header(m.HEADER, length))


@pytest.mark.parametrize("major", [0, 1, 3, 15])
def test_header_of_another_major_version_is_read(major: int) -> None:
    header = msgspec.structs.replace(m.HEADER, major_version=major)

    assert wire.decode_header_untrusted(wire.encode_header(header, 28)).major_version == major


@pytest.mark.parametrize("length", [0, 1, 3, 5, 0xFFFF])
def test_payload_whose_length_cannot_be_is_malformed(length: int) -> None:
    with pytest.raises(MalformedPacket):
        wire.decode_payloads_untrusted(PayloadType.VENDOR_ID, b"\0\0" + length.to_bytes(2))


def test_payload_that_ends_inside_its_own_header_is_malformed() -> None:
    """Its last octet would be the first of another payload, of type 43."""
    body = bytes.fromhex("2b000003 000004 00000004")
    assert body[3:7] == bytes((3, 0, 0, 4))

    with pytest.raises(MalformedPacket):
        wire.decode_payloads_untrusted(PayloadType.VENDOR_ID, body)


def test_as_many_payloads_as_are_allowed_are_read_and_no_more() -> None:
    payloads = [VendorId(b"")] * wire.MOST_PAYLOADS

    assert len(wire.decode_payloads_untrusted(*wire.encode_payloads(payloads))) == wire.MOST_PAYLOADS
    with pytest.raises(MalformedPacket):
        wire.decode_payloads_untrusted(*wire.encode_payloads([*payloads, VendorId(b"")]))


@pytest.mark.parametrize("kind", [1, 32, 49, 54, 255])
def test_unknown_payload_is_kept_unless_it_is_critical(kind: int) -> None:
    assert wire.decode_payloads_untrusted(kind, m.payload(kind, b"what?")) == (Unknown(kind, b"what?"),)
    with pytest.raises(UnsupportedCriticalPayload) as caught:
        wire.decode_payloads_untrusted(kind, m.payload(kind, b"what?", flags=0x80))
    assert caught.value.notify == NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD
    assert caught.value.data == bytes((kind,))
    assert str(kind) in str(caught.value)


@pytest.mark.parametrize("kind", [PayloadType.CONFIGURATION, PayloadType.EXTENSIBLE_AUTHENTICATION])
def test_payload_that_we_do_not_use_may_be_marked_critical(kind: PayloadType) -> None:
    assert wire.decode_payloads_untrusted(kind, m.payload(kind, b"", flags=0x80)) == (Unknown(kind, b""),)


@pytest.mark.parametrize("kind", [PayloadType.ENCRYPTED, PayloadType.ENCRYPTED_FRAGMENT])
def test_encrypted_payload_is_the_last_and_its_next_payload_is_what_it_hides(kind: PayloadType) -> None:
    sealed = m.payload(kind, b"hidden", following=PayloadType.SECURITY_ASSOCIATION)

    assert wire.decode_payloads_untrusted(kind, sealed) == (Unknown(kind, b"hidden"),)
    with pytest.raises(MalformedPacket):
        wire.decode_payloads_untrusted(kind, sealed + m.payload(PayloadType.VENDOR_ID, b""))


@pytest.mark.parametrize("size", [0, 15, 257])
def test_nonce_of_a_length_that_is_not_allowed_is_malformed(size: int) -> None:
    with pytest.raises(MalformedPacket):
        decode_one(PayloadType.NONCE, bytes(size))


@pytest.mark.parametrize(("kind", "size"), [(IdType.IPV4_ADDRESS, 4), (IdType.IPV6_ADDRESS, 16)])
def test_identification_by_address_has_the_size_of_one(kind: IdType, size: int) -> None:
    assert decode_one(35, bytes((kind, 0, 0, 0)) + bytes(size)) == Identification(True, kind, bytes(size))
    for wrong in (0, size - 1, size + 1):
        with pytest.raises(MalformedPacket):
            decode_one(35, bytes((kind, 0, 0, 0)) + bytes(wrong))


def test_identification_of_thousands_of_octets_is_malformed() -> None:
    longest = Identification(True, IdType.KEY_ID, bytes(wire.LONGEST_IDENTIFICATION))

    assert decode_one(35, longest.body) == longest
    with pytest.raises(MalformedPacket):
        decode_one(35, longest.body + b"x")


def test_reserved_octets_of_an_identification_stay_in_what_is_signed() -> None:
    identification = decode_one(PayloadType.IDENTIFICATION_RESPONDER, b"\2\1\2\3name")

    assert isinstance(identification, Identification)
    assert (identification.data, identification.body) == (b"name", b"\2\1\2\3name")


def test_notification_shorter_than_its_spi_is_malformed() -> None:
    assert decode_one(41, bytes.fromhex("03 04 4009 c0010203")) == Notify(
        NotifyType.REKEY_SA, b"", Protocol.ESP, bytes.fromhex("c0010203")
    )
    with pytest.raises(MalformedPacket):
        decode_one(41, bytes.fromhex("03 04 4009 c00102"))


@pytest.mark.parametrize(
    "content",
    [
        "03 04 0002 c0010203",  # one SPI short
        "03 04 0001 c0010203 c0010204",  # one too many
        "03 08 0001 c0010203c0010204",  # ESP's SPIs have 4 octets
        "03 00 0001",
        "01 08 0001 0102030405060708",  # the IKE SA is this one, and has no SPI here
        "03 04",
    ],
)
def test_deletion_whose_spis_do_not_add_up_is_malformed(content: str) -> None:
    with pytest.raises(MalformedPacket):
        decode_one(PayloadType.DELETE, bytes.fromhex(content))


def test_deletion_of_more_than_can_be_is_malformed() -> None:
    most = Delete(Protocol.ESP, (b"1234",) * wire.MOST_DELETED)

    assert wire.decode_payloads_untrusted(*wire.encode_payloads([most])) == (most,)
    with pytest.raises(MalformedPacket):
        wire.decode_payloads_untrusted(
            *wire.encode_payloads([Delete(Protocol.ESP, (b"1234",) * (wire.MOST_DELETED + 1))])
        )


@pytest.mark.parametrize(
    ("kind", "shortest"),
    [
        (PayloadType.SECURITY_ASSOCIATION, 8),
        (PayloadType.KEY_EXCHANGE, 4),
        (PayloadType.IDENTIFICATION_INITIATOR, 4),
        (PayloadType.CERTIFICATE, 1),
        (PayloadType.CERTIFICATE_REQUEST, 1),
        (PayloadType.AUTHENTICATION, 4),
        (PayloadType.NOTIFY, 4),
        (PayloadType.DELETE, 4),
        (PayloadType.TRAFFIC_SELECTOR_INITIATOR, 4),
    ],
)
def test_payload_too_short_for_its_fields_is_malformed(kind: PayloadType, shortest: int) -> None:
    for size in range(shortest):
        with pytest.raises(MalformedPacket):
            decode_one(kind, bytes(size))


@pytest.mark.parametrize(("of_initiator", "kinds"), [(True, (35, 44)), (False, (36, 45))])
def test_identifications_and_selectors_of_both_sides_are_told_apart(
    of_initiator: bool, kinds: tuple[int, int]
) -> None:
    payloads: tuple[Payload, ...] = (
        Identification(of_initiator, IdType.FQDN, b"name"),
        TrafficSelectors(of_initiator, (m.V4_SELECTOR,)),
    )
    first, body = wire.encode_payloads(payloads)

    assert (first, body[0]) == kinds
    assert wire.decode_payloads_untrusted(first, body) == payloads


def test_unknown_numbers_are_kept_and_known_ones_get_their_names() -> None:
    known, unknown = wire.decode_payloads_untrusted(
        *wire.encode_payloads([Notify(NotifyType.COOKIE), Notify(40960, b"private")])
    )

    assert isinstance(known, Notify)
    assert isinstance(known.type, NotifyType)
    assert unknown == Notify(40960, b"private")


def test_offer_of_a_real_peer_is_read_in_order() -> None:
    offer = wire.decode_message_untrusted(MESSAGES[0]).payloads[1]

    assert isinstance(offer, SecurityAssociation)
    assert [proposal.number for proposal in offer.proposals] == [1, 2]
    assert offer.proposals[0].transforms[0] == m.AES_GCM_256
