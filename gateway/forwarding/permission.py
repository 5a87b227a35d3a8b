"""Whether a tenant's packet may pass: its access rules and its rate."""

from __future__ import annotations

from gateway.forwarding.buckets import Shares, TenantBucket
from gateway.forwarding.drops import DropReason
from gateway.forwarding.fragments import FirstFragments
from gateway.forwarding.node import Explain
from policies.facts import PacketFacts
from policies.tables import RoutingDomain, Tables


class Permission:
    """Judges packets, and keeps what that needs: first fragments and token buckets by tenant."""

    def __init__(
        self,
        tables: Tables,
        shares: Shares,
        explain: Explain | None = None,
        before: Permission | None = None,
    ) -> None:
        """Judge by tables. What `before` keeps of a tenant stays as long as the limits or the rules do."""
        self._explain = explain
        self.limits = {
            domain.name: domain.limits for domain in tables.domains.values() if domain.limits is not None
        }
        self.buckets: dict[str, TenantBucket] = {
            name: before.buckets[name]
            if before is not None and before.limits.get(name) == limits
            else TenantBucket(name, limits, shares)
            for name, limits in self.limits.items()
        }
        self._rules = {
            domain.name: (domain.access.configured, dict(domain.routes))
            for domain in tables.domains.values()
            if domain.access
        }
        self.first_fragments: dict[str, FirstFragments] = {
            name: before.first_fragments[name]
            if before is not None and before._rules.get(name) == rules  # noqa: SLF001 - it is one of us
            else FirstFragments()
            for name, rules in self._rules.items()
        }

    def refusal(self, domain: RoutingDomain, facts: PacketFacts, now: float) -> DropReason | None:
        """Judge a packet, and debit its octets if it may pass; else return why it may not."""
        fragments = self.first_fragments.get(domain.name)
        if fragments is not None:
            if facts.is_later_fragment:
                allowed = fragments.recall(facts, now)
                if allowed is None:
                    return DropReason.ORPHAN_FRAGMENT
            else:
                ruling = domain.access.decide(facts)
                allowed = ruling.allowed
                if self._explain:
                    self._explain("access", ruling.reason)
                if facts.more_fragments:
                    fragments.remember(facts, allowed, now)
            if not allowed:
                return DropReason.ACCESS_DENIED
        elif self._explain:
            self._explain("access", domain.access.decide(facts).reason)
        return None if self.is_within_rate(domain, facts, now) else DropReason.RATE_LIMITED

    def is_within_rate(self, domain: RoutingDomain, facts: PacketFacts, now: float) -> bool:
        """Debit a packet's octets, if the tenant's rate allows it."""
        bucket = self.buckets.get(domain.name)
        return bucket is None or bucket.take(facts.total_length, now)

    def give_back(self, domain: RoutingDomain, facts: PacketFacts) -> None:
        """Credit the octets of a packet that has just been debited, and does not go on yet."""
        bucket = self.buckets.get(domain.name)
        if bucket is not None:
            bucket.give_back(facts.total_length)
