"""24 simulated hours of a gateway's life, with something happening every few minutes."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

import gateway.builtin
import gateway.host.agent
import gateway.operating.trends
import gateway.sites.tunnels
from gateway.forwarding.drops import DropReason
from gateway.sites.ledger import REMEMBERED
from policies.addresses import CustomerAddress, ProviderAddress
from policies.model import Network
from tests.sim.day.census import Census, grown
from tests.sim.day.guests import discover, solicit
from tests.sim.day.plan import ADDRESSES, PROVIDER, STREAMS, TENANTS, Vm
from tests.sim.day.world import World, in_memory
from tunnels.effects import Endpoint

__all__ = ["in_memory"]

HOUR = 3600
# Before the hour is over, nothing has been going on for a while: then all is counted.
QUIET = 10.0
# Of so many hours at the beginning and at the end is compared what there is.
EARLY = 8
# What fills until it is full: a day's points of a series, the last turns of each site, and counters, one of
# each reason and tenant, or site and cause; a bucket for each tenant that has been told something; and those
# CAs that were asked for last.
FILLS = {
    "Notices._buckets",
    "TokenBucket",
    "_Ring._values",
    "Happenings._wanted",
    "Leasing._pauses",
    "_Pause",
    "Drops.counts",
    "Report.drops",
    "DropReport",
    "Look.drop_rates",
    "Entry.history",
    "Entry.failed",
    "Turn",
    "SiteStatus.history",
    "Moment",
    "_History.turns",
    "TurnOfSite",
}
# What the interpreter may have allocated in the end, as a share of what it had: these censuses are of it.
MOST_BLOCKS = 1.02

RED = ("red", "office")

# Addresses at a site that a VM tries in an hour. Packets that wait for one CA, or for all, are bounded.
SCANNED = 30

Act = Callable[["Day", int], Awaitable[None]]


class Day:
    """The course of events."""

    def __init__(self, world: World, step: float) -> None:
        self.world = world
        self.step = step
        self.censuses: list[Census] = []
        self.rekeys: list[tuple[int, int]] = []
        self.full_mtu = 0

    async def live(self, hours: int) -> None:
        """Let them pass."""
        world = self.world
        await world.begin()
        began = trio.current_time()
        for hour in range(hours):
            for minute, (every, act) in sorted(PLAN.items()):
                await self._until(began + hour * HOUR + minute * 60)
                if hour % every == every - 1 or every == 1:
                    await act(self, hour)
            await self._until(began + (hour + 1) * HOUR - QUIET)
            self._look(hour)

    async def _until(self, moment: float) -> None:
        """Send packets until then."""
        while trio.current_time() < moment:
            await self.tick()

    async def tick(self) -> None:
        """Have every VM send a packet, and see that those before have arrived."""
        world = self.world
        world.send_all()
        await trio.sleep(self.step)
        world.settle()
        world.account()

    def _look(self, hour: int) -> None:
        """See at a quiet moment that everything is as it should be."""
        world = self.world
        for tenant in TENANTS:
            for node, site in (("edge-1", "office"), (f"device-{tenant}", "dc")):
                status = world.site(node, (tenant, site))
                if status.state != "up" or len(status.children) != 1:
                    world.problems.append(
                        f"hour {hour}: {tenant} at {node} is {status.state}, child SAs: {status.children}"
                    )
                if len(status.history) > REMEMBERED:
                    world.problems.append(
                        f"hour {hour}: {len(status.history)} turns of {tenant} are remembered"
                    )
        status = world.site("edge-1", ("red", "office"))
        self.rekeys.append((status.child_rekeys, status.ike_rekeys))
        self.censuses.append(world.census())

    def problems(self) -> list[str]:
        """What is wrong in the end."""
        found = list(self.world.problems)
        for name, node in self.world.nodes.items():
            gone = {tenant for _, tenant in node.path.drops.counts} - {"", *TENANTS}
            found += [f"{name} still counts drops of {tenant}" for tenant in gone]
        early, late = self.censuses[:EARLY], self.censuses[-EARLY:]
        found += [
            f"{name} has grown from {was} to {now}"
            for name, (was, now) in grown(early, late).items()
            if name not in FILLS
        ]
        was, now = max(each.blocks for each in early), min(each.blocks for each in late)
        if now > MOST_BLOCKS * was:
            found.append(f"the interpreter had allocated {was} blocks, and has {now}")
        return found


async def orchestrated_move(day: Day, hour: int) -> None:
    """VMs go to the other host, which everybody hears first."""
    for vm in (day.world.vms["red", "web"], day.world.vms["blue", "web"]):
        day.world.place(vm, beyond(day, vm))


async def move_that_is_heard_of_late(day: Day, hour: int) -> None:
    """A VM has left, packets for it wait, and everybody hears where it is."""
    world = day.world
    for tenant, source, name in (("blue", "web", "db"), ("red", "db", "web"), ("red", "office", "web")):
        vm = world.vms[tenant, name]
        old, new = world.where(vm), beyond(day, vm)
        world.plug(old, vm).pull_out()
        world.send((tenant, source, name))
        await trio.sleep(0.1)
        world.plug(new, vm).put_in()
        world.tell(vm, new)
        await trio.sleep(0.5)
        world.settle()


def beyond(day: Day, vm: Vm) -> str:
    """The host that a VM is not at."""
    return "hv2" if day.world.where(vm) == "hv1" else "hv1"


async def a_site_is_scanned(day: Day, hour: int) -> None:
    """A rewritten VM tries addresses at its site that nobody had in use: each takes a lease, for a while."""
    world = day.world
    vm = world.vms["red", "web"]
    before = len(world.lessor.leases)
    for number in range(SCANNED):
        frame = vm.frame(CustomerAddress(bytes((172, 16, hour + 1, number))), 1, 0)
        world.plug(world.where(vm), vm).send(frame)
    world.expected["device-red", DropReason.NO_RECORD, "red"] += SCANNED
    await trio.sleep(0.5)
    if len(world.lessor.leases) < before + SCANNED:
        world.problems.append(f"hour {hour}: {before} leases, and then {len(world.lessor.leases)}")


async def its_leases_are_back(day: Day, hour: int) -> None:
    """Later those alone are held that have packets, and the gateway's own. VMs of one host need none."""
    world = day.world
    held = {str(lease.ca) for lease in world.lessor.leases.values()}
    wanted = {"10.0.1.1", "10.0.2.1", "fd00:1::1", ADDRESSES["office"]}
    if world.where(world.vms["red", "web"]) != world.where(world.vms["red", "db"]):
        wanted.add(ADDRESSES["db"])
    if held != wanted:
        world.problems.append(f"hour {hour}: there are leases for {sorted(held)}")


