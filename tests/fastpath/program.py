"""Runs a case in the XDP program: the tables that the engine would write, and one trial run in the kernel.

It needs a network namespace: the program asks for the interface that a frame came in by, and sends it out of
the one that its next hop is behind.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import msgspec

from gateway.fastpath import counts, kernel, layout, links
from gateway.fastpath.hops import NextHop
from gateway.fastpath.images import images_of
from gateway.fastpath.instance import Instance
from gateway.fastpath.links import Mode
from gateway.fastpath.peers import owners_of, packed_hop
from gateway.forwarding.drops import DropReason
from gateway.forwarding.pipeline import Forwarder
from gateway.lab.namespaces import Namespace
from policies.addresses import ProviderAddress, Vsid
from tests.fastpath.oracle import NOW, Metered, Oracle
from tests.fastpath.outcomes import Forwarded, NotDelivered, Passed, Why, World
from tests.fastpath.scenes import INTERFACES, OWN_MACS
from tests.properties.machine import Processor

XDP_DROP, XDP_PASS, XDP_REDIRECT = 1, 2, 4

_CONTEXT = struct.Struct("=IIIIII")  # data, its end, its metadata, interface, queue, interface out
_LINK_MTU = 3400  # native XDP needs a frame to be within a page
_EVERY_TYPE = 3
_SEED = 0x0123_4567_89AB_CDEF

_Reasons = frozenset[layout.Passed]
_NOT_COUNTED: _Reasons = frozenset()

COUNTED_AS: dict[Why, _Reasons] = {
    Why.NOT_OURS: _NOT_COUNTED,
    Why.OUTER_FORM: frozenset({layout.Passed.UNUSUAL_OUTER}),
    Why.LOOP: frozenset({layout.Passed.NOT_CARRIED, layout.Passed.UNUSUAL_OUTER}),
    Why.MALFORMED: frozenset({layout.Passed.UNUSUAL, layout.Passed.UNUSUAL_OUTER}),
    Why.NOT_IP: frozenset({layout.Passed.NOT_IP}),
    Why.NEIGHBOURS: frozenset({layout.Passed.NOT_IP, layout.Passed.NEIGHBOUR, layout.Passed.GROUP}),
    Why.DHCP: frozenset({layout.Passed.GROUP, layout.Passed.NO_RECORD}),
    Why.GROUP: frozenset({layout.Passed.GROUP}),
    Why.INNER_FORM: frozenset({layout.Passed.UNUSUAL}),
    Why.TO_GATEWAY: frozenset({layout.Passed.NO_RECORD}),
    Why.ICMP_ERROR: frozenset({layout.Passed.ICMP_ERROR}),
    Why.SENDER: frozenset({layout.Passed.SOURCE, layout.Passed.GROUP, layout.Passed.NOT_CARRIED}),
    Why.DESTINATION: frozenset({layout.Passed.NO_RECORD}),
    Why.UNKNOWN_MAC: frozenset({layout.Passed.NO_RECORD}),
    Why.NOT_OUR_TENANT: frozenset({layout.Passed.NOT_CARRIED}),
    Why.SITE: frozenset({layout.Passed.SITE, layout.Passed.SOURCE}),
    Why.REWRITTEN: frozenset({layout.Passed.NO_RECORD}),
    Why.HERE: frozenset({layout.Passed.NO_RECORD}),
    Why.HOP_LIMIT: frozenset({layout.Passed.HOP_LIMIT}),
    Why.TOO_BIG: frozenset({layout.Passed.TOO_BIG}),
    Why.NEXT_HOP: frozenset({layout.Passed.NO_NEXT_HOP}),
    Why.RULES: frozenset({layout.Passed.NOT_CARRIED}),
}
"""As which of its reasons the program counts what it leaves to Python."""


def may_count(passed: Passed) -> list[tuple[str, ...]]:
    """What may have been counted of one packet that is left to Python: all is that Python is given of GRE."""
    is_nobodys = passed.why is Why.NOT_OURS or isinstance(passed.python, NotDelivered)
    nothing: list[tuple[str, ...]] = [()] if is_nobodys else []
    return nothing + [(reason.word,) for reason in COUNTED_AS[passed.why]]


class Left(msgspec.Struct, frozen=True):
    """The program left the frame to Python: as it was, if all is well."""

    frame: bytes
    counted: tuple[str, ...]


class Ended(msgspec.Struct, frozen=True):
    """The program dropped the frame."""


class Ran(msgspec.Struct, frozen=True):
    """What the program did, and what it counted because of it."""

    outcome: Forwarded | Ended | Left
    drops: Counter[tuple[DropReason, str]]
    metered: Metered


class Machine:
    """The program of edge-1, loaded once, among its interfaces."""

    def __init__(self) -> None:
        """Raises BpfRefused, and LabError where there can be no network namespaces."""
        self._processor = Processor()
        self.namespace = Namespace("edge-1")
        for name in INTERFACES:
            self.namespace.ip(
                f"link add {name} mtu {_LINK_MTU} type veth peer name {name}-far mtu {_LINK_MTU}",
                f"link set {name} addrgenmode none up",
                f"link set {name}-far addrgenmode none up",
            )
        names = ("lo", *INTERFACES)
        self.indexes = {name: self.namespace.call(socket.if_nametoindex, name) for name in names}

    def close(self) -> None:
        self.namespace.close()
        self._processor.close()

    @contextmanager
    def far_ends(self) -> Iterator[dict[str, socket.socket]]:
        """What arrives where each interface leads to, for as long as it is wanted."""
        with ExitStack() as stack:
            yield {name: self.namespace.call(self._listen, stack, name) for name in INTERFACES}

    def _listen(self, stack: ExitStack, name: str) -> socket.socket:
        index = socket.if_nametoindex(f"{name}-far")
        # A veth takes what is redirected to it only if there is a program at its far end: there, this one
        # passes everything, since the interface is none of ours.
        stack.enter_context(links.attach(self._processor.emptied(_SEED).program, index, Mode.NATIVE))
        far = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_TYPE)))
        far.bind((f"{name}-far", _EVERY_TYPE))
        far.setblocking(False)
        return far

    def within(self, world: World) -> Program:
        """Have the program decide by a world, and by no other before it."""
        return self.namespace.call(lambda: Program(world, self, self._processor.emptied(_SEED)))


class Program:
    """The program with the tables of one world, for one frame or for several after each other."""

    def __init__(self, world: World, machine: Machine, instance: Instance) -> None:
        self._machine = machine
        self._instance = instance
        self._write(world)

    def run(self, frame: bytes, interface: str) -> Ran:
        """Have a frame come in at an interface, and say what becomes of it."""
        context = _CONTEXT.pack(0, len(frame), 0, self._machine.indexes[interface], 0, 0)
        before = self._instance.counts.passed.copy()
        done = self._machine.namespace.call(kernel.test_run, self._instance.program, frame, context=context)
        drops, metered = self._counted()
        passed = self._instance.counts.passed - before
        if done.verdict == XDP_REDIRECT:
            assert not passed
            return Ran(_sent(done.data, metered), drops, metered)
        if done.verdict == XDP_DROP:
            assert not passed
            return Ran(Ended(), drops, metered)
        assert done.verdict == XDP_PASS
        return Ran(Left(done.data, tuple(passed.elements())), drops, metered)

    def flood(self, frame: bytes, interface: str, count: int) -> tuple[int, Counter[tuple[DropReason, str]]]:
        """Have a frame that goes nowhere come in many times.

        Returns how many are left to Python, and how many are dropped for which reason.
        """
        context = _CONTEXT.pack(0, len(frame), 0, self._machine.indexes[interface], 0, 0)
        before = self._instance.counts.passed.total()
        self._machine.namespace.call(
            kernel.test_run, self._instance.program, frame, context=context, repeat=count
        )
        drops, _ = self._counted()
        return self._instance.counts.passed.total() - before, drops

    def switch(self, flags: int) -> None:
        """Have it carry packets (CARRIES) and pass some on for teaching (TEACHES), or neither."""
        self._instance.switch(flags)

    def send(self, frame: bytes, interface: str) -> None:
        """Have a frame come in at an interface, and really go where the program sends it."""
        context = _CONTEXT.pack(0, len(frame), 0, self._machine.indexes[interface], 0, 0)
        self._machine.namespace.call(
            kernel.test_run, self._instance.program, frame, context=context, live=True, batch=1
        )

    def _counted(self) -> tuple[Counter[tuple[DropReason, str]], Metered]:
        drops: Counter[tuple[DropReason, str]] = Counter()
        sent, received = dict[Vsid, tuple[int, int]](), dict[Vsid, tuple[int, int]]()

        def dropped(reason: DropReason, tenant: str, more: int) -> None:
            drops[reason, tenant] += more

        def metered(change: counts.Metered) -> None:
            if change.sent_packets or change.sent_octets:
                sent[change.vsid] = change.sent_packets, change.sent_octets
            if change.received_packets or change.received_octets:
                received[change.vsid] = change.received_packets, change.received_octets

        self._instance.counts.take(dropped, metered)
        return drops, Metered(sent, received)

    def _write(self, world: World) -> None:
        instance, forwarder = self._instance, Oracle(world).forwarder
        node, tables, indexes = forwarder.node, forwarder.tables, self._machine.indexes
        images = images_of(tables, node)
        instance.settle(node, {indexes[name]: OWN_MACS[name] for name in INTERFACES})
        instance.peers.know(owners_of(tables))
        for address, hop in world.hops.items():
            way = NextHop(indexes[hop.interface], hop.source, hop.destination)
            instance.peers.reach(address, _packed(forwarder, instance, address, way), NOW)
        for image in images.values():
            instance.write(image)
        for record in world.records:
            instance.put(record, tables, node)
        for name in images:
            instance.carry(name)
        instance.switch(layout.CARRIES)


def _packed(forwarder: Forwarder, instance: Instance, address: ProviderAddress, hop: NextHop) -> bytes | None:
    source, port = forwarder.node.address_towards(address), instance.port_of(hop.interface)
    if source is None or port is None:
        return None
    has_zero = address in forwarder.tables.zero_flow_id
    return packed_hop(address, source, hop, port, forwarder.paths, NOW, zero_flow_id=has_zero)


def _sent(frame: bytes, metered: Metered) -> Forwarded:
    """What was redirected; by which interface is known by the MAC that it was given for that."""
    ((received, (_, octets)),) = metered.received.items()
    return Forwarded(
        frame=frame,
        interface=next((name for name, mac in OWN_MACS.items() if mac == frame[6:12]), "none of ours"),
        sent=next(iter(metered.sent), None),
        received=received,
        octets=octets,
    )
