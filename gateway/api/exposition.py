"""Metrics as text, in Prometheus's own format and in OpenMetrics: series by series, since there may be many.

Prometheus knows no info: there it is a gauge. It names the type of a counter's series, with its _total,
where OpenMetrics names that of the metric.
"""

from __future__ import annotations

from itertools import accumulate

from gateway.api.families import Family, Kind
from gateway.http.measures import BUCKETS, Histogram

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"

END = "# EOF\n"
"""The last line of OpenMetrics."""

Values = tuple[str, ...]
"""Of a family's labels, in their order."""

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_BOUNDS = (*(str(bound) for bound in BUCKETS), "+Inf")


def head(family: Family, *, is_open: bool) -> str:
    """Return what comes before a metric's series."""
    if is_open:
        name, kind = family.name.removesuffix("_total").removesuffix("_info"), family.kind
    else:
        name, kind = family.name, Kind.GAUGE if family.kind is Kind.INFO else family.kind
    return f"# HELP {name} {family.help}\n# TYPE {name} {kind}\n"


def series(family: Family, values: Values, value: float | Histogram) -> str:
    """Return one series: a line, or of a histogram several."""
    labels = ",".join(
        [f'{name}="{each.translate(_ESCAPES)}"' for name, each in zip(family.labels, values, strict=True)]
    )
    if not isinstance(value, Histogram):
        # What is true or false is a number here.
        return f"{family.name}{{{labels}}} {+value!r}\n"
    counts = list(accumulate(value.counts))
    before = f"{labels}," if labels else ""
    buckets = [
        f'{family.name}_bucket{{{before}le="{bound}"}} {count}\n'
        for bound, count in zip(_BOUNDS, counts, strict=True)
    ]
    count = f"{family.name}_count{{{labels}}} {counts[-1]}\n"
    return f"{''.join(buckets)}{count}{family.name}_sum{{{labels}}} {value.seconds!r}\n"
