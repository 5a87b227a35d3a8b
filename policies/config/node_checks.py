"""Checks of one node's part of the configuration: its roles, its addresses and its ports."""

from __future__ import annotations

from collections.abc import Iterator

from policies.addresses import ProviderAddress
from policies.config.network_checks import gateways_mac, not_a_vm, not_authorised, unknown, used_twice
from policies.config.node_tables import File, HostTable, PortTable
from policies.config.reader import listed
from policies.errors import Problem
from policies.model import Engine

# What carries an IPv6 packet of 1280 octets in NVGRE: the outer header, 8 of GRE and 14 of Ethernet.
_LEAST_FOR_IPV6 = {4: 1280 + 20 + 8 + 14, 6: 1280 + 40 + 8 + 14}


def node_problems(file: File) -> Iterator[Problem]:
    """Everything that is wrong with this node's part."""
    yield from missing_sections(file)
    yield from fast_path_of_no_gateway(file)
    yield from own_gateway_listed_otherwise(file)
    yield from provider_addresses_used_twice(file)
    yield from mtu_too_small_for_ipv6(file)
    if file.host is not None:
        yield from own_host(file.host, file)
        yield from ports_used_twice(file.host)
        for port in file.host.ports:
            yield from port_problems(port, file)
            yield from recorded_otherwise(port, file)


def missing_sections(file: File) -> Iterator[Problem]:
    """No role at all, or a role that sends to the underlay without one."""
    roles = [role for role in ("gateway", "host") if role in file.sections]
    if not roles and "lookup" not in file.sections:
        yield Problem("", "this appliance has no role; write at least one of [gateway], [lookup] and [host]")
    if roles and "underlay" not in file.sections:
        needing = " and ".join(f"[{role}]" for role in roles)
        right = "write [underlay] with provider_addresses"
        yield Problem("underlay", f"is missing, and {needing} needs it; {right}")


def fast_path_of_no_gateway(file: File) -> Iterator[Problem]:
    """The fast path where nothing passes that it could carry: it is for NVGRE that comes and goes on."""
    path, engine = ("", None) if file.appliance is None else (file.appliance.path, file.appliance.engine)
    if "gateway" not in file.sections:
        why = "carries what a gateway forwards, and a host's VM ports are Python's"
        if engine is Engine.XDP:
            yield Problem(f"{path}.engine", f'"xdp" {why}; write [gateway], or engine = "auto"')
        if file.fastpath is not None:
            yield Problem(file.fastpath.path, f"{why}; write [gateway], or leave it out")
    elif engine is Engine.XDP and file.host is not None and file.host.driver == "openvswitch":
        message = '"xdp" is not used with host.driver = "openvswitch", where the bridge carries the packets'
        yield Problem(f"{path}.engine", f'{message}; write driver = "builtin", or engine = "auto"')


def own_gateway_listed_otherwise(file: File) -> Iterator[Problem]:
    """A file may list its own gateway among the others, as they do, but with the same addresses."""
    own = file.gateway_names.get(file.own_gateway or "")
    if own is None or file.underlay is None:
        return
    here = file.underlay.provider_addresses
    complete = "provider_addresses" not in own.unsound | file.underlay.unsound
    if complete and set(own.provider_addresses) != set(here):
        addresses = listed(str(address) for address in here)
        message = f"this appliance is that gateway, and has {addresses} in underlay.provider_addresses"
        yield Problem(f"{own.path}.provider_addresses", message)


def provider_addresses_used_twice(file: File) -> Iterator[Problem]:
    """An address of two machines; a host and a gateway may be one, here or where their names are the same."""
    here = {("gateway", file.own_gateway), ("host", file.host.name if file.host else None)}
    first: dict[ProviderAddress, tuple[tuple[str, str | None], str]] = {}
    for kind, name, path, addresses in _machines(file):
        for address in addresses:
            owner, first_path = first.setdefault(address, ((kind, name), path))
            if owner[1] == name or {owner, (kind, name)} == here:
                continue
            yield Problem(path, f"{address!s} is in {first_path} already; an address belongs to one machine")


def mtu_too_small_for_ipv6(file: File) -> Iterator[Problem]:
    """An MTU that leaves IPv6 fewer octets than each of its links must carry (RFC 8200 section 5)."""
    if file.underlay is None or file.underlay.mtu is None:
        return
    prefixes = (prefix for tenant in file.tenants for subnet in tenant.subnets for prefix in subnet.prefixes)
    if all(prefix.version == 4 for prefix in prefixes):
        return
    least = max((_LEAST_FOR_IPV6[pa.version] for pa in file.underlay.provider_addresses), default=0)
    if file.underlay.mtu < least:
        message = f"{file.underlay.mtu} leaves tenants less than IPv6's 1280 octets; use {least} or more"
        yield Problem("underlay.mtu", message)


