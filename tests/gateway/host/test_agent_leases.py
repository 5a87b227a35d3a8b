"""The agent of a host or a gateway: what it has leased, and what it returns."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from gateway.forwarding.directory import DeleteLease, PutLease
from gateway.forwarding.happenings import Wanted
from gateway.host.agent import LEASE_SECONDS
from gateway.host.leasing import LEASE_IDLE, MOST_UNDER_WAY, REFUSED_FOR
from gateway.lookup.outcomes import Forbidden, NoLease, WhyNoLease
from policies.addresses import CustomerAddress, ProviderAddress
from policies.model import Lease
from tests.configurations import provider_host, subnet, tenant
from tests.gateway.host.agents import HERE, VSID, Node, away, ca, never, run

REWRITING_GATEWAY = (
    '[appliance]\nname = "edge-1"\n[underlay]\nprovider_addresses = ["192.0.2.254"]\n'
    '[gateway]\npools = ["198.18.0.0/24"]\n[lookup]\n'
    + provider_host("hv1", HERE)
    + 'pools = ["198.18.1.0/24"]\n'
    + tenant("red")
    + subnet("web", VSID, "10.0.0.0/16")
    + 'translation = "rewrite"\n'
)
OWN = CustomerAddress.parse("10.0.0.1")


def lease(number: int, of: CustomerAddress, revision: int = 1) -> Lease:
    return Lease(ProviderAddress(bytes((198, 18, 0, number))), VSID, of, "edge-1", revision)


def rewriting() -> Node:
    node = Node(REWRITING_GATEWAY)
    node.lookup.leases[VSID, OWN] = lease(1, OWN)
    return node


def test_an_address_that_is_lacking_is_asked_for_once_and_known_as_soon_as_it_is_answered() -> None:
    async def main(node: Node) -> None:
        async def slow() -> None:
            await trio.sleep(1)

        node.lookup.answer = slow
        node.lookup.leases[VSID, ca(5)] = lease(5, ca(5))
        for _ in range(8):
            node.agent.happened(Wanted(VSID, ca(5)))
            await trio.sleep(0.25)
        assert node.lookup.asked == [(0, ca(5))]
        assert node.directory.leases(VSID, ca(5)) == (lease(5, ca(5)),)

        node.agent.applied(3)  # without it: it has been returned meanwhile
        assert node.directory.leases(VSID, ca(5)) == ()

    run(main)


def test_forwarding_is_not_told_of_a_refusal_from_within_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def none() -> None:
        raise NoLease(WhyNoLease.TENANT_LIMIT)

    async def main(node: Node) -> None:
        node.lookup.answer = none
        node.agent.happened(Wanted(VSID, ca(5)))
        await trio.sleep(1)
        assert node.refused == [(0, VSID, ca(5))]

        node.agent.happened(Wanted(VSID, ca(5)))
        assert len(node.refused) == 1
        await trio.testing.wait_all_tasks_blocked()
        assert node.refused[1:] == [(1, VSID, ca(5))]
        assert node.lookup.asked == [(0, ca(5))]

        await trio.sleep(REFUSED_FOR)
        node.agent.happened(Wanted(VSID, ca(5)))
        await trio.sleep(1)
        assert len(node.lookup.asked) == 2

    with caplog.at_level(logging.WARNING):
        run(main)
    (line,) = caplog.records
    assert line.getMessage() == (
        "no provider address for 10.0.1.5 in virtual subnet 5001: "
        "the tenant holds as many as its `leases` allow"
    )


def test_who_may_not_lease_anything_is_refused_in_words(caplog: pytest.LogCaptureFixture) -> None:
    async def forbidden() -> None:
        raise Forbidden("hv1 may not")

    async def main(node: Node) -> None:
        node.lookup.answer = forbidden
        node.agent.happened(Wanted(VSID, ca(5)))
        await trio.sleep(1)
        assert node.refused == [(0, VSID, ca(5))]

    run(main)
    assert "no provider address for 10.0.1.5 in virtual subnet 5001: hv1 may not" in caplog.text


def test_leases_that_nobody_answers_for_are_given_up_and_bounded() -> None:
    async def main(node: Node) -> None:
        node.lookup.answer = never
        for number in range(2, 202):
            node.agent.happened(Wanted(VSID, ca(number)))
        await trio.sleep(LEASE_SECONDS - 0.1)
        assert node.lookup.most_under_way == MOST_UNDER_WAY
        await trio.sleep(1)
        assert node.lookup.cancelled == MOST_UNDER_WAY
        assert node.lookup.most_under_way == MOST_UNDER_WAY
        assert node.refused == []

    run(main)


def test_a_gateway_has_its_own_address_leased_as_soon_as_it_can() -> None:
    async def main(node: Node) -> None:
        assert node.directory.leases(VSID, OWN) == (lease(1, OWN),)
        node.tell(PutLease(lease(1, OWN)))
        await trio.sleep(1000)
        assert node.lookup.asked == [(0, OWN)]
        assert node.lookup.returned == []

    run(main, rewriting)


def test_a_gateway_whose_lookup_service_was_away_has_its_own_address_leased_when_it_is_back() -> None:
    def lonely() -> Node:
        node = rewriting()
        node.is_connected = False
        node.lookup.answer = away
        return node

    async def main(node: Node) -> None:
        await trio.sleep(9.5)
        node.lookup.answer = trio.lowlevel.checkpoint
        assert node.directory.leases(VSID, OWN) == ()
        node.is_connected = True
        await trio.sleep(1)
        assert node.lookup.asked == [(0, OWN), (10, OWN)]
        assert node.directory.leases(VSID, OWN) == (lease(1, OWN),)

    run(main, lonely)


def test_a_gateway_returns_what_nobody_has_used_for_five_minutes() -> None:
    async def main(node: Node) -> None:
        node.tell(PutLease(lease(5, ca(5))), PutLease(lease(6, ca(6))))
        node.used_leases = [bytes(lease(5, ca(5)).pa)]
        await trio.sleep(LEASE_IDLE + 1)
        assert node.lookup.returned == [(LEASE_IDLE, [lease(6, ca(6)).pa])]
        node.tell(DeleteLease(lease(6, ca(6)).pa))

        node.used_leases = []
        await trio.sleep(400)
        assert node.lookup.returned[1:] == [(2 * LEASE_IDLE, [lease(5, ca(5)).pa])]

    run(main, rewriting)


def test_what_nobody_takes_back_is_returned_when_somebody_does() -> None:
    async def main(node: Node) -> None:
        node.tell(PutLease(lease(5, ca(5))))
        node.lookup.answer = away
        await trio.sleep(LEASE_IDLE + 4)
        node.lookup.answer = trio.lowlevel.checkpoint
        await trio.sleep(10)
        assert node.lookup.returned == [(LEASE_IDLE + 7, [lease(5, ca(5)).pa])]

    run(main, rewriting)


def test_what_may_not_be_returned_is_told_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def forbidden() -> None:
        raise Forbidden("198.18.0.5 is of no pool of edge-1")

    async def main(node: Node) -> None:
        node.tell(PutLease(lease(5, ca(5))))
        node.lookup.answer = forbidden
        await trio.sleep(LEASE_IDLE + 0.5)
        node.lookup.answer = trio.lowlevel.checkpoint
        await trio.sleep(10)
        assert len(node.lookup.returned) == 1

    run(main, rewriting)
    assert "1 leases cannot be returned: 198.18.0.5 is of no pool of edge-1" in caplog.text
