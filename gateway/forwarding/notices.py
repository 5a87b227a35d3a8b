"""ICMP errors to tenants: from the right address, and not too many."""

from __future__ import annotations

from collections.abc import Callable, Container

from gateway.packets import icmp
from policies.addresses import CustomerAddress
from policies.facts import PacketFacts
from policies.token_bucket import TokenBucket

# Messages a second and at once, for each tenant: enough for traceroutes and path
# MTU discovery, too few to serve a flood (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f)).
RATE = 100.0
BURST = 200.0

Message = Callable[[CustomerAddress], bytes]
"""Builds the ICMP error that a source address sends."""


class Notices:
    """Decides whether a packet's sender is told what became of it."""

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}
        self.sent = 0
        self.suppressed = 0
        self.without_source = 0
        """To a site whose selectors hold no address of the gateway's, so that none could be sent."""

    def keep_only(self, tenants: Container[str]) -> None:
        """Forget the tenants that are no longer there."""
        self._buckets = {tenant: bucket for tenant, bucket in self._buckets.items() if tenant in tenants}

    def compose(
        self, tenant: str, facts: PacketFacts, source: CustomerAddress | None, message: Message, now: float
    ) -> bytes | None:
        """Return the ICMP packet from `source`, or None where the sender is not to be told.

        Without a source the virtual subnet has no gateway address of the family.
        """
        if source is None or not icmp.may_be_told(facts):
            return None
        bucket = self._buckets.get(tenant)
        if bucket is None:
            bucket = self._buckets[tenant] = TokenBucket(RATE, BURST)
        if not bucket.take(1, now):
            self.suppressed += 1
            return None
        self.sent += 1
        return message(source)
