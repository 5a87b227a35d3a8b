"""What an operator changes of a network under traffic holds from the moment that the reload is done.

The hosts are those of tests/netns/numbered.py. No packet that was sent after a reload has been
reported done may be decided by what held before, whichever engine decides.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import msgspec
import pytest

from gateway.lab import nodes
from gateway.lab.topology import Plan
from tests.netns.numbered import (
    BOTH_ENGINES,
    IN_THE_LONG_RUN,
    Flow,
    NumberedWorld,
    Outcome,
    flows,
    mostly_carried_by,
    plan,
)
from tests.netns.rewriting import show

pytestmark = pytest.mark.netns

RATE = 1000
SETTLING = 1.0
BEHIND = "10.77.0.9"
RULE = """
[[tenant.access]]
name = "nothing from db"
action = "deny"
from = "subnet:db"

[[tenant.access]]
name = "nothing to db"
action = "deny"
to = "subnet:db"

[[tenant.access]]
name = "the rest"
action = "allow"
"""


@pytest.fixture(scope="module", params=BOTH_ENGINES)
def world(request: pytest.FixtureRequest) -> Iterator[NumberedWorld]:
    if request.param == "xdp":
        request.getfixturevalue("require_bpf")
    with NumberedWorld(plan(engine=request.param)) as built:
        built.write()
        built.start_gateway()
        with built.traffic(flows(built.plan), rate=500):
            time.sleep(SETTLING)
        yield built


@pytest.fixture(autouse=True)
def as_it_was(world: NumberedWorld) -> Iterator[None]:
    """Put the network back behind each test."""
    yield
    world.write()
    assert world.isthmus("reload").returncode == 0


def in_tenant(text: str, tenant: str, tables: str) -> str:
    """Put tables behind those of a tenant."""
    position = text.index(f'[[tenant]]\nname = "{tenant}"')
    end = text.find("[[tenant]]", position + 1)
    return text[:end] + tables + text[end:] if end > 0 else text + tables


def reload(world: NumberedWorld) -> float:
    """Reload, and return the time at which that has been reported done."""
    done = world.isthmus("reload")
    at = time.monotonic()
    assert done.returncode == 0, done.stderr
    return at


def change(
    world: NumberedWorld, chosen: Sequence[Flow], *, alternatively: Sequence[Flow] = (), errors: str = "none"
) -> tuple[Outcome, float]:
    """Reload in the midst of traffic, and return what came of it with the time of the reload."""
    before = world.report()
    with world.traffic(chosen, rate=RATE, alternatively=alternatively) as outcome:
        time.sleep(SETTLING)
        at = reload(world)
        time.sleep(SETTLING)
    outcome.assert_nothing_wrong(errors=errors)
    # What is lost may have been dropped by Python, and answered by it.
    mostly_carried_by(world, before, outcome, but=outcome.missing)
    show(f"{world.plan.engine}: {outcome}")
    return outcome, at


def lost_of(outcome: Outcome, tenant: str) -> int:
    """How many packets of a tenant were lost."""
    return sum(len(outcome.lost(flow)) for flow in outcome.flows if flow.tenant == tenant)


def sent_after(outcome: Outcome, flow: Flow, at: float) -> set[int]:
    """The numbers of those that were sent after a time."""
    times = outcome.sent[outcome.flows.index(flow)]
    return {number for number, sent in enumerate(times) if sent > at}


def test_rule_that_forbids_holds_from_the_reload_on_for_its_tenant_alone(world: NumberedWorld) -> None:
    world.write(change=lambda text: in_tenant(text, "red", RULE))
    denied = nodes.drops(world.gateway).get(("access-denied", "red"), 0)
    outcome, at = change(world, flows(world.plan))

    forbidden = [
        flow
        for flow in outcome.flows
        if flow.tenant == "red" and "db" in (flow.source.subnet, flow.target.subnet)
    ]
    lost = 0
    for flow in outcome.flows:
        missing = set(outcome.lost(flow))
        if flow in forbidden:
            assert sent_after(outcome, flow, at) <= missing
            lost += len(missing)
        else:
            assert missing == set(), flow
    assert nodes.drops(world.gateway)["access-denied", "red"] - denied == lost > 0


@pytest.mark.interop
@pytest.mark.long
def test_rule_that_is_taken_away_forbids_nothing_from_the_reload_on(world: NumberedWorld) -> None:
    world.write(change=lambda text: in_tenant(text, "red", RULE))
    reload(world)
    world.write()
    outcome, at = change(world, flows(world.plan))

    assert all(sent < at for sent in outcome.lost_sent_at())
    assert lost_of(outcome, "blue") == 0
    assert lost_of(outcome, "red") > 0


@pytest.mark.interop
@pytest.mark.long
def test_tenant_that_is_taken_away_is_nobodys_from_the_reload_on(world: NumberedWorld) -> None:
    world.write(without_blue(world.plan))
    outcome, at = change(world, flows(world.plan))

    assert outcome.came_sent_after(at, tenant="blue") == 0
    assert lost_of(outcome, "red") == 0
    assert nodes.drops(world.gateway)["unknown-vsid", ""] > 0


@pytest.mark.interop
@pytest.mark.long
def test_tenant_that_comes_back_is_carried_from_the_reload_on(world: NumberedWorld) -> None:
    world.write(without_blue(world.plan))
    reload(world)
    world.write()
    outcome, at = change(world, flows(world.plan))

    assert all(sent < at for sent in outcome.lost_sent_at())
    assert lost_of(outcome, "red") == 0


def without_blue(planned: Plan) -> Plan:
    """Red alone."""
    return msgspec.structs.replace(
        planned,
        subnets=tuple(each for each in planned.subnets if each.tenant == "red"),
        vms=tuple(each for each in planned.vms if each.tenant == "red"),
    )


def test_record_that_is_written_elsewhere_is_there_from_the_reload_on(world: NumberedWorld) -> None:
    moved = next(vm for vm in world.plan.vms if vm.name == "red-web2")
    arrived = msgspec.structs.replace(moved, host="hv1")
    vms = tuple(arrived if vm is moved else vm for vm in world.plan.vms)
    world.write(msgspec.structs.replace(world.plan, vms=vms))
    # What a VM that has moved sends comes from its old host here, so only what it is sent is looked at.
    chosen = [flow for flow in flows(world.plan) if flow.source is not moved]
    to_it = [flow for flow in chosen if flow.target is moved]
    alternatively = [msgspec.structs.replace(flow, target=arrived) for flow in to_it]
    outcome, at = change(world, chosen, alternatively=alternatively)

    assert outcome.missing == 0
    for before, after in zip(to_it, alternatively, strict=True):
        ways = outcome.ways[outcome.flows.index(before)]
        assert before in ways.values()
        assert {ways[number] for number in sent_after(outcome, before, at)} == {after}


@pytest.mark.interop
@pytest.mark.long
@pytest.mark.parametrize(
    "then", ["red-db2", pytest.param(None, marks=IN_THE_LONG_RUN)], ids=["changed", "taken away"]
)
def test_route_holds_from_the_reload_on(world: NumberedWorld, then: str | None) -> None:
    named = {vm.name: vm for vm in world.plan.vms}
    first = [Flow(1000 + n, named["red-web1"], named["red-web2"], 4, behind=BEHIND) for n in range(10)]
    second = [msgspec.structs.replace(flow, target=named[then]) for flow in first] if then else []
    world.write(change=lambda text: in_tenant(text, "red", route(first[0])))
    reload(world)
    world.write(change=lambda text: in_tenant(text, "red", route(second[0]) if second else ""))
    chosen = [*flows(world.plan, tenants=["blue"]), *first]
    outcome, at = change(world, chosen, alternatively=second, errors="VSID 5001, protocol 1, type 3")

    assert lost_of(outcome, "blue") == 0
    for number, flow in enumerate(first):
        ways = outcome.ways[outcome.flows.index(flow)]
        assert flow in ways.values()
        assert {ways.get(late) for late in sent_after(outcome, flow, at)} == {
            second[number] if second else None
        }
    if second:
        assert outcome.missing == 0


def route(flow: Flow) -> str:
    """The route by which a flow's packets come to its target."""
    return f'\n[[tenant.route]]\nprefix = "{flow.behind}/32"\nvia = "{flow.target.address()}"\n'
