"""Authorities, certificates and revocation lists, made when they are needed."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tunnels.ike import names
from tunnels.ike.constants import CertificateEncoding
from tunnels.ike.payloads import Certificate
from tunnels.ike.signatures import PrivateKey

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@functools.cache
def rsa_key(bits: int = 2048, number: int = 0) -> rsa.RSAPrivateKey:
    """Made once, as it takes long."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


class Holder(msgspec.Struct, frozen=True):
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def payload(self) -> Certificate:
        return Certificate(CertificateEncoding.X509_SIGNATURE, self.certificate.public_bytes(Encoding.DER))

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make(
    subject: str,
    issuer: Holder | None = None,
    *,
    key: PrivateKey | None = None,
    authority: bool = False,
    alternative: Iterable[str] = (),
    purposes: Iterable[str] = (),
    usage: x509.KeyUsage | None = None,
    validity: tuple[datetime, datetime] = (NOW - 30 * DAY, NOW + 30 * DAY),
    pss: bool = False,
) -> Holder:
    """Make a certificate; without an issuer it is signed by its own key."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = names.parse(subject)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
    )
    if authority:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    if alternative:
        general = [_general_name(each) for each in alternative]
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    if purposes:
        oids = [x509.ObjectIdentifier(each) for each in purposes]
        builder = builder.add_extension(x509.ExtendedKeyUsage(oids), critical=False)
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    signer = key if issuer is None else issuer.key
    digest = hashes.SHA256()
    salted = padding.PSS(padding.MGF1(digest), digest.digest_size) if pss else None
    return Holder(builder.sign(signer, digest, rsa_padding=salted), key)


def revocation_list(
    issuer: Holder,
    revoked: Iterable[Holder] = (),
    *,
    signed_by: Holder | None = None,
    updates: tuple[datetime, datetime] = (NOW - DAY, NOW + DAY),
) -> x509.CertificateRevocationList:
    """Make an authority's list of what it revoked, a day ago."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(updates[0])
        .next_update(updates[1])
    )
    for each in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number)
        builder = builder.add_revoked_certificate(entry.revocation_date(NOW - DAY).build())
    return builder.sign((signed_by or issuer).key, hashes.SHA256())


def key_usage(**allowed: bool) -> x509.KeyUsage:
    """Return a key usage that allows nothing but what is named."""
    every = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{each: allowed.get(each, False) for each in every})


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.RFC822Name(text) if "@" in text else x509.DNSName(text)
