"""RFC 7296, IKEv2: what is read and written, section 3 and what section 2 says of it."""

from __future__ import annotations

import contextlib
import itertools

import msgspec
import pytest

from policies.errors import MalformedPacket
from policies.ipsec import Encryption, Group, IkeProposal, Prf
from policies.secret import Secret
from tests.tunnels.ike import messages as m
from tunnels.ike import proposal_wire, transforms, wire
from tunnels.ike.constants import NotifyType, PayloadType, Protocol, TransformType
from tunnels.ike.cookies import PERIOD, CookieJar
from tunnels.ike.payloads import (
    Notify,
    Payload,
    Proposal,
    SecurityAssociation,
    Transform,
    Unknown,
    VendorId,
)
from tunnels.ike.rejected import Refused, UnsupportedCriticalPayload

OURS = (IkeProposal((Encryption.AES_256_GCM,), (), (Prf.SHA2_256,), (Group.X25519,)),)
ACCEPTABLE = (m.AES_GCM_256, m.PRF_SHA2_256, m.X25519)


def received(*proposals: tuple[Transform, ...]) -> SecurityAssociation:
    """An offer as it is after it has been read."""
    numbered = (Proposal(number, Protocol.IKE, b"", each) for number, each in enumerate(proposals, 1))
    return proposal_wire.decode_untrusted(proposal_wire.encode(SecurityAssociation(tuple(numbered))))


@pytest.mark.parametrize("minor", range(1, 16))
def test_section_2_5_minor_version_is_ignored(minor: int) -> None:
    message = bytearray(m.with_header(m.SA_INIT))
    message[17] |= minor

    assert wire.decode_message_untrusted(bytes(message)).payloads == m.SA_INIT


def test_section_2_5_reserved_flags_of_a_payload_are_ignored() -> None:
    for flags in range(0x80):
        assert wire.decode_payloads_untrusted(43, m.payload(43, b"us", flags=flags)) == (VendorId(b"us"),)


def test_section_2_5_message_with_an_unknown_critical_payload_is_rejected_and_told_which() -> None:
    first, body = wire.encode_payloads([*m.DELETION, Unknown(200, b"")])
    critical = bytearray(body)
    critical[-3] |= 0x80

    with pytest.raises(UnsupportedCriticalPayload) as caught:
        wire.decode_payloads_untrusted(first, bytes(critical))
    assert (caught.value.notify, caught.value.data) == (NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, b"\xc8")


def test_section_2_5_unknown_payload_that_is_not_critical_is_skipped() -> None:
    first, body = wire.encode_payloads([Unknown(200, b"?"), *m.DELETION, Unknown(201, b"?")])

    assert wire.decode_payloads_untrusted(first, body)[1:-1] == m.DELETION


@pytest.mark.parametrize("kind", sorted(set(PayloadType) - {PayloadType.NONE}))
def test_section_2_5_critical_flag_of_a_payload_that_is_recognized_is_ignored(kind: PayloadType) -> None:
    """Even where what is in it breaks the format: that is what is wrong then."""
    with contextlib.suppress(MalformedPacket):
        wire.decode_payloads_untrusted(kind, m.payload(kind, bytes(20), flags=0x80))


def test_section_2_5_payloads_come_in_any_order() -> None:
    for order in itertools.permutations(m.REKEY_IKE):
        assert wire.decode_payloads_untrusted(*wire.encode_payloads(order)) == order


def test_section_2_6_cookie_has_1_to_64_octets_and_its_secret_changes() -> None:
    jar = CookieJar(Secret(32))
    cookies = {jar.make(bytes(16), bytes(4), b"initiate", now) for now in (0, PERIOD, 2 * PERIOD)}

    assert len(cookies) == 3
    assert all(1 <= len(cookie) <= 64 for cookie in cookies)


def test_section_3_1_flags_are_where_they_belong_and_all_others_are_ignored() -> None:
    for response, initiator in itertools.product((False, True), repeat=2):
        header = msgspec.structs.replace(m.HEADER, is_response=response, from_initiator=initiator)
        octets = bytearray(wire.encode_header(header, 28))
        assert octets[19] == 0x20 * response | 0x08 * initiator
        octets[19] |= 0xD7
        assert wire.decode_header_untrusted(bytes(octets)) == header


def test_section_3_1_initiator_s_spi_is_not_zero() -> None:
    header = msgspec.structs.replace(m.HEADER, initiator_spi=bytes(8))

    with pytest.raises(MalformedPacket):
        wire.decode_header_untrusted(wire.encode_header(header, 28))


def test_section_3_1_version_2_0_is_sent() -> None:
    assert m.with_header(m.SA_INIT)[17] == 0x20


