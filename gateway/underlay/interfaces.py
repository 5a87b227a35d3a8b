"""Where this machine has its provider addresses, and what is wrong if it has them nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from pyroute2 import IPRoute

from policies.addresses import Address, ProviderAddress
from policies.errors import ConfigurationError, Problem
from policies.model import HostPort, Port, Underlay

_IFF_LOOPBACK = 0x8
_IFA_F_PERMANENT = 0x80


class Link(msgspec.Struct, frozen=True):
    """An interface of this machine."""

    name: str
    mtu: int
    addresses: tuple[Address, ...] = ()
    learned: frozenset[Address] = frozenset()
    """Those that nobody gave it: IPv6 link-local ones, and what a router advertised, or a VM."""
    is_loopback: bool = False


class Attachment(msgspec.Struct, frozen=True):
    """The interfaces of the datacenter side, and the largest outer packet that all of them carry."""

    interfaces: tuple[str, ...]
    mtu: int


def read_links() -> tuple[Link, ...]:
    """Ask the kernel for the interfaces of this network namespace, with their addresses.

    This blocks for some milliseconds.
    """
    with IPRoute() as netlink:
        found = {message["index"]: message for message in netlink.get_links()}
        addresses: dict[int, list[Address]] = {index: [] for index in found}
        learned: set[Address] = set()
        for message in netlink.get_addr():
            # IFA_ADDRESS is the far end's on a point-to-point link; IFA_LOCAL is ours, if it is there.
            text = message.get("local") or message.get("address")
            address = Address.parse(text)
            addresses.setdefault(message["index"], []).append(address)
            if address.version == 6 and (address.ip.is_link_local or not message["flags"] & _IFA_F_PERMANENT):
                learned.add(address)
    return tuple(
        Link(
            message.get("ifname"),
            message.get("mtu"),
            tuple(addresses[index]),
            frozenset(learned.intersection(addresses[index])),
            bool(message["flags"] & _IFF_LOOPBACK),
        )
        for index, message in found.items()
    )


def choose(settings: Underlay, links: Sequence[Link]) -> Attachment:
    """Match the settings with the machine's interfaces. Raises ConfigurationError with all that is wrong."""
    problems: list[Problem] = []
    by_name = {link.name: link for link in links}
    chosen: dict[str, Link] = {}
    for name in settings.interfaces:
        if name in by_name:
            chosen[name] = by_name[name]
        else:
            message = f"{name} is not on this machine; its interfaces are {_list(by_name)}"
            problems.append(Problem("underlay.interfaces", message))
    for address in settings.provider_addresses:
        path = "underlay.provider_addresses"
        holder = _holder(address, links)
        if isinstance(holder, str):
            problems.append(Problem(path, holder))
        elif settings.interfaces:
            # An address on lo is reached through any interface, which routing decides.
            if holder.name not in settings.interfaces and not holder.is_loopback:
                problems.append(
                    Problem(path, f"{address} is on {holder.name}, not on {_list(settings.interfaces)}")
                )
        elif holder.is_loopback:
            message = f"{address} is on {holder.name}: name the interfaces that lead to the datacenter"
            problems.append(Problem("underlay.interfaces", message))
        else:
            chosen[holder.name] = holder
    problems += [
        Problem("underlay.mtu", f"{settings.mtu} is more than the {link.mtu} of {link.name}")
        for link in chosen.values()
        if settings.mtu is not None and settings.mtu > link.mtu
    ]
    if problems:
        raise ConfigurationError(problems)
    return Attachment(tuple(chosen), settings.mtu or min(link.mtu for link in chosen.values()))


def mtus_of(
    addresses: Iterable[ProviderAddress], links: Sequence[Link], attachment: Attachment
) -> dict[ProviderAddress, int]:
    """The MTU of the interface that has each address; where that is lo, the underlay's.

    Raises ConfigurationError with all that is wrong.
    """
    found: dict[ProviderAddress, int] = {}
    problems: list[Problem] = []
    for address in addresses:
        holder = _holder(address, links)
        if isinstance(holder, str):
            problems.append(Problem("gateway.site_addresses", holder))
        else:
            found[address] = attachment.mtu if holder.is_loopback else holder.mtu
    if problems:
        raise ConfigurationError(problems)
    return found


def check_ports(ports: Iterable[HostPort | Port], attachment: Attachment, links: Iterable[Link]) -> None:
    """Refuse ports that are the machine's own interfaces: kept apart from it, they would cut it off.

    What an interface has learned does not count, or a VM could keep its host from
    starting. Raises ConfigurationError with all that is wrong.
    """
    by_name = {link.name: link for link in links}
    problems: list[Problem] = []
    for port in ports:
        link = by_name.get(port.interface)
        given = [each for each in link.addresses if each not in link.learned] if link else []
        if port.interface in attachment.interfaces:
            whose = "belongs to the underlay"
        elif given:
            whose = f"has this machine's address {given[0]}"
        else:
            continue
        message = f"{port.interface} {whose}; name an interface that leads to a VM"
        problems.append(Problem(f"host.port[{port.interface}].interface", message))
    if problems:
        raise ConfigurationError(problems)


def _holder(address: ProviderAddress, links: Sequence[Link]) -> Link | str:
    for link in links:
        if address in link.addresses:
            return link
    ours = [str(each) for link in links if not link.is_loopback for each in link.addresses]
    return f"{address} is on no interface of this machine; its addresses are {_list(ours)}"


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
