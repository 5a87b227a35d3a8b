"""IKE_SA_INIT: algorithms, keys and nonces, before anybody has proved anything (RFC 7296 section 1.2).

All of it comes in the clear, so an attacker on the path can say whatever he
likes here; IKE_AUTH finds that out, as both sides sign what they sent. Until then
an error is only noted, and the request repeated (section 2.21.1), unless the
error itself says what to do: a cookie to be shown, another group to be used.
How often that is done is bounded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from policies.errors import MalformedPacket
from policies.secret import Secret
from tunnels.effects import Cause, Effect, Path, SiteKey, SiteTrouble
from tunnels.ike import credentials, nat, signatures, transforms, wire
from tunnels.ike.constants import MAJOR_VERSION, CertificateEncoding, ExchangeType, NotifyType
from tunnels.ike.entropy import Entropy
from tunnels.ike.exchange import Retransmission
from tunnels.ike.ike_sa import IkeSa
from tunnels.ike.keys import NONCE_LENGTH, KeyPair, Nonces, ike_keys
from tunnels.ike.nat import Nat
from tunnels.ike.payloads import (
    CertificateRequest,
    Header,
    KeyExchange,
    Message,
    Nonce,
    Notify,
    Payload,
    SecurityAssociation,
    first_of,
    notified,
)
from tunnels.ike.policy import PeerPolicy
from tunnels.ike.rejected import Refused, UnsupportedCriticalPayload, cause_of
from tunnels.ike.spis import NO_SPI, fresh_spi

_LONGEST_COOKIE = 64
# How often an initiator does what an answer in the clear asks of it.
_MOST_COOKIES = 5
_MOST_GROUPS = 4

# In the clear a responder names no more: what it sends to strangers stays short, can't be fragmented
# (RFC 7383 section 2.1), no longer than `admission` reckons, and need not list the customers' authorities.
_MOST_AUTHORITIES = 1

UNKNOWN_SITE: SiteKey = ("", "")
"""Whose IKE SA it is, until IKE_AUTH has shown it to a responder."""


class Agreed(msgspec.Struct, frozen=True):
    """What both sides know after IKE_SA_INIT."""

    sa: IkeSa
    path: Path
    """Where IKE_AUTH goes to."""
    nat: Nat
    own_message: bytes
    """As it was sent last: IKE_AUTH signs it (section 2.15)."""
    peer_message: bytes
    own_nonce: bytes
    peer_nonce: bytes
    peer_hashes: frozenset[int]
    """With which the peer can verify signatures (RFC 7427 section 4); empty: only the old way."""
    may_fragment: bool

    @property
    def nonces(self) -> Nonces:
        own, peers = self.own_nonce, self.peer_nonce
        return Nonces(own, peers) if self.sa.is_initiator else Nonces(peers, own)


class Initiation:
    """The initiator's side, from the first message to the answer that keys can be made of."""

    def __init__(self, policy: PeerPolicy, path: Path, entropy: Entropy) -> None:
        self.own_spi = fresh_spi(entropy)
        self.note: SiteTrouble | None = None
        """What the last error said that came; in the clear, so it may be a lie."""
        self._policy = policy
        self._path = path
        self._entropy = entropy
        self._nonce = entropy.octets(NONCE_LENGTH)
        self._offer = transforms.offer_ike(policy.ike_proposals)
        self._groups = tuple(dict.fromkeys(each for one in policy.ike_proposals for each in one.groups))
        self._pair = KeyPair.generate(self._groups[0], entropy)
        self._group = self._groups[0]
        self._cookie: bytes | None = None
        self._cookies = self._changes = 0
        self._message = b""
        self.retransmission = Retransmission(())

    def start(self, now: float) -> list[Effect]:
        """Send the request as it is now, and go on repeating it."""
        pretend = self._policy.force_udp
        payloads: list[Payload] = [
            self._offer,
            KeyExchange(transforms.group_number(self._group), self._pair.public),
            Nonce(self._nonce),
            *nat.detection_payloads(self.own_spi, NO_SPI, self._path, pretend=pretend),
            Notify(NotifyType.FRAGMENTATION_SUPPORTED),
            Notify(NotifyType.SIGNATURE_HASH_ALGORITHMS, signatures.HASHES),
        ]
        if self._cookie is not None:
            payloads.insert(0, Notify(NotifyType.COOKIE, self._cookie))
        header = Header(
            self.own_spi, NO_SPI, ExchangeType.IKE_SA_INIT, 0, is_response=False, from_initiator=True
        )
        self._message = wire.encode_message(header, payloads)
        self.retransmission = Retransmission((self._message,))
        return self.retransmission.transmit(self._path, now)

    def handle_response_untrusted(
        self, header: Header, path: Path, datagram: bytes, now: float
    ) -> Agreed | list[Effect]:
        """Take what claims to be the answer."""
        if not header.is_response or header.from_initiator or header.message_id != 0:
            return []
        if header.initiator_spi != self.own_spi or header.major_version != MAJOR_VERSION:
            return []
        try:
            payloads = wire.decode_message_untrusted(datagram).payloads
            answer = first_of(SecurityAssociation, payloads)
            if answer is None:
                return self._heed(payloads, now)
            return self._agree(header, path, datagram, answer, payloads)
        except (MalformedPacket, UnsupportedCriticalPayload):
            return []
        except Refused as refused:
            return self._trouble(refused.words, refused.cause)

    def _agree(
        self,
        header: Header,
        path: Path,
        datagram: bytes,
        answer: SecurityAssociation,
        payloads: tuple[Payload, ...],
    ) -> Agreed:
        suite, _ = transforms.accepted_ike(answer, self._offer)
        value, nonce = first_of(KeyExchange, payloads), first_of(Nonce, payloads)
        if value is None or nonce is None or header.responder_spi == NO_SPI:
            raise Refused(NotifyType.INVALID_SYNTAX, "the peer's answer has no public value, nonce or SPI")
        if suite.group is not self._group or value.group != transforms.group_number(suite.group):
            raise Refused(NotifyType.INVALID_SYNTAX, "the peer answered with another group than it was asked")
        keys = ike_keys(
            suite,
            self._pair.shared(value.data),
            Nonces(self._nonce, nonce.data),
            self.own_spi,
            header.responder_spi,
        )
        found = nat.detected(self.own_spi, header.responder_spi, path, payloads)
        to_nat_port = found.is_there or (self._policy.force_udp and _knows_nat(payloads))
        return Agreed(
            sa=IkeSa(self._policy.site, True, self.own_spi, header.responder_spi, suite, keys),
            path=nat.on_nat_port(self._path) if to_nat_port else self._path,
            nat=found,
            own_message=self._message,
            peer_message=datagram,
            own_nonce=self._nonce,
            peer_nonce=nonce.data,
            peer_hashes=_hashes(payloads),
            may_fragment=notified(NotifyType.FRAGMENTATION_SUPPORTED, payloads) is not None,
        )

    def _heed(self, payloads: tuple[Payload, ...], now: float) -> list[Effect]:
        """Do what the answer asks for, or note why there is none."""
        for each in payloads:
            if not isinstance(each, Notify):
                continue
            if each.type == NotifyType.COOKIE:
                return self._show(each.data, now)
            if each.type == NotifyType.INVALID_KE_PAYLOAD:
                return self._change_group(each.data, now)
            if each.is_error:
                return self._trouble(refusal_words(each.type, self._policy), cause_of(each.type))
        return []

    def _show(self, cookie: bytes, now: float) -> list[Effect]:
        if not 0 < len(cookie) <= _LONGEST_COOKIE or self._cookies == _MOST_COOKIES:
            return []
        if cookie == self._cookie:
            return []  # a late copy of an answer that we have already heeded
        self._cookies += 1
        self._cookie = cookie
        return self.start(now)

    def _change_group(self, data: bytes, now: float) -> list[Effect]:
        number = int.from_bytes(data)
        wanted = transforms.group_of(number)
        if len(data) != 2 or wanted is self._group:
            return []
        if wanted is None or wanted not in self._groups:
            allowed = ", ".join(self._groups)
            name = transforms.group_name(number)
            words = f"the peer wants the group {name}, we require one of {allowed}"
            return self._trouble(words, Cause.NO_PROPOSAL)
        if self._changes == _MOST_GROUPS:
            return []
        # All that we would accept is offered again, and the group is one of it: an attacker
        # can choose among what the policy allows, and can't add to it (section 1.2).
        self._changes += 1
        self._group = wanted
        self._pair = KeyPair.generate(wanted, self._entropy)
        return self.start(now)

    def _trouble(self, words: str, cause: Cause) -> list[Effect]:
        if self.note is not None and words == self.note.reason:
            return []
        self.note = SiteTrouble(self._policy.site, words, cause, goes_on=True)
        return [self.note]