async def another_mapping(day: Day, hour: int) -> None:
    """A NAT gives the device behind it another port: it is found again by its own packets."""
    day.world.wires.forget_mappings()
    day.world.excuse(2 * day.step, ("blue", "web", "office"))


async def add_a_tenant(day: Day, hour: int) -> None:
    """A reload brings a tenant whose site's device never answers."""
    world = day.world
    (world._files / "green.psk").write_text("a secret of green that is long enough, and random")
    await adopt(world, world.appliance("edge-1", _GREEN.replace("green-", f"green-{hour}")).network)


async def remove_it(day: Day, hour: int) -> None:
    """Another takes it away again."""
    await adopt(day.world, day.world.appliance("edge-1").network)
    held = {tenant for tenant, _ in day.world.nodes["edge-1"].path.tunnels._ike.endpoint.peers}
    assert held == set(TENANTS)


async def adopt(world: World, network: Network) -> None:
    """Reload everywhere in the datacenter."""
    for name in ("edge-1", "hv1", "hv2"):
        await world.nodes[name].adopt(network)


async def guests_ask(day: Day, hour: int) -> None:
    """VMs renew their leases, and look for their router."""
    world = day.world
    for vm in world.vms.values():
        if vm.name == "web":
            plug = world.plug(world.where(vm), vm)
            plug.send(discover(vm))
            if vm.tenant == "red":
                plug.send(solicit(vm))
    before = world.answers["dhcp"]
    await trio.sleep(0.1)
    if world.answers["dhcp"] != before + len(TENANTS):
        world.problems.append(f"hour {hour}: guests were not answered: {world.answers}")


async def device_restarts(day: Day, hour: int) -> None:
    """A site's device goes, at times without a word, and comes back some time later."""
    world, tenant = day.world, "red" if hour // 3 % 2 else "blue"
    world.excuse(200, *(stream for stream in STREAMS if "office" in stream and stream[0] == tenant))
    kindly = hour // 6 % 2 == 0
    await world.stop(f"device-{tenant}", kindly=kindly)
    await day._until(trio.current_time() + 60)
    await world.start(f"device-{tenant}")
    await day._until(trio.current_time() + 60)
    if not world.is_up(tenant):
        world.problems.append(f"hour {hour}: {tenant} is not up a minute after its device")


async def packets_are_lost(day: Day, hour: int) -> None:
    """For some minutes the Internet loses a fifth of everything."""
    world = day.world
    world.excuse(300, *(stream for stream in STREAMS if "office" in stream))
    world.wires.loss = 0.2
    await day._until(trio.current_time() + 200)
    world.wires.loss = 0.0
    await day._until(trio.current_time() + 60)


