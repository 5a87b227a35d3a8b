"""Where IPv4 addresses are: in blocks where there are many side by side, else each in a place of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from gateway.fastpath.layout import BLOCK_WORDS, IS_BLOCK
from gateway.fastpath.places import Ipv4Places, Place

ENOUGH = 16
"""From so many addresses on that differ in their last octet alone, they have a block."""

_LAST_PEER = 0xFFFF
_MAC = 0xFFFF_FFFF_FFFF
_LAST_OCTET = 24  # addresses are little-endian numbers


class Ipv4Records:
    """(scope, address) -> place. The scope is that of the place's subnet.

    A block is of one subnet, and for peers of 16 bits: others keep places of their own beside it.
    """

    enough = ENOUGH
    """How many side by side have a block."""

    def __init__(self, places: Ipv4Places, blocks: memoryview[int], scopes: Sequence[int]) -> None:
        """`blocks` are of 256 words of eight octets, format Q, all zero; the first stays so."""
        self._places = places
        self._words = blocks
        self._scopes = scopes
        self._blocks: dict[tuple[int, int], tuple[int, int]] = {}
        """Number and subnet, by scope and the address without its last octet."""
        self._alone: Counter[tuple[int, int]] = Counter()
        """How many have places of their own."""
        self._given = 0
        self._free: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def expect(self, subnet: int, prefixes: Iterable[int]) -> None:
        """Have blocks for prefixes, before there are any addresses, as far as there is room."""
        for prefix in prefixes:
            key = self._scopes[subnet], prefix
            if key not in self._blocks and key not in self._alone:
                self._make_block(key, subnet)

    def put(self, address: int, place: Place) -> bool:
        """Add an address, a little-endian number, or replace what it leads to. False: there is no room."""
        key = self._scopes[place.subnet], address & ~(0xFF << _LAST_OCTET)
        block = self._blocks.get(key)
        if block is not None and block[1] == place.subnet and place.peer <= _LAST_PEER:
            self._write(block[0], address, place)
            if self._alone[key] and self._places.remove(key[0], address):
                self._leave(key)
                self._count -= 1
            return True
        if block is not None:
            self._empty(block[0], address)
        is_new = self._places.find(key[0], address) is None
        if not self._places.put(address, place):
            return False
        self._alone[key] += is_new
        self._count += is_new
        if block is None and self._alone[key] >= self.enough:
            self._gather(key, place.subnet)
        return True

    def find(self, scope: int, address: int) -> Place | None:
        """Return what an address leads to."""
        block = self._blocks.get((scope, address & ~(0xFF << _LAST_OCTET)))
        if block is not None:
            word = self._words[block[0] * BLOCK_WORDS + (address >> _LAST_OCTET)]
            if word:
                return Place(block[1], word >> 48, word & _MAC)
        return self._places.find(scope, address)

    def remove(self, scope: int, address: int) -> bool:
        """Forget an address; False if it was not there."""
        key = scope, address & ~(0xFF << _LAST_OCTET)
        block = self._blocks.get(key)
        if block is not None and self._empty(block[0], address):
            return True
        if not self._places.remove(scope, address):
            return False
        self._leave(key)
        self._count -= 1
        return True

    def give_up(self, scope: int) -> None:
        """Give back the blocks of a scope that nobody reads any more."""
        for key in [key for key in self._blocks if key[0] == scope]:
            number, _ = self._blocks.pop(key)
            at = number * BLOCK_WORDS
            self._count -= BLOCK_WORDS - self._words[at : at + BLOCK_WORDS].tolist().count(0)
            for empty in range(at, at + BLOCK_WORDS):
                self._words[empty] = 0
            self._places.remove(scope, key[1], is_block=True)
            self._free.append(number)

    def _leave(self, key: tuple[int, int]) -> None:
        self._alone[key] -= 1
        if not self._alone[key]:
            del self._alone[key]

    def _write(self, number: int, address: int, place: Place) -> None:
        at = number * BLOCK_WORDS + (address >> _LAST_OCTET)
        self._count += not self._words[at]
        self._words[at] = place.mac | place.peer << 48

    def _empty(self, number: int, address: int) -> bool:
        at = number * BLOCK_WORDS + (address >> _LAST_OCTET)
        was_there = bool(self._words[at])
        self._count -= was_there
        self._words[at] = 0
        return was_there

    def _gather(self, key: tuple[int, int], subnet: int) -> None:
        """Bring what has places of its own into a block: it is there before it is gone from its place."""
        scope, prefix = key
        addresses = [prefix | octet << _LAST_OCTET for octet in range(BLOCK_WORDS)]
        found = [(address, place) for address in addresses if (place := self._places.find(scope, address))]
        number = self._make_block(key, subnet)
        if number is None:
            return
        for address, place in found:
            if place.subnet == subnet and place.peer <= _LAST_PEER:
                self._write(number, address, place)
                self._places.remove(scope, address)
                self._leave(key)
                self._count -= 1

    def _make_block(self, key: tuple[int, int], subnet: int) -> int | None:
        number = self._free[-1] if self._free else self._given + 1
        has_room = (number + 1) * BLOCK_WORDS <= len(self._words)
        if not has_room or not self._places.put(key[1], Place(subnet, IS_BLOCK, number)):
            return None
        if self._free:
            self._free.pop()
        else:
            self._given = number
        self._blocks[key] = number, subnet
        return number


def blocks_for(addresses: Iterable[bytes]) -> tuple[list[int], int]:
    """Return which prefixes of IPv4 addresses are to have blocks, and how many addresses are in none of them.

    A prefix is an address as a little-endian number whose last octet is 0. Addresses of IPv6 are passed over.
    """
    together = Counter(address[:3] for address in addresses if len(address) == 4)
    prefixes = [int.from_bytes(octets, "little") for octets, count in together.items() if count >= ENOUGH]
    return prefixes, sum(count for count in together.values() if count < ENOUGH)
