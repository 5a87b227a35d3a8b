"""Series of what is carried, and when sites were up: true rates, in bounded memory, for those who may see."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from gateway.operating.commands import Asker, carry_out
from gateway.operating.report import DropReport, Report, SiteReport, SubnetReport
from gateway.operating.trends import (
    COARSE_POINTS,
    FINE_POINTS,
    FINE_POINTS_IN_A_COARSE_ONE,
    LOOK_EVERY,
    MOST_TURNS,
    Key,
    Rates,
    Trend,
    Trends,
    TurnOfSite,
    commands,
)
from gateway.sites.status import SiteStatus
from policies.errors import ConfigurationError
from tests.gateway.sites.samples import site_status

SEATTLE = Key("red", site="seattle")
WEB = Key("red", subnet="web")
WALL = 1_800_000_000.0


class Path:
    """A data path whose counters and sites a test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.looks = 0
        self.packets = 0
        self.dropped = 0
        self.extra_subnets = 0
        self.has_site = True
        self.site = site_status(since=WALL)

    def report(self) -> Report:
        self.looks += 1
        subnets = [
            SubnetReport(
                tenant="red",
                subnet="web",
                vsid=5001,
                sent_packets=self.packets,
                sent_octets=1000 * self.packets,
            )
        ]
        subnets += [
            SubnetReport(tenant="blue", subnet=f"n{number}", vsid=10_000 + number)
            for number in range(self.extra_subnets)
        ]
        sites = [SiteReport(tenant="red", site="seattle", mtu=1400, received_packets=2 * self.packets)]
        return Report(
            node="edge-1",
            drops=[DropReport("no-record", "red", self.dropped)],
            meters=subnets,
            sites=sites if self.has_site else [],
        )

    def sites(self) -> list[SiteStatus]:
        return [self.site] if self.has_site else []

    def trends(self) -> Trends:
        return Trends(self, lambda: self.now, lambda: WALL + self.now - 100.0)

    def points(self, trends: Trends, count: int = 1, packets: int = 0) -> None:
        for _ in range(count):
            self.now += LOOK_EVERY
            self.packets += packets
            trends.add_point()


def known(trends: Trends, key: Key) -> Trend:
    found = trends.trend(key)
    assert found is not None
    return found


def test_rates_are_what_was_carried_each_second_between_two_looks() -> None:
    path = Path()
    trends = path.trends()
    trends.look()
    path.now, path.packets, path.dropped = path.now + 2.0, 100, 6

    look = trends.look()

    assert look.rates[WEB] == Rates(sent_packets=50.0, sent_octets=50_000.0)
    assert look.rates[SEATTLE] == Rates(received_packets=100.0)
    assert look.drop_rates == {("no-record", "red"): 3.0}


def test_counters_are_looked_at_once_a_second_however_many_ask() -> None:
    path = Path()
    trends = path.trends()

    for _ in range(50):
        trends.look()
    assert path.looks == 1

    path.now += 1.0
    trends.look()
    assert path.looks == 2


def test_first_look_knows_no_rates() -> None:
    look = Path().trends().look()

    assert look.rates == {}
    assert look.drop_rates == {}


def test_counters_that_begin_anew_are_no_traffic_and_no_negative_one() -> None:
    path = Path()
    path.packets = 1000
    trends = path.trends()
    path.points(trends, 2)
    path.packets = 0

    path.points(trends)

    assert known(trends, WEB).fine.sent_packets[-1] == 0.0
    assert trends.look().rates[WEB].sent_packets == 0.0


def test_series_say_when_their_last_point_was() -> None:
    path = Path()
    trends = path.trends()
    trends.add_point()

    path.points(trends, 3, packets=10)

    trend = known(trends, WEB)
    assert trend.fine.sent_packets == [2.0, 2.0, 2.0]
    assert trend.fine.end == WALL + 3 * LOOK_EVERY
    assert trend.fine.step == LOOK_EVERY
    assert trend.coarse.sent_packets == []
    assert trend.watched_since == WALL


def test_coarse_points_are_means_over_their_whole_time() -> None:
    path = Path()
    trends = path.trends()
    trends.add_point()
    path.points(trends, FINE_POINTS_IN_A_COARSE_ONE - 31, packets=0)

    path.points(trends, 31, packets=10)

    trend = known(trends, WEB)
    # The history begins with the first look, one point before there is a rate.
    assert len(trend.coarse.sent_packets) == 1
    assert trend.coarse.sent_packets[0] == pytest.approx(30 * 10 / (59 * LOOK_EVERY), abs=0.06)
    assert trend.coarse.end == trend.fine.end - LOOK_EVERY


