"""The agent of a host or a gateway: what it claims, acknowledges, hints at and lets go."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from gateway.forwarding.happenings import Heard, Stale
from gateway.host.agent import AT_ONCE, CLAIM_SECONDS, HINTS_AT_ONCE, HINTS_KEPT
from gateway.lookup.answers import Hint
from gateway.lookup.claims import Mode, Reason, Refused
from gateway.lookup.outcomes import Forbidden
from policies.addresses import CustomerAddress, ProviderAddress
from policies.config import parse
from policies.model import LookupRecord
from tests.gateway.host.agents import (
    GATEWAY,
    HOST,
    LEARNING_HOST,
    NETWORK,
    THERE,
    VSID,
    Node,
    away,
    ca,
    key,
    mac,
    never,
    ports,
    record,
    run,
)

# --- claims


def test_the_ports_that_open_are_registered_and_the_vms_that_are_heard_are_claimed() -> None:
    async def main(node: Node) -> None:
        node.put(record(3))
        node.agent.port_opened(key(2))
        node.agent.port_opened(key(3))
        await trio.testing.wait_all_tasks_blocked()
        assert node.lookup.claims == [(0, mac(2), Mode.REGISTER)]

        node.agent.happened(Heard(key(3), (), is_announcement=True))
        node.agent.happened(Heard(key(3), (ca(3),), is_announcement=False))
        await trio.sleep(0.1)
        assert node.lookup.claims[1:] == [(0, mac(3), Mode.ANNOUNCE)]

        node.put(record(3, "hv1", revision=2))
        await trio.sleep(100)
        assert len(node.lookup.claims) == 2
        assert node.probes == []

    run(main)


def test_what_happens_before_the_agent_runs_is_not_lost() -> None:
    async def whole() -> None:
        node = Node()
        node.agent.port_opened(key(2))
        node.agent.configure(node.appliance)
        node.agent.applied(7)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.agent.run)
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
        assert node.lookup.claims == [(0, mac(2), Mode.REGISTER)]
        assert node.lookup.acknowledged == [(0, 7)]

    trio.run(whole, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_silent_vm_is_asked_until_it_answers() -> None:
    async def main(node: Node) -> None:
        node.put(record(2))
        node.agent.port_opened(key(2))
        await trio.sleep(4)
        assert node.probes == [(1, ca(2)), (3, ca(2))]

        node.agent.happened(Heard(key(2), (ca(2),), is_announcement=True))
        node.put(record(2, "hv1", revision=2))
        await trio.sleep(100)
        assert len(node.probes) == 2

    run(main)


def test_claims_wait_for_a_lookup_service_that_is_away() -> None:
    async def main(node: Node) -> None:
        node.lookup.answer = away
        node.put(record(2))
        node.agent.port_opened(key(2))
        node.agent.happened(Heard(key(2), (), is_announcement=True))
        await trio.sleep(2)
        assert [round(at, 1) for at, _, _ in node.lookup.claims] == [0, 0.2, 0.6, 1.4]

        node.lookup.answer = trio.lowlevel.checkpoint
        await trio.sleep(100)
        assert len(node.lookup.claims) == 5

    run(main)


def test_a_claim_that_nobody_answers_is_given_up_and_repeated() -> None:
    async def main(node: Node) -> None:
        node.lookup.answer = never
        node.agent.port_opened(key(2))
        await trio.sleep(CLAIM_SECONDS + 1)

        assert [round(at, 1) for at, _, _ in node.lookup.claims] == [0, 10.2]
        assert node.lookup.cancelled == 1

    run(main)


def test_a_claim_under_way_is_broken_off_when_its_port_closes() -> None:
    async def main(node: Node) -> None:
        node.lookup.answer = never
        node.agent.port_opened(key(2))
        await trio.testing.wait_all_tasks_blocked()
        assert node.lookup.under_way == 1

        node.agent.port_closed(key(2))
        await trio.testing.wait_all_tasks_blocked()
        assert (node.lookup.under_way, node.lookup.cancelled) == (0, 1)
        await trio.sleep(100)
        assert len(node.lookup.claims) == 1

    run(main)


def test_a_port_that_closes_and_opens_at_once_is_registered_anew() -> None:
    async def main(node: Node) -> None:
        node.lookup.answer = never
        for _ in range(5):
            node.agent.port_opened(key(2))
            node.agent.port_closed(key(2))
        node.lookup.answer = trio.lowlevel.checkpoint
        node.agent.port_opened(key(2))
        await trio.sleep(100)

        assert node.lookup.claims == [(0, mac(2), Mode.REGISTER)]

    run(main)


def test_vms_that_come_do_not_wait_behind_those_that_were_here() -> None:
    async def main(node: Node) -> None:
        node.lookup.answer = never
        for number in range(2, 32):
            node.agent.port_opened(key(number))
        await trio.testing.wait_all_tasks_blocked()
        assert node.lookup.most_under_way == AT_ONCE[Mode.REGISTER]

        node.put(record(40))
        node.agent.port_opened(key(40))
        node.agent.happened(Heard(key(40), (), is_announcement=True))
        await trio.testing.wait_all_tasks_blocked()
        assert node.lookup.claims[-1] == (0, mac(40), Mode.ANNOUNCE)

    run(main)


def test_a_refusal_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def frozen() -> None:
        raise Refused(Reason.FROZEN)

    async def main(node: Node) -> None:
        node.lookup.answer = frozen
        node.put(record(2))
        node.agent.port_opened(key(2))
        for _ in range(100):
            node.agent.happened(Heard(key(2), (), is_announcement=True))
            await trio.sleep(1)
        assert [at for at, _, _ in node.lookup.claims] == [0, 30, 60, 90]

    with caplog.at_level(logging.WARNING):
        run(main)
    assert [line.getMessage() for line in caplog.records] == [
        "the VM 02:00:00:00:01:02 in virtual subnet 5001 cannot be claimed: frozen"
    ]


def test_a_host_whose_pools_are_empty_is_told_of_in_words(caplog: pytest.LogCaptureFixture) -> None:
    async def full() -> None:
        raise Refused(Reason.NO_ADDRESS)

    async def main(node: Node) -> None:
        node.lookup.answer = full
        node.agent.port_opened(key(2))
        await trio.sleep(100)
        assert [at for at, _, _ in node.lookup.claims] == [0, 30, 60, 90]

    with caplog.at_level(logging.WARNING):
        run(main)
    (line,) = caplog.records
    assert line.getMessage() == (
        "the VM 02:00:00:00:01:02 in virtual subnet 5001 cannot be claimed: "
        "the host's pools have no address left"
    )


def test_a_host_that_may_not_claim_does_so_once_it_may(caplog: pytest.LogCaptureFixture) -> None:
    async def forbidden() -> None:
        raise Forbidden("hv1 may not hold red")

    async def main(node: Node) -> None:
        node.lookup.answer = forbidden
        node.agent.port_opened(key(2))
        await trio.sleep(100)
        assert len(node.lookup.claims) == 1

        node.lookup.answer = trio.lowlevel.checkpoint
        node.agent.configure(node.appliance)
        await trio.sleep(100)
        assert len(node.lookup.claims) == 2

    run(main)
    assert "hv1 may not hold red" in caplog.text


def test_everything_is_registered_again_after_an_outage() -> None:
    async def main(node: Node) -> None:
        for number in (2, 3):
            node.agent.port_opened(key(number))
            node.put(record(number, "hv1"))
        await trio.sleep(9.5)
        node.is_connected = False
        await trio.sleep(10)
        assert len(node.lookup.claims) == 2
        node.is_connected = True
        await trio.sleep(10)

        assert [(at, mode) for at, _, mode in node.lookup.claims[2:]] == [(20, Mode.REGISTER)] * 2

    run(main)


# --- acknowledgements


def test_the_newest_revision_is_acknowledged_and_those_between_are_not() -> None:
    async def main(node: Node) -> None:
        async def slow() -> None:
            await trio.sleep(1)

        node.lookup.answer = slow
        for revision in range(1, 11):
            node.agent.applied(revision)
            await trio.sleep(0.1)
        node.agent.applied(10)
        await trio.sleep(10)
        node.agent.applied(10)
        await trio.sleep(10)
        assert node.lookup.acknowledged == [(1, 1), (2, 10)]
        assert node.lookup.most_under_way == 1

    run(main)


def test_an_acknowledgement_that_did_not_arrive_is_made_up_for_by_the_newest() -> None:
    async def main(node: Node) -> None:
        node.lookup.answer = away
        node.agent.applied(1)
        await trio.sleep(2.5)
        node.agent.applied(2)
        node.lookup.answer = trio.lowlevel.checkpoint
        await trio.sleep(10)
        assert node.lookup.acknowledged == [(3, 2)]

    run(main)


def test_the_next_node_is_told_what_is_applied() -> None:
    async def main(node: Node) -> None:
        node.agent.applied(5)
        await trio.sleep(9.5)
        node.is_connected = False
        await trio.sleep(10)
        node.is_connected = True
        await trio.sleep(10)
        assert node.lookup.acknowledged == [(0, 5), (20, 5)]

    run(main)


# --- hints


def test_a_host_that_is_behind_is_taught() -> None:
    async def main(node: Node) -> None:
        node.agent.happened(Stale(THERE, record(2)))
        await trio.testing.wait_all_tasks_blocked()
        assert node.lookup.given == [Hint("hv2", VSID, ca(2))]

    run(main)


def test_nobody_is_taught_who_is_no_host() -> None:
    async def main(node: Node) -> None:
        node.agent.happened(Stale(GATEWAY, record(2)))
        node.agent.happened(Stale(ProviderAddress.parse("192.0.2.1"), record(2)))
        await trio.sleep(10)
        assert node.lookup.calls_with_hints == 0

    run(main)


def test_a_gateway_teaches_and_acknowledges_and_claims_nothing() -> None:
    async def main(node: Node) -> None:
        node.put(record(2))
        node.agent.port_opened(key(2))
        node.agent.happened(Heard(key(2), (), is_announcement=True))
        node.agent.happened(Stale(THERE, record(2)))
        node.agent.applied(3)
        await trio.sleep(10)
        assert node.lookup.given == [Hint("hv2", VSID, ca(2))]
        assert node.lookup.acknowledged == [(0, 3)]
        assert node.lookup.claims == []

    text = '[appliance]\nname = "edge-1"\n[underlay]\nprovider_addresses = ["192.0.2.254"]\n[gateway]\n'
    run(main, lambda: Node(text + NETWORK))


def test_many_hints_go_out_a_few_at_a_time_the_newest_first_and_each_once() -> None:
    async def main(node: Node) -> None:
        for number in range(2, 252):
            for _ in range(3):
                node.agent.happened(Stale(THERE, record(number)))
        await trio.sleep(1)
        assert node.lookup.given == [Hint("hv2", VSID, ca(number)) for number in reversed(range(2, 252))]
        assert node.lookup.calls_with_hints == 1

    run(main)


def test_the_last_word_about_a_record_counts_and_is_said_first() -> None:
    async def main(node: Node) -> None:
        node.agent.happened(Stale(THERE, record(2)))
        node.agent.happened(Stale(THERE, record(3)))
        node.agent.happened(Stale(THERE, record(2)))
        await trio.sleep(1)
        assert node.lookup.given == [Hint("hv2", VSID, ca(2)), Hint("hv2", VSID, ca(3))]

    run(main)


def test_a_hint_that_comes_while_the_same_is_being_given_is_given_again() -> None:
    async def main(node: Node) -> None:
        async def slow() -> None:
            await trio.sleep(1)

        node.lookup.answer = slow
        node.agent.happened(Stale(THERE, record(2)))
        await trio.sleep(0.5)
        node.agent.happened(Stale(THERE, record(2, revision=2)))
        await trio.sleep(10)
        assert node.lookup.given == [Hint("hv2", VSID, ca(2))] * 2

    run(main)


def test_hints_that_nobody_takes_wait_up_to_a_bound_and_the_newest_are_kept() -> None:
    async def main(node: Node) -> None:
        node.lookup.answer = away
        every = [
            LookupRecord(
                VSID, CustomerAddress(bytes((10, 0, number >> 8, number & 255))), mac(2), THERE, "hv2"
            )
            for number in range(HINTS_KEPT + 1000)
        ]
        for each in every[:3000]:
            node.agent.happened(Stale(THERE, each))
        await trio.sleep(10)
        for each in every[3000:]:
            node.agent.happened(Stale(THERE, each))
        await trio.sleep(10)
        tried = node.lookup.calls_with_hints
        assert tried <= 21

        node.lookup.answer = trio.lowlevel.checkpoint
        await trio.sleep(10)
        assert {hint.ca for hint in node.lookup.given} == {each.ca for each in every[1000:]}
        assert len(node.lookup.given) == HINTS_KEPT
        assert node.lookup.calls_with_hints - tried == -(-HINTS_KEPT // HINTS_AT_ONCE)

    run(main)


# --- a host that keeps what it uses


def learning() -> Node:
    node = Node(LEARNING_HOST + ports(2))
    node.appliance = parse(HOST + ports(2) + NETWORK)
    return node


def test_what_a_host_was_taught_and_does_not_use_is_let_go_after_five_minutes() -> None:
    async def main(node: Node) -> None:
        node.put(record(100), record(101), record(2, "hv1"))
        node.used = [(VSID, ca(100))]
        await trio.sleep(290)
        assert node.lookup.given == []

        await trio.sleep(100)
        assert node.lookup.given == [Hint("hv1", VSID, ca(101), forget=True)]
        node.used = []
        await trio.sleep(1000)
        assert node.lookup.given[1:] == [Hint("hv1", VSID, ca(100), forget=True)]

    run(main, learning)


def test_what_a_host_uses_is_asked_for_again_at_the_next_node_although_it_was_lost_there() -> None:
    async def main(node: Node) -> None:
        node.put(record(100), record(101))
        await trio.sleep(10)
        node.is_connected = False
        node.delete(100)
        await trio.sleep(10)
        node.is_connected = True
        await trio.sleep(10)
        assert node.lookup.given == [Hint("hv1", VSID, ca(101)), Hint("hv1", VSID, ca(100))]

    run(main, learning)


def test_a_host_that_keeps_everything_has_no_wishes() -> None:
    async def main(node: Node) -> None:
        node.put(record(100))
        await trio.sleep(1000)
        assert node.lookup.calls_with_hints == 0

    run(main)
