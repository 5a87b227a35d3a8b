"""Certificate authorities of the laboratory, and what they issue."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from ipaddress import ip_address

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier

from gateway.lab.certificates import key_usage

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

IPSEC_IKE = ObjectIdentifier("1.3.6.1.5.5.7.3.17")
NOW = datetime.now(UTC)


class KeyKind(StrEnum):
    """The keys that certificates are for."""

    RSA = "rsa"
    ECDSA_256 = "ecdsa256"
    ECDSA_384 = "ecdsa384"


class Credential(msgspec.Struct, frozen=True):
    """PEM: a certificate with those between it and its authority, each alone, and the private key."""

    certificate: bytes
    intermediates: tuple[bytes, ...]
    key: bytes

    @property
    def chain(self) -> bytes:
        """All certificates in one file."""
        return b"".join((self.certificate, *self.intermediates))


class Authority:
    """A root authority, or one below another."""

    def __init__(self, name: str, kind: KeyKind = KeyKind.ECDSA_256, issuer: Authority | None = None) -> None:
        self._key = _key(kind)
        self._name = _name(name)
        self._issuer = issuer
        signer = issuer or self
        self._certificate = (
            _builder(self._name, signer._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .add_extension(signer._key_identifier, critical=False)
            .sign(signer._key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        """Its own certificate."""
        return self._certificate.public_bytes(Encoding.PEM)

    def below(self, name: str, kind: KeyKind) -> Authority:
        """Return an authority that this one vouches for."""
        return Authority(name, kind, self)

    def issue(
        self,
        domain: str,
        kind: KeyKind = KeyKind.ECDSA_256,
        *,
        further_names: Sequence[str] = (),
        addresses: Sequence[str] = (),
        usages: Sequence[ObjectIdentifier] = (IPSEC_IKE,),
    ) -> Credential:
        """Certify a device with the domain name, a VPN's unless other usages are named."""
        key = _key(kind)
        certificate = (
            _builder(_name(domain), self._name, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(self._key_identifier, critical=False)
            .add_extension(
                x509.SubjectAlternativeName(
                    [
                        *(x509.DNSName(name) for name in (domain, *further_names)),
                        *(x509.IPAddress(ip_address(address)) for address in addresses),
                    ]
                ),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Credential(certificate.public_bytes(Encoding.PEM), tuple(self._path()), private)

    def revoke(self, *credentials: Credential) -> bytes:
        """Return a list of what is revoked."""
        builder = x509.CertificateRevocationListBuilder(
            issuer_name=self._name,
            last_update=NOW - timedelta(hours=1),
            next_update=NOW + timedelta(days=1),
        )
        for credential in credentials:
            serial = x509.load_pem_x509_certificate(credential.certificate).serial_number
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder(serial, NOW - timedelta(hours=1)).build()
            )
        revocations = builder.add_extension(x509.CRLNumber(1), critical=False)
        revocations = revocations.add_extension(self._key_identifier, critical=False)
        return revocations.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    @property
    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())

    def _path(self) -> list[bytes]:
        """The certificates from this one up to the root's, which is left out."""
        return [] if self._issuer is None else [self.pem, *self._issuer._path()]


def _key(kind: KeyKind) -> PrivateKey:
    match kind:
        case KeyKind.RSA:
            return rsa.generate_private_key(65537, 2048)
        case KeyKind.ECDSA_256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyKind.ECDSA_384:
            return ec.generate_private_key(ec.SECP384R1())


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Laboratory"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _builder(subject: x509.Name, issuer: x509.Name, key: PrivateKey) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=NOW - timedelta(hours=1),
        not_valid_after=NOW + timedelta(days=1),
    )
