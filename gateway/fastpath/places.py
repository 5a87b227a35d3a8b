"""Where each address is: a hash table in memory that a program reads while it is changed.

(scope, address) -> subnet, peer and MAC. Every address has two buckets that it may be in, each of one cache
line with room for two; to make room, one of those there moves to its other bucket. A reader finds
the old value, the new one, or nothing, which is always safe: then Python decides. That rests on stores
being seen in the order in which they are made, as on x86-64.
"""

from __future__ import annotations

import msgspec

from gateway.fastpath.layout import PLACE_WORDS, PLACES_IN_BUCKET

_ALL = 0xFFFF_FFFF_FFFF_FFFF
_SCOPE = 0xFF_FFFF
_MAC = 0xFFFF_FFFF_FFFF
_ADDRESS, _WHOSE, _WHERE = 0, 2, 3

# Moves that are tried in a row to make room for one.
_DEPTH = 4

EMPTY = 0


class Place(msgspec.Struct, frozen=True, gc=False):
    """What an address leads to: numbers of a subnet and a peer, and a MAC's octets as a little-endian number."""

    subnet: int
    peer: int
    mac: int = 0


class Places:
    """The table. Sizes are powers of two; only one may write."""

    def __init__(self, words: memoryview[int], seed: int) -> None:
        """`words` are of eight octets each, format Q, at first all zero."""
        self._words = words
        self._seed = seed
        self.mask = len(words) // (PLACE_WORDS * PLACES_IN_BUCKET) - 1
        if len(words) % (PLACE_WORDS * PLACES_IN_BUCKET) or self.mask < 1 or self.mask & (self.mask + 1):
            raise ValueError(f"{len(words)} words are no power of two of buckets")
        self._sequence = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def capacity(self) -> int:
        """How many places there are. Beyond some four fifths, some addresses find none."""
        return len(self._words) // PLACE_WORDS

    def put(self, scope: int, first: int, second: int, place: Place) -> bool:
        """Add an address, or replace what it leads to. False: there is no place for it."""
        at = self._find(scope, first, second)
        if at is not None:
            # Whoever reads it meanwhile sees that its first word has changed.
            self._words[at + _WHOSE] = EMPTY
            self._count -= 1
        else:
            at = self._room(self._buckets(scope, first, second), _DEPTH)
            if at is None:
                return False
        words = self._words
        self._sequence = self._sequence + 1 & 0xFF
        words[at] = first
        words[at + 1] = second
        words[at + _WHERE] = place.mac | place.subnet >> 8 << 48
        words[at + _WHOSE] = scope | self._sequence << 24 | place.peer << 32 | (place.subnet & 0xFF) << 56
        self._count += 1
        return True

    def find(self, scope: int, first: int, second: int) -> Place | None:
        """Return what an address leads to."""
        at = self._find(scope, first, second)
        if at is None:
            return None
        whose, where = self._words[at + _WHOSE], self._words[at + _WHERE]
        return Place(whose >> 56 | where >> 48 << 8, whose >> 32 & 0xFF_FFFF, where & _MAC)

    def remove(self, scope: int, first: int, second: int) -> bool:
        """Forget an address; False if it was not there."""
        at = self._find(scope, first, second)
        if at is None:
            return False
        self._words[at + _WHOSE] = EMPTY
        self._count -= 1
        return True

    def _find(self, scope: int, first: int, second: int) -> int | None:
        words = self._words
        for bucket in self._buckets(scope, first, second):
            for at in (bucket, bucket + PLACE_WORDS):
                if words[at] == first and words[at + _WHOSE] & _SCOPE == scope and words[at + 1] == second:
                    return at
        return None

    def _buckets(self, scope: int, first: int, second: int) -> tuple[int, int]:
        """Return where the two buckets begin. deciding.h computes the same."""
        hashed = (first ^ self._seed) * 0x9E37_79B9_7F4A_7C15 & _ALL
        hashed ^= hashed >> 32
        hashed = (hashed ^ second ^ scope) * 0xD6E8_FEB8_6659_FD93 & _ALL
        hashed ^= hashed >> 32
        size = PLACE_WORDS * PLACES_IN_BUCKET
        return (hashed & self.mask) * size, (hashed >> 32 & self.mask) * size

    def _room(self, buckets: tuple[int, int], depth: int) -> int | None:
        """Return an empty place in one of two buckets, made empty if need be."""
        words = self._words
        for bucket in buckets:
            for at in (bucket, bucket + PLACE_WORDS):
                if words[at + _WHOSE] == EMPTY:
                    return at
        if depth:
            for bucket in buckets:
                for at in (bucket, bucket + PLACE_WORDS):
                    if self._moved(at, bucket, depth - 1):
                        return at
        return None

    def _moved(self, at: int, bucket: int, depth: int) -> bool:
        """Move what is at a place to its other bucket: it is there before it is gone here."""
        words = self._words
        first, second, whose, where = words[at : at + PLACE_WORDS]
        pair = self._buckets(whose & _SCOPE, first, second)
        other = pair[1] if pair[0] == bucket else pair[0]
        if other == bucket:
            return False
        room = self._room((other, other), depth)
        if room is None or words[at + _WHOSE] != whose:
            return False
        self._sequence = self._sequence + 1 & 0xFF
        words[room] = first
        words[room + 1] = second
        words[room + _WHERE] = where
        words[room + _WHOSE] = whose & ~(0xFF << 24) | self._sequence << 24
        words[at + _WHOSE] = EMPTY
        return True
