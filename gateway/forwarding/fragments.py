"""What was decided about the first fragment of a packet, for those that follow it.

Later fragments carry no ports, so rules cannot judge them. The table is
bounded in number and in time; the oldest entry makes room.
"""

from __future__ import annotations

from policies.facts import PacketFacts

# RFC 791 lets a receiver wait up to this long, in seconds, for the rest of a packet.
LIFETIME = 15.0
CAPACITY = 1024

_Packet = tuple[bytes, bytes, int, int]


class FirstFragments:
    """The rulings of one routing domain."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._rulings: dict[_Packet, tuple[bool, float]] = {}

    def __len__(self) -> int:
        return len(self._rulings)

    def remember(self, facts: PacketFacts, allowed: bool, now: float) -> None:
        """Keep the ruling on a first fragment. A repeated one replaces the older."""
        packet = _packet(facts)
        self._rulings.pop(packet, None)
        if len(self._rulings) >= self._capacity:
            del self._rulings[next(iter(self._rulings))]
        self._rulings[packet] = (allowed, now + LIFETIME)

    def recall(self, facts: PacketFacts, now: float) -> bool | None:
        """Return the ruling for a later fragment, or None if its first was not seen lately."""
        packet = _packet(facts)
        ruling = self._rulings.get(packet)
        if ruling is None:
            return None
        allowed, expires = ruling
        if now < expires:
            return allowed
        del self._rulings[packet]
        return None


def _packet(facts: PacketFacts) -> _Packet:
    # A later IPv6 fragment may not know its protocol: the first has headers that it lacks.
    # RFC 8200 section 4.5 tells packets apart without it, RFC 791 section 3.2 does not.
    protocol = facts.protocol if facts.version == 4 else 0
    return facts.source, facts.destination, protocol, facts.identification
