"""What the program leaves to Python is little enough for it, and enough for senders to be taught."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.compat import raw

from gateway.fastpath import layout
from gateway.forwarding.drops import DropReason
from tests.fastpath.cases_carried import DB, OTHER_DB, OTHER_WEB, ROUTED, WEB
from tests.fastpath.outcomes import Forwarded
from tests.fastpath.program import Ended, Left, Machine
from tests.fastpath.scenes import WORLD, pa, world
from tests.fastpath.ways import AT_SITES
from tests.fastpath.wire import arriving, arriving_packet, forwarded, ipv4, routed, with_ip
from tests.networks import frame

pytestmark = pytest.mark.netns

# A quarter of a second of Python's time, at 100 us for what it has to think about, and 10 us for the rest.
THOUGHT_ABOUT = 2_500
CARRIED = 25_000
OF_EACH = THOUGHT_ABOUT // 2
"""Of what a host may, before any source is proven, so much is each tenant's."""

# The part of it that time gives back while a test runs, on a busy machine.
_MEANWHILE = 0.8

MISS = with_ip(ROUTED, dst="10.0.2.77")
LIMITED = DropReason.PUNT_LIMITED


@pytest.fixture(scope="module")
def machine(require_bpf: None) -> Iterator[Machine]:
    made = Machine()
    yield made
    made.close()


def test_flood_of_what_nobody_has_costs_python_no_more_than_its_share(machine: Machine) -> None:
    program = machine.within(WORLD)
    passed, drops = program.flood(arriving(MISS), "eth1", 2 * THOUGHT_ABOUT)
    assert drops == {(LIMITED, "red"): 2 * THOUGHT_ABOUT - passed}
    assert THOUGHT_ABOUT <= passed <= THOUGHT_ABOUT * (1 + _MEANWHILE)


def test_what_python_only_carries_may_be_ten_times_as_much(machine: Machine) -> None:
    program = machine.within(AT_SITES)
    to_site = arriving(with_ip(ROUTED, dst="172.16.0.5"))
    passed, drops = program.flood(to_site, "eth1", 2 * CARRIED)
    assert drops == {(LIMITED, "red"): 2 * CARRIED - passed}
    assert CARRIED <= passed <= CARRIED * (1 + _MEANWHILE)


def test_one_tenants_flood_takes_nothing_from_another(machine: Machine) -> None:
    program = machine.within(WORLD)
    program.flood(arriving(MISS), "eth1", 2 * THOUGHT_ABOUT)
    left, _ = program.flood(arriving(MISS), "eth1", 2 * THOUGHT_ABOUT)
    assert left < THOUGHT_ABOUT * _MEANWHILE
    of_blue = arriving(with_ip(frame("blue", WEB, DB), dst="10.0.2.77"), tenant="blue")
    left, drops = program.flood(of_blue, "eth1", THOUGHT_ABOUT)
    assert (left, drops) == (THOUGHT_ABOUT, {})


def test_tenants_flood_does_not_keep_its_packets_from_being_carried(machine: Machine) -> None:
    program = machine.within(WORLD)
    program.flood(arriving(MISS), "eth1", 2 * THOUGHT_ABOUT)
    assert program.run(arriving(ROUTED), "eth1").outcome == forwarded(routed(ROUTED))


def test_what_is_not_proven_to_be_from_a_vm_is_on_account_of_the_host_that_sent_it(machine: Machine) -> None:
    program = machine.within(WORLD)
    broken = raw(ROUTED)[:30]
    for tenant in ("red", "blue"):
        # Each has half of what the host may have, whatever the other one sends.
        passed, drops = program.flood(arriving(broken, tenant=tenant), "eth1", 2 * THOUGHT_ABOUT)
        assert drops == {(LIMITED, tenant): 2 * THOUGHT_ABOUT - passed}
        assert OF_EACH <= passed <= OF_EACH * (1 + _MEANWHILE)
    # The same tenant's by another host, and what one of its VMs has really sent.
    assert program.flood(arriving(broken, sender="hv2"), "eth2", OF_EACH) == (OF_EACH, {})
    assert program.flood(arriving(MISS), "eth1", THOUGHT_ABOUT) == (THOUGHT_ABOUT, {})


def test_flood_of_gre_that_only_the_kernel_reads_costs_python_no_more_than_a_tenants(
    machine: Machine,
) -> None:
    program = machine.within(WORLD)
    packet = ipv4(pa("stranger"), pa("edge-1"), arriving(ROUTED)[34:], options=bytes(4))
    passed, drops = program.flood(arriving_packet(packet), "eth1", 2 * THOUGHT_ABOUT)
    assert drops == {(LIMITED, ""): 2 * THOUGHT_ABOUT - passed}
    assert OF_EACH <= passed <= OF_EACH * (1 + _MEANWHILE)
    # Whoever sends as it should be is none the worse for it.
    assert program.flood(arriving(MISS), "eth1", THOUGHT_ABOUT) == (THOUGHT_ABOUT, {})


def test_host_has_no_more_for_three_tenants_than_for_two(machine: Machine) -> None:
    program = machine.within(WORLD)
    of_green = arriving(raw(ROUTED), tenant="green")  # which is not for this gateway: Python only says so
    assert program.flood(of_green, "eth1", 5 * OF_EACH) == (5 * OF_EACH, {})
    for tenant in ("red", "blue"):
        program.flood(arriving(raw(ROUTED)[:30], tenant=tenant), "eth1", 2 * OF_EACH)
    left, _ = program.flood(of_green, "eth1", 5 * OF_EACH)
    assert left < 5 * OF_EACH * _MEANWHILE


def test_sender_is_taught_once_each_half_minute_of_each_record(machine: Machine) -> None:
    program = machine.within(WORLD)
    program.switch(layout.CARRIES | layout.TEACHES)

    def outcomes() -> list[Forwarded | Ended | Left]:
        to = [DB, OTHER_DB, OTHER_WEB]
        return [program.run(arriving(frame("red", WEB, each)), "eth1").outcome for each in to]

    first = outcomes()
    assert all(isinstance(each, Left) and each.counted == ("teach",) for each in first)
    assert all(isinstance(each, Forwarded) for each in outcomes())
    # Another sender of the same: its records have not been taught to it.
    from_other = arriving(frame("red", OTHER_WEB, DB), sender="hv2")
    assert program.run(from_other, "eth2").outcome == Left(from_other, ("teach",))


def test_nobody_is_taught_where_no_lookup_service_listens(machine: Machine) -> None:
    outcome = machine.within(WORLD).run(arriving(ROUTED), "eth1").outcome
    assert outcome == forwarded(routed(ROUTED))


def test_program_that_is_told_to_carry_nothing_leaves_everything(machine: Machine) -> None:
    program = machine.within(WORLD)
    program.switch(0)
    for sent in (arriving(ROUTED), arriving(ROUTED, flags=0x2001), arriving(ROUTED, sender="stranger")):
        assert program.run(sent, "eth1").outcome == Left(sent, ())


def test_interface_that_is_none_of_the_underlays_leaves_everything(machine: Machine) -> None:
    program = machine.within(world(hops={}))
    sent = arriving(ROUTED)
    assert program.run(sent, "lo").outcome == Left(sent, ())
