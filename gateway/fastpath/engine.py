"""The fast path of one node: a program that carries what it can decide, kept to what Python decides by.

Python stays what decides. Whatever the program has not been told of, or is just being told of, it leaves to
Python, so nothing here has to happen before a packet comes. What must not happen is that it goes
on by what Python has given up: a record is written at once, by whoever changes the directory; a tenant
whose tables change is left to Python first, until all of it is written anew.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Self

import msgspec
import trio

from gateway.fastpath import attaching
from gateway.fastpath.attaching import Links
from gateway.fastpath.counts import Totals
from gateway.fastpath.features import Features
from gateway.fastpath.grace import wait_for_readers
from gateway.fastpath.images import TenantImage, images_of
from gateway.fastpath.instance import Instance
from gateway.fastpath.kernel import BpfRefused
from gateway.fastpath.layout import CARRIES, TEACHES, VSIDS
from gateway.fastpath.peers import owners_of
from gateway.fastpath.reaching import Reaching
from gateway.fastpath.records import blocks_of, for_each_record, sizes_for
from gateway.fastpath.returning import Returning, come_back
from gateway.fastpath.sizes import Full, Sizes
from gateway.fastpath.status import MOST_TOLD, FastPathStatus
from gateway.forwarding.directory import Change, Delete, Put
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
from gateway.operating.report import DETACHED
from policies.addresses import ProviderAddress
from policies.model import FastPathSettings, LookupRecord
from policies.tables import Tables

log = logging.getLogger("isthmus")

# Most networks never need more. More is made room for as a network is adopted, or grows.
_AT_FIRST = Sizes(
    ipv4_records=16_384,
    ipv4_blocks=256,
    ipv6_records=8_192,
    subnets=1024,
    tenants=256,
    peers=1024,
    rules=4096,
    routes=4096,
)

_OBSERVED = "somebody captures its packets"

# Seconds until it is tried again to make room.
_TRY_AGAIN = 60.0

# Times what there is: so much room is made at most, where more comes while it is made.
_MOST_ROOM = 16


class Plan(msgspec.Struct, frozen=True, eq=False):
    """Tables to come, and which tenants they change for the program."""

    tables: Tables
    node: Node
    images: Mapping[str, TenantImage]
    changed: tuple[str, ...]
    gone: tuple[str, ...]


class FastPath:
    """What Builtin drives: it attaches, adopts, hears of changes and counts."""

    def __init__(
        self,
        instance: Instance,
        links: Links,
        found: Features,
        load: Callable[[Sizes], Instance] | None = None,
    ) -> None:
        """`load` makes the instances that take the place of the first one."""
        self._load = load or _load
        self._instances = [instance]
        """What is attached comes first; one that is to take its place is written meanwhile too."""
        self._links = links
        self._images: Mapping[str, TenantImage] = {}
        self._observed: Collection[str] | None = frozenset()
        self._crowded = trio.Event()
        self.reaching = Reaching(self._instances, found.interfaces, self._crowd)
        self._writing = trio.Lock()
        self._teaches = False
        self._unwritten: set[str] = set()
        """Tenants that have changed, and of which the program has only what they were."""
        self._is_ours = not links.are_taken_over
        self._is_written = False
        """Whether the program knows all tenants: what it does not know, it drops as nobody's."""
        self._totals = Totals()
        self._totals.begin(instance.counts)

    @classmethod
    def open(cls, name: str, found: Features, settings: FastPathSettings) -> Self:
        """Load the program and attach it: it leaves everything to Python yet. Raises BpfRefused.

        This blocks for some hundred milliseconds.
        """
        instance = _load(_AT_FIRST)
        try:
            links = attaching.attach(instance.program, name, found, settings)
        except BaseException:
            instance.close()
            raise
        return cls(instance, links, found)

    async def serve(
        self, forwarder: Forwarder, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep the program to what a forwarder decides by, until cancelled: then detach it, unless pinned."""
        self.follow(forwarder)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.reaching.serve)
                nursery.start_soon(self._grow)
                nursery.start_soon(Returning(self._links, self._heed_links, self._come_back).serve)
                task_status.started()
        finally:
            self._links.close()
            for instance in self._instances:
                instance.close()

    def follow(self, forwarder: Forwarder) -> None:
        """Hear of all that changes in a forwarder's directory. It is still to `change` to its tables."""
        self._forwarder = forwarder
        self._totals.follow(forwarder)
        forwarder.directory.subscribe(self._changed)
        self._tables, self._node = forwarder.tables, forwarder.node
        self.reaching.follow(self._tables, self._node, forwarder.paths)
        self.reaching.settle(self._instances[0])

    def plan(self, tables: Tables, node: Node) -> Plan:
        """Find out what other tables mean for the program. It changes nothing, and may take its time."""
        images = images_of(tables, node)
        return Plan(
            tables=tables,
            node=node,
            images=images,
            changed=tuple(
                name
                for name, image in images.items()
                if self._images.get(name) != image or name in self._unwritten
            ),
            gone=tuple((self._images.keys() | self._unwritten) - images.keys()),
        )

    @asynccontextmanager
    async def change(self, tables: Tables, node: Node) -> AsyncIterator[None]:
        """Leave to Python what other tables change, have it decide by them, and carry by them.

        Python changes within, where nothing may wait. Nothing grows meanwhile: that would go by both.
        """
        async with self._writing:
            plan = await trio.to_thread.run_sync(self.plan, tables, node)
            await self._leave(plan)
            yield
            await self._take_over(plan)

    async def _leave(self, plan: Plan) -> None:
        """Have no packet go by the old tables of what a plan changes, and all be counted that has."""
        self._unwritten.update(plan.changed, plan.gone)
        for instance in self._instances:
            for name in (*plan.changed, *plan.gone):
                instance.leave(name)
            if not instance.leave_new(vsid for name in plan.changed for vsid, _ in plan.images[name].vsids):
                self._is_written = False
                self._switch()
        if plan.gone or any(name in self._images for name in plan.changed):
            await wait_for_readers()
        self.count()

    async def _take_over(self, plan: Plan) -> None:
        """Carry packets by a plan's tables, by which Python decides."""
        observed = self._observed
        self._tables, self._node, self._images = plan.tables, plan.node, plan.images
        self.reaching.watch(self._tables, self._node)
        try:
            if not self._is_ours:
                raise Full
            await self._write(self._instances[0], plan)
            self._all_is_written(observed)
        except Full:
            if not await self._replace():
                if self._knows_too_few():
                    self._is_written = False
                    self._switch()
                self._crowded.set()
                if not self._is_ours:
                    await self._leave_all()

    def _all_is_written(self, observed: Collection[str] | None) -> None:
        """Carry what has been written, and heed what has come to be looked at since the writing began."""
        unwritten, self._unwritten = self._unwritten, set()
        for name in unwritten if self._observed is not observed else ():
            if self._instances[0].knows(name):
                self._instances[0].carry(name, is_carried=not self._is_observed(name))
        self._is_written = True
        self._switch()

    def _knows_too_few(self) -> bool:
        """Whether the program would drop as nobody's what Python knows: it has found no room for that."""
        instance = self._instances[0]
        vsids = (vsid for image in self._images.values() for vsid, _ in image.vsids)
        return any(instance.peers.find(address) is None for address in owners_of(self._tables)) or any(
            instance.places.find(VSIDS, vsid, 0) is None for vsid in vsids
        )

    async def _leave_all(self) -> None:
        """Leave everything to Python where an earlier process's program would go on by what that was told."""
        program = self._instances[0].program
        try:
            await trio.to_thread.run_sync(self._links.replace, program, program)
        except BpfRefused as refused:
            log.error("what is pinned cannot be replaced: %s", refused, extra={"event": "fastpath"})
        else:
            self._is_ours = True

    def teach(self) -> None:
        """Have some packets passed on from now on, so that their senders are taught."""
        self._teaches = True
        self._switch()

    def observe(self, tenants: Collection[str] | None) -> None:
        """Leave these tenants to Python, or for None all, because somebody looks at their packets."""
        before = {name for name in self._images if self._is_observed(name)}
        self._observed = tenants
        after = {name for name in self._images if self._is_observed(name)}
        for name in (before ^ after) - self._unwritten:
            for instance in self._instances:
                if instance.knows(name):
                    instance.carry(name, is_carried=name not in after)

    def path_changed(self, address: bytes) -> None:
        """Heed that the path to an address carries less, or more again."""
        self.reaching.path_changed(ProviderAddress(address))

    def debit(self, tenant: str, octets: int) -> bool | None:
        """Take octets of a tenant's rate from the one bucket; None: the program does not carry it."""
        return self._instances[0].debit(tenant, octets)

    def count(self) -> None:
        """Bring what the program has counted to where Python counts."""
        self._totals.take()

    @property
    def in_words(self) -> str:
        """Where it is attached, and how."""
        modes = dict.fromkeys(each.mode.value for each in self._links.attached if each.is_there)
        return f"({'pinned, ' if self._links.pinned else ''}{', '.join(modes) or DETACHED})"

    def status(self) -> FastPathStatus:
        """How it is now."""
        instance = self._instances[0]
        left = {
            name: image.left_because or _OBSERVED
            for name, image in self._images.items()
            if image.left_because or self._is_observed(name)
        }
        return FastPathStatus(
            interfaces=self._links.attached,
            pinned=self._links.pinned,
            records=instance.records,
            capacity=instance.capacity,
            without_place=instance.without_place,
            tenants=len(self._images) - len(left),
            left_to_python=left,
            hops=self.reaching.status(MOST_TOLD),
            carried=self._totals.carried,
            passed=dict(self._totals.passed),
        )

    def _changed(self, change: Change) -> None:
        match change:
            case Put(record):
                for instance in self._instances:
                    instance.put(record, self._tables, self._node)
                    if instance.is_crowded:
                        self._crowded.set()
            case Delete(vsid, ca):
                for instance in self._instances:
                    instance.remove(vsid, ca)

    async def _write(self, instance: Instance, plan: Plan) -> None:
        """Write what a plan changes. Raises Full."""
        directory = self._forwarder.directory
        await self.reaching.write(instance)
        before = {name: instance.numbers_of(name) for name in (*plan.changed, *plan.gone)}
        for name in plan.changed:
            instance.write(plan.images[name])
        # Not before: what was theirs may be another's by now, and its packets are no stranger's.
        for name in plan.gone:
            instance.forget(name)
        instance.forget_all_but({vsid for image in plan.images.values() for vsid, _ in image.vsids})
        await self._carry(instance, plan.changed)
        old = [numbers for numbers in before.values() if numbers is not None]
        for number, vsids in old:
            await for_each_record(directory, vsids, partial(_clear, instance, number))
        if old:
            await wait_for_readers()
        for number, _ in old:
            instance.give_up(number)

    async def _carry(self, instance: Instance, tenants: Iterable[str]) -> None:
        """Write the records of tenants that are written themselves, and carry their packets. Raises Full."""

        def put(record: LookupRecord) -> None:
            instance.put(record, self._tables, self._node)
            if instance.without_place:
                raise Full

        directory = self._forwarder.directory
        for name in tenants:
            image = self._images[name]
            if not image.left_because:
                for vsid, _ in image.vsids:
                    prefixes, _ = await blocks_of(directory.of_subnet(vsid))
                    instance.expect(vsid, prefixes)
                await for_each_record(directory, (vsid for vsid, _ in image.vsids), put)
            instance.carry(name, is_carried=not self._is_observed(name))
            await trio.lowlevel.checkpoint()

    async def _grow(self) -> None:
        while True:
            await self._crowded.wait()
            async with self._writing:
                has_room = await self._replace(room_for=1.5)
                # What was full has said so until the end.
                self._crowded = trio.Event()
            if not has_room:
                await trio.sleep(_TRY_AGAIN)
                self._crowded.set()

    async def _replace(self, room_for: float = 1.0) -> bool:
        """Put another instance in place of the present one, with room for so many times what there is.

        False: refused.
        """
        while room_for <= _MOST_ROOM:
            try:
                return await self._replace_once(room_for)
            except Full:
                # More has come than there was when it was measured.
                room_for *= 2
        log.error("the fast path could not be made large enough", extra={"event": "fastpath"})
        return False

    async def _replace_once(self, room_for: float) -> bool:
        """Put another instance in place of the present one; False: refused. Raises Full."""
        peers = len(owners_of(self._tables))
        sizes = await sizes_for(self._images, self._forwarder.directory, peers, room_for)
        try:
            instance = await trio.to_thread.run_sync(self._load, sizes)
        except BpfRefused as refused:
            log.error(
                "the fast path has no room for what it should carry: %s", refused, extra={"event": "fastpath"}
            )
            return False
        old, observed = self._instances[0], self._observed
        self._instances.append(instance)
        self._totals.begin(instance.counts)
        try:
            self.reaching.settle(instance)
            await self.reaching.write(instance)
            for image in self._images.values():
                instance.write(image)
            await self._carry(instance, self._images)
            instance.take_debts(old)
            instance.switch(self._flags())
            await trio.to_thread.run_sync(self._links.replace, instance.program, old.program)
        except BaseException as error:
            self._instances.remove(instance)
            self._totals.end(instance.counts)
            instance.close()
            if not isinstance(error, BpfRefused):
                raise
            log.error("the fast path could not be made larger: %s", error, extra={"event": "fastpath"})
            return False
        self._instances.remove(old)
        self._is_ours = True
        self._all_is_written(observed)
        await wait_for_readers()
        self._totals.end(old.counts)
        old.close()
        return True

    async def _come_back(self, interface: str, index: int) -> bool:
        """Attach it to an interface that it is off; False: that is not ready. Raises BpfRefused."""
        self.reaching.moved(interface, index)
        least = self._forwarder.paths.underlay_mtu
        # No other program takes the present one's place meanwhile.
        async with self._writing:
            program = self._instances[0].program
            try:
                found = await trio.to_thread.run_sync(
                    come_back, self._links, program, interface, index, least
                )
                if found is not None:
                    self.reaching.came_back(found)
            finally:
                self._heed_links()
        return found is not None

    def _crowd(self) -> None:
        self._crowded.set()

    def _heed_links(self) -> None:
        self.reaching.attached(self._links.indices)

    def _is_observed(self, tenant: str) -> bool:
        return self._observed is None or tenant in self._observed

    def _flags(self) -> int:
        return CARRIES | (TEACHES if self._teaches else 0) if self._is_written else 0

    def _switch(self) -> None:
        for instance in self._instances:
            instance.switch(self._flags())


def _load(sizes: Sizes) -> Instance:
    return Instance.load(sizes, secrets.randbits(64))


def _clear(instance: Instance, number: int, record: LookupRecord) -> None:
    instance.clear(number, record.ca)
