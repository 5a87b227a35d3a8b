"""Carries a frame through a network, and checks each decision on its way against what must always be true."""

from __future__ import annotations

from collections import Counter, deque

import msgspec

from gateway.forwarding.drops import DropReason
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import (
    Answer,
    Drop,
    Emission,
    Forward,
    OuterHeader,
    ToPort,
    ToSite,
    ToUnderlay,
    Verdict,
)
from gateway.packets import arp, icmp, ip, ndp
from gateway.packets.checksum import internet_checksum, transport_checksum
from policies.addresses import Vsid, gateway_mac, is_group_address
from policies.errors import MalformedPacket
from policies.facts import ICMP, ICMPV6, TCP_SYN, PacketFacts
from policies.model import SiteHop, SubnetHop
from policies.tables import RoutingDomain, Tables
from tests.properties.frames import Sent, mark
from tests.properties.worlds import World

# How much longer an answer may be than what it answers: an ICMP error quotes no more
# (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c)).
_MORE_OCTETS = {4: 600, 6: 1300}

# Host, gateway, host: a frame crosses the underlay at most twice, and so does an answer to it.
_MOST_CROSSINGS = 4

_WHERE = {ToPort: "to a port", ToUnderlay: "to the underlay", ToSite: "to a site"}

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
        for emission in verdict.emissions:
            is_answer = step.is_answer or not isinstance(verdict, Forward)
            hops = step.hops + _hops_charged(step.sent, emission) if isinstance(verdict, Forward) else 0
            assert hops <= 1, "charged for two hops between two VMs"
            if isinstance(emission, ToPort):
                delivered[emission.port, emission.frame] += 1
                _check_owner(world, owner, emission)
            elif isinstance(emission, ToSite):
                delivered[emission.site, emission.packet] += 1
                _check_owner(world, owner, emission)
            elif (name := world.at.get(emission.destination)) is not None:
                assert step.crossings < _MOST_CROSSINGS, "it goes on and on"
                outer = OuterHeader(emission.source, emission.destination, emission.ecn, emission.hop_limit)
                onward = Sent(name, emission.payload, outer=outer)
                steps.append(Step(onward, step.crossings + 1, hops, is_answer))
    assert max(delivered.values(), default=1) == 1, "a VM or a site was given the same twice"
    assert decisions <= _most_decisions(world, first), f"one frame caused {decisions} decisions"


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
        assert verdict.emissions, "neither sent nor counted"
    if verdict.emissions:
        _check_isolation(world, node, sent, verdict)
    for emission in verdict.emissions:
        if isinstance(verdict, Forward):
            _check_forwarded(node, sent, verdict, emission)
        else:
            _check_told(node, sent, verdict, emission)
    seen.update(_what_happened(sent, verdict))
    return verdict


def put_in(node: Forwarder, sent: Sent, now: float) -> Verdict:
    """Give a node a frame where it comes in."""
    if sent.port is not None:
        return node.from_port(sent.port, sent.data, now)
    if sent.site is not None:
        assert sent.child is not None
        return node.from_site(sent.site, sent.data, sent.child, sent.outer_ecn, now)
    assert sent.outer is not None
    return node.from_underlay(sent.outer, sent.data, now)


def _what_happened(sent: Sent, verdict: Verdict) -> list[str]:
    """Names for what was reached, so that a run can show that it has reached everything."""
    if isinstance(verdict, Drop):
        told = "site told" if sent.site else "told"
        return [verdict.reason.value, *([told] if verdict.emissions else [])]
    if isinstance(verdict, Answer):
        return ["answered", *(["site answered"] if sent.site else [])]
    frame, out = _inner(sent), _frame(verdict.emissions[0])
    facts = _facts(frame)
    came = "from a port" if sent.port else "from a site" if sent.site else "from the underlay"
    happened = ["forwarded", came, _WHERE[type(verdict.emissions[0])]]
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


def _inner(sent: Sent) -> bytes:
    """The frame that comes in; what comes from a site gets a header without addresses."""
    if sent.site is not None:
        return _without_addresses(sent.data)
    return sent.data if sent.port is not None else sent.data[8:]


def _frame(emission: Emission) -> bytes:
    """The frame that goes out, likewise."""
    if isinstance(emission, ToSite):
        return _without_addresses(emission.packet)
    return emission.frame if isinstance(emission, ToPort) else emission.payload[8:]


def _without_addresses(packet: bytes) -> bytes:
    return bytes(12) + _IP_TYPES[packet[:1] >= b"\x60"] + packet


def _is_passed_on(sent: Sent, emission: Emission) -> bool:
    """Whether a site's packet goes to the gateway of another site, which routes it."""
    out = _frame(emission)
    return sent.site is not None and isinstance(emission, ToUnderlay) and out[:6] == out[6:12]


