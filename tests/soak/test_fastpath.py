"""A gateway at full rate while a thousand records a second change: nothing goes where one was, all adds up.

ISTHMUS_SOAK_FASTPATH_SECONDS is how long the long run is: 600 unless it says otherwise. Each packet is judged
where it comes out (numbered.bpf.c), by what the lookup service and the gateway themselves say of each change:
once the gateway is known to have applied it, no packet that is made later may go to where the record was.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

from tests.soak.account import Account
from tests.soak.changes import Changer, Done
from tests.soak.edge import LOOKUP_PORT, Edge
from tests.soak.gauges import Watch
from tests.soak.numbered import Kind, Layout, Numbered, Stream

pytestmark = pytest.mark.netns

SECONDS = float(os.environ.get("ISTHMUS_SOAK_FASTPATH_SECONDS", "600"))
CHANGES = 1000.0
"""Records a second."""
SHORT = 5.0
SLOWLY = 3000.0
"""Packets a second that Python carries beside all else."""
RELOAD_EVERY = 10.0
A_FEW, ALL_BUT_A_FEW = 0.05, 0.98
"""Of the changes: beside other tests, and alone."""
QUIET = 0.5
ALL_KINDS = frozenset(Kind)


@contextmanager
def running(engine: str) -> Iterator[Edge]:
    with Numbered(Layout()) as numbered, Edge(numbered, engine) as lab:
        _, of_others = processors()
        lab.start_all(of_others)
        assert lab.report().engine == engine
        yield lab


def processors() -> tuple[int, int]:
    """One for packets, and one for whoever changes records; the same where there is only one."""
    there = sorted(os.sched_getaffinity(0))
    return there[0], there[-1]


def carry_on(
    lab: Edge, seconds: float, rate: float | None, *, is_lying: bool = False
) -> tuple[Account, Done, float]:
    """Have packets sent and records changed for a while; return what came of both, and packets a second."""
    of_packets, of_others = processors()
    affinity = os.sched_getaffinity(0)

    async def change() -> tuple[Done, float]:
        changer = Changer(lab.numbered, lab.places, lab.token("operator"), is_lying=is_lying)
        await changer.connect(lab.edge, LOOKUP_PORT)
        try:
            async with asyncio.TaskGroup() as tasks:
                reloads = tasks.create_task(reload_now_and_then())
                before = lab.numbered.counts()
                with Stream(lab.numbered, lab.talking, of_packets, rate) as stream:
                    await changer.run(CHANGES, seconds)
                sent = sum((lab.numbered.counts().sent - before.sent).values())
                reloads.cancel()
        finally:
            changer.close()
        return changer.done, sent / stream.seconds

    async def reload_now_and_then() -> None:
        await asyncio.sleep(min(RELOAD_EVERY, seconds / 2))
        while True:
            await asyncio.to_thread(lab.reload)
            await asyncio.sleep(RELOAD_EVERY)

    try:
        os.sched_setaffinity(0, [of_others])
        done, reached = asyncio.run(change())
    finally:
        os.sched_setaffinity(0, affinity)
    # What a socket had no room for is told with the next packet that it has room for.
    with Stream(lab.numbered, lab.talking, of_packets, 400.0):
        time.sleep(0.5)
    return settled(lab), done, reached


def settled(lab: Edge) -> Account:
    """Wait until nothing is under way any more, and add up."""
    seen = None
    while True:
        found = account(lab)
        report = found.report
        if seen == (seen := (found.counts, report.drops, report.meters, report.notices, report.underlay)):
            return found
        time.sleep(QUIET)


def account(lab: Edge) -> Account:
    talking, edge = lab.queues(lab.talking, "g0"), [lab.queues(lab.edge, f"eth{n}") for n in range(3)]
    return Account(
        lab.numbered.counts(),
        lab.report(),
        on_the_way_in=talking["tx_xdp_xmit_errors"],
        on_the_way_out=sum(each["tx_xdp_xmit_errors"] + each["rx_xdp_redirect_errors"] for each in edge),
    )


def told(lab: Edge, found: Account, done: Done, reached: float) -> str:
    """All of it in a few lines."""
    report, counts = found.report, found.counts
    fast = report.fastpath
    carried = (
        f"fast path: carried {fast.carried}, passed {fast.passed}" if fast is not None else "no fast path"
    )
    return f"""engine {report.engine}: {found.sent} packets sent ({reached / 1e6:.3f} M/s), {counts.came} came
judged: { {each.name: packets for each, packets in counts.judged.items() if packets} }
changed: {done.changed} records, each in {done.mean * 1e3:.1f} ms (mean), {done.slowest * 1e3:.0f} ms (most)
dropped: {dict(sorted(found.drops.items()))}, by the kernel {report.underlay.kernel_drops}
lost on the way in {found.on_the_way_in}, out {found.on_the_way_out}; unaccounted {found.unaccounted}
{carried}"""


def say(capsys: pytest.CaptureFixture[str], words: str) -> None:
    with capsys.disabled():
        Console(width=200).print(f"\n{words}", highlight=False, markup=False)


def check(lab: Edge, found: Account, done: Done, seconds: float, least: float) -> None:
    problems = [*found.problems(), *done.problems[:5], *map(str, lab.numbered.offenders()[:5])]
    assert problems == []
    assert {kind for kind in Kind if found.counts.sent[kind]} == ALL_KINDS
    assert done.changed >= least * CHANGES * seconds


@pytest.mark.parametrize(("engine", "rate"), [("python", SLOWLY), ("xdp", None)])
def test_while_records_change_no_packet_goes_to_where_one_was_and_all_are_accounted_for(
    require_bpf: None,
    require_tools: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    engine: str,
    rate: float | None,
) -> None:
    require_tools("ethtool", "taskset", "ping")
    with running(engine) as lab:
        found, done, reached = carry_on(lab, SHORT, rate)
        say(capsys, told(lab, found, done, reached))
        check(lab, found, done, SHORT, A_FEW)


def test_changes_that_are_told_to_be_applied_and_are_not_are_found(
    require_bpf: None, require_tools: Callable[..., None]
) -> None:
    require_tools("ethtool", "taskset", "ping")
    with running("python") as lab:
        found, _, _ = carry_on(lab, 2.0, SLOWLY, is_lying=True)

        assert set(found.counts.wrong) == {"STALE"}
        assert found.counts.wrong["STALE"] > 0.2 * found.sent
        assert found.unaccounted == 0
        assert all(offender.since < offender.at for offender in lab.numbered.offenders())


@pytest.mark.soak
def test_at_full_rate_for_a_long_time_nothing_is_stale_and_the_counters_add_up(
    require_bpf: None, require_tools: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    require_tools("ethtool", "taskset", "ping")
    with running("xdp") as lab:
        pids = {"edge-1": lab.gateway.pid, "lookup": lab.lookup.pid}
        with Watch(lambda: pids) as watch:
            warm = time.monotonic() + SECONDS / 5
            found, done, reached = carry_on(lab, SECONDS, None)
        sizes = {name: f"{gauge.resident / 1e6:.0f} MB" for name, gauge in watch.last().items()}
        say(capsys, f"{told(lab, found, done, reached)}\nmemory: {sizes}")
        check(lab, found, done, SECONDS, ALL_BUT_A_FEW)
        assert watch.problems(warm) == []
