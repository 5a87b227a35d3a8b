"""Next hops put together from what a kernel says, hears and answers."""

from __future__ import annotations

import errno
import math
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from gateway.fastpath import routes as times
from gateway.fastpath import upkeep
from gateway.fastpath.hops import (
    AskNeighbour,
    AskRoute,
    Changed,
    NextHop,
    Question,
    Unresolved,
    Use,
    Why,
)
from gateway.fastpath.routes import Routes
from gateway.fastpath.rtnetlink import (
    DELAY,
    FAILED,
    NOARP,
    PERMANENT,
    PROBE,
    REACHABLE,
    STALE,
    UNICAST,
    USABLE,
    Link,
    Message,
    Neighbour,
    Refused,
    Route,
    Unspecific,
)
from policies.addresses import Address, ProviderAddress
from tests.gateway.fastpath.kernels import EAST, OTHER, WEST, Kernel, hear, own_mac, settle

UNDERLAY = frozenset((EAST, WEST))
FAR = ProviderAddress.parse("198.51.100.11")
NEAR = ProviderAddress.parse("10.0.0.7")
FAR6 = ProviderAddress.parse("2001:db8:9::11")
ROUTER = b"\n\0\0\xfe"
ROUTER_WEST = b"\n\1\0\xfe"
ROUTER6 = bytes.fromhex("fe80" + "00" * 13 + "01")
ANY, ANY6 = bytes(4), bytes(16)
MAC, MAC_WEST, MAC6, MAC_NEAR = (bytes((2, 0, 0, 1, 0, last)) for last in range(4))


@pytest.fixture
def kernel() -> Kernel:
    """Default routes by a router in the east, for both families; another router in the west."""
    kernel = Kernel()
    for happening in (
        kernel.add_route(ANY, 0, EAST, ROUTER),
        kernel.add_route(ANY6, 0, EAST, ROUTER6),
        kernel.add_route(b"\n\0\0\0", 24, EAST),
        kernel.set_neighbour((EAST, ROUTER), MAC, REACHABLE),
        kernel.set_neighbour((EAST, ROUTER6), MAC6, REACHABLE),
        kernel.set_neighbour((WEST, ROUTER_WEST), MAC_WEST, REACHABLE),
        kernel.set_neighbour((EAST, bytes(NEAR)), MAC_NEAR, REACHABLE),
    ):
        list(happening)
    return kernel


def watching(kernel: Kernel, *addresses: ProviderAddress) -> Routes:
    routes = Routes(UNDERLAY)
    routes.watch(dict.fromkeys(addresses))
    settle(routes, kernel, 0.0)
    return routes


def why(routes: Routes) -> list[Why]:
    return [each.why for each in routes.unresolved()]


# What is found.


def test_addresses_are_reached_by_routers_and_on_the_link_in_both_families(kernel: Kernel) -> None:
    routes = watching(kernel, FAR, NEAR, FAR6)

    assert routes.find(FAR) == NextHop(EAST, own_mac(EAST), MAC)
    assert routes.find(NEAR) == NextHop(EAST, own_mac(EAST), MAC_NEAR)
    assert routes.find(FAR6) == NextHop(EAST, own_mac(EAST), MAC6)
    assert routes.is_settled


def test_everything_found_is_told_once(kernel: Kernel) -> None:
    routes = Routes(UNDERLAY)
    routes.watch({FAR: None})

    assert settle(routes, kernel, 0.0) == [Changed(FAR, NextHop(EAST, own_mac(EAST), MAC))]


def test_route_is_asked_for_with_the_source_and_anew_with_another_one(kernel: Kernel) -> None:
    source, other = ProviderAddress.parse("10.0.0.1"), ProviderAddress.parse("10.0.0.2")
    routes = watching(kernel)
    routes.watch({FAR: source})
    assert routes.questions(0.0, 9) == [AskRoute(FAR, source)]

    routes.watch({FAR: other})

    assert routes.questions(0.0, 9) == [AskRoute(FAR, other)]


