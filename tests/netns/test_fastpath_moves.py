"""VMs that move between hosts of two underlay subnets while a gateway forwards to them.

The hosts are those of tests/netns/numbered.py, so a VM that moves is reached by IPv4 at one and by IPv6 at
the other. The gateway serves the records too.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.lab import nodes
from gateway.lab.certificates import AUTHORITY
from gateway.lab.migration import Operator
from gateway.lab.nodes import LookupPlan
from tests.netns.numbered import BOTH_ENGINES, NumberedWorld, flows, mostly_carried_by, plan
from tests.netns.rewriting import show

pytestmark = pytest.mark.netns

MOVES = 6
BETWEEN = 0.5
"""Seconds."""
LEARNING = 0.1
"""Seconds after the answer to a claim in which the gateway has learned of it: they are told side by side."""


@pytest.fixture(params=BOTH_ENGINES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[NumberedWorld, Operator]]:
    if request.param == "xdp":
        request.getfixturevalue("require_bpf")
    lookup = LookupPlan(files=tmp_path)
    with NumberedWorld(plan(engine=request.param), lookup=lookup) as built:
        nodes.write_credentials(built, lookup)
        built.write()
        built.start_gateway()
        operator = Operator(built, lookup)
        operator.wait_for_records(0)
        register_all(built, lookup)
        operator.wait_for_records(2 * len(built.plan.vms))
        with built.traffic(flows(built.plan), rate=500):
            time.sleep(1)  # until every next hop is known
        yield built, operator


def register_all(world: NumberedWorld, lookup: LookupPlan) -> None:
    """Write a record of every customer address."""
    lines = [
        f"{vm.vsid},{vm.address(version)},{vm.mac},{world.address_of(vm.host)}"
        for vm in world.plan.vms
        for version in (4, 6)
    ]
    file = world.directory / "records.csv"
    file.write_text("\n".join(["vsid,ca,mac,pa", *lines, ""]))
    gateway = str(world.directory / "edge-1.toml")
    words = ("records", "import", gateway, str(file), "--ca", str(lookup.files / AUTHORITY))
    world.node("edge-1").run(sys.executable, "-m", "gateway.cli", *words)


def test_what_is_sent_once_a_move_is_known_comes_to_the_new_place_and_nothing_is_lost(
    world: tuple[NumberedWorld, Operator],
) -> None:
    datacenter, operator = world
    vm = next(vm for vm in datacenter.plan.vms if vm.name == "red-web2")
    elsewhere = msgspec.structs.replace(vm, host="hv1")
    # What a VM sends itself comes from its old host here, so only what it is sent is looked at.
    chosen = [flow for flow in flows(datacenter.plan) if flow.source is not vm]
    to_it = [flow for flow in chosen if flow.target is vm]
    there = [msgspec.structs.replace(flow, target=elsewhere) for flow in to_it]
    moves: list[tuple[float, float, str]] = [(0, time.monotonic(), "hv2")]
    before = datacenter.report()
    with datacenter.traffic(chosen, rate=2000, alternatively=there) as outcome:
        time.sleep(BETWEEN)
        for number in range(MOVES):
            host = ("hv1", "hv2")[number % 2]
            began = time.monotonic()
            claim = {"vsid": vm.vsid, "mac": vm.mac, "pa": str(datacenter.address_of(host)), "host": host}
            operator.ask("POST", "/v1/claims", {**claim, "mode": "orchestrate"})
            moves.append((began, time.monotonic(), host))
            time.sleep(BETWEEN)
    show(f"{datacenter.plan.engine}, {MOVES} moves: {outcome}", json.dumps(datacenter.report()["fastpath"]))

    outcome.assert_nothing_wrong()
    assert outcome.missing == 0
    mostly_carried_by(datacenter, before, outcome)
    settled, latest = 0, 0.0
    for number, (_, done, host) in enumerate(moves):
        until = moves[number + 1][0] if number + 1 < len(moves) else float("inf")
        for place, flow in enumerate(outcome.flows):
            if flow.target is not vm:
                continue
            sent = [(packet, at) for packet, at in enumerate(outcome.sent[place]) if done < at < until]
            settled += len(sent)
            stale = [at - done for packet, at in sent if outcome.ways[place][packet].target.host != host]
            latest = max([latest, *stale])
    show(f"the last packet to an old place was sent {1000 * latest:.2f} ms after the answer")
    assert settled > 500
    assert latest < LEARNING
