"""Proposals in strongSwan's words, and what is said of those that are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.config.proposals import esp_proposal, ike_proposal
from policies.ipsec import (
    COMPATIBLE_ESP,
    COMPATIBLE_IKE,
    MODERN_ESP,
    MODERN_IKE,
    Encryption,
    EspProposal,
    Group,
    IkeProposal,
    Integrity,
    Prf,
)

GCM = Encryption.AES_256_GCM
CBC = Encryption.AES_256_CBC


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (
            "aes256gcm16-prfsha384-ecp384",
            IkeProposal((GCM,), (), (Prf.SHA2_384,), (Group.ECP_384,)),
        ),
        (
            "aes256gcm128-aes128gcm-chacha20poly1305-prfsha256-curve25519",
            IkeProposal(
                (GCM, Encryption.AES_128_GCM, Encryption.CHACHA20_POLY1305),
                (),
                (Prf.SHA2_256,),
                (Group.X25519,),
            ),
        ),
        (
            "AES256-SHA2_256-MODP2048",
            IkeProposal((CBC,), (Integrity.SHA2_256,), (Prf.SHA2_256,), (Group.MODP_2048,)),
        ),
        (
            "aes-sha256-sha512-prfsha384-ecp256-ecp521",
            IkeProposal(
                (Encryption.AES_128_CBC,),
                (Integrity.SHA2_256, Integrity.SHA2_512),
                (Prf.SHA2_384,),
                (Group.ECP_256, Group.ECP_521),
            ),
        ),
        ("aes256gcm-sha384-ecp384", IkeProposal((GCM,), (), (Prf.SHA2_384,), (Group.ECP_384,))),
    ],
)
def test_an_ike_proposal_is_read_as_strongswan_reads_it(written: str, meant: IkeProposal) -> None:
    assert ike_proposal(written) == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("aes256gcm16", EspProposal((GCM,), ())),
        ("aes256gcm16-x25519-esn", EspProposal((GCM,), (), (Group.X25519,), (True,))),
        (
            "aes256-sha2_512-modp2048-none-noesn-esn",
            EspProposal((CBC,), (Integrity.SHA2_512,), (Group.MODP_2048, Group.NONE), (False, True)),
        ),
        ("aes256gcm-modpnone-noesn", EspProposal((GCM,), (), (Group.NONE,), (False,))),
    ],
)
def test_an_esp_proposal_has_forward_secrecy_with_a_group(written: str, meant: EspProposal) -> None:
    assert esp_proposal(written) == meant


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("des-sha256-modp2048", "des in .* is refused: RFC 8247 section 2.1 says MUST NOT"),
        ("null-sha256-modp2048", "null in .* is refused: RFC 8247 section 2.1 says MUST NOT"),
        ("aes256-md5-modp2048", "md5 in .* is refused: RFC 8247 section 2.3 says MUST NOT"),
        ("aes256-sha256-prfmd5-modp2048", "prfmd5 in .* is refused: RFC 8247 section 2.2 says MUST NOT"),
        ("aes256-sha256-modp768", "modp768 in .* is refused: RFC 8247 section 2.4 says MUST NOT"),
        ("aes256-sha256-modp1024s160", "modp1024s160 in .* is refused: RFC 8247 section 2.4 says MUST NOT"),
        ("3des-sha256-modp2048", "3des in .* is not supported"),
        ("aes256-sha1-modp2048", "sha1 in .* is not supported"),
        ("aes256-sha256-modp1024", "modp1024 in .* is not supported"),
        ("aes256-sha256-modp1536", "modp1536 in .* is not supported"),
        ("aes192gcm16-prfsha256-ecp256", "aes192gcm16 in .* is not supported"),
        ("aes256gcm8-prfsha256-ecp256", "aes256gcm8 in .* is not supported"),
        ("aes256-sha265-ecp256", '"sha265" in .* is not an algorithm; did you mean "sha256"'),
        ("aes256-rot13-ecp256", '"rot13" in .* is not an algorithm; docs/sites.md lists'),
        ("", '"" in "" is not an algorithm'),
        ("aes256-sha256-", "is not an algorithm"),
        ("aes256-sha256-sha256-ecp256", "has sha256 twice"),
        ("aes256gcm-aes256gcm16-prfsha256-ecp256", "has aes256gcm16 twice"),
        ("prfsha256-ecp256", "has no cipher"),
        ("aes256-ecp256", "has no integrity algorithm"),
        ("aes256-prfsha256-ecp256", "has no integrity algorithm"),
        ("aes256gcm16-ecp256", "has no prf"),
        ("aes256gcm16-prfsha256", "has no group"),
        ("aes256gcm16-prfsha256-none", "has none for a group"),
        ("aes256gcm16-prfsha256-ecp256-esn", "has esn or noesn"),
        ("aes256gcm16-aes256-sha256-prfsha256-ecp256", "mixes AEAD ciphers with CBC"),
        (7, "7 is not a proposal such as"),
        (["aes256"], "a list is not a proposal such as"),
    ],
)
def test_an_ike_proposal_that_cannot_be_is_refused_with_the_reason(written: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ike_proposal(written)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("aes256gcm16-prfsha256", "has prfsha256, which is for ike_proposals"),
        ("aes256gcm16-sha256", "has sha256 beside aes256gcm16, which needs none"),
        ("aes256", "has no integrity algorithm"),
        ("aes256-aes256gcm16-sha256", "mixes AEAD ciphers with CBC"),
        ("null-sha256", "null in .* is refused"),
        ("blowfish-sha256", "blowfish in .* is refused: RFC 8221 section 5 says MUST NOT"),
        ("x25519", "has no cipher"),
    ],
)
def test_an_esp_proposal_that_cannot_be_is_refused_with_the_reason(written: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        esp_proposal(written)


@pytest.mark.parametrize("proposal", [*MODERN_IKE, *COMPATIBLE_IKE])
def test_an_ike_proposal_reads_back_as_it_prints(proposal: IkeProposal) -> None:
    assert ike_proposal(str(proposal)) == proposal


@pytest.mark.parametrize("proposal", [*MODERN_ESP, *COMPATIBLE_ESP])
def test_an_esp_proposal_reads_back_as_it_prints(proposal: EspProposal) -> None:
    assert esp_proposal(str(proposal)) == proposal


@given(
    st.lists(
        st.sampled_from(["aes256", "aes256gcm", "sha256", "prfsha384", "ecp256", "none", "esn", "des", "x"])
    )
)
def test_any_words_are_a_proposal_or_a_mistake(words: list[str]) -> None:
    for parse in (ike_proposal, esp_proposal):
        try:
            proposal = parse("-".join(words))
        except ValueError:
            continue
        assert parse(str(proposal)) == proposal
