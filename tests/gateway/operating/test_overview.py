"""What the dashboard is told: the whole network, or an asker's own part of it, and once a second at most."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from gateway.forwarding.drops import DropReason
from gateway.operating import overview as module
from gateway.operating.commands import Asker, Command, Nothing, carry_out
from gateway.operating.overview import Inventory, Overview, Running, TenantView, commands, overview
from gateway.operating.report import DropReport, Report
from gateway.operating.status import Status
from gateway.operating.trends import Key, Look, Rates
from gateway.sites.status import Moment
from policies.model import Appliance, Engine, Network, ProviderGateway, ProviderHost, Translation, Underlay
from policies.services import LookupAccess, LookupSettings
from tests import networks as n
from tests.gateway.sites.samples import site_status

NOW = 1_800_000_000.0
OPERATOR = Asker("alice", is_operator=True)
RED = Asker("red-reader", is_operator=False, tenants=frozenset({"red"}))

SITES = {"red": "seattle", "blue": "boston"}


def network() -> Network:
    made = n.network(*(n.tenant(name, sites=(n.site(site),)) for name, site in SITES.items()))
    only_blue = ProviderHost("hv9", (n.pa("hv2"),), ("blue",))
    others = ProviderGateway("edge-9", (n.pa("hv2"),))
    return msgspec.structs.replace(made, hosts=(*made.hosts, only_blue), gateways=(*made.gateways, others))


def appliance(of: Network, **settings: Any) -> Appliance:
    return msgspec.structs.replace(
        Appliance(
            name="edge-1",
            state=Path("/var/lib/isthmus"),
            engine=Engine.PYTHON,
            underlay=Underlay((n.pa("edge-1"),)),
            gateway=True,
            lookup=None,
            host=None,
            network=of,
        ),
        **settings,
    )


def look() -> Look:
    return Look(
        at=NOW,
        report=Report(
            node="edge-1",
            drops=[
                DropReport("no-record", "red", 12),
                DropReport("no-record", "blue", 4),
                DropReport("malformed", "", 1),
                DropReport("loop", "red", 0),
            ],
        ),
        sites=[
            site_status(tenant=tenant, site=site, history=[Moment(NOW, "up", "")])
            for tenant, site in SITES.items()
        ],
        rates={Key("red", site="seattle"): Rates(received_octets=5e6), Key("red", subnet="web"): Rates(1.0)},
        drop_rates={("no-record", "red"): 2.5},
    )


def status() -> Status:
    return Status(
        name="edge-1",
        version="1",
        process=1,
        roles=["gateway"],
        at=NOW,
        started_at=NOW - 60,
        engine="python",
        attached="",
        provider_addresses=[],
        records=0,
        sites_up=0,
        sites=0,
        health=[],
        drops=[],
    )


PLACES = {(5001, "hv1"): 3, (5002, "hv2"): 2, (6001, "hv1"): 7, (6001, "hv9"): 5}


def told(asker: Asker = OPERATOR, **settings: Any) -> Overview:
    of = network()
    return overview(asker, appliance(of, **settings), Inventory.of(of, PLACES), status(), look())


def tenant(found: Overview, name: str) -> TenantView:
    return next(each for each in found.tenants if each.name == name)


def test_operator_sees_the_whole_network() -> None:
    found = told()

    assert [each.name for each in found.tenants] == ["blue", "red"]
    assert {host.name: host.held for host in found.hosts} == {"hv1": 10, "hv2": 2, "hv9": 5}
    assert {gateway.name: gateway.is_here for gateway in found.gateways} == {"edge-1": True, "edge-9": False}
    red = tenant(found, "red")
    assert {subnet.name: subnet.records for subnet in red.subnets} == {"web": 3, "db": 2}
    assert red.sites[0].rates.received_octets == 5e6
    assert red.dropped == 2.5


def test_how_vms_are_carried_and_by_which_pools_is_told() -> None:
    of = network()
    red = next(each for each in of.tenants if each.name == "red")
    web, *others = red.subnets
    web = msgspec.structs.replace(web, translation=Translation.REWRITE)
    of = msgspec.structs.replace(
        of,
        tenants=(msgspec.structs.replace(red, subnets=(web, *others)),),
        hosts=tuple(
            msgspec.structs.replace(host, pools=(ip_network("198.51.100.128/26"),)) for host in of.hosts
        ),
        gateways=tuple(
            msgspec.structs.replace(gateway, pools=(ip_network("192.0.2.128/26"),)) for gateway in of.gateways
        ),
    )

    found = overview(OPERATOR, appliance(of), Inventory.of(of, PLACES), status(), look())

    carried = {subnet.name: subnet.translation for subnet in tenant(found, "red").subnets}
    assert carried == {"web": "rewrite", "db": "encap"}
    assert {pool for host in found.hosts for pool in host.pools} == {"198.51.100.128/26"}
    assert {pool for gateway in found.gateways for pool in gateway.pools} == {"192.0.2.128/26"}


def test_reader_of_red_hears_nothing_of_blue_nor_of_its_hosts() -> None:
    found = told(RED)

    said = msgspec.json.encode(found).decode()
    for secret in ("blue", "boston", "hv9", "edge-9", "6001"):
        assert secret not in said
    assert {host.name: host.held for host in found.hosts} == {"hv1": 3, "hv2": 2}
    assert not found.sees_all


def test_drops_of_nobodys_packets_are_told_to_those_who_see_everything() -> None:
    assert {(drop.reason, drop.tenant) for drop in told().drops} == {
        ("no-record", "red"),
        ("no-record", "blue"),
        ("malformed", ""),
    }
    assert {(drop.reason, drop.tenant) for drop in told(RED).drops} == {("no-record", "red")}


def test_each_reason_comes_with_its_words() -> None:
    assert told().reasons == {reason.value: reason.words for reason in DropReason}
    assert set(told().usual) <= set(told().reasons)


def test_site_that_another_gateway_dials_has_no_status() -> None:
    of = network()
    seen = msgspec.structs.replace(look(), sites=[])

    found = overview(OPERATOR, appliance(of), Inventory.of(of, {}), status(), seen)

    assert tenant(found, "red").sites[0].status is None


def test_past_of_sites_is_left_to_their_trends() -> None:
    shown = tenant(told(), "red").sites[0].status

    assert shown is not None
    assert shown.history == []


def test_node_that_carries_nothing_says_so() -> None:
    of = network()

    found = overview(OPERATOR, appliance(of), Inventory(of, {5001: 4}, {"hv1": 4}, None), status(), None)

    assert not found.carries
    assert tenant(found, "red").subnets[0].records == 4
    assert found.hosts[0].held == 4


def test_sums_over_hosts_are_not_told_to_those_who_see_only_some_tenants() -> None:
    of = network()

    found = overview(RED, appliance(of), Inventory(of, {5001: 4}, {"hv1": 40}, None), status(), None)

    assert [host.held for host in found.hosts] == [None, None]


def test_of_too_many_tenants_those_in_trouble_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_TENANTS", 1)
    of = network()
    seen = look()
    seen.sites[1] = msgspec.structs.replace(seen.sites[1], state="down")

    found = overview(OPERATOR, appliance(of), Inventory.of(of, {}), status(), seen)

    assert [each.name for each in found.tenants] == ["blue"]
    assert found.tenants_left_out == 1


def test_too_many_places_become_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PLACES", 3)

    found = told()

    assert {host.name: (host.held, host.records) for host in found.hosts} == {
        "hv1": (10, {}),
        "hv2": (2, {}),
        "hv9": (5, {}),
    }


@pytest.mark.parametrize(
    ("settings", "serves", "where"),
    [
        ({}, False, ""),
        ({"lookup": LookupSettings()}, True, ""),
        ({"lookup_access": LookupAccess(("https://192.0.2.9:7637",))}, False, "https://192.0.2.9:7637"),
    ],
)
def test_it_says_where_records_are_served(settings: dict[str, Any], serves: bool, where: str) -> None:
    found = told(**settings)

    assert (found.serves_records, found.records_at) == (serves, where)


class Counted:
    """What an overview is made of, with a clock, and how often it was asked for."""

    def __init__(self) -> None:
        self.now = 50.0
        self.asked = 0

    def commands(self) -> Any:
        of = network()

        async def inventory() -> Inventory:
            self.asked += 1
            return Inventory.of(of, PLACES)

        async def answer(_asker: Asker, _wanted: Nothing) -> Status:
            return status()

        running = Running(
            appliance=appliance(of), inventory=inventory, status=Command(answer), clock=lambda: self.now
        )
        return commands(running, None)

    def ask(self, told: Any, asker: Asker) -> Overview:
        async def tell(_item: object) -> None:
            raise AssertionError("it answers once")

        found: Overview = trio.run(carry_out, told, asker, "overview", {}, tell)
        return found


def test_it_is_put_together_once_a_second_for_each_asker() -> None:
    counted = Counted()
    known = counted.commands()

    for _ in range(20):
        counted.ask(known, OPERATOR)
    assert counted.asked == 1

    assert [each.name for each in counted.ask(known, RED).tenants] == ["red"]
    assert [each.name for each in counted.ask(known, OPERATOR).tenants] == ["blue", "red"]
    assert counted.asked == 2

    counted.now += 1.0
    counted.ask(known, OPERATOR)
    assert counted.asked == 3


def test_however_many_ask_little_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_REMEMBERED", 1)
    counted = Counted()
    known = counted.commands()
    for number in range(3):
        counted.ask(known, Asker(f"reader-{number}", is_operator=False, tenants=frozenset({"red"})))
        counted.ask(known, Asker("reader-0", is_operator=False, tenants=frozenset({"red"})))

    assert counted.asked == 3
