"""What the fast path's program costs a packet, with few and many records and tenants, all of which packets
go to.

Measured twice. By trial runs (BPF_PROG_TEST_RUN), where a program of ours writes every header anew, with
a tenant and a destination by chance, and then jumps to the one that is measured; what the same costs with
a jump to nothing is subtracted. The packet is in the processor's nearest cache then. And under live
traffic by the kernel's own clock (BPF_ENABLE_STATS), from a sender on another processor: that counts what
it costs to fetch the packet from there, and the reading of the clock.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

from gateway.fastpath import kernel
from gateway.fastpath.instance import Instance
from gateway.fastpath.kernel import BpfRefused
from tests.bench import fast_tables
from tests.bench.fast_frames import CONTEXT, Traffic, attach, run
from tests.bench.fast_line import Line, LiveWay, receive_on, traffic
from tests.bench.fast_tables import Counted
from tests.bench.rates import generator_apart, highest_rates_in_turn
from tests.bench.results import CannotMeasure, Result

RUNS = 5
REPEAT = 500_000
WARM_UP = 100_000
LIVE_RATE = 500_000.0
LIVE_SECONDS = 0.3
SIZE = 64

SIDE_BY_SIDE, SCATTERED = 1, 97
"""How far apart the addresses are of the VMs that packets go to. The program has blocks for 256 of them, and
finds those alone where fewer than 16 are so near each other, in a hash table."""

CASES = (
    (1_000, 1, SIDE_BY_SIDE),
    (100_000, 1, SIDE_BY_SIDE),
    (100_000, 100, SIDE_BY_SIDE),
    (100_000, 10_000, SIDE_BY_SIDE),
    (1_000_000, 1, SIDE_BY_SIDE),
    (1_000_000, 1, SCATTERED),
    (1_000_000, 1_000, SIDE_BY_SIDE),
)
"""Records, tenants, and how far apart."""
AIMED_AT = 1_000_000
USED = (10_000, 100_000)
"""To so many of those packets go, too: what is not used costs memory, but no packet any time."""
NANOSECONDS = 150

XDP_REDIRECT = 4

_ENABLE_STATS = 32
_RUN_TIME = struct.Struct("<IIII")
_INFORMATION = 208  # of struct bpf_prog_info: up to and with the two below
_RUN = struct.Struct("<192xQQ")  # run_time_ns, run_cnt


def benchmark() -> Iterator[Result]:
    """Measure one set of tables after the other."""
    try:
        with generator_apart() as processor, Line(processor) as line:
            yield Result("fast path: a read out of 8 MB, by chance", "ns", tuple(_by_fetching(line)))
            for case in CASES:
                yield from _of_tables(line, *case)
    except BpfRefused as refused:
        raise CannotMeasure(str(refused)) from refused


def _of_tables(line: Line, records: int, tenants: int, stride: int) -> Iterator[Result]:
    instance = fast_tables.load(line.edge, tenants, records // tenants, stride)
    sent = traffic(SIZE, tenants=tenants, records=records // tenants, stride=stride)
    spread = ", scattered" if stride == SCATTERED else ""
    kind = f"{records:,} records{spread}, {tenants:,} tenant{'s' * (tenants > 1)}"
    try:
        trials = tuple(_by_trials(line, instance, sent))
        aim = NANOSECONDS if records == AIMED_AT else None
        yield Result(f"fast path: program, {kind}", "ns", trials, at_most=aim)
        for used in USED if (records, tenants, stride) == (AIMED_AT, 1, SIDE_BY_SIDE) else ():
            some = tuple(_by_trials(line, instance, traffic(SIZE, records=used)))
            yield Result(f"fast path: program, {kind}, packets to {used:,} of them", "ns", some)
        with line.edge.call(attach, instance.program, "to-sender"):
            receive_on(line.edge, "to-sender", line.processor)
            live = tuple(_live(line, instance, sent))
            yield Result(f"fast path: program under live traffic, {kind}", "ns", live)
            if records == AIMED_AT and tenants == 1:
                (rates,) = highest_rates_in_turn(LiveWay(line, sent))
                yield Result(f"fast path: XDP, {SIZE} B, {kind}", "packets/s", rates)
    finally:
        instance.close()


def _by_trials(line: Line, instance: Instance, asked: Traffic) -> Iterator[float]:
    frames, counted = line.frames, Counted(instance)
    program = frames.programs["decide"]
    for slot, target in enumerate((frames.programs["nothing"], instance.program)):
        frames.loaded.maps["programs"].update(struct.pack("<I", slot), struct.pack("<I", target))
    context = CONTEXT.pack(0, len(asked.frame()), 0, line.edge.call(socket.if_nametoindex, "to-sender"), 0, 0)

    def cost(slot: int, repeat: int) -> float:
        frames.plan(asked, slot)
        done = line.edge.call(run, program, asked.frame(), repeat=repeat, context=context)
        if done.verdict != XDP_REDIRECT:
            raise AssertionError(f"the verdict is {done.verdict}")
        return done.nanoseconds

    cost(1, WARM_UP)
    counted.carried()
    for _ in range(RUNS):
        nothing = cost(0, REPEAT)
        yield cost(1, REPEAT) - nothing
        if (carried := counted.carried()) != REPEAT:
            raise AssertionError(f"{carried} of {REPEAT} packets were carried")


def _by_fetching(line: Line) -> Iterator[float]:
    def cost(name: str) -> float:
        program = line.frames.programs[name]
        return line.edge.call(run, program, bytes(SIZE), repeat=REPEAT).nanoseconds

    for _ in range(RUNS):
        yield cost("fetch") - cost("nothing")


def _live(line: Line, instance: Instance, asked: Traffic) -> Iterator[float]:
    counted = Counted(instance)
    with _run_time_counted():
        for _ in range(RUNS):
            time_before, count_before = _RUN.unpack(kernel.information(instance.program, _INFORMATION))
            sent = line.frames.send(asked, LIVE_RATE, LIVE_SECONDS)
            time_after, count_after = _RUN.unpack(kernel.information(instance.program, _INFORMATION))
            carried = counted.carried()
            if not sent.arrived == sent.routed == carried == count_after - count_before:
                raise AssertionError(
                    f"of {count_after - count_before} packets {carried} were carried: {sent}"
                )
            yield (time_after - time_before) / carried


@contextlib.contextmanager
def _run_time_counted() -> Iterator[None]:
    """Have the kernel count runs of programs, and the time that they take."""
    fd = kernel.call(_ENABLE_STATS, bytearray(_RUN_TIME.pack(0, 0, 0, 0)), "having the kernel count runs")
    try:
        yield
    finally:
        os.close(fd)
