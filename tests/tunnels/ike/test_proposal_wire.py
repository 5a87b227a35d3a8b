from __future__ import annotations

import pytest

from policies.errors import MalformedPacket
from tests.tunnels.ike import messages as m
from tunnels.ike import proposal_wire
from tunnels.ike.constants import Protocol, TransformType
from tunnels.ike.payloads import Proposal, SecurityAssociation, Transform

# One ESP proposal: AES-GCM-16 with 256 bits, no ESN.
OFFER = bytes.fromhex("00000020 01030402 c0010203 0300000c 01000014 800e0100 00000008 05000000")


def transform(content: str) -> bytes:
    """A proposal with one transform of this content."""
    octets = bytes.fromhex(content)
    size = 4 + len(octets)
    return b"\0\0" + (12 + size).to_bytes(2) + b"\1\3\4\1" + b"spi!" + b"\0\0" + size.to_bytes(2) + octets


def the_transform(content: str) -> Transform:
    (proposal,) = proposal_wire.decode_untrusted(transform(content)).proposals
    (only,) = proposal.transforms
    return only


def test_whole_offer_is_read() -> None:
    offer = SecurityAssociation(
        (Proposal(1, Protocol.ESP, bytes.fromhex("c0010203"), (m.AES_GCM_256, m.WITHOUT_ESN)),)
    )

    assert proposal_wire.decode_untrusted(OFFER) == offer
    assert proposal_wire.encode(offer) == OFFER


@pytest.mark.parametrize("length", range(len(OFFER)))
def test_truncated_offer_is_malformed(length: int) -> None:
    with pytest.raises(MalformedPacket):
        proposal_wire.decode_untrusted(OFFER[:length])


@pytest.mark.parametrize("tail", [b"\0", bytes(4), OFFER])
def test_offer_with_a_tail_is_malformed(tail: bytes) -> None:
    with pytest.raises(MalformedPacket):
        proposal_wire.decode_untrusted(OFFER + tail)


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        (0, 2, "another proposal is to follow"),
        (0, 3, "a transform is to follow a proposal"),
        (3, 31, "the proposal ends inside its last transform"),
        (3, 33, "the proposal is longer than the payload"),
        (3, 0, "the proposal has no length"),
        (6, 8, "ESP's SPI has 4 octets"),
        (6, 0, "ESP's SPI has 4 octets"),
        (6, 255, "the SPI is longer than the proposal"),
        (7, 1, "there are two transforms"),
        (7, 3, "there are two transforms"),
        (12, 0, "another transform does follow"),
        (12, 2, "a proposal is to follow a transform"),
        (15, 8, "the transform ends before its attribute, which is no transform"),
        (15, 3, "the transform is shorter than its header"),
        (24, 3, "another transform is to follow"),
    ],
)
def test_lengths_and_counts_that_do_not_agree_are_malformed(place: int, value: int, why: str) -> None:
    offer = bytearray(OFFER)
    offer[place] = value

    with pytest.raises(MalformedPacket):
        proposal_wire.decode_untrusted(bytes(offer))


@pytest.mark.parametrize("place", [1, 13, 17, 25, 29])
def test_reserved_octets_are_ignored(place: int) -> None:
    offer = bytearray(OFFER)
    offer[place] = 0xFF

    assert proposal_wire.decode_untrusted(bytes(offer)) == proposal_wire.decode_untrusted(OFFER)


def test_proposal_for_an_unknown_protocol_may_have_any_spi() -> None:
    offer = SecurityAssociation((Proposal(1, 9, b"a long name", (m.AES_GCM_256,)),))

    assert proposal_wire.decode_untrusted(proposal_wire.encode(offer)) == offer


def test_proposal_shorter_than_its_spi_is_malformed() -> None:
    with pytest.raises(MalformedPacket):
        proposal_wire.decode_untrusted(bytes.fromhex("0000000a 01090500 abcd"))


@pytest.mark.parametrize("size", [1, 4, 7, 9])
def test_ike_proposal_with_an_spi_of_another_size_than_0_or_8_is_malformed(size: int) -> None:
    with pytest.raises(MalformedPacket):
        proposal_wire.decode_untrusted(
            proposal_wire.encode(SecurityAssociation((Proposal(1, Protocol.IKE, bytes(size), ()),)))
        )


def test_transforms_of_unknown_types_and_numbers_are_kept() -> None:
    assert the_transform("06000023") == Transform(6, 35)
    assert the_transform("0100ffff") == Transform(TransformType.ENCRYPTION, 0xFFFF)


@pytest.mark.parametrize("attribute", ["800f0001", "000e0002 0080", "00100000", "0010 0003 abcdef"])
def test_transform_with_an_unknown_attribute_equals_none_that_we_would_choose(attribute: str) -> None:
    """A key length that is not in the short format is no key length (RFC 7296 section 3.3.5)."""
    decoded = the_transform("01000014 800e0100" + attribute)

    assert decoded.unknown_attributes == bytes.fromhex(attribute)
    assert decoded != m.AES_GCM_256
    assert decoded.key_length == m.AES_GCM_256.key_length


def test_second_key_length_is_not_understood() -> None:
    assert the_transform("0100000c 800e0080 800e0100") == Transform(
        TransformType.ENCRYPTION, 12, 128, bytes.fromhex("800e0100")
    )


@pytest.mark.parametrize("key_length", ["", "800e0100"])
def test_as_many_unknown_attributes_as_are_allowed_are_kept_and_no_more(key_length: str) -> None:
    most = "800f0001" * proposal_wire.MOST_ATTRIBUTES

    assert the_transform("01000014" + key_length + most).unknown_attributes == bytes.fromhex(most)
    with pytest.raises(MalformedPacket):
        the_transform("01000014" + key_length + most + "800f0001")


@pytest.mark.parametrize("attribute", ["80", "800e", "800e01", "00100001", "0010ffff00"])
def test_attribute_that_does_not_fit_is_malformed(attribute: str) -> None:
    with pytest.raises(MalformedPacket):
        the_transform("01000014" + attribute)


def test_offer_of_as_much_as_is_allowed_is_read_and_of_more_is_not() -> None:
    one = Proposal(1, Protocol.IKE, b"", ())
    most = (one,) * proposal_wire.MOST_PROPOSALS

    assert len(decode_again(*most).proposals) == proposal_wire.MOST_PROPOSALS
    with pytest.raises(MalformedPacket):
        decode_again(*most, one)

    full = Proposal(1, Protocol.IKE, b"", (m.PRF_SHA2_256,) * 255)
    rest = Proposal(1, Protocol.IKE, b"", (m.PRF_SHA2_256,) * (proposal_wire.MOST_TRANSFORMS - 510))
    assert len(decode_again(full, full, rest).proposals) == 3
    with pytest.raises(MalformedPacket):
        decode_again(full, full, rest, Proposal(1, Protocol.IKE, b"", (m.PRF_SHA2_256,)))


def decode_again(*proposals: Proposal) -> SecurityAssociation:
    return proposal_wire.decode_untrusted(proposal_wire.encode(SecurityAssociation(proposals)))
