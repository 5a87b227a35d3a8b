"""Carries a frame through a network, and checks each decision on its way against what must always be true."""

from __future__ import annotations

import math
from collections import Counter, deque

import msgspec

from gateway.forwarding.directory import PutLease
from gateway.forwarding.drops import DropReason
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import (
    Answer,
    Drop,
    Emission,
    Forward,
    Held,
    OuterHeader,
    ToPort,
    ToProvider,
    ToSite,
    ToUnderlay,
    Verdict,
)
from gateway.packets import arp, icmp, ip, ndp
from gateway.packets.checksum import internet_checksum, transport_checksum
from gateway.packets.rewriting import rewritten
from policies.addresses import Vsid, gateway_mac, is_group_address
from policies.errors import MalformedPacket
from policies.facts import ICMP, ICMPV6, TCP_SYN, PacketFacts
from policies.model import LookupRecord, SiteHop, SubnetHop
from policies.tables import RoutingDomain
from tests.properties.frames import Sent, mark
from tests.properties.worlds import World

# How much longer an answer may be than what it answers: an ICMP error quotes no more
# (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c)).
_MORE_OCTETS = {4: 600, 6: 1300}

# Host, gateway, host: a frame crosses the underlay at most twice, and so does an answer to it.
_MOST_CROSSINGS = 4

_WHERE = {
    ToPort: "to a port",
    ToUnderlay: "to the underlay",
    ToProvider: "to the underlay, rewritten",
    ToSite: "to a site",
}

_IP_TYPES = (b"\x08\x00", b"\x86\xdd")
_VLAN_TYPES = (b"\x81\x00", b"\x88\xa8")


class Step(msgspec.Struct, frozen=True):
    """A frame on its way into a node; how often it has crossed the underlay, and lost a hop."""

    sent: Sent
    crossings: int = 0
    hops: int = 0
    is_answer: bool = False


def travel(world: World, first: Sent, now: float, seen: Counter[str]) -> None:
    """Follow everything that one frame causes until nothing is left, and check each decision."""
    owner = _owner(world, first)
    steps = deque([Step(first)])
    decisions = 0
    delivered: Counter[tuple[object, bytes]] = Counter()
    while steps:
        step = steps.popleft()
        decisions += 1
        verdict = decide(world, step.sent, now, seen)
        if isinstance(verdict, Held):
            _end_the_wait(world, step.sent.node, verdict, now, seen)
        for emission in verdict.emissions:
            is_answer = step.is_answer or not isinstance(verdict, Forward)
            node = world.nodes[step.sent.node]
            hops = step.hops + _hops_charged(node, step.sent, emission) if isinstance(verdict, Forward) else 0
            assert hops <= 1, "charged for two hops between two VMs"
            if isinstance(emission, ToPort):
                delivered[emission.port, emission.frame] += 1
                _check_owner(world, owner, emission)
            elif isinstance(emission, ToSite):
                delivered[emission.site, emission.packet] += 1
                _check_owner(world, owner, emission)
            elif isinstance(emission, ToProvider):
                name = _answering(world, emission, now)
                if name is not None:
                    assert step.crossings < _MOST_CROSSINGS, "it goes on and on"
                    onward = Sent(name, emission.packet, is_plain=True)
                    steps.append(Step(onward, step.crossings + 1, hops, is_answer))
            elif (name := world.at.get(emission.destination)) is not None:
                assert step.crossings < _MOST_CROSSINGS, "it goes on and on"
                outer = OuterHeader(emission.source, emission.destination, emission.ecn, emission.hop_limit)
                onward = Sent(name, emission.payload, outer=outer)
                steps.append(Step(onward, step.crossings + 1, hops, is_answer))
    assert max(delivered.values(), default=1) == 1, "a VM or a site was given the same twice"
    assert decisions <= _most_decisions(world, first), f"one frame caused {decisions} decisions"


def _answering(world: World, emission: ToProvider, now: float) -> str | None:
    """Who says on the link that a provider address is there, if anybody does."""
    destination = ip.decode_untrusted(emission.packet).destination
    return next(
        (name for name in sorted(world.nodes) if world.nodes[name].answers_for(destination, now)), None
    )


