"""What a gateway has leased for itself, and what it gives back."""

from __future__ import annotations

import math
from ipaddress import ip_network

import pytest

from gateway.forwarding.directory import DeleteLease, PutLease
from gateway.host.leasing import (
    ASKED_FOR,
    FIRST_RETRY,
    LACKING_FOR,
    LAST_RETRY,
    LEASE_IDLE,
    RETURNED_AT_ONCE,
    Ask,
    Lacking,
    Refuse,
    Return,
)
from gateway.lookup.outcomes import WhyNoLease
from policies.addresses import ProviderAddress
from policies.model import Appliance, Lease, Translation
from tests.gateway.host.leased import OTHER_POOL, OWN, WEB, Node, ca, lease, network, pa, rewritten


@pytest.fixture
def host() -> Node:
    return Node()


@pytest.fixture
def gateway() -> Node:
    """A gateway that knows its network and has its own CAs leased, as 203.0.113.1 and .2."""
    node = Node("edge-1")
    asked = node.leasing.configure(network(), 0.0)
    assert asked == [Ask(*key) for key in OWN]
    for number, key in enumerate(OWN, 1):
        node.feed(PutLease(lease(number, key, 1)))
        assert node.do(node.leasing.answered(key, lease(number, key, 1), 0.0)) == []
    node.applied(1)
    return node


# --- a gateway's own CAs


def test_a_gateway_has_its_own_cas_leased_beforehand_and_for_ever(gateway: Node) -> None:
    for minute in range(1, 60):
        assert gateway.sample(60.0 * minute) == []
    assert gateway.leases == {pa(1), pa(2)}


def test_a_host_has_nothing_leased_beforehand(host: Node) -> None:
    assert host.leasing.configure(network(), 0.0) == []


@pytest.mark.parametrize(
    "appliance",
    [
        pytest.param(network(translation=Translation.ENCAP), id="nothing is rewritten"),
        pytest.param(network(gateway="edge-2"), id="another's tenant"),
        pytest.param(network(ip_network("2001:db8::/64")), id="no pool of the family"),
    ],
)
def test_a_gateway_leases_nothing_beforehand_that_cannot_be_used(appliance: Appliance) -> None:
    asked = Node("edge-1").leasing.configure(appliance, 0.0)

    assert not any(isinstance(effect, Ask) and effect.ca.version == 4 for effect in asked)


def test_a_gateway_that_comes_back_asks_for_nothing_that_it_has() -> None:
    node = Node("edge-1")
    node.feed(*(PutLease(lease(number, key)) for number, key in enumerate(OWN, 1)))

    assert node.leasing.configure(network(), 0.0) == []
    assert node.leasing.deadline == math.inf


def test_a_gateway_needs_a_lease_of_its_own_where_another_gateway_has_one() -> None:
    node = Node("edge-1")
    node.feed(PutLease(lease(1, OWN[0], node="edge-2")))

    assert Ask(*OWN[0]) in node.leasing.configure(network(), 0.0)


def test_own_cas_that_are_refused_are_asked_for_again_now_and_then_and_an_operator_told() -> None:
    node = Node("edge-1")
    node.leasing.configure(network(), 0.0)
    for number, key in enumerate(OWN):
        node.leasing.answered(key, lease(number, key, 1), 0.0)
    node.applied(1)  # and the feed knows nothing of them: both are gone again

    assert [Ask(*key) for key in OWN] == node.due(ASKED_FOR)
    effects = node.leasing.refused(OWN[0], WhyNoLease.UNKNOWN, 2.0)
    assert effects == [Refuse(*OWN[0]), Lacking(*OWN[0], "unknown")]
    node.leasing.failed(OWN[1], 2.0)
    assert node.leasing.deadline == ASKED_FOR + LACKING_FOR
    assert len(node.due(ASKED_FOR + LACKING_FOR)) == 2


def test_own_cas_that_could_not_be_asked_for_are_as_soon_as_the_lookup_service_is_back() -> None:
    node = Node("edge-1")
    node.leasing.configure(network(), 0.0)
    for key in OWN:
        node.leasing.failed(key, 5.0)

    assert node.leasing.reconnected(5.5) == []
    assert node.leasing.deadline == 5.0 + ASKED_FOR
    assert node.due(5.0 + ASKED_FOR) == [Ask(*key) for key in OWN]