def own_host(host: HostTable, file: File) -> Iterator[Problem]:
    """A host that the network does not know, or not at this node's addresses."""
    if not file.is_network_elsewhere:
        yield from unknown("host.name", "host", host.name, file.host_names)
    entry = file.own_host
    if entry is None or file.underlay is None or "provider_addresses" in entry.unsound:
        return
    for address in file.underlay.provider_addresses:
        if address not in entry.provider_addresses:
            message = f"{address!s} is not an address of this host; add it to {entry.path}.provider_addresses"
            yield Problem("underlay.provider_addresses", message)


def ports_used_twice(host: HostTable) -> Iterator[Problem]:
    """An interface, a MAC or an address that two ports have."""
    for path, interface, first in used_twice((port.path, port.interface) for port in host.ports):
        yield Problem(f"{path}.interface", f"{interface} is that of {first} already; give each port its own")
    macs = ((port.path, (port.tenant, port.subnet, port.mac)) for port in host.ports if port.mac)
    for path, (_, _, mac), first in used_twice(macs):
        yield Problem(f"{path}.mac", f"{mac!s} is that of {first} already; give each port its own")
    addresses = ((port.path, (port.tenant, ca)) for port in host.ports for ca in port.addresses)
    for path, (_, ca), first in used_twice(addresses):
        yield Problem(f"{path}.addresses", f"{ca!s} is that of {first} already; give each port its own")


def port_problems(port: PortTable, file: File) -> Iterator[Problem]:
    """A port on the underlay, of a tenant that may not be here, or with another's addresses."""
    if file.underlay is not None and port.interface in file.underlay.interfaces:
        message = f"{port.interface} is in underlay.interfaces; a port is a VM's own"
        yield Problem(f"{port.path}.interface", message)
    if not file.is_network_elsewhere:
        yield from unknown(f"{port.path}.tenant", "tenant", port.tenant, file.tenant_names)
    tenant = None if port.tenant is None else file.tenant_names.get(port.tenant)
    if tenant is None:
        return
    if file.own_host is not None:
        yield from not_authorised(f"{port.path}.tenant", file.own_host, tenant)
    yield from unknown(f"{port.path}.subnet", "subnet", port.subnet, tenant.subnet_names)
    subnet = None if port.subnet is None else tenant.subnet_names.get(port.subnet)
    if subnet is not None and port.mac is not None:
        yield from gateways_mac(f"{port.path}.mac", port.mac, subnet)
    for address in port.addresses:
        path = f"{port.path}.addresses"
        actual = tenant.subnet_with(address)
        if subnet is not None and actual is not None and actual is not subnet:
            yield Problem(path, f'{address!s} is in {actual.path}, not in subnet "{port.subnet}"')
        else:
            yield from not_a_vm(path, address, tenant)


def recorded_otherwise(port: PortTable, file: File) -> Iterator[Problem]:
    """A static record is pinned, so that a port cannot say otherwise."""
    for address in port.addresses:
        record = file.static_records.get((port.tenant or "", address))
        if record is None:
            continue
        if file.host and None not in (file.host.name, record.host) and record.host != file.host.name:
            message = f'{address!s} is at host "{record.host}", says {record.path}; change one of the two'
            yield Problem(f"{port.path}.addresses", message)
        if None not in (port.mac, record.mac) and record.mac != port.mac:
            message = f"{address!s} has MAC {record.mac!s}, says {record.path}; change one of the two"
            yield Problem(f"{port.path}.mac", message)


def _machines(file: File) -> Iterator[tuple[str, str | None, str, tuple[ProviderAddress, ...]]]:
    """Everyone with provider addresses: what it is, its name, and the path of its addresses."""
    if file.own_gateway is not None and file.underlay is not None:
        addresses = file.underlay.provider_addresses
        yield "gateway", file.own_gateway, "underlay.provider_addresses", addresses
    for gateway in file.gateways:
        yield "gateway", gateway.name, f"{gateway.path}.provider_addresses", gateway.provider_addresses
    for host in file.hosts:
        yield "host", host.name, f"{host.path}.provider_addresses", host.provider_addresses
