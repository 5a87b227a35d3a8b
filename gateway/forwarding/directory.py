"""Where each customer address is: the records and leases, in memory, changed one at a time.

One writer, on the trio thread; other threads read single records only. The
values are immutable, so whoever holds a record can tell by identity whether it
still stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from policies.addresses import ProviderAddress, Vsid
from policies.model import Appliance, Lease, LookupRecord, Translation


class Put(msgspec.Struct, frozen=True, gc=False):
    """A record is new, or replaces the one of the same (VSID, CA)."""

    record: LookupRecord


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Nobody has this (VSID, CA) any more."""

    vsid: Vsid
    ca: bytes


_NONE = ProviderAddress()


class PutLease(msgspec.Struct, frozen=True, gc=False):
    """A provider address of a gateway's pool stands for a CA from now on."""

    lease: Lease


class DeleteLease(msgspec.Struct, frozen=True, gc=False):
    """It does so no longer."""

    pa: ProviderAddress


Change = Put | Delete | PutLease | DeleteLease
Holder = LookupRecord | Lease
"""Whose a provider address is that stands for one CA alone."""


class _Segment:
    """The records of one virtual subnet."""

    __slots__ = ("by_ca", "by_mac", "hosts")

    def __init__(self) -> None:
        self.by_ca: dict[bytes, LookupRecord] = {}
        # The CA of a MAC, or all of them where there are several (a VM with both families).
        self.by_mac: dict[bytes, bytes | tuple[bytes, ...]] = {}
        # How many records each host holds at each of its provider addresses.
        self.hosts: dict[str, dict[ProviderAddress, int]] = {}

    def put(self, record: LookupRecord) -> bool:
        """Add a record, or replace one: whoever reads meanwhile finds either. Returns whether it is new."""
        old = self.by_ca.get(record.ca)
        self.by_ca[record.ca] = record
        if old is None or old.mac != record.mac:
            others = self.by_mac.get(record.mac)
            self.by_mac[record.mac] = record.ca if others is None else (*_all(others), record.ca)
        if old is None or (old.host, _at(old)) != (record.host, _at(record)):
            addresses = self.hosts.setdefault(record.host, {})
            addresses[_at(record)] = addresses.get(_at(record), 0) + 1
        if old is None:
            return True
        if old.mac != record.mac:
            self._forget_mac(old)
        if (old.host, _at(old)) != (record.host, _at(record)):
            self._forget_host(old)
        return False

    def remove(self, record: LookupRecord) -> None:
        del self.by_ca[record.ca]
        self._forget_mac(record)
        self._forget_host(record)

    def _forget_mac(self, record: LookupRecord) -> None:
        left = tuple(ca for ca in _all(self.by_mac[record.mac]) if ca != record.ca)
        if left:
            self.by_mac[record.mac] = left if len(left) > 1 else left[0]
        else:
            del self.by_mac[record.mac]

    def _forget_host(self, record: LookupRecord) -> None:
        addresses = self.hosts[record.host]
        addresses[_at(record)] -= 1
        if not addresses[_at(record)]:
            del addresses[_at(record)]
            if not addresses:
                del self.hosts[record.host]


def _all(cas: bytes | tuple[bytes, ...]) -> tuple[bytes, ...]:
    return cas if isinstance(cas, tuple) else (cas,)


def _at(record: LookupRecord) -> ProviderAddress:
    """By which of its host's addresses a record's VM is reached in NVGRE, if it is."""
    return record.pa if record.translation is Translation.ENCAP else _NONE