def test_answer_about_the_source_before_is_not_taken(kernel: Kernel) -> None:
    routes = watching(kernel)
    routes.watch({FAR: None})
    (question,) = routes.questions(0.0, 9)
    routes.watch({FAR: ProviderAddress.parse("10.0.0.2")})

    assert routes.answer(question, kernel.answer(question), 0.0) == []
    assert why(routes) == [Why.ASKING]


def test_address_that_is_no_longer_watched_is_forgotten_with_its_neighbour(kernel: Kernel) -> None:
    routes = watching(kernel, FAR, NEAR)

    routes.watch({NEAR: None})

    assert routes.find(FAR) is None
    assert len(routes) == 1
    assert hear(routes, kernel.set_neighbour((EAST, ROUTER), MAC_WEST, REACHABLE), 1.0) == []
    routes.lose_track()
    assert AskNeighbour(EAST, ROUTER) not in routes.questions(1.0, 64)


def test_questions_are_no_more_than_asked_for(kernel: Kernel) -> None:
    routes = Routes(UNDERLAY)
    routes.watch({ProviderAddress(bytes((10, 9, 0, last))): None for last in range(200)})

    assert len(routes.questions(0.0, 64)) == 64


@pytest.mark.parametrize("state", [REACHABLE, STALE, DELAY, PROBE, PERMANENT, NOARP])
def test_neighbour_of_each_valid_state_is_used(kernel: Kernel, state: int) -> None:
    list(kernel.set_neighbour((EAST, ROUTER), MAC, state))

    assert watching(kernel, FAR).find(FAR) is not None


@pytest.mark.parametrize("state", [0, 1, FAILED])
def test_neighbour_without_an_address_is_not_used(kernel: Kernel, state: int) -> None:
    list(kernel.set_neighbour((EAST, ROUTER), MAC, state))

    assert watching(kernel, FAR).find(FAR) is None


def test_neighbour_whose_address_is_no_ethernets_is_not_used(kernel: Kernel) -> None:
    kernel.neighbours[EAST, ROUTER] = Neighbour(EAST, ROUTER, bytes(20), REACHABLE)

    assert watching(kernel, FAR).find(FAR) is None


# Why there is none, in words.


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Refused(errno.ENETUNREACH), "no route"),
        (Refused(errno.EHOSTUNREACH), "its route is a blackhole, or says unreachable or prohibited"),
        (Refused(errno.EINVAL), "its route is a blackhole, or says unreachable or prohibited"),
        (
            Route(False, ANY, 0, 7, 9, b"", True),
            "its route is a blackhole, or says unreachable or prohibited",
        ),
        (Route(False, ANY, 0, 2, 9, b"", True), "it is an address of this machine, or of a group"),
        (Route(False, ANY, 0, UNICAST, OTHER, ROUTER, True), "its route leaves the underlay's interfaces"),
        (
            Route(False, ANY, 0, UNICAST, EAST, ROUTER, False),
            "its route wraps packets (MPLS, SRv6 or another tunnel), which only the kernel does",
        ),
    ],
)
def test_route_that_leads_nowhere_says_why(kernel: Kernel, answer: Message, words: str) -> None:
    routes = watching(kernel)
    routes.watch({FAR: None})
    (question,) = routes.questions(0.0, 9)

    assert routes.answer(question, answer, 0.0) == []
    assert [str(each) for each in routes.unresolved()] == [f"198.51.100.11 has no next hop: {words}"]


def test_source_that_there_is_no_route_from_is_named(kernel: Kernel) -> None:
    routes = watching(kernel)
    routes.watch({FAR: NEAR})
    (question,) = routes.questions(0.0, 9)
    routes.answer(question, Refused(errno.ENETUNREACH), 0.0)

    assert [str(each) for each in routes.unresolved()] == [
        "198.51.100.11 has no next hop: no route from 10.0.0.7"
    ]


def test_silent_neighbour_is_named(kernel: Kernel) -> None:
    list(kernel.remove_neighbour((EAST, ROUTER)))
    routes = watching(kernel, FAR)

    assert list(routes.unresolved()) == [Unresolved(FAR, Why.NEIGHBOUR_SILENT, EAST, Address(ROUTER))]
    assert [str(each) for each in routes.unresolved()] == [
        "198.51.100.11 has no next hop: its neighbour 10.0.0.254 does not answer"
    ]


