"""The SPIs that we choose, of IKE SAs and of child SAs (RFC 7296 section 3.1, RFC 4303 section 2.1)."""

from __future__ import annotations

from collections.abc import Callable

from tunnels.ike.entropy import Entropy

SPI_LENGTH = 8
"""Of an IKE SA's, in octets."""
NO_SPI = bytes(SPI_LENGTH)
"""Stands for a responder's that is not chosen yet."""

SpiAllocator = Callable[[], int]
"""Gives an SPI for ESP that nobody else on the node receives at."""


def fresh_spi(entropy: Entropy) -> bytes:
    """Draw an IKE SA's SPI, which may not be zero."""
    while not any(spi := entropy.octets(SPI_LENGTH)):
        continue
    return spi


def never_twice(entropy: Entropy) -> SpiAllocator:
    """Give each SPI of ESP once in four thousand million, without remembering any.

    They have to differ, not to be unforeseeable: packets are told to be genuine by their keys.
    """
    step = int.from_bytes(entropy.octets(4)) | 1  # odd, so that all of them come
    last = int.from_bytes(entropy.octets(4))

    def allocate() -> int:
        nonlocal last
        last = (last + step) % (1 << 32)
        while last <= 255:  # reserved (RFC 4303 section 2.1)
            last = (last + step) % (1 << 32)
        return last

    return allocate