def respond(
    policies: Sequence[PeerPolicy], path: Path, request: Message, octets: bytes, entropy: Entropy
) -> Agreed:
    """Answer a first message; `own_message` of what is returned is the response.

    All policies have the first one's proposals. Raises Refused, and MalformedPacket where
    a payload that has to be there is missing.
    """
    offer, value = first_of(SecurityAssociation, request.payloads), first_of(KeyExchange, request.payloads)
    nonce = first_of(Nonce, request.payloads)
    if offer is None or value is None or nonce is None:
        raise MalformedPacket("an IKE_SA_INIT request without SA, KE or nonce")
    sent = transforms.group_of(value.group)
    suite, chosen, _ = transforms.choose_ike(offer, policies[0].ike_proposals, sent_group=sent)
    if sent is not suite.group:
        number = transforms.group_number(suite.group)
        words = f"the peer began with {transforms.group_name(value.group)}, we ask for {suite.group}"
        raise Refused(NotifyType.INVALID_KE_PAYLOAD, words, number.to_bytes(2))
    pair = KeyPair.generate(suite.group, entropy)
    shared: Secret = pair.shared(value.data)
    own_spi, own_nonce = fresh_spi(entropy), entropy.octets(NONCE_LENGTH)
    initiator_spi = request.header.initiator_spi
    pretend = any(policy.force_udp for policy in policies)
    answer: list[Payload] = [
        SecurityAssociation((chosen,)),
        KeyExchange(value.group, pair.public),
        Nonce(own_nonce),
    ]
    if _knows_nat(request.payloads):
        answer += nat.detection_payloads(initiator_spi, own_spi, path, pretend=pretend)
    answer += certificate_request(policies, most=_MOST_AUTHORITIES)
    may_fragment = notified(NotifyType.FRAGMENTATION_SUPPORTED, request.payloads) is not None
    if may_fragment:
        answer.append(Notify(NotifyType.FRAGMENTATION_SUPPORTED))
    peer_hashes = _hashes(request.payloads)
    if peer_hashes:
        answer.append(Notify(NotifyType.SIGNATURE_HASH_ALGORITHMS, signatures.HASHES))
    header = Header(
        initiator_spi, own_spi, ExchangeType.IKE_SA_INIT, 0, is_response=True, from_initiator=False
    )
    keys = ike_keys(suite, shared, Nonces(nonce.data, own_nonce), initiator_spi, own_spi)
    site = policies[0].site if len(policies) == 1 else UNKNOWN_SITE
    return Agreed(
        sa=IkeSa(site, False, own_spi, initiator_spi, suite, keys),
        path=path,
        nat=nat.detected(initiator_spi, NO_SPI, path, request.payloads),
        own_message=wire.encode_message(header, answer),
        peer_message=octets,
        own_nonce=own_nonce,
        peer_nonce=nonce.data,
        peer_hashes=peer_hashes,
        may_fragment=may_fragment,
    )


