from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from policies.ipsec import Encryption, EspSuite, Group, IkeSuite, Integrity, Prf
from policies.secret import Secret
from tests.tunnels.ike.entropy import SeededEntropy
from tunnels.effects import EspKeys
from tunnels.ike import groups, keys
from tunnels.ike.constants import NotifyType
from tunnels.ike.keys import KeyPair
from tunnels.ike.rejected import Refused

GROUPS = [each for each in Group if each is not Group.NONE]
LENGTHS = {Group.ECP_256: 64, Group.ECP_384: 96, Group.ECP_521: 132, Group.X25519: 32, Group.MODP_2048: 256}
NONCES = keys.Nonces(b"i" * 32, b"r" * 40)
BOTH_NONCES = b"i" * 32 + b"r" * 40
SPIS = (b"initspi1", b"respspi2")
SHARED = Secret(bytes(range(32)))
HASHES = {Prf.SHA2_256: hashes.SHA256(), Prf.SHA2_384: hashes.SHA384(), Prf.SHA2_512: hashes.SHA512()}
MODP_PRIME = groups._PRIME


@pytest.mark.parametrize("group", GROUPS)
def test_both_sides_of_an_exchange_share_the_same_secret(group: Group) -> None:
    entropy = SeededEntropy(1)
    ours, theirs = KeyPair.generate(group, entropy), KeyPair.generate(group, entropy)

    assert len(ours.public) == len(theirs.public) == LENGTHS[group]
    assert ours.public != theirs.public
    assert ours.shared(theirs.public) == theirs.shared(ours.public)
    assert isinstance(ours.shared(theirs.public), Secret)


@pytest.mark.parametrize("group", GROUPS)
def test_same_entropy_gives_the_same_pair_and_other_entropy_another(group: Group) -> None:
    first, second, third = (KeyPair.generate(group, SeededEntropy(seed)) for seed in (1, 1, 2))

    assert first.public == second.public != third.public


@pytest.mark.parametrize("group", GROUPS)
def test_public_value_of_a_wrong_length_is_refused(group: Group) -> None:
    ours = KeyPair.generate(group, SeededEntropy(1))

    for public in (b"", ours.public[:-1], ours.public + b"\0", b"\0" + ours.public):
        with pytest.raises(Refused) as caught:
            ours.shared(public)
        assert caught.value.notify == NotifyType.INVALID_SYNTAX


@pytest.mark.parametrize("group", [Group.ECP_256, Group.ECP_384, Group.ECP_521])
def test_point_that_is_not_on_the_curve_is_refused(group: Group) -> None:
    ours = KeyPair.generate(group, SeededEntropy(1))
    half = len(ours.public) // 2
    beside = ours.public[:-1] + bytes((ours.public[-1] ^ 1,))

    for public in (beside, bytes(2 * half), b"\xff" * 2 * half, ours.public[half:] + ours.public[:half]):
        with pytest.raises(Refused, match="none of ecp"):
            ours.shared(public)


@pytest.mark.parametrize(
    "point",
    [
        bytes(32),
        b"\1" + bytes(31),
        # Points of order 8, and p - 1, p and p + 1 (RFC 7748 section 6.1).
        bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
        (2**255 - 20).to_bytes(32, "little"),
        (2**255 - 19).to_bytes(32, "little"),
        (2**255 - 18).to_bytes(32, "little"),
    ],
)
def test_x25519_point_that_gives_the_secret_away_is_refused(point: bytes) -> None:
    with pytest.raises(Refused, match="none of x25519"):
        KeyPair.generate(Group.X25519, SeededEntropy(1)).shared(point)


@pytest.mark.parametrize("value", [0, 1, MODP_PRIME - 1, MODP_PRIME, MODP_PRIME + 1, 2**2048 - 1])
def test_modp_value_that_gives_the_secret_away_is_refused(value: int) -> None:
    with pytest.raises(Refused, match="none of modp2048"):
        KeyPair.generate(Group.MODP_2048, SeededEntropy(1)).shared(value.to_bytes(256))


def test_there_is_no_exchange_in_no_group() -> None:
    with pytest.raises(ValueError):
        KeyPair.generate(Group.NONE, SeededEntropy(1))


@pytest.mark.parametrize("prf", Prf)
@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 64, 200, 255 * 32])
def test_prf_plus_is_what_hkdf_calls_expand(prf: Prf, count: int) -> None:
    expected = HKDFExpand(HASHES[prf], count, b"seed").derive(b"k" * 32) if count else b""

    assert keys.prf_plus(prf, Secret(b"k" * 32), b"seed", count) == expected


def test_prf_plus_ends_after_255_blocks() -> None:
    with pytest.raises(ValueError):
        keys.prf_plus(Prf.SHA2_256, Secret(b"k" * 32), b"seed", 255 * 32 + 1)


