"""What would happen to a packet, step by step: the pipeline itself, asked to explain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from gateway.forwarding.directory import Directory
from gateway.forwarding.drops import DropReason
from gateway.forwarding.node import Explain, Node
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import (
    Answer,
    Drop,
    Forward,
    Held,
    OuterHeader,
    Verdict,
)
from gateway.packets import ethernet, nvgre
from gateway.packets.rewriting import rewritten
from gateway.sites.policies import children
from gateway.trace.packets import Question, packet, unfit
from gateway.trace.words import in_words, whose
from policies.addresses import (
    BROADCAST_MAC,
    CustomerAddress,
    MacAddress,
    ProviderAddress,
    Vsid,
    gateway_mac,
    is_group_address,
)
from policies.model import Appliance, LookupRecord, SiteHop, SubnetHop, Translation
from policies.selectors import Selectors
from policies.tables import RoutingDomain, Tables

# Taken where the configuration names no MTU: the machine is not asked.
_DEFAULT_MTU = 1500

# What a tunnel carries is known when it stands. The most that ESP adds: IPv6 and UDP, SPI and
# number, the initialization vector and padding of AES-CBC, and half of an HMAC-SHA2-512.
_MOST_OF_ESP = 40 + 8 + 8 + 16 + 17 + 32

_OUTCOMES = {Forward: "forwarded", Answer: "answered", Drop: "dropped", Held: "held"}


class Step(msgspec.Struct, frozen=True):
    """One step of the pipeline, and what decided it."""

    name: str
    detail: str


class Explanation(msgspec.Struct, frozen=True):
    """The steps and the verdict, both in words."""

    steps: tuple[Step, ...]
    outcome: str
    """`forwarded`, `answered`, `held` or `dropped`."""
    verdict: str


def explain(appliance: Appliance, directory: Directory, question: Question) -> Explanation:
    """Send a packet through the pipeline of the node that a configuration describes, and tell what happened.

    The tunnels of the sites that this node dials are taken to be up. Raises
    ConfigurationError where the question does not fit the configuration.
    """
    if appliance.underlay is None or not (appliance.gateway or appliance.host):
        raise unfit("", "no packet comes to this node: it has neither [gateway] nor [host]")
    node = Node.of(appliance, appliance.underlay.mtu or _DEFAULT_MTU)
    tables = Tables.compile(appliance.network)
    domain = _domain(tables, directory, question)
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
    domain = _domain(forwarder.tables, forwarder.directory, question)
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
    if question.is_rewritten:
        for name, address in (("sender", question.source), ("receiver", question.destination)):
            steps.append(Step(name, whose(forwarder, address)))
        verdict = forwarder.from_provider(packet(question), now)
    elif site is not None:
        if site in sites and sites[site] is None:
            steps.append(Step("site", f"{site} has no tunnel now: nothing comes from there"))
        verdict = _through_tunnel(forwarder, domain, site, sites, question, now)
    else:
        verdict = _from_datacenter(forwarder, domain, question, now, steps)
    return Explanation(tuple(steps), _OUTCOMES[type(verdict)], in_words(verdict, forwarder.tables))


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
        raise unfit("from-site", f"{site} is no site of {domain.name} whose gateway this is; {known}")
    selectors = sites[site]
    if selectors is None:
        return Drop(DropReason.SITE_DOWN, domain.name)
    return forwarder.from_site((domain.name, site), packet(question), selectors, 0, now)


def _from_datacenter(
    forwarder: Forwarder, domain: RoutingDomain, question: Question, now: float, steps: list[Step]
) -> Verdict:
    """From the port of a VM here, or else from the underlay."""
    node, tables, directory = forwarder.node, forwarder.tables, forwarder.directory
    source = _subnet_of(domain, question.source)
    record = directory.find(source.vsid, question.source) if source else None
    arrival_vsid = question.vsid or _arrival_vsid(node, domain, question, record)
    frame = _frame(tables, directory, arrival_vsid, record, question)
    if record is not None and (record.vsid, record.mac) in node.ports and question.via is None:
        return forwarder.from_port((record.vsid, record.mac), frame, now)
    plain_source = _plain_source(tables, record, question)
    if plain_source is not None:
        return _from_rewritten(forwarder, domain, question, plain_source, now, steps)
    outer = _outer(node, record, question)
    return forwarder.from_underlay(outer, nvgre.encode(arrival_vsid) + frame, now)


def _plain_source(tables: Tables, record: LookupRecord | None, question: Question) -> ProviderAddress | None:
    """The provider address that a packet comes from rewritten, if it comes so."""
    if question.via is not None:
        return question.via if tables.pools.lookup(question.via) is not None else None
    is_rewritten = record is not None and record.translation is Translation.REWRITE
    return record.pa if record is not None and is_rewritten else None


def _from_rewritten(
    forwarder: Forwarder,
    domain: RoutingDomain,
    question: Question,
    source: ProviderAddress,
    now: float,
    steps: list[Step],
) -> Verdict:
    """From the underlay as a rewritten VM's host sends it: to what stands here for its destination."""
    node, directory, ca = forwarder.node, forwarder.directory, question.destination
    sender = directory.holder(source)
    if sender is not None and sender.vsid not in domain.vsids:
        # Whose it is, is not told to whoever may ask about this tenant alone.
        steps.append(Step("source", f"{source} is another tenant's"))
        return Drop(DropReason.OTHER_TENANT, domain.name)
    hop = _subnet_of(domain, ca)
    record = directory.find(hop.vsid, ca) if hop is not None else None
    home = domain.home(ca)
    if record is not None and record.translation is Translation.REWRITE:
        if not node.holds(record):
            words = f"{ca} is rewritten too, at {record.host}: what {source} sends it does not come here"
            raise unfit("to", words)
        destination = record.pa
    else:
        leases = directory.leases(home, ca) if home is not None else ()
        own = next((lease for lease in leases if lease.node == node.name), None)
        if own is None:
            words = f"no provider address of {node.name} stands for {ca}: it waits at its host for one"
            steps.append(Step("lease", words))
            return Held((home or min(domain.vsids), ca), domain.name)
        steps.append(Step("lease", f"{own.pa} of {node.name} stands for {ca}"))
        destination = own.pa
    return forwarder.from_provider(rewritten(packet(question), source, destination), now)


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
    if question.is_rewritten:
        return None
    if question.site is not None or question.via is not None:
        return question.site
    _, hop = domain.resolve(question.source)
    return hop.site if isinstance(hop, SiteHop) else None


