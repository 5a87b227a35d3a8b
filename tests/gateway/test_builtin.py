"""The builtin data path as its network changes; its sockets are not real here."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from gateway.builtin import Builtin
from gateway.changes.reload import OwnFile
from gateway.forwarding.directory import Directory
from gateway.membership import Membership
from gateway.sites.policies import Keyring
from gateway.underlay.interfaces import Attachment
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.errors import ConfigurationError, Problem
from policies.model import (
    Appliance,
    Engine,
    HostPort,
    HostRole,
    IkeIdentity,
    LookupRecord,
    Port,
    Site,
    Underlay,
)
from tests.networks import mac, network, pa, tenant


def addresses_of(number: int) -> tuple[CustomerAddress, ...]:
    return (CustomerAddress.parse(f"10.0.1.{number + 100}"),)


def appliance(*interfaces: str) -> Appliance:
    ports = tuple(
        HostPort(name, "red", "web", mac("red", "web", number), addresses_of(number))
        for number, name in enumerate(interfaces, 5)
    )
    return Appliance(
        name="hv1",
        state=Path("/nowhere"),
        engine=Engine.AUTO,
        underlay=Underlay((pa("hv1"),)),
        gateway=False,
        lookup=None,
        host=HostRole("hv1", ports),
        network=network(tenant("red")),
    )


def fake_ports(path: Builtin, refused: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ports that open nothing; those of the interfaces in `refused` cannot be served."""

    async def serve(port: Port, *_: object, task_status: trio.TaskStatus[None]) -> None:
        if port.interface in refused:
            raise ConfigurationError([Problem(port.interface, "is served by another isthmus already")])
        task_status.started()
        await trio.sleep_forever()

    monkeypatch.setattr(path.ports, "serve", serve)


def served(path: Builtin) -> list[str]:
    return sorted(port.interface for port in path._served)


