"""Checks of the sites: whom they trust, what they carry, and what the sites of one gateway must share.

A gateway that is called in IKE_SA_INIT knows no more of its peer than an address.
All sites that could be meant then need the same proposals for the IKE SA.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from itertools import chain

from policies.addresses import CustomerAddress, Prefix, ProviderAddress
from policies.config.network_checks import used_twice
from policies.config.network_tables import TenantTable
from policies.config.node_tables import File
from policies.config.reader import listed
from policies.config.site_tables import IkeTable, SiteTable
from policies.errors import Problem
from policies.ipsec import SelectorMode, SiteStart
from policies.model import SiteHop
from policies.selectors import MOST_SELECTORS

_LEAST_MTU_OF_IPV6 = 1280


def site_problems(file: File) -> Iterator[Problem]:
    """Everything that is wrong with the sites."""
    yield from identities_used_twice(file)
    yield from unlike_proposals(file)
    for tenant in file.tenants:
        yield from local_prefixes(tenant)
        for site in tenant.sites:
            yield from dialling(site)
            yield from unused_profile(site)
            yield from ignored_local_prefixes(site)
            yield from gateway_outside_the_selectors(site, tenant)
            yield from selectors_without_traffic(site, tenant)
            yield from mtu_too_small_for_ipv6(site, tenant)
            if site.ike is not None:
                yield from one_identity_for_both(site.ike)
                yield from credentials(site.ike)
            if file.own_gateway is not None and site.gateway == file.own_gateway:
                yield from unreachable_peer(site, file)
                if site.ike is not None:
                    yield from missing_credentials(site.ike)


def identities_used_twice(file: File) -> Iterator[Problem]:
    """A pair of identities that two sites have: it tells them apart when a peer calls."""
    pairs = (
        (site.path, (_same_identity(site.ike.local_id), _same_identity(site.ike.remote_id)))
        for tenant in file.tenants
        for site in tenant.sites
        if site.ike is not None and site.ike.local_id is not None and site.ike.remote_id is not None
    )
    for path, _, first in used_twice(pairs):
        message = f"{first} has the same local_id and remote_id; the pair tells sites apart, so change one"
        yield Problem(f"{path}.ike.remote_id", message)


def one_identity_for_both(ike: IkeTable) -> Iterator[Problem]:
    """A peer that has our own identity: by a shared secret, whoever sends us back what we say would be it."""
    if ike.local_id is None or ike.remote_id is None:
        return
    if _same_identity(ike.local_id) == _same_identity(ike.remote_id):
        yield Problem(f"{ike.path}.remote_id", "is our own local_id; give each side an identity of its own")


def unlike_proposals(file: File) -> Iterator[Problem]:
    """Sites of one gateway that a caller's address cannot tell apart, with different IKE proposals."""
    first: dict[tuple[str, ProviderAddress | str], SiteTable] = {}
    for tenant in file.tenants:
        for site in tenant.sites:
            if site.gateway is None or site.peer is None or site.unsound & {"profile", "ike_proposals"}:
                continue
            other = first.setdefault((site.gateway, site.peer), site)
            if other.agreed_ike_proposals != site.agreed_ike_proposals:
                key = "ike_proposals" if site.ike_proposals or not site.given & {"profile"} else "profile"
                yield Problem(
                    f"{site.path}.{key}",
                    f'is unlike that of {other.path}, and both have peer = "{site.peer!s}" at one gateway, '
                    "which cannot tell them apart when IKE begins; give both the same",
                )


def dialling(site: SiteTable) -> Iterator[Problem]:
    """A peer without an address cannot be dialled."""
    if site.peer == "any" and site.start in (SiteStart.START, SiteStart.TRAP):
        message = f'"{site.start}" dials the peer, and peer = "any" has no address; use "respond"'
        yield Problem(f"{site.path}.start", message)


def unused_profile(site: SiteTable) -> Iterator[Problem]:
    """A profile of which nothing is left."""
    if site.given >= {"profile", "ike_proposals", "esp_proposals"} and not site.unsound:
        message = "is not used beside ike_proposals and esp_proposals; leave it out"
        yield Problem(f"{site.path}.profile", message)


