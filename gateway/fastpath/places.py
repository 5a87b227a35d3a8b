"""Where each address is: hash tables in memory that a program reads while they are changed.

An address leads to a subnet, a peer and a MAC. Each has two buckets that it may be in, of one cache line
each; to make room, one of those there moves to its other bucket. A reader finds the old value, the new
one, or nothing, which is always safe: then Python decides. That rests on stores being seen in the order in
which they are made, as on x86-64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec

from gateway.fastpath.layout import IPV4_PEERS, IS_BLOCK, VSIDS

_LINE = 8  # words of eight octets
_ALL = 0xFFFF_FFFF_FFFF_FFFF
_MAC = 0xFFFF_FFFF_FFFF

# Buckets that are looked at to make room for one. To find that there is none takes less than a millisecond.
_MOST_REACHED = 64

_EMPTY = 0


class Place(msgspec.Struct, frozen=True, gc=False):
    """What an address leads to: numbers of a subnet and a peer, and a MAC as a little-endian number."""

    subnet: int
    peer: int
    mac: int = 0


def hash_of(seed: int, scope: int, first: int, second: int) -> int:
    """Return what an address in a scope is hashed to. deciding.h computes the same."""
    if scope in {VSIDS, IPV4_PEERS}:
        return ipv4_hash_of(seed, scope, first)
    hashed = first ^ seed
    hashed = (hashed ^ hashed >> 32) * 0x9E37_79B9_7F4A_7C15 & _ALL
    hashed ^= hashed >> 32 ^ second ^ scope
    hashed = (hashed ^ hashed >> 32) * 0xD6E8_FEB8_6659_FD93 & _ALL
    hashed = (hashed ^ hashed >> 32) * 0xFF51_AFD7_ED55_8CCD & _ALL
    return hashed ^ hashed >> 32


def ipv4_hash_of(seed: int, scope: int, address: int) -> int:
    """Return the same for one of 32 bits, in fewer steps."""
    hashed = (address ^ seed) * 0x9E37_79B9_7F4A_7C15 & _ALL
    hashed = (hashed ^ hashed >> 32 ^ scope) * 0xD6E8_FEB8_6659_FD93 & _ALL
    return hashed ^ hashed >> 32


def buckets_of(hashed: int, buckets: int) -> tuple[int, int]:
    """Return where the two buckets are that a hash leads to, in words."""
    return ((hashed & 0xFFFF_FFFF) * buckets >> 32) * _LINE, ((hashed >> 32) * buckets >> 32) * _LINE


class _Cuckoo(ABC):
    """What is common to both tables: only one may write to each.

    The first word of a place that is written last says whether there is something, and carries a
    sequence number, so that a reader sees that somebody wrote between two looks.
    """

    _stride: int
    """Words of a place."""
    _valid: int
    """Which of them says whether there is something, and is written last."""

    def __init__(self, words: memoryview[int], seed: int) -> None:
        """`words` are of eight octets each, format Q, at first all zero: whole buckets."""
        if len(words) < 2 * _LINE or len(words) % _LINE:
            raise ValueError(f"{len(words)} words are no buckets of {_LINE}")
        self.buckets = len(words) // _LINE
        self._words = words
        self._seed = seed
        self._sequence = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def capacity(self) -> int:
        """How many places there are."""
        return len(self._words) // self._stride

    def _put(self, at: int | None, pair: tuple[int, int], words: Sequence[int]) -> bool:
        """Write a place, at where it was or where there is room; False if there is none."""
        if at is None:
            at = self._room(pair)
            if at is None:
                return False
            self._count += 1
        self._write(at, words)
        return True

    def _write(self, at: int, words: Sequence[int]) -> None:
        memory, valid = self._words, self._valid
        others = [(at + offset, word) for offset, word in enumerate(words) if offset != valid]
        if any(memory[where] != word for where, word in others):
            memory[at + valid] = _EMPTY
            for where, word in others:
                memory[where] = word
        # Where that word alone is another one, nobody finds nothing meanwhile.
        self._sequence += 1
        memory[at + valid] = self._numbered(words[valid], self._sequence)

    def _remove(self, at: int | None) -> bool:
        if at is None:
            return False
        self._words[at + self._valid] = _EMPTY
        self._count -= 1
        return True

    def _room(self, pair: tuple[int, int]) -> int | None:
        """Return an empty place in one of two buckets, made empty if need be; None: there is none near."""
        words, valid, stride = self._words, self._valid, self._stride
        # Breadth first: each bucket with which one what is in it would move from, and from what place there.
        reached = [(bucket, -1, -1) for bucket in pair]
        for number, (bucket, _, _) in enumerate(reached):
            for at in range(bucket, bucket + _LINE, stride):
                if words[at + valid] == _EMPTY:
                    return self._shifted(reached, number, at)
            if len(reached) < _MOST_REACHED:
                for at in range(bucket, bucket + _LINE, stride):
                    one, other = self._buckets_at(words[at : at + stride].tolist())
                    reached.append((other if one == bucket else one, number, at))
        return None

    def _shifted(self, reached: Sequence[tuple[int, int, int]], number: int, empty: int) -> int:
        """Move along the way by which a bucket has been reached: each is there before it is gone here."""
        while True:
            _, number, at = reached[number]
            if number < 0:
                return empty
            self._write(empty, self._words[at : at + self._stride].tolist())
            self._words[at + self._valid] = _EMPTY
            empty = at

    @abstractmethod
    def _numbered(self, word: int, sequence: int) -> int:
        """Return the word that makes a place valid with a sequence number."""

    @abstractmethod
    def _buckets_at(self, words: Sequence[int]) -> tuple[int, int]:
        """Return the two buckets of what is at a place."""


class Places(_Cuckoo):
    """(scope, address of either family) -> place: two in a bucket, of four words."""

    _stride = 4
    _valid = 2

    def put(self, scope: int, first: int, second: int, place: Place) -> bool:
        """Add an address, or replace what it leads to. False: there is no room for it."""
        pair = buckets_of(hash_of(self._seed, scope, first, second), self.buckets)
        whose = scope | place.peer << 32 | (place.subnet & 0xFF) << 56
        words = (first, second, whose, place.mac | place.subnet >> 8 << 48)
        return self._put(self._find(pair, scope, first, second), pair, words)

    def find(self, scope: int, first: int, second: int) -> Place | None:
        """Return what an address leads to."""
        pair = buckets_of(hash_of(self._seed, scope, first, second), self.buckets)
        at = self._find(pair, scope, first, second)
        if at is None:
            return None
        whose, where = self._words[at + 2], self._words[at + 3]
        return Place(whose >> 56 | where >> 48 << 8, whose >> 32 & 0xFF_FFFF, where & _MAC)

    def remove(self, scope: int, first: int, second: int) -> bool:
        """Forget an address; False if it was not there."""
        pair = buckets_of(hash_of(self._seed, scope, first, second), self.buckets)
        return self._remove(self._find(pair, scope, first, second))

    def _find(self, pair: tuple[int, int], scope: int, first: int, second: int) -> int | None:
        words = self._words
        for bucket in pair:
            for at in range(bucket, bucket + _LINE, 4):
                if words[at] == first and words[at + 2] & 0xFF_FFFF == scope and words[at + 1] == second:
                    return at
        return None

    def _numbered(self, word: int, sequence: int) -> int:
        return word & ~(0xFF << 24) | (sequence & 0xFF) << 24

    def _buckets_at(self, words: Sequence[int]) -> tuple[int, int]:
        first, second, whose, _ = words
        return buckets_of(hash_of(self._seed, whose & 0xFF_FFFF, first, second), self.buckets)


class Ipv4Places(_Cuckoo):
    """(scope, IPv4 address) -> place: four in a bucket, of two words. The scope is that of the subnet."""

    _stride = 2
    _valid = 0

    def __init__(self, words: memoryview[int], seed: int, scopes: Sequence[int]) -> None:
        """`scopes` has the scope of each subnet, by number; it grows while subnets are added."""
        super().__init__(words, seed)
        self._scopes = scopes

    def put(self, address: int, place: Place) -> bool:
        """Add an address, its octets as a little-endian number, or replace what it leads to.

        False: there is no room for it. The place's peer is not 0. That of a block of addresses, whose peer is
        IS_BLOCK and whose MAC is the block's number, is apart from all others.
        """
        scope = self._scopes[place.subnet]
        pair = buckets_of(ipv4_hash_of(self._seed, scope, address), self.buckets)
        whose = address | place.peer << 32 | (place.subnet & 0x3F) << 58
        at = self._find(pair, scope, address, is_block=place.peer == IS_BLOCK)
        return self._put(at, pair, (whose, place.mac | place.subnet >> 6 << 48))

    def find(self, scope: int, address: int) -> Place | None:
        """Return what an address leads to."""
        at = self._find(buckets_of(ipv4_hash_of(self._seed, scope, address), self.buckets), scope, address)
        if at is None:
            return None
        whose, where = self._words[at], self._words[at + 1]
        return Place(whose >> 58 | where >> 48 << 6, whose >> 32 & 0xF_FFFF, where & _MAC)

    def remove(self, scope: int, address: int, *, is_block: bool = False) -> bool:
        """Forget an address, or a block; False if it was not there."""
        pair = buckets_of(ipv4_hash_of(self._seed, scope, address), self.buckets)
        return self._remove(self._find(pair, scope, address, is_block=is_block))

    def _find(self, pair: tuple[int, int], scope: int, address: int, *, is_block: bool = False) -> int | None:
        words = self._words
        for bucket in pair:
            for at in range(bucket, bucket + _LINE, 2):
                whose = words[at]
                peer = whose >> 32 & 0xF_FFFF
                if (
                    whose & 0xFFFF_FFFF == address
                    and peer
                    and (peer == IS_BLOCK) is is_block
                    and self._scopes[whose >> 58 | words[at + 1] >> 48 << 6] == scope
                ):
                    return at
        return None

    def _numbered(self, word: int, sequence: int) -> int:
        return word & ~(0x3F << 52) | (sequence & 0x3F) << 52

    def _buckets_at(self, words: Sequence[int]) -> tuple[int, int]:
        whose, where = words
        scope = self._scopes[whose >> 58 | where >> 48 << 6]
        return buckets_of(ipv4_hash_of(self._seed, scope, whose & 0xFFFF_FFFF), self.buckets)
