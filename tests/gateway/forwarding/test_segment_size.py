"""The segment size of a TCP connection is kept within the path, both ways."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Packet

from gateway.forwarding.pipeline import Forwarder
from tests import networks as n

Option = tuple[str, int]

# The MTU of NVGRE over IPv4 at 1500, less TCP and IP without options.
LIMIT = {4: 1458 - 40, 6: 1458 - 60}


def syn(
    flags: str, mss: int, version: int, destination: tuple[str, int] = ("db", 5), *before: object
) -> Packet:
    options = (*before, ("MSS", mss), ("NOP", None), ("WScale", 7), ("SAckOK", b""))
    return n.frame(
        "red",
        ("web", 5),
        destination,
        version=version,
        upper=TCP(sport=1, dport=2, flags=flags, options=options),
    )


def announced(frame: Packet) -> list[int]:
    assert has_right_checksums(frame)
    return [value for name, value in frame[TCP].options if name == "MSS"]


def has_right_checksums(frame: Packet) -> bool:
    rebuilt = frame.copy()
    del rebuilt[TCP].chksum
    if IP in rebuilt:
        del rebuilt[IP].chksum
    return bytes(rebuilt) == bytes(frame)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("flags", ["S", "SA", "SEC"])
@pytest.mark.parametrize("destination", [("db", 5), ("web", 6)], ids=["routed", "switched"])
def test_syn_is_clamped_at_the_gateway(version: int, flags: str, destination: tuple[str, int]) -> None:
    frame = syn(flags, 1460, version, destination)

    _, inner = n.to_underlay(n.receive(n.gateway(), frame))

    assert announced(inner) == [LIMIT[version]]


@pytest.mark.parametrize(("pa_version", "mtu"), [(4, 1458), (6, 1438)])
def test_limit_follows_from_the_underlays_family(pa_version: int, mtu: int) -> None:
    frame = syn("S", 1460, 4)

    _, inner = n.to_underlay(n.receive(n.gateway(pa_version=pa_version), frame, version=pa_version))

    assert announced(inner) == [mtu - 40]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("flags", ["S", "SA"])
def test_syn_is_clamped_at_a_hosts_port_on_the_way_out_and_in(version: int, flags: str) -> None:
    frame = syn(flags, 1460, version, ("web", 6))

    emission, out = n.to_underlay(n.send(n.host("hv1"), ("red", "web", 5), frame))
    # Also from a host that does not clamp, such as Open vSwitch.
    _, into = n.to_port(n.receive(n.host("hv2"), frame))

    assert emission.destination == n.pa("hv2")
    assert announced(out) == announced(into) == [LIMIT[version]]


def learned(destination: str, mtu: int) -> Forwarder:
    forwarder = n.gateway()
    assert forwarder.path_mtu_reported(bytes(n.pa(destination)), 5001, mtu, 0)
    return forwarder


@pytest.mark.parametrize("narrow", ["hv1", "hv2"], ids=["way back", "way on"])
def test_narrower_of_both_ways_decides(narrow: str) -> None:
    _, inner = n.to_underlay(n.receive(learned(narrow, 1300), syn("S", 1460, 4)))

    assert announced(inner) == [1300 - 42 - 40]


@pytest.mark.parametrize("mss", [LIMIT[4], 1200, 536, 1])
def test_smaller_segment_size_is_never_raised(mss: int) -> None:
    frame = syn("S", mss, 4, ("web", 6))

    _, inner = n.to_underlay(n.receive(n.gateway(), frame))

    assert bytes(inner) == bytes(frame)


@pytest.mark.parametrize(
    "segment",
    [
        pytest.param(TCP(flags="A", options=[("MSS", 1460)]), id="not a SYN"),
        pytest.param(TCP(flags="S"), id="SYN without options"),
        pytest.param(TCP(flags="S", options=[("EOL", None), ("MSS", 1460)]), id="behind the end of options"),
        pytest.param(TCP(flags="S", options=[("Timestamp", (1, 2))]), id="other options"),
    ],
)
def test_other_segments_are_not_touched(segment: Packet) -> None:
    frame = n.frame("red", ("web", 5), ("web", 6), upper=segment)

    _, inner = n.to_underlay(n.receive(n.gateway(), frame))

    assert bytes(inner) == bytes(frame)


def test_option_at_an_odd_place_keeps_the_checksum_right() -> None:
    frame = syn("S", 1460, 4, ("db", 5), ("NOP", None))

    _, inner = n.to_underlay(n.receive(n.gateway(), frame))

    assert announced(inner) == [LIMIT[4]]


def test_wrong_checksum_stays_wrong() -> None:
    frame = syn("S", 1460, 4, ("web", 6))
    frame[TCP].chksum = 0x1234

    _, inner = n.to_underlay(n.receive(n.gateway(), frame))

    assert [value for name, value in inner[TCP].options if name == "MSS"] == [LIMIT[4]]
    assert not has_right_checksums(inner)


def test_two_vms_of_one_host_keep_what_they_offer() -> None:
    frame = syn("S", 1460, 4, ("db", 6))

    _, inner = n.to_port(n.send(n.host("hv1"), ("red", "web", 5), frame))

    assert announced(inner) == [1460]


def test_syn_with_ipv6_extension_headers_is_clamped() -> None:
    frame = syn("S", 1460, 6)
    segment = frame[TCP].copy()
    frame[IPv6].remove_payload()
    frame = frame / IPv6ExtHdrDestOpt() / segment
    frame[IPv6].nh = 60

    _, inner = n.to_underlay(n.receive(n.gateway(), frame))

    assert [value for name, value in inner[TCP].options if name == "MSS"] == [LIMIT[6]]
