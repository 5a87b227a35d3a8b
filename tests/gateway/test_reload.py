from __future__ import annotations

import ipaddress
from pathlib import Path

import msgspec
import pytest
import trio

from gateway.reload import Reload, check_reloadable
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress
from policies.errors import ConfigurationError, Problem
from policies.model import (
    Appliance,
    Credential,
    CustomerRoute,
    Engine,
    HostPort,
    HostRole,
    IkeIdentity,
    LookupSettings,
    Network,
    Role,
    Site,
    SiteHop,
    Underlay,
)
from tests.networks import pa, tenant

SITE = Site(
    name="seattle",
    gateway="edge-1",
    prefixes=(ipaddress.ip_network("172.16.0.0/16"),),
    peer=ProviderAddress.parse("203.0.113.7"),
    ike=IkeIdentity("edge-1.example", "seattle.example", Path("seattle.psk")),
)


def appliance(**changes: object) -> Appliance:
    red = tenant("red", sites=(SITE,))
    made = Appliance(
        name="edge-1",
        state=Path("/var/lib/isthmus"),
        engine=Engine.AUTO,
        underlay=Underlay((pa("edge-1"),)),
        gateway=True,
        lookup=None,
        host=None,
        network=Network(tenants=(red, tenant("blue"))),
    )
    return msgspec.structs.replace(made, **changes)


def with_red(**changes: object) -> Appliance:
    red = msgspec.structs.replace(tenant("red", sites=(SITE,)), **changes)
    return appliance(network=Network(tenants=(red, tenant("blue"))))


def paths_refused(wanted: Appliance) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        check_reloadable(appliance(), wanted)
    return [problem.path for problem in raised.value.problems]


def test_sites_routes_and_rules_may_change() -> None:
    route = CustomerRoute(ipaddress.ip_network("10.0.2.77/32"), SiteHop("seattle"))
    moved = msgspec.structs.replace(SITE, peer=None)

    check_reloadable(appliance(), with_red(sites=(moved,), routes=(route,)))
    check_reloadable(appliance(), with_red(sites=()))


def test_everything_else_needs_a_restart_and_all_of_it_is_named() -> None:
    assert paths_refused(appliance(name="edge-2", gateway=False)) == ["name", "gateway"]
    assert paths_refused(with_red(gateways=("edge-2",), subnets=())) == [
        "tenant[red].gateways",
        "tenant[red].subnets",
    ]
    assert paths_refused(appliance(network=Network(tenants=(tenant("red", sites=(SITE,)),)))) == [
        "tenant[blue]"
    ]


def test_refused_reload_changes_nothing_and_the_next_one_is_compared_with_what_runs() -> None:
    taken: list[Appliance] = []
    files = [appliance(name="edge-2"), with_red(sites=()), with_red(sites=())]

    async def take(wanted: Appliance) -> None:
        taken.append(wanted)

    async def reload_thrice() -> None:
        reload = Reload(appliance(), lambda: files.pop(0), take)
        with pytest.raises(ConfigurationError):
            await reload.reload()
        assert not taken
        assert await reload.reload() == "reloaded"
        assert await reload.reload() == "reloaded"

    trio.run(reload_thrice)
    assert [wanted.network.tenants[0].sites for wanted in taken] == [(), ()]


def test_configuration_that_cannot_be_taken_leaves_the_old_one_running() -> None:
    wanted = [with_red(sites=()), appliance(gateway=False)]

    async def refuse(_: Appliance) -> None:
        raise ConfigurationError([Problem("tenant[red].site[seattle].ike.psk_file", "is empty")])

    async def twice() -> None:
        reload = Reload(appliance(), lambda: wanted.pop(0), refuse)
        with pytest.raises(ConfigurationError, match="is empty"):
            await reload.reload()
        with pytest.raises(ConfigurationError, match="needs a restart"):
            await reload.reload()

    trio.run(twice)


def test_whoever_takes_part_in_the_lookup_service_takes_another_network_and_other_ports() -> None:
    mac, address = MacAddress.parse("02:00:00:00:01:05"), CustomerAddress.parse("10.0.1.5")
    port = HostPort("vnet0", "red", "web", mac, (address,))
    running = appliance(host=HostRole("hv1"))
    wanted = appliance(host=HostRole("hv1", (port,)), network=Network(tenants=(tenant("blue"),)))

    check_reloadable(running, wanted, takes_part=True)
    with pytest.raises(ConfigurationError):
        check_reloadable(running, wanted)
    with pytest.raises(ConfigurationError):
        check_reloadable(running, appliance(host=HostRole("hv2")), takes_part=True)


def test_who_serves_records_takes_others_who_may_ask_and_says_what_needs_a_restart() -> None:
    settings = LookupSettings("127.0.0.1:7637")
    known = (Credential("hv1", Role.HOST, (), Path("hv1.token")),)
    running = appliance(lookup=settings)

    with_credentials = msgspec.structs.replace(settings, credentials=known)
    check_reloadable(running, appliance(lookup=with_credentials), takes_part=True)
    elsewhere = msgspec.structs.replace(settings, listen="127.0.0.1:7638")
    with pytest.raises(ConfigurationError) as raised:
        check_reloadable(running, appliance(lookup=elsewhere), takes_part=True)
    (problem,) = raised.value.problems
    assert problem.path == "lookup"
    assert "the network, the host's ports and who may ask can be reloaded" in problem.message
