"""Within a virtual subnet: nothing of the packet changes."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6

from gateway.forwarding.directory import Delete
from gateway.forwarding.drops import DropReason
from policies.addresses import CustomerAddress, Vsid
from tests import networks as n

WEB = Vsid(n.VSIDS["red", "web"])


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("pa_version", [4, 6])
@pytest.mark.parametrize("hop_limit", [64, 1])
def test_switched_frame_arrives_as_it_was(version: int, pa_version: int, hop_limit: int) -> None:
    field = "ttl" if version == 4 else "hlim"
    frame = n.frame("red", ("web", 5), ("web", 6), version=version, **{field: hop_limit})

    emission, inner = n.to_underlay(n.receive(n.gateway(pa_version=pa_version), frame, version=pa_version))

    assert (emission.vsid, emission.destination) == (WEB, n.pa("hv2", pa_version))
    assert bytes(inner) == bytes(frame)


@pytest.mark.parametrize("target", ["02:00:00:00:00:99", "02:00:00:01:00:06"])
def test_mac_that_nobody_in_the_subnet_has_is_unknown(target: str) -> None:
    """Also that of Blue's VM with the same address: MACs are looked up in the VSID."""
    frame = n.frame("red", ("web", 5), ("web", 6))
    frame.dst = target

    assert n.dropped(n.receive(n.gateway(), frame), DropReason.UNKNOWN_MAC) == ()


def test_routers_mac_of_another_subnet_is_unknown() -> None:
    frame = n.frame("red", ("web", 5), ("db", 5))
    frame.dst = str(n.router_mac("red", "db"))

    assert n.dropped(n.receive(n.gateway(), frame), DropReason.UNKNOWN_MAC) == ()


def test_frame_goes_where_its_mac_is_even_if_its_destination_address_is_elsewhere() -> None:
    """For instance to a VM that routes."""
    frame = n.frame("red", ("web", 5), ("web", 6))
    frame[IP].dst = "8.8.8.8"

    emission, inner = n.to_underlay(n.receive(n.gateway(), frame))

    assert emission.destination == n.pa("hv2")
    assert bytes(inner) == bytes(frame)


def test_mac_decides_between_two_vms_where_the_address_belongs_to_the_other() -> None:
    frame = n.frame("red", ("web", 5), ("web", 6))
    frame[IP].dst = n.ca("web", 5)

    emission, _ = n.to_underlay(n.receive(n.gateway(), frame))

    assert emission.destination == n.pa("hv2")


def test_vm_with_one_record_left_is_still_found_by_its_mac() -> None:
    forwarder = n.gateway()
    forwarder.directory.apply(Delete(WEB, CustomerAddress.parse(n.ca("web", 6))))

    emission, _ = n.to_underlay(n.receive(forwarder, n.frame("red", ("web", 5), ("web", 6))))

    assert emission.destination == n.pa("hv2")


@pytest.mark.parametrize("version", [4, 6])
def test_gateway_mac_with_a_destination_in_the_same_subnet_is_routed(version: int) -> None:
    """A VM with a host route does so; it counts as a hop."""
    frame = n.frame("red", ("web", 5), ("web", 6), version=version)
    frame.dst = str(n.router_mac("red", "web"))

    emission, inner = n.to_underlay(n.receive(n.gateway(), frame))

    assert emission.vsid == WEB
    assert (inner.src, inner.dst) == (str(n.router_mac("red", "web")), str(n.mac("red", "web", 6)))
    assert (inner[IP].ttl if version == 4 else inner[IPv6].hlim) == 63
