"""Requests and responses under loss, repetition and nonsense (RFC 7296 sections 2.1 to 2.3 and 2.21)."""

from __future__ import annotations

import msgspec
import pytest

from tests.tunnels.ike.entropy import SeededEntropy
from tests.tunnels.ike.pair import UTC_NOW, Pair, Side, connected, drop, pair
from tests.tunnels.ike.policies import policy
from tunnels.effects import SendDatagram, SiteDown
from tunnels.ike import informational, wire
from tunnels.ike.constants import ExchangeType, NotifyType, PayloadType
from tunnels.ike.exchange import Answer, Request, Unreadable
from tunnels.ike.life import State
from tunnels.ike.payloads import Header, Notify, Payload, Unknown
from tunnels.ike.protection import Opened, Protection
from tunnels.ike.session import IkeSession

SIDES = pytest.mark.parametrize("name", ["left", "right"])


def protection(session: IkeSession, *, inbound: bool = False) -> Protection:
    """Return what a session's messages are sealed by, or with `inbound` what the peer's are."""
    sa = session._the_sa
    if sa.is_initiator is inbound:
        return Protection(sa.suite, sa.keys.encryption_responder, sa.keys.integrity_responder)
    return Protection(sa.suite, sa.keys.encryption_initiator, sa.keys.integrity_initiator)


def opened(session: IkeSession, message: bytes) -> Opened:
    return protection(session).open_untrusted(message)


def request(
    session: IkeSession, message_id: int, *payloads: Payload, exchange: int = ExchangeType.INFORMATIONAL
) -> bytes:
    """Return a request as a session's owner would send it, whatever the session thinks of it."""
    return protection(session).seal(
        header(session, message_id, exchange=exchange), payloads, SeededEntropy(99)
    )


def header(
    session: IkeSession,
    message_id: int,
    *,
    exchange: int = ExchangeType.INFORMATIONAL,
    is_response: bool = False,
) -> Header:
    sa = session._the_sa
    return Header(
        sa.initiator_spi, sa.responder_spi, exchange, message_id, is_response, from_initiator=sa.is_initiator
    )


def raw(session: IkeSession, message_id: int, first: int, plaintext: bytes, *, is_response: bool) -> bytes:
    """Return an authentic message whose content breaks the format."""
    sealing = protection(session)
    clear_header = msgspec.structs.replace(
        header(session, message_id, is_response=is_response), next_payload=PayloadType.ENCRYPTED
    )
    return sealing._sealed(clear_header, first, plaintext, None, SeededEntropy(98))


def sides(both: Pair, name: str) -> tuple[Side, Side]:
    return (both.left, both.right) if name == "left" else (both.right, both.left)


def hand(both: Pair, side: Side, message: bytes) -> list[SendDatagram]:
    path = side.session.path
    effects = side.session.handle_datagram_untrusted(path, message, both.now, UTC_NOW)
    both.carry_out(side, effects)
    return [each for each in effects if isinstance(each, SendDatagram)]


@pytest.mark.parametrize("exchange", [ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH])
@pytest.mark.parametrize("is_response", [False, True])
def test_a_lost_message_is_made_good_by_the_same_octets(exchange: ExchangeType, is_response: bool) -> None:
    both = pair()
    both.rules.append(drop(lambda each: each.exchange == exchange and each.is_response == is_response, 2))
    both.connect()
    assert both.left.is_up
    assert both.right.is_up
    requests = both.of(exchange, is_response=False)
    assert len(requests) == 3
    assert len({each.message for each in requests}) == 1
    assert len({each.message for each in both.of(exchange, is_response=True)}) == 1
    assert len(both.right.sessions) == 1


def test_what_is_never_answered_is_given_up_with_words() -> None:
    both = pair()
    both.rules.append(drop(lambda _: True, 1000))
    both.connect(60)
    assert both.left.troubles == ["no answer from 198.51.100.1 in 32 s"]
    assert both.left.session.state is State.CLOSED
    assert len(both.log) == 7
    assert both.left.session.deadline is None


@SIDES
def test_a_repeated_request_gets_the_same_response_and_does_nothing_else(name: str) -> None:
    both = connected()
    asking, answering = sides(both, name)
    asked = both.probe(asking)
    both.run(1)
    (response,) = both.of(ExchangeType.INFORMATIONAL, is_response=True)
    before = answering.session._protected._next_peers
    (again,) = hand(both, answering, asked.message)
    assert again.message == response.message
    assert answering.session._protected._next_peers == before
    assert hand(both, answering, asked.message) == [], "not at once again: it could be an attacker's"


