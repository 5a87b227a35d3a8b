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

import msgspec
import pytest
from rich.console import Console

from tests.soak.account import PUNT_LIMITED, REASONS, Account
from tests.soak.changes import Changer, Done
from tests.soak.edge import BURST, LOOKUP_PORT, Edge
from tests.soak.gauges import Watch
from tests.soak.numbered import FLOOD, SUBNETS, USUAL_CHANCES, Kind, Layout, Numbered
from tests.soak.stream import Stream

pytestmark = pytest.mark.netns

SECONDS = float(os.environ.get("ISTHMUS_SOAK_FASTPATH_SECONDS", "600"))
SHORT = 5.0
CHANGES = 1000.0
"""Records a second."""
A_FEW, ALL_BUT_A_FEW = 0.05, 0.98
"""Of the changes: beside other tests, and alone."""
RELOAD_EVERY = 10.0
FLOOD_EVERY, FLOODED = 15.0, 0.5
"""Seconds between floods of what the fast path leaves to Python, and of each."""
TELL_EVERY = 60.0
QUIET = 0.5


class Engine(msgspec.Struct, frozen=True):
    """A gateway's engine, and what it has to do: packets a second, and of one tenant's, bits a second."""

    name: str
    rate: float
    limit: int
    is_flooded: bool
    """Whether at times more comes that is Python's than that takes."""


PYTHON = Engine("python", 3000.0, 64_000, is_flooded=False)
# What two processors have time for beside a thousand changes a second and those who make them.
XDP = Engine("xdp", 400_000.0, 10_000_000, is_flooded=True)


class Outcome(msgspec.Struct, frozen=True):
    """What has come of a run: packets a second, and seconds from the first to after the last one."""

    account: Account
    done: Done
    rate: float
    seconds: float
    limited_octets: float
    """What the tenant with a limit could have had carried at most."""

    def __str__(self) -> str:
        account, done = self.account, self.done
        report, counts, fast = account.report, account.counts, account.report.fastpath
        lines = [
            f"engine {report.engine}: {account.sent} packets sent, {self.rate / 1e6:.3f} M/s",
            f"judged: { {each.name: packets for each, packets in counts.judged.items() if packets} }",
            f"made within a millisecond after a change of their record was applied: {counts.soon}",
            f"records changed: {done.changed} in {self.seconds:.0f} s",
            f"a claim was answered in: {done.mean * 1e3:.1f} ms (mean), {done.slowest * 1e3:.0f} ms (most)",
            f"dropped: {dict(sorted(account.drops.items()))}",
            f"lost on the way in: {account.on_the_way_in}, on the way out: {account.on_the_way_out}",
            f"lost at Python's sockets: {report.underlay.kernel_drops}",
            f"unaccounted for: {account.unaccounted}",
        ]
        if fast is not None:
            passed = {why: packets for why, packets in fast.passed.items() if packets}
            lines.append(f"fast path: carried {fast.carried}, passed {passed}")
        return "\n".join(lines)


Tell = Callable[[str], None]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    def say(words: str) -> None:
        with capsys.disabled():
            Console(width=200).print(f"\n{words}", highlight=False, markup=False)

    return say


@contextmanager
def running(engine: Engine, layout: Layout) -> Iterator[Edge]:
    with Numbered(layout) as numbered, Edge(numbered, engine.name, engine.limit) as lab:
        _, of_others = processors()
        lab.start_all(of_others)
        assert lab.report().engine == engine.name
        yield lab


def processors() -> tuple[int, int]:
    """One for packets, and one for whoever changes records; the same where there is only one."""
    there = sorted(os.sched_getaffinity(0))
    return there[0], there[-1]