def run(
    test: Callable[[Builtin, set[str]], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
    started_as: Appliance | None = None,
) -> None:
    async def main() -> None:
        path, refused = Builtin(started_as or appliance(), Attachment((), 1500), Directory()), set[str]()
        fake_ports(path, refused, monkeypatch)
        async with trio.open_nursery() as nursery:
            path._nursery = nursery
            await test(path, refused)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_port_that_is_refused_keeps_none_of_the_others_from_service(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(path: Builtin, refused: set[str]) -> None:
        refused.add("vm-b")
        problems = await path.adopt(appliance("vm-a", "vm-b", "vm-c"), Keyring())
        assert [problem.path for problem in problems] == ["vm-b"]
        assert served(path) == ["vm-a", "vm-c"]

    run(test, monkeypatch)


def test_port_that_was_refused_is_tried_again_at_the_next_change(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(path: Builtin, refused: set[str]) -> None:
        refused.add("vm-b")
        await path.adopt(appliance("vm-a", "vm-b"), Keyring())
        refused.clear()
        assert await path.adopt(appliance("vm-a", "vm-b", "vm-c"), Keyring()) == ()
        assert served(path) == ["vm-a", "vm-b", "vm-c"]

    run(test, monkeypatch)


def test_why_a_port_is_refused_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(path: Builtin, refused: set[str]) -> None:
        refused.add("vm-b")
        wanted = appliance("vm-a", "vm-b")
        loop: Any = None
        membership = Membership(wanted, loop, path, Keyring())
        with caplog.at_level(logging.ERROR):
            await membership._adopt(wanted)
            await membership._adopt(wanted)
        assert [record.getMessage() for record in caplog.records] == [
            "not served until the next change: vm-b: is served by another isthmus already"
        ]

    run(test, monkeypatch)


# --- a failure half-way

SEATTLE = Site(
    name="seattle",
    gateway="hv1",
    prefixes=(ip_network("172.16.0.0/16"),),
    peer=ProviderAddress.parse("203.0.113.7"),
    ike=IkeIdentity("hv1.example", "seattle.example", Path("seattle.psk")),
)


def static(number: int) -> LookupRecord:
    address = CustomerAddress.parse(f"10.0.1.{number}")
    return LookupRecord(Vsid(5001), address, mac("red", "web", number), pa("hv2"), "hv2")


def whole(
    *interfaces: str, sites: tuple[Site, ...] = (), records: tuple[LookupRecord, ...] = ()
) -> Appliance:
    red = msgspec.structs.replace(tenant("red", sites=sites), records=records)
    return msgspec.structs.replace(appliance(*interfaces), network=network(red), gateway=True)


def state(path: Builtin) -> dict[str, object]:
    """What decides packets, and what carries them."""
    tables = path.forwarder.tables
    return {
        "tenants": {name: sorted(domain.vsids) for name, domain in tables.domains.items()},
        "routes": {name: dict(domain.routes) for name, domain in tables.domains.items()},
        "records": sorted(map(str, path.forwarder.directory)),
        "ports": served(path),
        "port keys": sorted(path.forwarder.node.ports),
        "site meters": sorted(path.forwarder.site_meters),
    }


FAILURES = ("policies", "interfaces", "sockets", "port")


@pytest.mark.parametrize("failing", FAILURES)
def test_configuration_that_fails_at_any_step_leaves_what_was(
    failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = whole("vm-a", "vm-b", records=(static(7),))
    wanted = whole("vm-b", "vm-c", sites=(SEATTLE,), records=(static(8), static(9)))

    def fail(*_: object, **__: object) -> Any:
        raise ConfigurationError([Problem(failing, "fails")])

    async def test(path: Builtin, refused: set[str]) -> None:
        monkeypatch.setattr("gateway.builtin.read_links", list)
        monkeypatch.setattr("gateway.builtin.mtus_of", lambda *_: {})
        monkeypatch.setattr(path, "_read_policies", lambda *_: ((), ()))
        own = OwnFile(before, path, Keyring())
        await own.start()
        was = state(path)
        assert was["ports"] == ["vm-a", "vm-b"]
        with monkeypatch.context() as failure:
            if failing == "port":
                refused.add("vm-c")
            elif failing == "sockets":
                # Only a gateway with sites opens any.
                failure.setattr(path, "_read_policies", lambda *_: ((object(),), ()))
                failure.setattr(path.tunnels, "start", fail)
            else:
                place = {"policies": "_read_policies", "interfaces": "_check_ports"}[failing]
                failure.setattr(path, place, fail)
            with pytest.raises(ConfigurationError):
                await own.take(wanted, Keyring())
        refused.clear()
        assert state(path) == was
        assert (await own.compared(wanted))[0] is before

        undo = await own.take(wanted, Keyring())
        taken = state(path)
        assert taken["ports"] == ["vm-b", "vm-c"]
        assert len(taken["records"]) == 4  # type: ignore[arg-type] # two ports', and the static ones
        assert await undo() == []
        assert state(path) == was

    run(test, monkeypatch, whole())


def test_port_that_stays_is_neither_closed_nor_opened_by_a_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(path: Builtin, refused: set[str]) -> None:
        own = OwnFile(whole("vm-a", "vm-b"), path, Keyring())
        await own.start()
        before = dict(path._served)
        await own.take(whole("vm-a", "vm-b", "vm-c"), Keyring())
        assert {port: path._served[port] for port in before} == before

    run(test, monkeypatch, whole())


def test_counters_of_a_virtual_subnet_begin_anew_where_its_vsid_is_another_tenants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    red, blue = tenant("red"), tenant("blue")
    stays, goes = red.subnets[0], red.subnets[1]
    less = msgspec.structs.replace(red, subnets=(stays,))
    more = msgspec.structs.replace(blue, subnets=(*blue.subnets, msgspec.structs.replace(goes, name="had")))

    async def test(path: Builtin, refused: set[str]) -> None:
        await path.adopt(msgspec.structs.replace(appliance(), network=network(red, blue)), Keyring())
        for meter in path.forwarder.meters.values():
            meter.sent(100)
        await path.adopt(msgspec.structs.replace(appliance(), network=network(less, more)), Keyring())
        counted = {vsid: meter.sent_packets for vsid, meter in path.forwarder.meters.items()}
        assert counted[stays.vsid] == 1
        assert counted[goes.vsid] == 0

    run(test, monkeypatch)
