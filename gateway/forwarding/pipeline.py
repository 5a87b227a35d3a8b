"""The packet's way: one decision for each frame or packet, from wherever it came.

`Forwarder` takes it and the time, and returns what is to become of it. It
opens no socket and reads no clock. The fast path is a second implementation of
the same decisions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from gateway.forwarding.admission import may_send
from gateway.forwarding.buckets import Shares
from gateway.forwarding.decisions import Decisions
from gateway.forwarding.delivery import Delivery
from gateway.forwarding.directory import Change, Directory, Holder, Put, PutLease
from gateway.forwarding.drops import DropReason, Drops
from gateway.forwarding.flows import (
    REWRITTEN,
    Flow,
    FlowCache,
    key_untrusted,
    known_packet_untrusted,
    known_site_packet_untrusted,
    site_key_untrusted,
)
from gateway.forwarding.happenings import Happenings
from gateway.forwarding.incoming import Arrived, Incoming
from gateway.forwarding.metering import Meter
from gateway.forwarding.moves import Moves
from gateway.forwarding.neighbours import question
from gateway.forwarding.node import Explain, Node, SiteArrival
from gateway.forwarding.notices import Notices
from gateway.forwarding.permission import Permission
from gateway.forwarding.pmtu import PathMtu
from gateway.forwarding.rewritten import Rewritten
from gateway.forwarding.sites import Sites
from gateway.forwarding.translations import Translations
from gateway.forwarding.verdicts import (
    Awaited,
    Drop,
    Emission,
    Held,
    OuterHeader,
    PortKey,
    ToPort,
    Verdict,
    counted,
)
from gateway.forwarding.waiting import PATIENCE, Waiter, Waiting
from gateway.forwarding.ways import Tunnel, Ways
from gateway.packets.rewriting import rewritten
from policies.addresses import CustomerAddress, Vsid
from policies.model import Lease, Port
from policies.selectors import Selectors
from policies.tables import RoutingDomain, Tables
from tunnels.effects import SiteKey


class Forwarder:
    """The pipeline of one node and the state that it keeps, all of it bounded."""

    def __init__(
        self, node: Node, tables: Tables, directory: Directory, *, explain: Explain | None = None
    ) -> None:
        self.node = node
        self.directory = directory
        self.drops = Drops()
        self.shares = Shares()
        """Who else debits the tenants' rates."""
        self.sources_elsewhere: Counter[str] = Counter()
        self.notices = Notices()
        self.paths = PathMtu(node.underlay_mtu)
        self.sites = Sites()
        self.meters: dict[Vsid, Meter] = {}
        """What each virtual subnet sent and received."""
        self.site_meters: dict[SiteKey, Meter] = {}
        """What each site sent and received through its tunnel here."""
        self.port_mtus: dict[PortKey, int] = {}
        """Of the VMs' interfaces, in octets of the IP packet, as far as they are known."""
        self.happenings = Happenings()
        self.moves = Moves(
            node.holds,
            directory,
            self.drops,
            self.happenings,
            self._forget_flows,
        )
        self.waiting = Waiting()
        """Packets that wait for a provider address."""
        self._used_leases: set[bytes] = set()
        self._explain = explain
        self._permission: Permission | None = None
        self.tables = tables
        self.replace_tables(tables, node.ports)

    def replace_tables(self, tables: Tables, ports: Mapping[PortKey, Port] | None = None) -> None:
        """Decide by other tables from now on, and for other VM ports where some are given.

        What was decided by the old ones is forgotten. What was learned and counted
        stays, for tenants, subnets, sites and ports that are still there.
        """
        owners = {vsid: entry.domain.name for vsid, entry in self.tables.subnets.items()}
        self.tables = tables
        if ports is not None:
            self.node = msgspec.structs.replace(self.node, ports=dict(ports))
            self.moves.residence.replace_ports(self.node.ports)
            for gone in self.port_mtus.keys() - ports.keys():
                del self.port_mtus[gone]
        # A VSID that goes from one tenant to another leaves its counts behind.
        self.meters = {
            vsid: (self.meters.get(vsid) if owners.get(vsid) == entry.domain.name else None) or Meter()
            for vsid, entry in tables.subnets.items()
        }
        self.site_meters = {
            key: self.site_meters.get(key) or Meter()
            for domain in tables.domains.values()
            for key in ((domain.name, site) for site in domain.site_gateways)
        }
        self.sites.keep_only(self.site_meters)
        self.notices.keep_only(tables.domains)
        self._permission = Permission(tables, self.shares, self._explain, self._permission)
        self.translations = Translations(self.node, tables, self.directory, self.moves.formers)
        ways = Ways(self.node, tables, self.directory, self.moves.residence, self.translations)
        self._delivery = Delivery(
            ways,
            self.paths,
            self.sites,
            self.port_mtus,
            self.notices,
            self.happenings,
            self._used_leases,
            self._explain,
        )
        self.decisions = Decisions(
            self.node,
            tables,
            self.directory,
            self._delivery,
            ways,
            self.sites,
            self.meters,
            self.site_meters,
            self._permission,
            self.moves.redirects,
            self.happenings,
            self.waiting,
            self._explain,
        )
        self._incoming = Incoming(
            self.node,
            tables,
            self.directory,
            ways,
            self.moves,
            self.decisions,
            self.site_meters,
            self.sources_elsewhere,
            self._explain,
        )
        self._rewritten = Rewritten(
            self.node, tables, self.directory, self.translations, self.paths, self._explain
        )
        self.moves.decide_by(tables, self.node.ports, self.decisions.onward)
        self._forget_flows()

    def aside(self, tenant: RoutingDomain, explain: Explain) -> Forwarder:
        """Return a forwarder that decides one tenant's packets as this one now would, and says why.

        It is for one look: what it does changes nothing here, and what changes here later it need not
        know. To make it costs what the tenant is large, however many others there are.
        """
        subnets = {vsid: self.tables.subnets[vsid] for vsid in tenant.vsids}
        tables = msgspec.structs.replace(self.tables, subnets=subnets, domains={tenant.name: tenant})
        ports = {key: port for key, port in self.node.ports.items() if key[0] in tenant.vsids}
        node = msgspec.structs.replace(self.node, ports=ports)
        aside = Forwarder(node, tables, self.directory.view(), explain=explain)
        aside.paths.take_over(self.paths)
        aside.port_mtus.update(self.port_mtus)
        aside.moves.take_over(self.moves)
        aside.waiting.take_over(self.waiting)
        for site in tenant.site_gateways:
            state = self.sites.find((tenant.name, site))
            if state is not None:
                aside.sites.site_is_up((tenant.name, site), state.mtu, state.selectors)
        return aside

    def probe(self, port: PortKey, ca: CustomerAddress) -> ToPort | None:
        """Return what makes a VM say that it has an address: a question from its subnet's gateway.

        None where there is no such virtual subnet now.
        """
        entry = self.tables.subnets.get(port[0])
        if entry is None:
            return None
        return ToPort(port, question(entry, port[1], ca), entry.domain.name)

    def advertise_router(self, port: PortKey, now: float) -> ToPort | None:
        """Return what tells a VM of its IPv6 router, which it forgets unless it is told again.

        None where there is no such virtual subnet now, or none that advertises, or where the VM is not at
        its port: the frame would wait for it there, and then follow it to where it is advertised already.
        """
        entry = self.tables.subnets.get(port[0])
        if entry is None or self.moves.residence.is_closed(port):
            return None
        return self.decisions.guests.advertise_router(entry, port, now)

    def from_underlay(self, outer: OuterHeader, payload: bytes, now: float) -> Verdict:
        """Decide an NVGRE packet: `payload` is what follows the outer IP header, GRE first."""
        key = key_untrusted(outer.source, payload)
        if key is not None and self._explain is None:
            flow = self.flows.find(key, self.directory, self.sites)
            if flow is not None:
                known = known_packet_untrusted(payload)
                verdict = self._delivery.carry_known_untrusted(flow, outer, outer.ecn, known, now)
                if verdict is not None:
                    return counted(verdict, self.drops)
        return self._settled(
            lambda at: self._decide(self._incoming.from_underlay_untrusted(outer, payload, at), key, at), now
        )

    def from_site(
        self, site: SiteKey, packet: bytes, selectors: Selectors, outer_ecn: int, now: float
    ) -> Verdict:
        """Decide an IP packet, with or without padding, that has come through a site's tunnel.

        `selectors` are those of the child SA that it came by; give the same object
        for each packet of one SA.
        """
        arrival = self._incoming.site_arrivals.get(site)
        if arrival is None:
            return counted(Drop(DropReason.SITE_DOWN, site[0]), self.drops)
        key = site_key_untrusted(arrival.origin, packet)
        if key is not None and self._explain is None:
            flow = self.flows.find(key, self.directory, self.sites)
            if flow is not None and flow.admitted_by is selectors:
                known = known_site_packet_untrusted(packet)
                verdict = self._delivery.carry_known_untrusted(flow, None, outer_ecn, known, now)
                if verdict is not None:
                    return counted(verdict, self.drops)
        return self._settled(lambda at: self._decide_from_site(site, packet, selectors, outer_ecn, at), now)

    def from_port(self, port: PortKey, frame: bytes, now: float) -> Verdict:
        """Decide a frame that a VM sent at its port."""
        return self._settled(
            lambda at: self._decide(self._incoming.from_port_untrusted(port, frame, at), None, at), now
        )

    def from_provider(self, packet: bytes, now: float) -> Verdict:
        """Decide a rewritten packet: one to a provider address of a pool of ours, with or without padding."""
        key = site_key_untrusted(REWRITTEN, packet)
        if key is not None and self._explain is None:
            flow = self.flows.find(key, self.directory, self.sites)
            if flow is not None and flow.came is not None:
                whole, traffic_class, hop_limit = known_site_packet_untrusted(packet)
                customers = rewritten(whole, flow.came.sender.ca, flow.came.receiver.ca)
                known = customers, traffic_class, hop_limit
                verdict = self._delivery.carry_known_untrusted(flow, flow.came.outer, 0, known, now)
                if verdict is not None:
                    self._note_use(flow.came.receiver)
                    return counted(verdict, self.drops)
        return self._settled(
            lambda at: self._decide(self._rewritten.read_untrusted(packet, at), key, at), now
        )

    def apply(self, changes: Sequence[Change], now: float) -> tuple[Emission, ...]:
        """Take changes of records and leases over, and return what is to be sent because of that."""
        emissions = self.moves.apply(changes, now)
        if not len(self.waiting):
            return emissions
        return emissions + tuple(
            emission
            for wanted in dict.fromkeys(each for change in changes for each in _what_comes(change))
            for emission in self._decide_anew(self.waiting.take(wanted), now)
        )

    def refuse(self, vsid: Vsid, ca: CustomerAddress, now: float) -> tuple[Emission, ...]:
        """Hear that a CA gets no provider address for now, and return what its senders are told."""
        return tuple(self._decide_anew(self.waiting.refuse((vsid, ca), now), now))

    def expire(self, now: float) -> tuple[Emission, ...]:
        """Let go of what has waited too long. Call it every 100 ms or so, and send what it returns."""
        for waiter in self.waiting.expired(now):
            self.drops.count(_in_vain(waiter.wanted), waiter.tenant)
        return self.moves.expire(now)

    def answers_for(self, pa: bytes, now: float) -> bool:
        """Whether a provider address of a pool is to be found here, for whoever asks for it on the link."""
        return self.translations.is_ours(pa, now)

    def take_used_leases(self) -> set[bytes]:
        """Return the leased addresses that packets have come to or gone from since this was last asked."""
        used = set(self._used_leases)
        self._used_leases.clear()
        return used

    def may_admit(self, outer: OuterHeader, payload: bytes) -> bool:
        """Whether a packet comes from a node of its VSID's tenant: a look before any work on it."""
        entry = self.tables.subnets.get(Vsid(int.from_bytes(payload[4:7])))
        return entry is not None and may_send(entry.domain, outer.source)

    def path_mtu_reported(self, destination: bytes, vsid: int, mtu: int, now: float) -> bool:
        """Heed what the underlay says of the path to a provider address, if it is plausible.

        `vsid` is that of the packet which the report quotes: who forges one has to
        know a VSID that is in use (RFC 5927 section 4.1 asks for such a check).
        """
        known = Vsid(vsid) in self.tables.subnets
        return known and self.paths.report(destination, mtu, now, self.tables.members)

    def port_mtu_is(self, port: PortKey, mtu: int) -> None:
        """Take note of what a VM's interface carries, in octets of the IP packet."""
        self.port_mtus[port] = mtu

    def _forget_flows(self) -> None:
        self.flows = FlowCache()

    def _decide(self, arrived: Arrived | Verdict, key: bytes | None, now: float) -> Verdict:
        """Decide what has come in, and remember that for the flow which `key` names, if it may be."""
        if not isinstance(arrived, Arrived):
            return arrived
        arrival, facts, packet, came = arrived.arrival, arrived.facts, arrived.packet, arrived.came
        if isinstance(arrival, SiteArrival):
            decision = self.decisions.decide_from_site(arrival, facts, packet, now)
        else:
            decision = self.decisions.decide(arrival, facts, packet, arrived.source, now)
        if not isinstance(decision, Flow):
            return decision
        if came is not None:
            self._note_use(came.receiver)
        if key is not None and arrived.is_settled and _ends_the_way(decision):
            flow, admitted_by = decision, arrived.admitted_by
            if came is not None or admitted_by is not None:
                flow = msgspec.structs.replace(decision, admitted_by=admitted_by, came=came)
            self.flows.remember(key, flow)
        return self._delivery.carry(decision, arrival, facts, packet, now)

    def _decide_from_site(
        self, site: SiteKey, packet: bytes, selectors: Selectors, outer_ecn: int, now: float
    ) -> Verdict:
        # Since the packet came, other tables may have numbered the sites anew, or have this one no more.
        arrival = self._incoming.site_arrivals.get(site)
        if arrival is None:
            return Drop(DropReason.SITE_DOWN, site[0])
        arrived = self._incoming.from_site_untrusted(arrival, packet, selectors, outer_ecn)
        return self._decide(arrived, site_key_untrusted(arrival.origin, packet), now)

    def _note_use(self, receiver: Holder) -> None:
        if isinstance(receiver, Lease):
            self._used_leases.add(receiver.pa)

    def _settled(
        self, decide: Callable[[float], Verdict], now: float, deadline: float | None = None
    ) -> Verdict:
        """Decide a packet, and count what that loses. Where it has to wait, see that it does.

        What waits is decided anew, maybe by other tables: `decide` holds on to none.
        """
        verdict = decide(now)
        if isinstance(verdict, Held):
            until = now + PATIENCE if deadline is None else deadline
            if self._explain is None and not self.waiting.add(
                Waiter(verdict.wanted, verdict.tenant, decide, until)
            ):
                verdict = Drop(_in_vain(verdict.wanted), verdict.tenant)
        return counted(verdict, self.drops)

    def _decide_anew(self, waiters: Iterable[Waiter], now: float) -> list[Emission]:
        emissions: list[Emission] = []
        for waiter in waiters:
            emissions.extend(self._settled(waiter.decide, now, waiter.deadline).emissions)
        return emissions


def _in_vain(wanted: Awaited) -> DropReason:
    """Why a packet is dropped that cannot wait for an address, or has waited for too long."""
    return DropReason.NO_LEASE if isinstance(wanted, tuple) else DropReason.UNKNOWN_PROVIDER_ADDRESS


def _what_comes(change: Change) -> tuple[Awaited, ...]:
    """What packets may have waited for that a change brings."""
    match change:
        case Put(record):
            return (record.vsid, record.ca), record.pa
        case PutLease(lease):
            return (lease.vsid, lease.ca), lease.pa
        case _:
            return ()


def _ends_the_way(flow: Flow) -> bool:
    """Whether a flow leads to where its packets are for, so that what it rests on can be seen to change."""
    return flow.destination_record is not None or isinstance(flow.way, Tunnel)
