"""The values that appliance.toml is written in: addresses, rates, ports and names.

Each function takes what TOML gave and returns the model's value, or raises
ValueError with a message that says what would be right.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

from policies.addresses import (
    HIGHEST_VSID,
    LOWEST_VSID,
    Address,
    CustomerAddress,
    MacAddress,
    Prefix,
    ProviderAddress,
    Vsid,
    is_within,
)
from policies.config.reader import MeantAs, Parse, close_match, listed, shown
from policies.facts import ICMP, ICMPV6, TCP, UDP
from policies.model import AddressHop, Endpoint, PortRange, SiteHop
from policies.services import ALL_TENANTS

E = TypeVar("E", bound=StrEnum)
A = TypeVar("A", bound=Address)

Peer = ProviderAddress | str
"""Where a site's VPN device is; the string is "any"."""

Via = SiteHop | AddressHop | str
"""Where a route leads; the string is the name of a subnet."""

ANYWHERE = Endpoint()

PROTOCOLS = {
    "icmp": ICMP,
    "igmp": 2,
    "tcp": TCP,
    "udp": UDP,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": ICMPV6,
    "ospf": 89,
    "vrrp": 112,
    "sctp": 132,
}

_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_NAME = re.compile(r"\w(?:[\w .@+-]{0,62}\w)?")
_INTERFACE = re.compile(r"(?!\.{1,2}$)[!-.0-9;-~]{1,15}")
_PREFIX = re.compile(r"[0-9A-Fa-f:.]{2,45}/[0-9]{1,3}")
_GUID = re.compile(r"\{?([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\}?", re.IGNORECASE)
_QUANTITY = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([A-Za-z/]{1,8})")

_RATE_UNITS = {"bit/s": 1, "kbit/s": 10**3, "mbit/s": 10**6, "gbit/s": 10**9}
SIZE_UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
}

# What no customer and no provider address may be: a packet with one of these has no
# place to be routed to. A mapped address is the other family's in disguise.
_NEVER = {
    ipaddress.ip_network("127.0.0.0/8"): "a loopback address",
    ipaddress.ip_network("169.254.0.0/16"): "a link-local address",
    ipaddress.ip_network("224.0.0.0/4"): "a multicast address",
    ipaddress.ip_network("255.255.255.255/32"): "the limited broadcast address",
    ipaddress.ip_network("0.0.0.0/32"): "the unspecified address",
    ipaddress.ip_network("::/128"): "the unspecified address",
    ipaddress.ip_network("::1/128"): "a loopback address",
    ipaddress.ip_network("::ffff:0:0/96"): "an IPv4-mapped address",
    ipaddress.ip_network("fe80::/10"): "a link-local address",
    ipaddress.ip_network("ff00::/8"): "a multicast address",
}


def text(value: object) -> str:
    """A string."""
    if not isinstance(value, str):
        right = "" if isinstance(value, dict | list) else "; put it in quotes"
        raise ValueError(f"{shown(value)} is not a string{right}")
    return value


def number(value: object) -> int:
    """A whole number, which a truth value is not."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{shown(value)} is not a whole number")
    return value


def boolean(value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{shown(value)} is neither true nor false")
    return value


def name(value: object) -> str:
    """A name that other tables refer to."""
    if not _NAME.fullmatch(text(value)):
        raise ValueError(
            f"{shown(value)} is not a name: 1 to 64 letters, digits, spaces or . _ - @ +, "
            "with a letter or digit at both ends"
        )
    return text(value)


def name_or_all(value: object) -> str:
    """A tenant's name, or what stands for all of them."""
    return ALL_TENANTS if value == ALL_TENANTS else name(value)


def title(value: object) -> str:
    """A rule's name, which nothing refers to."""
    if not text(value).strip() or not text(value).isprintable() or len(text(value)) > 128:
        raise ValueError(f"{shown(value)} is not a name: 1 to 128 printable characters")
    return text(value)


def user(value: object) -> str:
    """The name of a user of this machine, as useradd takes it."""
    if not _USER.fullmatch(text(value)):
        raise ValueError(
            f"{shown(value)} is not a user's name: 1 to 32 lower-case letters, digits, _ or -, "
            "with a letter or _ first"
        )
    return text(value)


def interface(value: object) -> str:
    """A network interface's name, as the kernel takes it."""
    if not _INTERFACE.fullmatch(text(value)):
        raise ValueError(f"{shown(value)} is not an interface name: 1 to 15 characters without space, / or :")
    return text(value)


