"""What would happen to a packet, step by step: the pipeline itself, asked to explain."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import msgspec

from gateway.forwarding.directory import Directory
from gateway.forwarding.drops import DropReason
from gateway.forwarding.node import Explain, Node
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Answer, Drop, Emission, Forward, OuterHeader, ToPort, ToSite, Verdict
from gateway.packets import ethernet, ip, nvgre
from gateway.packets.checksum import internet_checksum, transport_checksum
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
from policies.facts import ICMP, ICMPV6, TCP, TCP_ACK, TCP_SYN, UDP
from policies.model import Appliance, LookupRecord, SiteHop, SubnetHop
from policies.selectors import Selectors
from policies.tables import RoutingDomain, Tables

PROTOCOLS = ("tcp", "udp", "icmp")

# Taken where the configuration names no MTU: the machine is not asked.
_DEFAULT_MTU = 1500

# What a tunnel carries is known when it stands. The most that ESP adds: IPv6 and UDP, SPI and
# number, the initialization vector and padding of AES-CBC, and half of an HMAC-SHA2-512.
_MOST_OF_ESP = 40 + 8 + 8 + 16 + 17 + 32

_TCP = struct.Struct("!HHIIBBHHH")
_UDP = struct.Struct("!HHHH")
_ECHO = struct.Struct("!BBHHH")
_ECHO_REQUEST = {4: 8, 6: 128}

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
    """Send a packet through the pipeline of the node that a configuration describes, and tell what happened.

    The tunnels of the sites that this node dials are taken to be up. Raises
    ConfigurationError where the question does not fit the configuration.
    """
    if appliance.underlay is None or not (appliance.gateway or appliance.host):
        raise _unfit("", "no packet comes to this node: it has neither [gateway] nor [host]")
    node = Node.of(appliance, appliance.underlay.mtu or _DEFAULT_MTU)
    tables = Tables.compile(appliance.network)
    domain = _domain(tables, question)
    return _explain(
        domain,
        lambda tell: Forwarder(node, tables, directory, explain=tell),
        lambda forwarder: _take_for_up(appliance, forwarder, domain),
        question,
        0.0,
    )


def explain_running(forwarder: Forwarder, question: Question, now: float) -> Explanation:
    """Tell what a forwarder would do with a packet now, as its tunnels, paths and ports are.

    It is only looked at: nothing is counted, learned or sent. Tenants' rates are not judged.
    Raises ConfigurationError where the question does not fit the network.
    """
    domain = _domain(forwarder.tables, question)
    return _explain(
        domain,
        lambda tell: forwarder.aside(domain, tell),
        lambda aside: _standing(aside, domain),
        question,
        now,
    )


def _explain(
    domain: RoutingDomain,
    make: Callable[[Explain], Forwarder],
    sites_of: Callable[[Forwarder], Mapping[str, Selectors | None]],
    question: Question,
    now: float,
) -> Explanation:
    steps: list[Step] = []
    forwarder = make(lambda name, detail: steps.append(Step(name, detail)))
    sites = sites_of(forwarder)
    site = _site_of(domain, question)
    if site is not None:
        if site in sites and sites[site] is None:
            steps.append(Step("site", f"{site} has no tunnel now: nothing comes from there"))
        verdict = _through_tunnel(forwarder, domain, site, sites, question, now)
    else:
        verdict = _from_datacenter(forwarder, domain, question, now)
    return Explanation(tuple(steps), _OUTCOMES[type(verdict)], _in_words(verdict, forwarder.tables))


def _through_tunnel(
    forwarder: Forwarder,
    domain: RoutingDomain,
    site: str,
    sites: Mapping[str, Selectors | None],
    question: Question,
    now: float,
) -> Verdict:
    if site not in sites:
        known = f"those are: {', '.join(sorted(sites)) or 'none'}"
        raise _unfit("from-site", f"{site} is no site of {domain.name} whose gateway this is; {known}")
    selectors = sites[site]
    if selectors is None:
        return Drop(DropReason.SITE_DOWN, domain.name)
    return forwarder.from_site((domain.name, site), _packet(question), selectors, 0, now)


def _from_datacenter(forwarder: Forwarder, domain: RoutingDomain, question: Question, now: float) -> Verdict:
    """From the port of a VM here, or else from the underlay."""
    node, tables, directory = forwarder.node, forwarder.tables, forwarder.directory
    source = _subnet_of(domain, question.source)
    record = directory.find(source.vsid, question.source) if source else None
    arrival_vsid = question.vsid or _arrival_vsid(node, domain, question, record)
    frame = _frame(tables, directory, arrival_vsid, record, question)
    if record is not None and (record.vsid, record.mac) in node.ports and question.via is None:
        return forwarder.from_port((record.vsid, record.mac), frame, now)
    outer = _outer(node, record, question)
    return forwarder.from_underlay(outer, nvgre.encode(arrival_vsid) + frame, now)


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
        by_site[site.name] = _together(selectors)
    return by_site


def _standing(forwarder: Forwarder, domain: RoutingDomain) -> dict[str, Selectors | None]:
    """Return what each of the tenant's tunnels here carries; None where one is down."""
    states = {site: forwarder.sites.find((domain.name, site)) for site in domain.site_gateways}
    return {
        site: _together(state.selectors) if state is not None else None
        for site, state in states.items()
        if domain.site_gateways[site] == forwarder.node.name
    }


