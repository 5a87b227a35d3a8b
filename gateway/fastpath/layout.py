"""The shapes of the fast path's tables, and what its numbers mean: tables.h has the same.

All of it is for machines that put the lowest octet first, and is written in words of eight octets.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

from gateway.forwarding.drops import DropReason

BUCKET_OCTETS = 64
PLACES_IN_BUCKET = 2
IPV4_PLACES_IN_BUCKET = 4
BLOCK_WORDS = 256
IS_BLOCK = 0xF_FFFF
"""The peer of a place that has the number of a block for a MAC."""

SETTINGS = Struct("<IIQIIIIIxxxx")
"""Flags, buckets, seed, buckets of IPv4, subnets, tenants, how many own IPv4 addresses and IPv6 addresses."""
SETTINGS_IPV4_AT = 40
SETTINGS_IPV6_AT = 72
SETTINGS_INTERFACES_AT = 200
INTERFACE = Struct("<I6s2x")
OWN_ADDRESSES = 8
"""So many provider addresses of each family can be ours."""
INTERFACES = 8
"""So many interfaces can be of the underlay."""

CARRIES = 1
TEACHES = 2

SUBNET = Struct("<II")
"""VSID, tenant."""
TENANT = Struct("<IIIIQQ")
"""Flags, how many rules, the first of them, unused, cost of an octet in ns << 20, burst in ns."""
IS_CARRIED = 1
IS_LIMITED = 2
HAS_RULES = 4
COST_SHIFT = 20
PEER = Struct("<II")
"""Host, hop."""
HOP = Struct("<HHHH6s6s4x16s16s8x")
"""Flags, port, MTU of IPv4, of IPv6, destination and source MAC, source and destination address."""
OVER_IPV6 = 1
ZERO_FLOW_ID = 2
NO_IPV6 = 4
RULE_HEAD = Struct("<HHBBBx")
"""First and last port, protocol and its mask, whether it allows; then the two ends."""
END = Struct("<16s16sQQ")
"""Address and its mask, place and its mask."""
IPV6_PLACE = 1 << 32
"""What is added to a subnet's number, for IPv6, to make a place."""
RULE_OCTETS = RULE_HEAD.size + 2 * END.size
MOST_RULES = 64
"""A tenant with more entries, one for each range of ports, is left to Python."""
ROUTE_KEY = Struct("<II16s")
"""Length with the scope's 32 bits, scope, address."""
ROUTE = Struct("<Q16s")
"""Kind, and of ROUTE_ADDRESS where it leads through."""
ROUTE_SUBNET, ROUTE_SITE, ROUTE_ADDRESS = 0, 1, 2
METER_WORDS = 4
"""Packets and octets sent, packets and octets received."""

NOBODYS, VSIDS, IPV4_PEERS, IPV6_PEERS, FIRST_SCOPE = 0, 1, 2, 3, 16
"""Whose addresses a place's are."""

OUTCOMES = 32

DROPPED = {
    0: DropReason.NOT_NVGRE,
    1: DropReason.UNKNOWN_VSID,
    2: DropReason.SPOOFED_SOURCE,
    3: DropReason.ACCESS_DENIED,
    4: DropReason.CONGESTION,
    5: DropReason.RATE_LIMITED,
    6: DropReason.PUNT_LIMITED,
}
"""What a count of the program's is in Python's words."""


class Passed(IntEnum):
    """Why the program leaves a packet to Python."""

    UNUSUAL_OUTER = 16
    NOT_CARRIED = 17
    GROUP = 18
    NOT_IP = 19
    UNUSUAL = 20
    NEIGHBOUR = 21
    ICMP_ERROR = 22
    SOURCE = 23
    SITE = 24
    NO_RECORD = 25
    NO_NEXT_HOP = 26
    TOO_BIG = 27
    HOP_LIMIT = 28
    TEACH = 29
    CONTENDED = 30

    @property
    def word(self) -> str:
        """As operators see it."""
        return self.name.lower().replace("_", "-")


def scope_of(tenant: int, *, is_ipv6: bool = False) -> int:
    """Return the scope of a tenant's addresses, by the tenant's number."""
    return FIRST_SCOPE + 2 * tenant + is_ipv6


def words_of(address: bytes) -> tuple[int, int]:
    """Return an address, of either family, as the two words that a place has."""
    return int.from_bytes(address[:8], "little"), int.from_bytes(address[8:], "little")