def ignored_local_prefixes(site: SiteTable) -> Iterator[Problem]:
    """Prefixes beside a selector for everything."""
    if site.selectors is SelectorMode.ANY and "local_prefixes" in site.given:
        message = 'are not used with selectors = "any"; leave them out, and write [[tenant.access]] rules'
        yield Problem(f"{site.path}.local_prefixes", message)


def local_prefixes(tenant: TenantTable) -> Iterator[Problem]:
    """What a peer may reach has to be in a subnet, at another site, or where another route leads."""
    places = (tenant, *tenant.subnets, *tenant.sites, *tenant.routes)
    if any(place.unsound & {"subnet", "site", "route", "prefixes", "prefix", "via"} for place in places):
        return
    for site in tenant.sites:
        for prefix in site.local_prefixes if site.selectors is not SelectorMode.ANY else ():
            if any(prefix.overlaps(other) for other in _elsewhere(site, tenant, prefix.version)):
                continue
            known = listed(str(other) for version in (4, 6) for other in _elsewhere(site, tenant, version))
            message = (
                f"{prefix} is in no subnet, at no other site and on no route; there are {known or 'none'}"
            )
            yield Problem(f"{site.path}.local_prefixes", message)


def gateway_outside_the_selectors(site: SiteTable, tenant: TenantTable) -> Iterator[Problem]:
    """The peer accepts our ICMP errors from an address inside the selectors only (RFC 4301 section 5.2)."""
    if site.selectors is SelectorMode.ANY or "subnet" in tenant.unsound:
        return
    if any(each.unsound & {"prefixes", "gateway"} for each in tenant.subnets):
        return
    for version in (4, 6):
        candidates = [address for address in tenant.gateway_addresses if address.version == version]
        local = [prefix for prefix in site.local_prefixes if prefix.version == version]
        remote = any(prefix.version == version for prefix in site.prefixes)
        if local and remote and candidates and not any(g.ip in p for g in candidates for p in local):
            address = _nearest_gateway(local, candidates, tenant)
            single = f"{address!s}/{8 * len(address)}"
            message = f"hold no IPv{version} address of the gateway, to send ICMP errors from; add {single}"
            yield Problem(f"{site.path}.local_prefixes", message)


def selectors_without_traffic(site: SiteTable, tenant: TenantTable) -> Iterator[Problem]:
    """Nothing to propose, where the sides have no family in common, or more than there is room for."""
    if (
        site.selectors is SelectorMode.ANY
        or "prefixes" in site.unsound
        or tenant.unsound & {"subnet", "route"}
    ):
        return
    if "local_prefixes" in site.unsound or any("prefixes" in each.unsound for each in tenant.subnets):
        return
    remote = tenant.site_prefixes.get(site.name or "", [])
    local = list(site.local_prefixes) or [prefix for each in tenant.subnets for prefix in each.prefixes]
    if not remote:
        right = 'write prefixes, or a [[tenant.route]] there, or selectors = "any"'
        yield Problem(f"{site.path}.prefixes", f"are missing, and nothing else leads there; {right}")
    elif not {prefix.version for prefix in remote} & {prefix.version for prefix in local}:
        here, there = (f"IPv{prefixes[0].version}" if prefixes else "nothing" for prefixes in (local, remote))
        message = f"{there} is there and {here} is here, so that nothing can pass; give both sides one family"
        yield Problem(f"{site.path}.prefixes", message)
    elif (most := max(len(local), len(remote))) > MOST_SELECTORS:
        message = f"one side has {most} prefixes, and IKE has room for {MOST_SELECTORS}"
        yield Problem(f"{site.path}.selectors", f'{message}; use "pairs" or "any", or fewer prefixes')


def mtu_too_small_for_ipv6(site: SiteTable, tenant: TenantTable) -> Iterator[Problem]:
    """An MTU that leaves IPv6 fewer octets than each of its links must carry (RFC 8200 section 5)."""
    if site.mtu is None or site.mtu >= _LEAST_MTU_OF_IPV6:
        return
    if any(prefix.version == 6 for prefix in tenant.site_prefixes.get(site.name or "", ())):
        message = f"{site.mtu} is less than IPv6's {_LEAST_MTU_OF_IPV6} octets, and IPv6 leads there"
        yield Problem(f"{site.path}.mtu", f"{message}; use {_LEAST_MTU_OF_IPV6} or more")


