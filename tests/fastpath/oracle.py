"""Runs a case in Python: what the kernel would give it, what it decides, and how that looks outside.

The kernel's part is a model of the little that matters here: which frames it hands to a raw
socket of protocol 47, and what it puts into the headers of what the sockets send.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import msgspec

from gateway.forwarding.directory import Directory
from gateway.forwarding.drops import DropReason
from gateway.forwarding.metering import Meter
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Answer, Drop, Forward, Held, OuterHeader, ToUnderlay, Verdict
from gateway.underlay.sockets import Ipv4Socket, Ipv6Socket
from policies.addresses import Vsid
from policies.tables import Tables
from tests.fastpath.outcomes import (
    Answered,
    ByPython,
    Dropped,
    Forwarded,
    GoesOn,
    NotDelivered,
    Told,
    Waits,
    World,
)
from tests.fastpath.scenes import OWN_MACS
from tests.fastpath.wire import GRE, checksum, ethernet

NOW = 1000.0

Count = tuple[int, int]
"""Packets and octets."""


class Metered(msgspec.Struct, frozen=True):
    """What was counted for virtual subnets: those that anything was counted for."""

    sent: dict[Vsid, Count] = {}
    received: dict[Vsid, Count] = {}


class Judged(msgspec.Struct, frozen=True):
    """What has become of a frame, and what was counted because of it."""

    outcome: ByPython
    drops: Mapping[tuple[DropReason, str], int]
    metered: Metered


class Oracle:
    """The pipeline of edge-1 in one world, for one frame or for several after each other."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.tables = Tables.compile(world.network)
        node = Node(
            name="edge-1",
            provider_addresses=world.provider_addresses,
            underlay_mtu=world.mtu,
            is_gateway=True,
            ports={(port.vsid, port.mac): port for port in world.ports},
            host=world.host,
        )
        self.forwarder = Forwarder(node, self.tables, Directory(world.records))
        for address, mtu in world.reported:
            assert self.forwarder.paths.report(address, mtu, NOW, self.tables.members)

    def judge(self, frame: bytes, interface: str) -> Judged:
        """Have a frame come in at an interface, and say what becomes of it."""
        drops, before = Counter(self.forwarder.drops.counts), _read(self.forwarder.meters)
        given = delivered(frame, interface, self._world.provider_addresses)
        verdict = self.forwarder.from_underlay(*given, NOW) if given is not None else None
        metered = _since(before, _read(self.forwarder.meters))
        outcome = self._outcome(verdict, metered) if verdict is not None else NotDelivered()
        return Judged(outcome, self.forwarder.drops.counts - drops, metered)

    def _outcome(self, verdict: Verdict, metered: Metered) -> ByPython:
        match verdict:
            case Drop(reason, tenant, ()):
                return Dropped(reason, tenant)
            case Drop(reason, tenant):
                return Told(reason, tenant)
            case Answer():
                return Answered()
            case Held():
                return Waits()
            case Forward((ToUnderlay() as emission,)) if (
                metered.received and emission.destination in self._world.hops
            ):
                return self._on_the_wire(emission, metered)
            case Forward(emissions):
                return GoesOn(len(emissions))

    def _on_the_wire(self, emission: ToUnderlay, metered: Metered) -> Forwarded:
        hop = self._world.hops[emission.destination]
        ((received, (_, octets)),) = metered.received.items()
        return Forwarded(
            frame=ethernet(hop.destination, hop.source, encoded(emission)),
            interface=hop.interface,
            sent=next(iter(metered.sent), None),
            received=received,
            octets=octets,
        )


def delivered(frame: bytes, interface: str, own: Collection[bytes]) -> tuple[OuterHeader, bytes] | None:
    """Return what a raw socket of one of our provider addresses is given of a frame; None: nothing.

    A fragment alone is given to nobody. Extension headers are skipped by the kernel.
    """
    if frame[:6] != OWN_MACS[interface]:
        return None
    ethertype, packet = int.from_bytes(frame[12:14]), frame[14:]
    if ethertype == 0x0800:
        return _delivered_ipv4(packet, own)
    return _delivered_ipv6(packet, own) if ethertype == 0x86DD else None


def _delivered_ipv4(packet: bytes, own: Collection[bytes]) -> tuple[OuterHeader, bytes] | None:
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    start, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4])
    if not 20 <= start <= total <= len(packet) or checksum(packet[:start]):
        return None
    is_fragment = int.from_bytes(packet[6:8]) & 0x3FFF
    if is_fragment or packet[9] != GRE or packet[16:20] not in own:
        return None
    outer = OuterHeader(packet[12:16], packet[16:20], packet[1] & 3, packet[8])
    return outer, packet[start:total]


def _delivered_ipv6(packet: bytes, own: Collection[bytes]) -> tuple[OuterHeader, bytes] | None:
    if len(packet) < 40 or packet[0] >> 4 != 6:
        return None
    total = 40 + int.from_bytes(packet[4:6])
    following, position = packet[6], 40
    while following in (0, 60) and position + 8 <= total <= len(packet):
        following, position = packet[position], position + (packet[position + 1] + 1) * 8
    if following != GRE or not position <= total <= len(packet) or packet[24:40] not in own:
        return None
    outer = OuterHeader(packet[8:24], packet[24:40], packet[1] >> 4 & 3, packet[7])
    return outer, packet[position:total]


def encoded(emission: ToUnderlay) -> bytes:
    """Return a packet as its socket encodes it and the kernel sends it: with a checksum."""
    if emission.destination.version == 6:
        return Ipv6Socket._encode(object.__new__(Ipv6Socket), emission)[0]
    packet = Ipv4Socket._encode(object.__new__(Ipv4Socket), emission)[0]
    return packet[:10] + checksum(packet[:20]).to_bytes(2) + packet[12:]


def _read(meters: Mapping[Vsid, Meter]) -> dict[Vsid, tuple[Count, Count]]:
    return {
        vsid: ((each.sent_packets, each.sent_octets), (each.received_packets, each.received_octets))
        for vsid, each in meters.items()
    }


def _since(before: Mapping[Vsid, tuple[Count, Count]], after: Mapping[Vsid, tuple[Count, Count]]) -> Metered:
    sent, received = {}, {}
    for vsid, (has_sent, has_received) in after.items():
        had_sent, had_received = before[vsid]
        if has_sent != had_sent:
            sent[vsid] = has_sent[0] - had_sent[0], has_sent[1] - had_sent[1]
        if has_received != had_received:
            received[vsid] = has_received[0] - had_received[0], has_received[1] - had_received[1]
    return Metered(sent, received)
