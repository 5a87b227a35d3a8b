"""What grows is told from what wobbles."""

from __future__ import annotations

import os

import pytest

from tests.soak.gauges import Gauge, growth, read


def gauges(*, leak: float = 0.0, wobble: int = 0, descriptors: int = 20, lost: int = 0) -> list[Gauge]:
    """A process looked at every five seconds for ten minutes."""
    return [
        Gauge(
            at=5.0 * n,
            resident=int(100_000_000 + leak * 5.0 * n + wobble * (n % 2)),
            descriptors=descriptors + n % 3 + lost * n // 60,
            threads=3,
        )
        for n in range(120)
    ]


def test_what_wobbles_does_not_grow() -> None:
    assert growth(gauges(wobble=5_000_000)) == []


def test_memory_that_leaks_is_told() -> None:
    assert growth(gauges(leak=10_000.0, wobble=1_000_000)) == ["memory has grown by 6.0 MB in 595 s"]


def test_descriptors_that_are_not_closed_are_told() -> None:
    assert growth(gauges(lost=4)) == ["descriptors have grown from 24 to 25"]


def test_a_process_can_be_looked_at() -> None:
    gauge = read(os.getpid())

    assert gauge.resident > 1_000_000
    assert gauge.descriptors > 2
    with pytest.raises(OSError):
        read(2**22 + 1)
