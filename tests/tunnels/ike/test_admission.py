from __future__ import annotations

import pytest

from policies.addresses import ProviderAddress
from policies.secret import Secret
from tunnels.ike import admission
from tunnels.ike.admission import Admission, Admitted
from tunnels.ike.constants import ExchangeType, NotifyType
from tunnels.ike.cookies import CookieJar
from tunnels.ike.payloads import Header, KeyExchange, Message, Nonce, Notify, Payload

STRANGER = ProviderAddress.parse("203.0.113.7")
ANOTHER = ProviderAddress.parse("203.0.113.8")
LARGE = 600


def request(*first: Payload, spi: bytes = b"initiato", value: int = 32) -> Message:
    header = Header(spi, bytes(8), ExchangeType.IKE_SA_INIT, 0, is_response=False, from_initiator=True)
    return Message(header, (*first, KeyExchange(31, bytes(value)), Nonce(bytes(32))))


@pytest.fixture
def entrance() -> Admission:
    return Admission(CookieJar(Secret(bytes(32))))


def with_cookie(
    entrance: Admission, source: ProviderAddress, now: float, spi: bytes = b"initiato"
) -> Message:
    cookie = entrance.cookie(source, request(spi=spi), now)
    return request(Notify(NotifyType.COOKIE, cookie), spi=spi)


def fill(entrance: Admission, source: ProviderAddress) -> int:
    """Open sessions with cookies, until no more are let in, and return how many."""
    opened = 0
    while entrance.judge(source, with_cookie(entrance, source, opened), LARGE, now=opened) is Admitted.YES:
        entrance.opened(source + opened.to_bytes(8), source)
        opened += 1
    return opened


def test_a_stranger_is_let_in_while_little_goes_on(entrance: Admission) -> None:
    assert entrance.judge(STRANGER, request(), LARGE, now=0) is Admitted.YES


def test_a_request_smaller_than_our_response_needs_a_cookie(entrance: Admission) -> None:
    assert entrance.judge(STRANGER, request(), size=150, now=0) is Admitted.COOKIE
    assert entrance.judge(STRANGER, with_cookie(entrance, STRANGER, 0), size=150, now=0) is Admitted.YES


def test_a_longer_public_value_makes_the_response_longer(entrance: Admission) -> None:
    assert entrance.judge(STRANGER, request(value=256), size=400, now=0) is Admitted.COOKIE


def test_who_asks_often_needs_a_cookie_and_others_do_not(entrance: Admission) -> None:
    verdicts = [entrance.judge(STRANGER, request(), LARGE, now=0) for _ in range(6)]

    assert verdicts == [Admitted.YES] * 5 + [Admitted.COOKIE]
    assert entrance.judge(ANOTHER, request(), LARGE, now=0) is Admitted.YES
    assert entrance.judge(STRANGER, request(), LARGE, now=1) is Admitted.YES


def test_everybody_needs_a_cookie_while_many_sessions_are_half_open(entrance: Admission) -> None:
    for number in range(admission.BUSY):
        entrance.opened(number.to_bytes(8), ANOTHER)

    assert entrance.judge(STRANGER, request(), LARGE, now=0) is Admitted.COOKIE
    assert entrance.judge(STRANGER, with_cookie(entrance, STRANGER, 0), LARGE, now=0) is Admitted.YES
    entrance.settled((0).to_bytes(8))
    assert entrance.judge(STRANGER, request(), LARGE, now=0) is Admitted.YES


def test_a_cookie_of_another_address_counts_for_nothing(entrance: Admission) -> None:
    stolen = with_cookie(entrance, ANOTHER, 0)

    assert entrance.judge(STRANGER, stolen, size=150, now=0) is Admitted.COOKIE


def test_half_open_sessions_of_one_address_leave_as_much_room_for_others(entrance: Admission) -> None:
    opened = fill(entrance, STRANGER)

    assert opened == admission.MOST_HALF_OPEN // 2
    assert fill(entrance, ANOTHER) < admission.MOST_HALF_OPEN - opened
    assert fill(entrance, ProviderAddress.parse("203.0.113.9")) > 100


def test_half_open_sessions_are_bounded_for_all(entrance: Admission) -> None:
    for number in range(admission.MOST_HALF_OPEN):
        entrance.opened(number.to_bytes(8), ProviderAddress(number.to_bytes(4)))

    assert entrance.judge(ANOTHER, with_cookie(entrance, ANOTHER, 0), LARGE, now=0) is Admitted.NO


def test_the_addresses_of_one_ipv6_network_count_as_one(entrance: Admission) -> None:
    first, second = (ProviderAddress.parse(f"2001:db8::{host}") for host in (1, 2))
    opened = fill(entrance, first)

    assert opened == admission.MOST_HALF_OPEN // 2
    assert entrance.judge(second, with_cookie(entrance, second, 0), LARGE, now=0) is Admitted.NO
    other = ProviderAddress.parse("2001:db8:0:1::1")
    assert entrance.judge(other, with_cookie(entrance, other, 0), LARGE, now=0) is Admitted.YES


def test_many_addresses_that_ask_once_need_cookies_too(entrance: Admission) -> None:
    verdicts = [
        entrance.judge(ProviderAddress(number.to_bytes(4)), request(), LARGE, now=0) for number in range(200)
    ]

    assert verdicts == [Admitted.YES] * 100 + [Admitted.COOKIE] * 100


def test_who_fails_to_prove_himself_gets_few_more_tries(entrance: Admission) -> None:
    tries = 0
    for millisecond in range(10_000):
        now = millisecond / 1000
        if entrance.judge(STRANGER, with_cookie(entrance, STRANGER, now), LARGE, now) is Admitted.YES:
            entrance.failed(STRANGER, now)
            tries += 1

    assert 45 <= tries <= 55
    later = with_cookie(entrance, STRANGER, 11)
    assert entrance.judge(STRANGER, later, LARGE, now=11) is Admitted.YES


def test_a_session_settles_once(entrance: Admission) -> None:
    entrance.opened(b"responde", STRANGER)
    entrance.settled(b"responde")
    entrance.settled(b"responde")

    assert entrance.half_open == 0


def test_what_is_remembered_of_sources_is_bounded(entrance: Admission) -> None:
    for number in range(admission.REMEMBERED_SOURCES + 100):
        entrance.judge(ProviderAddress(number.to_bytes(4)), request(), LARGE, now=0)

    assert len(entrance._unproven) == admission.REMEMBERED_SOURCES
