"""The program reads while another process writes: what it forwards goes by one of the values, never a mix."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.fastpath import kernel, layout
from gateway.fastpath.elf import read_object
from gateway.fastpath.instance import OBJECT
from gateway.fastpath.kernel import BpfRefused, Loaded, load
from gateway.fastpath.places import Ipv4Places, Place, Places
from gateway.forwarding.verdicts import OuterHeader
from gateway.packets import ip, nvgre
from gateway.packets.ethernet import OF_IP_VERSION, EthernetHeader
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid, gateway_mac
from policies.facts import UDP
from tests.fastpath.scenes import OWN_MACS
from tests.properties.machine import LOOPBACK
from tests.properties.restless import MOVING, SUBNETS, TENANT, mac
from tests.properties.wire import INTERFACE, on_the_wire

SEED = 7637
FIRST_SUBNET = 1
VSIDS = {number: Vsid(0x01_0000 + number) for number in range(1, max(SUBNETS) + 1)}
"""What is half of one number and half of another is a subnet too: only the table prevents it."""
HOSTS = [ProviderAddress.parse(f"192.0.2.{number}") for number in range(1, 5)]
OURS = ProviderAddress.parse("192.0.2.254")
SENDER = {4: CustomerAddress.parse("10.0.0.4"), 6: CustomerAddress.parse("fd00::4")}
TABLES = {4: "ipv4_places", 6: "places"}
XDP_PASS, XDP_REDIRECT = 2, 4
BOTH = pytest.mark.parametrize("version", [4, 6])

Triple = tuple[bytes, Vsid, bytes]
"""By which MAC, VSID and provider address a frame leaves."""

EITHER = {(mac(number), VSIDS[SUBNETS[number]], bytes(HOSTS[number + 1])) for number in (0, 1)}


@pytest.fixture(scope="module")
def loaded() -> Iterator[Loaded]:
    """The program: with room for so little that addresses take turns in one place."""
    processors, subnets = kernel.possible_cpus(), max(SUBNETS) + 1
    sizes = {"places": 2, "ipv4_places": 2, "subnets": subnets, "meters": subnets * processors, "tenants": 2}
    sizes |= {"counts": 2 * layout.OUTCOMES * processors, "tenant_debts": 2}
    sizes |= {"peers": 8, "hops": 8, "peer_debts": 8, "rules": 1, "routes": 1}
    try:
        program = load(read_object(OBJECT.read_bytes()), sizes)
    except BpfRefused as refused:
        pytest.skip(f"no program may be loaded here ({refused})")
    with program:
        yield program


def fill(program: Loaded, version: int) -> None:
    """One tenant, whose VM at the first host sends to one that is at any of the others."""
    memory = {name: each.memory() for name, each in program.maps.items() if each.definition.flags & 1 << 10}
    for name in TABLES.values():
        memory[name][:] = bytes(len(memory[name]))
    config = memory["config"]
    layout.SETTINGS.pack_into(config, 0, layout.CARRIES, 2, SEED, 2, max(SUBNETS) + 1, 2, 1, 0)
    config[layout.SETTINGS_IPV4_AT : layout.SETTINGS_IPV4_AT + 4] = OURS
    layout.INTERFACE.pack_into(config, layout.SETTINGS_INTERFACES_AT, LOOPBACK, OWN_MACS[INTERFACE])
    layout.TENANT.pack_into(memory["tenants"], TENANT * layout.TENANT.size, layout.IS_CARRIED, 0, 0, 0, 0, 0)
    for number, vsid in VSIDS.items():
        layout.SUBNET.pack_into(memory["subnets"], number * layout.SUBNET.size, vsid, TENANT)
    for number, host in enumerate(HOSTS, start=1):
        layout.PEER.pack_into(memory["peers"], number * layout.PEER.size, number, number)
        own, theirs = OWN_MACS[INTERFACE], bytes((2, 0, 0, 0, 0, number))
        ends = OURS.ljust(16, b"\0"), host.ljust(16, b"\0")
        layout.HOP.pack_into(memory["hops"], number * layout.HOP.size, 0, 0, 1458, 1458, theirs, own, *ends)
    program.maps["ports"].update(bytes(4), LOOPBACK.to_bytes(4, "little"))
    places = Places(memory["places"].cast("Q"), SEED)
    assert places.put(layout.VSIDS, VSIDS[FIRST_SUBNET], 0, Place(0, FIRST_SUBNET))
    assert places.put(layout.IPV4_PEERS, *layout.words_of(HOSTS[0]), Place(0, 1))
    scope, (first, second) = layout.FIRST_SCOPE + 2 * TENANT, layout.words_of(SENDER[version])
    sender = Place(FIRST_SUBNET, 1, 0xAA)
    if version == 4:
        ipv4 = Ipv4Places(memory["ipv4_places"].cast("Q"), SEED, [scope] * (max(SUBNETS) + 1))
        assert ipv4.put(first, sender)
    else:
        assert places.put(scope + 1, first, second, sender)


@contextmanager
def restless(program: Loaded, version: int, how: str) -> Iterator[None]:
    """Have another process write, on another processor where there is one."""
    places = program.maps[TABLES[version]]
    octets = places.definition.max_entries * layout.BUCKET_OCTETS
    arguments = [*map(str, (places.fd, octets, SEED, version)), how]
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.properties.restless", *arguments],
        stdin=subprocess.PIPE,
        pass_fds=[places.fd],
        cwd=Path(__file__).parents[2],
    )
    try:
        yield
    finally:
        assert writer.stdin is not None
        writer.stdin.close()
        assert writer.wait(10) == 0


def sent_to(program: Loaded, version: int, seconds: float) -> Counter[Triple | None]:
    """Send to the VM that moves, and count by which MAC, VSID and provider address each frame leaves."""
    packet = ip.build(SENDER[version], MOVING[version], UDP, struct.pack("!HHHH", 1, 2, 8, 0))
    vsid = VSIDS[FIRST_SUBNET]
    header = EthernetHeader(gateway_mac(vsid), MacAddress(b"\2\0\0\0\0\4"), OF_IP_VERSION[version])
    frame = on_the_wire(OuterHeader(HOSTS[0], OURS), nvgre.encode(vsid) + header.encode() + packet)
    fd = program.programs["nvgre"]
    found: Counter[Triple | None] = Counter()
    until = time.monotonic() + seconds
    tenant, debts = (1).to_bytes(4, "little"), bytes(16)
    while time.monotonic() < until:
        # What is left to Python is limited.
        program.maps["tenant_debts"].update(tenant, debts)
        for _ in range(256):
            ran = kernel.test_run(fd, frame)
            if ran.verdict == XDP_REDIRECT:
                data = ran.data
                found[data[42:48], Vsid(int.from_bytes(data[38:41])), data[30:34]] += 1
            else:
                assert ran.verdict == XDP_PASS
                found[None] += 1
    return found


def _check(found: Counter[Triple | None]) -> None:
    assert set(found) - {None} == EITHER, f"by a mix, or by the other address's: {found}"
    assert all(found[each] > 100 for each in EITHER)


@BOTH
def test_what_is_forwarded_goes_by_one_value_while_records_change(loaded: Loaded, version: int) -> None:
    fill(loaded, version)
    with restless(loaded, version, "rightly"):
        _check(sent_to(loaded, version, 1.5))


@BOTH
def test_a_writer_that_says_nothing_of_its_changes_is_found_out(loaded: Loaded, version: int) -> None:
    fill(loaded, version)
    with restless(loaded, version, "wrongly"):
        found = sent_to(loaded, version, 1.5)

    assert set(found) - {None} - EITHER != set()


@pytest.mark.soak
@BOTH
def test_what_is_forwarded_goes_by_one_value_for_minutes(loaded: Loaded, version: int) -> None:
    fill(loaded, version)
    with restless(loaded, version, "rightly"):
        _check(sent_to(loaded, version, 120.0))
