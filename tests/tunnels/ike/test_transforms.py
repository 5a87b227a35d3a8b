from __future__ import annotations

import itertools

import msgspec
import pytest

from policies.ipsec import (
    COMPATIBLE_ESP,
    COMPATIBLE_IKE,
    MODERN_ESP,
    MODERN_IKE,
    Encryption,
    EspProposal,
    EspSuite,
    Group,
    IkeProposal,
    IkeSuite,
    Integrity,
    Prf,
)
from tunnels.ike import transforms
from tunnels.ike.constants import NotifyType, Protocol, TransformType
from tunnels.ike.payloads import Proposal, SecurityAssociation, Transform
from tunnels.ike.rejected import Refused

GCM, CBC = Transform(TransformType.ENCRYPTION, 20, 256), Transform(TransformType.ENCRYPTION, 12, 256)
PRF, HMAC = Transform(TransformType.PRF, 5), Transform(TransformType.INTEGRITY, 12)
NO_HMAC = Transform(TransformType.INTEGRITY, 0)
X25519, ECP_384 = Transform(TransformType.KEY_EXCHANGE, 31), Transform(TransformType.KEY_EXCHANGE, 20)
MODP_1024, NO_GROUP = Transform(TransformType.KEY_EXCHANGE, 2), Transform(TransformType.KEY_EXCHANGE, 0)
ESN, NO_ESN = Transform(TransformType.SEQUENCE_NUMBERS, 1), Transform(TransformType.SEQUENCE_NUMBERS, 0)
SPI = bytes.fromhex("c0ffee01")


def ike_offer(*proposals: tuple[Transform, ...]) -> SecurityAssociation:
    return SecurityAssociation(
        tuple(Proposal(number, Protocol.IKE, b"", each) for number, each in enumerate(proposals, 1))
    )


def esp_offer(*proposals: tuple[Transform, ...], spi: bytes = SPI) -> SecurityAssociation:
    return SecurityAssociation(
        tuple(Proposal(number, Protocol.ESP, spi, each) for number, each in enumerate(proposals, 1))
    )


def why(offer: SecurityAssociation, ours: tuple[IkeProposal, ...] = MODERN_IKE) -> str:
    with pytest.raises(Refused) as caught:
        transforms.choose_ike(offer, ours)
    assert caught.value.notify == NotifyType.NO_PROPOSAL_CHOSEN
    return str(caught.value)


@pytest.mark.parametrize("theirs", [MODERN_IKE, COMPATIBLE_IKE])
@pytest.mark.parametrize("ours", [MODERN_IKE, COMPATIBLE_IKE])
def test_profiles_agree_on_an_ike_sa(theirs: tuple[IkeProposal, ...], ours: tuple[IkeProposal, ...]) -> None:
    offer = transforms.offer_ike(theirs)
    suite, answer, spi = transforms.choose_ike(offer, ours)

    assert suite == IkeSuite(Encryption.AES_256_GCM, None, Prf.SHA2_384, Group.X25519)
    assert spi == b""
    assert transforms.accepted_ike(SecurityAssociation((answer,)), offer) == (suite, b"")


def test_every_ike_suite_can_be_agreed_on() -> None:
    ciphers: list[tuple[Encryption, Integrity | None]] = []
    for each in Encryption:
        ciphers += [(each, None)] if each.is_aead else [(each, integrity) for integrity in Integrity]
    groups = [each for each in Group if each is not Group.NONE]
    for (encryption, integrity), prf, group in itertools.product(ciphers, Prf, groups):
        hmacs = () if integrity is None else (integrity,)
        wanted = IkeProposal((encryption,), hmacs, (prf,), (group,))
        offer = transforms.offer_ike((COMPATIBLE_IKE[0], wanted), bytes(7) + b"\1")
        suite, answer, spi = transforms.choose_ike(offer, (wanted,))

        assert suite == IkeSuite(encryption, integrity, prf, group)
        assert spi == bytes(7) + b"\1"
        filled = msgspec.structs.replace(answer, spi=b"ourspi12")
        assert transforms.accepted_ike(SecurityAssociation((filled,)), offer) == (suite, b"ourspi12")


@pytest.mark.parametrize("with_groups", [True, False])
@pytest.mark.parametrize("ours", [MODERN_ESP, COMPATIBLE_ESP])
def test_profiles_agree_on_a_child_sa(ours: tuple[EspProposal, ...], with_groups: bool) -> None:
    offer = transforms.offer_esp(MODERN_ESP, SPI, with_groups=with_groups)
    suite, answer, spi = transforms.choose_esp(offer, ours, with_groups=with_groups)

    group = Group.X25519 if with_groups else Group.NONE
    assert suite == EspSuite(Encryption.AES_256_GCM, None, True, group)
    assert spi == SPI
    filled = msgspec.structs.replace(answer, spi=b"ours")
    assert transforms.accepted_esp(SecurityAssociation((filled,)), offer) == (suite, b"ours")