def _domain(tables: Tables, directory: Directory, question: Question) -> RoutingDomain:
    if question.is_rewritten:
        return _domain_of_pair(tables, directory, question)
    if question.vsid is not None:
        entry = tables.subnets.get(question.vsid)
        if question.tenant is not None and (entry is None or entry.domain.name != question.tenant):
            raise unfit("vsid", f"VSID {question.vsid} is none of {question.tenant}'s")
        if entry is None:
            raise unfit("vsid", f"no tenant has VSID {question.vsid}; known: {sorted(tables.subnets)}")
        return entry.domain
    if question.tenant is None and len(tables.domains) == 1:
        return next(iter(tables.domains.values()))
    domain = tables.domains.get(question.tenant or "")
    if not tables.domains:
        raise unfit("tenant", "there is none: neither this file nor who it asks has a network")
    if domain is None:
        raise unfit("tenant", f"name one of {', '.join(sorted(tables.domains))}, or a VSID")
    return domain


def _domain_of_pair(tables: Tables, directory: Directory, question: Question) -> RoutingDomain:
    """Whose a rewritten packet is: the receiver's, or if it is to nobody, whoever's."""
    for pa in (question.destination, question.source):
        holder = directory.holder(pa)
        entry = tables.subnets.get(holder.vsid) if holder is not None else None
        if entry is not None:
            return entry.domain
    if not tables.domains:
        raise unfit("", "there is no tenant: neither this file nor who it asks has a network")
    return next(iter(tables.domains.values()))


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
        raise unfit(
            "from", f"{question.source} has no record: say with --via which provider address sends it"
        )
    ours = node.address_towards(outer_source)
    if ours is None:
        raise unfit("via", f"this node has no provider address of the family of {outer_source}")
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
    return header.encode() + packet(question)


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
