"""What must not be in the store's network, whoever writes it: what followers could not live with.

A configuration file is checked with more words, and its keys named, before it comes this far.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.lookup.pool_soundness import lease_fault, pool_faults, rewriting_faults
from policies.addresses import (
    HIGHEST_VSID,
    LOWEST_VSID,
    CustomerAddress,
    MacAddress,
    ProviderAddress,
    Vsid,
    gateway_mac,
    is_group_address,
    overlapping,
)
from policies.model import (
    AccessRule,
    Network,
    ProviderGateway,
    ProviderHost,
    SiteHop,
    SubnetHop,
    Tenant,
    Translation,
    VirtualSubnet,
)
from policies.tables import by_tenant

LONGEST_NAME = 255


def faults(network: Network) -> Iterator[str]:
    """Yield what is wrong with a network, in words for an operator."""
    for what, named in (("host", network.hosts), ("gateway", network.gateways), ("tenant", network.tenants)):
        yield from _names(what, (each.name for each in named))
    nodes: tuple[ProviderHost | ProviderGateway, ...] = (*network.hosts, *network.gateways)
    for node in nodes:
        if not node.provider_addresses:
            yield f"{node.name} has no provider address"
        for pa in node.provider_addresses:
            if is_group_address(pa) or not any(pa):
                yield f"{node.name}: {pa} is no machine's address"
    for several in (network.hosts, network.gateways):
        yield from _twice("the provider address", (pa for each in several for pa in each.provider_addresses))
    yield from _twice("the VSID", (subnet.vsid for tenant in network.tenants for subnet in tenant.subnets))
    yield from pool_faults(network)
    rewritten = (
        record.pa
        for tenant in network.tenants
        for record in tenant.records
        if record.translation is Translation.REWRITE
    )
    yield from _twice("the provider address of a rewritten VM", rewritten)
    hosts_of = by_tenant(network.hosts)
    for tenant in network.tenants:
        own = {host.name: host for host in hosts_of.get(tenant.name, ())}
        for fault in (
            *_tenant_faults(tenant, own),
            *rewriting_faults(tenant, own.values(), network.gateways),
        ):
            yield f"tenant {tenant.name}: {fault}"


def address_fault(subnet: VirtualSubnet, ca: CustomerAddress) -> str | None:
    """Return why no VM of a virtual subnet can have an address, or None."""
    inside = next((prefix for prefix in subnet.prefixes if ca.ip in prefix), None)
    if inside is None:
        return f"{ca} is outside the prefixes of VSID {subnet.vsid}"
    if ca in subnet.gateway_addresses:
        return f"{ca} is the gateway's of VSID {subnet.vsid}"
    is_end = inside.version == 4 and inside.prefixlen < 31 and ca == inside.broadcast_address.packed
    is_start = inside.prefixlen < inside.max_prefixlen - 1 and ca == inside.network_address.packed
    if is_end or is_start or is_group_address(ca):
        return f"{ca} is no VM's address in {inside}"
    return None


def mac_fault(vsid: Vsid, mac: MacAddress) -> str | None:
    """Return why no VM of a virtual subnet can have a MAC, or None."""
    if mac.is_group or not any(mac):
        return f"{mac} is no station's address"
    if mac == gateway_mac(vsid):
        return f"{mac} is the subnet's gateway's"
    return None


def place_fault(
    host: ProviderHost, ca: CustomerAddress, pa: ProviderAddress, translation: Translation
) -> str | None:
    """Return why a VM at a host cannot have a provider address, or None."""
    if translation is Translation.REWRITE:
        return lease_fault(ca, pa, host)
    return None if pa in host.provider_addresses else f"{pa} is no provider address of {host.name}"


def _tenant_faults(tenant: Tenant, hosts: dict[str, ProviderHost]) -> Iterator[str]:
    """Yield what is wrong with a tenant that these hosts may hold."""
    yield from _names("subnet", (each.name for each in tenant.subnets))
    yield from _names("site", (each.name for each in tenant.sites))
    for subnet in tenant.subnets:
        if not LOWEST_VSID <= subnet.vsid <= HIGHEST_VSID:
            yield f"VSID {subnet.vsid} is not from {LOWEST_VSID} to {HIGHEST_VSID}"
        if not subnet.prefixes:
            yield f"subnet {subnet.name} has no prefix"
        for ca in subnet.gateway_addresses:
            if not any(ca.ip in prefix for prefix in subnet.prefixes):
                yield f"{ca} is outside the prefixes of subnet {subnet.name}"
        if len({ca.version for ca in subnet.gateway_addresses}) < len(subnet.gateway_addresses):
            yield f"subnet {subnet.name} has several gateway addresses of one family"
    prefixes = (prefix for subnet in tenant.subnets for prefix in subnet.prefixes)
    yield from (f"{inner} overlaps {outer}" for outer, inner in overlapping(prefixes, lambda each: each))
    yield from _record_faults(tenant, hosts)
    names = {subnet.name: subnet.vsid for subnet in tenant.subnets}
    sites = {site.name for site in tenant.sites}
    for route in tenant.routes:
        match route.next_hop:
            case SubnetHop(subnet=name, vsid=vsid) if names.get(name) != vsid:
                yield f"route {route.prefix}: there is no subnet {name} with VSID {vsid}"
            case SiteHop(site=name) if name not in sites:
                yield f"route {route.prefix}: there is no site {name}"
    for rule in tenant.access:
        yield from _rule_faults(rule, names.keys(), sites)
    if tenant.limits is not None and min(tenant.limits.rate, tenant.limits.burst) <= 0:
        yield "limits are above zero"


def _record_faults(tenant: Tenant, hosts: dict[str, ProviderHost]) -> Iterator[str]:
    subnets = {subnet.vsid: subnet for subnet in tenant.subnets}
    yield from _twice("the record", ((record.vsid, record.ca) for record in tenant.records))
    for record in tenant.records:
        subnet = subnets.get(record.vsid)
        if subnet is None:
            yield f"record {record.ca}: VSID {record.vsid} is not its own"
            continue
        for fault in (address_fault(subnet, record.ca), mac_fault(record.vsid, record.mac)):
            if fault is not None:
                yield f"record: {fault}"
        host = hosts.get(record.host)
        if host is None:
            yield f"record {record.ca}: there is no host {record.host} that may hold this tenant"
        elif fault := place_fault(host, record.ca, record.pa, record.translation):
            yield f"record {record.ca}: {fault}"


def _rule_faults(rule: AccessRule, subnets: Iterable[str], sites: Iterable[str]) -> Iterator[str]:
    for side in (rule.source, rule.destination):
        if side.subnet is not None and side.subnet not in subnets:
            yield f"rule {rule.name}: there is no subnet {side.subnet}"
        if side.site is not None and side.site not in sites:
            yield f"rule {rule.name}: there is no site {side.site}"
    if rule.protocol is not None and not 0 <= rule.protocol <= 255:
        yield f"rule {rule.name}: {rule.protocol} is no protocol"
    for ports in rule.ports:
        if not 0 <= ports.first <= ports.last <= 0xFFFF:
            yield f"rule {rule.name}: {ports.first} to {ports.last} are no ports"


def _names(what: str, names: Iterable[str]) -> Iterator[str]:
    found = list(names)
    if any(not 0 < len(name) <= LONGEST_NAME or not name.isprintable() for name in found):
        yield f"a {what}'s name has 1 to {LONGEST_NAME} printable characters"
    yield from _twice(f"the {what}", found)


def _twice(what: str, values: Iterable[object]) -> Iterator[str]:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            yield f"{what} {value} is there twice"
        seen.add(value)