def path_from(base: Path) -> Parse[Path]:
    """A file's path; a relative one starts at the configuration's folder."""

    def parse(value: object) -> Path:
        if not text(value) or not text(value).isprintable():
            raise ValueError(f"{shown(value)} is not a path")
        return base / text(value)

    return parse


def word(*known: str) -> Parse[str]:
    """One word of a few."""
    right = "use " + " or ".join(f'"{one}"' for one in known)

    def parse(value: object) -> str:
        if text(value) not in known:
            raise ValueError(f"{shown(value)} is not one of its values; {right}")
        return text(value)

    return parse


def member(of: type[E]) -> Parse[E]:
    """A member of an enumeration."""
    parse_word = word(*of)
    return lambda value: of(parse_word(value))


def vsid(value: object) -> Vsid:
    """A virtual subnet identifier outside the reserved ranges (RFC 7637 section 3.4)."""
    given = number(value)
    if not LOWEST_VSID <= given <= HIGHEST_VSID:
        right = f"use {LOWEST_VSID} to {HIGHEST_VSID} (RFC 7637 section 3.4)"
        if 0 <= given < LOWEST_VSID or given == HIGHEST_VSID + 1:
            raise ValueError(f"{given} is reserved; {right}")
        raise ValueError(f"{shown(given)} is no VSID; {right}")
    return Vsid(given)


def vm_mac(value: object) -> MacAddress:
    """The MAC of one VM."""
    try:
        mac = MacAddress.parse(text(value))
    except ValueError:
        raise ValueError(f"{shown(value)} is not a MAC address such as 02:00:00:00:01:05") from None
    if mac.is_group:
        raise ValueError(f"{mac} is a group address (its first octet is odd); give the VM's own MAC")
    if not any(mac):
        raise ValueError(f"{mac} is nobody's MAC; give the VM's own MAC")
    return mac


def customer_address(value: object) -> CustomerAddress:
    """A unicast address that a VM or a gateway can have."""
    return _unicast(CustomerAddress, value)


def provider_address(value: object) -> ProviderAddress:
    """A unicast address that a machine of the underlay can have."""
    return _unicast(ProviderAddress, value)


def peer(value: object) -> Peer:
    """Where a site's VPN device is, or "any"."""
    if value == "any":
        return "any"
    try:
        return provider_address(value)
    except ValueError as error:
        raise ValueError(f'{error}; or "any", for a peer that dials in') from None


def prefix(value: object) -> Prefix:
    """A prefix of either family, without host bits."""
    if not _PREFIX.fullmatch(text(value)):
        raise ValueError(f'{shown(value)} is not a prefix such as "10.0.1.0/24" or "fd00:1::/64"')
    try:
        network = ipaddress.ip_network(text(value), strict=False)
    except ValueError:
        raise ValueError(f'{shown(value)} is not a prefix such as "10.0.1.0/24" or "fd00:1::/64"') from None
    if ipaddress.ip_address(text(value).partition("/")[0]) != network.network_address:
        raise MeantAs(f"{shown(value)} has bits set behind the prefix; write {network}", network)
    for special, what in _NEVER.items():
        if is_within(network, special):
            raise ValueError(f"{shown(value)} is no prefix to route: it is part of {special}, {what}")
    return network


def subnet_prefix(value: object) -> Prefix:
    """A prefix with room for a gateway and VMs."""
    return _with_room(value, "a virtual subnet")


def pool(value: object) -> Prefix:
    """A prefix of the underlay whose addresses are leased one by one."""
    network = _with_room(value, "a pool")
    if network.version == 6 and network.prefixlen < 64:
        raise ValueError(f"{network} is too large for a pool; the shortest prefix of IPv6 is /64")
    return network


def leases(value: object) -> int:
    """How many provider addresses at once."""
    if not 1 <= number(value) <= 1_000_000:
        raise ValueError(f"{shown(value)} is not a number of leases; use 1 to 1000000")
    return number(value)


def endpoint(value: object) -> Endpoint:
    """One side of an access rule: `subnet:`, `site:`, a prefix, an address, or "any"."""
    written = text(value)
    kind, colon, what = written.partition(":")
    if written == "any":
        return ANYWHERE
    if colon and kind == "subnet":
        return Endpoint(subnet=name(what))
    if colon and kind == "site":
        return Endpoint(site=name(what))
    if "/" not in written:
        written += "/128" if colon else "/32"
    try:
        return Endpoint(prefix=prefix(written))
    except MeantAs as error:
        raise MeantAs(str(error), Endpoint(prefix=error.value)) from None
    except ValueError:
        right = 'write "subnet:NAME", "site:NAME", a prefix or "any"'
        raise ValueError(f"{shown(value)} is not one side of a rule; {right}") from None