async def path_shrinks(day: Day, hour: int) -> None:
    """A router on the way to a site's device says that it carries less."""
    world, edge = day.world, day.world.nodes["edge-1"].path
    full = edge.forwarder.sites.find(RED)
    spi = int(world.site("edge-1", RED).children[0].outbound_spi, 16)
    device = Endpoint(ProviderAddress.parse(PROVIDER["device-red"]), 0)
    edge.tunnels._path_mtu_reported(device, spi, 1300, trio.current_time())
    shrunk = edge.forwarder.sites.find(RED)
    if full is None or shrunk is None or shrunk.mtu >= full.mtu:
        world.problems.append(f"hour {hour}: {shrunk} was {full} before its path shrank")
    day.full_mtu = full.mtu if full is not None else 0


async def path_is_forgotten_to_have_shrunk(day: Day, hour: int) -> None:
    """Twelve minutes later that is believed no longer."""
    state = day.world.nodes["edge-1"].path.forwarder.sites.find(RED)
    if state is None or state.mtu != day.full_mtu:
        day.world.problems.append(f"hour {hour}: {state} is not {day.full_mtu} again")


async def too_much_is_sent(day: Day, hour: int) -> None:
    """Blue sends more than its rate."""
    world = day.world
    stream = ("blue", "web", "db")
    sender, target = world.vms["blue", "web"], world.vms["blue", "db"]
    host = world.where(sender)
    before = world.nodes[host].path.drops.total(DropReason.RATE_LIMITED)
    plug = world.plug(host, sender)
    frame = sender.frame(target.ca, 1, 0)
    for _ in range(3000):
        plug.send(frame)
    dropped = world.nodes[host].path.drops.total(DropReason.RATE_LIMITED) - before
    if not 0 < dropped < 3000:
        world.problems.append(f"hour {hour}: {dropped} of 3000 were above the rate")
    world.expected[host, DropReason.RATE_LIMITED, "blue"] += dropped
    world.excuse(2 * day.step, stream)
    await trio.sleep(2.0)


async def strangers_call(day: Day, hour: int) -> None:
    """Others than those who belong here send what they like."""
    day.world.strangers(50)


PLAN: dict[int, tuple[int, Act]] = {
    2: (1, orchestrated_move),
    5: (1, move_that_is_heard_of_late),
    8: (1, another_mapping),
    10: (1, add_a_tenant),
    12: (1, a_site_is_scanned),
    14: (1, guests_ask),
    20: (1, remove_it),
    25: (3, device_restarts),
    32: (1, its_leases_are_back),
    35: (4, packets_are_lost),
    42: (1, path_shrinks),
    45: (1, too_much_is_sent),
    50: (1, strangers_call),
    54: (1, path_is_forgotten_to_have_shrunk),
}

_GREEN = """[[tenant]]
name = "green-"
gateways = ["edge-1"]
[[tenant.subnet]]
name = "web"
vsid = 9001
prefixes = ["10.0.1.0/24"]
[[tenant.site]]
name = "office"
gateway = "edge-1"
prefixes = ["172.16.0.0/16"]
peer = "203.0.113.99"
start = "start"
ike = { local_id = "edge.green.example", remote_id = "office.green.example", psk_file = "green.psk" }
"""


async def _live(files: Path, hours: int, step: float) -> Day:
    async with trio.open_nursery() as nursery:
        day = Day(World(files, nursery), step)
        await day.live(hours)
        nursery.cancel_scope.cancel()
    return day


def _a_day(files: Path, step: float) -> None:
    clock = MockClock(autojump_threshold=0)
    day = trio.run(functools.partial(_live, files, 24, step), clock=clock)

    assert day.problems() == []
    # Child SAs live for an hour and IKE SAs for four, each less up to a tenth.
    assert day.rekeys[-1][0] >= 20
    assert day.rekeys[-1][1] >= 3


@pytest.mark.usefixtures("in_memory")
def test_a_day_leaves_nothing_behind_and_loses_nothing_unexplained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timers that would fire every few seconds, or ten times in one, fire less often, and VMs send seldom."""
    monkeypatch.setattr(gateway.builtin, "EXPIRE_EVERY", 5.0)
    monkeypatch.setattr(gateway.operating.trends, "LOOK_EVERY", 30.0)
    monkeypatch.setattr(gateway.sites.tunnels, "TICK", 2.0)
    monkeypatch.setattr(gateway.host.agent, "LOOK", 60.0)
    _a_day(tmp_path, 10.0)


@pytest.mark.soak
@pytest.mark.usefixtures("in_memory")
def test_a_day_with_all_timers_leaves_nothing_behind_and_loses_nothing_unexplained(tmp_path: Path) -> None:
    _a_day(tmp_path, 1.0)
