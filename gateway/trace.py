"""What would happen to a packet, step by step: the pipeline itself, asked to explain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from gateway.forwarding.directory import Directory
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Answer, Drop, Emission, Forward, OuterHeader, ToPort, ToSite, Verdict
from gateway.packets import nvgre
from gateway.sites.policies import children
from policies.addresses import (
    BROADCAST_MAC,
    CustomerAddress,
    MacAddress,
    ProviderAddress,
    Vsid,
    gateway_mac,
    is_group_address,
)
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance, LookupRecord, SiteHop, SubnetHop
from policies.selectors import Selectors
from policies.tables import RoutingDomain, Tables

PROTOCOLS = ("tcp", "udp", "icmp")

# Taken where the configuration names no MTU: the machine is not asked.
_DEFAULT_MTU = 1500

# What a tunnel carries is known when it stands. The most that ESP adds: IPv6 and UDP, SPI and
# number, the initialization vector and padding of AES-CBC, and half of an HMAC-SHA2-512.
_MOST_OF_ESP = 40 + 8 + 8 + 16 + 17 + 32

_OUTCOMES = {Forward: "forwarded", Answer: "answered", Drop: "dropped"}


class Question(msgspec.Struct, frozen=True):
    """A packet in words: `size` is the IP packet's in octets, `via` the outer source if not its record's."""

    source: CustomerAddress
    destination: CustomerAddress
    tenant: str | None = None
    vsid: Vsid | None = None
    protocol: str = "icmp"
    source_port: int = 49152
    destination_port: int = 0
    size: int = 100
    hop_limit: int = 64
    dont_fragment: bool = True
    established: bool = False
    """For TCP: not the segment that opens the connection."""
    via: ProviderAddress | None = None
    site: str | None = None
    """The site that it comes from, if not the one that routes lead to its source by."""


class Step(msgspec.Struct, frozen=True):
    """One step of the pipeline, and what decided it."""

    name: str
    detail: str


class Explanation(msgspec.Struct, frozen=True):
    """The steps and the verdict, both in words."""

    steps: tuple[Step, ...]
    outcome: str
    """`forwarded`, `answered` or `dropped`."""
    verdict: str


def explain(appliance: Appliance, directory: Directory, question: Question) -> Explanation:
    """Send a packet through this node's pipeline, and tell what happened.

    The tunnels of the sites that this node dials are taken to be up. Raises
    ConfigurationError where the question does not fit the configuration.
    """
    if appliance.underlay is None or not (appliance.gateway or appliance.host):
        raise _unfit("", "no packet comes to this node: it has neither [gateway] nor [host]")
    steps: list[Step] = []
    tables = Tables.compile(appliance.network)
    mtu = appliance.underlay.mtu or _DEFAULT_MTU
    node = Node.of(appliance, mtu)
    forwarder = Forwarder(
        node, tables, directory, explain=lambda name, detail: steps.append(Step(name, detail))
    )
    domain = _domain(tables, question)
    sites = _take_for_up(appliance, forwarder, domain)
    site = _site_of(domain, question)
    if site is not None:
        verdict = _through_tunnel(forwarder, domain, site, sites, question)
    else:
        verdict = _from_datacenter(forwarder, domain, question)
    return Explanation(tuple(steps), _OUTCOMES[type(verdict)], _in_words(verdict, tables))


def _through_tunnel(
    forwarder: Forwarder,
    domain: RoutingDomain,
    site: str,
    sites: Mapping[str, Selectors],
    question: Question,
) -> Verdict:
    selectors = sites.get(site)
    if selectors is None:
        known = f"those are: {', '.join(sorted(sites)) or 'none'}"
        raise _unfit("from-site", f"{site} is no site of {domain.name} whose gateway this is; {known}")
    packet = bytes(_padded(_packet(question), question))
    return forwarder.from_site((domain.name, site), packet, selectors, 0, now=0)


def _from_datacenter(forwarder: Forwarder, domain: RoutingDomain, question: Question) -> Verdict:
    """From the port of a VM here, or else from the underlay."""
    node, tables, directory = forwarder.node, forwarder.tables, forwarder.directory
    source = _subnet_of(domain, question.source)
    record = directory.find(source.vsid, question.source) if source else None
    arrival_vsid = question.vsid or _arrival_vsid(node, domain, question, record)
    frame = _frame(tables, directory, arrival_vsid, record, question)
    if record is not None and (record.vsid, record.mac) in node.ports and question.via is None:
        return forwarder.from_port((record.vsid, record.mac), frame, now=0)
    outer = _outer(node, record, question)
    return forwarder.from_underlay(outer, nvgre.encode(arrival_vsid) + frame, now=0)


def _take_for_up(appliance: Appliance, forwarder: Forwarder, domain: RoutingDomain) -> dict[str, Selectors]:
    """Have the tenant's tunnels stand, as configured; return the selectors of each by its site's name."""
    by_site: dict[str, Selectors] = {}
    (tenant,) = (each for each in appliance.network.tenants if each.name == domain.name)
    for site in tenant.sites:
        if not appliance.gateway or site.gateway != appliance.name:
            continue
        selectors = [child.selectors for child in children(tenant, site)]
        mtu = site.mtu or forwarder.node.underlay_mtu - _MOST_OF_ESP
        forwarder.sites.site_is_up((tenant.name, site.name), mtu, selectors)
        by_site[site.name] = Selectors(
            tuple(local for each in selectors for local in each.local),
            tuple(remote for each in selectors for remote in each.remote),
        )
    return by_site


def _site_of(domain: RoutingDomain, question: Question) -> str | None:
    """The site that a packet comes from, if it comes from one."""
    if question.site is not None or question.via is not None:
        return question.site
    _, hop = domain.resolve(question.source)
    return hop.site if isinstance(hop, SiteHop) else None


def _domain(tables: Tables, question: Question) -> RoutingDomain:
    if question.vsid is not None:
        entry = tables.subnets.get(question.vsid)
        if entry is None:
            raise _unfit("vsid", f"no tenant has VSID {question.vsid}; known: {sorted(tables.subnets)}")
        if question.tenant not in (None, entry.domain.name):
            raise _unfit("vsid", f"VSID {question.vsid} is {entry.domain.name}'s, not {question.tenant}'s")
        return entry.domain
    if question.tenant is None and len(tables.domains) == 1:
        return next(iter(tables.domains.values()))
    domain = tables.domains.get(question.tenant or "")
    if not tables.domains:
        raise _unfit("tenant", "there is none: neither this file nor who it asks has a network")
    if domain is None:
        raise _unfit("tenant", f"name one of {', '.join(sorted(tables.domains))}, or a VSID")
    return domain


def _unfit(path: str, message: str) -> ConfigurationError:
    return ConfigurationError([Problem(path, message)])


def _arrival_vsid(node: Node, domain: RoutingDomain, question: Question, record: LookupRecord | None) -> Vsid:
    """The VSID that the packet comes in with: the sender's, unless another host has routed it already."""
    source, target = _subnet_of(domain, question.source), _subnet_of(domain, question.destination)
    is_here = record is not None and (record.vsid, record.mac) in node.ports
    if not is_here and not node.is_gateway and target is not None:
        return target.vsid
    return source.vsid if source is not None else min(domain.vsids)