@SIDES
def test_a_response_that_comes_twice_or_late_is_ignored(name: str) -> None:
    both = connected()
    asking, _ = sides(both, name)
    both.probe(asking)
    both.run(1)
    (response,) = both.of(ExchangeType.INFORMATIONAL, is_response=True)
    heard = asking.session._liveness._heard  # type: ignore[union-attr]
    both.now += 1
    assert (
        asking.session.handle_datagram_untrusted(asking.session.path, response.message, both.now, UTC_NOW)
        == []
    )
    assert asking.session._liveness._heard == heard  # type: ignore[union-attr]
    both.probe(asking)
    assert hand(both, asking, response.message) == []
    assert asking.session._protected.unanswered is not None
    both.run(1)
    assert asking.session._protected.unanswered is None


@SIDES
def test_a_request_outside_the_window_is_dropped(name: str) -> None:
    both = connected()
    asking, answering = sides(both, name)
    expected = answering.session._protected._next_peers
    for message_id in (expected + 1, expected + 100, 0xFFFFFFFF):
        assert hand(both, answering, request(asking.session, message_id)) == []
    assert len(hand(both, answering, request(asking.session, expected))) == 1


def test_requests_wait_for_each_other() -> None:
    both = connected()
    for _ in range(3):
        both.left.session._protected.submit(informational.probe())
    both.carry_out(both.left, both.left.session.go_on(both.now))
    assert len(both.log) == 1
    both.run(1)
    numbers = [each.header.message_id for each in both.of(ExchangeType.INFORMATIONAL, is_response=False)]
    assert numbers == [2, 3, 4]


def test_each_side_has_numbers_of_its_own() -> None:
    both = connected()
    assert both.probe(both.right).header.message_id == 0
    assert both.probe(both.left).header.message_id == 2


@SIDES
def test_both_may_ask_at_the_same_time(name: str) -> None:
    both = connected()
    for side in sides(both, name):
        both.probe(side)
    both.run(1)
    assert len(both.of(ExchangeType.INFORMATIONAL, is_response=True)) == 2


@SIDES
def test_a_malformed_authentic_request_is_told_and_ends_this_ike_sa(name: str) -> None:
    both = connected()
    asking, answering = sides(both, name)
    expected = answering.session._protected._next_peers
    broken = raw(asking.session, expected, PayloadType.NOTIFY, b"\x00\x00\x00\x03", is_response=False)
    (sent,) = hand(both, answering, broken)
    told = opened(answering.session, sent.message)
    assert wire.decode_payloads_untrusted(told.first_payload, told.plaintext) == (
        Notify(NotifyType.INVALID_SYNTAX),
    )
    assert answering.session.state is State.CLOSED
    assert not answering.installed
    assert "makes no sense" in answering.asked(SiteDown)[0].reason
    both.now += 1
    (again,) = hand(both, answering, broken)
    assert again.message == sent.message
    both.run(30)
    assert answering.session.deadline is None


@SIDES
def test_an_unknown_critical_payload_is_told_and_the_ike_sa_goes_on(name: str) -> None:
    both = connected()
    asking, answering = sides(both, name)
    expected = answering.session._protected._next_peers
    critical = raw(asking.session, expected, 99, b"\x00\x80\x00\x04", is_response=False)
    (sent,) = hand(both, answering, critical)
    told = opened(answering.session, sent.message)
    assert wire.decode_payloads_untrusted(told.first_payload, told.plaintext) == (
        Notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, bytes([99])),
    )
    assert answering.is_up
    assert len(hand(both, answering, request(asking.session, expected + 1, Unknown(99, b"fine")))) == 1


@SIDES
def test_an_exchange_that_nobody_has_announced_ends_the_ike_sa(name: str) -> None:
    both = connected()
    asking, answering = sides(both, name)
    expected = answering.session._protected._next_peers
    assert len(hand(both, answering, request(asking.session, expected, exchange=43))) == 1
    assert answering.session.state is State.CLOSED


@SIDES
def test_a_response_that_makes_no_sense_ends_the_ike_sa_at_the_peer_too(name: str) -> None:
    both = connected()
    asking, answering = sides(both, name)
    both.rules.append(drop(lambda each: each.is_response))
    asked = both.probe(asking)
    number = asked.header.message_id
    both.run(0.1)
    hand(both, asking, raw(answering.session, number, PayloadType.NOTIFY, b"\x00", is_response=True))
    assert asking.session.state is State.CLOSING
    assert "makes no sense" in asking.asked(SiteDown)[0].reason
    both.run(1)
    assert answering.session.state is State.CLOSED