def next_hop(value: object) -> Via:
    """Where a customer route leads."""
    kind, colon, what = text(value).partition(":")
    if colon and kind == "subnet":
        return name(what)
    if colon and kind == "site":
        return SiteHop(name(what))
    try:
        return AddressHop(customer_address(value))
    except ValueError as error:
        raise ValueError(f'{error}; or write "site:NAME" or "subnet:NAME"') from None


def protocol(value: object) -> int | None:
    """An IP protocol by its name or number; None for any."""
    if value == "any":
        return None
    if isinstance(value, str):
        if value.lower() in PROTOCOLS:
            return PROTOCOLS[value.lower()]
        meant = close_match(value, PROTOCOLS)
        right = f'did you mean "{meant}"?' if meant else f"known: {listed(PROTOCOLS)}, or a number"
        raise ValueError(f"{shown(value)} is not a protocol; {right}")
    if not 0 <= number(value) <= 255:
        raise ValueError(f"{shown(value)} is not an IP protocol number; use 0 to 255")
    return number(value)


def ports(value: object) -> PortRange:
    """One port, or a range such as "8000-8010"."""
    if isinstance(value, str) and (found := re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", value)):
        first, last = int(found[1]), int(found[2] or found[1])
    elif isinstance(value, int) and not isinstance(value, bool):
        first = last = value
    else:
        raise ValueError(f'{shown(value)} is not a port such as 5432 or a range such as "8000-8010"')
    if not 0 <= first <= last <= 65535:
        raise ValueError(f"{shown(value)} is not a port or a rising range of ports from 0 to 65535")
    return PortRange(first, last)


def rate(value: object) -> int:
    """Bits per second."""
    return whole_quantity(value, _RATE_UNITS, 'a rate such as "500 Mbit/s" (bit/s, kbit/s, Mbit/s or Gbit/s)')


def burst(value: object) -> int:
    """Octets."""
    right = 'a size in octets, or such as "1 MB" (B, kB, MB, GB, KiB, MiB or GiB)'
    octets = number(value) if isinstance(value, int) else whole_quantity(value, SIZE_UNITS, right)
    if not 1514 <= octets <= 1 << 40:
        raise ValueError(f"{shown(value)} is not between one frame, 1514 octets, and 1 TiB")
    return octets


def mtu(value: object) -> int:
    """Octets."""
    if not 576 <= number(value) <= 65535:
        raise ValueError(f"{shown(value)} is not an MTU; use 576 to 65535 octets")
    return number(value)


def guid(value: object) -> str:
    """A GUID in lower case, without braces."""
    if not (found := _GUID.fullmatch(text(value))):
        raise ValueError(f'{shown(value)} is not a GUID such as "6a5dd1ee-6f5a-4b3c-9f0e-2d0c6bb6f2a1"')
    return found[1].lower()


def _with_room(value: object, purpose: str) -> Prefix:
    """A prefix with two addresses between its first and its last, all of them unicast."""
    network = prefix(value)
    longest = network.max_prefixlen - 2
    if network.prefixlen > longest:
        raise ValueError(f"{network} is too small for {purpose}; the longest prefix is /{longest}")
    for special, what in _NEVER.items():
        if is_within(special, network):
            raise ValueError(f"{network} is no prefix for {purpose}: it contains {special}, {what}")
    return network


def _unicast(kind: type[A], value: object) -> A:
    try:
        address = kind.parse(text(value))
    except ValueError:
        raise ValueError(f'{shown(value)} is not an address such as "10.0.1.5" or "fd00:1::5"') from None
    for special, what in _NEVER.items():
        if address.ip in special:
            raise ValueError(f"{address!s} is {what}; give a unicast address")
    return address


def whole_quantity(value: object, units: Mapping[str, int], right: str) -> int:
    """A number of units, such as "500 Mbit/s", in the smallest of them, and at least one."""
    amount = int(quantity(value, units, right))
    if amount < 1:
        raise ValueError(f"{shown(value)} is nothing; give more than 0")
    return amount


def quantity(value: object, units: Mapping[str, int], right: str) -> Fraction:
    """A number of units, such as "1.5 h", in the smallest of them."""
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if not found or found[2].lower() not in units:
        raise ValueError(f"{shown(value)} is not {right}")
    return Fraction(found[1]) * units[found[2].lower()]