def _subnet_of(domain: RoutingDomain, ca: CustomerAddress) -> SubnetHop | None:
    hop = domain.routes.lookup(ca)
    return hop if isinstance(hop, SubnetHop) else None


def _outer(node: Node, record: LookupRecord | None, question: Question) -> OuterHeader:
    outer_source = question.via or (record.pa if record is not None else None)
    if outer_source is None:
        raise _unfit(
            "from", f"{question.source} has no record: say with --via which provider address sends it"
        )
    ours = node.address_towards(outer_source)
    if ours is None:
        raise _unfit("via", f"this node has no provider address of the family of {outer_source}")
    return OuterHeader(source=bytes(outer_source), destination=bytes(ours))


def _frame(
    tables: Tables, directory: Directory, vsid: Vsid, record: LookupRecord | None, question: Question
) -> bytes:
    """The frame as the VM would send it."""
    header = Ether(
        dst=str(_destination_mac(tables, directory, vsid, question.destination)),
        src=str(record.mac if record is not None else gateway_mac(vsid)),
    )
    return bytes(header / _padded(_packet(question), question))


def _padded(packet: Packet, question: Question) -> Packet:
    padding = question.size - len(packet)
    if padding < 0:
        raise _unfit("size", f"this {question.protocol} packet has at least {len(packet)} octets")
    return packet / Raw(bytes(padding))