def _facts(frame: bytes) -> PacketFacts | None:
    if frame[12:14] not in _IP_TYPES:
        return None
    try:
        return ip.decode_untrusted(frame[14:])
    except MalformedPacket:
        return None


def _vsid(sent: Sent) -> Vsid:
    return sent.port[0] if sent.port is not None else Vsid(int.from_bytes(sent.data[4:7]))


def _domain(tables: Tables, sent: Sent) -> RoutingDomain | None:
    if sent.site is not None:
        return tables.domains.get(sent.site[0])
    entry = tables.subnets.get(_vsid(sent))
    return entry.domain if entry is not None else None


def _owner(world: World, sent: Sent) -> str | None:
    """Whose mark a frame carries, if it comes in where that tenant's frames do."""
    domain = _domain(world.tables, sent)
    return domain.name if domain is not None and mark(domain.name) in sent.data else None


def _check_owner(world: World, owner: str | None, emission: ToPort | ToSite) -> None:
    if owner is not None:
        assert emission.tenant == owner, "one tenant's data was given to another"
        assert not any(mark(name) in _frame(emission) for name in world.tables.domains if name != owner)


def _is_authorised(domain: RoutingDomain, address: bytes) -> bool:
    return address in domain.host_addresses or address in domain.gateway_provider_addresses


def _check_isolation(world: World, node: Forwarder, sent: Sent, verdict: Verdict) -> None:
    """Check that whatever is sent stays in the routing domain that the frame came in with."""
    domain = _domain(world.tables, sent)
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
        else:
            assert emission.payload[:4] == b"\x20\x00\x65\x58"
            assert int.from_bytes(emission.payload[4:7]) == emission.vsid
            assert world.domain_of(emission.vsid) is domain
            assert emission.source in own
            assert emission.destination not in own
            assert len(emission.source) == len(emission.destination)
            assert _is_authorised(domain, emission.destination), "sent to a machine that may not have it"


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


def _hops_charged(sent: Sent, emission: Emission) -> int:
    came, goes = _facts(_inner(sent)), _facts(_frame(emission))
    return 0 if came is None or goes is None else came.hop_limit - goes.hop_limit


def _check_forwarded(node: Forwarder, sent: Sent, verdict: Forward, emission: Emission) -> None:
    """Check that a frame goes on with no more changed than a hop may change."""
    assert not (isinstance(emission, ToSite) and emission.site == sent.site), "back into the site it is from"
    frame, out = _inner(sent), _frame(emission)
    assert frame[12:14] not in _VLAN_TYPES
    assert len(verdict.emissions) <= _pieces(frame) * (len(node.node.ports) + len(node.tables.members))
    if isinstance(emission, ToUnderlay):
        outer = 20 if len(emission.destination) == 4 else 40
        assert outer + len(emission.payload) <= node.node.underlay_mtu, "more than the underlay carries"
    facts = _facts(frame)
    if facts is None:
        assert frame.startswith(out)
        return
    onward = _facts(out)
    assert onward is not None
    assert (onward.source, onward.destination) == (facts.source, facts.destination)
    if _is_passed_on(sent, emission) or (out[:14] == frame[:14] and any(frame[:12])):
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


def _check_told(node: Forwarder, sent: Sent, verdict: Answer | Drop, emission: Emission) -> None:
    """Check that an answer goes back where the frame came from, is no flood, and may be given."""
    frame, out = _inner(sent), _frame(emission)
    assert len(verdict.emissions) == 1
    domain = _domain(node.tables, sent)
    assert domain is not None
    router = gateway_mac(_vsid(sent)) if sent.site is None else b""
    from_gateway = sent.outer is not None and sent.outer.source in domain.gateway_provider_addresses
    was_passed_on = from_gateway and frame[:6] == router
    if sent.site is not None:
        assert isinstance(emission, ToSite)
        assert emission.site == sent.site
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


def _check_told_by_record(node: Forwarder, sent: Sent, emission: Emission) -> None:
    """Check that what another node has routed or passed on is told of to its sender's VM."""
    facts = _facts(_inner(sent))
    assert facts is not None
    hop = node.tables.subnets[_vsid(sent)].domain.routes.lookup(facts.source)
    assert isinstance(hop, SubnetHop)
    record = node.directory.find(hop.vsid, facts.source)
    assert record is not None
    assert _frame(emission)[:6] == record.mac
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
    frame = _inner(sent)
    nodes = len(world.nodes) if frame and frame[0] & 1 else 2
    # The first, one for each copy at each node, and an answer to each at two.
    return 1 + 3 * _pieces(frame) * nodes
