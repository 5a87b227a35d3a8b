"""Which provider addresses a host or a gateway asks for, and which a gateway gives back."""

from __future__ import annotations

import math
from ipaddress import ip_network

import pytest

from gateway.forwarding.directory import DeleteLease, Directory, Put, PutLease
from gateway.host.leasing import (
    AHEAD_FOR,
    ASKED_FOR,
    COMPLAIN_EVERY,
    FIRST_RETRY,
    LACKING_FOR,
    LAST_RETRY,
    LEASE_IDLE,
    MOST_UNDER_WAY,
    MOST_WAITING,
    REFUSED_FOR,
    REMEMBERED,
    RETURNED_AT_ONCE,
    UNKNOWN_FOR,
    Apply,
    Ask,
    Effect,
    Lacking,
    Leasing,
    Refuse,
    Return,
)
from gateway.host.uses import Key
from gateway.lookup.outcomes import WhyNoLease
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import Appliance, Lease, LookupRecord, Translation
from tests.gateway.host.leased import DB, OTHER_POOL, WEB, ca, network, pa

BLUE = Vsid(6001)
MAC = MacAddress.parse("02:00:00:00:01:05")


def lease(number: int, of: int | Key, revision: int = 1, node: str = "edge-1") -> Lease:
    vsid, address = of if isinstance(of, tuple) else (WEB, ca(of))
    return Lease(pa(number), vsid, address, node, revision)


def rewritten(number: int) -> Put:
    return Put(LookupRecord(WEB, ca(number), MAC, pa(250), "hv1", Translation.REWRITE, 1, 1))


def encapsulated(number: int) -> Put:
    return Put(LookupRecord(WEB, ca(number), MAC, pa(250), "hv1", epoch=1, revision=1))


OWN: tuple[Key, Key] = (
    (WEB, CustomerAddress.parse("10.0.1.1")),
    (DB, CustomerAddress.parse("10.0.2.1")),
)


class Node:
    """A node, and its directory: what its machine says is done there at once."""

    def __init__(self, gateway: str | None = None) -> None:
        self.directory = Directory()
        self.leasing = Leasing(gateway, self.directory.find)

    def feed(self, *changes: Put | PutLease | DeleteLease, now: float = 0.0) -> None:
        for change in changes:
            self.directory.apply(change)
            self.leasing.changed(change, now)

    def applied(self, revision: int, now: float = 0.0) -> None:
        self.do(self.leasing.applied(revision, now))

    def do(self, effects: list[Effect]) -> list[Effect]:
        for effect in effects:
            if isinstance(effect, Apply):
                self.directory.apply(effect.change)
        return [effect for effect in effects if not isinstance(effect, Apply)]

    def wanted(self, number: int, now: float = 0.0, vsid: Vsid = WEB) -> list[Effect]:
        self.leasing.wanted(vsid, ca(number), now)
        return self.leasing.handle_timeout(now)

    def due(self, now: float) -> list[Effect]:
        return self.do(self.leasing.handle_timeout(now))

    def sample(self, now: float, *used: int) -> list[Effect]:
        self.leasing.used([bytes(pa(number)) for number in used], now)
        return self.leasing.expire(now)

    @property
    def leases(self) -> set[ProviderAddress]:
        return {each.pa for each in self.directory.all_leases()}


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


# --- what is asked for


def test_what_is_wanted_is_asked_for_once(host: Node) -> None:
    assert host.wanted(5) == [Ask(WEB, ca(5))]
    assert host.wanted(5, 0.25) == []
    assert host.leasing.deadline == math.inf


def test_what_is_wanted_is_due_at_once_but_not_said_from_within_forwarding(host: Node) -> None:
    host.leasing.wanted(WEB, ca(5), 0.0)

    assert host.leasing.deadline == -math.inf


def test_so_many_are_asked_for_at_once_and_the_next_when_one_is_answered(host: Node) -> None:
    for number in range(MOST_UNDER_WAY + 2):
        host.leasing.wanted(WEB, ca(number), 0.0)

    assert host.due(0.0) == [Ask(WEB, ca(number)) for number in range(MOST_UNDER_WAY)]
    assert host.leasing.deadline == math.inf
    assert host.do(host.leasing.answered((WEB, ca(0)), lease(1, 0), 0.1)) == [Ask(WEB, ca(MOST_UNDER_WAY))]
    assert host.leasing.failed((WEB, ca(1)), 0.1) == [Ask(WEB, ca(MOST_UNDER_WAY + 1))]


