"""Which VMs are really here: by their records, or heard at their ports before their records say so.

A VM's first packets from its new host outrun its record. And its old host may hear it for a moment
after an orchestrated move has been recorded: that must not bring the record back. So
a frame shows that a VM has come only at a port that has opened since its record was last
here. An announcement always does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.forwarding.directory import Directory
from gateway.forwarding.happenings import Happenings
from gateway.forwarding.verdicts import PortKey
from policies.addresses import CustomerAddress, MacAddress, Vsid
from policies.model import LookupRecord, Port

_PINNED = 0


class Residence:
    """The VMs of one host's ports.

    `holds` says whether a record's VM is here by that. `arrivals_changed` is called where decisions may have
    rested on them.
    """

    def __init__(
        self,
        holds: Callable[[LookupRecord], bool],
        directory: Directory,
        happenings: Happenings,
        arrivals_changed: Callable[[], object],
    ) -> None:
        self.away: set[PortKey] = set()
        """Ports whose VM has, by its records, not all of its addresses here."""
        self._holds = holds
        self._directory = directory
        self._happenings = happenings
        self._arrivals_changed = arrivals_changed
        self._ports: Mapping[PortKey, Port] = {}
        self._port_of: dict[tuple[Vsid, CustomerAddress], PortKey] = {}
        self._opened: set[PortKey] = set()
        self._closed: set[PortKey] = set()
        self._arrived: dict[PortKey, int] = {}

    def __len__(self) -> int:
        """How many VMs are taken to be here although their records say otherwise."""
        return len(self._arrived)

    def take_over(self, other: Residence) -> None:
        """Know which ports are there, and who has come to them, as another with the same ports does now."""
        self._opened = set(other._opened)
        self._closed = set(other._closed)
        self._arrived = dict(other._arrived)

    def replace_ports(self, ports: Mapping[PortKey, Port]) -> None:
        """Serve other ports from now on. What is known of those that stay is kept."""
        for key in self._ports.keys() - ports.keys():
            self._happenings.forget(key)
        self._ports = ports
        self._port_of = {(port.vsid, ca): key for key, port in ports.items() for ca in port.addresses}
        self.away = {key for key in ports if self._is_away(key)}
        self._opened &= ports.keys()
        self._closed &= ports.keys()
        for key in self._arrived.keys() - ports.keys():
            del self._arrived[key]

    def port_opened(self, key: PortKey) -> None:
        """A port's interface is there, and up."""
        self._happenings.forget(key)
        self._closed.discard(key)
        if not self._has_record_here(key):
            self._opened.add(key)

    def port_closed(self, key: PortKey) -> None:
        """It is so no longer, or never was: whoever has been there has gone."""
        self._closed.add(key)
        self._opened.discard(key)
        if self._arrived.pop(key, None) is not None:
            self._arrivals_changed()

    def record_changed(self, vsid: Vsid, ca: CustomerAddress, *macs: MacAddress) -> None:
        """A record of these MACs has come, gone or moved."""
        if not self._ports:
            return
        keys = {(vsid, mac) for mac in macs}
        holder = self._port_of.get((vsid, ca))
        if holder is not None:
            keys.add(holder)
        for key in keys & self._ports.keys():
            (self.away.add if self._is_away(key) else self.away.discard)(key)
            if self._has_record_here(key):
                self._opened.discard(key)

    def heard(self, key: PortKey, source: bytes, is_announcement: bool, now: float) -> None:
        """A VM spoke at its port with one of its addresses, or with none. Only for ports that are `away`."""
        if not is_announcement and key not in self._opened:
            return
        records = self._directory.find_by_mac(*key)
        revision = max((record.revision for record in records), default=0)
        if self._arrived.get(key) != revision:
            self._arrived[key] = revision
            self._arrivals_changed()
        address = CustomerAddress(source) if self._is_known(key, source) else None
        self._happenings.heard(key, address, is_announcement, now)

    def awaits(self, key: PortKey) -> bool:
        """Whether whatever is heard at a port would show that its VM has come."""
        return key in self.away and key in self._opened and key not in self._arrived

    def has_arrived(self, record: LookupRecord) -> bool:
        """Whether a record's VM has been heard here since the record came. A pinned record always wins."""
        revision = self._arrived.get((record.vsid, record.mac))
        return revision is not None and record.revision <= revision and record.epoch != _PINNED

    def is_here(self, key: PortKey) -> bool:
        """Whether a port's VM is here, or may be: nothing says that it is elsewhere."""
        records = self._directory.find_by_mac(*key)
        return not records or any(self._holds(record) or self.has_arrived(record) for record in records)

    def is_closed(self, key: PortKey) -> bool:
        """Whether a port's interface is known not to be there."""
        return key in self._closed

    def _is_known(self, key: PortKey, source: bytes) -> bool:
        record = self._directory.find(key[0], source)
        return source in self._ports[key].addresses or (record is not None and record.mac == key[1])

    def _has_record_here(self, key: PortKey) -> bool:
        return any(self._holds(record) for record in self._directory.find_by_mac(*key))

    def _is_away(self, key: PortKey) -> bool:
        port = self._ports[key]
        records = self._directory.find_by_mac(*key)
        if any(not self._holds(record) for record in records):
            return True
        recorded = {record.ca for record in records}
        return any(ca not in recorded for ca in port.addresses)
