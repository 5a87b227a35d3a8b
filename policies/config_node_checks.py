"""Checks of one node's part of the configuration: its roles, its addresses and its ports."""

from __future__ import annotations

from collections.abc import Iterator

from policies.addresses import ProviderAddress
from policies.config_checks import (
    gateways_mac,
    not_authorised,
    unknown,
    used_twice,
    vm_address,
)
from policies.config_tables import File, HostTable, PortTable, own_gateway, subnet_named, subnet_with
from policies.errors import Problem


def node_problems(file: File) -> Iterator[Problem]:
    """Everything that is wrong with this node's part."""
    yield from missing_sections(file)
    yield from own_gateway_twice(file)
    yield from provider_addresses_used_twice(file)
    if file.host is not None:
        yield from own_host(file.host, file)
        yield from ports_used_twice(file.host)
        for port in file.host.ports:
            yield from port_problems(port, file)
            yield from recorded_elsewhere(port, file)


def missing_sections(file: File) -> Iterator[Problem]:
    roles = [role for role in ("gateway", "host") if role in file.sections]
    if not roles and "lookup" not in file.sections:
        yield Problem("", "this appliance has no role; add at least one of [gateway], [lookup] and [host]")
    if roles and "underlay" not in file.sections:
        needed = " and ".join(f"[{role}]" for role in roles)
        yield Problem(
            "underlay", f"is missing, and {needed} needs it; write [underlay] with provider_addresses"
        )


def own_gateway_twice(file: File) -> Iterator[Problem]:
    """A file shared by many nodes may list this gateway among the others, with the same addresses."""
    own = own_gateway(file)
    for gateway in file.gateways:
        if own is None or gateway.name != own[0] or "provider_addresses" in gateway.unsound:
            continue
        if set(gateway.provider_addresses) != set(own[1]):
            yield Problem(
                f"{gateway.path}.provider_addresses",
                f"this appliance is that gateway, and its underlay.provider_addresses are {_listed(own[1])}",
            )


def provider_addresses_used_twice(file: File) -> Iterator[Problem]:
    """A gateway and a host that are the same appliance share its addresses; nobody else does."""
    owners: dict[ProviderAddress, tuple[tuple[str, str | None], str]] = {}
    own = own_gateway(file)
    holders = [
        ("host", host.name, f"{host.path}.provider_addresses", host.provider_addresses) for host in file.hosts
    ]
    holders += [
        ("gateway", g.name, f"{g.path}.provider_addresses", g.provider_addresses) for g in file.gateways
    ]
    if own is not None:
        holders.insert(0, ("gateway", own[0], "underlay.provider_addresses", own[1]))
    here = {("gateway", own[0]) if own else None, ("host", file.host.name) if file.host else None}
    for kind, name, path, addresses in holders:
        for address in addresses:
            first, first_path = owners.setdefault(address, ((kind, name), path))
            if first == (kind, name) or {first, (kind, name)} <= here:
                continue
            yield Problem(path, f"{address} is already in {first_path}; an address belongs to one machine")


def own_host(host: HostTable, file: File) -> Iterator[Problem]:
    yield from unknown("host.name", "provider_host", host.name, (one.name for one in file.hosts))
    entry = next((one for one in file.hosts if host.name is not None and one.name == host.name), None)
    if entry is None or file.underlay is None or "provider_addresses" in entry.unsound:
        return
    for address in file.underlay.provider_addresses:
        if address not in entry.provider_addresses:
            yield Problem(
                "underlay.provider_addresses",
                f"{address} is not an address of this host; add it to {entry.path}.provider_addresses",
            )


def ports_used_twice(host: HostTable) -> Iterator[Problem]:
    for path, name, first in used_twice((port.path, port.interface) for port in host.ports):
        yield Problem(f"{path}.interface", f"{name} is already that of {first}; a port has its own interface")
    claimed = [(port.path, (port.tenant, ca)) for port in host.ports if port.tenant for ca in port.addresses]
    for path, (_, ca), first in used_twice(claimed):
        yield Problem(f"{path}.addresses", f"{ca} is already that of {first}; an address has one port")
    macs = [(port.path, (port.tenant, port.subnet, port.mac)) for port in host.ports if port.mac]
    for path, (_, _, mac), first in used_twice(macs):
        yield Problem(f"{path}.mac", f"{mac} is already that of {first}; a port has its own MAC")


def port_problems(port: PortTable, file: File) -> Iterator[Problem]:
    yield from unknown(f"{port.path}.tenant", "tenant", port.tenant, (tenant.name for tenant in file.tenants))
    tenant = next((one for one in file.tenants if port.tenant is not None and one.name == port.tenant), None)
    if tenant is None:
        return
    here = next(
        (one for one in file.hosts if file.host and file.host.name and one.name == file.host.name), None
    )
    if here is not None:
        yield from not_authorised(f"{port.path}.tenant", here, tenant.name)
    yield from unknown(
        f"{port.path}.subnet", "subnet", port.subnet, (subnet.name for subnet in tenant.subnets)
    )
    subnet = subnet_named(tenant, port.subnet)
    if subnet is not None and port.mac is not None:
        yield from gateways_mac(f"{port.path}.mac", port.mac, subnet)
    for address in port.addresses:
        path = f"{port.path}.addresses"
        actual = subnet_with(tenant, address)
        if subnet is not None and actual is not None and actual is not subnet:
            yield Problem(path, f'{address} is in {actual.path}, not in subnet "{port.subnet}"')
        else:
            yield from vm_address(path, address, tenant)


def recorded_elsewhere(port: PortTable, file: File) -> Iterator[Problem]:
    """A static record is pinned, so a port cannot say otherwise."""
    for tenant in file.tenants:
        for record in tenant.records:
            if tenant.name is None or tenant.name != port.tenant or record.ca not in port.addresses:
                continue
            if file.host and None not in (file.host.name, record.host) and record.host != file.host.name:
                yield Problem(
                    f"{port.path}.addresses", f'{record.ca} is at host "{record.host}", says {record.path}'
                )
            if None not in (port.mac, record.mac) and record.mac != port.mac:
                yield Problem(f"{port.path}.mac", f"{record.ca} has MAC {record.mac}, says {record.path}")


def _listed(addresses: tuple[ProviderAddress, ...]) -> str:
    return ", ".join(str(address) for address in addresses)