def test_an_own_ca_whose_lease_somebody_returned_is_asked_for_again(gateway: Node) -> None:
    gateway.feed(DeleteLease(pa(1)), now=100.0)

    assert gateway.due(100.0) == [Ask(*OWN[0])]


# --- what a gateway gives back


def test_a_lease_is_returned_after_five_minutes_without_a_packet(gateway: Node) -> None:
    gateway.feed(PutLease(lease(10, 5)), PutLease(lease(11, 6)), now=10.0)

    assert gateway.sample(60.0, 10) == []
    assert gateway.sample(10.0 + LEASE_IDLE) == [Return((pa(11),))]
    gateway.leasing.returned(311.0)
    gateway.feed(DeleteLease(pa(11)), now=311.1)
    assert gateway.sample(60.0 + LEASE_IDLE) == [Return((pa(10),))]


def test_after_a_restart_all_leases_count_as_just_used() -> None:
    node = Node("edge-1")
    node.feed(PutLease(lease(10, 5)), now=1000.0)
    node.leasing.configure(network(), 1000.0)

    assert node.sample(1000.0 + LEASE_IDLE - 1) == []


def test_a_host_and_another_gateway_return_nothing(host: Node, gateway: Node) -> None:
    host.feed(PutLease(lease(10, 5)))
    gateway.feed(PutLease(lease(10, 5, node="edge-2")))

    assert host.sample(10_000.0) == []
    assert gateway.sample(10_000.0) == []


def test_of_two_leases_of_one_ca_the_later_is_returned_though_it_is_used(gateway: Node) -> None:
    gateway.feed(PutLease(lease(10, 5, revision=8)), PutLease(lease(11, 5, revision=7)))

    assert gateway.sample(60.0, 10, 11) == []
    assert gateway.sample(120.0, 10, 11) == [Return((pa(10),))]
    gateway.leasing.returned(121.0)
    gateway.feed(DeleteLease(pa(10)), now=121.0)
    assert gateway.sample(180.0, 11) == []


@pytest.mark.parametrize(
    "appliance",
    [
        pytest.param(network(gateway="edge-2"), id="another gateway's tenant"),
        pytest.param(network(OTHER_POOL), id="another pool"),
    ],
)
def test_a_lease_that_the_configuration_needs_no_longer_is_returned_though_it_is_used(
    gateway: Node, appliance: Appliance
) -> None:
    gateway.feed(PutLease(lease(10, 5)), now=10.0)
    gateway.sample(60.0, 10)
    gateway.leasing.configure(appliance, 60.0)

    for minute in range(2, 6):
        assert gateway.sample(60.0 * minute, 10) == []
    (returned,) = gateway.sample(60.0 + LEASE_IDLE, 10)
    assert isinstance(returned, Return)
    assert sorted(returned.pas) == [pa(1), pa(2), pa(10)]


def test_own_cas_get_addresses_of_the_pools_that_there_are_now(gateway: Node) -> None:
    assert gateway.leasing.configure(network(OTHER_POOL), 60.0) == [Ask(*key) for key in OWN]
    for number, (vsid, own) in enumerate(OWN, 1):
        new = Lease(ProviderAddress(bytes((198, 51, 100, number))), vsid, own, "edge-1", 50)
        gateway.feed(PutLease(new), now=60.0)

    assert gateway.sample(LEASE_IDLE - 1) == []
    assert gateway.sample(LEASE_IDLE) == [Return((pa(1), pa(2)))]
    assert gateway.sample(2 * LEASE_IDLE) == []
    assert gateway.due(2 * LEASE_IDLE) == []


def test_a_configuration_that_comes_back_in_time_costs_no_lease(gateway: Node) -> None:
    gateway.feed(PutLease(lease(10, 5)))
    gateway.leasing.configure(network(OTHER_POOL), 60.0)
    gateway.sample(120.0, 10)
    gateway.leasing.configure(network(), 130.0)

    gateway.sample(180.0, 10)
    assert gateway.sample(LEASE_IDLE + 1, 10) == []


