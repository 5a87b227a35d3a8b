"""How much was carried, in plain integers."""

from __future__ import annotations


class Meter:
    """Packets and octets of one virtual subnet or site, as its tenant's IP layer sees them."""

    __slots__ = ("received_octets", "received_packets", "sent_octets", "sent_packets", "too_big")

    def __init__(self) -> None:
        self.too_big = 0
        """Packets to there that were dropped for their size."""
        self.sent_packets = self.sent_octets = 0
        self.received_packets = self.received_octets = 0

    def sent(self, octets: int) -> None:
        """Count a packet that came from there."""
        self.sent_packets += 1
        self.sent_octets += octets

    def received(self, octets: int) -> None:
        """Count a packet that went there."""
        self.received_packets += 1
        self.received_octets += octets
