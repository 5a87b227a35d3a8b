from __future__ import annotations

import hmac
from hashlib import sha256

import msgspec
import pytest

from policies.addresses import ProviderAddress
from policies.ipsec import MODERN_ESP, MODERN_IKE, Lifetimes, Prf, SiteStart
from policies.secret import Secret
from tests.tunnels.ike import pki
from tests.tunnels.ike.pki import NOW, Holder, make
from tunnels.ike import proof
from tunnels.ike.constants import AuthMethod, NotifyType
from tunnels.ike.credentials import Credentials, SigningKey
from tunnels.ike.identities import Identity
from tunnels.ike.payloads import Authentication, Certificate, Identification
from tunnels.ike.policy import PeerPolicy
from tunnels.ike.proof import AuthenticationFailed

RED, BLUE = make("CN=Red root", authority=True), make("CN=Blue root", authority=True)
GATEWAY = make("CN=gw", RED, alternative=["gw.red.example"])
IMPOSTOR = make("CN=gw", BLUE, alternative=["gw.red.example"])
MESSAGE, NONCE, KEY = b"an IKE_SA_INIT message", b"the other's nonce", Secret(b"SK_p" * 8)
SHA2 = frozenset({2, 3, 4})
PSK, OTHER_PSK = Secret(b"correct horse"), Secret(b"battery staple")


def policy(local: str, remote: str, credentials: Credentials) -> PeerPolicy:
    return PeerPolicy(
        site=("red", "hq"),
        start=SiteStart.START,
        local_addresses=(ProviderAddress.parse("192.0.2.1"),),
        remote_address=None,
        local_id=Identity.parse(local),
        remote_id=Identity.parse(remote),
        credentials=credentials,
        ike_proposals=MODERN_IKE,
        esp_proposals=MODERN_ESP,
        children=(),
        lifetimes=Lifetimes(),
        liveness=10,
        force_udp=False,
    )


def holder_of(holder: Holder) -> Credentials:
    return Credentials(certificates=(holder.certificate,), key=SigningKey(holder.key))


def body(identity: str) -> bytes:
    parsed = Identity.parse(identity)
    return Identification(True, parsed.type, parsed.data).body


def signed(
    credentials: Credentials, identity: str = "gw.red.example", hashes: frozenset[int] = SHA2
) -> Authentication:
    """What the peer's side makes of its credentials."""
    peer = policy(identity, "edge.example", credentials)
    return proof.sign(peer, MESSAGE, NONCE, body(identity), KEY, Prf.SHA2_256, hashes)


def verify(
    auth: Authentication,
    credentials: Credentials,
    *shown: Holder,
    identity: str = "gw.red.example",
    message: bytes = MESSAGE,
    nonce: bytes = NONCE,
    key: Secret = KEY,
) -> None:
    ours = policy("edge.example", "gw.red.example", credentials)
    certificates: list[Certificate] = [each.payload for each in shown]
    proof.verify(ours, auth, message, nonce, body(identity), key, Prf.SHA2_256, certificates, NOW)


def test_shared_secret_proves_as_section_2_15_of_rfc_7296_says() -> None:
    auth = signed(Credentials(psk=PSK))

    padded = hmac.digest(PSK, b"Key Pad for IKEv2", sha256)
    identity = hmac.digest(KEY, bytes((2, 0, 0, 0)) + b"gw.red.example", sha256)
    assert auth == Authentication(
        AuthMethod.SHARED_KEY, hmac.digest(padded, MESSAGE + NONCE + identity, sha256)
    )
    verify(auth, Credentials(psk=PSK))


def test_wrong_shared_secret_is_refused_and_the_peer_is_told_only_that_it_failed() -> None:
    with pytest.raises(AuthenticationFailed) as caught:
        verify(signed(Credentials(psk=OTHER_PSK)), Credentials(psk=PSK))

    assert str(caught.value) == "gw.red.example has the wrong shared secret"
    assert caught.value.notify == NotifyType.AUTHENTICATION_FAILED
    assert caught.value.data == b""


def test_proof_for_another_message_nonce_or_key_is_refused() -> None:
    for credentials, trusted, shown in (
        (Credentials(psk=PSK), Credentials(psk=PSK), []),
        (holder_of(GATEWAY), Credentials(authorities=(RED.certificate,)), [GATEWAY]),
    ):
        auth = signed(credentials)
        verify(auth, trusted, *shown)
        with pytest.raises(AuthenticationFailed):
            verify(auth, trusted, *shown, message=MESSAGE + b"!")
        with pytest.raises(AuthenticationFailed):
            verify(auth, trusted, *shown, nonce=NONCE + b"!")
        with pytest.raises(AuthenticationFailed):
            verify(auth, trusted, *shown, key=Secret(bytes(32)))