def test_full_neighbour_table_is_told_and_forgotten_when_there_is_room(kernel: Kernel) -> None:
    list(kernel.remove_neighbour((EAST, ROUTER)))
    routes = watching(kernel, FAR)

    routes.answer(Use(EAST, ROUTER), Refused(errno.ENOBUFS), 0.0)
    assert why(routes) == [Why.NEIGHBOURS_FULL]

    hear(routes, kernel.set_neighbour((EAST, ROUTER), MAC, REACHABLE), 1.0)
    hear(routes, kernel.set_neighbour((EAST, ROUTER), MAC, FAILED), 2.0)
    assert why(routes) == [Why.NEIGHBOUR_SILENT]


def test_interface_that_is_down_is_told(kernel: Kernel) -> None:
    kernel.links[EAST] = b""

    assert why(watching(kernel, FAR)) == [Why.LINK_DOWN]


# What happens at once.


def test_neighbour_with_another_mac_takes_effect_at_once_for_all_behind_it(kernel: Kernel) -> None:
    others = [ProviderAddress(bytes((203, 0, 113, last))) for last in range(50)]
    routes = watching(kernel, FAR, NEAR, *others)
    moved = NextHop(EAST, own_mac(EAST), MAC_WEST)

    changes = hear(routes, kernel.set_neighbour((EAST, ROUTER), MAC_WEST, STALE), 1.0)

    assert sorted(change.address for change in changes) == sorted([FAR, *others])
    assert {change.hop for change in changes} == {moved}
    assert routes.find(FAR) == moved


@pytest.mark.parametrize("state", [0, 1, FAILED])
def test_neighbour_that_is_lost_takes_its_hops_at_once(kernel: Kernel, state: int) -> None:
    routes = watching(kernel, FAR)

    assert hear(routes, kernel.set_neighbour((EAST, ROUTER), MAC, state), 1.0) == [Changed(FAR, None)]


def test_neighbour_that_only_ages_changes_nothing(kernel: Kernel) -> None:
    routes = watching(kernel, FAR)

    for state in (STALE, DELAY, PROBE, REACHABLE):
        assert hear(routes, kernel.set_neighbour((EAST, ROUTER), MAC, state), 1.0) == []


def test_link_that_goes_down_takes_its_hops_at_once_and_gives_them_back(kernel: Kernel) -> None:
    routes = watching(kernel, FAR)
    hop = routes.find(FAR)

    assert routes.hear(Link(EAST, False, own_mac(EAST), True), 1.0) == [Changed(FAR, None)]
    assert routes.hear(Link(EAST, True, own_mac(EAST), True), 2.0) == [Changed(FAR, hop)]


def test_link_with_another_mac_takes_effect_at_once(kernel: Kernel) -> None:
    routes = watching(kernel, FAR)

    changes = routes.hear(Link(EAST, True, own_mac(EAST, 9), False), 1.0)

    assert changes == [Changed(FAR, NextHop(EAST, own_mac(EAST, 9), MAC))]


def test_link_with_another_mtu_takes_effect_at_once(kernel: Kernel) -> None:
    routes = watching(kernel, FAR)

    changes = routes.hear(Link(EAST, True, own_mac(EAST), False, 1400), 1.0)

    assert changes == [Changed(FAR, NextHop(EAST, own_mac(EAST), MAC, 1400))]


def test_route_that_goes_takes_the_hops_by_it_at_once_and_the_next_one_is_asked_for(kernel: Kernel) -> None:
    list(kernel.add_route(b"\xc6\x33\x64\0", 24, WEST, ROUTER_WEST))
    routes = watching(kernel, FAR, FAR6, NEAR)
    assert routes.find(FAR) == NextHop(WEST, own_mac(WEST), MAC_WEST)

    assert hear(routes, kernel.remove_route(b"\xc6\x33\x64\0", 24), 1.0) == [Changed(FAR, None)]
    assert settle(routes, kernel, 1.0) == [Changed(FAR, NextHop(EAST, own_mac(EAST), MAC))]


