"""RFC 6040, tunnelling of ECN: what the outer field becomes, and what it makes of the inner one."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from gateway.forwarding.drops import DropReason
from tests import networks as n

NOT_ECT, ECT_1, ECT_0, CE = 0b00, 0b01, 0b10, 0b11
NAMES = {NOT_ECT: "Not-ECT", ECT_0: "ECT(0)", ECT_1: "ECT(1)", CE: "CE"}

# Figure 4: inner, outer, and what is left of both; None is a drop.
FIGURE_4 = [
    (NOT_ECT, NOT_ECT, NOT_ECT), (NOT_ECT, ECT_0, NOT_ECT), (NOT_ECT, ECT_1, NOT_ECT), (NOT_ECT, CE, None),
    (ECT_0, NOT_ECT, ECT_0), (ECT_0, ECT_0, ECT_0), (ECT_0, ECT_1, ECT_1), (ECT_0, CE, CE),
    (ECT_1, NOT_ECT, ECT_1), (ECT_1, ECT_0, ECT_1), (ECT_1, ECT_1, ECT_1), (ECT_1, CE, CE),
    (CE, NOT_ECT, CE), (CE, ECT_0, CE), (CE, ECT_1, CE), (CE, CE, CE),
]  # fmt: skip

CASES = [
    pytest.param(inner, outer, left, id=f"{NAMES[inner]} in {NAMES[outer]}")
    for inner, outer, left in FIGURE_4
]


def marked(ecn: int, version: int, destination: tuple[str, int] = ("db", 5), dscp: int = 46) -> Packet:
    field = "tos" if version == 4 else "tc"
    return n.frame("red", ("web", 5), destination, version=version, **{field: dscp << 2 | ecn})


def class_of(frame: Packet) -> int:
    return int(frame[IP].tos if IP in frame else frame[IPv6].tc)


@pytest.mark.parametrize(("inner", "outer", "left"), CASES)
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("known", [False, True], ids=["new flow", "known flow"])
def test_section_4_2_fields_of_both_headers_are_combined(
    inner: int, outer: int, left: int | None, version: int, known: bool
) -> None:
    forwarder = n.gateway()
    if known:
        n.to_underlay(n.receive(forwarder, marked(inner, version)))

    verdict = n.receive(forwarder, marked(inner, version), ecn=outer)

    if left is None:
        assert n.dropped(verdict, DropReason.CONGESTION) == ()
        return
    emission, frame = n.to_underlay(verdict)
    assert class_of(frame) == 46 << 2 | left
    # Section 4.1: what goes on is marked outside as it is inside.
    assert emission.ecn == left
    if version == 4:
        rebuilt = frame.copy()
        del rebuilt[IP].chksum
        assert bytes(rebuilt) == bytes(frame)


@pytest.mark.parametrize(("inner", "outer", "left"), CASES)
def test_section_4_2_holds_where_a_host_delivers_to_a_port(inner: int, outer: int, left: int | None) -> None:
    verdict = n.receive(n.host("hv2"), marked(inner, 4, ("web", 6)), ecn=outer)

    if left is None:
        n.dropped(verdict, DropReason.CONGESTION)
    else:
        assert class_of(n.to_port(verdict)[1]) == 46 << 2 | left


@pytest.mark.parametrize("ecn", range(4))
@pytest.mark.parametrize("version", [4, 6])
def test_section_4_1_ingress_copies_the_field_and_leaves_the_inner_one(ecn: int, version: int) -> None:
    """Normal mode."""
    frame = marked(ecn, version, ("web", 6))

    emission, inner = n.to_underlay(n.send(n.host("hv1"), ("red", "web", 5), frame))

    assert emission.ecn == ecn
    assert bytes(inner) == bytes(frame)


def test_section_4_1_what_the_gateway_says_itself_is_not_ect() -> None:
    emission, _ = n.to_underlay(n.receive(n.gateway(), n.arp_request("red", ("web", 5), n.ca("web", 1))))

    assert emission.ecn == NOT_ECT


def test_arp_has_no_field_that_congestion_could_be_written_to() -> None:
    """It is answered even if the underlay marked it."""
    request = n.arp_request("red", ("web", 5), n.ca("web", 1))

    n.to_underlay(n.receive(n.gateway(), request, ecn=CE))
