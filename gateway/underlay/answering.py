"""Who has this address? The answers for the provider addresses that are held here, and their announcements.

Nothing is remembered of who asks. One request gets at most one answer, to the one
who asked and no larger than the question, so that a forged one makes nothing more of itself.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.packets import arp, ip, ndp
from policies.addresses import BROADCAST_MAC
from policies.errors import MalformedPacket

AnswersFor = Callable[[bytes], bool]
"""Whether a provider address is held here."""

LASTING = 1.0
"""Seconds between two announcements that are of a machine which keeps an address. RFC 5227 has two."""
FORGOTTEN_AFTER = 60.0
"""Seconds."""
MOST_CONTESTS = 1024

ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
ALL_NODES_MAC = bytes.fromhex("333300000001")

_NO_MAC = bytes(6)


class ToNeighbour(msgspec.Struct, frozen=True, gc=False):
    """A packet for a MAC of the link."""

    packet: bytes
    mac: bytes


class Contested(Exception):
    """Another machine says that it has an address that is held here."""

    def __init__(self, pa: bytes) -> None:
        super().__init__(pa.hex())
        self.pa = pa


class Contests:
    """Tells machines that take an address from us from those that have been given it.

    Where an address moves, its new host may announce it some milliseconds before the old one hears of
    it. So an announcement counts only where another came a while before and the address is held here still.
    """

    def __init__(self) -> None:
        self._heard: dict[bytes, float] = {}

    def is_lasting(self, pa: bytes, now: float) -> bool:
        """Whether an announcement by another machine is no passing thing."""
        before = self._heard.get(pa)
        if before is not None and now - before < LASTING:
            return False
        if len(self._heard) >= MOST_CONTESTS:
            self._heard.clear()
        self._heard[pa] = now
        return before is not None and now - before < FORGOTTEN_AFTER


def answer_arp_untrusted(packet: bytes, own_mac: bytes, answers_for: AnswersFor) -> ToNeighbour | None:
    """Return the answer to an ARP request (RFC 826), or None.

    Probes are answered, since the address is taken; announcements ask nothing (RFC 5227 sections 2.1.1
    and 2.3). Raises MalformedPacket, and Contested.
    """
    request = arp.decode_untrusted(packet)
    if request.operation != arp.REQUEST:
        raise MalformedPacket(f"an ARP packet of operation {request.operation} is no request")
    if request.sender_mac[0] & 1:
        raise MalformedPacket("an ARP request whose answer would go to a group")
    if request.sender_mac == own_mac or not answers_for(request.target_address):
        return None
    if request.sender_address == request.target_address:
        raise Contested(request.target_address)
    answer = arp.ArpPacket(
        arp.REPLY, own_mac, request.target_address, request.sender_mac, request.sender_address
    )
    return ToNeighbour(answer.encode(), request.sender_mac)


def answer_solicitation_untrusted(
    packet: bytes, sender: bytes, own_mac: bytes, answers_for: AnswersFor
) -> ToNeighbour | None:
    """Return the answer to a neighbour solicitation from a MAC (RFC 4861 section 7.2.4), or None.

    One that detects duplicates is answered to everybody. Raises MalformedPacket.
    """
    asked = ndp.decode_solicitation_untrusted(packet, ip.decode_untrusted(packet))
    if sender == own_mac or not answers_for(asked.target):
        return None
    destination, mac = asked.source, asked.source_mac or sender
    if asked.is_probe:
        destination, mac = ALL_NODES, ALL_NODES_MAC
    elif mac[0] & 1:
        raise MalformedPacket("a neighbour solicitation whose answer would go to a group")
    answer = ndp.advertisement(
        asked.target, destination, asked.target, own_mac, router=False, solicited=not asked.is_probe
    )
    return ToNeighbour(answer, mac)


def announcement(pa: bytes, own_mac: bytes) -> ToNeighbour:
    """Return what has everybody on the link who knows a provider address know that it is here.

    That is an ARP announcement (RFC 5227 section 2.3), or an unsolicited advertisement (RFC 4861
    section 7.2.6). Those who don't know the address need not learn it.
    """
    if len(pa) == 4:
        return ToNeighbour(arp.ArpPacket(arp.REQUEST, own_mac, pa, _NO_MAC, pa).encode(), BROADCAST_MAC)
    packet = ndp.advertisement(pa, ALL_NODES, pa, own_mac, router=False, solicited=False)
    return ToNeighbour(packet, ALL_NODES_MAC)