def test_peer_with_another_identity_is_refused_though_it_knows_the_secret() -> None:
    auth = signed(Credentials(psk=PSK), "gw.blue.example")

    with pytest.raises(AuthenticationFailed) as caught:
        verify(auth, Credentials(psk=PSK), identity="gw.blue.example")
    assert str(caught.value) == "the peer says it is gw.blue.example, it should be gw.red.example"


def test_certificate_proves_whatever_signs_it() -> None:
    trusted = Credentials(authorities=(RED.certificate,))
    for hashes in (SHA2, frozenset[int]()):
        verify(signed(holder_of(GATEWAY), hashes=hashes), trusted, GATEWAY)


def test_holder_of_a_certificate_by_rsa_pss_signs_by_rsa_pss() -> None:
    root = make("CN=root", authority=True, key=pki.rsa_key())
    shown = make("CN=gw", root, key=pki.rsa_key(2048, 1), alternative=["gw.red.example"], pss=True)

    auth = signed(holder_of(shown))
    assert bytes.fromhex("06092a864886f70d01010a") in auth.data[:20]
    verify(auth, Credentials(authorities=(root.certificate,)), shown)


def test_authority_of_another_tenant_vouches_for_nobody() -> None:
    auth = signed(holder_of(IMPOSTOR))

    verify(auth, Credentials(authorities=(BLUE.certificate,)), IMPOSTOR)
    with pytest.raises(AuthenticationFailed) as caught:
        verify(auth, Credentials(authorities=(RED.certificate,)), IMPOSTOR, BLUE)
    assert str(caught.value) == (
        "the certificate of CN=gw is signed by none of this site's authorities (CN=Red root); "
        "its chain ends with CN=Blue root"
    )
    assert caught.value.notify == NotifyType.AUTHENTICATION_FAILED


def test_certificate_of_somebody_else_does_not_verify_a_signature() -> None:
    other = make("CN=gw", RED, alternative=["gw.red.example"])

    with pytest.raises(AuthenticationFailed, match="does not verify"):
        verify(signed(holder_of(other)), Credentials(authorities=(RED.certificate,)), GATEWAY)


def test_good_certificate_for_another_identity_is_refused() -> None:
    other = make("CN=gw2", RED, alternative=["gw2.red.example"])

    with pytest.raises(AuthenticationFailed, match=r"it names CN=gw2; gw2\.red\.example"):
        verify(signed(holder_of(other)), Credentials(authorities=(RED.certificate,)), other)


def test_shared_secret_is_not_enough_where_authorities_are_named() -> None:
    both = Credentials(psk=PSK, authorities=(RED.certificate,))

    with pytest.raises(AuthenticationFailed, match="we require a certificate"):
        verify(signed(Credentials(psk=PSK)), both)


def test_certificate_is_no_answer_where_the_shared_secret_is_asked_for() -> None:
    with pytest.raises(
        AuthenticationFailed, match="signs by digital signature, we require the shared secret"
    ):
        verify(signed(holder_of(GATEWAY)), Credentials(psk=PSK), GATEWAY)


def test_we_sign_by_certificate_and_may_expect_the_shared_secret() -> None:
    ours = msgspec.structs.replace(holder_of(GATEWAY), psk=PSK)

    assert signed(ours).method == AuthMethod.DIGITAL_SIGNATURE
    verify(signed(Credentials(psk=PSK)), ours)


def test_no_failure_tells_a_secret() -> None:
    for auth, credentials in (
        (signed(Credentials(psk=OTHER_PSK)), Credentials(psk=PSK)),
        (signed(Credentials(psk=OTHER_PSK)), Credentials(psk=PSK, authorities=(RED.certificate,))),
        (signed(holder_of(GATEWAY)), Credentials(psk=PSK)),
    ):
        with pytest.raises(AuthenticationFailed) as caught:
            verify(auth, credentials)
        told = f"{caught.value} {caught.value!r}"
        for secret in (PSK, OTHER_PSK, KEY, auth.data):
            assert bytes(secret).hex() not in told
            assert repr(bytes(secret))[2:-1] not in told
