"""Sessions by certificates, so large that IKE_AUTH goes in fragments (RFC 7296 section 2.15, RFC 7383)."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from policies.addresses import ProviderAddress
from policies.secret import Secret
from tests.tunnels.ike.pair import UTC_NOW, Datagram, Pair, pair
from tests.tunnels.ike.pki import DAY, Holder, make, rsa_key
from tests.tunnels.ike.policies import LEFT, LEFT_6, RIGHT, RIGHT_6, policy
from tunnels.ike import wire
from tunnels.ike.constants import ExchangeType, NotifyType, PayloadType
from tunnels.ike.credentials import Credentials, SigningKey
from tunnels.ike.nat import fragment_limit
from tunnels.ike.payloads import CertificateRequest, Notify
from tunnels.ike.signatures import PrivateKey

VALID = (UTC_NOW - DAY, UTC_NOW + DAY)
ROOT = make("CN=root", authority=True, validity=VALID)
OTHER_ROOT = make("CN=other", authority=True, validity=VALID)
BETWEEN = make("CN=between", ROOT, authority=True, validity=VALID)


def private_key(kind: str, name: str) -> PrivateKey:
    if kind == "rsa":
        return rsa_key(number=len(name))
    return ec.generate_private_key(ec.SECP384R1() if kind == "ec384" else ec.SECP256R1())


def gateway(name: str, key: str = "ec") -> Holder:
    return make(f"CN={name}", BETWEEN, key=private_key(key, name), alternative=[name], validity=VALID)


def by(holder: Holder, *chain: Holder, authority: Holder = ROOT) -> Credentials:
    return Credentials(
        certificates=(holder.certificate, *(each.certificate for each in chain)),
        key=SigningKey(holder.key),
        authorities=(authority.certificate,),
    )


def certified(
    key: str = "ec",
    *,
    addresses: tuple[ProviderAddress, ProviderAddress] = (LEFT, RIGHT),
    authority: Holder = ROOT,
) -> Pair:
    """Return two sides with a certificate each; the right one believes what `authority` vouches for."""
    left = by(gateway("left.example", key=key), BETWEEN)
    right = by(gateway("right.example", key=key), BETWEEN, authority=authority)
    return pair(
        policy(credentials=left, addresses=addresses),
        policy(is_left=False, credentials=right, addresses=addresses),
        addresses=addresses,
    )


def is_fragment(datagram: Datagram) -> bool:
    return datagram.header.next_payload == PayloadType.ENCRYPTED_FRAGMENT


@pytest.mark.parametrize("key", ["ec", "ec384", "rsa"])
def test_two_sides_come_up_by_certificates(key: str) -> None:
    both = certified(key)
    both.connect()
    assert both.left.troubles + both.right.troubles == []
    assert both.left.is_up
    assert both.right.is_up


def test_a_certificate_is_asked_for_in_the_clear_answer() -> None:
    both = certified()
    both.connect()
    (answer,) = both.of(ExchangeType.IKE_SA_INIT, is_response=True)
    payloads = wire.decode_message_untrusted(answer.message).payloads
    (request,) = (each for each in payloads if isinstance(each, CertificateRequest))
    assert len(request.authorities) == 20


@pytest.mark.parametrize("count", [2, 5])
def test_several_authorities_are_not_listed_to_strangers(count: int) -> None:
    roots = [make(f"CN=root {number}", authority=True, validity=VALID) for number in range(count - 1)]
    left = by(gateway("left.example"), BETWEEN)
    right = msgspec.structs.replace(
        by(gateway("right.example"), BETWEEN),
        authorities=tuple(each.certificate for each in (*roots, ROOT)),
    )
    both = pair(policy(credentials=left), policy(is_left=False, credentials=right))
    both.connect()
    (answer,) = both.of(ExchangeType.IKE_SA_INIT, is_response=True)
    payloads = wire.decode_message_untrusted(answer.message).payloads
    assert [each.authorities for each in payloads if isinstance(each, CertificateRequest)] == [b""]
    assert both.right.is_up


def test_another_authority_cannot_vouch_and_the_caller_hears_only_that_it_failed() -> None:
    both = certified(authority=OTHER_ROOT)
    both.connect(60)
    assert not both.right.is_up
    assert both.left.troubles == [
        "the peer says AUTHENTICATION_FAILED: it does not accept our identity left.example or our certificate"
    ]
    assert len(both.right.troubles) == 1


def test_one_side_may_show_a_certificate_and_the_other_a_secret() -> None:
    secret = Secret(b"for one direction only")
    holder = gateway("right.example")
    left = Credentials(psk=secret, authorities=(ROOT.certificate,))
    right = Credentials(
        psk=secret,
        certificates=(holder.certificate, BETWEEN.certificate),
        key=SigningKey(holder.key),
    )
    both = pair(policy(credentials=left), policy(is_left=False, credentials=right))
    both.connect()
    assert both.left.troubles + both.right.troubles == []
    assert both.left.is_up


@pytest.mark.parametrize("addresses", [(LEFT, RIGHT), (LEFT_6, RIGHT_6)])
def test_large_messages_go_in_fragments_that_no_network_has_to_cut(
    addresses: tuple[ProviderAddress, ProviderAddress],
) -> None:
    both = certified("rsa", addresses=addresses)
    both.connect()
    assert both.left.is_up
    fragments = [each for each in both.log if is_fragment(each)]
    assert len(fragments) >= 4
    for each in both.log:
        assert len(each.message) <= fragment_limit(each.path)


@pytest.mark.parametrize("lost", range(1, 9))
def test_any_fragment_may_be_lost_and_comes_again_as_it_was(lost: int) -> None:
    both = certified("rsa")
    seen = [0]

    def lose_one(datagram: Datagram) -> Iterable[tuple[float, Datagram]] | None:
        if not is_fragment(datagram):
            return None
        seen[0] += 1
        return () if seen[0] == lost else None

    both.rules.append(lose_one)
    both.connect()
    assert both.left.is_up
    assert both.right.is_up
    for is_response in (False, True):
        messages = [each.message for each in both.of(ExchangeType.IKE_AUTH, is_response=is_response)]
        count = len(dict.fromkeys(messages))
        assert len(messages) in (count, 2 * count)


def test_fragments_may_come_in_any_order_and_twice() -> None:
    both = certified("rsa")
    seen = [0]

    def mix(datagram: Datagram) -> Iterable[tuple[float, Datagram]] | None:
        seen[0] += 1
        return ((0.2 - seen[0] % 7 * 0.02, datagram), (0.25, datagram))

    both.rules.append(mix)
    both.connect()
    assert both.left.is_up
    assert both.right.is_up
    assert len(both.right.sessions) == 1


def test_of_a_repeated_request_only_the_first_fragment_asks_for_the_response() -> None:
    both = certified("rsa")
    both.connect()
    requests = both.of(ExchangeType.IKE_AUTH, is_response=False)
    assert len(requests) > 1
    session = both.right.session
    path = both.right.session.path
    both.now += 1
    for each in requests[1:]:
        assert session.handle_datagram_untrusted(path, each.message, both.now, UTC_NOW) == []
    assert len(session.handle_datagram_untrusted(path, requests[0].message, both.now, UTC_NOW)) > 1


def test_a_peer_that_does_not_know_fragments_gets_none() -> None:
    both = certified("rsa")

    def forget_fragments(datagram: Datagram) -> Iterable[tuple[float, Datagram]] | None:
        if datagram.exchange != ExchangeType.IKE_SA_INIT or not datagram.is_response:
            return None
        kept = [
            each
            for each in wire.decode_message_untrusted(datagram.message).payloads
            if not (isinstance(each, Notify) and each.type == NotifyType.FRAGMENTATION_SUPPORTED)
        ]
        return ((0.0, Datagram(datagram.path, wire.encode_message(datagram.header, kept))),)

    both.rules.append(forget_fragments)
    both.connect(0.02)
    (request,) = both.of(ExchangeType.IKE_AUTH, is_response=False)
    assert len(request.message) > fragment_limit(request.path)
