"""Refuses packets that come twice (RFC 4303 section 3.4.3), with 32-bit or extended sequence numbers."""

from __future__ import annotations

from array import array

WINDOW = 2048
"""How far behind the newest packet another may still come; a power of two."""

_SLOT = WINDOW - 1
_LOW = 0xFFFFFFFF
_LAST = {False: _LOW, True: (1 << 64) - 1}


class ReplayWindow:
    """Remembers the sequence numbers of one SA's packets.

    Each slot holds the number that fell into it last, so nothing is shifted or
    cleared, however far the window moves: RFC 6479's ring, with whole numbers in
    place of bits. Zero is never sent, which is what an empty slot holds.
    """

    __slots__ = ("_extended", "_last", "_seen", "newest")

    def __init__(self, *, extended: bool) -> None:
        self.newest = 0
        self._extended = extended
        self._last = _LAST[extended]
        self._seen = array("Q", bytes(8 * WINDOW))

    def sequence_of(self, low: int) -> int | None:
        """Return the sequence number that 32 bits of a packet stand for, None if it may not come any more.

        Of those with the same low bits, it is the one in the window or ahead of it
        (RFC 4303 appendix A2.2). Nothing is remembered: that is for `accept`, once the
        packet has proved authentic. A peer that lost 2^32 packets in a row could not
        be followed (appendix A3); its liveness checks end the SA long before.
        """
        bottom = self.newest - _SLOT
        sequence = bottom + (low - bottom & _LOW) if self._extended else low
        if (
            sequence < 1
            or sequence < bottom
            or sequence > self._last
            or self._seen[sequence & _SLOT] == sequence
        ):
            return None
        return sequence

    def accept(self, sequence: int) -> bool:
        """Remember an authentic packet that `sequence_of` let through, and say whether it is the newest."""
        self._seen[sequence & _SLOT] = sequence
        if sequence > self.newest:
            self.newest = sequence
            return True
        return False