def test_series_are_bounded_and_keep_the_latest() -> None:
    path = Path()
    trends = path.trends()
    trends.add_point()
    path.points(trends, FINE_POINTS_IN_A_COARSE_ONE * (COARSE_POINTS + 2))
    path.points(trends, 3, packets=5)

    trend = known(trends, WEB)

    assert len(trend.fine.sent_packets) == FINE_POINTS
    assert trend.fine.sent_packets[-4:] == [0.0, 1.0, 1.0, 1.0]
    assert len(trend.coarse.sent_packets) == COARSE_POINTS


def test_only_so_many_series_are_kept_and_the_rest_has_live_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.operating.trends.MOST_SERIES", 3)
    path = Path()
    path.extra_subnets = 5
    trends = path.trends()

    path.points(trends, 2)

    assert trends.trend(WEB) is not None
    assert trends.trend(Key("blue", subnet="n4")) is None
    assert Key("blue", subnet="n4") in trends.look().rates


def test_what_is_no_longer_there_is_forgotten() -> None:
    path = Path()
    trends = path.trends()
    path.points(trends)
    path.has_site = False

    path.points(trends)

    assert trends.trend(SEATTLE) is None


def test_site_that_goes_down_and_comes_back_has_both_turns_with_their_own_times() -> None:
    path = Path()
    trends = path.trends()
    path.points(trends)
    path.site = site_status("connecting", WALL + 7.0)
    path.points(trends)
    path.site = site_status("up", WALL + 12.0)
    path.points(trends)

    assert known(trends, SEATTLE).turns == [
        TurnOfSite(WALL + LOOK_EVERY, is_up=True),
        TurnOfSite(WALL + 7.0, is_up=False),
        TurnOfSite(WALL + 12.0, is_up=True),
    ]


def test_site_that_was_down_between_two_looks_is_not_shown_as_up_all_the_time() -> None:
    path = Path()
    trends = path.trends()
    path.points(trends)
    path.site = site_status("up", WALL + 7.0)
    path.points(trends)

    assert [turn.is_up for turn in known(trends, SEATTLE).turns] == [True, False, True]


def test_turns_of_a_site_that_flaps_for_ever_are_bounded() -> None:
    path = Path()
    trends = path.trends()
    for number in range(2 * MOST_TURNS):
        path.site = site_status("down" if number % 2 else "up", WALL + number)
        path.points(trends)

    turns = known(trends, SEATTLE).turns
    assert len(turns) == MOST_TURNS
    assert turns[-1].is_up is False


def test_points_come_at_their_times(autojump_clock: MockClock) -> None:
    async def main() -> None:
        path = Path()
        trends = Trends(path, trio.current_time, trio.current_time)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trends.run)
            await trio.sleep(10 * LOOK_EVERY + 1)
            nursery.cancel_scope.cancel()
        assert len(known(trends, WEB).fine.sent_packets) == 10

    trio.run(main, clock=autojump_clock)


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


OPERATOR = Asker("operator", is_operator=True)


def ask(trends: Trends | None, asker: Asker, **arguments: str) -> Trend:
    async def tell(_item: object) -> None:
        raise AssertionError("a command that answers tells nothing")

    async def main() -> Trend:
        return await carry_out(commands(trends), asker, "trends", arguments, tell)

    return trio.run(main)


def test_trend_of_ones_own_site_is_told() -> None:
    path = Path()
    trends = path.trends()
    path.points(trends, 2, packets=5)

    trend = ask(
        trends, Asker("reader", is_operator=False, tenants=frozenset({"red"})), tenant="red", site="seattle"
    )

    assert trend.fine.received_packets == [2.0]


def test_trend_of_another_tenants_site_is_answered_as_one_that_does_not_exist() -> None:
    path = Path()
    trends = path.trends()
    path.points(trends)
    reader = Asker("reader", is_operator=False, tenants=frozenset({"blue"}))

    with pytest.raises(ConfigurationError) as refused:
        ask(trends, reader, tenant="red", site="seattle")
    with pytest.raises(ConfigurationError) as absent:
        ask(trends, OPERATOR, tenant="red", site="tacoma")

    assert str(refused.value).replace("seattle", "tacoma") == str(absent.value)


@pytest.mark.parametrize(
    "arguments",
    [{"tenant": "red"}, {"tenant": "red", "site": "seattle", "subnet": "web"}, {"site": "seattle"}],
)
def test_a_trend_is_of_one_thing(arguments: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        ask(Path().trends(), OPERATOR, **arguments)


def test_node_that_carries_nothing_says_so() -> None:
    with pytest.raises(ConfigurationError, match="nothing is known of it"):
        ask(None, OPERATOR, tenant="red", site="seattle")
