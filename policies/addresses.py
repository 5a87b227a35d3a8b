"""The addresses of the two worlds, as octets that print like addresses.

Each type is a `bytes`, so a slice of a packet finds it in a dictionary without
being converted, and a million of them stay small. The types differ so that a
type checker sees when a customer address is used as a provider address.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NewType, Self, TypeVar

Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network
P = TypeVar("P")

Vsid = NewType("Vsid", int)
"""A 24-bit virtual subnet identifier, unique in the datacenter (RFC 7637 section 3.3)."""

# RFC 7637 section 3.4: 0 to 0xFFF are reserved, 0xFFFFFF is for NVE-to-NVE use.
LOWEST_VSID = 0x1000
HIGHEST_VSID = 0xFFFFFE

_MAC = re.compile(r"[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}", re.IGNORECASE)


class MacAddress(bytes):
    """Six octets of an Ethernet address."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `02:00:00:00:01:05` or `02-00-00-00-01-05`. Raises ValueError."""
        if not _MAC.fullmatch(text):
            raise ValueError(f"{text!r} is not a MAC address such as 02:00:00:00:01:05")
        return cls(bytes.fromhex(text.replace(text[2], "")))

    @property
    def is_group(self) -> bool:
        """Broadcast or multicast: the lowest bit of the first octet is set."""
        return bool(self[0] & 1)

    def __str__(self) -> str:
        return self.hex(":")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex(':')})"


class Address(bytes):
    """An IP address: 4 octets for IPv4, 16 for IPv6."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the usual notation of either family. Raises ValueError."""
        address = ipaddress.ip_address(text)
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
            raise ValueError(f"{text!r} carries a zone, which means nothing here")
        return cls(address.packed)

    @property
    def version(self) -> int:
        """4 or 6."""
        return 4 if len(self) == 4 else 6

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        """The same address as a standard library object."""
        return ipaddress.ip_address(bytes(self))

    def __str__(self) -> str:
        return str(self.ip)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"


class CustomerAddress(Address):
    """An address that a VM sees; it means something only inside its tenant."""

    __slots__ = ()


class ProviderAddress(Address):
    """An address of the underlay, where a host or a gateway is."""

    __slots__ = ()


BROADCAST_MAC = MacAddress(b"\xff" * 6)

# The link-local address of the router in every virtual subnet with IPv6.
ROUTER_LINK_LOCAL = CustomerAddress.parse("fe80::1")


def gateway_mac(vsid: Vsid) -> MacAddress:
    """The MAC of a virtual subnet's gateway: the same on every host and gateway.

    A migrated VM's neighbour cache therefore stays right. The first octet marks
    it as locally administered; the last three are the VSID.
    """
    return MacAddress(b"\x02\x69\x73" + vsid.to_bytes(3))


def is_group_address(address: bytes) -> bool:
    """Whether an IP address in octets is multicast, or the IPv4 limited broadcast."""
    if len(address) == 4:
        return address[0] >> 4 == 14 or address == b"\xff\xff\xff\xff"
    return address[0] == 0xFF


def is_leased(pool: Prefix, address: bytes) -> bool:
    """Whether an address is one of a pool's that are leased: all but the first and the last.

    Those two are the network's own and the broadcast address if the pool is all of a link, and a
    router's anycast address in IPv6 (RFC 4291 section 2.6.1).
    """
    number = int.from_bytes(address)
    return len(address) * 8 == pool.max_prefixlen and int(pool.network_address) < number < int(
        pool.broadcast_address
    )


def overlapping(owners: Iterable[P], prefix_of: Callable[[P], Prefix]) -> Iterator[tuple[P, P]]:
    """Yield the owners of prefixes that overlap: of the wider one, and of one in it, each of these once.

    Of owners with equal prefixes the wider one is who comes first.
    """
    around: P | None = None
    for one in sorted(owners, key=lambda owner: _position(prefix_of(owner))):
        if around is None or not prefix_of(one).overlaps(prefix_of(around)):
            around = one
        else:
            yield around, one


def nested(owners: Iterable[P], prefix_of: Callable[[P], Prefix]) -> Iterator[tuple[P, P]]:
    """Yield the owners of every two prefixes of which one lies in the other: of the wider one first."""
    around: list[P] = []
    for one in sorted(owners, key=lambda owner: _position(prefix_of(owner))):
        while around and not is_within(prefix_of(one), prefix_of(around[-1])):
            around.pop()
        yield from ((each, one) for each in around)
        around.append(one)


def _position(prefix: Prefix) -> tuple[int, int, int]:
    """Sorted so, a prefix comes behind those that it lies in, with nothing apart between them."""
    return prefix.version, int(prefix.network_address), prefix.prefixlen


def is_within(inner: Prefix, outer: Prefix) -> bool:
    """Whether all of a prefix lies in another one; never if they are of two IP versions."""
    return inner.version == outer.version and inner.prefixlen >= outer.prefixlen and inner.overlaps(outer)
