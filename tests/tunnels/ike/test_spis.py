"""SPIs of a node, for all its sites."""

from __future__ import annotations

from tests.tunnels.ike.entropy import SeededEntropy
from tunnels.ike.spis import never_twice


def test_no_spi_comes_twice_and_none_is_reserved() -> None:
    for seed in range(5):
        allocate = never_twice(SeededEntropy(seed))
        spis = [allocate() for _ in range(20_000)]
        assert len(set(spis)) == len(spis)
        assert all(255 < spi < 1 << 32 for spi in spis)


class Zeros:
    def octets(self, count: int) -> bytes:
        return bytes(count)

    def fraction(self) -> float:
        return 0.0


def test_reserved_ones_are_passed_over() -> None:
    assert never_twice(Zeros())() == 256
