from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from gateway.sites.listing import lines
from gateway.sites.status import ChildStatus, Moment
from tests.gateway.sites.samples import site_status

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
CHILD = ChildStatus(
    name="all",
    suite="aes256gcm16-esn",
    inbound_spi="c0000001",
    outbound_spi="c0000002",
    local=["10.0.1.0/24"],
    remote=["172.16.0.0/16"],
    in_udp=False,
    mtu=1446,
)
UP = site_status(
    since=NOON,
    path="192.0.2.254:500 to 203.0.113.7:500",
    ike_suite="aes256gcm16-prfsha384-x25519",
    children=[CHILD],
    sent_packets=1234567,
    sent_octets=987654321,
    received_packets=1,
    received_octets=999,
    child_rekeys=2,
)
DOWN = msgspec.structs.replace(
    UP,
    tenant="blue",
    state="down",
    path=None,
    ike_suite=None,
    children=[],
    sent_packets=0,
    received_packets=0,
    failures=7,
    retry_in=12.4,
    last_error=Moment(NOON - 1, "trouble", "the peer accepted none of our proposals"),
)


def test_site_that_is_up_says_since_when_and_how() -> None:
    assert list(lines([UP], NOON + 7500)) == [
        "red/seattle: up since 2026-11-22 12:00:00 UTC (2 h 5 min)",
        "  peer        192.0.2.254:500 to 203.0.113.7:500; we are edge-1.example, it is seattle.example",
        "  prefixes    172.16.0.0/16",
        "  ike         aes256gcm16-prfsha384-x25519, rekeyed never",
        "  child       all: aes256gcm16-esn ESP, MTU 1446, 10.0.1.0/24 === 172.16.0.0/16",
        "              rekeyed 2 times",
        "  sent        1,234,567 packets, 987.7 MB",
        "  received    1 packets, 999 B",
    ]


def test_site_that_is_down_says_why_and_when_it_is_tried_again() -> None:
    assert list(lines([DOWN], NOON + 59)) == [
        "blue/seattle: DOWN since 2026-11-22 12:00:00 UTC (59 s), 7 failed attempts, tries again in 12 s",
        "  peer        203.0.113.7; we are edge-1.example, it is seattle.example",
        "  prefixes    172.16.0.0/16",
        "  last error  2026-11-22 11:59:59 UTC: the peer accepted none of our proposals",
    ]


@pytest.mark.parametrize(
    ("state", "start", "words"),
    [
        ("waiting", "trap", "waits for the first packet"),
        ("waiting", "respond", "waits for the peer to dial"),
        ("connecting", "start", "connecting"),
    ],
)
def test_site_that_is_not_up_says_what_it_waits_for(state: str, start: str, words: str) -> None:
    site = msgspec.structs.replace(DOWN, state=state, start=start, retry_in=None, failures=0)
    first, *_ = lines([site], NOON)

    assert first == f"blue/seattle: DOWN since 2026-11-22 12:00:00 UTC (0 s), {words}"


def test_sites_are_ordered_with_a_line_between_them() -> None:
    said = list(lines([UP, DOWN], NOON))

    assert said[0].startswith("blue/")
    assert said.count("") == 1


def test_no_sites_are_said_to_be_none() -> None:
    assert list(lines([], NOON)) == ["this appliance dials no sites"]


@pytest.mark.parametrize(
    ("octets", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (4 * 10**18, "4000.0 PB")],
)
def test_octets_are_told_in_the_unit_that_keeps_them_short(octets: int, words: str) -> None:
    (sent,) = (
        line
        for line in lines([msgspec.structs.replace(UP, sent_octets=octets)], NOON)
        if line.startswith("  sent")
    )
    assert sent.endswith(f", {words}")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (90000, "1 d 1 h"), (-5, "0 s")],
)
def test_durations_are_told_in_two_units(seconds: float, words: str) -> None:
    assert f"({words})" in next(lines([UP], NOON + seconds))