@SIDES
def test_nothing_in_the_clear_touches_a_session_that_is_up(name: str) -> None:
    both = connected()
    asking, answering = sides(both, name)
    for exchange in (*ExchangeType, 38, 240):
        for notify in NotifyType:
            for is_response in (False, True):
                for message_id in (0, 1, 2):
                    clear = wire.encode_message(
                        header(asking.session, message_id, exchange=exchange, is_response=is_response),
                        (Notify(notify),),
                    )
                    assert hand(both, answering, clear) == []
    assert answering.is_up
    both.probe(asking)
    both.run(1)
    assert len(both.of(ExchangeType.INFORMATIONAL, is_response=True)) == 1


@SIDES
def test_a_message_reflected_to_its_sender_is_dropped(name: str) -> None:
    both = connected()
    asking, _ = sides(both, name)
    asked = both.probe(asking)
    assert hand(both, asking, asked.message) == []


def test_exchanges_show_only_what_is_authentic_whole_and_new() -> None:
    both = connected()
    left, right = both.left.session, both.right.session
    exchanges = right._protected
    number = exchanges._next_peers
    fine = request(left, number, Notify(NotifyType.INITIAL_CONTACT))
    head = wire.decode_header_untrusted(fine)
    received = exchanges.receive_untrusted(head, right.path, fine, both.now)
    assert received == Request(ExchangeType.INFORMATIONAL, number, (Notify(NotifyType.INITIAL_CONTACT),))
    changed = fine[:-1] + bytes([fine[-1] ^ 1])
    assert exchanges.receive_untrusted(head, right.path, changed, both.now) is None
    broken = raw(left, number, PayloadType.NONCE, b"\x00\x00\x00\x05x", is_response=False)
    unreadable = exchanges.receive_untrusted(
        wire.decode_header_untrusted(broken), right.path, broken, both.now
    )
    assert isinstance(unreadable, Unreadable)
    assert not isinstance(unreadable, Answer)


def test_a_request_before_the_proof_of_identity_is_not_answered() -> None:
    both = pair()
    both.rules.append(drop(lambda each: each.exchange == ExchangeType.IKE_AUTH, 1000))
    both.connect(1)
    right = both.right.session
    assert right.state is State.HALF_OPEN
    for number, exchange in ((1, ExchangeType.INFORMATIONAL), (1, ExchangeType.CREATE_CHILD_SA), (0, 37)):
        asked = request(both.left.session, number, exchange=exchange)
        assert right.handle_datagram_untrusted(right.path, asked, both.now, UTC_NOW) == []
    left = both.left.session
    asked = request(right, 0)
    assert left.handle_datagram_untrusted(left.path, asked, both.now, UTC_NOW) == []
    assert right.state is State.HALF_OPEN


def test_a_malformed_introduction_is_told_and_the_half_open_ike_sa_forgotten() -> None:
    both = pair()
    both.rules.append(drop(lambda each: each.exchange == ExchangeType.IKE_AUTH, 1000))
    both.connect(1)
    right = both.right.session
    sealing = protection(both.left.session)
    for first, plaintext, told in (
        (PayloadType.NONCE, b"\x00", NotifyType.INVALID_SYNTAX),
        (77, b"\x00\x80\x00\x04", NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD),
    ):
        head = msgspec.structs.replace(
            header(both.left.session, 1, exchange=ExchangeType.IKE_AUTH), next_payload=PayloadType.ENCRYPTED
        )
        message = sealing._sealed(head, first, plaintext, None, SeededEntropy(5))
        again = pair()
        again.rules.append(drop(lambda each: each.exchange == ExchangeType.IKE_AUTH, 1000))
        again.connect(1)
        right = again.right.session
        (sent,) = (
            each
            for each in right.handle_datagram_untrusted(right.path, message, again.now, UTC_NOW)
            if isinstance(each, SendDatagram)
        )
        answer = opened(right, sent.message)
        (notify,) = wire.decode_payloads_untrusted(answer.first_payload, answer.plaintext)
        assert isinstance(notify, Notify)
        assert notify.type == told
        assert right.state is State.CLOSED


def test_policy_stands_for_the_site_only_after_the_proof() -> None:
    both = pair(right=policy(is_left=False))
    both.rules.append(drop(lambda each: each.exchange == ExchangeType.IKE_AUTH, 1000))
    both.connect(1)
    assert both.right.session.policy is None
