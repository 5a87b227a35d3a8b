"""One program in the kernel with its tables: what it has been told, and by which numbers it knows that.

A tenant that changes gets new numbers, for itself and its subnets, and its VSIDs lead to those only once
all of it is written: so no packet is decided half by the old and half by the new. Numbers are not given
twice. Where they, or the room for something else, come to an end, another instance takes this one's place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Self

import msgspec

from gateway.fastpath import elf, kernel
from gateway.fastpath.blocks import Ipv4Records
from gateway.fastpath.counts import Counts
from gateway.fastpath.images import TenantImage, is_carried, packed_routes, packed_rules
from gateway.fastpath.layout import (
    BLOCK_WORDS,
    COST_SHIFT,
    HAS_RULES,
    INTERFACE,
    INTERFACES,
    IS_CARRIED,
    IS_LIMITED,
    NOBODYS,
    OUTCOMES,
    OWN_ADDRESSES,
    RULE_OCTETS,
    SETTINGS,
    SETTINGS_INTERFACES_AT,
    SETTINGS_IPV4_AT,
    SETTINGS_IPV6_AT,
    SUBNET,
    TENANT,
    VSIDS,
    scope_of,
    words_of,
)
from gateway.fastpath.peers import HOPS_EACH, PeerTable
from gateway.fastpath.places import Ipv4Places, Place, Places
from gateway.fastpath.sizes import Full, Sizes
from gateway.forwarding.node import Node
from policies.addresses import Vsid
from policies.model import LookupRecord
from policies.tables import Tables

OBJECT = Path(__file__).with_name("nvgre.bpf.o")

# So that what a packet of 64 KiB costs has room in a word: below 60 bit/s, a rate is taken for that.
_DEAREST = 1 << 47
_LONGEST = 1 << 63  # nanoseconds

_FULL_ENOUGH = 0.93


class _Tenant(msgspec.Struct):
    """What is known of a tenant by its present numbers."""

    number: int
    image: TenantImage
    rules: tuple[int, int] = (0, 0)
    """How many, and the first."""


class _Subnet(msgspec.Struct, frozen=True):
    """A virtual subnet's present number, and whose it is."""

    number: int
    tenant: _Tenant