@pytest.mark.parametrize(
    ("suite", "lengths"),
    [
        (IkeSuite(Encryption.AES_256_GCM, None, Prf.SHA2_384, Group.X25519), (48, 0, 0, 36, 36, 48, 48)),
        (IkeSuite(Encryption.AES_128_GCM, None, Prf.SHA2_256, Group.X25519), (32, 0, 0, 20, 20, 32, 32)),
        (
            IkeSuite(Encryption.CHACHA20_POLY1305, None, Prf.SHA2_512, Group.X25519),
            (64, 0, 0, 36, 36, 64, 64),
        ),
        (
            IkeSuite(Encryption.AES_128_CBC, Integrity.SHA2_384, Prf.SHA2_256, Group.X25519),
            (32, 48, 48, 16, 16, 32, 32),
        ),
    ],
)
def test_ike_keys_follow_section_2_14_of_rfc_7296(suite: IkeSuite, lengths: tuple[int, ...]) -> None:
    made = keys.ike_keys(suite, SHARED, NONCES, *SPIS)

    skeyseed = keys.prf(suite.prf, BOTH_NONCES, SHARED)
    stream = HKDFExpand(HASHES[suite.prf], sum(lengths), BOTH_NONCES + b"".join(SPIS)).derive(skeyseed)
    in_order = (
        made.derive,
        made.integrity_initiator,
        made.integrity_responder,
        made.encryption_initiator,
        made.encryption_responder,
        made.auth_initiator,
        made.auth_responder,
    )
    assert tuple(map(len, in_order)) == lengths
    assert b"".join(in_order) == stream


def test_rekeyed_ike_keys_use_the_old_prf_for_their_seed_and_the_new_one_for_the_rest() -> None:
    suite = IkeSuite(Encryption.AES_256_GCM, None, Prf.SHA2_512, Group.X25519)
    old = Secret(b"old SK_d" * 4)

    made = keys.rekeyed_ike_keys(Prf.SHA2_256, old, suite, SHARED, NONCES, *SPIS)

    skeyseed = keys.prf(Prf.SHA2_256, old, SHARED + BOTH_NONCES)
    assert made.derive == HKDFExpand(HASHES[Prf.SHA2_512], 64, BOTH_NONCES + b"".join(SPIS)).derive(skeyseed)


@pytest.mark.parametrize("shared", [None, SHARED])
def test_child_keys_follow_section_2_17_of_rfc_7296(shared: Secret | None) -> None:
    suite = EspSuite(Encryption.AES_128_CBC, Integrity.SHA2_256, True)
    derive = Secret(b"SK_d" * 8)

    forth, back = keys.child_keys(Prf.SHA2_256, derive, suite, shared, NONCES)

    seed = (shared or b"") + BOTH_NONCES
    stream = HKDFExpand(HASHES[Prf.SHA2_256], 96, seed).derive(derive)
    assert forth == EspKeys(Secret(stream[:16]), Secret(stream[16:48]))
    assert back == EspKeys(Secret(stream[48:64]), Secret(stream[64:]))


@pytest.mark.parametrize(
    ("encryption", "length"),
    [(Encryption.AES_128_GCM, 20), (Encryption.AES_256_GCM, 36), (Encryption.CHACHA20_POLY1305, 36)],
)
def test_child_keys_for_aead_end_with_their_salt(encryption: Encryption, length: int) -> None:
    forth, back = keys.child_keys(
        Prf.SHA2_256, Secret(b"SK_d" * 8), EspSuite(encryption, None, True), None, NONCES
    )

    assert len(forth.encryption) == len(back.encryption) == length
    assert forth.integrity == back.integrity == b""


def test_nothing_that_holds_a_key_shows_it() -> None:
    suite = IkeSuite(Encryption.AES_128_CBC, Integrity.SHA2_256, Prf.SHA2_256, Group.X25519)
    made = keys.ike_keys(suite, SHARED, NONCES, *SPIS)
    child = keys.child_keys(Prf.SHA2_256, made.derive, EspSuite(*suite_of_child()), None, NONCES)
    secrets = [made.derive, made.encryption_initiator, made.auth_responder, child[0].encryption, SHARED]

    for value in (made, child, *secrets, *(KeyPair.generate(each, SeededEntropy(1)) for each in GROUPS)):
        shown = f"{value!r} {value!s} {value}"
        for secret in secrets:
            assert repr(bytes(secret)) not in shown
            assert secret.hex() not in shown


def suite_of_child() -> tuple[Encryption, Integrity, bool]:
    return Encryption.AES_256_CBC, Integrity.SHA2_512, True