def _destination_mac(
    tables: Tables, directory: Directory, vsid: Vsid, destination: CustomerAddress
) -> MacAddress:
    """A group's MAC, a neighbour's, or else the gateway's."""
    entry = tables.subnets[vsid]
    if is_group_address(destination):
        if destination.version == 6:  # RFC 2464 section 7
            return MacAddress(b"\x33\x33" + destination[12:])
        if destination[0] == 0xFF:
            return BROADCAST_MAC
        # RFC 1112 section 6.4: the low 23 bits of the group.
        return MacAddress(b"\x01\x00\x5e" + (int.from_bytes(destination) & 0x7FFFFF).to_bytes(3))
    here = _subnet_of(entry.domain, destination)
    if destination in entry.domain.broadcast_addresses and here is not None and here.vsid == vsid:
        return BROADCAST_MAC
    neighbour = directory.find(vsid, destination)
    is_neighbour = neighbour is not None and entry.proxied.lookup(destination) is None
    return neighbour.mac if neighbour is not None and is_neighbour else entry.gateway_mac


def _packet(question: Question) -> Packet:
    if len(question.source) != len(question.destination):
        raise _unfit("to", f"{question.destination} is not of the same family as {question.source}")
    ends = {"src": str(question.source), "dst": str(question.destination)}
    if question.source.version == 4:
        flags = "DF" if question.dont_fragment else 0
        return IP(**ends, ttl=question.hop_limit, flags=flags) / _upper_layer(question)
    return IPv6(**ends, hlim=question.hop_limit) / _upper_layer(question)


def _upper_layer(question: Question) -> Packet:
    ports = {"sport": question.source_port, "dport": question.destination_port}
    match question.protocol:
        case "tcp":
            return TCP(**ports, flags="A" if question.established else "S")
        case "udp":
            return UDP(**ports)
        case "icmp":
            return ICMP() if question.source.version == 4 else ICMPv6EchoRequest()
        case other:
            raise _unfit("protocol", f"{other!r} is none of {', '.join(PROTOCOLS)}")


def _in_words(verdict: Verdict, tables: Tables) -> str:
    if isinstance(verdict, Drop):
        told = "; its sender is told by ICMP" if verdict.emissions else ""
        return f"dropped: {verdict.reason.value}{told}"
    # The fragments of a packet differ at most in the length of the last.
    counts = Counter(_way_in_words(emission, tables) for emission in verdict.emissions)
    ways = "; ".join(way if count == 1 else f"{way}, {count} times" for way, count in counts.items())
    return f"{'answered' if isinstance(verdict, Answer) else 'forwarded'} {ways}"


def _way_in_words(emission: Emission, tables: Tables) -> str:
    if isinstance(emission, ToPort):
        vsid, mac = emission.port
        return f"to the port of {mac} in {tables.subnets[vsid].name} here"
    if isinstance(emission, ToSite):
        return f"into the tunnel to {emission.site[1]}, {len(emission.packet)} octets before encryption"
    name = tables.subnets[emission.vsid].name
    octets = len(emission.payload)
    return (
        f"from {emission.source} to {emission.destination} in NVGRE, VSID {emission.vsid} ({name}),"
        f" {octets} octets behind the outer IP header"
    )
