"""What has come to where its VM no longer is, or not yet: sent on to where it is by now."""

from __future__ import annotations

from enum import Enum

from gateway.forwarding.delivery import Delivery
from gateway.forwarding.directory import Directory
from gateway.forwarding.drops import DropReason
from gateway.forwarding.flows import Flow, as_it_is
from gateway.forwarding.happenings import Happenings
from gateway.forwarding.node import Arrival, Explain
from gateway.forwarding.redirects import Redirects
from gateway.forwarding.verdicts import Drop, ToPort, Verdict
from gateway.forwarding.ways import Across, Pending, Ways
from gateway.packets import ethernet, ip
from policies.facts import PacketFacts
from policies.model import LookupRecord
from policies.tables import Tables


class Wait(Enum):
    """What has become of a frame's waiting for a VM's port."""

    NONE = "none"
    RECORD_CAME = "record came"
    """Its VM's record has changed meanwhile."""
    IN_VAIN = "in vain"


class Onward:
    """The decisions of one node about what is to go on to another host."""

    def __init__(
        self,
        tables: Tables,
        directory: Directory,
        ways: Ways,
        delivery: Delivery,
        redirects: Redirects,
        happenings: Happenings,
        explain: Explain | None = None,
    ) -> None:
        self._tables = tables
        self._directory = directory
        self._ways = ways
        self._delivery = delivery
        self._redirects = redirects
        self._happenings = happenings
        self._explain = explain

    def redirect(
        self,
        arrival: Arrival,
        facts: PacketFacts,
        record: LookupRecord,
        now: float,
        wait: Wait = Wait.NONE,
    ) -> Flow | None:
        """Send on what came from the underlay for a VM that has left for another host (RFC 8014 section 6).

        Not to the host that it came from, nor if it has been sent on from here before: then one of
        the hosts has an older record, and knows better soon. So what has waited is sent on
        even to where it came from; and even again if its record is newer than its wait, for so
        it goes nowhere twice by one record.
        """
        outer = arrival.outer
        if outer is None or not self._redirects.sends_on(record, now):
            return None
        self._happenings.stale(outer.source, record, now)
        way = self._ways.after(arrival.domain, record, facts)
        if not isinstance(way, Across):
            return None
        theirs = self._tables.provider_addresses_of.get(record.host, frozenset())
        if wait is Wait.NONE and (outer.source == record.pa or outer.source in theirs):
            return None
        hop_limit = outer.hop_limit if arrival.plain is None else facts.hop_limit
        comes_back = self._redirects.comes_back(_mark(arrival), hop_limit)
        if comes_back and wait is not Wait.RECORD_CAME:
            return None
        if self._explain:
            self._explain("redirect", f"{record.ca} has left for {record.pa}: sent on")
        self._redirects.packets += 1
        return as_it_is(arrival, facts, way, None)

    def release(self, held: ToPort, wait: Wait, now: float) -> Verdict | None:
        """Decide anew about a frame that waits for a VM's port; None: nothing says that it is elsewhere.

        To whom it goes is decided already, so all that may change is where that is.
        """
        vsid, mac = held.port
        entry = self._tables.subnets.get(vsid)
        if entry is None:
            return Drop(DropReason.UNKNOWN_VSID, held.tenant)
        if ethernet.decode_untrusted(held.frame).ethertype == ethernet.ARP:
            return None
        packet = held.frame[ethernet.HEADER_LENGTH :]
        facts = ip.decode_untrusted(packet)
        record = self._directory.find_of_mac(vsid, mac, facts.destination)
        if record is None or self._ways.is_here(record):
            return None
        arrival = Arrival(entry, held.frame, outer=held.outer)
        if held.outer is not None:
            flow = self.redirect(arrival, facts, record, now, wait)
        else:
            way = self._ways.after(entry.domain, record, facts)
            if isinstance(way, Pending):
                # From an encapsulated VM here, which reaches those that are rewritten by its gateway.
                way = self._ways.to_gateway(arrival, facts) or DropReason.NO_PROVIDER_ADDRESS
            flow = as_it_is(arrival, facts, way, None) if isinstance(way, Across) else None
        return self._delivery.carry(flow, arrival, facts, packet, now) if flow is not None else None


def _mark(arrival: Arrival) -> bytes:
    """What a frame is known by when it comes back: of a rewritten one, the hop limit is its packet's own."""
    if arrival.plain is None:
        return arrival.frame
    header, packet = arrival.frame[: ethernet.HEADER_LENGTH], arrival.frame[ethernet.HEADER_LENGTH :]
    return header + ip.with_hop_limit(packet, 0)
