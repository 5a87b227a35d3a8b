"""Whatever a peer sends as certificates: it is trusted or not, and nothing else is raised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tests.fuzz.mutation import INPUTS, mutations
from tests.tunnels.ike import pki
from tests.tunnels.ike.pki import NOW, make
from tunnels.ike import certificates, identities
from tunnels.ike.certificates import NotTrusted
from tunnels.ike.constants import CertificateEncoding
from tunnels.ike.credentials import Credentials
from tunnels.ike.identities import Identity
from tunnels.ike.payloads import Certificate

ROOT = make("C=CH, O=Red, CN=Red root", authority=True)
SUB = make("CN=Red sub", ROOT, authority=True, usage=pki.key_usage(key_cert_sign=True, crl_sign=True))
NAMES = ["gw.red.example", "gw@red.example", "192.0.2.7", "2001:db8::7"]
GATEWAYS = [
    make("CN=gw", SUB, alternative=NAMES, purposes=["1.3.6.1.5.5.7.3.17"]),
    make("CN=gw", SUB, key=pki.rsa_key(), alternative=NAMES, usage=pki.key_usage(digital_signature=True)),
    make("CN=gw", SUB, alternative=NAMES),
]
TRUSTED = Credentials(authorities=(ROOT.certificate,), revocations=(pki.revocation_list(SUB),))
IDENTITY = Identity.parse("gw.red.example")
_ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def signed(content: bytes) -> bytes:
    """Sign a certificate's content as the authority would: so it gets beyond the first look."""
    assert isinstance(SUB.key, ec.EllipticCurvePrivateKey)
    signature = SUB.key.sign(content, ec.ECDSA(hashes.SHA256()))
    return _sequence(content + _ECDSA_WITH_SHA256 + bytes((3, len(signature) + 1, 0)) + signature)


def right_length(content: bytearray) -> None:
    if len(content) > 4:
        content[:4] = b"\x30\x82" + (len(content) - 4).to_bytes(2)


def _sequence(content: bytes) -> bytes:
    return b"\x30\x82" + len(content).to_bytes(2) + content


def trusted(*shown: bytes) -> bool:
    payloads = [Certificate(CertificateEncoding.X509_SIGNATURE, each) for each in shown]
    try:
        certificates.verified_key_untrusted(payloads, IDENTITY, TRUSTED, NOW)
    except NotTrusted as error:
        why = str(error)
    except Exception as failure:  # whatever else is raised is what we look for
        pytest.fail(f"{failure!r} for {[each.hex() for each in shown]}")
    else:
        return True
    assert why.isprintable(), why
    return False


def fuzz_whole(seed: int, count: int) -> None:
    corpus = [der(each.certificate) for each in (*GATEWAYS, SUB)]
    leaf, sub = corpus[0], corpus[3]
    assert trusted(leaf, sub)
    for data in mutations(corpus, seed, count):
        if data in corpus:
            continue
        assert not trusted(data, sub), data.hex()
        assert not trusted(leaf, data), data.hex()
        assert trusted(leaf, data, sub), data.hex()


def fuzz_signed(seed: int, count: int) -> None:
    contents = [each.certificate.tbs_certificate_bytes for each in GATEWAYS]
    results: Counter[bool] = Counter()
    for content in mutations(contents, seed, count, right_length):
        data = signed(content)
        results[believed := trusted(data, der(SUB.certificate))] += 1
        if believed:
            named = identities.identities_of(x509.load_der_x509_certificate(data))
            assert any(each.matches(IDENTITY) for each in named), data.hex()
    assert results[True] > count // 100, results
    assert results[False] > count // 10, results


FUZZ: list[Callable[[int, int], None]] = [fuzz_whole, fuzz_signed]


@pytest.mark.parametrize("fuzz", FUZZ)
def test_only_what_an_authority_signed_for_the_identity_is_trusted(fuzz: Callable[[int, int], None]) -> None:
    fuzz(7296, INPUTS // 10)


@pytest.mark.soak
@pytest.mark.parametrize("fuzz", FUZZ)
def test_only_what_an_authority_signed_is_trusted_of_many(fuzz: Callable[[int, int], None]) -> None:
    fuzz(4945, INPUTS // 10)
