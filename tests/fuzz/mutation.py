"""Seeded mutations of valid packets: the same corpus, seed and count give the same inputs everywhere."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence

from gateway.packets.checksum import internet_checksum

# How many inputs each fuzz test tries; `make soak` sets ten million.
INPUTS = int(os.environ.get("ISTHMUS_FUZZ_INPUTS", "50000"))

# Lengths, counts and offsets break at their ends.
_EDGES = (
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    15,
    16,
    19,
    20,
    39,
    40,
    0x7F,
    0x80,
    0xFF,
    0x1FFF,
    0x7FFF,
    0x8000,
    0xFFF8,
    0xFFFF,
)


Repair = Callable[[bytearray], None]


def mutations(
    corpus: Sequence[bytes], seed: int, count: int, repair: Repair | None = None
) -> Iterator[bytes]:
    """Yield `count` inputs, each a packet of the corpus changed in one to four ways.

    In half of the inputs `repair` may put checksums right again, as hardly any would get past
    them otherwise.
    """
    chance = random.Random(seed)
    for _ in range(count):
        packet = bytearray(chance.choice(corpus))
        for _ in range(chance.randint(1, 4)):
            if not packet:
                break
            chance.choice(_MUTATORS)(packet, corpus, chance)
        if repair is not None and chance.getrandbits(1):
            repair(packet)
        yield bytes(packet)


def ipv4_checksum_at(*positions: int) -> Repair:
    """Return a repair for packets in which IPv4 headers may begin at these positions."""

    def repair(packet: bytearray) -> None:
        for position in positions:
            if len(packet) < position + 20 or packet[position] >> 4 != 4:
                continue
            end = position + (packet[position] & 0xF) * 4
            packet[position + 10 : position + 12] = bytes(2)
            packet[position + 10 : position + 12] = internet_checksum(packet[position:end]).to_bytes(2)

    return repair


def _flip_bits(packet: bytearray, corpus: Sequence[bytes], chance: random.Random) -> None:
    for _ in range(chance.randint(1, 8)):
        packet[_place(packet, chance)] ^= 1 << chance.randrange(8)


def _set_octet(packet: bytearray, corpus: Sequence[bytes], chance: random.Random) -> None:
    packet[_place(packet, chance)] = chance.choice(_EDGES) & 0xFF


def _set_word(packet: bytearray, corpus: Sequence[bytes], chance: random.Random) -> None:
    if len(packet) < 2:
        return
    position = min(_place(packet, chance), len(packet) - 2)
    value = chance.choice(
        (chance.choice(_EDGES), len(packet) - position, len(packet) + chance.randint(-9, 9))
    )
    packet[position : position + 2] = (value & 0xFFFF).to_bytes(2)


def _truncate(packet: bytearray, corpus: Sequence[bytes], chance: random.Random) -> None:
    del packet[chance.randrange(len(packet)) :]


def _extend(packet: bytearray, corpus: Sequence[bytes], chance: random.Random) -> None:
    packet += chance.randbytes(chance.randint(1, 24))


def _cut_out(packet: bytearray, corpus: Sequence[bytes], chance: random.Random) -> None:
    position = _place(packet, chance)
    del packet[position : position + chance.randint(1, 16)]


def _repeat(packet: bytearray, corpus: Sequence[bytes], chance: random.Random) -> None:
    position = _place(packet, chance)
    packet[position:position] = packet[position : position + chance.choice((4, 8, 16, 20, 40))]


def _splice(packet: bytearray, corpus: Sequence[bytes], chance: random.Random) -> None:
    other = chance.choice(corpus)
    packet[chance.randrange(len(packet)) :] = other[chance.randrange(len(other) + 1) :]


_MUTATORS: tuple[Callable[[bytearray, Sequence[bytes], random.Random], None], ...] = (
    _flip_bits,
    _set_octet,
    _set_word,
    _truncate,
    _extend,
    _cut_out,
    _repeat,
    _splice,
)


def _place(packet: bytearray, chance: random.Random) -> int:
    """Where to change something: mostly among the headers."""
    return chance.randrange(min(len(packet), 96) if chance.random() < 0.8 else len(packet))
