"""What the program is told of a tenant, and of a record: whether it may decide by them as Python does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_network

import msgspec

from gateway.fastpath.layout import (
    END,
    IPV6_PLACE,
    MOST_RULES,
    ROUTE,
    ROUTE_ADDRESS,
    ROUTE_KEY,
    ROUTE_SITE,
    ROUTE_SUBNET,
    RULE_HEAD,
    scope_of,
)
from gateway.forwarding.admission import is_link_local, is_martian
from gateway.forwarding.node import Node
from gateway.forwarding.verdicts import PortKey
from policies.addresses import Prefix, Vsid, gateway_mac, is_group_address, is_within
from policies.model import (
    AccessRule,
    Action,
    AddressHop,
    Endpoint,
    Limits,
    LookupRecord,
    NextHop,
    PortRange,
    SiteHop,
    SubnetHop,
    Translation,
)
from policies.tables import RoutingDomain, Tables

_EVERY_PORT = PortRange(0, 0xFFFF)
_ANYWHERE = bytes(END.size)


class TenantImage(msgspec.Struct, frozen=True):
    """All that decides about a tenant's packets, but its records: if two are equal, nothing has changed."""

    name: str
    vsids: tuple[tuple[Vsid, str], ...]
    """Of its virtual subnets, with their names."""
    routes: Mapping[Prefix, NextHop]
    rules: tuple[AccessRule, ...]
    limits: Limits | None
    gateway_addresses: frozenset[bytes]
    hosts: Mapping[str, frozenset[bytes]]
    """The provider addresses of the hosts that may hold it, by name."""
    ports: frozenset[PortKey]
    """The VMs that are here."""
    is_routed_here: bool

    @property
    def left_because(self) -> str:
        """Why all of it is left to Python; empty where it is not."""
        if not self.is_routed_here:
            return "this gateway is none of its own"
        if self.entries > MOST_RULES:
            return f"more than {MOST_RULES} access rule entries, one for each range of ports: {self.entries}"
        return ""

    @property
    def entries(self) -> int:
        """How many rules the program would have of it: one for each range of ports."""
        return sum(len(rule.ports) or 1 for rule in self.rules if not _is_about_sites(rule))


def images_of(tables: Tables, node: Node) -> dict[str, TenantImage]:
    """Return what the program is told of each tenant, by name."""
    subnets: dict[str, list[tuple[Vsid, str]]] = {name: [] for name in tables.domains}
    for vsid, entry in tables.subnets.items():
        subnets[entry.domain.name].append((vsid, entry.name))
    ports: dict[Vsid, list[PortKey]] = {}
    for key in node.ports:
        ports.setdefault(key[0], []).append(key)
    return {
        name: TenantImage(
            name=name,
            vsids=tuple(subnets[name]),
            routes=dict(domain.routes),
            rules=domain.access.configured,
            limits=domain.limits,
            gateway_addresses=domain.gateway_addresses,
            hosts={host: tables.provider_addresses_of.get(host, frozenset()) for host in domain.hosts},
            ports=frozenset(key for vsid, _ in subnets[name] for key in ports.get(vsid, ())),
            is_routed_here=node.is_gateway and any(gateway == node.name for gateway, _ in domain.gateways),
        )
        for name, domain in tables.domains.items()
    }


def is_carried(record: LookupRecord, domain: RoutingDomain, tables: Tables, node: Node) -> bool:
    """Whether the program decides by a record just as Python does, as a source and as a destination."""
    ca, pa = record.ca, record.pa
    hop = domain.routes.lookup(ca)
    return (
        record.translation is Translation.ENCAP
        and isinstance(hop, SubnetHop)
        and hop.vsid == record.vsid
        and ca not in domain.gateway_addresses
        and not (is_martian(ca) or is_link_local(ca) or is_group_address(ca))
        and not record.mac.is_group
        and record.mac != gateway_mac(record.vsid)
        and pa in domain.host_addresses
        and pa in tables.provider_addresses_of.get(record.host, ())
        and pa not in node.provider_addresses
        and node.address_towards(pa) is not None
        and not node.holds(record)
        and (record.vsid, record.mac) not in node.ports
    )


NOBODYS_PREFIXES = tuple(
    ip_network(prefix)
    for prefix in (
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/3",
        "::/128",
        "::1/128",
        "fe80::/10",
        "ff00::/8",
    )
)
"""Groups, and what crosses no router as a source: a default route through a VM leads to none of them."""


def routes_of(image: TenantImage) -> Iterator[tuple[Prefix, NextHop | None]]:
    """Yield a tenant's routes, and None for prefixes that Python has to look at."""
    if any(isinstance(hop, AddressHop) for hop in image.routes.values()):
        yield from ((prefix, None) for prefix in NOBODYS_PREFIXES if prefix not in image.routes)
    for prefix, hop in image.routes.items():
        is_nobodys = any(is_within(prefix, nobodys) for nobodys in NOBODYS_PREFIXES)
        yield prefix, None if is_nobodys and isinstance(hop, AddressHop) else hop


def packed_routes(image: TenantImage, tenant: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield a tenant's routes as the program reads them, each with its key, by the tenant's number."""
    for prefix, hop in routes_of(image):
        kind, through = ROUTE_SUBNET, b""
        if isinstance(hop, SiteHop):
            kind = ROUTE_SITE
        elif isinstance(hop, AddressHop):
            kind, through = ROUTE_ADDRESS, bytes(hop.ca)
        scope = scope_of(tenant, is_ipv6=prefix.version == 6)
        key = ROUTE_KEY.pack(32 + prefix.prefixlen, scope, prefix.network_address.packed.ljust(16, b"\0"))
        yield key, ROUTE.pack(kind, through.ljust(16, b"\0"))


def packed_rules(rules: tuple[AccessRule, ...], numbers: Mapping[str, int]) -> Iterator[bytes]:
    """Yield a tenant's rules as the program reads them, one for each range of ports.

    `numbers` are those of its virtual subnets, by name. What names a site is left out: no packet that the
    program carries comes from one or goes to one.
    """
    for rule in rules:
        if _is_about_sites(rule):
            continue
        ends = _packed_end(rule.source, numbers) + _packed_end(rule.destination, numbers)
        for ports in rule.ports or (_EVERY_PORT,):
            yield (
                RULE_HEAD.pack(
                    ports.first,
                    ports.last,
                    rule.protocol or 0,
                    0 if rule.protocol is None else 0xFF,
                    rule.action is Action.ALLOW,
                )
                + ends
            )


def _is_about_sites(rule: AccessRule) -> bool:
    return rule.source.site is not None or rule.destination.site is not None


def _packed_end(end: Endpoint, numbers: Mapping[str, int]) -> bytes:
    if end.subnet is not None:
        return END.pack(bytes(16), bytes(16), numbers[end.subnet], IPV6_PLACE - 1)
    if end.prefix is None:
        return _ANYWHERE
    return END.pack(
        end.prefix.network_address.packed.ljust(16, b"\0"),
        end.prefix.netmask.packed.ljust(16, b"\0"),
        IPV6_PLACE if end.prefix.version == 6 else 0,
        IPV6_PLACE,
    )
