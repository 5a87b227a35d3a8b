"""How many packets a second the fast path forwards, beside all else that could do it on this machine.

The same frames go through the gateway by its program, the gateway by Python, Open vSwitch with its
userspace datapath by either of its ports, and the kernel's own IP forwarding, which leaves them as they
are but for the outer hop limit: each in a line of its own (fast_line.py), one after the other, several
times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

from gateway.fastpath.kernel import BpfRefused
from tests.bench import fast_openvswitch
from tests.bench.fast_line import RECEIVER, Line, LiveWay, traffic
from tests.bench.fast_openvswitch import AF_XDP, OpenVswitch
from tests.bench.rates import RUNS, generator_apart, highest_rates_in_turn
from tests.bench.results import CannotMeasure, Result

Ways = dict[str, Callable[[int], LiveWay]]
"""By name, for a size of the inner frame."""

KERNEL = "kernel forwarding"
AF_PACKET_PORTS = "Open vSwitch, AF_PACKET ports"
AF_XDP_PORTS = "Open vSwitch, AF_XDP ports"
PYTHON = "isthmus, Python"
XDP = "isthmus, XDP"

SMALL, LARGE = 64, 1400
AIMS = {KERNEL: 2.0, AF_PACKET_PORTS: 20.0}
"""How many times as much the program is to carry, of the small ones."""


def benchmark() -> Iterator[Result]:
    """Measure the ways in turn, with small frames, then with large ones."""
    try:
        with generator_apart() as processor, ExitStack() as stack:
            ways = {name: start(stack.enter_context(Line(processor))) for name, start in WAYS.items()}
            alone = ways[KERNEL](SMALL)
            yield Result(
                f"fast path: generator alone, {SMALL} B",
                "packets/s",
                tuple(alone.sending_rate() for _ in range(RUNS)),
            )
            for size in (SMALL, LARGE):
                yield from _of_size(ways, size)
    except BpfRefused as refused:
        raise CannotMeasure(str(refused)) from refused


def by_kernel(line: Line) -> Callable[[int], LiveWay]:
    """Have the kernel forward in a line."""
    line.forward_by_kernel()
    line.settle()
    return lambda size: LiveWay(line, traffic(size, destination=RECEIVER))


def by_gateway(engine: str) -> Callable[[Line], Callable[[int], LiveWay]]:
    """Have the gateway forward, by an engine."""

    def start(line: Line) -> Callable[[int], LiveWay]:
        line.settle(line.forward_by_gateway(engine))
        return lambda size: LiveWay(line, traffic(size))

    return start


def by_open_vswitch(port_type: str | None) -> Callable[[Line], Callable[[int], LiveWay]]:
    """Have Open vSwitch forward, by ports of a type."""

    def start(line: Line) -> Callable[[int], LiveWay]:
        line.settle(OpenVswitch(line, port_type).process)
        return lambda size: LiveWay(line, traffic(size, next_hop=fast_openvswitch.MAC))

    return start


WAYS = {
    KERNEL: by_kernel,
    AF_PACKET_PORTS: by_open_vswitch(None),
    AF_XDP_PORTS: by_open_vswitch(AF_XDP),
    PYTHON: by_gateway("python"),
    XDP: by_gateway("xdp"),
}


def _of_size(ways: Ways, size: int) -> Iterator[Result]:
    live = {name: way(size) for name, way in ways.items()}
    for way in live.values():
        way.check()
    rates = dict(zip(live, highest_rates_in_turn(*live.values()), strict=True))
    unit, factor = ("packets/s", 1.0) if size == SMALL else ("Mbit/s", size * 8 / 1e6)
    for name, samples in rates.items():
        against = None if name == KERNEL else f"fast path: {KERNEL}, {size} B"
        measured = tuple(rate * factor for rate in samples)
        yield Result(f"fast path: {name}, {size} B", unit, measured, against=against)
    if size == SMALL:
        for name, aim in AIMS.items():
            yield Result(
                f"fast path: XDP beside {name}, {size} B",
                "times",
                tuple(ours / theirs for ours, theirs in zip(rates[XDP], rates[name], strict=True)),
                at_least=aim,
            )
