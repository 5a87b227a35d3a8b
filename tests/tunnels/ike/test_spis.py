"""SPIs of a node, for all its sites."""

from __future__ import annotations

from tests.tunnels.ike.entropy import SeededEntropy
from tunnels.ike.spis import fresh_spi, never_twice


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


def test_spi_of_an_ike_sa_is_never_zero() -> None:
    class FirstZeros(SeededEntropy):
        drawn = 0

        def octets(self, count: int) -> bytes:
            self.drawn += 1
            return bytes(count) if self.drawn < 3 else super().octets(count)

    assert any(fresh_spi(FirstZeros(1)))
