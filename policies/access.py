"""Access rules: which of a tenant's packets may pass.

They are stateless, so that every engine decides alike. A reply passes because
its reversed tuple is allowed; for TCP it must also not open a connection. UDP
has no such mark: where a rule allows A to reach port P of B, B may send from
port P to any port of A without having been asked. `docs/access-rules.md` says so to
operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from policies.facts import PacketFacts
from policies.model import AccessRule, Action, Endpoint, NextHop, PortRange, SiteHop, SubnetHop

Place = Callable[[bytes], NextHop | None]
"""What an address belongs to: the longest match of the tenant's routes."""

Holds = Callable[[bytes, NextHop | None], bool]
"""Whether an address, which belongs to a place, is at an endpoint."""


class Ruling(msgspec.Struct, frozen=True):
    """Whether a packet may pass, and why, in words for an operator."""

    allowed: bool
    reason: str


NO_RULES = Ruling(True, "the tenant has no access rules: its own traffic is allowed")
DEFAULT_DENY = Ruling(False, "no access rule matches, and where there are rules the rest is denied")
FOREIGN_QUOTE = Ruling(False, "the ICMP error quotes a packet that its receiver did not send")


class _Rule(msgspec.Struct, frozen=True):
    """A rule with all that can be known before a packet comes."""

    protocol: int | None
    ports: tuple[PortRange, ...]
    source: Holds
    destination: Holds
    ruling: Ruling


class AccessRules:
    """A tenant's rules in order. `place` tells which subnet or site an address belongs to."""

    def __init__(self, rules: Sequence[AccessRule], place: Place) -> None:
        self.configured = tuple(rules)
        self._rules = tuple(
            _Rule(
                rule.protocol,
                rule.ports,
                _holds(rule.source),
                _holds(rule.destination),
                Ruling(rule.action is Action.ALLOW, f"rule {rule.name!r} ({rule.action})"),
            )
            for rule in rules
        )
        self._place = place

    def __bool__(self) -> bool:
        return bool(self._rules)

    def decide(self, facts: PacketFacts) -> Ruling:
        """Judge a packet that is not a later fragment: those follow their first."""
        if not self._rules:
            return NO_RULES
        judged = facts
        if facts.quoted is not None:
            if facts.quoted.source != facts.destination:
                return FOREIGN_QUOTE
            judged = facts.quoted
        source = judged.source, self._place(judged.source)
        destination = judged.destination, self._place(judged.destination)
        ruling = self._first_match(judged.protocol, source, destination, judged.destination_port)
        if ruling.allowed or judged.is_bare_syn:
            return ruling
        reply = self._first_match(judged.protocol, destination, source, judged.source_port)
        return Ruling(True, f"as a reply: {reply.reason}") if reply.allowed else ruling

    def _first_match(
        self,
        protocol: int,
        source: tuple[bytes, NextHop | None],
        destination: tuple[bytes, NextHop | None],
        destination_port: int,
    ) -> Ruling:
        for rule in self._rules:
            if (
                (rule.protocol is None or rule.protocol == protocol)
                and (not rule.ports or _holds_port(rule.ports, destination_port))
                and rule.source(*source)
                and rule.destination(*destination)
            ):
                return rule.ruling
        return DEFAULT_DENY


def _holds(endpoint: Endpoint) -> Holds:
    if endpoint.prefix is not None:
        octets = endpoint.prefix.max_prefixlen // 8
        shift = endpoint.prefix.max_prefixlen - endpoint.prefix.prefixlen
        leading = int(endpoint.prefix.network_address) >> shift
        return lambda address, _: len(address) == octets and int.from_bytes(address) >> shift == leading
    if endpoint.subnet is not None:
        return lambda _, place: isinstance(place, SubnetHop) and place.subnet == endpoint.subnet
    if endpoint.site is not None:
        return lambda _, place: isinstance(place, SiteHop) and place.site == endpoint.site
    return lambda _, __: True


def _holds_port(ranges: tuple[PortRange, ...], port: int) -> bool:
    return any(ports.first <= port <= ports.last for ports in ranges)
