"""What a case says of a frame: what both engines make of it, or why only one of them does."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from gateway.forwarding.drops import DropReason
from policies.addresses import ProviderAddress, Vsid
from policies.model import LookupRecord, Network, Port


class Why(StrEnum):
    """Every reason for which the program may leave a frame to Python. There is no other."""

    NOT_OURS = "no GRE packet to one of our provider addresses, or not to this machine at all"
    OUTER_FORM = "an outer header that only the kernel reads: options, fragments, extensions, wrong sums"
    LOOP = "from one of our own provider addresses"
    MALFORMED = "an inner frame that breaks its format"
    NOT_IP = "neither IP nor ARP, or with a tag"
    NEIGHBOURS = "ARP or neighbour discovery"
    DHCP = "a DHCP message"
    GROUP = "for a group"
    INNER_FORM = "IP options, extension headers or fragments inside"
    TO_GATEWAY = "for the gateway's own address"
    ICMP_ERROR = "an ICMP error of a tenant with access rules, which is judged by what it quotes"
    SENDER = "not from the host of the sender's own record"
    DESTINATION = "no record of the destination that may be used as it is"
    UNKNOWN_MAC = "switched, and to a MAC that is not of the destination's record"
    NOT_OUR_TENANT = "of a tenant that has other gateways"
    SITE = "to a site"
    REWRITTEN = "the destination is carried by IP rewrite"
    HERE = "the destination is here, or its record says so"
    HOP_LIMIT = "the TTL or hop limit ends here, inside or outside"
    TOO_BIG = "more than the way carries"
    NEXT_HOP = "the underlay's next hop is not known"
    RULES = "the tenant has more access rules than the program reads"


class Forwarded(msgspec.Struct, frozen=True):
    """One frame goes out, exactly so, and is counted as the tenant's."""

    frame: bytes
    interface: str
    sent: Vsid | None
    """The virtual subnet that is said to have sent it; None where routes lead to its source by a VM."""
    received: Vsid
    octets: int
    """Of the tenant's IP packet."""


class Dropped(msgspec.Struct, frozen=True):
    """The frame ends here, is counted once, and nobody is told."""

    reason: DropReason
    tenant: str = "red"


class Told(msgspec.Struct, frozen=True):
    """The frame ends here, and its sender is told so. Only Python does that."""

    reason: DropReason
    tenant: str = "red"


class GoesOn(msgspec.Struct, frozen=True):
    """Python sends it on, in so many packets."""

    copies: int = 1


class Answered(msgspec.Struct, frozen=True):
    """Python says something to it."""


class Waits(msgspec.Struct, frozen=True):
    """Python keeps it until it is known where it goes."""


class NotDelivered(msgspec.Struct, frozen=True):
    """The kernel keeps it from Python."""


ByPython = Forwarded | Dropped | Told | GoesOn | Answered | Waits | NotDelivered


class Passed(msgspec.Struct, frozen=True):
    """The program leaves the frame to Python, untouched and uncounted."""

    why: Why
    python: ByPython


Expected = Forwarded | Dropped | Passed


class Hop(msgspec.Struct, frozen=True):
    """By which interface a provider address is reached, and with which MACs."""

    interface: str
    source: bytes
    destination: bytes


class World(msgspec.Struct, frozen=True, eq=False):
    """Everything that edge-1 decides a frame by."""

    network: Network
    records: tuple[LookupRecord, ...]
    provider_addresses: tuple[ProviderAddress, ...]
    hops: dict[ProviderAddress, Hop]
    mtu: int = 1500
    """Of the underlay, in octets of the outer IP packet."""
    reported: tuple[tuple[ProviderAddress, int], ...] = ()
    """What the underlay's routers have said that paths carry."""
    ports: tuple[Port, ...] = ()
    """Of VMs at this very node."""
    host: str | None = None
    """The node's name as a host, where it has that role too."""


class Case(msgspec.Struct, frozen=True, eq=False):
    """One frame that comes in at edge-1, and what becomes of it."""

    description: str
    frame: bytes
    expected: Expected
    world: World
    interface: str = "eth1"
    """Where it comes in."""
    before: tuple[bytes, ...] = ()
    """What has come in by the same interface since everything was new."""
