"""Signatures by certificates' keys: RFC 7427 (method 14), and the older methods 1, 9, 10 and 11.

SHA-1 and RSA below 2048 bits are neither made nor accepted (RFC 8247 section 3).
"""

from __future__ import annotations

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from tunnels.ike.constants import AuthMethod

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

LEAST_RSA_BITS = 2048

_HASHES: dict[int, hashes.HashAlgorithm] = {2: hashes.SHA256(), 3: hashes.SHA384(), 4: hashes.SHA512()}
"""By IANA's numbers of hash algorithms (RFC 7427 section 7)."""
HASHES = b"".join(number.to_bytes(2) for number in _HASHES)
"""What SIGNATURE_HASH_ALGORITHMS says of us (RFC 7427 section 4)."""

CURVES = {"secp256r1": 2, "secp384r1": 3, "secp521r1": 4}
"""By name, with the number of the hash algorithm that suits each."""
_CURVE_METHODS = {
    "secp256r1": AuthMethod.ECDSA_256,
    "secp384r1": AuthMethod.ECDSA_384,
    "secp521r1": AuthMethod.ECDSA_521,
}


class BadSignature(Exception):
    """It does not verify, or is of a kind that is not accepted. The words are for our log."""


class _Scheme(msgspec.Struct, frozen=True):
    """How octets are signed: "rsa" (PKCS#1 v1.5), "pss" or "ecdsa", and by the number of which hash."""

    kind: str
    hash: int

    def __str__(self) -> str:
        names = {"rsa": "RSA PKCS#1 v1.5", "pss": "RSA-PSS", "ecdsa": "ECDSA"}
        return f"{names[self.kind]} with {_HASHES[self.hash].name.upper()}"


def _der(tag: int, content: bytes) -> bytes:
    return bytes((tag, len(content))) + content


_NULL = bytes.fromhex("0500")
_SHA2_OID = bytes.fromhex("0609608648016503040200")
_RSA_OID = bytes.fromhex("06092a864886f70d010100")
_MGF1_OID, _PSS_OID = _RSA_OID[:-1] + b"\x08", _RSA_OID[:-1] + b"\x0a"
_ECDSA_OID = bytes.fromhex("06082a8648ce3d040300")
_LAST_OF_SHA2 = {2: 1, 3: 2, 4: 3}  # the last number of SHA-2's object identifiers
_LAST_OF_RSA = {2: 11, 3: 12, 4: 13}
_LAST_OF_ECDSA = {2: 2, 3: 3, 4: 4}


def _with_last(oid: bytes, last: int) -> bytes:
    return oid[:-1] + bytes((last,))


def _pss(number: int, parameters: bytes) -> bytes:
    """RSASSA-PSS with one hash everywhere and a salt as long as its output (RFC 7427 appendix A.4.3)."""
    digest = _der(0x30, _with_last(_SHA2_OID, _LAST_OF_SHA2[number]) + parameters)
    generator = _der(0x30, _MGF1_OID + digest)
    salt = _der(0x02, bytes((_HASHES[number].digest_size,)))
    content = _der(0xA0, digest) + _der(0xA1, generator) + _der(0xA2, salt)
    return _der(0x30, _PSS_OID + _der(0x30, content))


def _identifiers() -> dict[bytes, _Scheme]:
    """AlgorithmIdentifiers in DER (RFC 7427 appendix A): the first of a scheme is what we send."""
    known = {}
    for number in _HASHES:
        for parameters in (_NULL, b""):  # absent parameters mean NULL too (RFC 4055 sections 2.1 and 5)
            rsa_oid = _with_last(_RSA_OID, _LAST_OF_RSA[number])
            known[_der(0x30, rsa_oid + parameters)] = _Scheme("rsa", number)
            known[_pss(number, parameters)] = _Scheme("pss", number)
        known[_der(0x30, _with_last(_ECDSA_OID, _LAST_OF_ECDSA[number]))] = _Scheme("ecdsa", number)
    return known


_IDENTIFIERS = _identifiers()
_IDENTIFIER_OF = {scheme: identifier for identifier, scheme in reversed(_IDENTIFIERS.items())}

_REFUSED = {
    _der(0x30, _with_last(_RSA_OID, 5) + _NULL): "RSA with SHA-1",
    _der(0x30, _with_last(_RSA_OID, 5)): "RSA with SHA-1",
    _der(0x30, _PSS_OID + bytes.fromhex("3000")): "RSA-PSS with SHA-1",
    _der(0x30, _PSS_OID): "RSA-PSS with SHA-1",
    bytes.fromhex("300906072a8648ce3d0401"): "ECDSA with SHA-1",
    bytes.fromhex("300906072a8648ce380403"): "DSA with SHA-1",
    bytes.fromhex("300506032b6570"): "Ed25519",
    bytes.fromhex("300506032b6571"): "Ed448",
}


