"""Cases of whom a packet is from: the sender's own record, and what stands in its place."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from scapy.packet import Packet

from gateway.forwarding.drops import DropReason
from tests.fastpath.cases_carried import (
    OTHER_DB,
    OTHER_WEB,
    ROUTED,
    ROUTED_V6,
    SWITCHED,
    SWITCHED_V6,
    WEB,
    with_macs,
)
from tests.fastpath.outcomes import Case, Dropped, Forwarded, Passed, Told, Why, World
from tests.fastpath.scenes import BEHIND, WORLD, record, world
from tests.fastpath.ways import AT_SITES, DEFAULT, FIREWALL, firewall_without, via
from tests.fastpath.wire import arriving, forwarded, routed, with_ip
from tests.networks import frame, mac, router_mac

_SPOOFED = Dropped(DropReason.SPOOFED_SOURCE)
_GOES_ON = forwarded(routed(ROUTED))


def coming_from(
    description: str, sent: Packet, python: object, at: World = WORLD, *, sender: str = "hv1"
) -> Case:
    """A case whose source only Python can judge."""
    assert isinstance(python, Forwarded | Dropped | Told)
    return Case(description, arriving(sent, sender=sender), Passed(Why.SENDER, python), at, BEHIND[sender])


def _sources() -> Iterator[Case]:
    yield coming_from(
        "from another host than its record says: its claim may be on its way", ROUTED, _GOES_ON, sender="hv2"
    )
    yield coming_from(
        "switched, from another host than its record says",
        SWITCHED,
        forwarded(SWITCHED, subnet="web", ttl=63),
        sender="hv2",
    )
    yield coming_from("from a VM that has no record yet", ROUTED, _GOES_ON, world(without=("10.0.1.5",)))
    moved = world(more=(record("web", 5, "hv2"),))
    yield Case(
        "from the host that its VM has moved to",
        arriving(ROUTED, sender="hv2"),
        _GOES_ON,
        moved,
        "eth2",
    )
    yield coming_from("from the host that its VM has left", ROUTED, _GOES_ON, moved)
    elsewhere = msgspec.structs.replace(record("web", 5, "hv2"), host="hv1")
    odd = world(more=(elsewhere,))
    yield coming_from("by a record whose address is not its host's, from the host", ROUTED, _GOES_ON, odd)
    yield coming_from("by such a record, from the address", ROUTED, _GOES_ON, odd, sender="hv2")
    yield Case(
        "by such a record, from another address of whom that is",
        arriving(ROUTED, sender="hv2", version=6),
        Passed(Why.SENDER, _GOES_ON),
        odd,
        "eth2",
    )
    nobodys = msgspec.structs.replace(record("web", 5, "hv1"), host="")
    yield coming_from("by a record that names no host", ROUTED, _GOES_ON, world(more=(nobodys,)))
    foreign = world(more=(record("web", 5, "hv3"),))
    yield coming_from(
        "by a record at a host that may not hold the tenant, from there",
        ROUTED,
        _SPOOFED,
        foreign,
        sender="hv3",
    )
    yield coming_from(
        "by a record at a host that may not hold the tenant, from another", ROUTED, _GOES_ON, foreign
    )
    for source, switched in (
        ("0.0.0.0", _SPOOFED),
        ("127.0.0.1", _SPOOFED),
        ("0.1.2.3", _SPOOFED),
        ("169.254.1.1", _SPOOFED),
        ("240.0.0.1", _SPOOFED),
        ("255.255.255.255", _SPOOFED),
        ("224.0.0.5", _SPOOFED),
        ("8.8.8.8", _SPOOFED),
        ("10.0.1.1", _SPOOFED),
        ("10.0.2.1", _SPOOFED),
    ):
        yield coming_from(f"from {source}, routed", with_ip(ROUTED, src=source), _SPOOFED)
        yield coming_from(f"from {source}, switched", with_ip(SWITCHED, src=source), switched)
    for source in ("::", "::1", "ff02::5", "2001:db8:ffff::1", "fd00:1::1", "fe80::1", "::ffff:10.0.1.5"):
        yield coming_from(f"from {source}, routed", with_ip(ROUTED_V6, src=source), _SPOOFED)
        yield coming_from(f"from {source}, switched", with_ip(SWITCHED_V6, src=source), _SPOOFED)
    yield coming_from(
        "from a link-local address, routed", with_ip(ROUTED_V6, src="fe80::5"), Dropped(DropReason.NO_ROUTE)
    )
    sent = with_ip(SWITCHED_V6, src="fe80::5")
    yield coming_from(
        "from a link-local address, switched", sent, forwarded(sent, subnet="web", ttl=63, sent=None)
    )
    yield coming_from(
        "from what is at a site, but by a host", with_ip(ROUTED, src="172.16.0.5"), _SPOOFED, AT_SITES
    )
    yield coming_from(
        "from an address of a subnet that is at a site, but by its old host",
        with_ip(ROUTED, src="10.0.2.6"),
        _SPOOFED,
        AT_SITES,
    )


def _sources_behind_vms() -> Iterator[Case]:
    for words, version, source in (("IPv4", 4, "198.18.0.5"), ("IPv6", 6, "fd77::5")):
        sent = with_ip(frame("red", WEB, OTHER_WEB, version=version), src=source)
        in_web = with_macs(sent, router_mac("red", "web"), mac("red", *OTHER_DB))
        yield Case(
            f"from behind a VM in {words}, by the VM's host: its own subnet has not sent it",
            arriving(in_web),
            forwarded(routed(in_web, to=OTHER_WEB), subnet="web", sent=None),
            FIREWALL,
        )
        yield Case(
            f"from behind a VM in {words}, by another host",
            arriving(in_web, sender="hv2"),
            Passed(Why.SENDER, forwarded(routed(in_web, to=OTHER_WEB), subnet="web", sent=None)),
            FIREWALL,
            "eth2",
        )
        yield Case(
            f"from behind a VM in {words} that a default route leads through",
            arriving(in_web),
            forwarded(routed(in_web, to=OTHER_WEB), subnet="web", sent=None),
            DEFAULT,
        )
    for source in (
        "0.0.0.0",
        "127.0.0.1",
        "0.1.2.3",
        "169.254.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "224.0.0.5",
    ):
        sent = with_ip(with_macs(ROUTED, router_mac("red", "web"), mac("red", *OTHER_DB)), src=source)
        yield coming_from(
            f"from {source}, though a default route leads by the sender", sent, _SPOOFED, DEFAULT
        )
    for source in ("::", "::1", "ff02::5", "fe80::1"):
        sent = with_ip(with_macs(ROUTED_V6, router_mac("red", "web"), mac("red", *OTHER_DB)), src=source)
        yield coming_from(
            f"from {source}, though a default route leads by the sender", sent, _SPOOFED, DEFAULT
        )
    sent = with_ip(with_macs(ROUTED_V6, router_mac("red", "web"), mac("red", *OTHER_DB)), src="fe80::5")
    yield coming_from(
        "from a link-local address, routed, though a default route leads by the sender",
        sent,
        Dropped(DropReason.NO_ROUTE),
        DEFAULT,
    )
    sent = with_ip(with_macs(SWITCHED_V6, mac("red", *OTHER_WEB), mac("red", *OTHER_DB)), src="fe80::5")
    yield coming_from(
        "from a link-local address, switched, though a default route leads by the sender",
        sent,
        forwarded(sent, subnet="web", ttl=63, sent=None),
        DEFAULT,
    )
    sent = with_ip(ROUTED, src="198.18.0.5")
    yield coming_from(
        "from behind a VM that has no record",
        sent,
        forwarded(routed(sent), sent=None),
        firewall_without("10.0.2.6"),
    )
    yield coming_from(
        "from behind a VM that is itself behind another",
        sent,
        _SPOOFED,
        via(("198.18.0.0/15", "198.18.0.1")),
    )


CASES = (*_sources(), *_sources_behind_vms())
