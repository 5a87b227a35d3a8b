"""VMs that come to this node's ports and leave them: what waits for that, and what it sets free.

A VM, its record and the frames for it move at different moments. Frames wait for a moment where
nobody knows yet which of the others is late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from gateway.forwarding.directory import Change, Delete, DeleteLease, Directory, Put, PutLease
from gateway.forwarding.drops import DropReason, Drops
from gateway.forwarding.happenings import Happenings
from gateway.forwarding.holding import Holding
from gateway.forwarding.node import Arrival
from gateway.forwarding.onward import Onward, Wait
from gateway.forwarding.redirects import Redirects
from gateway.forwarding.residence import Residence
from gateway.forwarding.translations import Formers
from gateway.forwarding.verdicts import Emission, OuterHeader, PortKey, ToPort, counted
from policies.addresses import CustomerAddress, MacAddress, Vsid
from policies.model import Lease, LookupRecord, Port, Translation
from policies.tables import Tables


class Moves:
    """What one node knows of VMs that move, all of it bounded. `decide_by` comes before all else.

    `arrivals_changed` is called where decisions may have rested on which VMs are here.
    """

    def __init__(
        self,
        holds: Callable[[LookupRecord], bool],
        directory: Directory,
        drops: Drops,
        happenings: Happenings,
        arrivals_changed: Callable[[], object],
    ) -> None:
        self.holding = Holding()
        """Frames that wait for a VM's port."""
        self.redirects = Redirects()
        self.residence = Residence(holds, directory, happenings, arrivals_changed)
        self._holds = holds
        self.formers = Formers()
        """The provider addresses that stood for somebody until a moment ago."""
        self._directory = directory
        self._drops = drops

    def decide_by(self, tables: Tables, ports: Mapping[PortKey, Port], onward: Onward) -> None:
        """Take over by which tables, and with which ports, is decided from now on."""
        self._tables = tables
        self._ports = ports
        self._onward = onward

    def take_over(self, other: Moves) -> None:
        """Know which VMs have come and left as another does now. Frames that wait stay with it."""
        self.redirects.take_over(other.redirects)
        self.formers.take_over(other.formers)
        self.residence.take_over(other.residence)

    def apply(self, changes: Iterable[Change], now: float) -> tuple[Emission, ...]:
        """Change records, and return what is to be sent because of that: frames that have waited for it."""
        touched: dict[PortKey, None] = {}
        for change in changes:
            match change:
                case Put(record):
                    new: LookupRecord | None = record
                    vsid, ca = record.vsid, record.ca
                case Delete():
                    new, vsid, ca = None, change.vsid, CustomerAddress(change.ca)
                case _:
                    self._heed_lease(change, now)
                    continue
            old = self._directory.find(vsid, ca)
            self._directory.apply(change)
            self._heed(vsid, ca, old, new, now)
            for each in (old, new):
                if each is not None and (vsid, each.mac) in self.holding:
                    touched[vsid, each.mac] = None
        return tuple(emission for port in touched for emission in self._release(port, now))

    def port_opened(self, port: PortKey, now: float) -> tuple[Emission, ...]:
        """Take note that a VM's interface is there and up; return what has waited for it, in order."""
        self.residence.port_opened(port)
        emissions = []
        for held in self.holding.take(port):
            if held.deadline <= now:
                self._drops.count(DropReason.HOLD_EXPIRED, held.emission.tenant)
            else:
                emissions.append(held.emission)
        return tuple(emissions)

    def port_closed(self, port: PortKey) -> None:
        """Take note that a VM's interface has gone or is down. Frames for it are to be given to `hold`."""
        self.residence.port_closed(port)

    def hold(self, emission: ToPort, now: float) -> None:
        """Have a frame wait that cannot be given to its port now.

        Not one for a group: it was sent to all hosts, and must not reach a VM twice that moves.
        """
        if emission.frame[0] & 1:
            self._drops.count(DropReason.NOT_HERE, emission.tenant)
        elif not self.holding.add(emission, now):
            self._drops.count(DropReason.HOLD_FULL, emission.tenant)

    def expire(self, now: float) -> tuple[Emission, ...]:
        """Let go of what has waited too long, and of redirects that are over. Call it every 100 ms or so.

        Returns what is to be sent because of that: by now the directories agree on where it goes.
        """
        emissions: list[Emission] = []
        for frame in self.holding.expired(now):
            verdict = self._onward.release(frame, Wait.IN_VAIN, now)
            if verdict is None:
                self._drops.count(DropReason.HOLD_EXPIRED, frame.tenant)
            else:
                emissions.extend(counted(verdict, self._drops).emissions)
        self.redirects.expire(now)
        self.formers.expire(now)
        return tuple(emissions)

    def is_sent_on(self, arrival: Arrival, outer: OuterHeader, now: float) -> bool:
        """Whether a frame may have been sent on here: by a host that has, or has had, the VM it is for."""
        port = arrival.entry.vsid, MacAddress(arrival.destination_mac)
        if port not in self._ports:
            return False
        hosts = {record.host for record in self._directory.find_by_mac(*port)}
        hosts.update(self.redirects.holders(port, now))
        return any(outer.source in self._tables.provider_addresses_of.get(host, ()) for host in hosts)

    def _heed(
        self,
        vsid: Vsid,
        ca: CustomerAddress,
        old: LookupRecord | None,
        new: LookupRecord | None,
        now: float,
    ) -> None:
        """Take note of a record that has come here, or left."""
        was_here = old is not None and self._holds(old)
        if old is not None and old.translation is Translation.REWRITE and (new is None or new.pa != old.pa):
            self.formers.add(old, now)
        if new is None or self._holds(new):
            self.redirects.forget(vsid, ca)
        elif old is not None and was_here and new.revision > old.revision:
            self.redirects.left(new, now)
        if old is not None and not was_here and (vsid, old.mac) in self._ports:
            self.redirects.came((vsid, old.mac), old.host, now)
        self.residence.record_changed(vsid, ca, *(each.mac for each in (old, new) if each is not None))

    def _heed_lease(self, change: PutLease | DeleteLease, now: float) -> None:
        """Take a lease over, or understand for a while what it was."""
        pa = change.lease.pa if isinstance(change, PutLease) else change.pa
        old = self._directory.holder(pa)
        self._directory.apply(change)
        if isinstance(old, Lease) and self._directory.holder(pa) != old:
            self.formers.add(old, now)

    def _release(self, port: PortKey, now: float) -> list[Emission]:
        """Send on those of a port's waiting frames whose VM is elsewhere by now."""
        emissions: list[Emission] = []
        waiting = []
        for held in self.holding.take(port):
            verdict = self._onward.release(held.emission, Wait.RECORD_CAME, now)
            if verdict is None:
                waiting.append(held)
            else:
                emissions.extend(counted(verdict, self._drops).emissions)
        self.holding.put_back(port, waiting)
        return emissions