def _end_the_wait(world: World, name: str, verdict: Held, now: float, seen: Counter[str]) -> None:
    """Give a packet that waits what it waits for, or refuse it that, and check what comes of it."""
    node, wanted = world.nodes[name], verdict.wanted
    assert len(node.waiting) == 1
    if isinstance(wanted, tuple) and len(world.holders) % 3:
        lease = world.lease(*wanted)
        emissions = node.apply([PutLease(lease)], now)
    elif isinstance(wanted, tuple):
        before = node.drops.total(DropReason.NO_LEASE)
        emissions = node.refuse(*wanted, now)
        seen["no-lease"] += node.drops.total(DropReason.NO_LEASE) - before
        node.waiting.take(wanted)
    else:
        emissions = ()
    # What still waits, for the other end of its way or for news of its sender, waits in vain.
    assert len(node.waiting) <= 1
    node.waiting.expired(math.inf)
    seen["waited, and went on" if emissions else "waited in vain"] += 1
    for emission in emissions:
        assert emission.tenant in ("", verdict.tenant) or not verdict.tenant
        if isinstance(emission, ToPort | ToSite):
            _check_owner(world, emission.tenant, emission)


def decide(world: World, sent: Sent, now: float, seen: Counter[str]) -> Verdict:
    """Have a node decide one frame, and check what it makes of it."""
    node = world.nodes[sent.node]
    before = Counter(node.drops.counts)
    verdict = put_in(node, sent, now)
    counted = node.drops.counts - before
    if isinstance(verdict, Drop):
        assert counted == Counter({(verdict.reason, verdict.tenant): 1})
    else:
        lost = verdict.lost if isinstance(verdict, Forward) else ()
        tenant = verdict.emissions[0].tenant if verdict.emissions else ""
        assert counted == Counter((reason, tenant) for reason in lost)
        assert verdict.emissions or isinstance(verdict, Held), "neither sent nor counted"
    if verdict.emissions:
        _check_isolation(world, node, sent, verdict)
    for emission in verdict.emissions:
        if isinstance(verdict, Forward):
            _check_forwarded(node, sent, verdict, emission)
        elif not isinstance(verdict, Held):
            _check_told(node, sent, verdict, emission)
    seen.update(_what_happened(node, sent, verdict))
    return verdict


def put_in(node: Forwarder, sent: Sent, now: float) -> Verdict:
    """Give a node a frame where it comes in."""
    if sent.port is not None:
        return node.from_port(sent.port, sent.data, now)
    if sent.site is not None:
        assert sent.child is not None
        return node.from_site(sent.site, sent.data, sent.child, sent.outer_ecn, now)
    if sent.is_plain:
        return node.from_provider(sent.data, now)
    assert sent.outer is not None
    return node.from_underlay(sent.outer, sent.data, now)


def _what_happened(node: Forwarder, sent: Sent, verdict: Verdict) -> list[str]:
    """Names for what was reached, so that a run can show that it has reached everything."""
    if isinstance(verdict, Drop):
        told = "site told" if sent.site else "told"
        return [verdict.reason.value, *([told] if verdict.emissions else [])]
    if isinstance(verdict, Held):
        return ["held"]
    if isinstance(verdict, Answer):
        return ["answered", *(["site answered"] if sent.site else [])]
    frame, out = _inner(node, sent), _frame(node, verdict.emissions[0])
    facts = _facts(frame)
    came = "from a port" if sent.port else "from a site" if sent.site else "from the underlay"
    if sent.is_plain:
        came = "from the underlay, rewritten"
    happened = ["forwarded", came, _WHERE[type(verdict.emissions[0])]]
    if _is_of_a_router(node, sent):
        happened.append("what a router of the underlay says")
    if sent.site and isinstance(verdict.emissions[0], ToSite):
        happened.append("from site to site")
    if facts is not None:
        happened.append("routed" if out[:14] != frame[:14] else "replicated" if frame[0] & 1 else "switched")
        if _is_passed_on(sent, verdict.emissions[0]):
            happened.append("passed on for another gateway's site")
        onward = _facts(out)
        if onward is not None and onward.more_fragments and not facts.more_fragments:
            happened.append("fragmented")
        if facts.tcp_flags & TCP_SYN and onward is not None and out[34:] != frame[34:]:
            happened.append("SYN changed")
    return happened