@pytest.mark.parametrize("payloads", m.CHAINS_OF_PEERS)
def test_section_3_2_chain_ends_with_zero_and_nothing_sent_is_critical_or_reserved(
    payloads: tuple[Payload, ...],
) -> None:
    following, body = wire.encode_payloads(payloads)
    for _ in payloads:
        following, flags, length = body[0], body[1], int.from_bytes(body[2:4])
        assert flags == 0
        body = body[length:]
    assert (following, body) == (0, b"")


def test_section_3_3_1_spi_of_an_offer_for_an_ike_sa_has_8_octets_or_none() -> None:
    for payloads, spi in ((m.SA_INIT[1:], b""), (m.REKEY_IKE, b"new spi!")):
        offer = wire.decode_payloads_untrusted(*wire.encode_payloads(payloads))[0]
        assert isinstance(offer, SecurityAssociation)
        assert {proposal.spi for proposal in offer.proposals} == {spi}


def test_section_3_3_5_key_length_is_in_the_short_format() -> None:
    encoded = proposal_wire.encode(received((m.AES_GCM_256,)))

    assert encoded.endswith(bytes.fromhex("01000014 800e0100"))


def test_section_3_3_6_proposal_with_an_unknown_type_of_transform_is_unacceptable() -> None:
    unknown = Transform(6, 35)

    assert transforms.choose_ike(received(ACCEPTABLE), OURS)[1].number == 1
    with pytest.raises(Refused):
        transforms.choose_ike(received((*ACCEPTABLE, unknown)), OURS)


def test_section_3_3_6_other_proposals_are_processed_as_usual() -> None:
    _, answer, _ = transforms.choose_ike(received((*ACCEPTABLE, Transform(6, 35)), ACCEPTABLE), OURS)

    assert (answer.number, answer.transforms) == (2, ACCEPTABLE)


def test_section_3_3_6_proposal_without_a_mandatory_type_is_unacceptable() -> None:
    for missing in ACCEPTABLE:
        with pytest.raises(Refused):
            transforms.choose_ike(received(tuple(each for each in ACCEPTABLE if each != missing)), OURS)


@pytest.mark.parametrize(
    "strange",
    [
        Transform(TransformType.ENCRYPTION, 0x8000, 256),
        Transform(TransformType.ENCRYPTION, 20, 512),
        Transform(TransformType.ENCRYPTION, 20, 256, bytes.fromhex("800f0001")),
        Transform(TransformType.ENCRYPTION, 20, 256, bytes.fromhex("00110002abcd")),
    ],
)
def test_section_3_3_6_transform_that_is_not_understood_leaves_others_of_its_type(strange: Transform) -> None:
    _, answer, _ = transforms.choose_ike(received((strange, *ACCEPTABLE)), OURS)

    assert answer.transforms == ACCEPTABLE
    with pytest.raises(Refused):
        transforms.choose_ike(received((strange, m.PRF_SHA2_256, m.X25519)), OURS)


@pytest.mark.parametrize(("size", "fits"), [(15, False), (16, True), (256, True), (257, False)])
def test_section_3_9_nonce_has_16_to_256_octets(size: int, fits: bool) -> None:
    nonce = m.payload(PayloadType.NONCE, bytes(size))

    if fits:
        wire.decode_payloads_untrusted(PayloadType.NONCE, nonce)
    else:
        with pytest.raises(MalformedPacket):
            wire.decode_payloads_untrusted(PayloadType.NONCE, nonce)


@pytest.mark.parametrize("kind", [42, 8191, 8192, 16383, 16396, 40959, 40960, 65535])
def test_section_3_10_1_unknown_errors_and_statuses_are_kept_for_who_knows_whether_they_matter(
    kind: int,
) -> None:
    notify = Notify(kind, b"data")

    assert wire.decode_payloads_untrusted(*wire.encode_payloads([notify])) == (notify,)


@pytest.mark.parametrize("data", [b"", b"anything", bytes(60_000)])
def test_section_3_12_vendor_ids_of_any_length_are_accepted(data: bytes) -> None:
    vendor = (VendorId(data), VendorId(data))

    assert wire.decode_payloads_untrusted(*wire.encode_payloads(vendor[:1])) == vendor[:1]
    assert (
        wire.decode_payloads_untrusted(*wire.encode_payloads([*vendor[1:], *m.REKEY_IKE]))[1:] == m.REKEY_IKE
    )


def test_section_3_14_payload_type_of_the_first_one_inside_is_no_next_payload() -> None:
    sealed = m.payload(PayloadType.ENCRYPTED, bytes(40), following=PayloadType.NOTIFY)

    assert wire.decode_payloads_untrusted(PayloadType.ENCRYPTED, sealed) == (
        Unknown(PayloadType.ENCRYPTED, bytes(40)),
    )
