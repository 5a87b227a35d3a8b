"""Cookies, by which a stranger shows that it receives at its address (RFC 7296 section 2.6).

Nothing is remembered of a cookie that was given out: it is a keyed hash of what
the request has to say again, so only its receiver can know it. The key changes
with time and is itself a hash, of a secret and the number of its period. A
cookie is good in the period that it was made in and in the next.
"""

from __future__ import annotations

import hmac

from policies.secret import Secret

PERIOD = 60.0
"""Seconds after which the key changes."""

_DIGEST = "sha256"
_LENGTH = 24  # of 64 octets that a cookie may have


class CookieJar:
    """Makes cookies and knows them again. `secret` is 32 fresh octets of this process."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret

    def make(self, nonce: bytes, address: bytes, initiator_spi: bytes, now: float) -> bytes:
        """Return the cookie that a request with this nonce and SPI, from this address, has to show."""
        return self._cookie(_period(now), nonce, address, initiator_spi)

    def is_valid(self, cookie: bytes, nonce: bytes, address: bytes, initiator_spi: bytes, now: float) -> bool:
        """Whether it is one of ours, for just this request, and not too old."""
        period = _period(now)
        return any(
            hmac.compare_digest(cookie, self._cookie(each, nonce, address, initiator_spi))
            for each in (period, period - 1)
        )

    def _cookie(self, period: int, nonce: bytes, address: bytes, initiator_spi: bytes) -> bytes:
        key = hmac.digest(self._secret, period.to_bytes(8, signed=True), _DIGEST)
        # The nonce alone has no fixed length that something before it would tell, so it comes last.
        said = initiator_spi + bytes((len(address),)) + address + nonce
        return hmac.digest(key, said, _DIGEST)[:_LENGTH]


def _period(now: float) -> int:
    return int(now // PERIOD)
