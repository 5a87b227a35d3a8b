"""One table of cases, held against both engines: Python, and the XDP program."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from select import select

import pytest

from tests.fastpath.cases import CASES
from tests.fastpath.oracle import Judged, Metered, Oracle
from tests.fastpath.outcomes import Case, Dropped, Expected, Forwarded, Passed, Told, Why, World
from tests.fastpath.program import Ended, Left, Machine, Program, may_count

EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=[case.description for case in CASES])


def test_every_case_is_another_one_and_every_reason_to_pass_is_shown() -> None:
    assert len({case.description for case in CASES}) == len(CASES) >= 120
    assert len({(case.frame, case.interface, id(case.world)) for case in CASES}) == len(CASES)
    shown = {case.expected.why for case in CASES if isinstance(case.expected, Passed)}
    assert shown == set(Why)


@EVERY_CASE
def test_python_decides_as_the_case_says(case: Case) -> None:
    oracle = Oracle(case.world)
    for frame in case.before:
        oracle.judge(frame, case.interface)
    judged = oracle.judge(case.frame, case.interface)
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
    if is_limited(case.world):
        pytest.skip("the first frame has taken what there was")
    oracle = Oracle(case.world)
    first: Judged = oracle.judge(case.frame, case.interface)
    assert oracle.judge(case.frame, case.interface) == first


def is_limited(world: World) -> bool:
    """Whether a frame may take from a tenant's rate what the next one would need."""
    return any(tenant.limits is not None for tenant in world.network.tenants)


class Programs:
    """The program in one world after the other."""

    def __init__(self) -> None:
        self._machine = Machine()
        self._now: tuple[World, Program] | None = None

    def within(self, world: World) -> Program:
        """What has been written is used once more, unless a rate may have been used up."""
        if self._now is None or self._now[0] is not world or is_limited(world):
            self._now = world, self._machine.within(world)
        return self._now[1]

    def listen(self) -> AbstractContextManager[dict[str, socket.socket]]:
        """Hear what really leaves. Whatever had been written is gone then."""
        self._now = None
        return self._machine.far_ends()

    def close(self) -> None:
        self._machine.close()


@pytest.fixture(scope="module")
def programs(require_bpf: None) -> Iterator[Programs]:
    made = Programs()
    yield made
    made.close()


@pytest.mark.netns
@EVERY_CASE
def test_program_decides_as_the_case_says_or_passes_for_the_reason_that_it_names(
    case: Case, programs: Programs
) -> None:
    program = programs.within(case.world)
    for frame in case.before:
        program.run(frame, case.interface)
    ran = program.run(case.frame, case.interface)
    expected = case.expected
    if isinstance(expected, Passed):
        assert isinstance(ran.outcome, Left)
        assert ran.outcome.frame == case.frame
        assert ran.outcome.counted in may_count(expected)
        assert ran.drops == {}
    elif isinstance(expected, Dropped):
        assert ran.outcome == Ended()
        assert ran.drops == {(expected.reason, expected.tenant): 1}
    else:
        assert ran.outcome == expected
        assert ran.drops == {}
    assert ran.metered == counted(expected)


@pytest.mark.netns
def test_each_frame_leaves_by_the_interface_that_its_next_hop_is_behind(programs: Programs) -> None:
    sent = 0
    with programs.listen() as far_ends:
        for case in CASES:
            if isinstance(case.expected, Forwarded) and not case.before:
                programs.within(case.world).send(case.frame, case.interface)
                far = far_ends[case.expected.interface]
                assert select([far], [], [], 10)[0], case.description
                assert far.recv(4096) == case.expected.frame, case.description
                assert select(far_ends.values(), [], [], 0)[0] == [], case.description
                sent += 1
    assert sent > 100