def carry_on(
    lab: Edge, engine: Engine, seconds: float, tell: Tell | None = None, *, is_lying: bool = False
) -> Outcome:
    """Have packets sent and records changed for a while, with reloads in between, and add up."""
    of_packets, of_others = processors()
    affinity = os.sched_getaffinity(0)
    began = time.monotonic()

    async def change() -> tuple[Done, Stream]:
        changer = Changer(lab.numbered, lab.places, lab.token("operator"), is_lying=is_lying)
        await changer.connect(lab.edge, LOOKUP_PORT)
        try:
            async with asyncio.TaskGroup() as tasks:
                beside = [tasks.create_task(reload_now_and_then())]
                if engine.is_flooded:
                    beside.append(tasks.create_task(flood_now_and_then()))
                if tell is not None:
                    beside.append(tasks.create_task(tell_now_and_then(changer.done, tell)))
                with Stream(lab.numbered, lab.talking, of_packets, engine.rate) as stream:
                    await changer.run(CHANGES, seconds)
                for task in beside:
                    task.cancel()
        finally:
            changer.close()
        return changer.done, stream

    async def reload_now_and_then() -> None:
        await asyncio.sleep(min(RELOAD_EVERY, seconds / 2))
        while True:
            await asyncio.to_thread(lab.reload)
            await asyncio.sleep(RELOAD_EVERY)

    async def flood_now_and_then() -> None:
        await asyncio.sleep(min(FLOOD_EVERY, seconds / 4))
        while True:
            lab.numbered.mix(FLOOD)
            await asyncio.sleep(FLOODED)
            lab.numbered.mix(USUAL_CHANCES)
            await asyncio.sleep(FLOOD_EVERY)

    async def tell_now_and_then(done: Done, tell: Tell) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY)
            counts = lab.numbered.counts()
            sent, at = sum(counts.sent.values()), time.monotonic() - began
            tell(
                f"{at:.0f} s: {sent} packets sent, {counts.came} came, {done.changed} records changed, "
                f"{len(done.problems)} not; wrong: {counts.wrong or 'nothing'}"
            )

    try:
        os.sched_setaffinity(0, [of_others])
        done, stream = asyncio.run(change())
    finally:
        os.sched_setaffinity(0, affinity)
    sent = sum(lab.numbered.counts().sent.values())
    # What a socket had no room for is told with the next packet that it has room for.
    with Stream(lab.numbered, lab.talking, of_packets, 400.0):
        time.sleep(0.5)
    took = time.monotonic() - began
    return Outcome(settled(lab), done, sent / stream.seconds, took, BURST + lab.limit / 8 * took)


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
        redirected=sum(each["rx_xdp_redirect"] for each in edge),
        let_pass=sum(
            each["rx_xdp_packets"] - each["rx_xdp_redirect"] - each["rx_xdp_drops"] for each in edge
        ),
    )


def check(lab: Edge, engine: Engine, found: Outcome, seconds: float, least: float) -> None:
    counts = found.account.counts
    problems = [
        *found.account.problems(),
        *found.done.problems[:5],
        *map(str, lab.numbered.offenders()[:5]),
    ]
    assert not problems, "\n".join(problems)
    assert {kind for kind in Kind if counts.sent[kind]} == set(Kind)
    assert all(found.account.drops[reason] for reason in REASONS.values())
    assert (found.account.drops[PUNT_LIMITED] > 0) == engine.is_flooded
    assert sum(counts.to_octets[subnet.index] for subnet in SUBNETS if subnet.tenant == "slow") <= (
        found.limited_octets
    )
    assert found.done.changed >= least * CHANGES * seconds


@pytest.mark.parametrize(
    "engine",
    [pytest.param(PYTHON, marks=(pytest.mark.interop, pytest.mark.long)), XDP],
    ids=lambda engine: engine.name,
)
def test_while_records_change_no_packet_goes_to_where_one_was_and_all_are_accounted_for(
    require_bpf: None, require_tools: Callable[..., None], tell: Tell, engine: Engine
) -> None:
    require_tools("ethtool", "taskset", "ping")
    with running(engine, Layout(shift=10)) as lab:
        found = carry_on(lab, engine, SHORT)
        tell(str(found))
        check(lab, engine, found, SHORT, A_FEW)


def test_changes_that_are_told_to_be_applied_and_are_not_are_found(
    require_bpf: None, require_tools: Callable[..., None]
) -> None:
    require_tools("ethtool", "taskset", "ping")
    with running(PYTHON, Layout(shift=10)) as lab:
        found = carry_on(lab, PYTHON, 2.0, is_lying=True).account

        assert set(found.counts.wrong) == {"STALE"}
        assert found.counts.wrong["STALE"] > 0.2 * found.sent
        assert found.unaccounted == 0
        assert all(offender.since < offender.at for offender in lab.numbered.offenders())


@pytest.mark.soak
def test_at_full_rate_for_a_long_time_nothing_is_stale_and_the_counters_add_up(
    require_bpf: None, require_tools: Callable[..., None], tell: Tell
) -> None:
    require_tools("ethtool", "taskset", "ping")
    with running(XDP, Layout()) as lab:
        pids = {"edge-1": lab.gateway.pid, "lookup": lab.lookup.pid}
        with Watch(lambda: pids) as watch:
            # By then what is kept for whoever watches the lookup service is as much as it ever is.
            warm = time.monotonic() + SECONDS / 2
            found = carry_on(lab, XDP, SECONDS, tell)
        sizes = {name: f"{gauge.resident / 1e6:.0f} MB" for name, gauge in watch.last().items()}
        tell(f"{found}\nmemory: {sizes}")
        check(lab, XDP, found, SECONDS, ALL_BUT_A_FEW)
        assert watch.problems(warm) == []