def test_route_that_goes_leaves_hops_alone_that_are_by_another_one(kernel: Kernel) -> None:
    routes = watching(kernel, FAR)

    gone = Route(True, b"\xc6\x33\x64\0", 24, UNICAST, WEST, ROUTER_WEST, True)

    assert routes.hear(gone, 1.0) == []
    assert settle(routes, kernel, 1.0) == []


def test_route_of_several_ways_that_goes_takes_every_hop_under_it(kernel: Kernel) -> None:
    routes = watching(kernel, FAR, NEAR)

    gone = Route(True, b"\xc6\x33\x64\0", 24, UNICAST, 0, b"", False)

    assert routes.hear(gone, 1.0) == [Changed(FAR, None)]


def test_route_that_goes_without_saying_where_it_led_takes_every_hop_under_it(kernel: Kernel) -> None:
    routes = watching(kernel, FAR)

    assert routes.hear(Route(True, ANY, 0, UNICAST, 0, b"", True), 1.0) == [Changed(FAR, None)]


def test_blackhole_that_goes_takes_no_hop(kernel: Kernel) -> None:
    routes = watching(kernel, FAR)

    assert routes.hear(Route(True, ANY, 0, 6, 0, b"", True), 1.0) == []


def test_route_that_goes_while_its_answer_is_on_the_way_is_not_taken(kernel: Kernel) -> None:
    beside = ProviderAddress.parse("198.51.100.12")
    routes = watching(kernel, beside)
    routes.watch({beside: None, FAR: None})
    (question,) = routes.questions(1.0, 9)
    answer = kernel.answer(question)
    gone = Route(True, bytes(FAR), 32, UNICAST, EAST, ROUTER, True)
    kernel.routes.clear()
    routes.hear(gone, 1.0)

    assert routes.answer(question, answer, 1.0) == []
    settle(routes, kernel, 1.0)
    assert why(routes) == [Why.NO_ROUTE]


def test_neighbours_event_outweighs_an_answer_that_is_older(kernel: Kernel) -> None:
    routes = watching(kernel)
    routes.watch({FAR: None})
    settle_routes(routes, kernel)
    (question,) = routes.questions(0.0, 9)
    answer = kernel.answer(question)
    hear(routes, kernel.set_neighbour((EAST, ROUTER), MAC_WEST, REACHABLE), 0.0)

    assert routes.answer(question, answer, 0.0) == []
    assert routes.find(FAR) == NextHop(EAST, own_mac(EAST), MAC_WEST)


def test_interface_that_is_another_one_takes_its_hops_at_once_and_gives_them_back(kernel: Kernel) -> None:
    routes = watching(kernel, FAR, FAR6)
    list(kernel.add_route(bytes(FAR), 32, OTHER, ROUTER))
    list(kernel.set_neighbour((OTHER, ROUTER), MAC_WEST, REACHABLE))

    lost = {each.address: each.hop for each in routes.send_by([OTHER, WEST], 1.0)}
    assert lost == {FAR: None, FAR6: None}
    assert settle(routes, kernel, 1.0) == [Changed(FAR, NextHop(OTHER, own_mac(OTHER), MAC_WEST))]
    assert why(routes) == [Why.ELSEWHERE]

    assert routes.send_by(UNDERLAY, 2.0) == [Changed(FAR, None)]
    assert settle(routes, kernel, 2.0) == [Changed(FAR6, NextHop(EAST, own_mac(EAST), MAC6))]


def test_links_event_outweighs_an_answer_that_is_older(kernel: Kernel) -> None:
    routes = watching(kernel, FAR)
    routes.lose_track()
    questions = routes.questions(1.0, 64)
    answers = [kernel.answer(question) for question in questions]
    assert routes.hear(Link(EAST, False, own_mac(EAST), True), 1.0) == [Changed(FAR, None)]

    for question, answer in zip(questions, answers, strict=True):
        assert routes.answer(question, answer, 1.0) == []


def settle_routes(routes: Routes, kernel: Kernel) -> None:
    """Ask for routes alone: the neighbours that they lead to are asked about next."""
    for question in routes.questions(0.0, 64):
        assert isinstance(question, AskRoute)
        routes.answer(question, kernel.answer(question), 0.0)


