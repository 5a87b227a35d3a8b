"""Cases of whom a packet is for: records, routes, and what stands in their place."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from scapy.packet import Packet

from gateway.forwarding.drops import DropReason
from policies.addresses import CustomerAddress, ProviderAddress
from policies.model import Port, Translation
from tests.fastpath.cases_carried import (
    DB,
    OTHER_DB,
    OTHER_WEB,
    ROUTED,
    ROUTED_V6,
    SWITCHED,
    SWITCHED_V6,
    WEB,
    with_macs,
)
from tests.fastpath.cases_sources import coming_from
from tests.fastpath.outcomes import Case, Dropped, Forwarded, GoesOn, Passed, Told, Why, World
from tests.fastpath.scenes import WORLD, pa, record, vsid, world
from tests.fastpath.ways import AT_SITES, DEFAULT, FIREWALL, firewall_without, via
from tests.fastpath.wire import arriving, forwarded, routed, with_ip
from tests.networks import frame, mac, router_mac

_SPOOFED = Dropped(DropReason.SPOOFED_SOURCE)
_GOES_ON = forwarded(routed(ROUTED))


def _destinations() -> Iterator[Case]:
    for words, sent, python in (
        ("another subnet", with_ip(ROUTED, dst="10.0.2.77"), Told(DropReason.NO_RECORD)),
        ("another subnet, in IPv6", with_ip(ROUTED_V6, dst="fd00:2::77"), Told(DropReason.NO_RECORD)),
        ("its own subnet", with_ip(ROUTED, dst="10.0.1.77"), Told(DropReason.NO_RECORD)),
        ("no subnet", with_ip(ROUTED, dst="8.8.8.8"), Told(DropReason.NO_ROUTE)),
        ("no subnet, in IPv6", with_ip(ROUTED_V6, dst="2001:db8:ffff::1"), Told(DropReason.NO_ROUTE)),
        ("loopback", with_ip(ROUTED, dst="127.0.0.1"), Told(DropReason.NO_ROUTE)),
    ):
        yield _misses(f"to nobody in {words}", sent, python)
    yield _misses(
        "to an address that another tenant alone has",
        ROUTED,
        Told(DropReason.NO_RECORD),
        world(without=("10.0.2.5",)),
    )
    for words, replaced, reason in (
        ("is a host's that may not hold the tenant", record("db", 5, "hv3"), DropReason.NO_RECORD),
        (
            "is nobody's",
            record("db", 5, "hv9", address=ProviderAddress.parse("203.0.113.200")),
            DropReason.NO_RECORD,
        ),
        ("is a gateway's", record("db", 5, "edge-2", address=pa("edge-2")), DropReason.NO_RECORD),
        ("is our own", record("db", 5, "edge-1", address=pa("edge-1")), DropReason.LOOP),
    ):
        why = Why.HERE if words == "is our own" else Why.DESTINATION
        at = world(more=(replaced,))
        yield Case(
            f"to a VM whose provider address {words}", arriving(ROUTED), Passed(why, Dropped(reason)), at
        )
    alone = world(more=(record("db", 5, "hv2", pa_version=6),), provider_addresses=(pa("edge-1"),))
    yield _misses(
        "to a VM whose provider address is of a family that we have none of",
        ROUTED,
        Dropped(DropReason.NO_PROVIDER_ADDRESS),
        alone,
    )
    rewritten = msgspec.structs.replace(record("db", 5, "hv2"), translation=Translation.REWRITE)
    yield Case(
        "to a VM that is rewritten",
        arriving(ROUTED),
        Passed(Why.REWRITTEN, Dropped(DropReason.NO_RECORD)),
        world(more=(rewritten,)),
    )
    yield _misses(
        "to a VM whose record names another host than its address is of",
        ROUTED,
        _GOES_ON,
        world(more=(msgspec.structs.replace(record("db", 5, "hv2"), host="hv1"),)),
    )
    moved = world(more=(record("db", 5, "hv4"),))
    yield Case(
        "to a VM that has moved",
        arriving(ROUTED),
        forwarded(routed(ROUTED), to="hv4", flow_id=0),
        moved,
    )
    port = Port(
        interface="vnet0",
        tenant="red",
        vsid=vsid("red", "db"),
        mac=mac("red", *DB),
        addresses=(CustomerAddress.parse("10.0.2.5"),),
    )
    here = world(more=(record("db", 5, "edge-1", address=pa("edge-1")),), ports=(port,), host="edge-1")
    yield Case("to a VM at a port of this very node", arriving(ROUTED), Passed(Why.HERE, GoesOn()), here)
    arrived = world(ports=(port,), host="edge-1")
    yield Case(
        "to a VM that has a port here, and its record elsewhere yet",
        arriving(ROUTED),
        Passed(Why.HERE, _GOES_ON),
        arrived,
    )
    misplaced = world(more=(record("web", 7, "hv2", ca="10.0.2.77"), record("web", 8, "hv1", ca="10.0.2.5")))
    sent = with_ip(ROUTED, dst="10.0.2.77")
    yield _misses(
        "to an address that has a record in another subnet than its route leads to",
        sent,
        Told(DropReason.NO_RECORD),
        misplaced,
    )
    yield Case(
        "to an address that has one record where it belongs, and another elsewhere",
        arriving(ROUTED),
        _GOES_ON,
        misplaced,
    )
    sent = with_ip(ROUTED, src="10.0.2.77")
    yield coming_from(
        "from an address that has a record in another subnet than its route leads to",
        sent,
        forwarded(routed(sent), sent="db"),
        misplaced,
        sender="hv2",
    )
    usurped = world(more=(record("web", 7, "hv1", ca="10.0.1.1"),))
    yield Case(
        "to the gateway, whose address has a record besides",
        arriving(with_ip(ROUTED, dst="10.0.1.1")),
        Passed(Why.TO_GATEWAY, Told(DropReason.TO_GATEWAY)),
        usurped,
    )
    yield coming_from(
        "from the gateway's address, which has a record besides",
        with_ip(ROUTED, src="10.0.1.1"),
        _SPOOFED,
        usurped,
    )
    second = record("db", 5, "hv2", ca="10.0.2.55")
    sent = with_ip(ROUTED, dst="10.0.2.55")
    yield Case(
        "to the second address of a VM", arriving(sent), forwarded(routed(sent)), world(more=(second,))
    )


def _destinations_behind_vms() -> Iterator[Case]:
    for words, sent, at in (
        ("in IPv4", with_ip(ROUTED, dst="198.18.0.5"), FIREWALL),
        ("in IPv6", with_ip(ROUTED_V6, dst="fd77::5"), FIREWALL),
        ("by a default route in IPv4", with_ip(ROUTED, dst="8.8.8.8"), DEFAULT),
        ("by a default route in IPv6", with_ip(ROUTED_V6, dst="2001:db8:ffff::1"), DEFAULT),
    ):
        going = forwarded(routed(sent, to=OTHER_DB), to="hv1")
        yield Case(f"to what is behind a VM {words}", arriving(sent), going, at)
    for words, sent in (
        ("a VM", ROUTED),
        ("nobody in a subnet", with_ip(ROUTED, dst="10.0.2.77")),
    ):
        python = forwarded(routed(sent)) if words == "a VM" else Told(DropReason.NO_RECORD)
        expected = python if words == "a VM" else Passed(Why.DESTINATION, python)
        assert isinstance(expected, Forwarded | Passed)
        yield Case(f"to {words}, where a default route leads by another", arriving(sent), expected, DEFAULT)
    nobodys = via(("240.0.0.0/8", "10.0.2.6"), ("224.0.0.0/3", "10.0.2.6"))
    for words, destination, at in (
        ("127.0.0.1 by a default route", "127.0.0.1", DEFAULT),
        ("240.0.0.1 by a route of its own", "240.0.0.1", nobodys),
    ):
        sent = with_ip(ROUTED, dst=destination)
        going = forwarded(routed(sent, to=OTHER_DB), to="hv1")
        yield _misses(f"to what is behind a VM, and should have no packets: {words}", sent, going, at)
    for destination in ("224.0.0.5", "255.255.255.255"):
        sent = with_ip(ROUTED, dst=destination)
        yield _misses(
            f"to {destination}, which a route of its own leads by a VM",
            sent,
            Dropped(DropReason.NO_ROUTE),
            nobodys,
        )
    sent = with_ip(with_macs(ROUTED, router_mac("red", "web"), mac("red", *OTHER_DB)), src="240.0.0.1")
    yield coming_from(
        "from 240.0.0.1, though a route of its own leads by the sender", sent, _SPOOFED, nobodys
    )
    over = via(("10.0.2.5/32", "10.0.2.6"))
    yield Case(
        "to a VM whose own address a route leads through another VM",
        arriving(ROUTED),
        forwarded(routed(ROUTED, to=OTHER_DB), to="hv1"),
        over,
    )
    sent = frame("red", ("db", 6), DB)
    yield Case(
        "switched to a VM whose own address a route leads through another VM",
        arriving(sent, subnet="db"),
        Passed(Why.DESTINATION, forwarded(sent, sent="db", ttl=63)),
        over,
    )
    yield _misses(
        "to what is behind a VM that has no record",
        with_ip(ROUTED, dst="198.18.0.5"),
        Told(DropReason.NO_RECORD),
        firewall_without("10.0.2.6"),
    )
    yield _misses(
        "to what is behind a VM that is itself behind another",
        with_ip(ROUTED, dst="198.18.0.5"),
        Told(DropReason.NO_ROUTE),
        via(("198.18.0.0/15", "198.19.0.1"), ("198.19.0.0/16", "10.0.2.6")),
    )
    sent = with_macs(
        with_ip(frame("red", WEB, OTHER_WEB), dst="198.18.0.5"), mac("red", *OTHER_WEB), mac("red", *WEB)
    )
    yield Case(
        "switched to a VM's MAC, for what is behind it: no record of that address says so",
        arriving(sent),
        Passed(Why.UNKNOWN_MAC, forwarded(sent, subnet="web", ttl=63)),
        FIREWALL,
    )


def _macs() -> Iterator[Case]:
    for words, destination in (
        ("nobody has", b"\x02\x77\0\0\0\x01"),
        ("a VM in another subnet has", mac("red", *DB)),
        ("a VM of another tenant has", mac("blue", *OTHER_WEB)),
        ("the gateway has in another subnet", router_mac("red", "db")),
        ("the gateway has for another tenant", router_mac("blue", "web")),
        ("is almost the gateway's", router_mac("red", "web")[:5] + b"\x88"),
        ("is all zeros", bytes(6)),
    ):
        for name, sent in (("IPv4", SWITCHED), ("IPv6", SWITCHED_V6)):
            yield Case(
                f"{name} switched to a MAC that {words}",
                arriving(with_macs(sent, destination, mac("red", *WEB))),
                Passed(Why.UNKNOWN_MAC, Dropped(DropReason.UNKNOWN_MAC)),
                WORLD,
            )
    own = with_macs(SWITCHED, mac("red", *WEB), mac("red", *WEB))
    yield Case(
        "switched to the MAC of another VM than its address is of: the MAC decides",
        arriving(own),
        Passed(Why.UNKNOWN_MAC, forwarded(own, to="hv1", subnet="web", ttl=63)),
        WORLD,
    )
    strange = with_ip(SWITCHED, dst="10.0.1.77")
    yield Case(
        "switched to a VM's MAC, and an address in its subnet that nobody has",
        arriving(strange),
        Passed(Why.UNKNOWN_MAC, forwarded(strange, subnet="web", ttl=63)),
        WORLD,
    )
    sent = frame("red", WEB, DB)
    sent = with_macs(sent, mac("red", *DB), mac("red", *WEB))
    yield Case(
        "switched to the MAC of a VM in another subnet, with its address",
        arriving(sent),
        Passed(Why.UNKNOWN_MAC, Dropped(DropReason.UNKNOWN_MAC)),
        WORLD,
    )


def _sites() -> Iterator[Case]:
    for words, sent, python in (
        ("in IPv4", with_ip(ROUTED, dst="172.16.0.5"), Told(DropReason.SITE_DOWN)),
        ("in IPv6", with_ip(ROUTED_V6, dst="fd99::5"), Told(DropReason.SITE_DOWN)),
        ("that another gateway dials", with_ip(ROUTED, dst="172.17.0.5"), GoesOn()),
        ("by an address inside a subnet", with_ip(ROUTED, dst="10.0.2.6"), Told(DropReason.SITE_DOWN)),
    ):
        yield Case(f"to a site {words}", arriving(sent), Passed(Why.SITE, python), AT_SITES)
    yield Case("to a VM of a tenant that has sites", arriving(ROUTED), _GOES_ON, AT_SITES)


def _misses(description: str, sent: Packet, python: Forwarded | Dropped | Told, at: World = WORLD) -> Case:
    return Case(description, arriving(sent), Passed(Why.DESTINATION, python), at)


CASES = (
    *_destinations(),
    *_destinations_behind_vms(),
    *_macs(),
    *_sites(),
)
