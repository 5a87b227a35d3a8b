"""What a tenant may have, whichever engine carries its packets, and what it can take from the others.

The hosts are those of tests/netns/numbered.py.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
import pytest

from gateway.lab import nodes
from gateway.lab.processes import Process
from gateway.packets import arp, ethernet, ip, nvgre
from gateway.packets.arp import ArpPacket
from policies.addresses import MacAddress, Vsid, gateway_mac
from policies.facts import UDP
from tests.netns.numbered import BOTH_ENGINES, Flow, NumberedWorld, flows, plan, punted
from tests.netns.rewriting import show

pytestmark = pytest.mark.netns

RATE_OCTETS = 125_000
BURST = 64_000
LIMITS = f"""
[tenant.limits]
rate = "{RATE_OCTETS * 8 // 1_000_000} Mbit/s"
burst = {BURST}
"""
SECONDS = 4.0


@pytest.fixture(scope="module", params=BOTH_ENGINES)
def world(request: pytest.FixtureRequest) -> Iterator[NumberedWorld]:
    if request.param == "xdp":
        request.getfixturevalue("require_bpf")
    with NumberedWorld(plan(engine=request.param)) as built:
        built.write()
        built.start_gateway()
        with built.traffic(flows(built.plan), rate=500):
            time.sleep(1)  # until every next hop is known
        yield built


def with_options(chosen: Sequence[Flow]) -> list[Flow]:
    """The same of IPv4 with options, which Python decides."""
    return [
        msgspec.structs.replace(flow, number=1000 + flow.number, has_options=True)
        for flow in chosen
        if flow.version == 4
    ]


def octets(flow: Flow, numbers: Iterable[int]) -> int:
    """How many octets of a tenant's packets these are, IP headers included."""
    return sum(len(flow.sent(0, number)) - nvgre.HEADER_LENGTH - ethernet.HEADER_LENGTH for number in numbers)


def test_one_bucket_is_for_what_python_carries_and_for_what_the_fast_path_does(world: NumberedWorld) -> None:
    red = flows(world.plan, tenants=["red"], versions=(4,))
    blue = [
        msgspec.structs.replace(flow, number=500 + flow.number)
        for flow in flows(world.plan, tenants=["blue"], versions=(4,))
    ]
    by_python = with_options(red)
    world.write(change=lambda text: re.sub(r'(\n\[\[tenant\]\]\nname = "blue")', rf"{LIMITS}\1", text))
    assert world.isthmus("reload").returncode == 0
    before, limited = world.report(), nodes.drops(world.gateway).get(("rate-limited", "red"), 0)
    with world.traffic([*red, *by_python, *blue], rate=2500) as outcome:
        time.sleep(SECONDS)
    after = world.report()
    world.write()
    assert world.isthmus("reload").returncode == 0

    outcome.assert_nothing_wrong()
    came = [
        sum(octets(flow, outcome.came[outcome.flows.index(flow)]) for flow in some)
        for some in (red, by_python)
    ]
    times = [at for each in outcome.sent for at in each]
    allowed = RATE_OCTETS * (max(times) - min(times)) + BURST
    lost = sum(len(outcome.lost(flow)) for flow in (*red, *by_python))
    show(
        f"{world.plan.engine}: {outcome}",
        f"allowed {allowed:.0f} octets; came {came[0]} of plain packets and {came[1]} of those with options",
    )
    # A machine that is busy may not send all that it should.
    offered = sum(
        octets(flow, range(len(outcome.sent[outcome.flows.index(flow)]))) for flow in (*red, *by_python)
    )
    assert 0.85 * min(allowed, offered) < sum(came) < 1.02 * allowed
    assert offered > 1.1 * allowed
    assert min(came) > allowed / 5
    assert nodes.drops(world.gateway)["rate-limited", "red"] - limited == lost
    assert [flow for flow in blue if outcome.lost(flow)] == []
    if world.plan.engine == "xdp":
        assert punted(after) - punted(before) >= sum(
            len(outcome.sent[outcome.flows.index(f)]) for f in by_python
        )


@pytest.fixture(scope="module")
def fast(world: NumberedWorld) -> NumberedWorld:
    if world.plan.engine != "xdp":
        pytest.skip("Python alone polices nobody")
    return world


def asking(vsid: int) -> bytes:
    """An ARP request of Red's web1 for an address that nobody has."""
    vm = MacAddress.parse("02:00:00:00:01:05")
    request = ArpPacket(
        arp.REQUEST, vm, socket.inet_aton("10.0.1.5"), bytes(6), socket.inet_aton("10.0.1.99")
    )
    header = ethernet.EthernetHeader(b"\xff" * 6, vm, ethernet.ARP)
    return nvgre.encode(vsid) + header.encode() + request.encode()


def to_nobody(vsid: int) -> bytes:
    """A datagram of Red's web1 to an address that nobody has."""
    packet = ip.build(
        socket.inet_aton("10.0.1.5"), socket.inet_aton("10.0.2.99"), UDP, bytes((0, 9, 0, 9, 0, 8, 0, 0))
    )
    header = ethernet.EthernetHeader(
        gateway_mac(Vsid(vsid)), MacAddress.parse("02:00:00:00:01:05"), ethernet.IPV4
    )
    return nvgre.encode(vsid) + header.encode() + packet


def flood(world: NumberedWorld, host: str, *packets: bytes) -> Process:
    """Send packets from a host as fast as it goes."""
    address = world.address_of(host)
    words = (str(address), world.gateway_address(address.version), *(packet.hex() for packet in packets))
    process = world.start_python("flood", world.node(host), "tests.netns.flooding", *words)
    process.wait_for("^flooding")
    return process


@pytest.mark.interop
@pytest.mark.long
@pytest.mark.parametrize("what", [asking, to_nobody], ids=["ARP", "to nobody"])
def test_what_one_tenant_has_python_decide_leaves_the_others_theirs(
    fast: NumberedWorld, what: Callable[[int], bytes]
) -> None:
    chosen = with_options(flows(fast.plan, tenants=["blue"], versions=(4,)))
    before = nodes.drops(fast.gateway).get(("punt-limited", "red"), 0)
    with fast.traffic(chosen, rate=200) as outcome:
        time.sleep(0.5)
        began = time.monotonic()
        process = flood(fast, "hv1", what(5001))
        time.sleep(SECONDS)
        process.stop()
        ended = time.monotonic()
    sent = int(process.wait_for(r"^sent (\d+)").group(1))
    policed = nodes.drops(fast.gateway).get(("punt-limited", "red"), 0) - before
    show(
        f"{what.__name__}: {sent} in {ended - began:.1f} s, of which {policed} punt-limited;"
        f" by Python for Blue: {outcome}"
    )

    outcome.assert_nothing_wrong(errors="VSID 5001, protocol (0|1), type (0|3)")
    assert policed > sent / 2
    lost = sum(len(outcome.lost(flow)) for flow in chosen)
    assert lost <= outcome.packets / 100
