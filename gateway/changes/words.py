"""What is configured, in words for an operator: a value as it would be written, of a whole table the gist."""

from __future__ import annotations

from enum import StrEnum

from policies.addresses import Prefix
from policies.model import (
    AccessRule,
    CustomerRoute,
    HostPort,
    HostRole,
    Limits,
    LookupRecord,
    PortRange,
    ProviderGateway,
    ProviderHost,
    Site,
    Tenant,
    Translation,
    Underlay,
    VirtualSubnet,
)
from policies.services import ApiSettings, Credential, Etcd, LookupAccess, LookupSettings, ServerTls


def in_words(value: object) -> str:
    """Return a value as an operator would write it, of a whole table the gist."""
    match value:
        case None | ():
            return "none"
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:g}"
        case StrEnum():
            return value.value
        case tuple():
            return ", ".join(map(in_words, value))
        case PortRange(first, last):
            return str(first) if first == last else f"{first}-{last}"
        case Tenant(subnets=subnets, sites=sites):
            return f"{_count(len(subnets), 'virtual subnet')}, {_count(len(sites), 'site')}"
        case VirtualSubnet(vsid=vsid, prefixes=prefixes, translation=translation):
            return f"VSID {vsid}, {in_words(prefixes)}{_rewritten(translation)}"
        case Site(prefixes=prefixes, peer=peer, gateway=gateway):
            return f"{in_words(prefixes)} at {peer if peer is not None else 'any'}, by {gateway}"
        case LookupRecord(mac=mac, pa=pa, host=host, translation=translation):
            return f"{mac} on {host}, {pa}{_rewritten(translation)}"
        case CustomerRoute(next_hop=hop):
            return f"via {hop}"
        case AccessRule():
            return _rule(value)
        case ProviderHost(provider_addresses=addresses, tenants=tenants, pools=pools):
            return f"{in_words(addresses)}, tenants {in_words(tenants)}{_pooled(pools)}"
        case ProviderGateway(provider_addresses=addresses, pools=pools):
            return f"{in_words(addresses)}{_pooled(pools)}"
        case HostPort(tenant=tenant, subnet=subnet, mac=mac, addresses=addresses):
            return f"{tenant}/{subnet}, {mac}, {in_words(addresses)}"
        case Credential(role=role):
            return role.value
        case Limits(rate=rate, burst=burst):
            return f"{rate} bit/s, burst {burst} octets"
        case LookupAccess(nodes=nodes):
            return in_words(nodes)
        case LookupSettings(listen=listen) | ApiSettings(listen=listen):
            return f"on {listen}"
        case Underlay(provider_addresses=addresses):
            return in_words(addresses)
        case HostRole(name=name):
            return str(name)
        case ServerTls(certificate_file=file):
            return str(file)
        case Etcd(endpoints=endpoints):
            return in_words(endpoints)
    return str(value)


def _rule(rule: AccessRule) -> str:
    protocol = "any protocol" if rule.protocol is None else f"protocol {rule.protocol}"
    ports = f" port {in_words(rule.ports)}" if rule.ports else ""
    return f"{rule.action.value} {rule.source} to {rule.destination}, {protocol}{ports}"


def _pooled(pools: tuple[Prefix, ...]) -> str:
    return f", pools {in_words(pools)}" if pools else ""


def _rewritten(translation: Translation) -> str:
    return ", rewritten" if translation is Translation.REWRITE else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
