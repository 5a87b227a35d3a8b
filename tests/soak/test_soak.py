"""A quarter of an hour in which everything happens that happens in a year, and nothing may be left over.

ISTHMUS_SOAK_MINUTES is how long: 15 unless it says otherwise. A minute is

    0 to 40 s   traffic, moves of VMs, reloads, requests: nothing may be lost, and nothing dropped
    40 s on     one fault: a peer, a host or the gateway's file; only what goes through it may be lost
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from gateway.forwarding.drops import USUAL, DropReason
from gateway.lab.nodes import LookupPlan
from gateway.lab.strongswan import COMMANDS
from gateway.lab.topology import Datacenter
from tests.soak.gauges import Watch
from tests.soak.world import DEVICE, EDGE, GREEN, INTERVAL, MOVING, STREAMS, SWAN, Askers, Soak, plan

pytestmark = [pytest.mark.netns, pytest.mark.soak]

MINUTES = int(os.environ.get("ISTHMUS_SOAK_MINUTES", "15"))
CALM, FAULT = 36.0, 14.0
"""Seconds of a minute's streams."""
ON_THEIR_WAY = 2
"""Pings that may be lost to a site that authenticates again because its configuration has changed."""
WARM_MINUTES = min(3, MINUTES // 3)

Fault = Callable[[Soak], None]


class Trouble(msgspec.Struct, frozen=True):
    """A fault on purpose: the site or the VMs that it may cost packets, and the drops that it explains."""

    name: str
    cause: Fault
    site: str = ""
    reasons: frozenset[DropReason] = frozenset()


def device_is_killed(world: Soak) -> None:
    """The isthmus that is a site's device ends without a word, and starts again."""
    world.end_process(DEVICE, signal.SIGKILL)
    world.start_device()


def device_leaves(world: Soak) -> None:
    """It says goodbye, and starts again."""
    world.end_process(DEVICE, signal.SIGTERM)
    world.start_device()


def strongswan_is_killed(world: Soak) -> None:
    """The strongSwan of the other site ends without a word, and starts again."""
    world.swan.kill()
    world.swan.start()


def strongswan_leaves(world: Soak) -> None:
    """It says goodbye, and starts again."""
    world.swan.stop()
    world.swan.start()


def host_is_killed(world: Soak) -> None:
    """A host's isthmus ends without a word, and starts again. None of those who ping are there."""
    world.end_process("hv2", signal.SIGKILL)
    world.restart("hv2")


def file_is_read_again(world: Soak) -> None:
    """The gateway is told to read its file, which has not changed, over and over."""
    for _ in range(10):
        world.processes[EDGE].send_signal(signal.SIGHUP)
        time.sleep(0.3)


_OF_A_SITE = frozenset({DropReason.SITE_DOWN})
TROUBLES = (
    Trouble("strongSwan killed", strongswan_is_killed, SWAN, _OF_A_SITE),
    Trouble("host killed", host_is_killed),
    Trouble("device killed", device_is_killed, DEVICE, _OF_A_SITE),
    Trouble("SIGHUP, ten times", file_is_read_again),
    Trouble("strongSwan restarted", strongswan_leaves, SWAN, _OF_A_SITE),
    Trouble("device restarted", device_leaves, DEVICE, _OF_A_SITE),
)


@pytest.fixture
def world(require_tools: Callable[..., None], require_tun: None, tmp_path: Path) -> Iterator[Soak]:
    require_tools(*COMMANDS, "ping")
    with Datacenter(plan()) as lab:
        soak = Soak(lab, LookupPlan(files=tmp_path, moving=MOVING))
        soak.connect()
        yield soak


class Run:
    """The minutes, and what is wrong with them."""

    def __init__(self, world: Soak, watch: Watch, askers: Askers) -> None:
        self.world = world
        self.watch = watch
        self.askers = askers
        self.problems: list[str] = []
        self.console = Console(width=150)
        self.minute = 0
        self._drops = world.drops()
        self._moved = 0
        self._sent = self._lost = 0

    def live(self) -> None:
        """Let one minute pass, and say in a line what it was like."""
        self._sent = self._lost = 0
        began = time.monotonic()
        running = self.world.start_streams(CALM)
        self._move()
        self._reload()
        for stream, (sent, lost) in self.world.end_streams(running).items():
            self._sent, self._lost = self._sent + sent, self._lost + lost
            if lost > (ON_THEIR_WAY if stream.site == DEVICE else 0):
                self._wrong(f"{stream.name} has lost {lost} of {sent} pings while nothing was wrong")
        self._account(frozenset())
        trouble = TROUBLES[self.minute % len(TROUBLES)]
        running = self.world.start_streams(FAULT)
        time.sleep(1.0)
        trouble.cause(self.world)
        excused = 0
        for stream, (sent, lost) in self.world.end_streams(running).items():
            if stream.site and stream.site == trouble.site:
                excused += lost
            elif lost:
                self._wrong(f"{stream.name} has lost {lost} of {sent} pings: {trouble.name}")
        self.world.wait_until_up(SWAN, DEVICE)
        self.world.wait_until_followed(("hv1", "hv2", "hv3"))
        self._account(trouble.reasons)
        self._compare()
        self.minute += 1
        self._say(trouble, excused, time.monotonic() - began)

    def _move(self) -> None:
        """Have two VMs move under streams of a thousand datagrams a second, one after the other."""
        world = self.world
        for name in MOVING:
            vm = world.vm(name)
            # Of those who begin with a thousand a second, 64 wait for an address that is still to be leased.
            world.wait_until_reached("red-web1", name)
            talkers = world.talk(name, ("red-web1", "red-db1"))
            time.sleep(0.3)
            if self._moved % 2:
                world.mover.announced(vm, world.beyond(name), [talkers.inside])
            else:
                world.mover.orchestrated(vm, world.beyond(name), [talkers.inside])
            world.wait_until_at(name, world.lab.host_of(name))
            time.sleep(0.5)
            outcome = world.end(talkers)
            self._moved += 1
            self._sent += sum(stream.sent for stream in outcome.streams)
            self._lost += outcome.lost
            if outcome.lost:
                lost = {stream.name: len(stream.lost) for stream in outcome.streams if stream.lost}
                self._wrong(f"{name} has moved, and outside its pause is lost: {lost}")

    def _reload(self) -> None:
        """Add a tenant or remove it, and change one of the sites."""
        file = self.world.file(EDGE)
        text = file.read_text()
        there = GREEN in text
        text = text.replace(GREEN, "") if there else text + GREEN
        marked = 'name = "boston"\n'
        assert text.count(marked) == 1
        changed = marked + 'liveness = "11 s"\n'
        text = text.replace(changed, marked) if changed in text else text.replace(marked, changed)
        file.write_text(text)
        self.world.reload()

    def _account(self, explained: frozenset[DropReason]) -> None:
        """See to it that whatever was dropped since the last look is usual, or explained."""
        drops = self.world.drops()
        for (node, word, tenant), packets in (drops - self._drops).items():
            if word not in {reason.value for reason in USUAL | explained}:
                self._wrong(f"{node} has dropped {packets} packets of {tenant or 'nobody'}: {word}")
        self._drops = drops

    def _compare(self) -> None:
        """See to it that what the gateway says is what is: sites, records, tenants and metrics."""
        world = self.world
        for name, site in world.sites().items():
            if site.state != "up" or len(site.children) > 2:
                self._wrong(f"{name} is {site.state}, with {len(site.children)} pairs of SAs")
        for name in MOVING:
            if (host := world.place(name)) != world.lab.host_of(name):
                self._wrong(f"the record of {name} says {host}")
        metrics = world.operator.text("GET", "/metrics")
        up = {
            (sample.labels["tenant"], sample.labels["site"]): sample.value
            for family in text_string_to_metric_families(metrics)
            for sample in family.samples
            if sample.name == "isthmus_site_up"
        }
        if up != {("red", SWAN): 1.0, ("blue", DEVICE): 1.0}:
            self._wrong(f"the metrics say of the sites {up}")
        tenants = {tenant["name"] for tenant in world.operator.ask("GET", "/v1/tenants")}
        wanted = {"red", "blue"} | ({"green"} if GREEN in world.file(EDGE).read_text() else set())
        if tenants != wanted:
            self._wrong(f"the tenants are {sorted(tenants)}")
        for problem in self.askers.problems:
            self._wrong(problem)
        self.askers.problems.clear()

    def _wrong(self, words: str) -> None:
        self.problems.append(f"minute {self.minute + 1}: {words}")

    def _say(self, trouble: Trouble, excused: int, seconds: float) -> None:
        sites = self.world.sites()
        rekeys = ", ".join(f"{name} {each.child_rekeys}+{each.ike_rekeys}" for name, each in sites.items())
        sizes = ", ".join(
            f"{name} {gauge.resident / 1e6:.0f}/{gauge.descriptors}/{gauge.threads}"
            for name, gauge in self.watch.last().items()
        )
        usual = sum(self._drops.values())
        self.console.print(
            f"minute {self.minute} ({seconds:.0f} s): {self._sent} sent, {self._lost} lost; {trouble.name}: "
            f"{excused} pings; {self._moved} moves; rekeys {rekeys}; {self.askers.asked} asked; "
            f"{usual} dropped in all; MB/descriptors/threads: {sizes}; wrong: {len(self.problems)}",
            highlight=False,
        )


def test_nothing_grows_and_nothing_is_lost_unexplained(
    world: Soak, capsys: pytest.CaptureFixture[str]
) -> None:
    with Watch(lambda: world.pids) as watch, Askers(world.operator) as askers, capsys.disabled():
        run = Run(world, watch, askers)
        run.console.print(
            f"\n{len(STREAMS)} streams of a ping each {INTERVAL * 1000:.0f} ms", highlight=False
        )
        warm = time.monotonic()
        for minute in range(MINUTES):
            run.live()
            if minute + 1 == WARM_MINUTES:
                warm = time.monotonic()
        run.problems += watch.problems(warm)
        for problem in run.problems:
            run.console.print(f"wrong: {problem}", highlight=False)
        verdict = "all is well" if not run.problems else f"{len(run.problems)} things are wrong"
        run.console.print(f"verdict after {MINUTES} minutes: {verdict}", highlight=False)
    assert run.problems == []