# What is asked for anew, and how often.


@pytest.mark.parametrize("event", [Unspecific(), Link(OTHER, False, b"", True)])
def test_change_that_may_concern_any_route_has_all_asked_for(kernel: Kernel, event: Message) -> None:
    routes = watching(kernel, FAR, FAR6)

    routes.hear(event, 1.0)

    questions = routes.questions(1.0, 9)
    assert len(questions) == 2
    assert set(questions) == {AskRoute(FAR, None), AskRoute(FAR6, None)}


def test_route_that_covers_no_watched_address_costs_no_question(kernel: Kernel) -> None:
    routes = watching(kernel, FAR, FAR6)

    hear(routes, kernel.add_route(b"\xc6\x33\x65\0", 24, WEST), 1.0)

    assert routes.questions(1.0, 9) == []


@pytest.mark.parametrize(
    ("prefix", "length"),
    [("198.51.100.8", 29), ("198.51.100.11", 32), ("198.51.100.8", 30), ("198.0.0.0", 8)],
)
def test_route_has_only_the_addresses_asked_for_that_it_covers(
    kernel: Kernel, prefix: str, length: int
) -> None:
    after, before = ProviderAddress.parse("199.0.0.0"), ProviderAddress.parse("197.255.255.255")
    routes = watching(kernel, FAR, NEAR, FAR6, after, before)

    hear(routes, kernel.add_route(bytes(ProviderAddress.parse(prefix)), length, WEST, ROUTER_WEST), 1.0)

    assert routes.questions(1.0, 9) == [AskRoute(FAR, None)]


def test_flood_of_routes_has_each_address_asked_for_ten_times_a_second_at_most(kernel: Kernel) -> None:
    addresses = [ProviderAddress(bytes((203, 0, 113, last))) for last in range(100)]
    routes = watching(kernel, *addresses)
    asked = 0
    for step in range(10_000):
        now = 1 + step / 5_000
        hear(routes, kernel.add_route(ANY, 0, EAST, ROUTER), now)
        questions = routes.questions(now, 64)
        asked += len(questions)
        for question in questions:
            routes.answer(question, kernel.answer(question), now)

    assert 15 * 100 < asked <= 21 * 100


def test_thousands_of_addresses_have_rounds_apart_so_that_asking_takes_a_small_share(kernel: Kernel) -> None:
    routes = watching(kernel, *(ProviderAddress(bytes((203, 0, *last.to_bytes(2)))) for last in range(4000)))
    routes.hear(Unspecific(), 1.0)
    settle(routes, kernel, 1.0)

    routes.hear(Unspecific(), 1.0)

    assert routes.deadline == pytest.approx(1.0 + 4000 * times.ROUND_PER_ADDRESS)


def test_first_change_after_a_quiet_time_is_asked_for_at_once(kernel: Kernel) -> None:
    routes = watching(kernel, FAR)
    assert routes.deadline > 1.0

    hear(routes, kernel.add_route(b"\xc6\x33\x64\0", 24, WEST, ROUTER_WEST), 1.0)

    assert routes.deadline <= 1.0
    settle(routes, kernel, 1.0)
    assert routes.find(FAR) == NextHop(WEST, own_mac(WEST), MAC_WEST)


def test_lost_events_have_links_neighbours_and_routes_asked_for(kernel: Kernel) -> None:
    routes = watching(kernel, FAR, FAR6)
    list(kernel.set_link(EAST, own_mac(EAST, 9)))
    list(kernel.set_neighbour((EAST, ROUTER6), MAC_NEAR, STALE))
    list(kernel.add_route(ANY, 0, WEST, ROUTER_WEST))

    routes.lose_track()
    settle(routes, kernel, 1.0)

    assert routes.find(FAR) == NextHop(WEST, own_mac(WEST), MAC_WEST)
    assert routes.find(FAR6) == NextHop(EAST, own_mac(EAST, 9), MAC_NEAR)


