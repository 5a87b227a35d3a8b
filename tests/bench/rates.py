"""The highest rate at which a way from one namespace to another loses at most 1 %."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from gateway.lab.namespaces import LabError, Namespace
from gateway.lab.processes import Process
from gateway.lab.userns import is_privileged
from tests.bench.generator import Generator
from tests.bench.results import CannotMeasure

RUNS = 3
SECONDS = 1.0
LOSS = 0.01
# No passing disturbance takes this much.
HOPELESS_LOSS = 0.2

LOWEST_RATE = 5_000.0
FLAT_OUT = 1e9
BISECTIONS = 5

# Below what is carried at most, so that none of the time goes into packets that are lost.
SHARE_FOR_PROCESSOR_TIME = 0.7
SECONDS_FOR_PROCESSOR_TIME = 2.0

# What arrives later than this was lost; and a way is at rest if nothing arrives for as long.
LATEST = 0.05

# What else runs on this machine is to take little from what is measured.
NICENESS = -10


class Tried(Protocol):
    """What a rate can be tried of."""

    def trial(self, rate: float) -> tuple[float, float]:
        """Send at a rate; return how many a second arrived, and the share that was lost."""


class Way(msgspec.Struct, frozen=True):
    """From the interface eth0 of one namespace to that of another."""

    sender: Namespace
    receiver: Namespace
    frames: Sequence[bytes]

    def send(self, rate: float, seconds: float) -> tuple[int, float]:
        """Send at a rate; return how many were sent, and in how many seconds."""
        return self.sender.call(_send, self.frames, rate, seconds)

    def carry(self, rate: float, seconds: float) -> tuple[int, int, float]:
        """Send at a rate; return how many were sent, how many arrived, and in how many seconds."""
        before = self._at_rest()
        sent, elapsed = self.send(rate, seconds)
        time.sleep(LATEST)
        return sent, received_packets(self.receiver) - before, elapsed

    def trial(self, rate: float) -> tuple[float, float]:
        """Send at a rate; return how many a second arrived, and the share that was lost."""
        sent, arrived, elapsed = self.carry(rate, SECONDS)
        return arrived / elapsed, 1 - arrived / sent

    def highest_rates(self) -> tuple[float, ...]:
        """Search the highest rate several times."""
        return highest_rates_in_turn(self)[0]

    def sending_rate(self) -> float:
        """Return how many packets a second are sent at most, whatever becomes of them."""
        sent, _, elapsed = self.carry(FLAT_OUT, SECONDS)
        return sent / elapsed

    def processor_time(self, processes: Iterable[Process], rate: float) -> float:
        """Send at a rate, and return the processor time that processes take for each packet, in seconds."""
        # clock_getcpuclockid(3): all of a process's threads.
        clocks = [~process.pid << 3 | 2 for process in processes]
        before = sum(map(time.clock_gettime, clocks))
        _, arrived, _ = self.carry(rate, SECONDS_FOR_PROCESSOR_TIME)
        return (sum(map(time.clock_gettime, clocks)) - before) / max(arrived, 1)

    def processor_times(self, processes: Collection[Process], highest: float) -> tuple[float, ...]:
        """Measure several times, in microseconds, at a rate well below the highest that is carried."""
        rate = SHARE_FOR_PROCESSOR_TIME * highest
        return tuple(self.processor_time(processes, rate) * 1e6 for _ in range(RUNS))

    def _at_rest(self) -> int:
        """Wait until nothing arrives any more, and return how many packets have."""
        seen = -1
        while seen != (seen := received_packets(self.receiver)):
            time.sleep(LATEST)
        return seen


def highest_rates_in_turn(*ways: Tried) -> list[tuple[float, ...]]:
    """Search the highest rates of ways in turn, several times: what disturbs one disturbs the others."""
    rates: list[list[float]] = [[] for _ in ways]
    for _ in range(RUNS):
        for way, found in zip(ways, rates, strict=True):
            lowest = max(found[-1] / 2, LOWEST_RATE) if found else LOWEST_RATE
            found.append(highest_rate(way.trial, lowest))
    return [tuple(found) for found in rates]


def highest_rate(trial: Callable[[float], tuple[float, float]], lowest: float = LOWEST_RATE) -> float:
    """Search the highest rate at which at most 1 % is lost, and return what arrived a second.

    `trial` sends at a rate, and returns what arrived a second and the share that was
    lost. `lowest` is where to begin; it may turn out to be too much.
    """
    best, reached, rate = 0.0, 0.0, lowest
    failed: float | None = None
    bisected = 0
    while bisected < BISECTIONS:
        arrived, loss = trial(rate)
        if LOSS < loss < HOPELESS_LOSS:  # once more, for something else may have had the processor
            arrived, loss = trial(rate)
        if loss <= LOSS:
            best, reached = max(best, arrived), rate
            if arrived < 0.9 * rate:  # the generator itself sends no faster
                break
        else:
            failed = rate
        bisected += failed is not None
        rate = rate * 2 if failed is None else (reached + failed) / 2
    return best


@contextlib.contextmanager
def generator_apart() -> Iterator[int]:
    """Keep the generator, which runs in this thread, to one processor; return another one, if there is any.

    What is started meanwhile has that processor and our priority, unless it is told
    otherwise. Raises CannotMeasure where no namespaces can be made.
    """
    if not is_privileged():
        raise CannotMeasure("this needs network namespaces")
    processors = os.sched_getaffinity(0)
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.sched_setaffinity(0, [min(processors)])
        with contextlib.suppress(PermissionError):  # an ordinary user's is as it is
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
        yield max(processors)
    finally:
        os.sched_setaffinity(0, processors)
        os.setpriority(os.PRIO_PROCESS, 0, niceness)


def receive_on(namespace: Namespace, processor: int) -> str:
    """Have a processor receive what comes to interfaces that are made in a namespace from now on.

    Otherwise the kernel does all of its work on the sender's processor. Returns a
    remark for the names of the results where that is so.
    """
    try:
        namespace.sysctl({"net/core/rps_default_mask": f"{1 << processor:x}"})
    except LabError:  # since Linux 6.3
        return ", kernel on the generator's processor"
    return ""


def received_packets(namespace: Namespace) -> int:
    """Return how many packets the namespace's eth0 has received."""
    for line in namespace.call(Path("/proc/thread-self/net/dev").read_text).splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "eth0":
            return int(counters.split()[1])
    raise LabError(f"{namespace.name} has no eth0")


def _send(frames: Sequence[bytes], rate: float, seconds: float) -> tuple[int, float]:
    with Generator("eth0", frames) as generator:
        return generator.run(rate, seconds)