def _inner(node: Forwarder, sent: Sent) -> bytes:
    """The frame that comes in; what comes from a site, or rewritten, gets a header without addresses."""
    if sent.site is not None:
        return _without_addresses(sent.data)
    if sent.is_plain:
        return _without_addresses(_of_customers(node, sent.data))
    return sent.data if sent.port is not None else sent.data[8:]


def _of_customers(node: Forwarder, packet: bytes) -> bytes:
    """A rewritten packet as its tenant knows it, by what a node knows; as it is where that does not say."""
    try:
        facts = ip.decode_untrusted(packet)
    except MalformedPacket:
        return packet
    holders = [node.directory.holder(pa) for pa in (facts.source, facts.destination)]
    if any(holder is None for holder in holders):
        return packet
    source, destination = (holder.ca for holder in holders if holder is not None)
    quoted = None
    if facts.quoted is not None:
        quoting = [node.directory.holder(pa) for pa in (facts.quoted.source, facts.quoted.destination)]
        known = [holder.ca for holder in quoting if holder is not None]
        quoted = (known[0], known[1]) if len(known) == 2 else None
    return rewritten(packet[: facts.total_length], source, destination, quoted)


def _frame(node: Forwarder, emission: Emission) -> bytes:
    """The frame that goes out, likewise."""
    if isinstance(emission, ToSite):
        return _without_addresses(emission.packet)
    if isinstance(emission, ToProvider):
        return _without_addresses(_of_customers(node, emission.packet))
    return emission.frame if isinstance(emission, ToPort) else emission.payload[8:]


def _without_addresses(packet: bytes) -> bytes:
    return bytes(12) + _IP_TYPES[packet[:1] >= b"\x60"] + packet


def _is_passed_on(sent: Sent, emission: Emission) -> bool:
    """Whether a site's packet goes to the gateway of another site, which routes it."""
    if sent.site is None or not isinstance(emission, ToUnderlay):
        return False
    out = emission.payload[8:]
    return out[:6] == out[6:12]


def _facts(frame: bytes) -> PacketFacts | None:
    if frame[12:14] not in _IP_TYPES:
        return None
    try:
        return ip.decode_untrusted(frame[14:])
    except MalformedPacket:
        return None


def _vsid(sent: Sent) -> Vsid:
    """The virtual subnet that a frame says it is in; what comes from a site or rewritten does not."""
    return sent.port[0] if sent.port is not None else Vsid(int.from_bytes(sent.data[4:7]))


def _domain(node: Forwarder, sent: Sent) -> RoutingDomain | None:
    tables = node.tables
    if sent.site is not None:
        return tables.domains.get(sent.site[0])
    if sent.is_plain:
        holder = node.directory.holder(ip.decode_untrusted(sent.data).destination)
        return tables.subnets[holder.vsid].domain if holder is not None else None
    entry = tables.subnets.get(_vsid(sent))
    return entry.domain if entry is not None else None


def _owner(world: World, sent: Sent) -> str | None:
    """Whose mark a frame carries, if it comes in where that tenant's frames do."""
    if sent.is_plain:
        return _owner_of_plain(world, sent)
    domain = _domain(world.nodes[sent.node], sent)
    return domain.name if domain is not None and mark(domain.name) in sent.data else None


def _owner_of_plain(world: World, sent: Sent) -> str | None:
    """Likewise of a rewritten one, which comes in where its source's tenant says."""
    try:
        holder = world.holders.get(ip.decode_untrusted(sent.data).source)
    except MalformedPacket:
        return None
    domain = world.domain_of(holder.vsid) if holder is not None else None
    return domain.name if domain is not None and mark(domain.name) in sent.data else None


def _check_owner(world: World, owner: str | None, emission: ToPort | ToSite) -> None:
    if owner is not None:
        assert emission.tenant == owner, "one tenant's data was given to another"
        out = emission.frame if isinstance(emission, ToPort) else emission.packet
        assert not any(mark(name) in out for name in world.tables.domains if name != owner)


def _is_authorised(domain: RoutingDomain, address: bytes) -> bool:
    return address in domain.host_addresses or address in domain.gateway_provider_addresses


