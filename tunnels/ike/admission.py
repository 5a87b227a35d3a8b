"""Which strangers' first messages are worth our work (RFC 7296 section 2.6).

A first message costs its sender nothing and us a Diffie-Hellman computation
and a half-open session. So a sender has to show by a cookie that it receives
at the address it claims, unless we are idle, it has not asked often, and our
response is no larger than its request: nobody can use us to send others more
than was sent to us. How many half-open sessions there may be, in all and for
one address, is bounded whatever is shown.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from enum import Enum

from policies.addresses import ProviderAddress
from policies.token_bucket import TokenBucket
from tunnels.ike.constants import NotifyType
from tunnels.ike.cookies import CookieJar
from tunnels.ike.payloads import KeyExchange, Message, Nonce, Notify, first_of

# Above this many half-open sessions everybody needs a cookie; above the second, nobody gets in.
BUSY = 50
MOST_HALF_OPEN = 1000
# Requests a second of one address that has not shown a cookie, and of one that has.
UNPROVEN_RATE = 5.0
# And of all that have not, together: senders' addresses are cheap to forge.
UNPROVEN_RATE_OF_ALL = 100.0
PROVEN_RATE = 250.0
# What an authentication that failed costs of the latter, in requests: a guesser gets five tries a
# second from one address, and a site with a wrong secret leaves room for others behind its NAT.
FAILURE_COST = 50.0
REMEMBERED_SOURCES = 4096

# Our response beside the public value, which is as long as the one that came: the header, one proposal,
# the nonce, notifications for NAT, fragments and hashes, and a certificate request that names one authority.
_RESPONSE_WITHOUT_VALUE = 28 + 52 + 8 + 36 + 56 + 8 + 16 + 25


class Admitted(Enum):
    """What becomes of a first message."""

    YES = "yes"
    COOKIE = "cookie"
    """Only with a cookie."""
    NO = "no"


class Admission:
    """The bounds on what strangers may cost us. Its state is bounded itself."""

    def __init__(self, jar: CookieJar) -> None:
        self._jar = jar
        self._half_open: dict[bytes, bytes] = {}
        self._half_open_of: Counter[bytes] = Counter()
        self._unproven: OrderedDict[bytes, TokenBucket] = OrderedDict()
        self._proven: OrderedDict[bytes, TokenBucket] = OrderedDict()
        self._unproven_of_all = TokenBucket(UNPROVEN_RATE_OF_ALL, UNPROVEN_RATE_OF_ALL)

    @property
    def half_open(self) -> int:
        """How many sessions wait for their peers' proof."""
        return len(self._half_open)

    def judge(self, source: ProviderAddress, request: Message, size: int, now: float) -> Admitted:
        """Judge an IKE_SA_INIT request of `size` octets.

        Nobody may have more half-open sessions than he leaves to others: many sites return at
        once behind one NAT that has rebooted, and still no few addresses can take all room.
        """
        asker, half_open = _asker(source), len(self._half_open)
        if self._half_open_of[asker] >= MOST_HALF_OPEN - half_open:
            return Admitted.NO
        if self._shows_cookie(source, request, now):
            proven = _bucket(self._proven, asker, PROVEN_RATE)
            return Admitted.YES if proven.take(1, now) else Admitted.NO
        if half_open >= BUSY or size < _largest_response(request):
            return Admitted.COOKIE
        unproven = _bucket(self._unproven, asker, UNPROVEN_RATE)
        may_enter = unproven.take(1, now) and self._unproven_of_all.take(1, now)
        return Admitted.YES if may_enter else Admitted.COOKIE

    def cookie(self, source: ProviderAddress, request: Message, now: float) -> bytes:
        """The cookie that this request has to be repeated with."""
        return self._jar.make(_nonce(request), source, request.header.initiator_spi, now)

    def opened(self, spi: bytes, source: ProviderAddress) -> None:
        """A half-open session has been made, known by our SPI."""
        asker = self._half_open[spi] = _asker(source)
        self._half_open_of[asker] += 1

    def settled(self, spi: bytes) -> None:
        """A session is half-open no longer, if it was."""
        asker = self._half_open.pop(spi, None)
        if asker is not None:
            self._half_open_of[asker] -= 1
            if not self._half_open_of[asker]:
                del self._half_open_of[asker]

    def failed(self, source: ProviderAddress, now: float) -> None:
        """An address has failed to prove who it is, or has had us prove who we are too often."""
        asker = _asker(source)
        _bucket(self._proven, asker, PROVEN_RATE).charge(FAILURE_COST, now)
        _bucket(self._unproven, asker, UNPROVEN_RATE).take(1, now)

    def _shows_cookie(self, source: ProviderAddress, request: Message, now: float) -> bool:
        first = request.payloads[0] if request.payloads else None
        if not isinstance(first, Notify) or first.type != NotifyType.COOKIE:
            return False
        return self._jar.is_valid(first.data, _nonce(request), source, request.header.initiator_spi, now)


def _asker(source: ProviderAddress) -> bytes:
    """Whom an address counts for: who has one of IPv6 has all of its /64 (RFC 4291 section 2.5.1)."""
    return source if source.version == 4 else source[:8]


def _nonce(request: Message) -> bytes:
    nonce = first_of(Nonce, request.payloads)
    return nonce.data if nonce is not None else b""


def _largest_response(request: Message) -> int:
    values = (len(each.data) for each in request.payloads if isinstance(each, KeyExchange))
    return _RESPONSE_WITHOUT_VALUE + max(values, default=0)


def _bucket(known: OrderedDict[bytes, TokenBucket], asker: bytes, rate: float) -> TokenBucket:
    bucket = known.get(asker)
    if bucket is None:
        if len(known) >= REMEMBERED_SOURCES:
            known.popitem(last=False)
        bucket = known[asker] = TokenBucket(rate, rate)
    else:
        known.move_to_end(asker)
    return bucket
