"""For how much an instance of the program has room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import msgspec

from gateway.fastpath.images import NOBODYS_PREFIXES, TenantImage
from gateway.fastpath.layout import IPV4_PLACES_IN_BUCKET, PLACES_IN_BUCKET

_LEAST_PLACES = 1024


class Full(Exception):
    """There is no room for more of something: another instance has to be made."""


class Sizes(msgspec.Struct, frozen=True):
    """For how much there is room."""

    ipv4_records: int
    """In places of their own."""
    ipv4_blocks: int
    ipv6_records: int
    subnets: int
    tenants: int
    peers: int
    rules: int
    routes: int

    @classmethod
    def for_network(
        cls, images: Mapping[str, TenantImage], ipv4: int, ipv6: int, peers: int, blocks: int = 0
    ) -> Self:
        """Room for a network with so many records of each family, and for some more of everything.

        `ipv4` are those in places of their own; so many `blocks` have the others.
        """
        return cls(
            ipv4_records=ipv4 + ipv4 // 8 + blocks,
            ipv4_blocks=blocks + blocks // 2 + 64,
            ipv6_records=ipv6 + ipv6 // 8,
            subnets=sum(len(image.vsids) for image in images.values()) * 2 + 256,
            tenants=len(images) + len(images) // 4 + 64,
            peers=peers * 2 + 256,
            rules=sum(image.entries for image in images.values()) * 2 + 1024,
            routes=sum(len(image.routes) + len(NOBODYS_PREFIXES) for image in images.values()) * 2 + 1024,
        )

    @property
    def buckets(self) -> int:
        """Of a table whose places are half full with all that there is room for."""
        places = max(self.ipv6_records + self.subnets + self.peers, _LEAST_PLACES) * 2
        return places // PLACES_IN_BUCKET

    @property
    def ipv4_buckets(self) -> int:
        """The same, two thirds full."""
        return max(self.ipv4_records, _LEAST_PLACES) * 3 // 2 // IPV4_PLACES_IN_BUCKET