def test_so_many_wait_of_one_virtual_subnet_and_those_of_another_are_not_behind_them(host: Node) -> None:
    for number in range(MOST_UNDER_WAY + MOST_WAITING + 100):
        host.leasing.wanted(WEB, ca(number), 0.0)
        host.due(0.0)
    host.leasing.wanted(BLUE, ca(5), 0.0)
    assert host.due(0.0) == []

    asked: list[Effect] = []
    under_way = [(WEB, ca(number)) for number in range(MOST_UNDER_WAY)]
    while under_way:
        for effect in host.leasing.failed(under_way.pop(0), 0.1):
            assert isinstance(effect, Ask)
            asked.append(effect)
            under_way.append((effect.vsid, effect.ca))
    assert Ask(BLUE, ca(5)) in asked[:2]
    assert len(asked) == len(set(asked)) == MOST_WAITING + 1


def test_what_has_come_by_the_feed_meanwhile_is_not_asked_for(host: Node) -> None:
    for number in (5, 6):
        host.leasing.wanted(WEB, ca(number), 0.0)
    host.feed(PutLease(lease(1, 5)), rewritten(6))

    assert host.due(0.0) == []
    assert host.leasing.deadline == math.inf


def test_an_answer_keeps_the_same_from_being_asked_again_for_a_second(host: Node) -> None:
    host.wanted(5)
    host.do(host.leasing.answered((WEB, ca(5)), encapsulated(5).record, 0.1))

    assert host.wanted(5, 0.1 + ASKED_FOR - 0.01) == []
    assert host.wanted(5, 0.1 + ASKED_FOR) == [Ask(WEB, ca(5))]


def test_nobody_is_told_anything_while_the_lookup_service_is_away_and_it_is_asked_every_second(
    host: Node,
) -> None:
    asked = []
    for quarter in range(40):
        at = quarter / 4
        for effect in host.wanted(5, at):
            assert effect == Ask(WEB, ca(5))
            asked.append(at)
            assert host.leasing.failed((WEB, ca(5)), at) == []

    assert asked == [float(second) for second in range(10)]


# --- refusals


@pytest.mark.parametrize(
    ("reason", "seconds"),
    [
        (WhyNoLease.UNKNOWN, UNKNOWN_FOR),
        (WhyNoLease.POOL_EMPTY, REFUSED_FOR),
        (WhyNoLease.TENANT_LIMIT, REFUSED_FOR),
        (WhyNoLease.NO_POOL, REFUSED_FOR),
        ("hv1 may not", REFUSED_FOR),
    ],
)
def test_a_refusal_is_remembered_and_whatever_waits_meanwhile_waits_in_vain(
    host: Node, reason: str, seconds: float
) -> None:
    host.wanted(5)
    assert host.leasing.refused((WEB, ca(5)), reason, 0.0)[0] == Refuse(WEB, ca(5))

    assert host.wanted(5, seconds - 0.1) == [Refuse(WEB, ca(5))]
    assert host.leasing.deadline == math.inf
    assert host.wanted(5, seconds) == [Ask(WEB, ca(5))]


def test_a_record_that_comes_ends_a_refusal_but_not_the_pause_between_two_calls(host: Node) -> None:
    host.wanted(5)
    host.leasing.refused((WEB, ca(5)), WhyNoLease.UNKNOWN, 0.0)
    host.feed(encapsulated(5), now=1.5)

    assert host.wanted(5, 1.6) == []
    assert host.wanted(5, 1.5 + ASKED_FOR) == [Ask(WEB, ca(5))]


def test_an_operator_is_told_of_a_pool_that_is_empty_once_a_minute_and_of_strangers_never(
    host: Node,
) -> None:
    told = []
    for number in range(200):
        at = float(number)
        host.wanted(number, at)
        effects = host.leasing.refused((WEB, ca(number)), WhyNoLease.POOL_EMPTY, at)
        told += [(at, effect) for effect in effects if isinstance(effect, Lacking)]
        host.wanted(number, at, BLUE)
        assert host.leasing.refused((BLUE, ca(number)), WhyNoLease.UNKNOWN, at) == [Refuse(BLUE, ca(number))]

    assert [at for at, _ in told] == [0.0, COMPLAIN_EVERY, 2 * COMPLAIN_EVERY, 3 * COMPLAIN_EVERY]
    assert told[0][1] == Lacking(WEB, ca(0), "pool-empty")


def test_refusals_that_name_what_is_refused_are_told_once_a_minute_too(host: Node) -> None:
    told = []
    for number in range(100):
        host.wanted(number, 0.0)
        effects = host.leasing.refused((WEB, ca(number)), f"{ca(number)} belongs to VSID 5002", 0.0)
        told += [effect for effect in effects if isinstance(effect, Lacking)]

    assert told == [Lacking(WEB, ca(0), "172.16.0.0 belongs to VSID 5002")]


