from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tests.tunnels.ike import pki
from tests.tunnels.ike.pki import DAY, NOW, Holder, make
from tunnels.ike import certificates
from tunnels.ike.certificates import NotTrusted
from tunnels.ike.constants import CertificateEncoding
from tunnels.ike.credentials import Credentials
from tunnels.ike.identities import Identity
from tunnels.ike.payloads import Certificate

AUTHORITY = make("C=CH, O=Red, CN=Red root", authority=True)
OTHER = make("C=CH, O=Blue, CN=Blue root", authority=True)
GATEWAY = make("C=CH, O=Red, CN=gw", AUTHORITY, alternative=["gw.red.example", "gw@red.example", "192.0.2.7"])
IPSEC_IKE, TLS_SERVER, CODE_SIGNING = "1.3.6.1.5.5.7.3.17", "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.3"


def trusting(*authorities: Holder, lists: tuple[x509.CertificateRevocationList, ...] = ()) -> Credentials:
    return Credentials(authorities=tuple(each.certificate for each in authorities), revocations=lists)


def check(
    shown: Holder,
    *others: Holder,
    identity: str = "C=CH, O=Red, CN=gw",
    credentials: Credentials | None = None,
) -> object:
    payloads = [each.payload for each in (shown, *others)]
    credentials = credentials or trusting(AUTHORITY)
    return certificates.verified_key_untrusted(payloads, Identity.parse(identity), credentials, NOW)


def refused(shown: Holder, *others: Holder, **how: object) -> str:
    with pytest.raises(NotTrusted) as caught:
        check(shown, *others, **how)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize(
    "identity",
    ["gw.red.example", "GW.Red.Example", "gw@red.example", "192.0.2.7", "C=ch, O=red, CN=GW"],
)
def test_certificate_is_for_its_subject_and_each_of_its_alternative_names(identity: str) -> None:
    assert check(GATEWAY, identity=identity) == GATEWAY.key.public_key()


@pytest.mark.parametrize(
    "identity", ["gw2.red.example", "other@red.example", "192.0.2.8", "CN=gw", "keyid:6777"]
)
def test_certificate_for_somebody_else_is_refused_and_says_for_whom_it_is(identity: str) -> None:
    assert refused(GATEWAY, identity=identity) == (
        f"the certificate of C=CH, O=Red, CN=gw is not for {identity}: "
        "it names C=CH, O=Red, CN=gw; gw.red.example; gw@red.example; 192.0.2.7"
    )


def test_certificate_without_alternative_names_is_known_by_its_subject() -> None:
    shown = make("CN=gw", AUTHORITY)

    assert check(shown, identity="CN=gw") == shown.key.public_key()


def test_domain_name_is_not_taken_from_the_common_name() -> None:
    assert "it names CN=gw.red.example" in refused(
        make("CN=gw.red.example", AUTHORITY), identity="gw.red.example"
    )


def test_authority_of_another_tenant_cannot_vouch() -> None:
    assert refused(make("C=CH, O=Red, CN=gw", OTHER)) == (
        "the certificate of C=CH, O=Red, CN=gw is signed by none of this site's authorities "
        "(C=CH, O=Red, CN=Red root)"
    )


def test_authority_that_the_peer_brings_along_cannot_vouch() -> None:
    assert "none of this site's authorities" in refused(make("C=CH, O=Red, CN=gw", OTHER), OTHER)


def test_authority_of_the_same_name_with_another_key_cannot_vouch() -> None:
    impostor = make("C=CH, O=Red, CN=Red root", authority=True)

    assert "none of this site's authorities" in refused(make("C=CH, O=Red, CN=gw", impostor), impostor)


def test_chain_through_intermediate_authorities_is_followed_in_any_order() -> None:
    first = make("CN=Red sub 1", AUTHORITY, authority=True)
    second = make("CN=Red sub 2", first, authority=True)
    shown = make("CN=gw", second)

    assert check(shown, second, first, identity="CN=gw") == shown.key.public_key()
    assert check(shown, first, OTHER, second, identity="CN=gw") == shown.key.public_key()


def test_chain_with_a_gap_is_refused() -> None:
    first = make("CN=Red sub 1", AUTHORITY, authority=True)
    second = make("CN=Red sub 2", first, authority=True)

    assert refused(make("CN=gw", second), second, identity="CN=gw") == (
        "the certificate of CN=gw is signed by none of this site's authorities "
        "(C=CH, O=Red, CN=Red root); its chain ends with CN=Red sub 2"
    )