def _together(selectors: Iterable[Selectors]) -> Selectors:
    every = tuple(selectors)
    return Selectors(
        tuple(local for each in every for local in each.local),
        tuple(remote for each in every for remote in each.remote),
    )


def _site_of(domain: RoutingDomain, question: Question) -> str | None:
    """The site that a packet comes from, if it comes from one."""
    if question.site is not None or question.via is not None:
        return question.site
    _, hop = domain.resolve(question.source)
    return hop.site if isinstance(hop, SiteHop) else None


def _domain(tables: Tables, question: Question) -> RoutingDomain:
    if question.vsid is not None:
        entry = tables.subnets.get(question.vsid)
        if question.tenant is not None and (entry is None or entry.domain.name != question.tenant):
            raise _unfit("vsid", f"VSID {question.vsid} is none of {question.tenant}'s")
        if entry is None:
            raise _unfit("vsid", f"no tenant has VSID {question.vsid}; known: {sorted(tables.subnets)}")
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
    header = ethernet.EthernetHeader(
        _destination_mac(tables, directory, vsid, question.destination),
        record.mac if record is not None else gateway_mac(vsid),
        ethernet.OF_IP_VERSION[question.source.version],
    )
    return header.encode() + _packet(question)


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


def _packet(question: Question) -> bytes:
    source, destination = question.source, question.destination
    if len(source) != len(destination):
        raise _unfit("to", f"{destination} is not of the same family as {source}")
    header_length = ip.IPV4_HEADER_LENGTH if source.version == 4 else ip.IPV6_HEADER_LENGTH
    protocol, header, checksum_at = _upper_layer(question, question.size - header_length)
    padding = question.size - header_length - len(header)
    if padding < 0:
        least = question.size - padding
        raise _unfit("size", f"this {question.protocol} packet has at least {least} octets")
    segment = header + bytes(padding)
    if protocol == ICMP:
        checksum = internet_checksum(segment)
    else:
        checksum = transport_checksum(source, destination, protocol, segment)
    segment = segment[:checksum_at] + checksum.to_bytes(2) + segment[checksum_at + 2 :]
    if source.version == 6:
        return ip.build(source, destination, protocol, segment, hop_limit=question.hop_limit)
    return (
        ip.ipv4_header(
            source,
            destination,
            protocol,
            len(segment),
            ttl=question.hop_limit,
            dont_fragment=question.dont_fragment,
        )
        + segment
    )


def _upper_layer(question: Question, length: int) -> tuple[int, bytes, int]:
    """Return the protocol's number, its header, and where the checksum belongs in that."""
    ports = question.source_port, question.destination_port
    match question.protocol:
        case "tcp":
            flags = TCP_ACK if question.established else TCP_SYN
            return TCP, _TCP.pack(*ports, 0, 0, _TCP.size // 4 << 4, flags, 0xFFFF, 0, 0), 16
        case "udp":
            return UDP, _UDP.pack(*ports, max(length, _UDP.size), 0), 6
        case "icmp":
            version = question.source.version
            return ICMP if version == 4 else ICMPV6, _ECHO.pack(_ECHO_REQUEST[version], 0, 0, 1, 1), 2
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
