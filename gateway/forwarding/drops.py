"""Why a packet was dropped: one reason for each way, and the counters."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Self


class DropReason(StrEnum):
    """Every dropped packet is counted under exactly one of these; `words` say what it means."""

    words: str

    def __new__(cls, value: str, words: str) -> Self:
        """Make a member: a string, with words for people."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.words = words
        return member

    MALFORMED = "malformed", "The outer packet, the inner frame or its payload breaks its format"
    NOT_NVGRE = "not-nvgre", "GRE, but with other flags, another version or another protocol type"
    UNKNOWN_VSID = "unknown-vsid", "A VSID that is reserved, or that no tenant here has"
    LOOP = "loop", "It came from one of our own provider addresses, would go to one, or back to its site"
    SPOOFED_SOURCE = (
        "spoofed-source",
        "The inner source may not come from this provider address, this port or this site",
    )
    SELECTOR_MISMATCH = (
        "selector-mismatch",
        "From a site, by a child SA that it does not belong to (RFC 4301 section 5.2)",
    )
    VLAN_TAGGED = "vlan-tagged", "An inner frame with a tag (RFC 7637 section 3.3)"
    NOT_IP = "not-ip", "Neither IP nor ARP"
    UNKNOWN_MAC = "unknown-mac", "A destination MAC that nobody in the virtual subnet has"
    GROUP_NOT_ALLOWED = (
        "group-not-allowed",
        "Broadcast or multicast in a virtual subnet that does not carry it",
    )
    NEIGHBOUR_REPLY = (
        "neighbour-reply",
        "An ARP reply or a neighbour advertisement: the directory answers, nobody else",
    )
    NEIGHBOUR_OWN = (
        "neighbour-own",
        "A probe, or from another node an announcement, of the asker's own address: it hears no answer",
    )
    ACCESS_DENIED = "access-denied", "An access rule, or the default behind the rules"
    ORPHAN_FRAGMENT = (
        "orphan-fragment",
        "A later fragment whose first has not been seen, in a tenant with access rules",
    )
    RATE_LIMITED = "rate-limited", "Above the tenant's rate"
    TO_GATEWAY = "to-gateway", "For the gateway's own address, and nothing that it answers"
    HOP_LIMIT = "hop-limit", "The TTL or hop limit ended here"
    NO_ROUTE = "no-route", "No route of the routing domain matches the destination"
    NO_RECORD = (
        "no-record",
        "The destination is in a virtual subnet, but nobody who may hold it has registered it",
    )
    ANNOUNCEMENT = "announcement", "A VM says at its port where it is: that is heard, and goes no further"
    HOLD_FULL = "hold-full", "Too many frames wait already for a VM's port that is not there"
    HOLD_EXPIRED = "hold-expired", "It has waited too long for a VM's port that is not there"
    SITE_DOWN = "site-down", "The route leads to a site that has no tunnel, or none from here"
    OUTSIDE_SELECTORS = (
        "outside-selectors",
        "The site's tunnel stands, but none of its child SAs carries such packets",
    )
    NOT_HERE = "not-here", "It reached a host that has no such VM"
    NO_PROVIDER_ADDRESS = (
        "no-provider-address",
        "The next hop's provider address is of a family that this node has none of",
    )
    UNKNOWN_PROVIDER_ADDRESS = (
        "unknown-provider-address",
        "To an address of a pool of ours that nobody here has, or sent by nobody who is known",
    )
    OTHER_TENANT = "other-tenant", "From a provider address that is another tenant's than the one it is to"
    NO_LEASE = (
        "no-lease",
        "No provider address could be had in time for a CA that rewritten packets go to or come from",
    )
    NOT_REWRITABLE = (
        "not-rewritable",
        (
            "IP rewrite cannot carry it: a group, link-local or behind a VM, neighbour discovery, or an error"
            " that quotes such a packet, or none that can be read"
        ),
    )
    UNDERLAY_ERROR = (
        "underlay-error",
        "What the underlay says of a rewritten packet: heeded, and not for the tenant",
    )
    TOO_BIG = "too-big", "Larger than what comes next carries, and not to be fragmented"
    CONGESTION = (
        "congestion",
        "The underlay marked congestion on a packet that cannot say so (RFC 6040 section 4.2)",
    )
    PUNT_LIMITED = (
        "punt-limited",
        "The fast path left more to Python than its tenant, or its sender, may take of that",
    )
    QUEUE_FULL = "queue-full", "A bounded queue of this node was full"
    SEND_FAILED = "send-failed", "The kernel refused to send it"


USUAL = frozenset({DropReason.ANNOUNCEMENT, DropReason.NEIGHBOUR_OWN, DropReason.GROUP_NOT_ALLOWED})
"""What guests send all the time and nobody misses."""


class Drops:
    """How many packets were dropped: by reason, and by tenant where one is known."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[DropReason, str]] = Counter()

    def count(self, reason: DropReason, tenant: str = "", packets: int = 1) -> None:
        self.counts[reason, tenant] += packets

    def total(self, reason: DropReason) -> int:
        """All packets dropped for a reason, whoever's they were."""
        return sum(n for (counted, _), n in self.counts.items() if counted is reason)
