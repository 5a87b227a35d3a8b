"""Proof of identity: what each side signs, by shared secret or certificate (RFC 7296 section 2.15).

Every failure looks the same to the peer. Its words, for our log, say exactly what was wrong.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import datetime

from policies.ipsec import Prf
from policies.secret import Secret
from tunnels.effects import Cause
from tunnels.ike import certificates as trust
from tunnels.ike import keys, signatures
from tunnels.ike.constants import AuthMethod, IdType, NotifyType, named
from tunnels.ike.identities import Identity
from tunnels.ike.payloads import Authentication, Certificate
from tunnels.ike.policy import PeerPolicy
from tunnels.ike.rejected import Refused

_KEY_PAD = b"Key Pad for IKEv2"


class AuthenticationFailed(Refused):
    """The peer did not prove to be who it has to be. It is told only that."""

    def __init__(self, words: str, cause: Cause = Cause.AUTHENTICATION) -> None:
        super().__init__(NotifyType.AUTHENTICATION_FAILED, words, cause=cause)


def sign(
    policy: PeerPolicy,
    message: bytes,
    peer_nonce: bytes,
    own_id_body: bytes,
    auth_key: Secret,
    prf: Prf,
    peer_hashes: frozenset[int],
) -> Authentication:
    """Return our AUTH payload.

    `message` is our IKE_SA_INIT message as it was sent last, `auth_key` our SK_pi or SK_pr, and
    `peer_hashes` what the peer's SIGNATURE_HASH_ALGORITHMS announced. We sign with our private key where
    the site has one, else by the shared secret.
    """
    octets = _signed_octets(message, peer_nonce, own_id_body, auth_key, prf)
    ours = policy.credentials
    if ours.key is not None:
        method, data = signatures.sign(ours.key.key, octets, peer_hashes, pss=ours.signs_by_pss)
        return Authentication(method, data)
    if ours.psk is None:
        raise ValueError(f"site {policy.site} has neither a key nor a shared secret")
    return Authentication(AuthMethod.SHARED_KEY, _by_secret(ours.psk, octets, prf))


def verify(
    policy: PeerPolicy,
    auth: Authentication,
    peer_message: bytes,
    own_nonce: bytes,
    peer_id_body: bytes,
    peer_auth_key: Secret,
    prf: Prf,
    certificates: Sequence[Certificate],
    now_utc: datetime,
) -> None:
    """Check the peer's identity and its AUTH payload; return, or raise AuthenticationFailed.

    `certificates` are its CERT payloads, its own one first; `now_utc` is aware. A site with
    authorities believes only certificates, one without only the shared secret.
    """
    identity = Identity(named(IdType, peer_id_body[0]), peer_id_body[4:])
    if not identity.matches(policy.remote_id):
        raise AuthenticationFailed(f"the peer says it is {identity}, it should be {policy.remote_id}")
    octets = _signed_octets(peer_message, own_nonce, peer_id_body, peer_auth_key, prf)
    if policy.credentials.authorities:
        _verify_signature(policy, identity, auth, octets, certificates, now_utc)
    else:
        _verify_secret(policy, auth, octets, prf)


def _verify_secret(policy: PeerPolicy, auth: Authentication, octets: bytes, prf: Prf) -> None:
    if auth.method != AuthMethod.SHARED_KEY:
        method = signatures.describe_method(auth.method)
        raise AuthenticationFailed(f"the peer signs by {method}, we require the shared secret")
    if policy.credentials.psk is None:
        raise ValueError(f"site {policy.site} has neither authorities nor a shared secret")
    if not hmac.compare_digest(auth.data, _by_secret(policy.credentials.psk, octets, prf)):
        raise AuthenticationFailed(f"{policy.remote_id} has the wrong shared secret")


def _verify_signature(
    policy: PeerPolicy,
    identity: Identity,
    auth: Authentication,
    octets: bytes,
    certificates: Sequence[Certificate],
    now_utc: datetime,
) -> None:
    if auth.method == AuthMethod.SHARED_KEY:
        raise AuthenticationFailed("the peer shows a shared secret, we require a certificate")
    try:
        key = trust.verified_key_untrusted(certificates, identity, policy.credentials, now_utc)
        signatures.verify(key, auth.method, auth.data, octets)
    except trust.NotTrusted as error:
        raise AuthenticationFailed(str(error), Cause.CERTIFICATE) from None
    except signatures.BadSignature as error:
        raise AuthenticationFailed(str(error)) from None


def _signed_octets(message: bytes, nonce: bytes, id_body: bytes, auth_key: Secret, prf: Prf) -> bytes:
    return message + nonce + keys.prf(prf, auth_key, id_body)


def _by_secret(secret: Secret, octets: bytes, prf: Prf) -> bytes:
    return bytes(keys.prf(prf, keys.prf(prf, secret, _KEY_PAD), octets))