def test_what_is_remembered_is_bounded_and_the_oldest_makes_room(host: Node) -> None:
    for number in range(REMEMBERED + 1):
        assert host.wanted(number) == [Ask(WEB, ca(number))]
        host.leasing.refused((WEB, ca(number)), WhyNoLease.UNKNOWN, 0.0)

    assert host.wanted(REMEMBERED) == [Refuse(WEB, ca(REMEMBERED))]
    assert host.wanted(1) == [Refuse(WEB, ca(1))]
    assert host.wanted(0) == [Ask(WEB, ca(0))]


# --- answers ahead of the feed


def test_an_answer_that_is_ahead_of_the_feed_is_used_at_once(host: Node) -> None:
    host.applied(6)
    host.wanted(5)
    answer = lease(1, 5, revision=7)

    assert host.leasing.answered((WEB, ca(5)), answer, 0.1) == [Apply(PutLease(answer))]


def test_an_answer_that_the_feed_has_passed_is_not_used(host: Node) -> None:
    host.wanted(5)
    host.feed(PutLease(lease(1, 5, revision=7)), DeleteLease(pa(1)))
    host.applied(8)

    assert host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 0.1) == []


def test_an_answer_that_the_feed_is_just_passing_is_not_used(host: Node) -> None:
    """The feed has told of what came after it, and not yet said to which revision that is."""
    host.applied(6)
    host.wanted(5)
    host.feed(DeleteLease(pa(1)))

    assert host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 0.1) == []
    host.applied(8)
    assert host.leases == set()


def test_an_answer_that_the_feed_has_told_of_before_all_that_was_before_it_is_not_ahead(host: Node) -> None:
    """A listing has no order of revisions, and what it comes to is said at its end."""
    host.wanted(5)
    host.feed(PutLease(lease(1, 5, revision=7)))
    host.applied(0)
    assert host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 0.1) == []

    host.applied(3)
    host.wanted(5, 2.0)
    assert host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 2.1) == []
    host.applied(9)
    assert host.leases == {pa(1)}


def test_an_answer_about_something_else_is_not_used(host: Node) -> None:
    host.wanted(5)

    assert host.leasing.answered((WEB, ca(5)), lease(1, 6), 0.1) == []


def test_of_two_answers_ahead_of_the_feed_the_later_counts(host: Node) -> None:
    host.wanted(5)
    host.wanted(6)
    host.do(host.leasing.answered((WEB, ca(6)), lease(1, 6, revision=900), 0.1))

    assert host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 0.2) == []


def test_what_is_ahead_stays_when_the_feed_comes_to_it(host: Node) -> None:
    host.wanted(5)
    host.do(host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 0.1))
    host.applied(6)
    host.feed(PutLease(lease(1, 5, revision=7)))
    host.applied(9)

    assert host.leases == {pa(1)}


def test_what_is_ahead_goes_when_the_feed_comes_to_its_revision_without_it(host: Node) -> None:
    """It was returned before the feed, which had been cut, was told everything anew."""
    host.wanted(5)
    host.do(host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 0.1))
    host.applied(6)
    assert host.leases == {pa(1)}

    host.applied(9)
    assert host.leases == set()


def test_what_is_ahead_goes_when_the_store_is_restored_to_before_it(host: Node) -> None:
    host.applied(6)
    host.wanted(5)
    host.do(host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 0.1))

    host.applied(4)
    assert host.leases == set()


def test_what_is_ahead_goes_after_a_minute_in_which_the_feed_does_not_come_to_it(host: Node) -> None:
    """Nothing would say that it is returned, and one day another's. If it stands, the next answer says so."""
    host.wanted(5)
    host.do(host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 1.0))
    assert host.leasing.deadline == 1.0 + AHEAD_FOR

    assert host.due(AHEAD_FOR) == []
    assert host.leases == {pa(1)}
    assert host.due(1.0 + AHEAD_FOR) == []
    assert host.leases == set()
    assert host.wanted(5, 1.0 + AHEAD_FOR) == [Ask(WEB, ca(5))]


def test_what_is_ahead_goes_with_what_the_feed_says_of_the_same_address(host: Node) -> None:
    host.wanted(5)
    host.do(host.leasing.answered((WEB, ca(5)), lease(1, 5, revision=7), 0.1))
    host.feed(DeleteLease(pa(1)), PutLease(lease(1, 6, revision=400)))
    host.applied(500)

    assert [each.ca for each in host.directory.all_leases()] == [ca(6)]


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
