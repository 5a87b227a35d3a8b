from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from tests.tunnels.ike import pki
from tunnels.ike import signatures
from tunnels.ike.constants import AuthMethod
from tunnels.ike.signatures import BadSignature, PrivateKey

OCTETS = b"what is signed"
SHA2 = frozenset({2, 3, 4})
CURVES: tuple[ec.EllipticCurve, ...] = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())
KEYS: dict[str, PrivateKey] = {
    "rsa": pki.rsa_key(),
    **{curve.name: ec.generate_private_key(curve) for curve in CURVES},
}


@pytest.mark.parametrize(
    "peer_hashes", [SHA2, frozenset({2}), frozenset({3, 5}), frozenset({1, 4}), frozenset()]
)
@pytest.mark.parametrize("kind", KEYS)
def test_signature_verifies_by_its_key_and_by_no_other(kind: str, peer_hashes: frozenset[int]) -> None:
    key = KEYS[kind]
    method, data = signatures.sign(key, OCTETS, peer_hashes)

    signatures.verify(key.public_key(), method, data, OCTETS)
    for other in KEYS.values():
        if other is not key:
            with pytest.raises(BadSignature):
                signatures.verify(other.public_key(), method, data, OCTETS)


@pytest.mark.parametrize("peer_hashes", [SHA2, frozenset()])
@pytest.mark.parametrize("kind", KEYS)
def test_any_changed_octet_of_a_signature_or_of_what_is_signed_is_refused(
    kind: str, peer_hashes: frozenset[int]
) -> None:
    key = KEYS[kind]
    method, data = signatures.sign(key, OCTETS, peer_hashes)

    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(BadSignature):
            signatures.verify(key.public_key(), method, bytes(changed), OCTETS)
    with pytest.raises(BadSignature):
        signatures.verify(key.public_key(), method, data, OCTETS + b"\0")
    for end in range(len(data)):
        with pytest.raises(BadSignature):
            signatures.verify(key.public_key(), method, data[:end], OCTETS)


def test_peer_that_announced_hashes_gets_method_14_with_one_of_them() -> None:
    for kind, hashed in (("secp256r1", 2), ("secp384r1", 3), ("secp521r1", 4)):
        method, data = signatures.sign(KEYS[kind], OCTETS, SHA2)
        assert method == AuthMethod.DIGITAL_SIGNATURE
        assert data[1 : 1 + data[0]].hex() == f"300a06082a8648ce3d04030{hashed}"
        assert signatures.sign(KEYS[kind], OCTETS, frozenset({2}))[1][12] == 2


def test_peer_that_announced_none_gets_the_older_methods() -> None:
    methods = {kind: signatures.sign(key, OCTETS, frozenset({1}))[0] for kind, key in KEYS.items()}

    assert methods == {
        "rsa": AuthMethod.RSA_SIGNATURE,
        "secp256r1": AuthMethod.ECDSA_256,
        "secp384r1": AuthMethod.ECDSA_384,
        "secp521r1": AuthMethod.ECDSA_521,
    }


def test_ecdsa_of_the_older_methods_is_two_numbers_of_the_curves_size() -> None:
    sizes = [len(signatures.sign(KEYS[curve.name], OCTETS, frozenset())[1]) for curve in CURVES]

    assert sizes == [64, 96, 132]


def test_rsa_signs_by_pss_only_where_told() -> None:
    method, plain = signatures.sign(KEYS["rsa"], OCTETS, SHA2)
    _, salted = signatures.sign(KEYS["rsa"], OCTETS, SHA2, pss=True)

    assert plain[1 : 1 + plain[0]].hex() == "300d06092a864886f70d01010b0500"
    # RFC 7427 appendix A.4.3 shows these octets for SHA-256 with a salt of 32.
    assert salted[1 : 1 + salted[0]].hex() == (
        "304106092a864886f70d01010a3034a00f300d06096086480165030402010500"
        "a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120"
    )
    signatures.verify(KEYS["rsa"].public_key(), method, salted, OCTETS)


def test_pss_without_null_parameters_is_accepted_too() -> None:
    key = pki.rsa_key()
    for number, digest in ((1, hashes.SHA256()), (2, hashes.SHA384()), (3, hashes.SHA512())):
        algorithm = f"300b06096086480165030402{number:02x}"
        generator = f"a11a301806092a864886f70d010108{algorithm}"
        parameters = f"a00d{algorithm}{generator}a2030201{digest.digest_size:02x}"
        identifier = bytes.fromhex(f"303d06092a864886f70d01010a3030{parameters}")
        signature = key.sign(OCTETS, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)

        data = bytes((len(identifier),)) + identifier + signature
        signatures.verify(key.public_key(), AuthMethod.DIGITAL_SIGNATURE, data, OCTETS)


@pytest.mark.parametrize(
    ("identifier", "words"),
    [
        ("300d06092a864886f70d0101050500", "RSA with SHA-1 is not accepted"),
        ("300d06092a864886f70d01010a3000", "RSA-PSS with SHA-1 is not accepted"),
        ("300906072a8648ce3d0401", "ECDSA with SHA-1 is not accepted"),
        ("300506032b6570", "Ed25519 is not accepted"),
        ("300506032b6599", "unknown kind, 300506032b6599"),
        ("", "unknown kind, none"),
    ],
)
def test_other_algorithms_are_refused_by_name(identifier: str, words: str) -> None:
    encoded = bytes.fromhex(identifier)
    data = bytes((len(encoded),)) + encoded + bytes(256)

    for key in KEYS.values():
        with pytest.raises(BadSignature, match=words):
            signatures.verify(key.public_key(), AuthMethod.DIGITAL_SIGNATURE, data, OCTETS)


def test_sha1_of_the_older_rsa_method_is_refused_by_name() -> None:
    key = pki.rsa_key()
    digest_info = bytes.fromhex("3021300906052b0e03021a05000414") + bytes(20)
    padded = b"\0\1" + b"\xff" * (256 - 3 - len(digest_info)) + b"\0" + digest_info
    numbers = key.private_numbers()
    signature = pow(int.from_bytes(padded), numbers.d, numbers.public_numbers.n).to_bytes(256)

    with pytest.raises(BadSignature, match="RSA with SHA-1 is not accepted"):
        signatures.verify(key.public_key(), AuthMethod.RSA_SIGNATURE, signature, OCTETS)


def test_older_rsa_method_is_accepted_with_any_sha2() -> None:
    key = pki.rsa_key()
    for digest in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512()):
        signature = key.sign(OCTETS, padding.PKCS1v15(), digest)
        signatures.verify(key.public_key(), AuthMethod.RSA_SIGNATURE, signature, OCTETS)


def test_rsa_below_2048_bits_is_refused() -> None:
    key = pki.rsa_key(1024)
    for peer_hashes in (SHA2, frozenset[int]()):
        method, data = signatures.sign(key, OCTETS, peer_hashes)
        with pytest.raises(BadSignature, match="1024 bits is too short"):
            signatures.verify(key.public_key(), method, data, OCTETS)


@pytest.mark.parametrize("method", [0, 2, 3, 12, 13, 15, 255])
def test_methods_that_are_no_signatures_are_refused(method: int) -> None:
    with pytest.raises(BadSignature, match="not accepted"):
        signatures.verify(KEYS["rsa"].public_key(), method, bytes(64), OCTETS)


def test_hashes_that_we_announce_are_those_of_sha2() -> None:
    assert signatures.HASHES.hex() == "000200030004"
