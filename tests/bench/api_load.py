"""How much of its forwarding the gateway keeps while everybody asks its HTTP interface.

The line of `live`, once with the lookup service in the gateway's own process and once with it as a
process of its own, which the gateway follows. The gateway has edge's processor, with the kernel
that handles its packets there. Everybody else has the other one: the generator, who goes first,
those who ask, and the lookup service where it is apart; on the gateway's it would be one more
process that takes turns with it, and not what is measured.

Forwarding is measured in turn without load, while look-ups are asked for as fast as they are
answered, and while batches, wrong tokens, nonsense and connections that hardly say anything come
as well: what disturbs one disturbs the others.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from gateway.lab.namespaces import TOOL_PATH, LabError, tool
from gateway.lab.processes import Process
from tests.bench import live, lookup_node
from tests.bench.rates import NICENESS, Way, generator_apart, highest_rate
from tests.bench.results import CannotMeasure, Result
from tests.configurations import provider_gateway, table, token

ROUNDS = 5
PORT = 7637
URL = f"http://127.0.0.1:{PORT}"
SETTLE = 1.0

# So that the generator, on the same processor, is not what they disturb.
NICENESS_OF_ASKERS = 10

ONE_PROCESS, APART = "one process", "lookup service apart"
AIMS = {ONE_PROCESS: 0.5, APART: 0.95}

_TOKENS = {"operator": "operator", "edge-1": "gateway"}

_RESOLVE = """
wrk.headers["Authorization"] = "Bearer {token}"
"""
_RESOLVE_MANY = """
wrk.method = "POST"
wrk.headers["Authorization"] = "Bearer {token}"
wrk.headers["Content-Type"] = "application/json"
local one = '{{"vsid":5001,"ca":"10.0.1.5"}}'
wrk.body = "[" .. string.rep(one .. ",", 999) .. one .. "]"
"""
_STRANGER = """
wrk.headers["Authorization"] = "Bearer not-{name}"
"""


class Load(msgspec.Struct, frozen=True):
    """Somebody who asks: wrk's connections, path and script; or, without a path, the unruly."""

    name: str
    connections: int = 0
    path: str = ""
    script: str = ""


RESOLVES = Load("look-ups", 32, "/v1/records/5001/10.0.1.5", _RESOLVE)
EVERYTHING = (
    RESOLVES,
    Load("batches", 2, "/v1/resolve", _RESOLVE_MANY),
    Load("wrong tokens", 8, "/v1/status", _STRANGER),
    Load("the unruly"),
)
LOADS = {"look-ups": (RESOLVES,), "everything": EVERYTHING}


class Answered(msgspec.Struct, frozen=True):
    """What wrk says of a run: answers a second, and by when 99 of 100 had come, in milliseconds."""

    rate: float
    p99: float


