"""Each way to be dropped has its own reason, is counted once, and under its tenant."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from gateway.forwarding.directory import Put
from gateway.forwarding.drops import DropReason, Drops
from gateway.forwarding.node import Node
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Drop, Verdict
from policies.addresses import CustomerAddress, Vsid
from policies.model import AccessRule, Action, CustomerRoute, Limits, LookupRecord, SiteHop
from tests import networks as n
from tests.rewriting import Vm, World

ROOT = Path(__file__).parents[3]


def ruled(**settings: object) -> Forwarder:
    return n.gateway(n.network(n.tenant("red", **settings), n.tenant("blue")))  # type: ignore[arg-type]


def routed(upper: Packet | None = None, **fields: object) -> Packet:
    return n.frame("red", ("web", 5), ("db", 5), upper=upper, version=4, **fields)


def to(destination: str) -> Packet:
    frame = routed()
    frame[IP].dst = destination
    return frame


def from_(source: str) -> Packet:
    frame = routed()
    frame[IP].src = source
    return frame


def with_macs(**macs: str) -> Packet:
    frame = routed()
    for field, value in macs.items():
        setattr(frame, field, value)
    return frame


def raw(payload: bytes, sender: str = "hv1") -> Callable[[], tuple[Forwarder, Verdict]]:
    def run() -> tuple[Forwarder, Verdict]:
        forwarder = n.gateway()
        return forwarder, forwarder.from_underlay(n.from_host(sender), payload, now=0)

    return run


def framed(
    inner: Packet, forwarder: Forwarder | None = None, **how: object
) -> Callable[[], tuple[Forwarder, Verdict]]:
    def run() -> tuple[Forwarder, Verdict]:
        here = forwarder or n.gateway()
        return here, n.receive(here, inner, **how)  # type: ignore[arg-type]

    return run


def to_a_family_that_we_have_none_of() -> tuple[Forwarder, Verdict]:
    full = n.gateway(pa_version=6)
    here = Forwarder(Node("edge-1", (n.pa("edge-1"),), 1500, True, {}), full.tables, full.directory)
    return here, n.receive(here, routed())


def announced_at_its_port() -> tuple[Forwarder, Verdict]:
    here = n.host("hv1")
    own = str(n.mac("red", "web", 5))
    frame = Ether(src=own, dst=n.BROADCAST, type=0x8035) / ARP(op=3, hwsrc=own, hwdst=own)
    return here, n.send(here, ("red", "web", 5), frame)


def to_our_own_address() -> tuple[Forwarder, Verdict]:
    here = n.gateway()
    ca = CustomerAddress.parse(n.ca("db", 5))
    record = LookupRecord(Vsid(5002), ca, n.mac("red", "db", 5), n.pa("edge-1"), "edge-1")
    here.directory.apply(Put(record))
    return here, n.receive(here, routed())


def by_another_child_sa() -> tuple[Forwarder, Verdict]:
    here = n.connected(n.tenant("red", sites=(n.site("seattle", "172.16.0.0/12"),)))
    return here, n.through_tunnel(here, IP(src="172.17.0.5", dst=n.ca("web", 5)) / UDP())


def rewritten(source: str, destination: str, upper: Packet | None = None) -> bytes:
    return bytes(IP(src=source, dst=destination) / (upper or UDP()))


def to_nobodys_provider_address() -> tuple[Forwarder, Verdict]:
    world = World([RED, BLUE])
    return (here := world.nodes["hv1"]), here.from_provider(rewritten(pa_of(world, RED), "192.0.2.77"), 0)


def from_another_tenant() -> tuple[Forwarder, Verdict]:
    world = World([RED, BLUE])
    packet = rewritten(pa_of(world, BLUE), pa_of(world, RED))
    return (here := world.nodes["hv1"]), here.from_provider(packet, 0)


def refused_a_lease() -> tuple[Forwarder, Verdict]:
    here = World([RED]).nodes["hv1"]
    here.refuse(Vsid(5002), CustomerAddress.parse(n.ca("db", 5)), 0)
    return here, n.send(here, RED, n.frame("red", ("web", 5), ("db", 5)))


def to_a_link_local_address() -> tuple[Forwarder, Verdict]:
    here = World([RED, ("red", "web", 6)]).nodes["hv1"]
    to = str(n.mac("red", "web", 6))
    return here, n.send(here, RED, Ether(src=SELF, dst=to) / IPv6(src="fe80::5", dst="fe80::6") / UDP())


def underlay_speaks_of_what_a_gateway_said() -> tuple[Forwarder, Verdict]:
    world = World([RED])
    lease = world.lease(Vsid(5002), CustomerAddress.parse(n.ca("db", 1)))
    about = IP(src=str(lease.pa), dst=pa_of(world, RED)) / UDP()
    packet = rewritten("198.51.100.1", str(lease.pa), ICMP(type=11) / about)
    return (here := world.nodes["edge-1"]), here.from_provider(packet, 0)


def pa_of(world: World, vm: Vm) -> str:
    return str(world.record(vm).pa)


RED: Vm = ("red", "web", 5)
BLUE: Vm = ("blue", "web", 6)
SITE = {
    "sites": (n.site("seattle", "172.16.0.0/16"),),
    "routes": (CustomerRoute(ip_network("10.0.2.50/32"), SiteHop("seattle")),),
}
AROUND = n.tenant("red", sites=(n.site("seattle", "172.16.0.0/12"),))
DENY = {"access": (AccessRule("nothing", Action.DENY),)}
SELF = str(n.mac("red", "web", 5))

CASES = [
    pytest.param(raw(b"\x20\x00\x65\x58"), DropReason.MALFORMED, "", id="half a GRE header"),
    pytest.param(
        raw(n.nvgre("red", "web", b"short")), DropReason.MALFORMED, "red", id="half an Ethernet header"
    ),
    pytest.param(framed(routed(chksum=1)), DropReason.MALFORMED, "red", id="IP checksum"),
    pytest.param(raw(b"\xa0\x00\x65\x58" + bytes(60)), DropReason.NOT_NVGRE, "", id="GRE checksum"),
    pytest.param(raw(b"\x20\x00\x65\x58\x00\x0f\xff\x00"), DropReason.UNKNOWN_VSID, "", id="reserved VSID"),
    pytest.param(raw(n.nvgre("red", "web", routed()), "edge-1"), DropReason.LOOP, "", id="our own packet"),
    pytest.param(to_our_own_address, DropReason.LOOP, "red", id="to ourselves"),
    pytest.param(framed(from_("8.8.8.8")), DropReason.SPOOFED_SOURCE, "red", id="foreign source"),
    pytest.param(
        framed(Ether(dst=n.BROADCAST, src=SELF) / Dot1Q(vlan=1) / IP()),
        DropReason.VLAN_TAGGED,
        "red",
        id="tag",
    ),
    pytest.param(framed(Ether(dst=SELF, type=0x88CC) / Raw(bytes(46))), DropReason.NOT_IP, "red", id="LLDP"),
    pytest.param(
        framed(with_macs(dst="02:00:00:00:00:99")), DropReason.UNKNOWN_MAC, "red", id="MAC of nobody"
    ),
    pytest.param(framed(with_macs(dst=n.BROADCAST)), DropReason.GROUP_NOT_ALLOWED, "red", id="broadcast"),
    pytest.param(
        framed(Ether(src=SELF, dst=n.BROADCAST) / ARP(op=2, hwsrc=SELF, psrc=n.ca("web", 5))),
        DropReason.NEIGHBOUR_REPLY,
        "red",
        id="ARP reply",
    ),
    pytest.param(
        framed(n.arp_request("red", ("web", 5), n.ca("web", 5), source="0.0.0.0")),
        DropReason.NEIGHBOUR_OWN,
        "red",
        id="ARP probe",
    ),
    pytest.param(framed(routed(), ruled(**DENY)), DropReason.ACCESS_DENIED, "red", id="rule"),
    pytest.param(
        framed(routed(frag=9, proto=17, upper=Raw(bytes(16))), ruled(**DENY)),
        DropReason.ORPHAN_FRAGMENT,
        "red",
        id="orphan",
    ),
    pytest.param(
        framed(routed(), ruled(limits=Limits(rate=8, burst=10))), DropReason.RATE_LIMITED, "red", id="rate"
    ),
    pytest.param(framed(to(n.ca("web", 1))), DropReason.TO_GATEWAY, "red", id="port of the gateway"),
    pytest.param(framed(routed(ttl=1)), DropReason.HOP_LIMIT, "red", id="TTL"),
    pytest.param(framed(to("8.8.8.8")), DropReason.NO_ROUTE, "red", id="no route"),
    pytest.param(framed(to("10.0.2.99")), DropReason.NO_RECORD, "red", id="no record"),
    pytest.param(framed(to("172.16.0.5"), ruled(**SITE)), DropReason.SITE_DOWN, "red", id="site"),
    pytest.param(framed(to("10.0.2.50"), ruled(**SITE)), DropReason.SITE_DOWN, "red", id="moved to the site"),
    pytest.param(
        framed(to("172.17.0.5"), n.connected(AROUND)), DropReason.OUTSIDE_SELECTORS, "red", id="selectors"
    ),
    pytest.param(by_another_child_sa, DropReason.SELECTOR_MISMATCH, "red", id="another child SA"),
    pytest.param(framed(routed(), n.host("hv2")), DropReason.NOT_HERE, "red", id="another host's VM"),
    pytest.param(to_a_family_that_we_have_none_of, DropReason.NO_PROVIDER_ADDRESS, "red", id="family"),
    pytest.param(
        framed(routed(flags="DF", upper=UDP() / Raw(bytes(1431)))), DropReason.TOO_BIG, "red", id="MTU"
    ),
    pytest.param(framed(routed(upper=TCP()), ecn=3), DropReason.CONGESTION, "red", id="CE on Not-ECT"),
    pytest.param(announced_at_its_port, DropReason.ANNOUNCEMENT, "red", id="RARP"),
    pytest.param(to_nobodys_provider_address, DropReason.UNKNOWN_PROVIDER_ADDRESS, "", id="nobody's PA"),
    pytest.param(from_another_tenant, DropReason.OTHER_TENANT, "red", id="another tenant's PA"),
    pytest.param(refused_a_lease, DropReason.NO_LEASE, "red", id="no lease"),
    pytest.param(to_a_link_local_address, DropReason.NOT_REWRITABLE, "red", id="link-local"),
    pytest.param(
        underlay_speaks_of_what_a_gateway_said, DropReason.UNDERLAY_ERROR, "red", id="the underlay's ICMP"
    ),
]


@pytest.mark.parametrize(("run", "reason", "tenant"), CASES)
def test_packet_is_dropped_and_counted_once_under_its_own_reason(
    run: Callable[[], tuple[Forwarder, Verdict]], reason: DropReason, tenant: str
) -> None:
    forwarder, verdict = run()

    assert isinstance(verdict, Drop), verdict
    assert (verdict.reason, verdict.tenant) == (reason, tenant)
    assert forwarder.drops.counts == {(reason, tenant): 1}
    assert all(meter.sent_packets == meter.received_packets == 0 for meter in forwarder.meters.values())


def test_every_reason_that_the_pipeline_has_is_among_the_cases() -> None:
    senders = {DropReason.QUEUE_FULL, DropReason.SEND_FAILED, DropReason.HOLD_FULL, DropReason.HOLD_EXPIRED}

    of_the_fast_path = {DropReason.PUNT_LIMITED}

    assert {case.values[1] for case in CASES} == set(DropReason) - senders - of_the_fast_path


def test_totals_add_up_over_tenants() -> None:
    drops = Drops()
    for tenant in ("red", "blue", "red"):
        drops.count(DropReason.NO_ROUTE, tenant)
    drops.count(DropReason.LOOP)

    assert drops.total(DropReason.NO_ROUTE) == 3
    assert drops.total(DropReason.LOOP) == 1
    assert drops.total(DropReason.TOO_BIG) == 0


def test_the_document_explains_every_reason_in_order() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", (ROOT / "docs" / "drops.md").read_text(), re.MULTILINE)
    assert rows == [(reason.value, reason.words) for reason in DropReason]
