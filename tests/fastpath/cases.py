"""All cases that both engines are held to, by what they are about."""

from __future__ import annotations

from tests.fastpath import (
    cases_carried,
    cases_found,
    cases_inner,
    cases_limits,
    cases_marks,
    cases_outer,
    cases_permitted,
    cases_rates,
    cases_sources,
)

CASES = (
    *cases_carried.CASES,
    *cases_limits.CASES,
    *cases_outer.CASES,
    *cases_inner.CASES,
    *cases_marks.CASES,
    *cases_sources.CASES,
    *cases_found.CASES,
    *cases_permitted.CASES,
    *cases_rates.CASES,
)