def certificate_request(
    policies: Iterable[PeerPolicy], most: int | None = None
) -> tuple[CertificateRequest, ...]:
    """Ask for a certificate, where authorities may vouch for the peer (section 3.7).

    Of more than `most` authorities none is named: any certificate is asked for.
    """
    keys = dict.fromkeys(
        credentials.public_octets(authority.public_key())
        for policy in policies
        for authority in policy.credentials.authorities
    )
    if not keys:
        return ()
    named = keys if most is None or len(keys) <= most else ()
    # It names keys and protects nothing, so SHA-1 does.
    hashes = b"".join(hashlib.sha1(key, usedforsecurity=False).digest() for key in named)
    return (CertificateRequest(CertificateEncoding.X509_SIGNATURE, hashes),)


def error_response(request: Header, refused: Refused) -> bytes:
    """Return the answer to a first message that leads to no IKE SA: our SPI stays zero (section 2.6)."""
    header = Header(
        request.initiator_spi, NO_SPI, ExchangeType.IKE_SA_INIT, 0, is_response=True, from_initiator=False
    )
    return wire.encode_message(header, (Notify(refused.notify, refused.data),))


def refusal_words(notify: NotifyType | int, policy: PeerPolicy) -> str:
    """Say for people what a peer's error means for the site."""
    if notify == NotifyType.NO_PROPOSAL_CHOSEN:
        ours = ", ".join(map(str, policy.ike_proposals))
        return f"the peer accepted none of our proposals ({ours})"
    if notify == NotifyType.AUTHENTICATION_FAILED:
        proof = "secret" if policy.credentials.key is None else "certificate"
        return (
            f"the peer says AUTHENTICATION_FAILED: it does not accept our identity {policy.local_id} "
            f"or our {proof}"
        )
    if notify == NotifyType.INVALID_MAJOR_VERSION:
        return "the peer does not speak IKEv2"
    return f"the peer says {notify.name if isinstance(notify, NotifyType) else f'error {notify}'}"


def _knows_nat(payloads: Sequence[Payload]) -> bool:
    return notified(NotifyType.NAT_DETECTION_SOURCE_IP, payloads) is not None


def _hashes(payloads: Sequence[Payload]) -> frozenset[int]:
    found = notified(NotifyType.SIGNATURE_HASH_ALGORITHMS, payloads)
    data = found.data if found is not None else b""
    return frozenset(int.from_bytes(data[place : place + 2]) for place in range(0, len(data), 2))