def test_certificate_of_a_gateway_is_no_authority() -> None:
    impostor = make("CN=gw", GATEWAY)

    assert "has no basicConstraints" in refused(impostor, GATEWAY, identity="CN=gw")


def test_authority_whose_key_usage_is_not_to_sign_certificates_is_refused() -> None:
    sub = make("CN=Red sub", AUTHORITY, authority=True, usage=pki.key_usage(digital_signature=True))

    assert "not to sign certificates" in refused(make("CN=gw", sub), sub, identity="CN=gw")


def test_expired_certificate_is_refused_with_its_date() -> None:
    shown = make("CN=gw", AUTHORITY, validity=(NOW - 2 * DAY, NOW - DAY))

    assert refused(shown) == "the certificate of CN=gw expired on 2026-06-30 12:00 UTC"


def test_certificate_of_the_future_is_refused_with_its_date() -> None:
    shown = make("CN=gw", AUTHORITY, validity=(NOW + DAY, NOW + 2 * DAY))

    assert refused(shown) == "the certificate of CN=gw is not valid before 2026-07-02 12:00 UTC"


def test_expired_authority_is_refused_with_its_date() -> None:
    expired = make("CN=Red old", authority=True, validity=(NOW - 2 * DAY, NOW - DAY))
    shown = make("CN=gw", expired)

    assert refused(shown, credentials=trusting(expired)) == (
        "the certificate of CN=gw is signed by an authority that does not count: "
        "the certificate of CN=Red old expired on 2026-06-30 12:00 UTC"
    )


@pytest.mark.parametrize("purposes", [[], [IPSEC_IKE], [TLS_SERVER, CODE_SIGNING], ["2.5.29.37.0"]])
def test_certificate_for_ike_for_anything_or_for_tls_is_accepted(purposes: list[str]) -> None:
    check(make("CN=gw", AUTHORITY, purposes=purposes), identity="CN=gw")


def test_certificate_for_another_purpose_is_refused() -> None:
    shown = make("CN=gw", AUTHORITY, purposes=[CODE_SIGNING])

    assert "extended key usage does not allow IKE" in refused(shown, identity="CN=gw")


def test_certificate_whose_key_usage_is_not_to_sign_is_refused() -> None:
    shown = make("CN=gw", AUTHORITY, usage=pki.key_usage(key_encipherment=True))

    assert "key usage is not to sign" in refused(shown, identity="CN=gw")


def test_certificate_whose_key_usage_is_non_repudiation_is_accepted() -> None:
    check(make("CN=gw", AUTHORITY, usage=pki.key_usage(content_commitment=True)), identity="CN=gw")


def test_certificate_with_a_short_rsa_key_is_refused() -> None:
    shown = make("CN=gw", AUTHORITY, key=pki.rsa_key(1024))

    assert "RSA key of 1024 bits; 2048 are required" in refused(shown, identity="CN=gw")


def test_authority_with_a_short_rsa_key_cannot_vouch() -> None:
    weak = make("CN=Weak root", authority=True, key=pki.rsa_key(1024))

    refused(make("CN=gw", weak), identity="CN=gw", credentials=trusting(weak))


def test_certificate_with_an_elliptic_key_that_ike_does_not_know_is_refused() -> None:
    shown = make("CN=gw", AUTHORITY, key=ec.generate_private_key(ec.SECP256K1()))

    assert "key of a kind that is not accepted" in refused(shown, identity="CN=gw")


def test_certificate_signed_with_sha1_is_refused() -> None:
    root = make("CN=Red RSA", authority=True, key=pki.rsa_key())
    shown = make("CN=gw", root)
    # The library signs none with SHA-1. The algorithm's name is looked at before the signature is verified.
    sha256, sha1 = bytes.fromhex("06092a864886f70d01010b"), bytes.fromhex("06092a864886f70d010105")
    named_so = x509.load_der_x509_certificate(shown.payload.data.replace(sha256, sha1))

    words = refused(Holder(named_so, shown.key), identity="CN=gw", credentials=trusting(root))
    assert words == "the certificate of CN=gw is signed with SHA-1, which is not accepted"


def test_chain_by_rsa_pss_is_accepted() -> None:
    root = make("CN=Red RSA", authority=True, key=pki.rsa_key())
    shown = make("CN=gw", root, pss=True)

    check(shown, identity="CN=gw", credentials=trusting(root))


def test_self_signed_certificate_is_believed_where_it_is_the_sites_authority_itself() -> None:
    pinned = make("CN=gw", alternative=["gw.red.example"])

    check(pinned, identity="gw.red.example", credentials=trusting(pinned))
    refused(
        make("CN=gw", alternative=["gw.red.example"]), identity="gw.red.example", credentials=trusting(pinned)
    )