def test_algorithms_have_ianas_numbers() -> None:
    [proposal] = transforms.offer_ike(
        (IkeProposal((Encryption.AES_128_CBC,), tuple(Integrity), tuple(Prf), (Group.MODP_2048,)),)
    ).proposals

    assert proposal == Proposal(
        1,
        Protocol.IKE,
        b"",
        (
            Transform(1, 12, 128),
            *(Transform(2, number) for number in (5, 6, 7)),
            *(Transform(3, number) for number in (12, 13, 14)),
            Transform(4, 14),
        ),
    )
    assert [transforms.group_number(each) for each in Group] == [19, 20, 21, 31, 14, 0]
    assert transforms.group_of(2) is None
    assert transforms.group_name(2) == "modp1024"


def test_our_order_of_preference_decides() -> None:
    offer = ike_offer((CBC, PRF, HMAC, ECP_384), (GCM, PRF, ECP_384, X25519))

    suite, answer, _ = transforms.choose_ike(offer, COMPATIBLE_IKE)

    assert suite == IkeSuite(Encryption.AES_256_GCM, None, Prf.SHA2_256, Group.X25519)
    assert answer == Proposal(2, Protocol.IKE, b"", (GCM, PRF, X25519))


def test_group_whose_public_value_came_saves_a_round_trip() -> None:
    offer = ike_offer((GCM, PRF, X25519, ECP_384))

    suite, _, _ = transforms.choose_ike(offer, MODERN_IKE, sent_group=Group.ECP_384)
    assert suite.group == Group.ECP_384
    suite, _, _ = transforms.choose_ike(offer, MODERN_IKE, sent_group=Group.MODP_2048)
    assert suite.group == Group.X25519


def test_child_without_a_key_exchange_is_chosen_where_none_came() -> None:
    offer = esp_offer((GCM, X25519, NO_GROUP, ESN))

    suite, answer, _ = transforms.choose_esp(offer, MODERN_ESP, with_groups=True, sent_group=Group.NONE)
    assert suite.group == Group.NONE
    assert answer.transforms == (GCM, NO_GROUP, ESN)


def test_offer_without_groups_means_none() -> None:
    suite, answer, _ = transforms.choose_esp(esp_offer((GCM, ESN)), MODERN_ESP, with_groups=True)

    assert suite.group == Group.NONE
    assert answer.transforms == (GCM, ESN)


def test_required_forward_secrecy_refuses_an_offer_without_groups() -> None:
    ours = (EspProposal((Encryption.AES_256_GCM,), (), (Group.X25519,)),)

    with pytest.raises(Refused):
        transforms.choose_esp(esp_offer((GCM, ESN)), ours, with_groups=True)


def test_groups_offered_in_ike_auth_mean_nothing() -> None:
    suite, answer, _ = transforms.choose_esp(
        esp_offer((GCM, MODP_1024, NO_ESN)), MODERN_ESP, with_groups=False
    )

    assert suite == EspSuite(Encryption.AES_256_GCM, None, False, Group.NONE)
    assert answer.transforms == (GCM, NO_ESN)


@pytest.mark.parametrize("integrity", [(), (NO_HMAC,), (HMAC, NO_HMAC)])
def test_aead_goes_with_no_integrity_or_with_none(integrity: tuple[Transform, ...]) -> None:
    suite, answer, _ = transforms.choose_ike(ike_offer((GCM, PRF, *integrity, X25519)), MODERN_IKE)

    assert suite.integrity is None
    assert [each for each in answer.transforms if each.type == TransformType.INTEGRITY] == [
        each for each in integrity if each == NO_HMAC
    ]


@pytest.mark.parametrize(
    "transforms_offered",
    [
        (GCM, PRF, HMAC, X25519),  # AEAD with an integrity algorithm
        (CBC, PRF, X25519),  # encryption without integrity
        (CBC, PRF, NO_HMAC, X25519),
        (GCM, X25519),
        (PRF, HMAC, X25519),
        (GCM, PRF),
        (GCM, PRF, NO_GROUP),
        (GCM, PRF, X25519, Transform(6, 36)),  # a type that we don't know (RFC 7296 section 3.3.6)
        (Transform(TransformType.ENCRYPTION, 20), PRF, X25519),  # without its key length
        (Transform(TransformType.ENCRYPTION, 20, 192), PRF, X25519),
        (Transform(TransformType.ENCRYPTION, 28, 256), PRF, X25519),  # a key length where there is one only
        (),
    ],
)
def test_proposal_that_is_not_whole_is_not_chosen(transforms_offered: tuple[Transform, ...]) -> None:
    why(ike_offer(transforms_offered), COMPATIBLE_IKE)


def test_sequence_numbers_have_to_be_offered() -> None:
    with pytest.raises(Refused):
        transforms.choose_esp(esp_offer((GCM,)), MODERN_ESP, with_groups=True)


@pytest.mark.parametrize("spi", [b"", b"abc", bytes(4), b"12345678"])
def test_child_offer_without_a_usable_spi_is_not_chosen(spi: bytes) -> None:
    with pytest.raises(Refused):
        transforms.choose_esp(esp_offer((GCM, ESN), spi=spi), MODERN_ESP, with_groups=True)


def test_offer_for_another_protocol_is_not_chosen() -> None:
    assert why(esp_offer((GCM, ESN))) == "the peer offered no proposal for IKE"


