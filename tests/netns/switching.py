"""A gateway whose fast path comes and goes under traffic, and what is done to it behind its back."""

from __future__ import annotations

import errno
import json
import os
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from gateway.fastpath import kernel
from gateway.fastpath.kernel import BpfRefused
from gateway.lab.namespaces import tool
from gateway.lab.topology import UPLINK
from tests.netns.numbered import NumberedWorld, Outcome, flows, plan
from tests.netns.rewriting import show

RATE = 1000
SETTLING = 1.0
ON_ITS_WAY = 0.05
"""Seconds that a packet may have been on its way when something happened to the gateway."""

_NEXT_LINK, _OPEN_LINK, _DETACH_LINK = 31, 30, 34
_ABOUT_LINK = struct.Struct("=III4xI4x")  # type, id, program id; of XDP: interface


def pinned(text: str) -> str:
    """Have the fast path outlive the process."""
    return f"{text}\n[fastpath]\npinned = true\n"


def world_with_pins() -> Iterator[NumberedWorld]:
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

    def __init__(self, world: NumberedWorld, what: str, *, settling: float = SETTLING) -> None:
        """Traffic goes on for so many seconds before and after."""
        self._world = world
        self._what = what
        self._settling = settling
        self.began = self.ended = 0.0

    def __call__(self, happening: Callable[[], object]) -> Outcome:
        """Have it happen, and return what came of the traffic. Packets are lost only meanwhile."""
        with self._world.traffic(flows(self._world.plan), rate=RATE) as outcome:
            time.sleep(self._settling)
            self.began = time.monotonic()
            happening()
            self.ended = time.monotonic()
            time.sleep(self._settling)
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