def _check_isolation(world: World, node: Forwarder, sent: Sent, verdict: Verdict) -> None:
    """Check that whatever is sent stays in the routing domain that the frame came in with."""
    domain = _domain(node, sent)
    assert domain is not None, "something was sent because of a VSID that nobody has"
    if sent.site is not None:
        assert domain.site_gateways[sent.site[1]] == node.node.name, "a site's packet at another gateway"
        assert sent.child is not None
        facts = ip.decode_untrusted(sent.data)
        assert sent.child.admit_inbound(facts), "outside of its child SA's selectors"
        assert not is_group_address(facts.source)
        assert domain.resolve(facts.source)[1] == SiteHop(sent.site[1]), (
            "from an address that is not the site's"
        )
    own = node.node.provider_addresses
    if sent.outer is not None:
        assert int.from_bytes(sent.data[:2]) & 0xFC07 == 0x2000
        assert sent.data[2:4] == b"\x65\x58"
        assert _is_authorised(domain, sent.outer.source), "a stranger had something sent"
        assert sent.outer.source not in own
    for emission in verdict.emissions:
        assert emission.tenant == domain.name
        if isinstance(emission, ToPort):
            assert emission.port in node.node.ports
            assert world.domain_of(emission.port[0]) is domain
            assert emission.frame[0] & 1 or emission.frame[:6] == emission.port[1]
        elif isinstance(emission, ToSite):
            _check_tunnel(node, domain, sent, emission)
        elif isinstance(emission, ToProvider):
            _check_rewritten(node, domain, sent, emission)
        else:
            assert emission.payload[:4] == b"\x20\x00\x65\x58"
            assert int.from_bytes(emission.payload[4:7]) == emission.vsid
            assert world.domain_of(emission.vsid) is domain
            assert emission.source in own
            assert emission.destination not in own
            assert len(emission.source) == len(emission.destination)
            assert _is_authorised(domain, emission.destination), "sent to a machine that may not have it"


def _check_rewritten(node: Forwarder, domain: RoutingDomain, sent: Sent, emission: ToProvider) -> None:
    """Check that both provider addresses are the tenant's, and of nodes that may have it."""
    facts = ip.decode_untrusted(emission.packet)
    assert facts.total_length == len(emission.packet)
    for pa in (facts.source, facts.destination):
        holder = node.directory.holder(pa)
        assert holder is not None, "an address of nobody's"
        assert holder.vsid in domain.vsids, "an address of another tenant's"
        assert len(holder.ca) == len(pa)
        if isinstance(holder, LookupRecord) and pa == facts.destination:
            assert holder.host in domain.hosts, "of a host that may not have it"
        elif not isinstance(holder, LookupRecord):
            assert holder.node in (name for name, _ in domain.gateways)
    assert not is_group_address(facts.destination)
    for quoted in [facts.quoted] if facts.quoted is not None else []:
        assert node.directory.holder(quoted.source) is not None, "a customer's address in the underlay"
        assert node.directory.holder(quoted.destination) is not None, "a customer's address in the underlay"


def _check_tunnel(node: Forwarder, domain: RoutingDomain, sent: Sent, emission: ToSite) -> None:
    """Check that what goes to a site is its own tenant's, for it, and within what its tunnel carries."""
    assert emission.site[0] == domain.name
    assert node.node.is_gateway
    assert domain.site_gateways[emission.site[1]] == node.node.name
    state = node.sites.find(emission.site)
    assert state is not None
    assert state.admits(emission.facts)
    assert state.mtu_of(emission.facts.version) >= len(emission.packet) or sent.site == emission.site
    facts = ip.decode_untrusted(emission.packet)
    assert facts.total_length == len(emission.packet)
    assert emission.ecn in (0, facts.traffic_class & 3)
    assert domain.resolve(facts.destination)[1] == SiteHop(emission.site[1]), "to a site that it is not for"
    for name in ("version", "source", "destination", "protocol"):
        assert getattr(facts, name) == getattr(emission.facts, name)
    if not facts.is_fragment:
        assert state.admits(facts)


def _hops_charged(node: Forwarder, sent: Sent, emission: Emission) -> int:
    if sent.is_plain and isinstance(emission, ToProvider):
        return 0  # sent on after a VM that has moved: there is no other hop limit to take from
    came, goes = _facts(_inner(node, sent)), _facts(_frame(node, emission))
    return 0 if came is None or goes is None else came.hop_limit - goes.hop_limit


