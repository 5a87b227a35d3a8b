"""Whether a peer's certificate is to be believed: RFC 4945's profile of RFC 5280, for one site.

The site's own authorities are the only anchors. What the peer sends besides its own
certificate only helps to find the way from it to one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from tunnels.ike import names
from tunnels.ike.constants import CertificateEncoding
from tunnels.ike.credentials import Credentials
from tunnels.ike.identities import Identity, identities_of
from tunnels.ike.payloads import Certificate
from tunnels.ike.signatures import CURVES, LEAST_RSA_BITS, PublicKey

MOST_CERTIFICATES = 10
"""As many of a peer are looked at; a chain has seldom more than four."""

# Section 5.1.3.12 of RFC 4945 wants ipsecIKE or any, if there are any; what real VPN devices have is often
# a certificate for TLS.
_PURPOSES = {
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    ExtendedKeyUsageOID.IPSEC_IKE,
    ExtendedKeyUsageOID.SERVER_AUTH,
    ExtendedKeyUsageOID.CLIENT_AUTH,
}


_BROKEN = {
    SignatureAlgorithmOID.RSA_WITH_MD5: "MD5",
    SignatureAlgorithmOID.RSA_WITH_SHA1: "SHA-1",
    SignatureAlgorithmOID.ECDSA_WITH_SHA1: "SHA-1",
    SignatureAlgorithmOID.DSA_WITH_SHA1: "SHA-1",
}


class NotTrusted(Exception):
    """A certificate is not believed. The words are for our log."""


def verified_key_untrusted(
    payloads: Sequence[Certificate], identity: Identity, credentials: Credentials, now_utc: datetime
) -> PublicKey:
    """Return the key of the peer that shows these CERT payloads, its own certificate first.

    `now_utc` is an aware time. Raises NotTrusted and nothing else.
    """
    leaf, *others = _decoded(payloads)
    _check_dates(leaf, now_utc)
    chain = _chain(leaf, others, credentials.authorities, now_utc)
    _check_revocation(chain, credentials.revocations, now_utc)
    if not any(each.matches(identity) for each in identities_of(leaf)):
        raise NotTrusted(f"{_who(leaf)} is not for {identity}: it names {_listed(identities_of(leaf))}")
    return _usable_key(leaf)


def _decoded(payloads: Sequence[Certificate]) -> list[x509.Certificate]:
    """Read the peer's certificates; leave out what is no certificate, but not its own."""
    found: list[x509.Certificate] = []
    for payload in payloads[:MOST_CERTIFICATES]:
        if payload.encoding != CertificateEncoding.X509_SIGNATURE:
            continue
        try:
            certificate = x509.load_der_x509_certificate(payload.data)
            # These are read only when asked for, and each may turn out to be broken.
            certificate.public_key()
            identities_of(certificate)
            _who(certificate)
        except Exception:
            if not found:
                raise NotTrusted("the peer's certificate cannot be read") from None
            continue
        found.append(certificate)
    if not found:
        raise NotTrusted("the peer sent no certificate")
    return found


def _check_dates(certificate: x509.Certificate, now_utc: datetime) -> None:
    if now_utc > certificate.not_valid_after_utc:
        raise NotTrusted(f"{_who(certificate)} expired on {_day(certificate.not_valid_after_utc)}")
    if now_utc < certificate.not_valid_before_utc:
        raise NotTrusted(f"{_who(certificate)} is not valid before {_day(certificate.not_valid_before_utc)}")


def _chain(
    leaf: x509.Certificate,
    others: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    now_utc: datetime,
) -> list[x509.Certificate]:
    """Return the certificates from the peer's own to one of the site's authorities."""
    if not authorities:
        raise NotTrusted(f"no authority may vouch for {_who(leaf)}")
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store(list(authorities)))
        .time(now_utc.astimezone(UTC).replace(tzinfo=None))
        .extension_policies(ca_policy=_AUTHORITY_POLICY, ee_policy=_PEER_POLICY)
        .build_client_verifier()
    )
    try:
        return verifier.verify(leaf, list(others)).chain
    except verification.VerificationError as error:
        raise NotTrusted(_why_no_chain(leaf, others, authorities, now_utc, error)) from None