def test_everything_is_asked_for_each_minute_whatever_was_heard(kernel: Kernel) -> None:
    routes = watching(kernel, FAR)
    list(kernel.add_route(ANY, 0, WEST, ROUTER_WEST))  # nobody hears of it
    assert routes.deadline == times.SWEEP

    settle(routes, kernel, times.SWEEP)

    assert routes.find(FAR) == NextHop(WEST, own_mac(WEST), MAC_WEST)
    assert routes.deadline == 2 * times.SWEEP


def test_question_without_an_answer_is_put_again_in_the_next_round(kernel: Kernel) -> None:
    routes = Routes(UNDERLAY)
    routes.watch({FAR: None})
    for question in routes.questions(0.0, 9):
        assert routes.answer(question, None, 0.0) == []
    assert not routes.is_settled

    settle(routes, kernel, times.ROUND)

    assert routes.find(FAR) is not None
    assert routes.is_settled


# Neighbours kept alive, and looked for.


def uses(routes: Routes, kernel: Kernel, until: float, since: float = 0.0) -> list[float]:
    """Let time go by, and return when neighbours were used."""
    found: list[float] = []
    now = since
    while (now := max(now, routes.deadline)) <= until:
        for question in routes.questions(now, 64):
            if isinstance(question, Use):
                found.append(now)
            routes.answer(question, kernel.answer(question), now)
    return found


def test_stale_neighbour_is_used_before_the_kernel_may_remove_it(kernel: Kernel) -> None:
    routes = watching(kernel, FAR)
    hear(routes, kernel.set_neighbour((EAST, ROUTER), MAC, STALE), 100.0)

    (first, second) = uses(routes, kernel, 145.0, since=100.0)

    assert 101.0 <= first <= 100.0 + upkeep.LONGEST_REST
    assert second == first + upkeep.USE_AGAIN


@pytest.mark.parametrize("state", [REACHABLE, PERMANENT, NOARP])
def test_neighbour_that_the_kernel_keeps_is_not_used(kernel: Kernel, state: int) -> None:
    list(kernel.set_neighbour((EAST, ROUTER), MAC, state))

    assert uses(watching(kernel, FAR), kernel, 300.0) == []


def test_stale_neighbour_that_is_reachable_again_in_time_is_not_used(kernel: Kernel) -> None:
    routes = watching(kernel, FAR)
    hear(routes, kernel.set_neighbour((EAST, ROUTER), MAC, STALE), 100.0)
    hear(routes, kernel.set_neighbour((EAST, ROUTER), MAC, REACHABLE), 100.5)

    assert uses(routes, kernel, 200.0, since=100.5) == []


def test_thousands_of_stale_neighbours_are_used_spread_out(kernel: Kernel) -> None:
    addresses = [ProviderAddress(b"\n\0" + last.to_bytes(2)) for last in range(1000)]
    list(kernel.add_route(b"\n\0\0\0", 16, EAST))
    for address in addresses:
        list(kernel.set_neighbour((EAST, bytes(address)), MAC, STALE))
    found = uses(watching(kernel, *addresses), kernel, 30.0)

    assert len(found) == 1000
    assert max(sum(second <= at < second + 1 for at in found) for second in range(30)) <= 210


def test_neighbour_that_is_not_there_is_looked_for_ever_more_rarely(kernel: Kernel) -> None:
    list(kernel.remove_neighbour((EAST, ROUTER)))

    routes = watching(kernel, FAR)

    assert kernel.used == [(EAST, ROUTER)]
    assert uses(routes, kernel, 300.0) == [4, 12, 28, 60, 124, 188, 252]


def test_neighbour_that_was_found_and_is_lost_again_is_looked_for_as_at_first(kernel: Kernel) -> None:
    list(kernel.remove_neighbour((EAST, ROUTER)))
    routes = watching(kernel, FAR)
    uses(routes, kernel, 100.0)
    hear(routes, kernel.set_neighbour((EAST, ROUTER), MAC, REACHABLE), 100.0)
    hear(routes, kernel.remove_neighbour((EAST, ROUTER)), 110.0)

    assert uses(routes, kernel, 130.0, since=110.0) == [110, 114, 122]