def _check_forwarded(node: Forwarder, sent: Sent, verdict: Forward, emission: Emission) -> None:
    """Check that a frame goes on with no more changed than a hop may change."""
    assert not (isinstance(emission, ToSite) and emission.site == sent.site), "back into the site it is from"
    frame, out = _inner(node, sent), _frame(node, emission)
    assert frame[12:14] not in _VLAN_TYPES
    assert len(verdict.emissions) <= _pieces(frame) * (len(node.node.ports) + len(node.tables.members))
    if isinstance(emission, ToUnderlay):
        outer = 20 if len(emission.destination) == 4 else 40
        assert outer + len(emission.payload) <= node.node.underlay_mtu, "more than the underlay carries"
    if isinstance(emission, ToProvider):
        assert len(emission.packet) <= node.node.underlay_mtu, "more than the underlay carries"
    facts = _facts(frame)
    if facts is None:
        assert frame.startswith(out)
        return
    onward = _facts(out)
    assert onward is not None
    if _is_of_a_router(node, sent):
        _check_word_of_a_router(node, emission, onward)
        return
    assert (onward.source, onward.destination) == (facts.source, facts.destination)
    if sent.is_plain or isinstance(emission, ToProvider):
        assert onward.hop_limit == facts.hop_limit or 1 <= onward.hop_limit == facts.hop_limit - 1
    elif _is_passed_on(sent, emission) or (out[:14] == frame[:14] and any(frame[:12])):
        assert onward.hop_limit == facts.hop_limit, "charged for a hop without being routed"
    else:
        assert sent.site is not None or frame[:6] == gateway_mac(_vsid(sent)), (
            "routed, and not for the gateway"
        )
        assert 1 <= onward.hop_limit == facts.hop_limit - 1, "routed without being charged for it"
        if not isinstance(emission, ToSite):
            goes_in = emission.port[0] if isinstance(emission, ToPort) else emission.vsid
            assert out[6:12] == gateway_mac(goes_in), (
                "not from the router of the virtual subnet that it goes to"
            )
    if onward.total_length == facts.total_length and not facts.tcp_flags & TCP_SYN:
        assert out[14 + onward.header_length :] == frame[14 + facts.header_length : 14 + facts.total_length]
    else:
        assert facts.tcp_flags & TCP_SYN or not (facts.version == 6 or facts.dont_fragment)


def _is_of_a_router(node: Forwarder, sent: Sent) -> bool:
    """Whether an ICMP error has come whose sender is no member of the network: of the underlay."""
    if not sent.is_plain:
        return False
    facts = ip.decode_untrusted(sent.data)
    return facts.quoted is not None and node.tables.pools.lookup(facts.source) is None


def _check_word_of_a_router(node: Forwarder, emission: Emission, told: PacketFacts) -> None:
    """Check that a sender hears from its gateway what the underlay says, and of its own packet."""
    assert told.source in node.tables.domains[emission.tenant].gateway_addresses
    assert told.quoted is not None
    assert told.quoted.source == told.destination
    # The address of the underlay that it was sent to is not to be seen.
    assert node.tables.pools.lookup(told.quoted.destination) is None
    if isinstance(emission, ToPort):
        entry = node.tables.subnets[emission.port[0]]
        assert told.source == entry.gateway_address(told.version)
        record = node.directory.find(entry.vsid, told.destination)
        assert record is not None
        assert (record.vsid, record.mac) == emission.port


