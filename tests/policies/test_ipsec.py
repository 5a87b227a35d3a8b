"""What the words of proposals, suites and profiles say."""

from __future__ import annotations

import pytest

from policies.ipsec import (
    PROFILES,
    Encryption,
    EspProposal,
    EspSuite,
    Group,
    IkeProposal,
    IkeSuite,
    Integrity,
    Lifetimes,
    Prf,
)

IKE = [proposal for ike, _ in PROFILES.values() for proposal in ike]
ESP = [proposal for _, esp in PROFILES.values() for proposal in esp]


@pytest.mark.parametrize("proposal", [*IKE, *ESP], ids=str)
def test_a_profile_never_mixes_aead_with_cbc_and_gives_integrity_to_cbc_only(
    proposal: IkeProposal | EspProposal,
) -> None:
    (is_aead,) = {cipher.is_aead for cipher in proposal.encryption}
    assert bool(proposal.integrity) != is_aead


def test_a_profile_for_ike_always_has_a_group_and_by_default_none_of_modp() -> None:
    assert not [proposal for proposal in IKE if Group.NONE in proposal.groups or not proposal.groups]
    modern = PROFILES["modern"][0]
    assert {group for proposal in modern for group in proposal.groups} == {
        Group.X25519,
        Group.ECP_256,
        Group.ECP_384,
    }


def test_what_is_compatible_takes_everything_modern_first() -> None:
    (modern_ike, *_), (modern_esp, *_) = PROFILES["modern"]
    (compatible_ike, *_), (compatible_esp, *_) = PROFILES["compatible"]

    assert compatible_ike.encryption == modern_ike.encryption
    assert compatible_esp.encryption == modern_esp.encryption
    assert set(modern_ike.groups) < set(compatible_ike.groups)
    assert set(modern_esp.groups) < set(compatible_esp.groups)


def test_the_default_lifetimes_end_before_32_bit_sequence_numbers_do() -> None:
    assert Lifetimes().child_packets * 1.1 < 1 << 32


def test_suites_print_as_operators_write_them() -> None:
    ike = IkeSuite(Encryption.AES_256_GCM, None, Prf.SHA2_384, Group.ECP_384)
    classic = IkeSuite(Encryption.AES_256_CBC, Integrity.SHA2_256, Prf.SHA2_256, Group.MODP_2048)

    assert str(ike) == "aes256gcm16-prfsha384-ecp384"
    assert str(classic) == "aes256-sha256-prfsha256-modp2048"
    assert str(EspSuite(Encryption.AES_128_GCM, None, True)) == "aes128gcm16-esn"
    assert (
        str(EspSuite(Encryption.AES_128_CBC, Integrity.SHA2_512, False, Group.X25519))
        == "aes128-sha512-x25519"
    )


def test_a_proposal_says_whether_it_may_do_without_forward_secrecy() -> None:
    optional = EspProposal((Encryption.AES_128_GCM,), (), (Group.X25519, Group.NONE), (True,))
    never = EspProposal((Encryption.AES_128_GCM,), (), (Group.NONE,), (True,))

    assert str(optional) == "aes128gcm16-x25519-none-esn"
    assert str(never) == "aes128gcm16-esn"