def test_neighbour_that_fails_after_being_used_is_not_used_the_sooner(kernel: Kernel) -> None:
    list(kernel.remove_neighbour((EAST, ROUTER)))
    routes = watching(kernel, FAR)
    hear(routes, kernel.set_neighbour((EAST, ROUTER), b"", 1), 0.1)
    hear(routes, kernel.set_neighbour((EAST, ROUTER), b"", FAILED), 3.1)

    assert uses(routes, kernel, 30.0, since=3.1) == [4, 12, 28]


def test_neighbour_that_vanishes_is_looked_for_at_once_but_once_a_second_at_most(kernel: Kernel) -> None:
    routes = watching(kernel, FAR)
    found: list[float] = []
    for step in range(100):
        now = 10 + step / 10
        hear(routes, kernel.set_neighbour((EAST, ROUTER), MAC, REACHABLE), now)
        hear(routes, kernel.remove_neighbour((EAST, ROUTER)), now)
        found += uses(routes, kernel, now, since=now)

    assert found[0] == 10
    assert len(found) <= 10


def test_neighbour_that_never_rests_takes_no_more_room_for_it(kernel: Kernel) -> None:
    routes = watching(kernel, FAR)
    for step in range(20_000):
        now = 1 + step / 1000
        state = (REACHABLE, STALE, FAILED)[step % 3]
        hear(routes, kernel.set_neighbour((EAST, ROUTER), MAC, state), now)
        settle(routes, kernel, now)

    assert len(routes._upkeep) <= 100


def test_dead_hosts_are_not_looked_for_in_a_storm(kernel: Kernel) -> None:
    addresses = [ProviderAddress(b"\n\0" + last.to_bytes(2)) for last in range(2000)]
    list(kernel.add_route(b"\n\0\0\0", 16, EAST))
    found = uses(watching(kernel, *addresses), kernel, 200.0)

    assert max(sum(second <= at < second + 1 for at in found) for second in range(200)) <= 60


def test_neighbours_of_a_link_that_is_down_are_not_looked_for_until_it_is_back(kernel: Kernel) -> None:
    routes = watching(kernel, FAR)
    hear(routes, kernel.set_link(EAST, b""), 1.0)
    assert uses(routes, kernel, 50.0, since=1.0) == []

    hear(routes, kernel.set_link(EAST, own_mac(EAST)), 50.0)
    hear(routes, kernel.add_route(ANY, 0, EAST, ROUTER), 50.0)

    assert uses(routes, kernel, 51.0, since=50.0) == [50.0]


def test_neighbour_that_has_no_event_of_its_own_is_asked_about_after_its_use(kernel: Kernel) -> None:
    list(kernel.remove_neighbour((EAST, ROUTER)))
    routes = watching(kernel)
    routes.watch({FAR: None})
    used = False
    while questions := routes.questions(0.0, 1):
        (question,) = questions
        if isinstance(question, Use):
            used = True
            list(kernel.set_neighbour((EAST, ROUTER), MAC, NOARP))
        routes.answer(question, kernel.answer(question), 0.0)

    assert used
    assert routes.find(FAR) == NextHop(EAST, own_mac(EAST), MAC)


# Whatever happens.

ADDRESSES = [
    FAR,
    NEAR,
    FAR6,
    ProviderAddress.parse("198.51.100.12"),
    ProviderAddress.parse("10.1.0.7"),
    ProviderAddress.parse("2001:db8:1::7"),
]
PREFIXES = [
    (ANY, 0),
    (ANY6, 0),
    (b"\xc6\x33\x64\0", 24),
    (bytes(FAR), 32),
    (b"\n\0\0\0", 8),
    (bytes(FAR6[:6]) + bytes(10), 48),
]
KEYS = [
    (interface, there)
    for interface in (EAST, WEST, OTHER)
    for there in (ROUTER, ROUTER6, *map(bytes, ADDRESSES))
]
STATES = [REACHABLE, STALE, DELAY, FAILED, 1]

