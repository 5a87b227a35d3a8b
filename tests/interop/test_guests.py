"""Guests as they come: BusyBox's DHCP client, and the kernel's own router solicitation.

Their host is one of ours, and has only its own VMs' records.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.lab import nodes
from gateway.lab.namespaces import Namespace
from gateway.lab.topology import VM_INTERFACE, Datacenter, standard_plan

pytestmark = [pytest.mark.netns, pytest.mark.interop]

CUSTOMER_MTU = 1458

CONFIGURE = """#!/bin/sh
case "$1" in
bound|renew)
    ip link set "$interface" mtu "$mtu"
    ip address replace "$ip/$mask" dev "$interface"
    ip route replace default via "$router" dev "$interface"
    ;;
esac
echo "$1 $ip/$mask via $router mtu $mtu from $serverid for $lease"
"""


@pytest.fixture(scope="module")
def lab(require_tools: Callable[..., None]) -> Iterator[Datacenter]:
    require_tools("udhcpc", "ping")
    plan = standard_plan(tenants=("red",), underlay=(4,))
    # What the guests are to learn is not given to them.
    vms = tuple(msgspec.structs.replace(vm, addresses=vm.addresses[1:], gateways=()) for vm in plan.vms)
    told = msgspec.structs.replace(plan, vms=vms)
    with Datacenter(told) as lab:
        lab.plan = plan
        nodes.start(lab)
        yield lab


def test_busybox_takes_address_router_and_mtu_from_the_record(lab: Datacenter, tmp_path: Path) -> None:
    guest, other = lab.vm("red-web1"), lab.vm("red-db2")

    said = [dhcp(vm, tmp_path) for vm in (guest, other)]

    assert "bound 10.0.1.5/24 via 10.0.1.1 mtu 1458 from 10.0.1.1 for 86400" in said[0]
    assert "bound 10.0.2.6/24 via 10.0.2.1 mtu 1458 from 10.0.2.1 for 86400" in said[1]
    assert link_mtu(guest) == CUSTOMER_MTU
    assert "2 received" in guest.run("ping", "-n", "-c", "2", "-i", "0.2", "10.0.2.6").stdout


def test_kernel_takes_router_and_mtu_from_the_advertisement(lab: Datacenter) -> None:
    guest, other = lab.vm("red-web1"), lab.vm("red-db2")

    for vm in (guest, other):
        vm.sysctl({f"net/ipv6/conf/{VM_INTERFACE}/{name}": value for name, value in ACCEPT.items()})
        vm.ip(f"link set {VM_INTERFACE} down", f"link set {VM_INTERFACE} up")
        wait_for_router(vm)

    assert routers(guest) == ["fe80::1"]
    assert ipv6_mtu(guest) == CUSTOMER_MTU
    addresses = json.loads(guest.run("ip", "-6", "-json", "address", "show", "dev", VM_INTERFACE).stdout)
    scopes = [(each["local"], each["scope"]) for each in addresses[0]["addr_info"]]
    assert ("fd00:1::5", "global") in scopes
    assert [scope for _, scope in scopes].count("global") == 1, "none of its own making"
    assert "2 received" in guest.run("ping", "-n", "-c", "2", "-i", "0.2", "fd00:2::6").stdout


ACCEPT = {"accept_ra": 1, "keep_addr_on_down": 1, "router_solicitation_delay": 0}


def dhcp(guest: Namespace, directory: Path) -> str:
    """Have BusyBox ask once, and return what its script was told."""
    script = directory / "configure"
    script.write_text(CONFIGURE)
    script.chmod(0o755)
    command = ("udhcpc", "-i", VM_INTERFACE, "-n", "-q", "-f", "-t", "5", "-T", "1", "-s", str(script))
    return guest.run(*command, "-O", "mtu").stdout


def link_mtu(guest: Namespace) -> int:
    links = json.loads(guest.run("ip", "-json", "link", "show", "dev", VM_INTERFACE).stdout)
    return int(links[0]["mtu"])


def ipv6_mtu(guest: Namespace) -> int:
    return int(guest.call(Path(f"/proc/sys/net/ipv6/conf/{VM_INTERFACE}/mtu").read_text))


def wait_for_router(guest: Namespace) -> None:
    deadline = time.monotonic() + 10
    while not routers(guest):
        assert time.monotonic() < deadline, "no router was advertised"
        time.sleep(0.05)


def routers(guest: Namespace) -> list[str]:
    routes = json.loads(guest.run("ip", "-6", "-json", "route", "show", "default").stdout)
    return [route["gateway"] for route in routes if route.get("protocol") == "ra"]
