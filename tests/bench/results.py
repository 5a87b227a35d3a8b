"""What a benchmark yields, and how results become a table and `build/bench.json`."""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import msgspec
from rich.table import Table

Outcome = TypeVar("Outcome")


class CannotMeasure(Exception):
    """This machine lacks what the benchmark needs; the message says what."""


class Result(msgspec.Struct, frozen=True):
    """One figure, measured several times in this run."""

    name: str
    unit: str
    samples: tuple[float, ...]
    against: str | None = None
    """The name of an earlier result of the same unit that this one is compared with."""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def value(self) -> float:
        return statistics.median(self.samples)

    @property
    def aim(self) -> str:
        if self.at_least is not None:
            return f">= {_number(self.at_least)}"
        return f"<= {_number(self.at_most)}" if self.at_most is not None else ""

    @property
    def reached(self) -> bool:
        """Whether the median is where it was meant to be; without an aim it is."""
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )


Benchmark = Callable[[], Iterator[Result]]


def in_fresh_process(function: Callable[[], Outcome]) -> Outcome:
    """Run a function of a module's top level in a new interpreter that owes nothing to what ran before."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
        return pool.submit(function).result()


def ratio(result: Result, results: Sequence[Result]) -> float | None:
    """How many times as large as the result that it is compared with. Raises LookupError if there is none."""
    if result.against is None:
        return None
    for other in results:
        if other.name == result.against:
            if other.unit != result.unit:
                raise LookupError(f"{result.name} is in {result.unit}, {other.name} in {other.unit}")
            return result.value / other.value
    raise LookupError(f"{result.name} is compared with {result.against}, which was not measured")


def to_json(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Build `{name: {value, unit, min, max}}`, with `ratio` and `against` where it is a comparison."""
    report: dict[str, dict[str, Any]] = {}
    for result in results:
        entry: dict[str, Any] = {
            "value": result.value,
            "unit": result.unit,
            "min": min(result.samples),
            "max": max(result.samples),
        }
        if result.against is not None:
            entry |= {"ratio": ratio(result, results), "against": result.against}
        report[result.name] = entry
    return report


def to_table(results: Sequence[Result]) -> Table:
    """Lay the results out for a person."""
    table = Table(title="medians, with the lowest and highest of the runs")
    for heading in ("what", "median", "lowest", "highest", "unit", "compared", "aim"):
        table.add_column(heading, justify="left" if heading in {"what", "unit"} else "right")
    for result in results:
        times = ratio(result, results)
        table.add_row(
            result.name,
            _number(result.value),
            _number(min(result.samples)),
            _number(max(result.samples)),
            result.unit,
            f"{times:.2f} x {result.against}" if times is not None else "",
            result.aim if result.reached else f"[red]{result.aim}[/]",
        )
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"
