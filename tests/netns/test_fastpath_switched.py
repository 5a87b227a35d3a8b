"""The fast path comes, goes, is taken away and is killed under traffic: packets may be lost, none is wrong.

The hosts are those of tests/netns/numbered.py. What is lost is stated, and lost only while nobody decides.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from gateway.fastpath import kernel
from gateway.fastpath.kernel import BpfRefused
from gateway.lab.namespaces import tool
from gateway.lab.topology import UPLINK
from tests.netns.numbered import IN_THE_LONG_RUN, NumberedWorld, Outcome, flows, plan, punted
from tests.netns.rewriting import show

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("require_bpf")]

RATE = 1000
SETTLING = 1.0
ON_ITS_WAY = 0.05
"""Seconds that a packet may have been on its way when something happened to the gateway."""

by_both_signals = pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGTERM, marks=IN_THE_LONG_RUN), signal.SIGKILL],
    ids=["stopped", "killed"],
)

_NEXT_LINK, _OPEN_LINK, _DETACH_LINK = 31, 30, 34
_ABOUT_LINK = struct.Struct("=III4xI4x")  # type, id, program id; of XDP: interface


def pinned(text: str) -> str:
    """Have the fast path outlive the process."""
    return f"{text}\n[fastpath]\npinned = true\n"


@pytest.fixture
def world() -> Iterator[NumberedWorld]:
    with NumberedWorld(plan(engine="xdp")) as built:
        # What is pinned lies in a BPF file system, which this machine may not have, nor anybody else see.
        argv = ("unshare", "--mount", "sh", "-c", "mount -t bpf bpf /sys/fs/bpf && echo mounted && sleep inf")
        place = built.start("bpf", built.node("edge-1"), *argv)
        place.wait_for("^mounted")
        built.prefix = (tool("nsenter"), f"--mount=/proc/{place.pid}/ns/mnt", "--")
        built.write()
        yield built


def running(world: NumberedWorld) -> None:
    """Start the gateway, and return once every next hop is known."""
    world.start_gateway()
    with world.traffic(flows(world.plan), rate=500):
        time.sleep(SETTLING)


class During:
    """What happens in the midst of traffic, and when."""

    def __init__(self, world: NumberedWorld, what: str) -> None:
        self._world = world
        self._what = what
        self.began = self.ended = 0.0

    def __call__(self, happening: Callable[[], object]) -> Outcome:
        """Have it happen, and return what came of the traffic. Packets are lost only meanwhile."""
        with self._world.traffic(flows(self._world.plan), rate=RATE) as outcome:
            time.sleep(SETTLING)
            self.began = time.monotonic()
            happening()
            self.ended = time.monotonic()
            time.sleep(SETTLING)
        show(f"{self._what}, {self.ended - self.began:.2f} s: {outcome}")
        outcome.assert_nothing_wrong()
        outside = [
            at
            for at in outcome.lost_sent_at()
            if not self.began - ON_ITS_WAY <= at <= self.ended + ON_ITS_WAY
        ]
        assert outside == []
        return outcome


def program_of(world: NumberedWorld) -> int | None:
    """The id of the program that is attached to the gateway's uplink."""
    (link,) = json.loads(world.node("edge-1").run(tool("ip"), "-json", "link", "show", UPLINK).stdout)
    return link["xdp"]["prog"]["id"] if link.get("xdp", {}).get("prog") else None


def stop(world: NumberedWorld, number: signal.Signals = signal.SIGTERM) -> None:
    """End the gateway, and wait until it has."""
    world.gateway.send_signal(number)
    world.gateway.wait(20)


def restart(world: NumberedWorld, number: signal.Signals = signal.SIGTERM) -> None:
    stop(world, number)
    world.start_gateway()


def test_engine_is_changed_by_a_restart(world: NumberedWorld) -> None:
    world.write(change=lambda text: text.replace('engine = "xdp"', 'engine = "python"'))
    running(world)
    assert program_of(world) is None
    world.write()
    During(world, "python to xdp")(lambda: restart(world))
    assert program_of(world) is not None
    assert world.report()["engine"] == "xdp"

    world.write(change=lambda text: text.replace('engine = "xdp"', 'engine = "python"'))
    During(world, "xdp to python")(lambda: restart(world))
    assert program_of(world) is None
    assert world.report()["engine"] == "python"


