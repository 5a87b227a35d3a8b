"""IKE_AUTH: both sides prove who they are (RFC 7296 sections 1.2 and 2.15).

A peer whose proof fails learns that and nothing else: not whether its identity is
known here, not what was wrong with the proof. The words go into our own log.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from tunnels.ike import proof
from tunnels.ike.constants import CertificateEncoding, NotifyType
from tunnels.ike.identities import Identity
from tunnels.ike.payloads import (
    Authentication,
    Certificate,
    Identification,
    Notify,
    Payload,
    error_in,
    first_of,
)
from tunnels.ike.policy import PeerPolicy
from tunnels.ike.rejected import Refused, cause_of
from tunnels.ike.sa_init import Agreed, certificate_request, refusal_words


def request(
    agreed: Agreed, policy: PeerPolicy, child: Sequence[Payload], *, initial_contact: bool
) -> tuple[Payload, ...]:
    """Return the initiator's payloads, in the RFC's order (appendix C.2)."""
    identification, certificates, auth = _proof(agreed, policy)
    payloads: list[Payload] = [identification, *certificates]
    if initial_contact:
        payloads.append(Notify(NotifyType.INITIAL_CONTACT))
    payloads += certificate_request((policy,))
    expected = policy.remote_id
    payloads.append(Identification(False, expected.type, expected.data))
    return (*payloads, auth, *child)


def response(agreed: Agreed, policy: PeerPolicy, child: Sequence[Payload]) -> tuple[Payload, ...]:
    """Return the responder's payloads, once the initiator has proved itself (appendix C.2)."""
    identification, certificates, auth = _proof(agreed, policy)
    return (identification, *certificates, auth, *child)


def choose(policies: Sequence[PeerPolicy], payloads: Sequence[Payload]) -> PeerPolicy | None:
    """Return the policy for an initiator: by who it says it is, and whom it wants to talk to.

    One that asks for an identity that is not ours may still mean us, where only one policy
    is for it: then it is told our identity, and decides (section 1.2).
    """
    identity = _identity(True, payloads)
    if identity is None:
        return None
    found = [each for each in policies if each.remote_id.matches(identity)]
    wanted = _identity(False, payloads)
    if wanted is not None:
        exact = [each for each in found if each.local_id.matches(wanted)]
        found = exact or found
    return found[0] if len(found) == 1 else None


def verify_initiator(
    agreed: Agreed, policies: Sequence[PeerPolicy], payloads: Sequence[Payload], utc: datetime
) -> PeerPolicy:
    """Return the policy of the peer that has proved itself. Raises Refused."""
    policy = choose(policies, payloads)
    if policy is not None:
        _verify(agreed, policy, payloads, utc)
        return policy
    identity, wanted = _identity(True, payloads), _identity(False, payloads)
    if identity is not None:
        # An unknown identity takes as long as a known one with a wrong proof, which it has.
        decoy = msgspec.structs.replace(policies[0], remote_id=identity)
        with suppress(Refused):
            _verify(agreed, decoy, payloads, utc)
    calling = "" if wanted is None else f" and calls us {wanted}"
    known = str(policies[0].remote_id) if len(policies) == 1 else "one of the sites that dial in from there"
    raise Refused(
        NotifyType.AUTHENTICATION_FAILED,
        f"the peer calls itself {identity or 'nothing'}{calling}, we expect {known}",
    )


def verify_responder(agreed: Agreed, policy: PeerPolicy, payloads: Sequence[Payload], utc: datetime) -> None:
    """Return only if the responder has proved that it is whom we called. Raises Refused."""
    if not has_proof(payloads):
        error = error_in(payloads)
        if error is None:
            raise Refused(NotifyType.AUTHENTICATION_FAILED, "the peer proves nothing")
        words = refusal_words(error.type, policy)
        raise Refused(NotifyType.AUTHENTICATION_FAILED, words, cause=cause_of(error.type))
    identity = _identity(False, payloads)
    if identity is None or not policy.remote_id.matches(identity):
        raise Refused(
            NotifyType.AUTHENTICATION_FAILED,
            f"the peer calls itself {identity or 'nothing'}, we expect {policy.remote_id}",
        )
    _verify(agreed, policy, payloads, utc)


def has_proof(payloads: Sequence[Payload]) -> bool:
    """Whether the responder answered by proving itself, well or badly: for it, the IKE SA stands."""
    return first_of(Authentication, payloads) is not None


def _proof(
    agreed: Agreed, policy: PeerPolicy
) -> tuple[Identification, tuple[Certificate, ...], Authentication]:
    sa = agreed.sa
    own = policy.local_id
    identification = Identification(sa.is_initiator, own.type, own.data)
    key = sa.keys.auth_initiator if sa.is_initiator else sa.keys.auth_responder
    auth = proof.sign(
        policy,
        agreed.own_message,
        agreed.peer_nonce,
        identification.body,
        key,
        sa.suite.prf,
        agreed.peer_hashes,
    )
    chain = policy.credentials.certificates if policy.credentials.key is not None else ()
    certificates = tuple(
        Certificate(CertificateEncoding.X509_SIGNATURE, each.public_bytes(Encoding.DER)) for each in chain
    )
    return identification, certificates, auth


def _verify(agreed: Agreed, policy: PeerPolicy, payloads: Sequence[Payload], utc: datetime) -> None:
    sa = agreed.sa
    identification = _identification(not sa.is_initiator, payloads)
    auth = first_of(Authentication, payloads)
    if identification is None or auth is None:
        raise Refused(NotifyType.AUTHENTICATION_FAILED, "the peer proves nothing; EAP is not spoken here")
    proof.verify(
        policy,
        auth,
        agreed.peer_message,
        agreed.own_nonce,
        identification.body,
        sa.keys.auth_responder if sa.is_initiator else sa.keys.auth_initiator,
        sa.suite.prf,
        [each for each in payloads if isinstance(each, Certificate)],
        utc,
    )


def _identification(of_initiator: bool, payloads: Sequence[Payload]) -> Identification | None:
    for each in payloads:
        if isinstance(each, Identification) and each.of_initiator == of_initiator:
            return each
    return None


def _identity(of_initiator: bool, payloads: Sequence[Payload]) -> Identity | None:
    found = _identification(of_initiator, payloads)
    return Identity(found.type, found.data) if found is not None else None
