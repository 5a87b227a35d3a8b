"""Records as a script for Windows PowerShell: what a Hyper-V host of Windows Server 2012 R2 is told (NetWNV).

Names in it come from the network's configuration. The script is ASCII alone, whatever they are: Windows
PowerShell reads a script without a mark in the machine's own code page, where octets of UTF-8 may turn into
a quotation mark, and it takes typographical quotation marks for plain ones.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence

from policies.addresses import CustomerAddress, MacAddress, Prefix, ProviderAddress, Vsid, gateway_mac
from policies.errors import ConfigurationError, Problem
from policies.model import (
    AddressHop,
    LookupRecord,
    Network,
    ProviderGateway,
    SiteHop,
    Tenant,
    Translation,
    VirtualSubnet,
)

METRIC = 255

HEADER = """\
# Lookup records, customer routes and provider addresses for Hyper-V Network Virtualization: the module
# NetWNV of Windows Server 2012 R2. Written by isthmus, as of revision {revision}.
#
# UNTESTED: no Windows host has run this. It follows the module's documentation and its makers' sample
# scripts. Try it on one host without guests first.
#
# A host learns of no later change by itself: give it a new script then. The script stops at the first
# thing that is there already; what a host has goes away by Remove-NetVirtualizationLookupRecord,
# Remove-NetVirtualizationCustomerRoute and Remove-NetVirtualizationProviderAddress.
#
# Usage: .\\records.ps1 -HostName hv1 -InterfaceAlias Ethernet -PrefixLength 24
[CmdletBinding()]
param(
    # This machine's name among the provider hosts.
    [Parameter(Mandatory = $true)] [string] $HostName,
    # The adapter in the datacenter's network, which the module ms_netwnv is bound to.
    [Parameter(Mandatory = $true)] [string] $InterfaceAlias,
    # Of the provider addresses' network.
    [Parameter(Mandatory = $true)] [byte] $PrefixLength,
    [byte] $PrefixLengthIPv6 = 64
)
Set-StrictMode -Version 2
$ErrorActionPreference = 'Stop'
Import-Module NetWNV
"""

_PROVIDER = """\
if (-not $ProviderAddresses.ContainsKey($HostName)) { throw "There is no provider host $HostName." }
$Interface = Get-NetAdapter -Name $InterfaceAlias
function Add-ProviderAddress([string] $Address) {
    $Length = if ($Address.Contains(':')) { $PrefixLengthIPv6 } else { $PrefixLength }
    New-NetVirtualizationProviderAddress -InterfaceIndex $Interface.InterfaceIndex -ProviderAddress $Address `
        -PrefixLength $Length
}
foreach ($Address in $ProviderAddresses[$HostName]) { Add-ProviderAddress $Address }
"""

_RULES = {Translation.ENCAP: "TranslationMethodEncap", Translation.REWRITE: "TranslationMethodNat"}


def routing_domains(network: Network, given: Mapping[str, str]) -> dict[str, str]:
    """Return the routing domain ID of each tenant: the configuration's, or as `given` for its name.

    One that nobody has said is not made up: hosts that have another already would take the tenant
    for two. Raises ConfigurationError with all that is wrong.
    """
    problems = [
        Problem("--rdid", f"there is no tenant {name}")
        for name in given
        if name not in {tenant.name for tenant in network.tenants}
    ]
    found: dict[str, str] = {}
    owners: dict[str, str] = {}
    for tenant in network.tenants:
        text = given.get(tenant.name, tenant.rdid)
        if text is None:
            words = 'has no rdid: write rdid = "..." in its [[tenant]], or give --rdid NAME=GUID'
            problems.append(Problem(f"tenant {tenant.name}", words))
            continue
        try:
            rdid = str(uuid.UUID(text))
        except ValueError:
            problems.append(Problem(f"tenant {tenant.name}", f"the rdid {text[:64]!r} is no GUID"))
            continue
        if (other := owners.setdefault(rdid, tenant.name)) != tenant.name:
            problems.append(Problem(f"tenant {tenant.name}", f"its rdid {rdid} is {other}'s too"))
        found[tenant.name] = f"{{{rdid}}}"
    if problems:
        raise ConfigurationError(problems)
    return found


def lines(
    network: Network,
    records: Iterable[LookupRecord],
    rdids: Mapping[str, str],
    *,
    revision: int,
) -> Iterator[str]:
    """Yield the script line by line, with their line ends.

    Raises ConfigurationError, before the first line, for a name that no script should hold.
    """
    _check_names(network)
    text = HEADER.format(revision=revision)
    yield from _windows(text.splitlines())
    yield from _windows(_provider_addresses(network))
    owners: dict[Vsid, Tenant] = {}
    for tenant in network.tenants:
        owners.update((subnet.vsid, tenant) for subnet in tenant.subnets)
        yield from _windows(_tenant(tenant, network.gateways, rdids[tenant.name]))
    yield from _windows(["", "# Where the VMs are."])
    for record in records:
        owner = owners.get(record.vsid)
        if owner is not None:
            yield from _windows(_record(record, owner, rdids[owner.name]))


def _provider_addresses(network: Network) -> Iterator[str]:
    yield ""
    yield "# The provider addresses of this host."
    yield "$ProviderAddresses = @{"
    for host in network.hosts:
        yield f"    {quoted(host.name)} = @({', '.join(quoted(str(pa)) for pa in host.provider_addresses)})"
    yield "}"
    yield from _PROVIDER.splitlines()


def _tenant(tenant: Tenant, gateways: Sequence[ProviderGateway], rdid: str) -> Iterator[str]:
    """The routes of a routing domain, and where its gateway is."""
    yield ""
    yield f"# Tenant {_commented(tenant.name)}"
    for subnet in tenant.subnets:
        for prefix in subnet.prefixes:
            yield _route(rdid, subnet.vsid, prefix, "0.0.0.0" if prefix.version == 4 else "::")
    gateway = _first_gateway(tenant, gateways)
    if gateway is not None and gateway.provider_addresses:
        for subnet in tenant.subnets:
            yield from _gateway_records(tenant, subnet, gateway.name, gateway.provider_addresses[0], rdid)
    elif tenant.sites:
        yield "# It has no gateway that is known: its sites cannot be reached."
        return
    for prefix, hop in _further_routes(tenant):
        subnet_of = _subnet_of(tenant, hop, prefix.version)
        if subnet_of is None:
            yield f"# Nothing leads to {prefix}: no virtual subnet has its next hop."
        else:
            yield _route(rdid, subnet_of[0], prefix, str(subnet_of[1]))


def _gateway_records(
    tenant: Tenant, subnet: VirtualSubnet, name: str, pa: ProviderAddress, rdid: str
) -> Iterator[str]:
    """The subnet's gateway address, and the wildcard: what has no record is at the gateway.

    Rewritten VMs reach it by provider addresses that are leased while packets flow, and a script has none.
    """
    if subnet.translation is Translation.REWRITE:
        name = _commented(subnet.name)
        yield f"# VMs of {name} are rewritten, and reach each other alone: no sites, no encapsulated VMs."
        return
    mac = gateway_mac(subnet.vsid)
    context = f"{tenant.name}/{subnet.name} gateway {name}"
    for ca in subnet.gateway_addresses:
        yield _lookup_record(str(ca), subnet.vsid, mac, pa, Translation.ENCAP, context, rdid)
    for version in sorted({prefix.version for prefix in subnet.prefixes}):
        anywhere = "0.0.0.0" if version == 4 else "::"
        wildcard = _lookup_record(anywhere, subnet.vsid, mac, pa, Translation.ENCAP, context, rdid)
        yield f"{wildcard} -Type 'GatewayWildcard'"


def _further_routes(tenant: Tenant) -> Iterator[tuple[Prefix, CustomerAddress | None]]:
    """The routes besides those on the subnets' links; None: by the gateway."""
    for site in tenant.sites:
        for prefix in site.prefixes:
            yield prefix, None
    for route in tenant.routes:
        match route.next_hop:
            case AddressHop(ca=ca):
                yield route.prefix, ca
            case SiteHop():
                yield route.prefix, None


def _subnet_of(
    tenant: Tenant, hop: CustomerAddress | None, version: int
) -> tuple[Vsid, CustomerAddress] | None:
    """Return the next hop, and the virtual subnet that it is in."""
    for subnet in tenant.subnets:
        if hop is not None and any(hop.ip in prefix for prefix in subnet.prefixes):
            return subnet.vsid, hop
        is_gateway_known = hop is None and subnet.translation is Translation.ENCAP
        for ca in subnet.gateway_addresses if is_gateway_known else ():
            if ca.version == version:
                return subnet.vsid, ca
    return None


def _first_gateway(tenant: Tenant, gateways: Sequence[ProviderGateway]) -> ProviderGateway | None:
    known = {gateway.name: gateway for gateway in gateways}
    return next((known[name] for name in tenant.gateways if name in known), None)


def _record(record: LookupRecord, tenant: Tenant, rdid: str) -> Iterator[str]:
    """Where a VM is; the host that it is at has the provider address of a rewritten one itself."""
    name = f"{tenant.name}/{record.ca}"
    line = _lookup_record(
        str(record.ca), record.vsid, record.mac, record.pa, record.translation, f"host {record.host}", rdid
    )
    yield f"{line} -VMName {quoted(name)}"
    if record.translation is Translation.REWRITE:
        yield f"if ($HostName -eq {quoted(record.host)}) {{ Add-ProviderAddress {quoted(str(record.pa))} }}"


def _lookup_record(
    ca: str, vsid: Vsid, mac: MacAddress, pa: ProviderAddress, way: Translation, context: str, rdid: str
) -> str:
    return (
        f"New-NetVirtualizationLookupRecord -CustomerAddress {quoted(ca)} -VirtualSubnetID {vsid:d}"
        f" -MACAddress {quoted(mac.hex().upper())} -ProviderAddress {quoted(str(pa))}"
        f" -Rule {quoted(_RULES[way])} -CustomerID {quoted(rdid)} -Context {quoted(context)}"
    )


def _route(rdid: str, vsid: Vsid, prefix: Prefix, hop: str) -> str:
    return (
        f"New-NetVirtualizationCustomerRoute -RoutingDomainID {quoted(rdid)} -VirtualSubnetID {vsid:d}"
        f" -DestinationPrefix {quoted(str(prefix))} -NextHop {quoted(hop)} -Metric {METRIC}"
    )


def quoted(text: str) -> str:
    """Return an expression of PowerShell whose value is a text, in ASCII, on one line."""
    if text.isascii() and text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    parts: list[str] = []
    plain = ""
    for character in text:
        if character.isascii() and character.isprintable():
            plain += character
            continue
        parts += [quoted(plain), *(f"[char]0x{unit:04X}" for unit in _utf16(character))]
        plain = ""
    # The first of them is text, so that the others are appended to it.
    return f"({' + '.join([*parts, quoted(plain)])})"


def _utf16(character: str) -> list[int]:
    octets = character.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(octets[at : at + 2]) for at in range(0, len(octets), 2)]


def _commented(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


def _check_names(network: Network) -> None:
    """No name of a network has line ends in it; one that comes from elsewhere must not get this far."""
    names = [host.name for host in network.hosts]
    names += [gateway.name for gateway in network.gateways]
    for tenant in network.tenants:
        names += [tenant.name, *(subnet.name for subnet in tenant.subnets)]
    if bad := [name for name in names if not name.isprintable()]:
        raise ConfigurationError([Problem("", f"the name {name!r} is for no script") for name in bad])


def _windows(lines_: Iterable[str]) -> Iterator[str]:
    for line in lines_:
        yield f"{line}\r\n"
