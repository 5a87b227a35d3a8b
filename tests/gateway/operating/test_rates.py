from __future__ import annotations

from gateway.operating.rates import Order, Rates, between, ordered
from gateway.operating.report import DropReport, SiteReport, SubnetReport, TunnelReport
from gateway.operating.status import Traffic

TUNNEL = TunnelReport(
    is_up=True, since=0.0, turns_down=0, ike_rekeys=0, child_rekeys=0, failures={}, drops={}
)


def subnet(tenant: str, name: str, sent: int = 0, received: int = 0) -> SubnetReport:
    """A virtual subnet with so many packets of 125 octets."""
    return SubnetReport(
        tenant=tenant,
        subnet=name,
        vsid=5001,
        sent_packets=sent,
        sent_octets=125 * sent,
        received_packets=received,
        received_octets=125 * received,
    )


def traffic(at: float, *subnets: SubnetReport, drops: int = 0, sites: tuple[SiteReport, ...] = ()) -> Traffic:
    return Traffic(
        at=at, subnets=list(subnets), sites=list(sites), drops=[DropReport("site-down", "red", drops)]
    )


def names(rates: Rates, order: Order) -> list[str]:
    return [row.name or row.tenant for row in ordered(rates.rows, order)]


def test_rates_are_what_was_added_by_second() -> None:
    rates = between(
        traffic(10.0, subnet("red", "web", 100, 50), drops=5),
        traffic(12.0, subnet("red", "web", 300, 70), drops=25),
    )

    web = next(row for row in rates.rows if row.name == "web")
    assert (rates.seconds, web.from_packets, web.to_packets) == (2.0, 100.0, 10.0)
    assert (web.from_bits, web.to_bits) == (100_000.0, 10_000.0)
    assert [(drop.reason, drop.tenant, drop.packets) for drop in rates.drops] == [("site-down", "red", 10.0)]


def test_tenant_is_the_sum_of_its_places() -> None:
    rates = between(
        traffic(0.0, subnet("red", "web"), subnet("red", "db"), subnet("blue", "web")),
        traffic(1.0, subnet("red", "web", 5), subnet("red", "db", 7), subnet("blue", "web", 1)),
    )
    totals = {row.tenant: row.from_packets for row in rates.rows if row.kind == "tenant"}
    assert totals == {"red": 12.0, "blue": 1.0}


def test_counter_that_began_anew_and_a_subnet_that_is_new_count_from_nothing() -> None:
    rates = between(
        traffic(0.0, subnet("red", "web", 1000), drops=50),
        traffic(1.0, subnet("red", "web", 3), subnet("red", "db", 4), drops=2),
    )
    assert {row.name: row.from_packets for row in rates.rows if row.name} == {"web": 3.0, "db": 4.0}
    assert rates.drops[0].packets == 2.0


def test_what_is_not_dropped_now_is_left_out() -> None:
    assert between(traffic(0.0, drops=5), traffic(1.0, drops=5)).drops == []


def test_busiest_tenant_comes_first_with_its_busiest_place() -> None:
    rates = between(
        traffic(0.0, subnet("red", "web"), subnet("red", "db"), subnet("blue", "web")),
        traffic(1.0, subnet("red", "web", 1), subnet("red", "db", 3), subnet("blue", "web", 9)),
    )
    assert names(rates, "packets") == ["blue", "web", "red", "db", "web"]
    assert names(rates, "bits") == ["blue", "web", "red", "db", "web"]
    assert names(rates, "tenant") == ["blue", "web", "red", "db", "web"]


def test_site_that_is_dialled_here_says_whether_it_is_up() -> None:
    here = SiteReport(tenant="red", site="seattle", mtu=1400, tunnel=TUNNEL)
    elsewhere = SiteReport(tenant="red", site="oslo", mtu=None)
    rates = between(traffic(0.0), traffic(1.0, sites=(here, elsewhere)))
    assert {row.name: row.is_up for row in rates.rows if row.kind == "site"} == {
        "seattle": True,
        "oslo": None,
    }