def test_revoked_certificate_is_refused() -> None:
    lists = (pki.revocation_list(AUTHORITY, [GATEWAY]),)

    assert refused(GATEWAY, credentials=trusting(AUTHORITY, lists=lists)) == (
        "the certificate of C=CH, O=Red, CN=gw was revoked on 2026-06-30 12:00 UTC"
    )


def test_certificate_that_its_authoritys_list_does_not_name_is_accepted() -> None:
    revoked = make("CN=gone", AUTHORITY)
    lists = (pki.revocation_list(OTHER, [GATEWAY]), pki.revocation_list(AUTHORITY, [revoked]))

    check(GATEWAY, credentials=trusting(AUTHORITY, lists=lists))


def test_revoked_intermediate_authority_is_refused() -> None:
    sub = make("CN=Red sub", AUTHORITY, authority=True)
    lists = (pki.revocation_list(AUTHORITY, [sub]),)

    words = refused(make("CN=gw", sub), sub, identity="CN=gw", credentials=trusting(AUTHORITY, lists=lists))
    assert words.startswith("the certificate of CN=Red sub was revoked")


def test_expired_revocation_list_refuses_and_says_so() -> None:
    lists = (pki.revocation_list(AUTHORITY, updates=(NOW - 2 * DAY, NOW - DAY)),)

    assert refused(GATEWAY, credentials=trusting(AUTHORITY, lists=lists)) == (
        "the revocation list of C=CH, O=Red, CN=Red root expired on 2026-06-30 12:00 UTC; fetch a newer one"
    )


def test_revocation_list_of_the_future_refuses() -> None:
    lists = (pki.revocation_list(AUTHORITY, updates=(NOW + DAY, NOW + 2 * DAY)),)

    assert "is not valid before" in refused(GATEWAY, credentials=trusting(AUTHORITY, lists=lists))


def test_revocation_list_with_another_signature_refuses() -> None:
    lists = (pki.revocation_list(AUTHORITY, signed_by=OTHER),)

    assert "not signed by that authority" in refused(GATEWAY, credentials=trusting(AUTHORITY, lists=lists))


def test_revocation_list_of_an_authority_that_may_not_sign_lists_refuses() -> None:
    root = make("CN=root", authority=True, usage=pki.key_usage(key_cert_sign=True))
    lists = (pki.revocation_list(root),)

    words = refused(make("CN=gw", root), identity="CN=gw", credentials=trusting(root, lists=lists))
    assert "not signed by that authority" in words


def test_peer_without_a_certificate_is_refused() -> None:
    crl = Certificate(CertificateEncoding.CRL, GATEWAY.payload.data)
    for payloads in ([], [crl]):
        with pytest.raises(NotTrusted, match="the peer sent no certificate"):
            certificates.verified_key_untrusted(payloads, Identity.parse("CN=gw"), trusting(AUTHORITY), NOW)


def test_octets_that_are_no_certificate_are_refused_only_in_the_first_place() -> None:
    garbage = Certificate(CertificateEncoding.X509_SIGNATURE, b"garbage")
    identity = Identity.parse("gw.red.example")

    certificates.verified_key_untrusted([GATEWAY.payload, garbage], identity, trusting(AUTHORITY), NOW)
    with pytest.raises(NotTrusted, match="cannot be read"):
        certificates.verified_key_untrusted([garbage, GATEWAY.payload], identity, trusting(AUTHORITY), NOW)


def test_site_without_authorities_trusts_nobody() -> None:
    assert "no authority may vouch" in refused(GATEWAY, credentials=Credentials(psk=None))


def test_time_may_be_in_any_zone() -> None:
    from datetime import timezone

    elsewhere = (NOW + 29.9 * DAY).astimezone(timezone(timedelta(hours=13)))
    payloads = [GATEWAY.payload]
    certificates.verified_key_untrusted(payloads, Identity.parse("192.0.2.7"), trusting(AUTHORITY), elsewhere)


def test_certificate_with_a_key_that_cannot_sign_in_ike_is_refused() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    builder = x509.CertificateBuilder().subject_name(GATEWAY.certificate.subject)
    builder = builder.issuer_name(AUTHORITY.certificate.subject).public_key(key.public_key()).serial_number(7)
    builder = builder.not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
    shown = Holder(builder.sign(AUTHORITY.key, hashes.SHA256()), GATEWAY.key)

    assert "of a kind that is not accepted" in refused(shown)
