"""What proves who we are, and by what the peer is believed: read from a site's files.

No word of a problem comes from a file's content, nor from a library that has seen it.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import SignatureAlgorithmOID

from policies.errors import ConfigurationError, Problem
from policies.model import IkeIdentity
from policies.secret import Secret
from tunnels.ike.identities import Identity, identities_of
from tunnels.ike.signatures import CURVES, LEAST_RSA_BITS, PrivateKey, PublicKey

_ENCODINGS = {b"0x": "hexadecimal", b"0s": "base64"}
_Loaded = TypeVar("_Loaded")


class SigningKey:
    """A private key: equal to another if its public key is, and printed without anything of it."""

    def __init__(self, key: PrivateKey) -> None:
        self.key = key
        self._public = public_octets(key.public_key())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SigningKey) and self._public == other._public

    def __hash__(self) -> int:
        return hash(self._public)

    def __repr__(self) -> str:
        return f"<SigningKey of {self.key.key_size} bits>"


class Credentials(msgspec.Struct, frozen=True):
    """Of one site. Two that were read from the same files are equal."""

    psk: Secret | None = None
    certificates: tuple[x509.Certificate, ...] = ()
    """Our own, then those between it and its authority."""
    key: SigningKey | None = None
    authorities: tuple[x509.Certificate, ...] = ()
    """The only ones that may vouch for the peer; empty: it has to know the shared secret."""
    revocations: tuple[x509.CertificateRevocationList, ...] = ()

    @property
    def signs_by_pss(self) -> bool:
        """Whether our authority signs by RSA-PSS, so that whoever believes our certificate knows it."""
        oids = (each.signature_algorithm_oid for each in self.certificates[:1])
        return SignatureAlgorithmOID.RSASSA_PSS in oids


def load(ike: IkeIdentity) -> Credentials:
    """Read a site's files. Raises ConfigurationError with a problem for each file that is not right."""
    problems: list[Problem] = []

    def read(path: Path | None, parse: Callable[[bytes], _Loaded], nothing: _Loaded) -> _Loaded:
        if path is None:
            return nothing
        try:
            return parse(path.read_bytes())
        except OSError as error:
            problems.append(Problem(str(path), error.strerror or "cannot be read"))
        except _Unusable as error:
            problems.append(Problem(str(path), str(error)))
        return nothing

    nobody: tuple[x509.Certificate, ...] = ()
    psk = read(ike.psk_file, _shared_secret, None)
    own = read(ike.certificate_file, _certificates, nobody)
    key = read(ike.key_file, _signing_key, None)
    authorities = tuple(each for path in ike.authority_files for each in read(path, _certificates, nobody))
    revocations = tuple(
        each for path in ike.revocation_files if (each := read(path, _revocations, None)) is not None
    )
    if own and key is not None and public_octets(own[0].public_key()) != public_octets(key.key.public_key()):
        problems.append(
            Problem(str(ike.key_file), f"is not the key of the first certificate in {ike.certificate_file}")
        )
    if own and not _is_for(own[0], ike.local_id):
        named = "; ".join(map(str, identities_of(own[0]))) or "nobody"
        problems.append(
            Problem(str(ike.certificate_file), f"is not for local_id {ike.local_id}: it names {named}")
        )
    if (ike.key_file is None) != (ike.certificate_file is None):
        problems.append(
            Problem(str(ike.key_file or ike.certificate_file), "a certificate and its key go together")
        )
    if ike.psk_file is None and ike.key_file is None:
        problems.append(
            Problem("", "nothing proves who we are; give a shared secret, or a certificate and its key")
        )
    if ike.psk_file is None and not ike.authority_files:
        problems.append(Problem("", "nothing proves who the peer is; give a shared secret or authorities"))
    if problems:
        raise ConfigurationError(problems)
    return Credentials(psk, own, key, authorities, revocations)


def public_octets(key: object) -> bytes:
    """Return a public key's SubjectPublicKeyInfo in DER; of a kind that we don't use, nothing."""
    if not isinstance(key, PublicKey):
        return b""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _is_for(certificate: x509.Certificate, written: str) -> bool:
    try:
        identity = Identity.parse(written)
    except ValueError:
        return True  # that is another problem, of the configuration
    return any(each.matches(identity) for each in identities_of(certificate))


class _Unusable(Exception):
    """A file's content is not what it should be; in words without any of it."""


def _shared_secret(content: bytes) -> Secret:
    """Read hexadecimal after "0x" and base64 after "0s", as swanctl does; cut off a last newline."""
    text = content.removesuffix(b"\n").removesuffix(b"\r")
    kind = _ENCODINGS.get(text[:2])
    if kind is not None:
        try:
            text = (
                binascii.unhexlify(text[2:])
                if kind == "hexadecimal"
                else binascii.a2b_base64(text[2:], strict_mode=True)
            )
        except binascii.Error:
            raise _Unusable(f"begins as {kind} and does not go on so") from None
    if not text:
        raise _Unusable("is empty; put the secret in it")
    return Secret(text)


def _certificates(content: bytes) -> tuple[x509.Certificate, ...]:
    try:
        found = tuple(x509.load_pem_x509_certificates(content))
        for each in found:
            each.public_key()
            identities_of(each)
    except Exception:
        raise _Unusable("is not a certificate in PEM, or several") from None
    return found


def _signing_key(content: bytes) -> SigningKey:
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError:
        raise _Unusable("is encrypted; nobody is there to type its password") from None
    except Exception:
        raise _Unusable("is not a private key in PEM") from None
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < LEAST_RSA_BITS:
            raise _Unusable(f"is an RSA key of {key.key_size} bits; {LEAST_RSA_BITS} are required")
        return SigningKey(key)
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        return SigningKey(key)
    raise _Unusable("is neither an RSA key nor one of P-256, P-384 or P-521")


def _revocations(content: bytes) -> x509.CertificateRevocationList | None:
    load = x509.load_pem_x509_crl if b"-----BEGIN X509 CRL-----" in content else x509.load_der_x509_crl
    try:
        found = load(content)
        critical = any(each.critical for each in found.extensions)
    except Exception:
        raise _Unusable("is not a certificate revocation list in PEM or DER") from None
    if critical:
        raise _Unusable("is a list of only some certificates or of changes; give the authority's whole list")
    return found
