"""RFC 1812, requirements for IPv4 routers: the ICMP errors of the gateway, and what it must not forward."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, UDP, IPOption_NOP
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from gateway.forwarding.notices import BURST, RATE
from gateway.forwarding.verdicts import Answer, Drop
from tests import networks as n


def routed(upper: Packet | None = None, destination: str | None = None, **fields: object) -> Packet:
    frame = n.frame("red", ("web", 5), ("db", 5), version=4, upper=upper, **fields)
    if destination is not None:
        frame[IP].dst = destination
    return frame


def told(frame: Packet, reason: DropReason) -> Packet:
    return n.to_underlay(Answer(n.dropped(n.receive(n.gateway(), frame), reason)))[1]


def nobody_told(frame: Packet, reason: DropReason) -> None:
    assert n.dropped(n.receive(n.gateway(), frame), reason) == ()


@pytest.mark.parametrize("size", [0, 100, 519, 520, 521, 1400])
def test_section_4_3_2_3_error_quotes_as_much_as_576_octets_hold(size: int) -> None:
    error = told(routed(UDP() / Raw(bytes(size)), ttl=1), DropReason.HOP_LIMIT)

    assert error[IP].len == min(576, 28 + 28 + size)


def test_section_4_3_2_3_quoted_packet_is_as_it_was_received() -> None:
    """With the TTL that it had, and its options."""
    frame = routed(ttl=1, options=[IPOption_NOP()] * 4)
    verdict = n.receive(n.gateway(), frame)

    emission, _ = n.to_underlay(Answer(n.dropped(verdict, DropReason.HOP_LIMIT)))

    assert emission.payload[8 + 14 + 28 :] == bytes(frame[IP])


def test_section_4_3_2_4_source_is_the_routers_address_where_the_packet_came_in() -> None:
    assert told(routed(ttl=1), DropReason.HOP_LIMIT)[IP].src == n.ca("web", 1)


def test_section_4_3_2_5_precedence_is_internetwork_control() -> None:
    assert told(routed(ttl=1, tos=0x28), DropReason.HOP_LIMIT)[IP].tos == 6 << 5


def test_section_4_3_2_6_options_are_not_repeated() -> None:
    assert told(routed(ttl=1, options=[IPOption_NOP()] * 4), DropReason.HOP_LIMIT)[IP].ihl == 5


@pytest.mark.parametrize("icmp_type", [3, 4, 5, 11, 12])
def test_section_4_3_2_7_no_error_about_an_error(icmp_type: int) -> None:
    quoted = IP(src=n.ca("db", 5), dst=n.ca("web", 5)) / UDP()

    nobody_told(routed(ICMP(type=icmp_type) / quoted, ttl=1), DropReason.HOP_LIMIT)


@pytest.mark.parametrize("icmp_type", [0, 8, 13, 14])
def test_section_4_3_2_7_errors_about_other_messages_are_sent(icmp_type: int) -> None:
    told(routed(ICMP(type=icmp_type), ttl=1), DropReason.HOP_LIMIT)


@pytest.mark.parametrize("destination", ["224.0.0.5", "239.1.2.3", "255.255.255.255"])
def test_section_4_3_2_7_no_error_about_a_packet_to_a_group(destination: str) -> None:
    nobody_told(routed(destination=destination, ttl=1), DropReason.NO_ROUTE)


def test_section_4_3_2_7_no_error_about_a_frame_to_everybody() -> None:
    net = n.network(n.tenant("red", broadcast=True))
    frame = routed(UDP() / Raw(bytes(1472)), flags="DF")
    frame.dst = n.BROADCAST

    assert n.dropped(n.receive(n.gateway(net), frame), DropReason.TOO_BIG) == ()


def test_section_4_3_2_7_no_error_about_a_later_fragment() -> None:
    nobody_told(routed(Raw(bytes(16)), frag=9, proto=17, ttl=1), DropReason.HOP_LIMIT)


@pytest.mark.parametrize("source", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1"])
def test_section_4_3_2_7_no_error_to_what_is_no_single_host(source: str) -> None:
    frame = routed(ttl=1)
    frame[IP].src = source

    nobody_told(frame, DropReason.SPOOFED_SOURCE)


def test_section_4_3_2_8_rate_of_errors_is_limited() -> None:
    forwarder = n.gateway()
    verdicts = [n.receive(forwarder, routed(ttl=1), now=0) for _ in range(int(BURST) + 50)]
    later = [n.receive(forwarder, routed(ttl=1), now=1) for _ in range(int(RATE) + 50)]

    assert sum(len(verdict.emissions) for verdict in verdicts if isinstance(verdict, Drop)) == BURST
    assert sum(len(verdict.emissions) for verdict in later if isinstance(verdict, Drop)) == RATE


@pytest.mark.parametrize(
    ("frame", "reason", "code"),
    [
        pytest.param(routed(destination="192.168.7.7"), DropReason.NO_ROUTE, 0, id="no route: network"),
        pytest.param(routed(destination="10.0.2.99"), DropReason.NO_RECORD, 1, id="no neighbour: host"),
        pytest.param(routed(UDP(), n.ca("web", 1)), DropReason.TO_GATEWAY, 3, id="no such port"),
        pytest.param(routed(UDP() / Raw(bytes(1472)), flags="DF"), DropReason.TOO_BIG, 4, id="too big"),
    ],
)
def test_section_5_2_7_1_code_says_why_the_destination_is_unreachable(
    frame: Packet, reason: DropReason, code: int
) -> None:
    error = told(frame, reason)

    assert (error[ICMP].type, error[ICMP].code) == (3, code)


@pytest.mark.parametrize("ttl", [2, 64, 255])
def test_section_5_3_1_ttl_is_lowered_by_one(ttl: int) -> None:
    _, inner = n.to_underlay(n.receive(n.gateway(), routed(ttl=ttl)))

    assert inner[IP].ttl == ttl - 1


@pytest.mark.parametrize("ttl", [0, 1])
def test_section_5_3_1_packet_whose_ttl_ends_is_not_forwarded(ttl: int) -> None:
    error = told(routed(ttl=ttl), DropReason.HOP_LIMIT)

    assert (error[ICMP].type, error[ICMP].code) == (11, 0)


@pytest.mark.parametrize("ttl", [0, 1])
def test_section_5_3_1_ttl_does_not_matter_to_a_packet_for_the_router(ttl: int) -> None:
    _, reply = n.to_underlay(n.receive(n.gateway(), routed(ICMP(type=8), n.ca("web", 1), ttl=ttl)))

    assert reply[ICMP].type == 0


@pytest.mark.parametrize("source", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_section_5_3_7_martian_source_is_not_forwarded(source: str) -> None:
    frame = routed()
    frame[IP].src = source

    nobody_told(frame, DropReason.SPOOFED_SOURCE)
    n.dropped(n.send(n.host("hv1"), ("red", "web", 5), frame), DropReason.SPOOFED_SOURCE)


def test_section_5_3_8_source_that_is_not_behind_where_it_came_from_is_not_forwarded() -> None:
    frame = routed()
    frame[IP].src = "172.16.0.5"
    net = n.network(n.tenant("red", sites=(n.site("seattle", "172.16.0.0/16"),)))

    n.dropped(n.receive(n.gateway(net), frame), DropReason.SPOOFED_SOURCE)


def test_section_4_3_3_6_echo_is_answered_from_the_address_that_was_asked_with_all_its_data() -> None:
    data = bytes(range(256)) * 4
    _, reply = n.to_underlay(
        n.receive(n.gateway(), routed(ICMP(type=8, id=1, seq=2) / Raw(data), n.ca("db", 1)))
    )

    assert (reply[IP].src, reply[IP].dst) == (n.ca("db", 1), n.ca("web", 5))
    assert (reply[ICMP].id, reply[ICMP].seq, bytes(reply[ICMP].payload)) == (1, 2, data)
