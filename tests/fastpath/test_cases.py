"""One table of cases, held against both engines: Python, and the XDP program."""

from __future__ import annotations

import pytest

from tests.fastpath.cases import CASES
from tests.fastpath.oracle import Judged, Metered, Oracle
from tests.fastpath.outcomes import Case, Dropped, Expected, Forwarded, Passed, Told, Why

EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=[case.description for case in CASES])


def test_every_case_is_another_one_and_every_reason_to_pass_is_shown() -> None:
    assert len({case.description for case in CASES}) == len(CASES) >= 120
    assert len({(case.frame, case.interface, id(case.world)) for case in CASES}) == len(CASES)
    shown = {case.expected.why for case in CASES if isinstance(case.expected, Passed)}
    assert shown == set(Why)


@EVERY_CASE
def test_python_decides_as_the_case_says(case: Case) -> None:
    judged = Oracle(case.world).judge(case.frame, case.interface)
    expected = case.expected.python if isinstance(case.expected, Passed) else case.expected
    assert judged.outcome == expected
    if isinstance(expected, Dropped | Told):
        assert judged.drops == {(expected.reason, expected.tenant): 1}
    else:
        assert judged.drops == {}
    if not isinstance(case.expected, Passed):
        assert judged.metered == counted(case.expected)


def counted(expected: Expected) -> Metered:
    """What is counted for virtual subnets where a frame goes on, or does not."""
    if not isinstance(expected, Forwarded):
        return Metered()
    count = 1, expected.octets
    return Metered({expected.sent: count} if expected.sent is not None else {}, {expected.received: count})


@EVERY_CASE
def test_python_decides_the_same_once_more_when_it_knows_the_flow(case: Case) -> None:
    if any(tenant.limits is not None for tenant in case.world.network.tenants):
        pytest.skip("the first frame has taken what there was")
    oracle = Oracle(case.world)
    first: Judged = oracle.judge(case.frame, case.interface)
    assert oracle.judge(case.frame, case.interface) == first
