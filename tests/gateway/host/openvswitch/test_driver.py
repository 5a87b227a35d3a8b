"""The driver, on a bridge that does at once what it is told."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ParamSpec

import msgspec
import pytest
import trio
from trio.testing import MockClock

from gateway.forwarding.directory import Delete, DeleteLease, Put, PutLease
from gateway.forwarding.happenings import Happening
from gateway.forwarding.verdicts import PortKey
from gateway.host.openvswitch.bridge import LISTENER, TUNNELS, Bridge, BridgeError
from gateway.host.openvswitch.driver import OpenVswitchDriver
from gateway.operating.capture import Captures
from gateway.operating.commands import OWNER, carry_out
from gateway.operating.report import BridgeReport
from gateway.sites.policies import Keyring
from gateway.trace.packets import Question
from policies.addresses import CustomerAddress, ProviderAddress
from policies.errors import ConfigurationError
from policies.model import Appliance, Engine, HostPort, HostRole, Lease, Translation, Underlay
from policies.services import LookupAccess
from tests import networks as n

P = ParamSpec("P")

WEB5 = n.port("red", "web", 5)
INTERFACE = "red-web5"


class FakeBridge(Bridge):
    """Keeps flows and ports in memory, and can be broken."""

    def __init__(self) -> None:
        super().__init__("br-int", Path("/nonexistent"))
        self.ports = {INTERFACE: 5}
        self.flows: dict[str, str] = {}
        self.trouble = ""
        self.replaced = 0
        self.sent: list[tuple[int, bytes]] = []

    def port_numbers(self) -> dict[str, int]:
        if self.trouble:
            raise BridgeError(self.trouble)
        return dict(self.ports)

    def prepare(self, provider_addresses: Sequence[ProviderAddress]) -> set[str]:
        made = {LISTENER: 100, TUNNELS[4]: 104, TUNNELS[6]: 106}
        new = made.keys() - self.ports.keys()
        self.ports |= made
        return new

    def remove_ports(self, names: object) -> None:
        for name in names:  # type: ignore[attr-defined]
            self.ports.pop(name, None)

    def replace_flows(self, flows: Mapping[str, str]) -> None:
        if self.trouble:
            raise BridgeError(self.trouble)
        self.replaced += 1
        self.flows = dict(flows)

    def change_flows(self, lines: Sequence[str]) -> None:
        for line in lines:
            if line.startswith("delete_strict "):
                del self.flows[line.removeprefix("delete_strict ")]
            else:
                match, _, actions = line.partition(",")[2].partition(",actions=")
                self.flows[match] = actions

    def count_flows(self) -> int:
        if self.trouble:
            raise BridgeError(self.trouble)
        return len(self.flows)

    def remove_flows(self) -> None:
        self.flows = {}

    def send(self, number: int, frame: bytes) -> None:
        self.sent.append((number, frame))


class Listener:
    def __init__(self) -> None:
        self.told: list[object] = []

    def port_opened(self, key: PortKey) -> None:
        self.told.append(("opened", key))

    def port_closed(self, key: PortKey) -> None:
        self.told.append(("closed", key))

    def happened(self, happening: Happening) -> None:
        self.told.append(happening)


def appliance(*, gateway: bool = False) -> Appliance:
    port = HostPort(
        INTERFACE, "red", "web", WEB5[1], tuple(map(CustomerAddress.parse, ("10.0.1.5", "fd00:1::5")))
    )
    return Appliance(
        name="hv1",
        state=Path("/nonexistent"),
        engine=Engine.PYTHON,
        underlay=Underlay(provider_addresses=(n.pa("hv1"), n.pa("hv1", 6))),
        gateway=gateway,
        lookup=None,
        host=HostRole("hv1", (port,), driver="openvswitch"),
        network=n.network(),
        lookup_access=LookupAccess(("https://192.0.2.254:7637",)),
    )


@asynccontextmanager
async def running(bridge: FakeBridge, listener: Listener | None = None) -> AsyncIterator[OpenVswitchDriver]:
    driver = OpenVswitchDriver(appliance(), 1500, n.directory(n.network()), bridge)
    if listener is not None:
        driver.tell(listener)
    async with trio.open_nursery() as nursery:
        await driver.start(nursery, appliance())
        await driver.adopt(appliance(), Keyring())
        await trio.sleep(0.2)
        yield driver
        nursery.cancel_scope.cancel()


def bridge_of(driver: OpenVswitchDriver) -> BridgeReport:
    """What the driver reports of its bridge."""
    bridge = driver.report().bridge
    assert bridge is not None
    return bridge


def simulated(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run a test on a clock that jumps, but not while the bridge's threads are at work."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        trio.run(lambda: test(*args, **kwargs), clock=MockClock(autojump_threshold=0.005))

    return run


def record_match(number: int) -> str:
    return f"table=6,priority=100,reg1={n.VSIDS['red', 'web']:#x},ip,nw_dst=10.0.1.{number},reg4=0/0x1"


@simulated
async def test_bridge_is_programmed_and_its_ports_are_told() -> None:
    bridge, listener = FakeBridge(), Listener()
    async with running(bridge, listener):
        assert bridge.replaced >= 1
        assert record_match(6) in bridge.flows
        assert listener.told == [("opened", WEB5)]
        assert not any("blue" in match for match in bridge.flows)


@simulated
async def test_change_of_a_record_is_a_change_of_its_flows_within_milliseconds() -> None:
    bridge = FakeBridge()
    async with running(bridge) as driver:
        before, replaced = dict(bridge.flows), bridge.replaced
        record = driver.find(WEB5[0], CustomerAddress.parse("10.0.1.6"))
        assert record is not None
        there = ProviderAddress.parse("192.0.2.254")
        assert str(there) not in bridge.flows[record_match(6)]
        moved = msgspec.structs.replace(record, mac=n.mac("red", "web", 9), revision=7)
        driver.apply([Put(moved)])
        await trio.sleep(0.02)

        assert f"set_field:{n.mac('red', 'web', 9)}->eth_dst" in bridge.flows[record_match(6)]
        changed = {
            match
            for match in before.keys() | bridge.flows.keys()
            if before.get(match) != bridge.flows.get(match)
        }
        assert 2 <= len(changed) <= 6
        assert bridge.replaced == replaced


@simulated
async def test_flows_that_have_gone_are_put_there_anew() -> None:
    bridge = FakeBridge()
    async with running(bridge):
        before = dict(bridge.flows)
        bridge.flows = {}
        await trio.sleep(2)

        assert bridge.flows == before


@simulated
async def test_bridge_that_is_not_there_is_said_once_and_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    bridge = FakeBridge()
    bridge.trouble = "no bridge named br-int"
    with caplog.at_level(logging.WARNING, "isthmus.openvswitch"):
        async with running(bridge) as driver:
            await trio.sleep(5)
            assert bridge_of(driver).trouble == "no bridge named br-int"
            bridge.trouble = ""
            await trio.sleep(2)
            assert record_match(6) in bridge.flows
            assert bridge_of(driver).trouble == ""
    said = [record.message for record in caplog.records if record.name == "isthmus.openvswitch"]
    assert said == ["bridge br-int is waited for: no bridge named br-int"]


@simulated
async def test_switch_that_fails_for_a_moment_is_programmed_anew() -> None:
    bridge = FakeBridge()
    async with running(bridge):
        bridge.trouble = "connection refused"
        await trio.sleep(1.5)
        bridge.flows, bridge.trouble = {}, ""
        await trio.sleep(1.5)

        assert record_match(6) in bridge.flows


@simulated
async def test_port_that_goes_is_told_and_comes_back() -> None:
    bridge, listener = FakeBridge(), Listener()
    async with running(bridge, listener):
        del bridge.ports[INTERFACE]
        await trio.sleep(0.5)
        assert not any("in_port=5" in match for match in bridge.flows)
        bridge.ports[INTERFACE] = 6
        await trio.sleep(0.5)

        assert any("in_port=6" in match for match in bridge.flows)
    assert listener.told == [("opened", WEB5), ("closed", WEB5), ("opened", WEB5)]


@simulated
async def test_vm_that_becomes_rewritten_is_served_no_longer_and_again_when_it_is_encapsulated() -> None:
    bridge, listener = FakeBridge(), Listener()
    async with running(bridge, listener) as driver:
        records = [record for record in n.records("red") if record.mac == WEB5[1]]
        for translation, revision in ((Translation.REWRITE, 7), (Translation.ENCAP, 8)):
            changed = [
                msgspec.structs.replace(record, translation=translation, revision=revision)
                for record in records
                if record.vsid == WEB5[0]
            ]
            driver.apply([Put(record) for record in changed])
            await trio.sleep(0.1)
            is_served = any("in_port=5" in match for match in bridge.flows)
            assert is_served == (translation is Translation.ENCAP)
    assert listener.told == [("opened", WEB5), ("closed", WEB5), ("opened", WEB5)]


@simulated
async def test_port_in_a_rewritten_subnet_is_refused_unless_its_records_say_otherwise() -> None:
    bridge = FakeBridge()
    async with running(bridge) as driver:
        (red, blue) = n.network().tenants
        subnets = tuple(
            msgspec.structs.replace(subnet, translation=Translation.REWRITE) for subnet in red.subnets
        )
        red = msgspec.structs.replace(red, subnets=subnets)
        rewritten = msgspec.structs.replace(appliance(), network=n.network(red, blue))

        assert await driver.adopt(rewritten, Keyring()) == ()
        driver.apply([Delete(WEB5[0], CustomerAddress.parse(ca)) for ca in ("10.0.1.5", "fd00:1::5")])
        (problem,) = await driver.adopt(rewritten, Keyring())

        assert problem.path == f"host.port[{INTERFACE}]"
        assert "Open vSwitch hosts only encapsulate" in str(problem)
        await trio.sleep(0.1)
        assert not any("in_port=5" in match for match in bridge.flows)


@simulated
async def test_leases_of_gateways_change_no_flow() -> None:
    bridge = FakeBridge()
    async with running(bridge) as driver:
        before = dict(bridge.flows)
        pa = ProviderAddress.parse("192.0.2.130")
        driver.apply([PutLease(Lease(pa, WEB5[0], CustomerAddress.parse("172.16.0.9"), "edge-1"))])
        await trio.sleep(0.1)
        driver.apply([DeleteLease(pa)])
        await trio.sleep(0.1)

        assert bridge.flows == before


@simulated
async def test_vm_is_asked_at_its_port() -> None:
    bridge = FakeBridge()
    async with running(bridge) as driver:
        driver.probe(WEB5, CustomerAddress.parse("10.0.1.5"))
        await trio.sleep(0.1)

    ((number, frame),) = bridge.sent
    assert (number, frame[:6]) == (5, WEB5[1])


@simulated
async def test_nothing_of_ours_is_left_behind() -> None:
    bridge = FakeBridge()
    bridge.ports[LISTENER] = 100  # somebody else's
    async with running(bridge) as driver:
        await driver.say_goodbye()

        assert (bridge.flows, bridge.ports) == ({}, {INTERFACE: 5, LISTENER: 100})


def test_gateway_cannot_be_on_open_vswitch() -> None:
    with pytest.raises(ConfigurationError):
        OpenVswitchDriver(appliance(gateway=True), 1500, n.directory(n.network()))


@simulated
async def test_packets_of_the_switch_cannot_be_captured_here_and_what_can_is_named() -> None:
    async with running(FakeBridge()) as driver:
        captures = Captures(driver, lambda: 0.0)
        for _ in range(2):  # a refused one leaves nothing behind
            with pytest.raises(ConfigurationError, match="ovs-tcpdump -i PORT on br-int"):
                await carry_out(captures.commands(), OWNER, "capture", {}, _never)


@simulated
async def test_host_on_a_switch_says_what_would_happen_to_a_packet() -> None:
    async with running(FakeBridge()) as driver:
        question = Question(
            CustomerAddress.parse("10.0.1.5"), CustomerAddress.parse("10.0.1.6"), tenant="red"
        )
        explanation = driver.explain(question)
        assert explanation.outcome == "forwarded"
        assert explanation.steps[0].name == "port"


async def _never(_: object) -> None:
    raise AssertionError("nothing is told")
