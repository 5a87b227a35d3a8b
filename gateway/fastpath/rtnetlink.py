"""rtnetlink's messages, as far as next hops need them: requests packed, and what the kernel says decoded.

Packed by hand, because all of it is fixed and a flood of route events has to be cheap. The numbers and
structures are those of <linux/netlink.h>, <linux/rtnetlink.h>, <linux/neighbour.h> and <linux/if_link.h>.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from policies.errors import MalformedPacket

GROUPS_OF_NEIGHBOURS = (
    1,  # RTNLGRP_LINK
    3,  # RTNLGRP_NEIGH
)
GROUPS_OF_ROUTES = (
    5,  # RTNLGRP_IPV4_IFADDR: routes that prefer a lost address go without an event of their own
    7,  # RTNLGRP_IPV4_ROUTE
    8,  # RTNLGRP_IPV4_RULE
    9,  # RTNLGRP_IPV6_IFADDR
    11,  # RTNLGRP_IPV6_ROUTE
    19,  # RTNLGRP_IPV6_RULE
    32,  # RTNLGRP_NEXTHOP: those of routes that name one by its number
)

# enum of <linux/neighbour.h>: NUD_INCOMPLETE 1 and NUD_FAILED 0x20 have no address.
REACHABLE, STALE, DELAY, PROBE, FAILED, NOARP, PERMANENT = 2, 4, 8, 16, 32, 64, 128
USABLE = REACHABLE | STALE | DELAY | PROBE | NOARP | PERMANENT

UNICAST = 1  # RTN_UNICAST
LARGEST_MTU = 0xFFFF

_AF_UNSPEC, _AF_INET, _AF_INET6 = 0, 2, 10
_FAMILY_OF_SIZE = {4: _AF_INET, 16: _AF_INET6}
_SIZE_OF_FAMILY = {_AF_INET: 4, _AF_INET6: 16}

_ERROR, _DONE = 2, 3
_NEW_LINK, _DEL_LINK, _GET_LINK = 16, 17, 18
_NEW_ROUTE, _DEL_ROUTE, _GET_ROUTE = 24, 25, 26
_NEW_NEIGHBOUR, _DEL_NEIGHBOUR, _GET_NEIGHBOUR = 28, 29, 30

_REQUEST, _ACKNOWLEDGE, _CREATE = 1, 4, 0x400
_USE = 1  # NTF_USE: as if a packet were about to be sent there
_PROXY = 8  # NTF_PROXY: answered for, and no neighbour itself

_UP, _RUNNING, _LOWER_UP = 1, 0x40, 0x10000
_WORKING = _UP | _RUNNING | _LOWER_UP
_ETHERNET = 1  # ARPHRD_ETHER

_LINK_ADDRESS, _LINK_MTU, _LINK_EXTENSIONS = 1, 4, 29
_SKIP_STATISTICS = 8
_ROUTE_DESTINATION, _ROUTE_SOURCE, _ROUTE_INTERFACE, _ROUTE_GATEWAY = 1, 2, 4, 5
_ROUTE_MULTIPATH, _ROUTE_VIA, _ROUTE_ENCAPSULATION = 9, 18, 21
_NEIGHBOUR_ADDRESS, _NEIGHBOUR_MAC = 1, 2

_HEADER = struct.Struct("=IHHII")  # length with this, type, flags, sequence number, port
_ATTRIBUTE = struct.Struct("=HH")  # length with this, type
_NUMBER = struct.Struct("=I")
_INTEGER = struct.Struct("=i")
_SHORT = struct.Struct("=H")
_LINK = struct.Struct("=BxHiII")  # family, device type, interface, flags, which of them have changed
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, lengths of both prefixes, TOS, table, who, scope, type, flags
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, interface, state, flags, type
_NESTED = 0x3FFF  # what is left of an attribute's type without its flags


class Link(msgspec.Struct, frozen=True, gc=False):
    """An interface as it is now. `mac` is empty where it is no Ethernet's, `is_up` includes the carrier."""

    interface: int
    is_up: bool
    mac: bytes
    has_turned: bool
    """Whether it came up, went down or vanished just now."""
    mtu: int = LARGEST_MTU
    """In octets of a packet; the largest one where the kernel says nothing."""