def test_refusal_says_which_kind_of_algorithm_is_not_common() -> None:
    assert why(ike_offer((GCM, PRF, MODP_1024))) == (
        "the peer offered only modp1024 for the key exchange, we require one of x25519, ecp384, ecp256"
    )
    triple_des = Transform(TransformType.ENCRYPTION, 3)
    aes_192 = Transform(TransformType.ENCRYPTION, 12, 192)
    assert why(ike_offer((triple_des, aes_192, PRF, HMAC, X25519))) == (
        "the peer offered only 3des, aes:192 for encryption, "
        "we require one of aes256gcm16, chacha20poly1305, aes128gcm16"
    )
    assert why(ike_offer((GCM, Transform(TransformType.PRF, 2), X25519))) == (
        "the peer offered only prfsha1 as PRF, we require one of prfsha384, prfsha256, prfsha512"
    )


def test_refusal_shows_whole_proposals_where_no_kind_alone_explains_it() -> None:
    assert why(ike_offer((GCM, PRF, HMAC, X25519), (Transform(99, 7),))) == (
        "the peer offered only aes256gcm16-prfsha256-sha256-x25519 or 99/7, we require one of "
        "aes256gcm16-chacha20poly1305-aes128gcm16-prfsha384-prfsha256-prfsha512-x25519-ecp384-ecp256"
    )


def test_nothing_that_rfc_8247_forbids_can_be_chosen() -> None:
    """Sections 2.1 to 2.4: DES, NULL, HMAC-MD5, DES-MAC, KPDK-MD5, groups 1 and 22."""
    for forbidden in (
        Transform(TransformType.ENCRYPTION, 2),
        Transform(TransformType.ENCRYPTION, 11),
        Transform(TransformType.PRF, 1),
        Transform(TransformType.INTEGRITY, 1),
        Transform(TransformType.INTEGRITY, 3),
        Transform(TransformType.INTEGRITY, 4),
        Transform(TransformType.KEY_EXCHANGE, 1),
        Transform(TransformType.KEY_EXCHANGE, 22),
    ):
        others = [each for each in (CBC, PRF, HMAC, X25519) if each.type != forbidden.type]
        why(ike_offer((forbidden, *others)), COMPATIBLE_IKE)


def answered(answer: SecurityAssociation, offer: SecurityAssociation) -> NotifyType:
    with pytest.raises(Refused) as caught:
        transforms.accepted_esp(answer, offer)
    return caught.value.notify


def test_answer_has_to_be_one_whole_choice_of_what_was_offered() -> None:
    offer = transforms.offer_esp(MODERN_ESP, b"mine", with_groups=True)
    good = (GCM, X25519, ESN)

    assert transforms.accepted_esp(esp_offer(good), offer)[1] == SPI
    refused = NotifyType.NO_PROPOSAL_CHOSEN
    assert answered(esp_offer((*good, NO_ESN)), offer) == refused
    assert answered(esp_offer((GCM, X25519)), offer) == refused
    assert answered(esp_offer((CBC, HMAC, X25519, ESN)), offer) == refused
    assert answered(esp_offer((GCM, MODP_1024, ESN)), offer) == refused
    assert answered(esp_offer((*good, Transform(6, 36))), offer) == refused
    wrong_number = msgspec.structs.replace(esp_offer(good).proposals[0], number=2)
    assert answered(SecurityAssociation((wrong_number,)), offer) == refused
    assert answered(ike_offer(good), offer) == refused
    assert answered(SecurityAssociation(()), offer) == NotifyType.INVALID_SYNTAX
    assert answered(esp_offer(good, good), offer) == NotifyType.INVALID_SYNTAX
    assert answered(esp_offer(good, spi=bytes(4)), offer) == NotifyType.INVALID_SYNTAX
    assert answered(esp_offer(good, spi=b""), offer) == NotifyType.INVALID_SYNTAX


def test_answer_may_leave_out_or_name_what_is_not_used() -> None:
    offer = transforms.offer_esp(MODERN_ESP, b"mine", with_groups=True)

    for answer in ((GCM, ESN), (GCM, NO_GROUP, ESN), (GCM, NO_HMAC, NO_GROUP, ESN)):
        suite, _ = transforms.accepted_esp(esp_offer(answer), offer)
        assert suite == EspSuite(Encryption.AES_256_GCM, None, True, Group.NONE)


def test_answer_without_a_group_is_refused_where_forward_secrecy_is_required() -> None:
    ours = (EspProposal((Encryption.AES_256_GCM,), (), (Group.X25519,)),)

    assert (
        answered(esp_offer((GCM, ESN)), transforms.offer_esp(ours, b"mine", with_groups=True))
        == NotifyType.NO_PROPOSAL_CHOSEN
    )


def test_refusal_of_an_offer_of_hundreds_is_still_one_line() -> None:
    hundreds = tuple(Transform(TransformType.ENCRYPTION, 1000 + number) for number in range(300))

    words = why(ike_offer((*hundreds, PRF, MODP_1024)))

    assert "1/1015 and more for encryption" in words
    assert len(words) < 300
