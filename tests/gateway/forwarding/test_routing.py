"""Between virtual subnets of a tenant, and within one."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import IPv6

from tests import networks as n
from gateway.forwarding.drops import DropReason


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("pa_version", [4, 6])
def test_gateway_routes_between_subnets_in_every_mix_of_families(version: int, pa_version: int) -> None:
    forwarder = n.gateway(pa_version=pa_version)
    frame = n.frame("red", ("web", 5), ("db", 5), version=version)

    verdict = forwarder.from_underlay(
        n.from_host("hv1", version=pa_version), n.nvgre("red", "web", frame), now=0
    )

    emission, inner = n.to_underlay(verdict)
    assert emission.vsid == n.VSIDS["red", "db"]
    assert emission.source == n.pa("edge-1", pa_version)
    assert emission.destination == n.pa("hv2", pa_version)
    assert inner.dst == str(n.mac("red", "db", 5))
    assert inner.src == str(n.router_mac("red", "db"))
    expected = frame.copy()
    if version == 4:
        expected[IP].ttl -= 1
    else:
        expected[IPv6].hlim -= 1
    assert bytes(inner.payload) == bytes(expected.payload)


def test_expired_ttl_is_told_by_the_gateway_of_the_senders_subnet() -> None:
    forwarder = n.gateway()
    frame = n.frame("red", ("web", 5), ("db", 5), ttl=1)

    told = n.dropped(
        forwarder.from_underlay(n.from_host("hv1"), n.nvgre("red", "web", frame), now=0), DropReason.HOP_LIMIT
    )

    emission, inner = n.to_underlay(n.Answer(told))
    assert emission.destination == n.pa("hv1")
    assert (inner[IP].src, inner[IP].dst) == (n.ca("web", 1), n.ca("web", 5))
    assert (inner[ICMP].type, inner[ICMP].code) == (11, 0)