@pytest.mark.interop
@pytest.mark.long
def test_program_cannot_be_taken_off_the_interface_by_name(world: NumberedWorld) -> None:
    running(world)

    def take_off() -> None:
        done = world.node("edge-1").run(tool("ip"), "link", "set", "dev", UPLINK, "xdp", "off", check=False)
        assert done.returncode != 0

    outcome = During(world, "ip link set xdp off")(take_off)

    assert outcome.missing == 0
    assert program_of(world) is not None


def detach(world: NumberedWorld) -> None:
    """Detach the gateway's program behind its back, as whoever may administrate BPF can."""
    program = program_of(world)
    for fd in links_of_machine():
        if _ABOUT_LINK.unpack(kernel.information(fd, _ABOUT_LINK.size))[2] == program:
            kernel.call(_DETACH_LINK, bytearray(struct.pack("=I", fd)), "detaching")
            return
    pytest.fail("the gateway's link was not found")


def links_of_machine() -> Iterator[int]:
    """Open every BPF link of this machine in turn."""
    number = 0
    while True:
        attributes = bytearray(struct.pack("=III", number, 0, 0))
        try:
            kernel.call(_NEXT_LINK, attributes, "looking for a link")
        except BpfRefused as refused:
            if refused.errno == errno.ENOENT:
                return
            raise
        (number,) = struct.unpack_from("=I", attributes, 4)
        fd = kernel.call(_OPEN_LINK, bytearray(struct.pack("=III", number, 0, 0)), "opening a link")
        try:
            yield fd
        finally:
            os.close(fd)


def test_detached_from_outside_packets_go_by_python(world: NumberedWorld) -> None:
    running(world)
    outcome = During(world, "detached")(lambda: detach(world))

    assert outcome.missing <= RATE * ON_ITS_WAY
    assert outcome.came_sent_after(time.monotonic() - SETTLING - 1) > 0
    assert [each["mode"] for each in world.report()["fastpath"]["interfaces"]] == ["detached"]
    # By a restart at the latest it is back.
    During(world, "attached again by a restart")(lambda: restart(world))
    assert program_of(world) is not None


@by_both_signals
def test_without_pinning_nothing_is_left_of_the_program(world: NumberedWorld, number: signal.Signals) -> None:
    running(world)

    def end_and_start() -> None:
        stop(world, number)
        assert program_of(world) is None
        world.start_gateway()

    During(world, f"restart by {number.name}")(end_and_start)
    assert program_of(world) is not None
    before = punted(world.report())
    outcome = During(world, "then")(lambda: None)
    assert outcome.missing == 0
    assert punted(world.report()) - before <= outcome.packets / 20


@by_both_signals
def test_what_is_pinned_forwards_on_while_no_process_is_there(
    world: NumberedWorld, number: signal.Signals
) -> None:
    world.write(change=pinned)
    running(world)
    outcome = During(world, f"restart by {number.name}, pinned")(lambda: restart(world, number))

    assert outcome.missing == 0
    assert program_of(world) is not None
    # Taken away again where it is not to be pinned any more.
    world.write()
    restart(world)
    stop(world)
    assert program_of(world) is None


@by_both_signals
def test_what_is_pinned_decides_by_the_new_network_once_the_process_is_ready(
    world: NumberedWorld, number: signal.Signals
) -> None:
    world.write(change=pinned)
    running(world)
    chosen = [flow for flow in flows(world.plan) if flow.tenant == "red" or flow.source.subnet == "db"]
    with world.traffic(chosen, rate=RATE) as outcome:
        time.sleep(SETTLING)
        stop(world, number)
        world.write(change=lambda text: pinned(text.replace("vsid = 6002", "vsid = 6003")))
        world.start_gateway()
        ready = time.monotonic()
        time.sleep(SETTLING)
    show(f"another network while it was away, {number.name}: {outcome}")

    outcome.assert_nothing_wrong()
    assert outcome.came_sent_after(ready, tenant="blue") == 0
    assert outcome.came_sent_after(ready, tenant="red") > 0
    assert [flow for flow in outcome.flows if flow.tenant == "red" and outcome.lost(flow)] == []
