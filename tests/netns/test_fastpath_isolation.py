"""Tenants with the same addresses stay apart whichever engine decides, and so do strangers from all of them.

The hosts are those of tests/netns/numbered.py; Green lives on hv2 only, and hv1 may not serve it.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator

import msgspec
import pytest

from gateway.lab import nodes
from gateway.packets import ethernet, ip, nvgre
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid, gateway_mac
from policies.facts import UDP
from tests.netns.numbered import BOTH_ENGINES, GRE, NumberedWorld, flows, mostly_carried_by, plan

pytestmark = pytest.mark.netns

TIMES = 20
RED_WEB, GREEN_WEB = 5001, 7001
VM, OTHER = "10.0.1.5", "10.0.2.6"
VM_MAC = "02:00:00:00:01:05"
STRANGER = {4: "203.0.113.77", 6: "2001:db8:77::77"}


def with_green_on_hv2(text: str) -> str:
    """Take Green from hv1."""
    return re.sub(r'(?m)(^name = "hv1"\n.*\ntenants = ).*', r'\1["red", "blue"]', text)


@pytest.fixture(scope="module", params=BOTH_ENGINES)
def world(request: pytest.FixtureRequest) -> Iterator[NumberedWorld]:
    if request.param == "xdp":
        request.getfixturevalue("require_bpf")
    planned = plan(engine=request.param, tenants=("red", "blue", "green"))
    vms = tuple(vm for vm in planned.vms if vm.tenant != "green" or vm.host == "hv2")
    with NumberedWorld(msgspec.structs.replace(planned, vms=vms), change=with_green_on_hv2) as built:
        built.write()
        built.start_gateway()
        with built.traffic(flows(built.plan), rate=500):
            time.sleep(1)  # until every next hop is known
        yield built


def test_each_packet_comes_to_its_own_tenants_vm_once_and_as_it_has_to_be(world: NumberedWorld) -> None:
    before = world.report()
    with world.traffic(flows(world.plan), rate=2000) as outcome:
        time.sleep(3)

    outcome.assert_nothing_wrong()
    assert outcome.missing == 0, outcome
    assert outcome.packets > 3000
    mostly_carried_by(world, before, outcome)
    for tenant in ("red", "blue", "green"):
        sent = sum(
            len(times)
            for flow, times in zip(outcome.flows, outcome.sent, strict=True)
            if flow.tenant == tenant
        )
        assert sent == carried(world.report(), tenant) - carried(before, tenant)


def carried(report: dict, tenant: str) -> int:
    """How many packets of a tenant have been counted as they went out."""
    return sum(meter["sent_packets"] for meter in report["meters"] if meter["tenant"] == tenant)


Forgery = tuple[str, bytes, str, str]


def frame(
    *,
    vsid: int = RED_WEB,
    source: str = VM,
    sender: str = VM_MAC,
    to: bytes = b"",
    ethertype: int = ethernet.IPV4,
    gre: bytes = b"",
    tag: bytes = b"",
) -> bytes:
    """A GRE packet with a datagram from Red's web1 to its db2, but for what is said."""
    datagram = bytes((0, 9, 0, 9, 0, 14, 0, 0)) + b"forged"
    packet = ip.build(CustomerAddress.parse(source), CustomerAddress.parse(OTHER), UDP, datagram)
    header = ethernet.EthernetHeader(to or gateway_mac(Vsid(vsid)), MacAddress.parse(sender), ethertype)
    encoded = header.encode()
    return (gre or nvgre.encode(vsid)) + encoded[:12] + tag + encoded[12:] + packet


def forgeries(version: int, host: str, gateway: str) -> Iterator[Forgery]:
    """Outer sources with GRE packets, each with why it is dropped, and counted for which tenant."""
    stranger = STRANGER[version]
    yield stranger, frame(), "spoofed-source", "red"
    yield stranger, frame(vsid=GREEN_WEB), "spoofed-source", "green"
    if host.endswith((".11", ":11")):
        yield host, frame(vsid=GREEN_WEB), "spoofed-source", "green"
    yield host, frame(vsid=0x1111), "unknown-vsid", ""
    yield host, frame(vsid=0xFFF), "unknown-vsid", ""
    if version == 6:  # by IPv4 the kernel lets no packet from an address of its own reach Python
        yield gateway, frame(), "loop", ""
    yield host, frame(source="224.0.0.1"), "spoofed-source", "red"
    yield host, frame(source="127.0.0.1"), "spoofed-source", "red"
    yield host, frame(source="10.0.1.1"), "spoofed-source", "red"
    yield host, frame(sender="03:00:00:00:01:05"), "spoofed-source", "red"
    yield host, frame(to=b"\x02\0\0\0\0\x99"), "unknown-mac", "red"
    yield host, frame(ethertype=0x88CC), "not-ip", "red"
    yield host, frame(tag=b"\x81\0\0\x05"), "vlan-tagged", "red"
    key = (RED_WEB << 8).to_bytes(4)
    yield host, frame(gre=b"\xa0\0\x65\x58" + bytes(4) + key), "not-nvgre", ""
    yield host, frame(gre=b"\x30\0\x65\x58" + key + bytes(4)), "not-nvgre", ""
    yield host, frame(gre=b"\x20\x01\x65\x58" + key), "not-nvgre", ""
    yield host, frame(gre=b"\x20\0\x08\0" + key), "not-nvgre", ""


def send(world: NumberedWorld, source: str, payload: bytes, target: str) -> None:
    """Send a GRE packet with any outer source, as anybody in the underlay can."""
    ours, theirs = ProviderAddress.parse(source), ProviderAddress.parse(target)
    family = socket.AF_INET if theirs.version == 4 else socket.AF_INET6
    with world.router.call(socket.socket, family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        for _ in range(TIMES):
            sock.sendto(ip.build(ours, theirs, GRE, payload), (target, 0))


@pytest.mark.parametrize("version", [4, 6])
def test_what_may_not_cross_is_dropped_and_counted_once_for_what_it_is(
    world: NumberedWorld, version: int
) -> None:
    host = next(node for node in world.plan.hosts if node.interfaces[0].version == version)
    gateway = world.gateway_address(version)
    forged = list(forgeries(version, host.provider_addresses[0], gateway))
    wanted: dict[tuple[str, str], int] = {}
    for _, _, reason, tenant in forged:
        wanted[reason, tenant] = wanted.get((reason, tenant), 0) + TIMES
    before = nodes.drops(world.gateway)

    with world.traffic(flows(world.plan), rate=500) as outcome:
        for source, payload, _, _ in forged:
            send(world, source, payload, gateway)
        time.sleep(1)

    after = nodes.drops(world.gateway)
    dropped = {key: count - before.get(key, 0) for key, count in after.items() if count != before.get(key)}
    assert dropped == wanted
    outcome.assert_nothing_wrong()
    assert outcome.missing == 0, outcome
