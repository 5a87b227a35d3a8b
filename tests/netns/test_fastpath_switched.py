"""The fast path comes, goes and is killed under traffic: packets may be lost, none is wrong.

The hosts are those of tests/netns/numbered.py. What is lost is stated, and lost only while nobody decides.
"""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from gateway.lab.namespaces import tool
from gateway.lab.topology import UPLINK
from tests.netns.numbered import IN_THE_LONG_RUN, NumberedWorld, flows, punted
from tests.netns.rewriting import show
from tests.netns.switching import RATE, SETTLING, During, pinned, program_of, running, world_with_pins

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("require_bpf")]

by_both_signals = pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGTERM, marks=IN_THE_LONG_RUN), signal.SIGKILL],
    ids=["stopped", "killed"],
)


@pytest.fixture
def world() -> Iterator[NumberedWorld]:
    yield from world_with_pins()


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


def renamed(text: str, engine: str) -> str:
    """Have an appliance of another name, without the tenant blue."""
    start = text.index('[[tenant]]\nname = "blue"')
    text = text[:start].replace('["red", "blue"]', '["red"]').replace('"edge-1"', '"edge-9"')
    return pinned(text.replace('engine = "xdp"', f'engine = "{engine}"'))


@pytest.mark.interop
@pytest.mark.long
def test_what_is_pinned_by_another_name_is_left_alone_while_that_runs(world: NumberedWorld) -> None:
    world.write(change=pinned)
    running(world)
    before = program_of(world)
    world.write(change=lambda text: renamed(text, "xdp"))
    file = str(world.directory / "edge-1.toml")
    edge = world.node("edge-1")

    command = (*world.prefix, sys.executable, "-m", "gateway.cli")
    examined = edge.run(*command, "doctor", file, check=False).stdout
    assert f"program {before} on {UPLINK}, which edge-1 has pinned" in examined
    assert "and edge-1 runs" in examined

    second = edge.run(*command, "run", file, check=False)
    show(second.stderr)
    assert second.returncode != 0
    assert f"has no place: there is program {before} on {UPLINK}, which edge-1 has pinned" in second.stderr
    assert program_of(world) == before
    assert During(world, "with another one refused")(lambda: None).missing == 0


@pytest.mark.parametrize("engine", ["auto", pytest.param("python", marks=IN_THE_LONG_RUN)])
def test_what_was_pinned_by_another_name_carries_nothing_once_the_process_is_ready(
    world: NumberedWorld, engine: str
) -> None:
    world.write(change=pinned)
    running(world)
    before = program_of(world)

    with world.traffic(flows(world.plan), rate=RATE) as outcome:
        time.sleep(SETTLING)
        stop(world, signal.SIGKILL)
        world.write(change=lambda text: renamed(text, engine))
        assert program_of(world) == before
        world.start_gateway()
        ready = time.monotonic()
        time.sleep(SETTLING)
    show(f"another name while it was away, {engine}: {outcome}")

    outcome.assert_nothing_wrong()
    assert outcome.came_sent_after(ready, tenant="blue") == 0
    assert outcome.came_sent_after(ready, tenant="red") > 0
    assert program_of(world) != before
    assert (program_of(world) is None) == (engine == "python")
    assert re.search(
        rf"program {before} on {UPLINK}, which edge-1 has pinned at .*/edge-1/{UPLINK}, is detached",
        world.gateway.output(),
    )


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
