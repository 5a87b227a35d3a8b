from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.secret import Secret
from tunnels.ike.cookies import PERIOD, CookieJar

JAR = CookieJar(Secret(range(32)))
NONCE = bytes(range(16))
ADDRESS = bytes((192, 0, 2, 7))
SPI = b"initiate"


def test_cookie_is_known_again_by_a_jar_that_remembers_nothing() -> None:
    cookie = JAR.make(NONCE, ADDRESS, SPI, now=5)

    assert CookieJar(Secret(range(32))).is_valid(cookie, NONCE, ADDRESS, SPI, now=6)
    assert vars(JAR) == vars(CookieJar(Secret(range(32))))


def test_cookie_is_between_1_and_64_octets_long() -> None:
    assert 1 <= len(JAR.make(NONCE, ADDRESS, SPI, now=5)) <= 64


def test_cookie_of_another_address_nonce_or_spi_is_refused() -> None:
    cookie = JAR.make(NONCE, ADDRESS, SPI, now=5)

    assert not JAR.is_valid(cookie, NONCE, bytes((192, 0, 2, 8)), SPI, now=5)
    assert not JAR.is_valid(cookie, bytes(16), ADDRESS, SPI, now=5)
    assert not JAR.is_valid(cookie, NONCE, ADDRESS, b"another!", now=5)


def test_cookie_of_another_gateway_or_process_is_refused() -> None:
    cookie = CookieJar(Secret(range(1, 33))).make(NONCE, ADDRESS, SPI, now=5)

    assert not JAR.is_valid(cookie, NONCE, ADDRESS, SPI, now=5)


@given(st.binary(max_size=64))
def test_made_up_cookie_is_refused(cookie: bytes) -> None:
    assert not JAR.is_valid(cookie, NONCE, ADDRESS, SPI, now=5)


def test_cut_cookie_is_refused() -> None:
    cookie = JAR.make(NONCE, ADDRESS, SPI, now=5)

    assert not any(JAR.is_valid(cookie[:length], NONCE, ADDRESS, SPI, now=5) for length in range(len(cookie)))
    assert not JAR.is_valid(cookie + b"\0", NONCE, ADDRESS, SPI, now=5)


@given(st.floats(0, 1e9))
def test_cookie_is_good_for_at_least_one_period_and_less_than_two(now: float) -> None:
    cookie = JAR.make(NONCE, ADDRESS, SPI, now)

    assert JAR.is_valid(cookie, NONCE, ADDRESS, SPI, now + PERIOD * 0.999)
    assert not JAR.is_valid(cookie, NONCE, ADDRESS, SPI, now + PERIOD * 2)


def test_cookie_of_the_future_is_refused() -> None:
    """The clock is the process's own and goes forward; what it did not make yet is not ours."""
    assert not JAR.is_valid(JAR.make(NONCE, ADDRESS, SPI, now=2 * PERIOD), NONCE, ADDRESS, SPI, now=PERIOD)


def test_address_and_nonce_are_not_mistaken_for_each_other() -> None:
    """An octet that moves from the end of an address to the nonce makes another cookie."""
    long = ADDRESS + NONCE[:12]

    assert JAR.make(NONCE[12:] + bytes(12), long, SPI, 5) != JAR.make(NONCE + bytes(12), ADDRESS, SPI, 5)