def test_a_lease_of_a_ca_that_has_an_address_of_its_own_by_now_is_returned(gateway: Node) -> None:
    gateway.feed(PutLease(lease(10, 5)), rewritten(5))

    assert gateway.sample(60.0, 10) == []
    assert gateway.sample(LEASE_IDLE, 10) == [Return((pa(10),))]


def test_many_leases_are_returned_a_few_at_a_time(gateway: Node) -> None:
    wide = network(ip_network("203.0.0.0/16"))
    gateway.leasing.configure(wide, 0.0)
    every = [ProviderAddress(bytes((203, 0, number >> 8, number & 255))) for number in range(1200)]
    gateway.feed(*(PutLease(Lease(each, WEB, ca(number), "edge-1")) for number, each in enumerate(every)))

    (first,) = gateway.sample(LEASE_IDLE)
    assert first == Return(tuple(every[:RETURNED_AT_ONCE]))
    assert gateway.sample(LEASE_IDLE + 60) == []
    (second,) = gateway.leasing.returned(LEASE_IDLE + 61)
    (third,) = gateway.leasing.returned(LEASE_IDLE + 61)
    assert (second, third) == (Return(tuple(every[500:1000])), Return(tuple(every[1000:])))
    assert gateway.leasing.returned(LEASE_IDLE + 62) == []


def test_returning_is_repeated_until_somebody_takes_them_back(gateway: Node) -> None:
    gateway.feed(PutLease(lease(10, 5)))
    now, waits = LEASE_IDLE, []
    assert gateway.sample(now) == [Return((pa(10),))]
    for _ in range(8):
        assert gateway.leasing.return_failed(now) == []
        waits.append(gateway.leasing.deadline - now)
        now = gateway.leasing.deadline
        assert gateway.due(now) == [Return((pa(10),))]

    assert waits == [FIRST_RETRY, 2.0, 4.0, 8.0, 16.0, 32.0, LAST_RETRY, LAST_RETRY]
    gateway.leasing.return_failed(now)
    assert gateway.leasing.reconnected(now + 1) == [Return((pa(10),))]


def test_a_lease_that_is_used_again_before_it_could_be_returned_stays(gateway: Node) -> None:
    gateway.feed(PutLease(lease(10, 5)))
    gateway.sample(LEASE_IDLE)
    gateway.leasing.return_failed(LEASE_IDLE)

    assert gateway.sample(LEASE_IDLE + 0.5, 10) == []
    assert gateway.leasing.deadline == math.inf
    assert gateway.due(LEASE_IDLE + 100) == []


def test_a_lease_that_went_while_it_could_not_be_returned_is_not_returned(gateway: Node) -> None:
    gateway.feed(PutLease(lease(10, 5)))
    gateway.sample(LEASE_IDLE)
    gateway.leasing.return_failed(LEASE_IDLE)
    gateway.feed(DeleteLease(pa(10)))

    assert gateway.due(LEASE_IDLE + 100) == []


def test_a_lease_that_is_still_there_after_it_was_returned_is_returned_once_more(gateway: Node) -> None:
    gateway.feed(PutLease(lease(10, 5)))
    gateway.sample(LEASE_IDLE)
    assert gateway.leasing.returned(LEASE_IDLE + 1) == []

    assert gateway.sample(2 * LEASE_IDLE) == []
    assert gateway.sample(2 * LEASE_IDLE + 1) == [Return((pa(10),))]


def test_an_address_that_was_leased_anew_while_it_was_being_returned_is_not_forgotten(
    gateway: Node,
) -> None:
    gateway.feed(PutLease(lease(10, 5)))
    gateway.sample(LEASE_IDLE)
    gateway.feed(DeleteLease(pa(10)), PutLease(lease(10, 5, revision=9)), now=LEASE_IDLE + 1)
    gateway.leasing.returned(LEASE_IDLE + 2)

    assert gateway.sample(2 * LEASE_IDLE) == []
    assert gateway.sample(2 * LEASE_IDLE + 2) == [Return((pa(10),))]
