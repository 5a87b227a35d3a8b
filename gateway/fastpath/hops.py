"""What a next hop is, why there is none, and what the kernel is asked to find out."""

from __future__ import annotations

import enum

import msgspec

from gateway.fastpath.rtnetlink import LARGEST_MTU
from policies.addresses import Address, ProviderAddress

Key = tuple[int, bytes]
"""A neighbour: its interface and its address."""


class NextHop(msgspec.Struct, frozen=True, gc=False):
    """Where packets to an address go: out of which interface, from which MAC address to which.

    `mtu` is the interface's: what is redirected there and larger is lost without a word.
    """

    interface: int
    source_mac: bytes
    destination_mac: bytes
    mtu: int = LARGEST_MTU


class Why(enum.Enum):
    """Why there is no next hop, as it is told to operators."""

    ASKING = "the kernel has not been asked yet"
    NO_ROUTE = "no route"
    REFUSED = "its route is a blackhole, or says unreachable or prohibited"
    OWN = "it is an address of this machine, or of a group"
    WRAPPED = "its route wraps packets (MPLS, SRv6 or another tunnel), which only the kernel does"
    ELSEWHERE = "its route leaves the underlay's interfaces"
    LINK_DOWN = "the interface is down, has no carrier, or is no Ethernet"
    NEIGHBOUR_SILENT = "does not answer"
    NEIGHBOURS_FULL = "has no room in the kernel's neighbour table: raise net.*.neigh.default.gc_thresh3"


class Unresolved(msgspec.Struct, frozen=True):
    """An address without a next hop, and why; with the neighbour that it should be reached by, if any."""

    address: ProviderAddress
    why: Why
    interface: int = 0
    neighbour: Address | None = None
    source: ProviderAddress | None = None
    """From where it should be reached; the kernel says the same where that is no address of this machine."""

    def __str__(self) -> str:
        about = self.why.value
        if self.neighbour is not None and self.why in (Why.NEIGHBOUR_SILENT, Why.NEIGHBOURS_FULL):
            about = f"its neighbour {self.neighbour} {about}"
        elif self.source is not None and self.why is Why.NO_ROUTE:
            about += f" from {self.source}"
        return f"{self.address} has no next hop: {about}"


class Changed(msgspec.Struct, frozen=True):
    """An address has another next hop than before, or none."""

    address: ProviderAddress
    hop: NextHop | None


class AskLink(msgspec.Struct, frozen=True):
    """Ask how an interface is."""

    interface: int


class AskNeighbour(msgspec.Struct, frozen=True):
    """Ask for an entry of the neighbour table."""

    interface: int
    address: bytes


class AskRoute(msgspec.Struct, frozen=True):
    """Ask which way a packet would go."""

    address: ProviderAddress
    source: ProviderAddress | None


class Use(msgspec.Struct, frozen=True):
    """Have the kernel see whether a neighbour is there."""

    interface: int
    address: bytes


Question = AskLink | AskNeighbour | AskRoute | Use