class Neighbour(msgspec.Struct, frozen=True, gc=False):
    """An entry of the neighbour table. `state` is 0 where it has been removed; `mac` may be empty."""

    interface: int
    address: bytes
    mac: bytes
    state: int


class Route(msgspec.Struct, frozen=True, gc=False):
    """A route that has come or gone, or the one that leads to an address.

    `interface` is 0 and `gateway` empty where it names none. It is plain unless it has several ways, or
    the kernel wraps what takes it into something else.
    """

    is_gone: bool
    prefix: bytes
    length: int
    type: int
    interface: int
    gateway: bytes
    is_plain: bool


class Refused(msgspec.Struct, frozen=True, gc=False):
    """The kernel's answer to a request that has no other: an error number, or 0 where it was carried out."""

    error: int


class Unspecific(msgspec.Struct, frozen=True, gc=False):
    """A policy rule, an address or a nexthop object has changed: any route may be another."""


Message = Link | Neighbour | Route | Refused | Unspecific

_UNSPECIFIC = Unspecific()
_UNSPECIFIC_KINDS = frozenset((20, 21, 32, 33, 104, 105))  # addresses, rules, nexthop objects; new and gone


def ask_link(interface: int, sequence: int) -> bytes:
    """Ask how an interface is."""
    body = _LINK.pack(_AF_UNSPEC, 0, interface, 0, 0)
    return _request(
        _GET_LINK, 0, sequence, body + _attribute(_LINK_EXTENSIONS, _NUMBER.pack(_SKIP_STATISTICS))
    )


def ask_route(destination: bytes, source: bytes | None, sequence: int) -> bytes:
    """Ask which route a packet of this machine's would take: from its address `source`, if given."""
    bits = 8 * len(destination)
    body = _ROUTE.pack(_FAMILY_OF_SIZE[len(destination)], bits, bits if source else 0, 0, 0, 0, 0, 0, 0)
    body += _attribute(_ROUTE_DESTINATION, destination)
    if source:
        body += _attribute(_ROUTE_SOURCE, source)
    return _request(_GET_ROUTE, 0, sequence, body)


def ask_neighbour(interface: int, address: bytes, sequence: int) -> bytes:
    """Ask for one entry of the neighbour table."""
    body = _NEIGHBOUR.pack(_FAMILY_OF_SIZE[len(address)], interface, 0, 0, 0)
    return _request(_GET_NEIGHBOUR, 0, sequence, body + _attribute(_NEIGHBOUR_ADDRESS, address))


def use_neighbour(interface: int, address: bytes, sequence: int) -> bytes:
    """Have the kernel do as if a packet were about to be sent to a neighbour: see whether it is there."""
    body = _NEIGHBOUR.pack(_FAMILY_OF_SIZE[len(address)], interface, 0, _USE, 0)
    body += _attribute(_NEIGHBOUR_ADDRESS, address)
    return _request(_NEW_NEIGHBOUR, _CREATE | _ACKNOWLEDGE, sequence, body)


def decode(datagram: bytes) -> Iterator[tuple[int, Message]]:
    """Yield the messages of a datagram that matter here, each with its sequence number: 0 for events.

    Raises MalformedPacket and nothing else.
    """
    position, end = 0, len(datagram)
    while position < end:
        if position + _HEADER.size > end:
            raise MalformedPacket(f"{end - position} bytes is too short for a netlink header")
        length, kind, _flags, sequence, _port = _HEADER.unpack_from(datagram, position)
        if length < _HEADER.size or position + length > end:
            raise MalformedPacket(f"a netlink message of {length} bytes does not fit in its datagram")
        found = _message(kind, datagram, position + _HEADER.size, position + length)
        if found is not None:
            yield sequence, found
        position += length + 3 & ~3