def unreachable_peer(site: SiteTable, file: File) -> Iterator[Problem]:
    """A peer that is this gateway itself, or of a family that the gateway is not called by."""
    here = file.site_addresses
    if not isinstance(site.peer, ProviderAddress) or not here:
        return
    if site.peer in here:
        yield Problem(f"{site.path}.peer", f"{site.peer!s} is this gateway's own address; give the peer's")
    elif all(address.version != site.peer.version for address in here):
        message = f"{site.peer!s} is IPv{site.peer.version}, and this gateway has no such address"
        yield Problem(f"{site.path}.peer", f"{message}; add one to gateway.site_addresses")


def credentials(ike: IkeTable) -> Iterator[Problem]:
    """Files that come in pairs, or that nothing would be read from."""
    given = _given(ike)
    for key, other in (("certificate_file", "key_file"), ("key_file", "certificate_file")):
        if key in given and other not in given:
            yield Problem(f"{ike.path}.{other}", f"is missing, and {key} is there; they go together")
    if "revocation_files" in given and "authority_files" not in given:
        message = "are of no use without authority_files, which the peer's certificate is checked by"
        yield Problem(f"{ike.path}.revocation_files", message)
    if given >= {"psk_file", "key_file", "certificate_file", "authority_files"}:
        message = "is not used: both sides show certificates; leave it out, or authority_files, or our own"
        yield Problem(f"{ike.path}.psk_file", message)


def missing_credentials(ike: IkeTable) -> Iterator[Problem]:
    """Nothing to prove who we are, or nothing to check who the peer is."""
    given = _given(ike)
    if "psk_file" in given:
        return
    if not given & {"key_file", "certificate_file", "authority_files"}:
        right = "write psk_file, or certificate_file, key_file and authority_files"
        yield Problem(f"{ike.path}", f"has nothing that proves who is who; {right}")
    elif not given & {"key_file", "certificate_file"}:
        right = "write certificate_file and key_file, or psk_file"
        yield Problem(f"{ike.path}", f"has nothing that proves who we are; {right}")
    elif "authority_files" not in given:
        right = "write authority_files, or psk_file"
        yield Problem(f"{ike.path}", f"has nothing that proves who the peer is; {right}")


def _given(ike: IkeTable) -> frozenset[str]:
    """The credentials' keys that are there; one that could not be read counts, for it has been said."""
    return ike.unsound | {
        key
        for key, value in (
            ("psk_file", ike.psk_file),
            ("certificate_file", ike.certificate_file),
            ("key_file", ike.key_file),
            ("authority_files", ike.authority_files),
            ("revocation_files", ike.revocation_files),
        )
        if value
    }


def _same_identity(written: str) -> str:
    """One text for all ways to write an identity: names know no capitals, addresses several notations."""
    try:
        return str(ipaddress.ip_address(written))
    except ValueError:
        return written.replace(", ", ",").casefold()


def _elsewhere(site: SiteTable, tenant: TenantTable, version: int) -> Iterator[Prefix]:
    """The prefixes of a family that lead anywhere in the tenant but to the site."""
    prefixes = chain(
        (prefix for subnet in tenant.subnets for prefix in subnet.prefixes),
        (prefix for other in tenant.sites if other is not site for prefix in other.prefixes),
        (route.prefix for route in tenant.routes if route.prefix and route.via != SiteHop(site.name or "")),
    )
    return (prefix for prefix in prefixes if prefix.version == version)


def _nearest_gateway(
    local: list[Prefix], gateways: list[CustomerAddress], tenant: TenantTable
) -> CustomerAddress:
    """The gateway of a subnet that the peer may reach a part of, or any."""
    for prefix in local:
        subnet = tenant.subnet_with(CustomerAddress(prefix.network_address.packed))
        for address in subnet.gateway_addresses if subnet else ():
            if address in gateways:
                return address
    return gateways[0]
