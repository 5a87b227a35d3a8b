"""What becomes of an IP packet whose source has been admitted.

It is for a neighbour, for everybody in the virtual subnet, for the gateway's
own address, or for somebody that a route leads to, here or at a site. The answer is a flow, the
decision for all packets like this one, or a verdict for this packet alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from gateway.forwarding.admission import is_link_local
from gateway.forwarding.delivery import Delivery
from gateway.forwarding.directory import Directory
from gateway.forwarding.drops import DropReason
from gateway.forwarding.flows import Flow, as_it_is
from gateway.forwarding.guests import Guests
from gateway.forwarding.happenings import Happenings
from gateway.forwarding.metering import Meter
from gateway.forwarding.neighbours import Neighbours
from gateway.forwarding.node import Arrival, Explain, Node, Origin, SiteArrival
from gateway.forwarding.onward import Onward
from gateway.forwarding.permission import Permission
from gateway.forwarding.redirects import Redirects
from gateway.forwarding.sites import Sites
from gateway.forwarding.verdicts import Drop, Emission, Forward, Held, Verdict
from gateway.forwarding.waiting import Waiting
from gateway.forwarding.ways import Across, LocalPort, Pending, Plain, Tunnel, Ways
from gateway.packets import ethernet, icmp, ndp
from gateway.packets.ethernet import EthernetHeader
from gateway.packets.icmp import Unreachable
from policies.addresses import ROUTER_LINK_LOCAL, CustomerAddress, MacAddress, Vsid, is_group_address
from policies.facts import ICMPV6, TCP, UDP, PacketFacts
from policies.model import LookupRecord, SiteHop, SubnetHop
from policies.tables import Tables
from tunnels.effects import SiteKey

# A host whose packets a gateway still carries to another host so many seconds after it was taught
# their record has lost it since, or never got it.
TEACH_EVERY = 30.0


class Decisions:
    """The decisions of one node, by its tables and its directory."""

    def __init__(
        self,
        node: Node,
        tables: Tables,
        directory: Directory,
        delivery: Delivery,
        ways: Ways,
        sites: Sites,
        meters: Mapping[Vsid, Meter],
        site_meters: Mapping[SiteKey, Meter],
        permission: Permission,
        redirects: Redirects,
        happenings: Happenings,
        waiting: Waiting,
        explain: Explain | None = None,
    ) -> None:
        self._waiting = waiting
        self.permission = permission
        self.neighbours = Neighbours(directory, ways, delivery, happenings, explain)
        self.guests = Guests(directory, ways, delivery, explain)
        self.onward = Onward(tables, directory, ways, delivery, redirects, happenings, explain)
        self._node = node
        self._tables = tables
        self._directory = directory
        self._delivery = delivery
        self._ways = ways
        self._sites = sites
        self._meters = meters
        self._site_meters = site_meters
        self._happenings = happenings
        self._explain = explain

    def decide(
        self, arrival: Arrival, facts: PacketFacts, packet: bytes, source: LookupRecord | None, now: float
    ) -> Flow | Verdict:
        """Decide an IP packet whose source has been admitted."""
        entry = arrival.entry
        if facts.protocol == ICMPV6 and facts.icmp_type in ndp.DISCOVERY:
            if facts.icmp_type == ndp.ROUTER_SOLICITATION:
                return self.guests.router_solicitation(arrival, facts, packet, now)
            return self.neighbours.discovery(arrival, facts, packet, now)
        answered = self.guests.dhcp(arrival, facts, packet, now)
        if answered is not None:
            return answered
        if arrival.is_to_group:
            return self._replicate(arrival, facts, packet, now)
        if arrival.destination_mac == entry.gateway_mac:
            if not self._ways.is_router_for(arrival):
                return Drop(DropReason.NOT_HERE, arrival.tenant)
            if facts.destination in entry.domain.gateway_addresses or facts.destination == ROUTER_LINK_LOCAL:
                return self._to_gateway(arrival, facts, packet, now)
            return self._route(arrival, facts, packet, source, now)
        return self._switch(arrival, facts, source, now)

    def decide_from_site(
        self, arrival: SiteArrival, facts: PacketFacts, packet: bytes, now: float
    ) -> Flow | Verdict:
        """Decide an IP packet whose source is at the site that it came from."""
        if facts.destination in arrival.domain.gateway_addresses:
            return self._to_gateway(arrival, facts, packet, now)
        return self._route(arrival, facts, packet, None, now)

    def _to_gateway(self, arrival: Origin, facts: PacketFacts, packet: bytes, now: float) -> Verdict:
        if icmp.is_echo_request(facts):
            if not self.permission.is_within_rate(arrival.domain, facts, now):
                return Drop(DropReason.RATE_LIMITED, arrival.tenant)
            if self._explain:
                self._explain("gateway", "an echo request to the gateway's own address: answered")
            if isinstance(arrival, SiteArrival):
                return self._delivery.answer_site(arrival, icmp.echo_reply(packet, facts))
            ethertype = ethernet.OF_IP_VERSION[facts.version]
            header = EthernetHeader(arrival.source_mac, arrival.entry.gateway_mac, ethertype)
            return self._delivery.answer(arrival, header.encode() + icmp.echo_reply(packet, facts))
        if facts.protocol not in (TCP, UDP):
            return Drop(DropReason.TO_GATEWAY, arrival.tenant)
        notice = self._delivery.tell(
            arrival,
            facts,
            lambda source: icmp.unreachable(source, packet, facts, Unreachable.PORT),
            now,
            source=CustomerAddress(facts.destination),
        )
        return Drop(DropReason.TO_GATEWAY, arrival.tenant, notice)

    def _route(
        self, arrival: Origin, facts: PacketFacts, packet: bytes, source: LookupRecord | None, now: float
    ) -> Flow | Verdict:
        domain = arrival.domain
        if (
            is_link_local(facts.source)
            or is_link_local(facts.destination)
            or is_group_address(facts.destination)
        ):
            return Drop(DropReason.NO_ROUTE, domain.name)
        refusal = self.permission.refusal(domain, facts, now)
        if refusal is not None:
            return Drop(refusal, domain.name)
        decision = self._route_permitted(arrival, facts, packet, source, now)
        if isinstance(decision, Held):
            # It is judged once more when it has waited.
            self.permission.give_back(domain, facts)
        return decision

    def _route_permitted(
        self, arrival: Origin, facts: PacketFacts, packet: bytes, source: LookupRecord | None, now: float
    ) -> Flow | Verdict:
        domain = arrival.domain
        if self._explain:
            prefix = domain.routes.match(CustomerAddress(facts.destination))
            route = domain.routes.lookup(facts.destination)
            self._explain("route", f"{prefix} -> {route}" if route else "none matches")
        next_ca, hop = domain.resolve(facts.destination)
        if isinstance(hop, SiteHop):
            return self._to_site(arrival, facts, packet, hop.site, source, now)
        if isinstance(hop, SubnetHop):
            record = self._directory.find(hop.vsid, next_ca)
            if record is not None:
                towards = self._towards(arrival, facts, record, source, now, routed=True)
                if not _is_refused(towards):
                    return towards
                reason, unreachable = DropReason.NO_LEASE, Unreachable.HOST
            else:
                reason, unreachable = DropReason.NO_RECORD, Unreachable.HOST
                passed = self._pass_to_gateway(arrival, facts, now) if isinstance(arrival, Arrival) else None
                if passed is not None and not _is_refused(passed):
                    return passed
        else:
            reason, unreachable = DropReason.NO_ROUTE, Unreachable.NETWORK
        if self._explain and reason is not DropReason.NO_LEASE:
            self._explain("record", f"none for {CustomerAddress(next_ca)}")
        notice = self._delivery.tell(
            arrival, facts, lambda sender: icmp.unreachable(sender, packet, facts, unreachable), now
        )
        return Drop(reason, domain.name, notice)

    def _to_site(
        self,
        arrival: Origin,
        facts: PacketFacts,
        packet: bytes,
        site: str,
        source: LookupRecord | None,
        now: float,
    ) -> Flow | Drop | Held:
        """Send a packet into a site's tunnel, or to the gateway that has it."""
        domain = arrival.domain
        key = domain.name, site
        if not self._ways.dials(domain, site):
            passed = self._pass_to_site_gateway(arrival, facts, site, now)
            if passed is not None and not _is_refused(passed):
                return passed
            reason = DropReason.NO_LEASE if passed is not None else DropReason.SITE_DOWN
            unreachable = Unreachable.NETWORK
        elif isinstance(home := domain.resolve(facts.source)[1], SiteHop) and home.site == site:
            reason, unreachable = DropReason.LOOP, Unreachable.NETWORK
        elif (state := self._sites.find(key)) is None:
            self._sites.wanted(key)
            reason, unreachable = DropReason.SITE_DOWN, Unreachable.NETWORK
        elif not state.admits(facts):
            self._sites.wanted(key)
            # RFC 4301 section 5.1.1, case a.
            reason, unreachable = DropReason.OUTSIDE_SELECTORS, Unreachable.PROHIBITED
        else:
            if self._explain:
                self._explain("site", f"{site}: its tunnel carries this packet, up to {state.mtu} octets")
            return Flow(
                tenant=domain.name,
                ethernet=b"",
                routed=True,
                way=Tunnel(key, state, facts),
                sent=self._meter_of_source(arrival, facts),
                received=self._site_meters[key],
                bucket=self.permission.buckets.get(domain.name),
                source_record=source,
                destination_record=None,
            )
        if self._explain:
            self._explain("site", f"{site}: {reason}")
        notice = self._delivery.tell(
            arrival, facts, lambda sender: icmp.unreachable(sender, packet, facts, unreachable), now
        )
        return Drop(reason, domain.name, notice)

    def _switch(
        self, arrival: Arrival, facts: PacketFacts, source: LookupRecord | None, now: float
    ) -> Flow | Verdict:
        domain = arrival.entry.domain
        vsid = arrival.entry.vsid
        port = (vsid, MacAddress(arrival.destination_mac))
        record = self._directory.find_of_mac(vsid, arrival.destination_mac, facts.destination)
        is_here = port in self._node.ports
        onward: Flow | Drop | Held | None = None
        if record is not None:
            onward = self._towards(arrival, facts, record, source, now, routed=False)
            if isinstance(onward, Drop) and onward.reason is not DropReason.NO_LEASE:
                onward = self.onward.redirect(arrival, facts, record, now) or (None if is_here else onward)
        elif not is_here or self._ways.residence.is_closed(port):
            onward = self._pass_to_gateway(arrival, facts, now)
            if _is_refused(onward):
                onward = None
        if onward is None and is_here:
            # A VM that has just come here may still have its record elsewhere, or none.
            sent = self._meter_of_source(arrival, facts)
            onward = as_it_is(arrival, facts, LocalPort(port), sent, self._meters[vsid])
        if onward is None:
            unknown = DropReason.UNKNOWN_MAC if self._ways.is_router_for(arrival) else DropReason.NOT_HERE
            return Drop(unknown, domain.name)
        if not isinstance(onward, Flow):
            return onward
        refusal = self.permission.refusal(domain, facts, now)
        return onward if refusal is None else Drop(refusal, domain.name)

    def _towards(
        self,
        arrival: Origin,
        facts: PacketFacts,
        record: LookupRecord,
        source: LookupRecord | None,
        now: float,
        *,
        routed: bool,
    ) -> Flow | Drop | Held:
        """Make the flow that leads to a record's VM, wherever that is.

        A host that lets this gateway carry it to another host is taught the record.
        """
        target = self._tables.subnets[record.vsid]
        if self._explain:
            self._explain(
                "record", f"{record.ca} is {record.mac} at {record.pa} ({record.host or 'unnamed'})"
            )
        if routed or isinstance(arrival, SiteArrival):
            ethertype = ethernet.OF_IP_VERSION[facts.version]
            header = EthernetHeader(record.mac, target.gateway_mac, ethertype).encode()
        else:
            header = arrival.frame[: ethernet.HEADER_LENGTH]
        if self._ways.is_for_gateway(arrival, record) and isinstance(arrival, Arrival):
            passed = self._pass_to_gateway(arrival, facts, now)
            return passed if passed is not None else Drop(DropReason.NO_PROVIDER_ADDRESS, arrival.tenant)
        way = self._ways.to_record(arrival, facts, record)
        if isinstance(way, Pending):
            return self._awaits(arrival, way, now)
        if isinstance(way, DropReason):
            return Drop(way, arrival.tenant)
        if isinstance(way, Plain):
            header, routed = b"", routed and facts.destination == record.ca
            self._explain_rewriting(facts, way)
        until = math.inf
        if (
            isinstance(way, Across)
            and isinstance(arrival, Arrival)
            and arrival.outer is not None
            and isinstance(way, Plain) is (arrival.plain is not None)
        ):
            sender = arrival.outer.source
            if sender not in arrival.domain.gateway_provider_addresses:
                self._happenings.stale(sender, record, now)
                until = now + TEACH_EVERY
        return Flow(
            tenant=arrival.tenant,
            ethernet=header,
            routed=routed,
            way=way,
            sent=self._meter_of_source(arrival, facts),
            received=self._meters[record.vsid],
            bucket=self.permission.buckets.get(arrival.tenant),
            source_record=source,
            # One found by its MAC alone decides only until its packet's address has a record of its own.
            destination_record=record if routed or record.ca == facts.destination else None,
            until=until,
        )

    def _pass_to_gateway(self, arrival: Arrival, facts: PacketFacts, now: float) -> Flow | Drop | Held | None:
        """A host that cannot decide lets its gateway: the packet goes there as it is, or rewritten."""
        if self._ways.is_rewritten(arrival) and not self._ways.is_gateway_of(arrival.domain):
            return self._to_distant(arrival, facts, now)
        path = self._ways.to_gateway(arrival, facts)
        if path is None:
            return None
        if self._explain:
            self._explain(
                "gateway", f"not for this host to decide: as it is to the gateway at {path.destination}"
            )
        return as_it_is(arrival, facts, path, self._meters[arrival.entry.vsid])

    def _pass_to_site_gateway(
        self, arrival: Origin, facts: PacketFacts, site: str, now: float
    ) -> Flow | Drop | Held | None:
        """Let the gateway that has a site's tunnel route: the packet goes there as it is."""
        is_gateway = self._ways.is_gateway_of(arrival.domain)
        if isinstance(arrival, Arrival) and not is_gateway and self._ways.is_rewritten(arrival):
            return self._pass_to_gateway(arrival, facts, now)
        path = self._ways.to_site_gateway(arrival, facts, site)
        if path is None:
            return self._pass_to_gateway(arrival, facts, now) if isinstance(arrival, Arrival) else None
        if self._explain:
            self._explain("gateway", f"{site} is another's: as it is to the gateway at {path.destination}")
        return as_it_is(arrival, facts, path, self._meter_of_source(arrival, facts))

    def _to_distant(self, arrival: Arrival, facts: PacketFacts, now: float) -> Flow | Drop | Held | None:
        """Send what a rewritten VM says to the provider address that stands for a distant CA at a gateway.

        None where there is none to be had.
        """
        way = self._ways.to_distant(arrival, facts)
        if isinstance(way, Pending):
            return self._awaits(arrival, way, now)
        if isinstance(way, DropReason):
            return Drop(way, arrival.tenant)
        self._explain_rewriting(facts, way)
        return as_it_is(arrival, facts, way, self._meters[arrival.entry.vsid])

    def _explain_rewriting(self, facts: PacketFacts, way: Plain) -> None:
        if self._explain:
            source = CustomerAddress(facts.source)
            self._explain("rewrite", f"{source} goes as {way.source}, to {way.destination}")

    def _awaits(self, arrival: Origin, way: Pending, now: float) -> Held | Drop:
        """Have a packet wait for a provider address, unless there was none to be had a moment ago."""
        vsid, ca = way.wanted
        if self._waiting.is_refused(way.wanted, now):
            if self._explain:
                self._explain("rewrite", f"no provider address could be had for {ca} a moment ago")
            return Drop(DropReason.NO_LEASE, arrival.tenant)
        if self._explain:
            self._explain("rewrite", f"no provider address stands for {ca} yet: asked for")
        self._happenings.wanted(vsid, ca, now)
        return Held(way.wanted, arrival.tenant)

    def _meter_of_source(self, arrival: Origin, facts: PacketFacts) -> Meter | None:
        if isinstance(arrival, SiteArrival):
            return arrival.meter
        hop = arrival.domain.routes.lookup(facts.source)
        return self._meters[hop.vsid] if isinstance(hop, SubnetHop) else None

    def _replicate(self, arrival: Arrival, facts: PacketFacts, packet: bytes, now: float) -> Verdict:
        """Carry broadcast and multicast to every node of the subnet, one by one (RFC 7637 section 4.2)."""
        entry = arrival.entry
        if not entry.broadcast:
            return Drop(DropReason.GROUP_NOT_ALLOWED, arrival.tenant)
        refusal = self.permission.refusal(entry.domain, facts, now)
        if refusal is not None:
            return Drop(refusal, arrival.tenant)
        emissions: list[Emission] = []
        lost: list[Drop] = []
        for way in self._ways.to_all(arrival, facts):
            flow = as_it_is(arrival, facts, way, None)
            verdict = self._delivery.carry(flow, arrival, facts, packet, now)
            if isinstance(verdict, Drop):
                lost.append(verdict)
            else:
                emissions.extend(verdict.emissions)
        if not emissions:
            nobody = DropReason.NOT_REWRITABLE if self._ways.is_rewritten(arrival) else DropReason.NO_RECORD
            return lost[0] if lost else Drop(nobody, arrival.tenant)
        self._meters[entry.vsid].sent(facts.total_length)
        return Forward(tuple(emissions), tuple(copy.reason for copy in lost))


def _is_refused(passed: Flow | Drop | Held | None) -> bool:
    """Whether there is nowhere to pass a packet to, since nothing stands for what it is for."""
    return isinstance(passed, Drop) and passed.reason is DropReason.NO_LEASE