def _check_told(node: Forwarder, sent: Sent, verdict: Answer | Drop, emission: Emission) -> None:
    """Check that an answer goes back where the frame came from, is no flood, and may be given."""
    frame, out = _inner(node, sent), _frame(node, emission)
    assert len(verdict.emissions) == 1
    domain = _domain(node, sent)
    assert domain is not None
    router = gateway_mac(_vsid(sent)) if sent.site is None and not sent.is_plain else b""
    from_gateway = sent.outer is not None and sent.outer.source in domain.gateway_provider_addresses
    was_passed_on = from_gateway and frame[:6] == router
    if sent.site is not None:
        assert isinstance(emission, ToSite)
        assert emission.site == sent.site
    elif sent.is_plain:
        _check_told_rewritten(node, sent, emission)
    elif frame[6:12] == router:
        assert isinstance(verdict, Drop)
        assert verdict.reason is DropReason.TOO_BIG
        _check_told_by_record(node, sent, emission)
    elif was_passed_on and isinstance(verdict, Drop):
        _check_told_by_record(node, sent, emission)
    elif sent.port is not None:
        assert isinstance(emission, ToPort)
        assert emission.port == sent.port
    else:
        assert sent.outer is not None
        assert isinstance(emission, ToUnderlay)
        assert (emission.source, emission.destination) == (sent.outer.destination, sent.outer.source)
        assert emission.vsid == _vsid(sent)
    facts = _facts(frame)
    version = 4 if facts is None or facts.version == 4 else 6
    assert len(out) <= len(frame) + _MORE_OCTETS[version]
    assert not out[0] & 1, "an answer to a group"
    if facts is None:
        assert isinstance(verdict, Answer)
        assert frame[12:14] == b"\x08\x06"
        assert arp.decode_untrusted(frame[14:]).operation == arp.REQUEST
        assert arp.decode_untrusted(out[14:]).operation == arp.REPLY
        return
    assert not is_group_address(facts.source)
    answer = _facts(out)
    assert answer is not None
    _check_icmp_checksum(out, answer)
    if isinstance(verdict, Answer):
        assert icmp.is_echo_request(facts) or facts.icmp_type == ndp.NEIGHBOUR_SOLICITATION
        return
    assert icmp.is_error(answer)
    assert not icmp.is_error(facts)
    assert not facts.is_later_fragment
    assert not is_group_address(facts.destination)
    assert domain.broadcast_addresses.isdisjoint((facts.source, facts.destination))
    assert any(facts.source)
    assert facts.version == 6 or facts.source[0] not in (0, 127)
    assert not frame[0] & 1, "an ICMP error about a frame to a group (RFC 1122 section 3.2.2)"
    assert answer.destination == facts.source
    assert answer.source in (facts.destination, *domain.gateway_addresses)
    # By their place: a quote is cut at 1280 octets, which a chain of extension headers may exceed.
    quote = out[14 + answer.header_length + 8 :]
    addresses = quote[12:20] if facts.version == 4 else quote[8:40]
    assert addresses == facts.source + facts.destination


def _check_told_rewritten(node: Forwarder, sent: Sent, emission: Emission) -> None:
    """Check that a rewritten packet's sender is told, and nobody else."""
    sender = node.directory.holder(ip.decode_untrusted(sent.data).source)
    if isinstance(emission, ToProvider):
        assert node.directory.holder(ip.decode_untrusted(emission.packet).destination) is sender
    else:
        _check_told_by_record(node, sent, emission)


def _check_told_by_record(node: Forwarder, sent: Sent, emission: Emission) -> None:
    """Check that what another node has routed or passed on is told of to its sender's VM."""
    facts = _facts(_inner(node, sent))
    domain = _domain(node, sent)
    assert facts is not None
    assert domain is not None
    hop = domain.routes.lookup(facts.source)
    assert isinstance(hop, SubnetHop)
    record = node.directory.find(hop.vsid, facts.source)
    assert record is not None
    if isinstance(emission, ToProvider):
        assert node.directory.holder(ip.decode_untrusted(emission.packet).destination) is record
        return
    assert _frame(node, emission)[:6] == record.mac
    if isinstance(emission, ToUnderlay):
        assert (emission.destination, emission.vsid) == (record.pa, record.vsid)
    else:
        assert isinstance(emission, ToPort)
        assert emission.port == (record.vsid, record.mac)


def _check_icmp_checksum(out: bytes, answer: PacketFacts) -> None:
    message = out[14 + answer.header_length : 14 + answer.total_length]
    if answer.protocol == ICMP:
        checksum = internet_checksum(message)
    else:
        assert answer.protocol == ICMPV6
        checksum = transport_checksum(answer.source, answer.destination, ICMPV6, message)
    # The reply to an echo request with a wrong checksum has a wrong one, and is dropped by who asked.
    assert checksum == 0 or not icmp.is_error(answer)


def _pieces(frame: bytes) -> int:
    """Into how many a packet may be cut, at most."""
    return 1 + len(frame) // 500


def _most_decisions(world: World, sent: Sent) -> int:
    frame = _inner(world.nodes[sent.node], sent)
    nodes = len(world.nodes) if frame and frame[0] & 1 else 2
    # The first, one for each copy at each node, and an answer to each at two.
    return 1 + 3 * _pieces(frame) * nodes
