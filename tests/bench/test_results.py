from __future__ import annotations

import pytest

from tests.bench.results import Result, ratio, to_json

KERNEL = Result("kernel", "packets/s", (90.0, 100.0, 500.0))
GATEWAY = Result("gateway", "packets/s", (60.0, 50.0, 1.0), against="kernel", at_least=40.0)


def test_a_report_gives_the_median_and_the_ratio_to_what_it_is_compared_with() -> None:
    assert to_json([KERNEL, GATEWAY]) == {
        "kernel": {"value": 100.0, "unit": "packets/s", "min": 90.0, "max": 500.0},
        "gateway": {
            "value": 50.0,
            "unit": "packets/s",
            "min": 1.0,
            "max": 60.0,
            "ratio": 0.5,
            "against": "kernel",
        },
    }


def test_a_comparison_with_what_was_not_measured_is_refused() -> None:
    with pytest.raises(LookupError, match="was not measured"):
        ratio(GATEWAY, [GATEWAY])


def test_a_comparison_of_different_units_is_refused() -> None:
    with pytest.raises(LookupError, match="in s"):
        ratio(GATEWAY, [Result("kernel", "s", (1.0,)), GATEWAY])


def test_an_aim_is_reached_by_the_median_and_not_by_the_best_run() -> None:
    assert GATEWAY.reached
    assert not Result("slow", "s", (1.0, 11.0, 12.0), at_most=10).reached