happenings = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(PREFIXES), st.sampled_from((EAST, WEST, OTHER)), st.booleans()),
    st.tuples(st.just("replace"), st.sampled_from(PREFIXES), st.sampled_from((UNICAST, 6, 7))),
    st.tuples(st.just("remove"), st.sampled_from(PREFIXES)),
    st.tuples(st.just("neighbour"), st.sampled_from(KEYS), st.integers(0, 3), st.sampled_from(STATES)),
    st.tuples(st.just("forget"), st.sampled_from(KEYS)),
    st.tuples(st.just("link"), st.sampled_from((EAST, WEST, OTHER)), st.integers(0, 3)),
    st.tuples(st.just("watch"), st.sets(st.sampled_from(ADDRESSES))),
    st.tuples(st.just("send by"), st.frozensets(st.sampled_from((EAST, WEST, OTHER)))),
    st.tuples(st.just("ask"), st.integers(1, 64)),
    st.tuples(st.just("answer")),
    st.tuples(
        st.just("lose"),
    ),
    st.tuples(st.just("wait"), st.sampled_from((0.01, 0.2, 5.0))),
)


def happen(kernel: Kernel, what: tuple[Any, ...]) -> list[Message]:
    match what:
        case ("add", (prefix, length), interface, by_router):
            router = ROUTER if len(prefix) == 4 else ROUTER6
            return list(kernel.add_route(prefix, length, interface, router if by_router else b""))
        case ("replace", (prefix, length), kind):
            return list(kernel.add_route(prefix, length, EAST, b"", kind))
        case ("remove", (prefix, length)):
            return list(kernel.remove_route(prefix, length))
        case ("neighbour", key, mac, state):
            return list(kernel.set_neighbour(key, bytes((2, 0, 0, 1, 0, mac)), state))
        case ("forget", key):
            return list(kernel.remove_neighbour(key))
        case ("link", interface, change):
            return list(kernel.set_link(interface, own_mac(interface, change) if change else b""))
        case _:
            return []


@hypothesis.given(st.lists(happenings, max_size=60))
def test_next_hops_come_to_be_the_kernels_and_each_change_is_told(what: list[tuple[Any, ...]]) -> None:
    """Events come at once, answers at any time after the question; some events are lost, which is known."""
    kernel, routes, now = Kernel(), Routes(UNDERLAY), 0.0
    underlay = UNDERLAY
    told: dict[ProviderAddress, NextHop | None] = {}
    watched: set[ProviderAddress] = set()
    underway: list[tuple[Question, Message]] = []

    def tell(changes: list[Changed]) -> None:
        for change in changes:
            assert change.address in watched
            assert told.get(change.address) != change.hop
            told[change.address] = change.hop

    for each in what:
        events = happen(kernel, each)
        for event in events:
            tell(routes.hear(event, now))
        match each:
            case ("watch", addresses):
                routes.watch(dict.fromkeys(addresses))
                watched = set(addresses)
                told = {address: hop for address, hop in told.items() if address in watched}
            case ("send by", interfaces):
                tell(routes.send_by(interfaces, now))
                underlay = interfaces
            case ("ask", most) if not underway:
                underway = [(question, kernel.answer(question)) for question in routes.questions(now, most)]
            case ("answer",):
                for question, answer in underway:
                    tell(routes.answer(question, answer, now))
                underway = []
            case ("lose",):
                routes.lose_track()
            case ("wait", seconds):
                now += seconds
        assert all(routes.find(address) == told.get(address) for address in watched)
        for address in watched:
            hop = routes.find(address)
            if hop is not None:
                assert hop.interface in underlay
                # Not what the route is, but what links and neighbours are, is so at once.
                assert hop.source_mac == kernel.links[hop.interface]
                assert hop.destination_mac in {
                    entry.mac
                    for (interface, _there), entry in kernel.neighbours.items()
                    if interface == hop.interface and entry.state & USABLE
                }

    for question, answer in underway:
        tell(routes.answer(question, answer, now))
    now += 10.0
    tell(settle(routes, kernel, now))
    for address in watched:
        assert routes.find(address) == kernel.hop(address, underlay)
        assert routes.find(address) == told.get(address)
    unresolved = {each.address for each in routes.unresolved()}
    assert unresolved == {address for address in watched if routes.find(address) is None}
    assert routes.is_settled
    assert routes.deadline > now or math.isinf(routes.deadline)
