"""RFC 4443, ICMPv6: the gateway's errors and echo replies."""

from __future__ import annotations

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
)
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from gateway.forwarding.notices import BURST
from gateway.forwarding.verdicts import Answer, Drop
from gateway.packets.checksum import transport_checksum
from policies.addresses import CustomerAddress
from tests import networks as n

QUOTE = IPv6(src=n.ca("db", 5, 6), dst=n.ca("web", 5, 6)) / UDP()


def routed(upper: Packet | None = None, destination: str | None = None, **fields: object) -> Packet:
    frame = n.frame("red", ("web", 5), ("db", 5), version=6, upper=upper, **fields)
    if destination is not None:
        frame[IPv6].dst = destination
    return frame


def told(frame: Packet, reason: DropReason) -> tuple[bytes, Packet]:
    """The error's IP packet, as octets and as scapy reads it."""
    emission, inner = n.to_underlay(Answer(n.dropped(n.receive(n.gateway(), frame), reason)))
    return emission.payload[8 + 14 :], inner


def nobody_told(frame: Packet, reason: DropReason) -> None:
    assert n.dropped(n.receive(n.gateway(), frame), reason) == ()


@pytest.mark.parametrize(
    ("frame", "reason", "source"),
    [
        pytest.param(
            routed(UDP(), n.ca("db", 1, 6)), DropReason.TO_GATEWAY, n.ca("db", 1, 6), id="(a) asked"
        ),
        pytest.param(routed(UDP(), "fe80::1"), DropReason.TO_GATEWAY, "fe80::1", id="(a) link-local"),
        pytest.param(routed(hlim=1), DropReason.HOP_LIMIT, n.ca("web", 1, 6), id="(b) of the sender's link"),
    ],
)
def test_section_2_2_source_address(frame: Packet, reason: DropReason, source: str) -> None:
    _, error = told(frame, reason)

    assert (error[IPv6].src, error[IPv6].dst) == (source, n.ca("web", 5, 6))


def test_section_2_3_checksum_covers_the_pseudo_header() -> None:
    octets, error = told(routed(hlim=1), DropReason.HOP_LIMIT)

    source, destination = (bytes(CustomerAddress.parse(error[IPv6].fields[name])) for name in ("src", "dst"))
    assert transport_checksum(source, destination, 58, octets[40:]) == 0


@pytest.mark.parametrize("size", [0, 500, 1184, 1185, 1300])
def test_section_2_4_c_error_quotes_as_much_as_1280_octets_hold(size: int) -> None:
    frame = routed(UDP() / Raw(bytes(size)), hlim=1)

    octets, _ = told(frame, DropReason.HOP_LIMIT)

    assert len(octets) == min(1280, 48 + 48 + size)
    assert octets[48:] == bytes(frame[IPv6])[: 1280 - 48]


@pytest.mark.parametrize(
    "message",
    [ICMPv6DestUnreach(), ICMPv6PacketTooBig(mtu=1280), ICMPv6TimeExceeded(), ICMPv6ParamProblem()],
)
def test_section_2_4_e_1_no_error_about_an_error(message: Packet) -> None:
    nobody_told(routed(message / QUOTE, hlim=1), DropReason.HOP_LIMIT)


def test_section_2_4_e_1_no_error_about_an_error_of_an_unknown_type() -> None:
    unknown = routed(Raw(bytes((100, 0, 0, 0)) + bytes(44)), nh=58, hlim=1)

    nobody_told(unknown, DropReason.HOP_LIMIT)


@pytest.mark.parametrize("destination", ["ff02::1", "ff05::2", "ff0e::101"])
def test_section_2_4_e_3_no_error_about_a_packet_to_a_group(destination: str) -> None:
    nobody_told(routed(destination=destination, hlim=1), DropReason.NO_ROUTE)


def test_section_2_4_e_4_no_error_about_a_frame_to_a_group() -> None:
    """We make no exception for packet too big (section 2.4 (e.3) would allow one)."""
    net = n.network(n.tenant("red", broadcast=True))
    frame = routed(UDP() / Raw(bytes(1452)))
    frame.dst = "33:33:00:00:00:01"

    assert n.dropped(n.receive(n.gateway(net), frame), DropReason.TOO_BIG) == ()


@pytest.mark.parametrize("source", ["::", "ff02::1", "::1"])
def test_section_2_4_e_6_no_error_to_what_is_no_single_node(source: str) -> None:
    frame = routed(hlim=1)
    frame[IPv6].src = source

    nobody_told(frame, DropReason.SPOOFED_SOURCE)


def test_section_2_4_f_rate_of_errors_is_limited() -> None:
    forwarder = n.gateway()
    verdicts = [n.receive(forwarder, routed(hlim=1)) for _ in range(int(BURST) + 50)]

    assert sum(len(verdict.emissions) for verdict in verdicts if isinstance(verdict, Drop)) == BURST


@pytest.mark.parametrize(
    ("frame", "reason", "code"),
    [
        pytest.param(routed(destination="2001:db8::99"), DropReason.NO_ROUTE, 0, id="no route"),
        pytest.param(routed(destination="fd00:2::99"), DropReason.NO_RECORD, 3, id="address unreachable"),
        pytest.param(routed(UDP(), n.ca("web", 1, 6)), DropReason.TO_GATEWAY, 4, id="port unreachable"),
    ],
)
def test_section_3_1_code_says_why_the_destination_is_unreachable(
    frame: Packet, reason: DropReason, code: int
) -> None:
    _, error = told(frame, reason)

    assert (error[ICMPv6DestUnreach].type, error[ICMPv6DestUnreach].code) == (1, code)


@pytest.mark.parametrize(("pa_version", "mtu"), [(4, 1458), (6, 1438)])
def test_section_3_2_packet_too_big_has_the_mtu_of_the_next_hop(pa_version: int, mtu: int) -> None:
    frame = routed(UDP() / Raw(bytes(1452)))

    verdict = n.receive(n.gateway(pa_version=pa_version), frame, version=pa_version)

    _, error = n.to_underlay(Answer(n.dropped(verdict, DropReason.TOO_BIG)))
    assert (error[ICMPv6PacketTooBig].code, error[ICMPv6PacketTooBig].mtu) == (0, mtu)


@pytest.mark.parametrize("hop_limit", [0, 1])
def test_section_3_3_hop_limit_that_ends_is_told_of_with_code_0(hop_limit: int) -> None:
    _, error = told(routed(hlim=hop_limit), DropReason.HOP_LIMIT)

    assert (error[ICMPv6TimeExceeded].type, error[ICMPv6TimeExceeded].code) == (3, 0)


@pytest.mark.parametrize("address", [n.ca("web", 1, 6), n.ca("db", 1, 6), "fe80::1"])
def test_section_4_2_echo_is_answered_from_the_address_that_was_asked_with_all_its_data(address: str) -> None:
    data = bytes(range(256)) * 4

    verdict = n.receive(n.gateway(), routed(ICMPv6EchoRequest(id=1, seq=2, data=data), address))

    _, reply = n.to_underlay(verdict)
    assert (reply[IPv6].src, reply[IPv6].dst) == (address, n.ca("web", 5, 6))
    echo = reply[ICMPv6EchoReply]
    assert (echo.id, echo.seq, echo.data) == (1, 2, data)
