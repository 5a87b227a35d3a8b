"""The fast path of one gateway without interfaces: its engine writes the tables, single frames are run."""

from __future__ import annotations

import ctypes
import functools
import random
import struct
from types import TracebackType
from typing import Self

from gateway.fastpath import kernel
from gateway.fastpath.blocks import Ipv4Records
from gateway.fastpath.counts import Metered as Counted
from gateway.fastpath.engine import FastPath
from gateway.fastpath.features import Feature, Features, Interface
from gateway.fastpath.hops import NextHop
from gateway.fastpath.instance import Instance
from gateway.fastpath.sizes import Sizes
from gateway.fastpath.status import Attached
from gateway.forwarding.drops import DropReason
from gateway.forwarding.pipeline import Forwarder
from policies.addresses import ProviderAddress
from policies.tables import Tables
from tests.fastpath.scenes import OWN_MACS
from tests.properties.agreement import Metered, Ran
from tests.properties.wire import INTERFACE

LOOPBACK = 1
"""Trial runs are as if by this interface: the number is that of every network namespace's own."""

SIZES = Sizes(
    ipv4_records=512,
    ipv4_blocks=4,
    ipv6_records=512,
    subnets=128,
    tenants=14,
    peers=64,
    rules=512,
    routes=512,
)
"""Enough for any world, and so little that it does not last for ever."""

_MMAPABLE = 1 << 10
_MAP_UPDATE_BATCH = 26


class Processor:
    """The program, loaded once, since it takes the kernel seconds to verify. Its tables can be emptied."""

    def __init__(self) -> None:
        """Load it. Raises BpfRefused."""
        self._first = Instance.load(SIZES, 0)
        self._loaded = self._first._loaded
        self._routes = _Remembered(self._loaded.maps["routes"])
        self._loaded.maps["routes"] = self._routes

    def close(self) -> None:
        self._first.close()

    def emptied(self, seed: int) -> Instance:
        """Return an instance with nothing in its tables. The one before is no longer to be used."""
        for name, each in self._loaded.maps.items():
            definition = each.definition
            if definition.flags & _MMAPABLE:
                memory = each.memory()
                memory[:] = bytes(len(memory))
            elif name.endswith("_debts") or name == "taught":
                _empty(each)
        self._routes.forget()
        return _Lasting(self._loaded, SIZES, seed)


def _empty(array: kernel.Map) -> None:
    """Set every value to zero in one call, as there are many thousand."""
    count = array.definition.max_entries
    keys = ctypes.create_string_buffer(_numbers(count), count * 4)
    values = ctypes.create_string_buffer(count * array.definition.value_size)
    batch = struct.pack(
        "=QQQQIIQQ", 0, 0, ctypes.addressof(keys), ctypes.addressof(values), count, array.fd, 0, 0
    )
    kernel.call(_MAP_UPDATE_BATCH, bytearray(batch), "emptying a map")


@functools.cache
def _numbers(count: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in range(count))


class _Lasting(Instance):
    """One whose program is used again."""

    def close(self) -> None:
        pass


class _Remembered(kernel.Map):
    """A map that can be emptied."""

    def __init__(self, of: kernel.Map) -> None:
        super().__init__(of.fd, of.definition)
        self._keys: set[bytes] = set()

    def update(self, key: bytes, value: bytes) -> None:
        super().update(key, value)
        self._keys.add(key)

    def forget(self) -> None:
        while self._keys:
            self.delete(self._keys.pop())


# The worlds are small: few addresses side by side have to do for a block to be made.
Ipv4Records.enough = 2


class _NoLinks:
    """What would be attached."""

    indices = (LOOPBACK,)
    attached: tuple[Attached, ...] = ()
    pinned = False
    are_taken_over = False

    def __init__(self, program: int) -> None:
        self.program = program
        self.replaced = 0

    def replace(self, program: int, before: int) -> None:
        self.program = program
        self.replaced += 1

    def close(self) -> None:
        pass


_FEATURES = Features((), (Interface(INTERFACE, LOOPBACK, 1500, OWN_MACS[INTERFACE]),), Feature("none", ""))


class Machine:
    """A gateway's fast path, and the forwarder that it follows. Use it within one trio run."""

    def __init__(self, processors: Processors, forwarder: Forwarder) -> None:
        instance = processors.next()
        self._links = _NoLinks(instance.program)
        load = processors.load
        self.fast = FastPath(instance, self._links, _FEATURES, load)  # type: ignore[arg-type]  # no links
        self.forwarder = forwarder
        self.fast.follow(forwarder)
        forwarder.shares.debit = self.fast.debit

    async def start(self) -> None:
        """Take over what the forwarder decides by."""
        async with self.fast.change(self.forwarder.tables, self.forwarder.node):
            pass

    async def replace_tables(self, tables: Tables) -> None:
        """Have both decide by other tables, as Builtin does."""
        async with self.fast.change(tables, self.forwarder.node):
            self.forwarder.replace_tables(tables)

    def reach(self, address: ProviderAddress, mac: bytes | None) -> None:
        """Have a provider address be reached by a neighbour, or not at all."""
        hop = NextHop(LOOPBACK, OWN_MACS[INTERFACE], mac) if mac is not None else None
        self.fast.reaching.reached(address, hop)

    def is_left(self, tenant: str) -> bool:
        """Whether all of a tenant's packets are left to Python."""
        return self.fast._is_observed(tenant) or bool(self.fast._images[tenant].left_because)

    @property
    def replaced(self) -> int:
        """How often another instance has taken over."""
        return self._links.replaced

    @property
    def hops(self) -> dict[ProviderAddress, NextHop]:
        """By which neighbours the provider addresses are reached."""
        return self.fast.reaching.known

    def run(self, frame: bytes) -> Ran:
        """Run the program on a frame."""
        ran = kernel.test_run(self._links.program, frame)
        counted: list[tuple[str, str]] = []
        metered: Metered = {}

        def dropped(reason: DropReason, tenant: str, more: int) -> None:
            counted.extend([(reason.value, tenant)] * more)

        def carried(change: Counted) -> None:
            metered[change.vsid] = (
                change.sent_packets,
                change.sent_octets,
                change.received_packets,
                change.received_octets,
            )

        for instance in self.fast._instances:
            before = instance.counts.passed.copy()
            instance.counts.take(dropped, carried)
            for reason, more in (instance.counts.passed - before).items():
                counted.extend([(reason, "")] * more)
        return Ran(ran.verdict, ran.data, tuple(counted), metered)


class Processors:
    """Two of them: one takes over from the other."""

    def __init__(self) -> None:
        """Load both. Raises BpfRefused."""
        self._all = [Processor(), Processor()]
        self._chance = random.Random(7637)

    def load(self, sizes: Sizes) -> Instance:
        """Return another one, which has the same room as each."""
        return self.next()

    def next(self) -> Instance:
        """An empty instance by that processor which was used longest ago."""
        self._all.reverse()
        return self._all[0].emptied(self._chance.getrandbits(64))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: TracebackType | None) -> None:
        for each in self._all:
            each.close()