class Directory:
    """(VSID, CA) -> record or leases, (VSID, MAC) -> CAs, and provider address -> record or lease."""

    is_partial = False
    """Whether there may be records that it does not have, and has if they are asked for."""

    def __init__(self, records: Iterable[LookupRecord] = ()) -> None:
        self._segments: dict[int, _Segment] = {}
        self._holders: dict[bytes, Holder] = {}
        # Usually one each: several only where a tenant has several gateways.
        self._leases: dict[tuple[int, bytes], tuple[Lease, ...]] = {}
        self._subscribers: list[Callable[[Change], None]] = []
        self._count = 0
        for record in records:
            self.apply(Put(record))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[LookupRecord]:
        for segment in self._segments.values():
            yield from segment.by_ca.values()

    def apply(self, change: Change) -> None:
        """Make one change, and tell the subscribers. Deleting what is not there changes nothing."""
        match change:
            case Put(record):
                self._put(record)
            case Delete(vsid, ca):
                if not self._delete(vsid, ca):
                    return
            case PutLease(lease):
                self._put_lease(lease)
            case DeleteLease(pa):
                if not self._delete_lease(pa):
                    return
        for subscriber in self._subscribers:
            subscriber(change)

    def _put(self, record: LookupRecord) -> None:
        segment = self._segments.get(record.vsid)
        if segment is None:
            segment = self._segments[record.vsid] = _Segment()
        old = segment.by_ca.get(record.ca)
        self._count += segment.put(record)
        if record.translation is Translation.REWRITE and len(record.pa) == len(record.ca):
            # Where much has changed unseen, it may have been a gateway's, and that is told later.
            self._delete_lease(record.pa)
            self._holders[record.pa] = record
        if old is not None and (old.pa != record.pa or record.translation is not Translation.REWRITE):
            self._forget_holder(old)

    def _delete(self, vsid: Vsid, ca: bytes) -> bool:
        segment = self._segments.get(vsid)
        old = segment.by_ca.get(ca) if segment is not None else None
        if segment is None or old is None:
            return False
        segment.remove(old)
        self._count -= 1
        if not segment.by_ca:
            del self._segments[vsid]
        self._forget_holder(old)
        return True

    def _put_lease(self, lease: Lease) -> None:
        self._delete_lease(lease.pa)
        self._holders[lease.pa] = lease
        key = lease.vsid, lease.ca
        self._leases[key] = (*self._leases.get(key, ()), lease)

    def _delete_lease(self, pa: bytes) -> bool:
        lease = self._holders.get(pa)
        if not isinstance(lease, Lease):
            return False
        del self._holders[pa]
        key = lease.vsid, lease.ca
        left = tuple(each for each in self._leases[key] if each is not lease)
        if left:
            self._leases[key] = left
        else:
            del self._leases[key]
        return True

    def _forget_holder(self, record: LookupRecord) -> None:
        """Take a record's provider address for nobody's, unless it is another's by now."""
        held = self._holders.get(record.pa)
        if isinstance(held, LookupRecord) and (held.vsid, held.ca) == (record.vsid, record.ca):
            del self._holders[record.pa]

    def subscribe(self, subscriber: Callable[[Change], None]) -> None:
        """Have `subscriber` called with each later change, on the writer's thread."""
        self._subscribers.append(subscriber)

    def view(self) -> Directory:
        """Return the same records for reading alone, without leaving a trace of it."""
        view = Directory()
        view._segments, view._holders, view._leases = self._segments, self._holders, self._leases
        return view

    @property
    def has_holders(self) -> bool:
        """Whether any provider address stands for one CA alone."""
        return bool(self._holders)

    def holder(self, pa: bytes) -> Holder | None:
        """Return whose a provider address is that stands for one CA: a rewritten record's, or a lease."""
        return self._holders.get(pa)

    def leases(self, vsid: int, ca: bytes) -> tuple[Lease, ...]:
        """Return the provider addresses of gateways' pools that stand for a CA."""
        return self._leases.get((vsid, ca), ())

    def all_leases(self) -> Iterator[Lease]:
        """Each provider address of a gateway's pool that stands for a CA."""
        return (lease for leases in self._leases.values() for lease in leases)

    def find(self, vsid: int, ca: bytes) -> LookupRecord | None:
        """Return the record of a CA in octets, or None."""
        segment = self._segments.get(vsid)
        return segment.by_ca.get(ca) if segment is not None else None

    def of_subnet(self, vsid: int) -> list[LookupRecord]:
        """Return all records of a virtual subnet as they are now."""
        segment = self._segments.get(vsid)
        return list(segment.by_ca.values()) if segment is not None else []

    def find_by_mac(self, vsid: int, mac: bytes) -> tuple[LookupRecord, ...]:
        """Return all records of a MAC in octets; usually one for each family."""
        segment = self._segments.get(vsid)
        cas = segment.by_mac.get(mac) if segment is not None else None
        if segment is None or cas is None:
            return ()
        return tuple(segment.by_ca[ca] for ca in _all(cas))

    def find_of_mac(self, vsid: int, mac: bytes, ca: bytes) -> LookupRecord | None:
        """Return a record of a MAC: that of a CA, if the MAC has it, or else any."""
        record = self.find(vsid, ca)
        if record is not None and record.mac == mac:
            return record
        return next(iter(self.find_by_mac(vsid, mac)), None)

    def hosts(self, vsid: int) -> Iterator[tuple[str, tuple[ProviderAddress, ...]]]:
        """Each host with encapsulated VMs in a virtual subnet, and the provider addresses that reach them."""
        segment = self._segments.get(vsid)
        if segment is not None:
            for host, addresses in segment.hosts.items():
                if reachable := tuple(address for address in addresses if address != _NONE):
                    yield host, reachable

    def held(self) -> dict[tuple[int, str], int]:
        """How many records each host holds in each virtual subnet where it holds any, by VSID and name."""
        return {
            (vsid, host): sum(addresses.values())
            for vsid, segment in self._segments.items()
            for host, addresses in segment.hosts.items()
        }


def changes_between(before: Directory, after: Directory) -> list[Change]:
    """Return what turns one directory's records into another's."""
    deleted: list[Change] = [
        Delete(record.vsid, record.ca) for record in before if after.find(record.vsid, record.ca) is None
    ]
    return deleted + [Put(record) for record in after if before.find(record.vsid, record.ca) != record]


def configured_directory(appliance: Appliance) -> Directory:
    """The records that a configuration alone gives: the static ones, and those of this host's own ports."""
    directory = Directory(record for tenant in appliance.network.tenants for record in tenant.records)
    if appliance.host is not None and appliance.underlay is not None:
        for port in appliance.host.ports_in(appliance.network):
            for ca in port.addresses:
                # A static record is pinned and wins; the configuration's checks have compared the two.
                if directory.find(port.vsid, ca) is None:
                    own = appliance.underlay.provider_addresses[0]
                    directory.apply(Put(LookupRecord(port.vsid, ca, port.mac, own, appliance.host.name)))
    return directory