class Instance:
    """Tables that one program decides by. They are written on the trio thread alone."""

    def __init__(self, loaded: kernel.Loaded, sizes: Sizes, seed: int) -> None:
        self._loaded = loaded
        self._memory = {
            name: loaded.maps[name].memory()
            for name in (
                "config",
                "places",
                "ipv4_places",
                "ipv4_blocks",
                "subnets",
                "tenants",
                "peers",
                "hops",
                "rules",
                "meters",
                "counts",
            )
        }
        self.sizes = sizes
        self._scopes = [NOBODYS]
        self.places = Places(self._memory["places"].cast("Q"), seed)
        self.ipv4_places = Ipv4Places(self._memory["ipv4_places"].cast("Q"), seed, self._scopes)
        self.peers = PeerTable(self._memory["peers"], self._memory["hops"], self.places, sizes.peers)
        self.ipv4 = Ipv4Records(self.ipv4_places, self._memory["ipv4_blocks"].cast("Q"), self._scopes)
        self.without_place = 0
        """Records that it would decide by, and that found no place."""
        self._seed = seed
        self._tenants: dict[str, _Tenant] = {}
        self._subnets: dict[Vsid, _Subnet] = {}
        self._given = dict.fromkeys(("subnets", "tenants", "rules"), 0)
        self._request = bytearray(16)
        self._ports: dict[int, int] = {}
        self.counts = Counts(
            self._memory["counts"],
            self._memory["meters"],
            kernel.possible_cpus(),
            sizes.tenants,
            sizes.subnets,
        )

    @classmethod
    def load(cls, sizes: Sizes, seed: int) -> Self:
        """Load the program, with room for so much. It is attached nowhere. Raises BpfRefused."""
        processors = kernel.possible_cpus()
        room = {
            "places": sizes.buckets,
            "ipv4_places": sizes.ipv4_buckets,
            "ipv4_blocks": sizes.ipv4_blocks,
            "subnets": sizes.subnets,
            "tenants": sizes.tenants,
            "peers": sizes.peers,
            "hops": sizes.peers * HOPS_EACH,
            "rules": sizes.rules,
            "routes": sizes.routes,
            "meters": sizes.subnets * processors,
            "counts": sizes.tenants * OUTCOMES * processors,
            "tenant_debts": sizes.tenants,
            "peer_debts": sizes.peers,
        }
        loaded = kernel.load(elf.read_object(OBJECT.read_bytes()), room)
        try:
            return cls(loaded, sizes, seed)
        except BaseException:
            loaded.close()
            raise

    @property
    def program(self) -> int:
        """The file descriptor of what is to be attached."""
        return self._loaded.programs["nvgre"]

    def close(self) -> None:
        """Give it up. Where it is attached it goes on, as long as that lasts."""
        self._loaded.close()

    def settle(self, node: Node, interfaces: Mapping[int, bytes]) -> None:
        """Say what is ours: addresses, and interfaces with their MACs, by index, which is the order of ports.

        What is beyond its room is left to Python.
        """
        memory = self._memory["config"]
        ipv4 = [each for each in node.provider_addresses if len(each) == 4][:OWN_ADDRESSES]
        ipv6 = [each for each in node.provider_addresses if len(each) == 16][:OWN_ADDRESSES]
        self._write(SETTINGS_IPV4_AT, b"".join(ipv4))
        self._write(SETTINGS_IPV6_AT, b"".join(ipv6))
        self._ports = {}
        for number, (index, mac) in enumerate(list(interfaces.items())[:INTERFACES]):
            try:
                self._loaded.maps["ports"].update(number.to_bytes(4, "little"), index.to_bytes(4, "little"))
            except kernel.BpfRefused:
                continue  # it is gone: nothing comes from there, and Python says what cannot be sent there
            self._write(SETTINGS_INTERFACES_AT + INTERFACE.size * number, INTERFACE.pack(index, mac))
            self._ports[index] = number
        flags = memory.cast("I")[0]
        sizes = (
            self.places.buckets,
            self._seed,
            self.ipv4_places.buckets,
            self.sizes.subnets,
            self.sizes.tenants,
        )
        self._write(0, SETTINGS.pack(flags, *sizes, len(ipv4), len(ipv6)))

    def _write(self, at: int, octets: bytes) -> None:
        """Write to the settings, but touch nothing that stays: packets are decided meanwhile."""
        memory = self._memory["config"]
        if memory[at : at + len(octets)] != octets:
            memory[at : at + len(octets)] = octets

    def switch(self, flags: int) -> None:
        """Have it carry packets (CARRIES) and pass some on for teaching (TEACHES), or neither."""
        self._memory["config"].cast("I")[0] = flags

    def port_of(self, interface: int) -> int | None:
        """The number by which the program sends out of an interface; None: it cannot."""
        return self._ports.get(interface)

    def leave(self, tenant: str) -> None:
        """Leave a tenant's packets to Python from now on."""
        known = self._tenants.get(tenant)
        if known is not None:
            self._write_tenant(known, 0)

    def leave_new(self, vsids: Iterable[Vsid]) -> bool:
        """Leave the packets of VSIDs to Python that nobody has had: they are not for this program to drop.

        False: it would, as it has no room for one of them.
        """
        new = [vsid for vsid in vsids if vsid not in self._subnets]
        return all(self.places.put(VSIDS, vsid, 0, Place(0, 0)) for vsid in new)

    def write(self, image: TenantImage) -> None:
        """Write a tenant by new numbers, which no packet is decided by yet. Raises Full."""
        number = self._next("tenants", self.sizes.tenants)
        known = _Tenant(number, image)
        subnets: dict[Vsid, int] = {}
        for vsid, _ in image.vsids:
            subnet = subnets[vsid] = self._next("subnets", self.sizes.subnets)
            SUBNET.pack_into(self._memory["subnets"], SUBNET.size * subnet, vsid, number)
            self._scopes.append(scope_of(number))
            self.counts.subnets[subnet] = vsid
        self.counts.tenants[number] = image.name
        if not image.left_because:
            names = {name: subnets[vsid] for vsid, name in image.vsids}
            packed = list(packed_rules(image.rules, names))
            first = self._next("rules", self.sizes.rules, len(packed))
            known.rules = len(packed), first
            for each, rule in enumerate(packed, first):
                self._memory["rules"][RULE_OCTETS * each : RULE_OCTETS * (each + 1)] = rule
            self._put_routes(image, number)
        before = self._tenants.get(image.name)
        if before is not None and before.image.limits == image.limits:
            self._copy_debts(self, before.number, number)
        self._write_tenant(known, 0)
        self._tenants[image.name] = known
        self._subnets.update((vsid, _Subnet(subnet, known)) for vsid, subnet in subnets.items())

    def carry(self, tenant: str, *, is_carried: bool = True) -> None:
        """Have a tenant's packets decided by what has been written last, or by Python. Raises Full."""
        known = self._tenants[tenant]
        self._write_tenant(known, IS_CARRIED if is_carried and not known.image.left_because else 0)
        for vsid in self._vsids_of(known):
            place = Place(0, self._subnets[vsid].number)
            if self.places.find(VSIDS, vsid, 0) != place and not self.places.put(VSIDS, vsid, 0, place):
                raise Full

    def forget(self, tenant: str) -> None:
        """Have a tenant that is no more known by nothing."""
        known = self._tenants.pop(tenant, None)
        if known is None:
            return
        self._forget(self._vsids_of(known))

    def forget_all_but(self, vsids: Collection[Vsid]) -> None:
        """Have each other VSID be nobody's."""
        self._forget(self._subnets.keys() - set(vsids))

    def _forget(self, vsids: Iterable[Vsid]) -> None:
        for vsid in vsids:
            del self._subnets[vsid]
            self.places.remove(VSIDS, vsid, 0)

    def _vsids_of(self, tenant: _Tenant) -> list[Vsid]:
        """Those of a tenant's that have not become another's since."""
        return [
            vsid
            for vsid, _ in tenant.image.vsids
            if (subnet := self._subnets.get(vsid)) is not None and subnet.tenant is tenant
        ]

    def expect(self, vsid: Vsid, prefixes: Iterable[int]) -> None:
        """Have blocks ready for prefixes of a virtual subnet, as `blocks_for` has them."""
        subnet = self._subnets.get(vsid)
        if subnet is not None:
            self.ipv4.expect(subnet.number, prefixes)

    def put(self, record: LookupRecord, tables: Tables, node: Node) -> None:
        """Take a record over, or forget what was there, if the program may not decide by it."""
        subnet, entry = self._subnets.get(record.vsid), tables.subnets.get(record.vsid)
        if subnet is None or entry is None:
            return
        peer = self.peers.find(record.pa)
        if (
            subnet.tenant.image.left_because
            or peer is None
            or not is_carried(record, entry.domain, tables, node)
        ):
            self.remove(record.vsid, record.ca)
            return
        place = Place(subnet.number, peer, int.from_bytes(record.mac, "little"))
        first, second = words_of(record.ca)
        if len(record.ca) == 4:
            is_placed = self.ipv4.put(first, place)
        else:
            is_placed = self.places.put(scope_of(subnet.tenant.number, is_ipv6=True), first, second, place)
        self.without_place += not is_placed

    def remove(self, vsid: Vsid, ca: bytes) -> None:
        """Forget a record, unless the CA is in another of its tenant's subnets by now."""
        subnet = self._subnets.get(vsid)
        if subnet is None:
            return
        first, second = words_of(ca)
        if len(ca) == 4:
            scope = scope_of(subnet.tenant.number)
            place = self.ipv4.find(scope, first)
            if place is not None and place.subnet == subnet.number:
                self.ipv4.remove(scope, first)
            return
        scope = scope_of(subnet.tenant.number, is_ipv6=True)
        place = self.places.find(scope, first, second)
        if place is not None and place.subnet == subnet.number:
            self.places.remove(scope, first, second)

    def knows(self, tenant: str) -> bool:
        """Whether a tenant has been written here."""
        return tenant in self._tenants

    def clear(self, number: int, ca: bytes) -> None:
        """Give the place of a record back that a tenant had by an earlier number."""
        first, second = words_of(ca)
        if len(ca) == 4:
            self.ipv4.remove(scope_of(number), first)
        else:
            self.places.remove(scope_of(number, is_ipv6=True), first, second)

    def give_up(self, number: int) -> None:
        """Give back the blocks that a tenant had by an earlier number, once no packet is decided by that."""
        self.ipv4.give_up(scope_of(number))

    def numbers_of(self, tenant: str) -> tuple[int, tuple[Vsid, ...]] | None:
        """By which number a tenant is known now, and its virtual subnets."""
        known = self._tenants.get(tenant)
        return (known.number, tuple(vsid for vsid, _ in known.image.vsids)) if known is not None else None

    def take_debts(self, other: Instance) -> None:
        """Let nobody have a full burst because another instance takes over."""
        for name, known in self._tenants.items():
            before = other._tenants.get(name)
            if before is not None and before.image.limits == known.image.limits is not None:
                self._copy_debts(other, before.number, known.number)

    @property
    def records(self) -> int:
        """How many the program finds."""
        return len(self.ipv4) + len(self.places) - len(self.peers) - len(self._subnets)

    @property
    def capacity(self) -> int:
        """How many it could find, if they are spread as they were expected to be."""
        return self.sizes.ipv4_records + self.sizes.ipv4_blocks * BLOCK_WORDS + self.sizes.ipv6_records

    @property
    def is_crowded(self) -> bool:
        """Whether another one should have more room."""
        return (
            self.without_place > 0
            or len(self.ipv4_places) > self.ipv4_places.capacity * _FULL_ENOUGH
            or len(self.places) > self.places.capacity * _FULL_ENOUGH
        )

    def debit(self, tenant: str, octets: int) -> bool | None:
        """Take octets of a limited tenant's rate, or give them back where they are negative.

        None: the program does not know the tenant.
        """
        known = self._tenants.get(tenant)
        if known is None or known.image.limits is None:
            return None
        self._request[:] = (
            known.number.to_bytes(4, "little") + octets.to_bytes(4, "little", signed=True) + bytes(8)
        )
        kernel.run(self._loaded.programs["debit"], self._request)
        return bool(self._request[8])

    def _next(self, what: str, room: int, count: int = 1) -> int:
        """Return the next number; never 0, which stands for nothing. Raises Full."""
        number = self._given[what] + 1
        if number + count > room:
            raise Full(what)
        self._given[what] += count
        return number

    def _copy_debts(self, other: Instance, number: int, own_number: int) -> None:
        owed = other._loaded.maps["tenant_debts"].lookup(number.to_bytes(4, "little"))
        if owed is not None:
            self._loaded.maps["tenant_debts"].update(own_number.to_bytes(4, "little"), owed)

    def _write_tenant(self, known: _Tenant, flags: int) -> None:
        limits = known.image.limits
        flags |= HAS_RULES if known.image.rules else 0
        cost = burst = 0
        if limits is not None:
            flags |= IS_LIMITED
            cost = min((8_000_000_000 << COST_SHIFT) // limits.rate, _DEAREST)
            burst = min(limits.burst * cost >> COST_SHIFT, _LONGEST)
        count, first = known.rules
        at = TENANT.size * known.number
        words = TENANT.pack(flags, count, first, 0, cost, burst)
        self._memory["tenants"][at + 8 : at + TENANT.size] = words[8:]
        self._memory["tenants"].cast("Q")[at // 8] = flags | count << 32

    def _put_routes(self, image: TenantImage, tenant: int) -> None:
        for key, route in packed_routes(image, tenant):
            try:
                self._loaded.maps["routes"].update(key, route)
            except kernel.BpfRefused as refused:
                raise Full("routes") from refused