class Asked(live.Line):
    """The line, and the HTTP interface that is asked in edge."""

    def __init__(self, processor: int, others: int, *, is_apart: bool) -> None:
        super().__init__(processor)
        self._others = others
        self._is_apart = is_apart

    def build(self) -> None:
        super().build()
        for name in _TOKENS:
            file = self.directory / f"{name}.token"
            file.touch(mode=0o600)
            file.write_text(f"secret-of-{name}-and-of-nobody-else\n")
        if self._is_apart:
            file = self.directory / "lookup.toml"
            appliance = table("[appliance]", name="lookup-1", state=self.directory / "lookup-state")
            file.write_text(appliance + self._lookup() + self.network())
            service = self.start_python("lookup", self.namespaces["edge"], "gateway.cli", "run", str(file))
            keep_to(service.pid, self._others)
            service.wait_for("ready: ")

    def start_gateway(self) -> Process:
        gateway = super().start_gateway()
        # It leads a session of its own, and of sessions those go first that say so (sched(7)).
        with contextlib.suppress(OSError):
            Path(f"/proc/{gateway.pid}/autogroup").write_text(str(NICENESS))
        return gateway

    def configuration(self) -> str:
        head = self.gateway()
        if self._is_apart:
            return f'{head}lookup = ["{URL}"]\ntoken_file = "{self.directory}/edge-1.token"\n'
        return head + self._lookup() + self.network()

    @contextlib.contextmanager
    def under(self, loads: Sequence[Load]) -> Iterator[list[Answered]]:
        """Have everybody ask for as long as the block lasts; then the list has what wrk says."""
        found: list[Answered] = []
        running = [self._start(load) for load in loads]
        time.sleep(SETTLE if loads else 0.0)
        yield found
        for load, process in zip(loads, running, strict=True):
            process.send_signal(signal.SIGINT if load.path else signal.SIGTERM)
            process.wait(timeout=20)
            if load.path:
                found.append(answered(process.output()))

    def _start(self, load: Load) -> Process:
        edge = self.namespaces["edge"]
        if load.path:
            script = self.directory / f"{load.name}.lua"
            secret = (self.directory / "operator.token").read_text().strip()
            script.write_text(load.script.format(token=secret, name="known"))
            argv = [tool("wrk"), "--threads", "1", "--duration", "3600", "--latency", "--timeout", "10"]
            argv += ["--connections", str(load.connections), "--script", str(script), URL + load.path]
            process = self.start(load.name, edge, *argv)
        else:
            process = self.start_python("unruly", edge, "tests.bench.unruly", str(PORT))
        keep_to(process.pid, self._others, NICENESS_OF_ASKERS)
        return process

    def _lookup(self) -> str:
        tokens = (token("lookup", name, role) for name, role in _TOKENS.items())
        return table("[lookup]", listen=f"127.0.0.1:{PORT}") + "".join(tokens)

    def network(self) -> str:
        return provider_gateway("edge-1", live.EDGE) + super().network()


def answered(output: str) -> Answered:
    """Read wrk's report. Raises LabError if there is none."""
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s|m)\b", output)
    if rate is None or p99 is None:
        raise LabError(f"wrk has reported nothing:\n{output}")
    return Answered(float(rate[1]), float(p99[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}[p99[2]])


def keep_to(pid: int, processor: int, niceness: int | None = None) -> None:
    """Keep all threads of a process to a processor."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), [processor])
        if niceness is not None:
            os.setpriority(os.PRIO_PROCESS, int(thread.name), niceness)


def benchmark() -> Iterator[Result]:
    """Measure both ways of running the lookup service."""
    if shutil.which("wrk", path=TOOL_PATH) is None:
        raise CannotMeasure("this needs wrk: make peers")
    with generator_apart() as processor, lookup_node.at_first():
        others = min(os.sched_getaffinity(0))
        for way_of_running, aim in AIMS.items():
            with Asked(processor, others, is_apart=way_of_running == APART) as line:
                yield from _measure(line, way_of_running, aim)


def _measure(line: Asked, title: str, aim: float) -> Iterator[Result]:
    line.start_gateway()
    way = line.way(live.EDGE, 64)
    _wait_until_forwarding(way)
    rates: dict[str, list[float]] = {"idle": [], **{name: [] for name in LOADS}}
    answers: dict[str, list[Answered]] = {name: [] for name in LOADS}
    for _ in range(ROUNDS):
        for state, found in rates.items():
            with line.under(LOADS.get(state, ())) as reports:
                lowest = max(found[-1] / 2, 1_000.0) if found else 1_000.0
                found.append(highest_rate(way.trial, lowest))
            if reports:
                answers[state].append(reports[0])
    name = f"API load, {title}"
    idle = Result(f"{name}: 64 B forwarded, idle", "packets/s", tuple(rates["idle"]))
    yield idle
    for state in LOADS:
        ratios = tuple(under / alone for under, alone in zip(rates[state], rates["idle"], strict=True))
        yield Result(f"{name}: 64 B forwarded, {state}", "packets/s", tuple(rates[state]), against=idle.name)
        yield Result(f"{name}: of idle, {state}", "", ratios, at_least=aim)
        yield Result(f"{name}: look-ups answered, {state}", "1/s", tuple(a.rate for a in answers[state]))
        yield Result(f"{name}: p99 of look-ups, {state}", "ms", tuple(a.p99 for a in answers[state]))


def _wait_until_forwarding(way: Way, patience: float = 10.0) -> None:
    """Wait until the gateway knows its records. Raises LabError."""
    deadline = time.monotonic() + patience
    while way.carry(1_000.0, 0.1)[1] == 0:
        if time.monotonic() > deadline:
            raise LabError("the gateway forwards nothing")