def _message(kind: int, datagram: bytes, start: int, end: int) -> Message | None:
    if kind in (_NEW_ROUTE, _DEL_ROUTE):
        return _route(kind == _DEL_ROUTE, datagram, start, end)
    if kind in (_NEW_NEIGHBOUR, _DEL_NEIGHBOUR):
        return _neighbour(kind == _DEL_NEIGHBOUR, datagram, start, end)
    if kind in (_NEW_LINK, _DEL_LINK):
        return _link(kind == _DEL_LINK, datagram, start, end)
    if kind in (_ERROR, _DONE):
        if start + _INTEGER.size > end:
            raise MalformedPacket("a netlink error without its number")
        return Refused(-_INTEGER.unpack_from(datagram, start)[0])
    return _UNSPECIFIC if kind in _UNSPECIFIC_KINDS else None


def _link(is_gone: bool, datagram: bytes, start: int, end: int) -> Link | None:
    if start + _LINK.size > end:
        raise MalformedPacket("a link's message is too short")
    family, device, interface, flags, changed = _LINK.unpack_from(datagram, start)
    # What is of another family is a bridge's port or such, and the interface itself stays as it was.
    if family != _AF_UNSPEC:
        return None
    found = _attributes(datagram, start + _LINK.size, end)
    mac, mtu = found.get(_LINK_ADDRESS, b""), found.get(_LINK_MTU, _NUMBER.pack(LARGEST_MTU))
    if len(mtu) != _NUMBER.size:
        raise MalformedPacket(f"an MTU of {len(mtu)} bytes")
    is_ethernet = device == _ETHERNET and len(mac) == 6
    is_up = not is_gone and flags & _WORKING == _WORKING
    has_turned = is_gone or bool(changed & _WORKING)
    largest = min(_NUMBER.unpack(mtu)[0], LARGEST_MTU)
    return Link(interface, is_up, mac if is_ethernet else b"", has_turned, largest)


def _neighbour(is_gone: bool, datagram: bytes, start: int, end: int) -> Neighbour | None:
    if start + _NEIGHBOUR.size > end:
        raise MalformedPacket("a neighbour's message is too short")
    family, interface, state, flags, _type = _NEIGHBOUR.unpack_from(datagram, start)
    size = _SIZE_OF_FAMILY.get(family)
    if size is None or flags & _PROXY:  # a bridge's forwarding entries come as neighbours, too
        return None
    found = _attributes(datagram, start + _NEIGHBOUR.size, end)
    address = found.get(_NEIGHBOUR_ADDRESS, b"")
    if len(address) != size:
        raise MalformedPacket(f"a neighbour's address of {len(address)} bytes")
    return Neighbour(interface, address, found.get(_NEIGHBOUR_MAC, b""), 0 if is_gone else state)


def _route(is_gone: bool, datagram: bytes, start: int, end: int) -> Route | None:
    if start + _ROUTE.size > end:
        raise MalformedPacket("a route's message is too short")
    family, length, _, _, _, _, _, kind, _ = _ROUTE.unpack_from(datagram, start)
    size = _SIZE_OF_FAMILY.get(family)
    if size is None:  # multicast's and MPLS's
        return None
    found = _attributes(datagram, start + _ROUTE.size, end)
    prefix = found.get(_ROUTE_DESTINATION) or bytes(size)
    if len(prefix) != size or length > 8 * size:
        raise MalformedPacket(f"a route to {length} bits of {len(prefix)} bytes")
    interface = found.get(_ROUTE_INTERFACE, bytes(4))
    gateway = found.get(_ROUTE_GATEWAY, b"")
    if _ROUTE_VIA in found:  # IPv4 by a router that is known by its IPv6 address (RFC 8950)
        gateway = found[_ROUTE_VIA][_SHORT.size :]
    if len(interface) != 4 or len(gateway) not in (0, 4, 16):
        raise MalformedPacket(f"a route by {len(gateway)} bytes at an interface of {len(interface)}")
    is_plain = _ROUTE_MULTIPATH not in found and _ROUTE_ENCAPSULATION not in found
    return Route(is_gone, prefix, length, kind, _NUMBER.unpack(interface)[0], gateway, is_plain)


def _attributes(datagram: bytes, position: int, end: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while position + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(datagram, position)
        if length < 4 or position + length > end:
            raise MalformedPacket(f"a netlink attribute of {length} bytes does not fit in its message")
        found[kind & _NESTED] = datagram[position + 4 : position + length]
        position += length + 3 & ~3
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _request(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, sequence, 0) + body