def _why_no_chain(
    leaf: x509.Certificate,
    others: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    now_utc: datetime,
    error: verification.VerificationError,
) -> str:
    """Follow the issuers' names and signatures, to say where it breaks."""
    certificate, way = leaf, [leaf]
    while len(way) <= MOST_CERTIFICATES and certificate not in authorities:
        if (broken := _BROKEN.get(certificate.signature_algorithm_oid)) is not None:
            return f"{_who(certificate)} is signed with {broken}, which is not accepted"
        issuer = next((each for each in (*authorities, *others) if _is_issued_by(certificate, each)), None)
        if issuer is None or issuer in way:
            end = "" if certificate is leaf else f"; its chain ends with {_shown(certificate.subject)}"
            return (
                f"{_who(leaf)} is signed by none of this site's authorities ({_subjects(authorities)}){end}"
            )
        way.append(issuer)
        certificate = issuer
    for each in way[1:]:
        try:
            _check_dates(each, now_utc)
        except NotTrusted as untimely:
            return f"{_who(leaf)} is signed by an authority that does not count: {untimely}"
    reason = str(error).removeprefix("validation failed: ").partition(" (encountered")[0]
    return f"{_who(leaf)} is not acceptable: {reason}"


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:
        return False
    return True


def _check_revocation(
    chain: Sequence[x509.Certificate],
    revocations: Sequence[x509.CertificateRevocationList],
    now_utc: datetime,
) -> None:
    """Look each certificate up in the lists of its authority. Where none is given, nothing is checked."""
    for certificate, issuer in pairwise(chain):
        for each in revocations:
            if not _is_same(each.issuer, certificate.issuer):
                continue
            _check_list(each, issuer, now_utc)
            entry = each.get_revoked_certificate_by_serial_number(certificate.serial_number)
            if entry is not None:
                raise NotTrusted(f"{_who(certificate)} was revoked on {_day(entry.revocation_date_utc)}")


def _check_list(
    revocations: x509.CertificateRevocationList, issuer: x509.Certificate, now_utc: datetime
) -> None:
    what = f"the revocation list of {_shown(revocations.issuer)}"
    key = issuer.public_key()
    if not isinstance(key, PublicKey) or not revocations.is_signature_valid(key) or not _may_revoke(issuer):
        raise NotTrusted(f"{what} is not signed by that authority; give the right one")
    if now_utc < revocations.last_update_utc:
        raise NotTrusted(f"{what} is not valid before {_day(revocations.last_update_utc)}")
    if revocations.next_update_utc is not None and now_utc > revocations.next_update_utc:
        raise NotTrusted(f"{what} expired on {_day(revocations.next_update_utc)}; fetch a newer one")


def _may_revoke(issuer: x509.Certificate) -> bool:
    """Section 4.2.1.3 of RFC 5280."""
    try:
        return issuer.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True


def _check_key_usage(
    _policy: verification.Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    """Section 5.1.3.2 of RFC 4945."""
    if usage is not None and not (usage.digital_signature or usage.content_commitment):
        raise ValueError("its key usage is not to sign")


def _check_purpose(
    _policy: verification.Policy, _certificate: x509.Certificate, purposes: x509.ExtendedKeyUsage | None
) -> None:
    if purposes is not None and not _PURPOSES & set(purposes):
        raise ValueError("its extended key usage does not allow IKE")


def _check_authority_usage(
    _policy: verification.Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("the key usage of its authority is not to sign certificates")


def _accept(_policy: verification.Policy, _certificate: x509.Certificate, _extension: object) -> None:
    """Nothing more is asked: the library itself wants cA to be set."""


_EITHER = verification.Criticality.AGNOSTIC
# A certificate known by its subject alone needs no alternative name, which TLS would ask for.
_PEER_POLICY = (
    verification.ExtensionPolicy.permit_all()
    .may_be_present(x509.KeyUsage, _EITHER, _check_key_usage)
    .may_be_present(x509.ExtendedKeyUsage, _EITHER, _check_purpose)
)
_AUTHORITY_POLICY = (
    verification.ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, _EITHER, _accept)
    .may_be_present(x509.KeyUsage, _EITHER, _check_authority_usage)
)


def _usable_key(certificate: x509.Certificate) -> PublicKey:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < LEAST_RSA_BITS:
            raise NotTrusted(
                f"{_who(certificate)} has an RSA key of {key.key_size} bits; {LEAST_RSA_BITS} are required"
            )
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVES:
        return key
    raise NotTrusted(f"{_who(certificate)} has a key of a kind that is not accepted")


def _who(certificate: x509.Certificate) -> str:
    return f"the certificate of {_shown(certificate.subject)}"


def _shown(name: x509.Name) -> str:
    return names.shown(_name_of(name)) or "nobody"


def _name_of(name: x509.Name) -> names.Name:
    return names.decode_untrusted(name.public_bytes())


def _is_same(name: x509.Name, other: x509.Name) -> bool:
    return names.folded(_name_of(name)) == names.folded(_name_of(other))


def _subjects(authorities: Sequence[x509.Certificate]) -> str:
    return "; ".join(_shown(each.subject) for each in authorities)


def _listed(identities: Sequence[Identity]) -> str:
    return "; ".join(map(str, identities)) or "nobody"


def _day(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"
