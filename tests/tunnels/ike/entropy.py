"""Entropy that is the same in each run."""

from __future__ import annotations

import random


class SeededEntropy:
    """Gives the same octets again for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def octets(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def fraction(self) -> float:
        return self._random.random()
