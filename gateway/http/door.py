"""Who is let in: whoever shows a token or a certificate that is known. Strangers are kept from trying much.

An address that has failed too often is answered 429, and what it shows is looked at once a second
only: so nobody guesses quickly. Whoever was let in from there before is let in all the same, and
at once: others behind the same address translation, or a proxy, cannot lock them out.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

from aiohttp import web

from gateway.http.principals import (
    ANYBODY,
    NOBODY,
    Credentials,
    Principal,
    Unauthenticated,
    certificate_names,
)
from gateway.http.problems import HttpProblem
from policies.token_bucket import TokenBucket

FAILURES_AT_ONCE = 20
FAILURES_A_SECOND = 1.0
MOST_ADDRESSES = 4096
"""That have failed; and as many pairs of an address and who was let in from it. The oldest are forgotten."""
TOLD_AT_ONCE = 50
TOLD_A_SECOND = 0.1
"""Strangers that somebody is told of: what else happens is to be seen between them. All are counted."""
IPV6_NETWORK = 64
"""A stranger has all addresses of one IPv6 network."""


class Door:
    """Everybody who may ask one service. `stranger` is told of whoever may not, within the limit."""

    def __init__(
        self,
        credentials: Credentials = NOBODY,
        *,
        stranger: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.credentials = credentials
        """Replaced as a whole when the configuration changes."""
        self.stranger = stranger
        self.failures = 0
        self._clock = clock
        self._telling = TokenBucket(TOLD_A_SECOND, TOLD_AT_ONCE)
        self._failed: OrderedDict[str, TokenBucket] = OrderedDict()
        self._known: OrderedDict[tuple[str, Principal], None] = OrderedDict()

    def admit(self, request: web.BaseRequest) -> Principal:
        """Return who asks. Raises HttpProblem: 401, or 429 where they have failed too often."""
        if not self.credentials:
            return ANYBODY
        source = source_of(request.remote)
        try:
            principal = self.identify(request)
        except Unauthenticated as error:
            shows_something = "Authorization" in request.headers or bool(request.get_extra_info("peercert"))
            raise self._failure(source, str(error), is_news=shows_something) from None
        key = (source, principal)
        if key not in self._known:
            bucket = self._failed.get(source)
            if bucket is not None and not bucket.take(1, self._clock()):
                raise _too_often()
            self._known[key] = None
            if len(self._known) > MOST_ADDRESSES:
                self._known.popitem(last=False)
        elif len(self._known) > 1:
            self._known.move_to_end(key)
        return principal

    def identify(self, request: web.BaseRequest) -> Principal:
        """Return who asks, by the token or the certificate that they show. Raises Unauthenticated."""
        credentials = self.credentials
        if not credentials:
            return ANYBODY
        names = certificate_names(request.get_extra_info("peercert")) if credentials.has_certificates else ()
        return credentials.identify(request.headers.get("Authorization"), names)

    def _failure(self, source: str, why: str, *, is_news: bool) -> HttpProblem:
        """Who shows nothing only asks what there is to show, as a browser does before it asks for a token."""
        self.failures += 1
        bucket = self._failed.get(source)
        if bucket is None:
            bucket = self._failed[source] = TokenBucket(FAILURES_A_SECOND, FAILURES_AT_ONCE)
            if len(self._failed) > MOST_ADDRESSES:
                self._failed.popitem(last=False)
        else:
            self._failed.move_to_end(source)
        if not bucket.take(1, self._clock()):
            return _too_often()
        if is_news and self.stranger is not None and self._telling.take(1, self._clock()):
            self.stranger(f"{source}: {why}")
        return HttpProblem(401, why, headers={"WWW-Authenticate": "Bearer"})


def source_of(remote: str | None) -> str:
    """Return what counts as one source: an IPv4 address, or the network of an IPv6 one."""
    if remote is None or ":" not in remote:
        return remote or ""
    address = ipaddress.IPv6Address(remote.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address.is_loopback:
        return str(address)
    return str(ipaddress.IPv6Network((address, IPV6_NETWORK), strict=False))


def _too_often() -> HttpProblem:
    return HttpProblem(
        429,
        "too many attempts from your address have failed; try again in a second",
        headers={"Retry-After": "1"},
    )