def sign(
    key: PrivateKey, octets: bytes, peer_hashes: frozenset[int], *, pss: bool = False
) -> tuple[AuthMethod, bytes]:
    """Sign for the AUTH payload; return the method and the payload's data.

    Method 14 if the peer announced a hash algorithm of SHA-2, else the key's older method.
    RSA keys sign as PKCS#1 v1.5 unless `pss`: every peer verifies that, and RFC 7427 lets
    nobody say whether it knows PSS.
    """
    ecdsa = isinstance(key, ec.EllipticCurvePrivateKey)
    best = CURVES[key.curve.name] if isinstance(key, ec.EllipticCurvePrivateKey) else 2
    known = sorted(peer_hashes & _HASHES.keys(), key=lambda number: (number != best, number))
    if known:
        scheme = _Scheme("ecdsa" if ecdsa else "pss" if pss else "rsa", known[0])
        identifier = _IDENTIFIER_OF[scheme]
        data = bytes((len(identifier),)) + identifier + _signed(key, scheme, octets)
        return AuthMethod.DIGITAL_SIGNATURE, data
    if isinstance(key, ec.EllipticCurvePrivateKey):
        size = _integer_octets(key)
        first, second = decode_dss_signature(key.sign(octets, ec.ECDSA(_HASHES[best])))
        return _CURVE_METHODS[key.curve.name], first.to_bytes(size) + second.to_bytes(size)
    return AuthMethod.RSA_SIGNATURE, _signed(key, _Scheme("rsa", best), octets)


def verify(key: PublicKey, method: int, data: bytes, octets: bytes) -> None:
    """Verify the data of an AUTH payload. Raises BadSignature and nothing else."""
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < LEAST_RSA_BITS:
        raise BadSignature(f"an RSA key of {key.key_size} bits is too short; {LEAST_RSA_BITS} are required")
    if method == AuthMethod.DIGITAL_SIGNATURE:
        _verify_named(key, data, octets)
    elif method == AuthMethod.RSA_SIGNATURE:
        _verify_rsa_signature(key, data, octets)
    elif method in _CURVE_METHODS.values():
        _verify_ecdsa_method(key, method, data, octets)
    else:
        raise BadSignature(f"the authentication method {method} is not accepted with certificates")


def describe_method(method: int) -> str:
    """Return what a method is called, for people."""
    try:
        return AuthMethod(method).name.lower().replace("_", " ")
    except ValueError:
        return f"method {method}"


def _signed(key: PrivateKey, scheme: _Scheme, octets: bytes) -> bytes:
    digest = _HASHES[scheme.hash]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(octets, ec.ECDSA(digest))
    if scheme.kind == "pss":
        return key.sign(octets, _salted(digest), digest)
    return key.sign(octets, padding.PKCS1v15(), digest)


def _salted(digest: hashes.HashAlgorithm) -> padding.PSS:
    return padding.PSS(padding.MGF1(digest), digest.digest_size)


def _verify_named(key: PublicKey, data: bytes, octets: bytes) -> None:
    """One octet of length, the AlgorithmIdentifier, the signature (RFC 7427 section 3)."""
    end = 1 + data[0] if data else 1
    identifier, signature = data[1:end], data[end:]
    scheme = _IDENTIFIERS.get(identifier)
    if scheme is None:
        if identifier in _REFUSED:
            raise BadSignature(f"{_REFUSED[identifier]} is not accepted")
        raise BadSignature(f"the signature is of an unknown kind, {identifier.hex() or 'none'}")
    _verify(key, scheme, signature, octets)


def _verify_rsa_signature(key: PublicKey, data: bytes, octets: bytes) -> None:
    """Any hash of SHA-2: the signature says itself which (RFC 7296 section 3.8)."""
    if not isinstance(key, rsa.RSAPublicKey):
        raise BadSignature("an RSA signature cannot be by the certificate's key")
    for number in _HASHES:
        try:
            return _verify(key, _Scheme("rsa", number), data, octets)
        except BadSignature:
            continue
    if _is_by_sha1(key, data):
        raise BadSignature("RSA with SHA-1 is not accepted; the peer has to sign with SHA-2")
    raise BadSignature("the signature is not by the certificate's key")


def _is_by_sha1(key: rsa.RSAPublicKey, signature: bytes) -> bool:
    """Whether it is a signature over a SHA-1, only to say so: nothing is accepted by it."""
    try:
        key.recover_data_from_signature(signature, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303
    except (InvalidSignature, ValueError):
        return False
    return True


def _verify_ecdsa_method(key: PublicKey, method: int, data: bytes, octets: bytes) -> None:
    """Two numbers of the curve's size, one behind the other (RFC 4754 section 7)."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or _CURVE_METHODS.get(key.curve.name) != method:
        raise BadSignature(f"{describe_method(method)} cannot be by the certificate's key")
    size = _integer_octets(key)
    if len(data) != 2 * size:
        raise BadSignature(f"{len(data)} octets are no signature by a key of {key.curve.name}")
    signature = encode_dss_signature(int.from_bytes(data[:size]), int.from_bytes(data[size:]))
    _verify(key, _Scheme("ecdsa", CURVES[key.curve.name]), signature, octets)


def _verify(key: PublicKey, scheme: _Scheme, signature: bytes, octets: bytes) -> None:
    digest = _HASHES[scheme.hash]
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and scheme.kind == "ecdsa":
            key.verify(signature, octets, ec.ECDSA(digest))
        elif isinstance(key, rsa.RSAPublicKey) and scheme.kind == "rsa":
            key.verify(signature, octets, padding.PKCS1v15(), digest)
        elif isinstance(key, rsa.RSAPublicKey) and scheme.kind == "pss":
            key.verify(signature, octets, _salted(digest), digest)
        else:
            raise BadSignature(f"{scheme} cannot be by the certificate's key")
    except (InvalidSignature, ValueError):
        raise BadSignature(f"{scheme} does not verify by the certificate's key") from None


def _integer_octets(key: PrivateKey | PublicKey) -> int:
    return (key.key_size + 7) // 8
