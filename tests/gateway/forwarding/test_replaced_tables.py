"""A reload replaces the routing snapshot in place: what has been counted and learned stays."""

from __future__ import annotations

from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from gateway.forwarding.pipeline import Forwarder
from policies.model import AccessRule, Action, Limits, Site, Tenant
from policies.tables import Tables
from tests import networks as n

SEATTLE = n.site("seattle", *n.SEATTLE)
OSLO = n.site("oslo", *n.OSLO)


def tables(*sites: Site, access: tuple[AccessRule, ...] = (), limits: Limits | None = None) -> Tables:
    return Tables.compile(n.network(n.tenant("red", sites=sites, access=access, limits=limits)))


def inward(destination: str = "", upper: Packet | None = None) -> bytes:
    upper = TCP(sport=1, dport=2, flags="A") / Raw(b"data") if upper is None else upper
    return bytes(IP(src=n.on_premise(), dst=destination or n.ca("web", 5)) / upper)


def connected(limits: Limits | None = None) -> Forwarder:
    red: Tenant = n.tenant("red", sites=(SEATTLE,), limits=limits)
    return n.connected(red)


def test_site_that_stays_keeps_its_tunnel_and_its_meter() -> None:
    forwarder = connected()
    n.to_underlay(n.through_tunnel(forwarder, inward()))
    state = forwarder.sites.find(("red", "seattle"))

    forwarder.replace_tables(tables(SEATTLE, OSLO))
    n.to_underlay(n.through_tunnel(forwarder, inward()))

    assert forwarder.sites.find(("red", "seattle")) is state
    assert forwarder.site_meters["red", "seattle"].sent_packets == 2
    assert forwarder.site_meters["red", "oslo"].sent_packets == 0
    assert forwarder.meters[n.port("red", "web", 5)[0]].received_packets == 2


def test_site_that_goes_is_gone() -> None:
    forwarder = connected()
    for _ in range(2):
        n.to_underlay(n.through_tunnel(forwarder, inward()))

    forwarder.replace_tables(tables(OSLO))

    n.dropped(n.through_tunnel(forwarder, inward()), DropReason.SITE_DOWN)
    assert forwarder.sites.find(("red", "seattle")) is None
    assert ("red", "seattle") not in forwarder.site_meters


def test_known_flow_is_judged_anew() -> None:
    forwarder = connected()
    for _ in range(2):
        n.to_underlay(n.through_tunnel(forwarder, inward()))
        n.to_underlay(n.receive(forwarder, n.frame("red", ("web", 5), ("db", 5), upper=n.tcp("A"))))

    forwarder.replace_tables(tables(SEATTLE, access=(AccessRule("nothing", Action.DENY),)))

    n.dropped(n.through_tunnel(forwarder, inward()), DropReason.ACCESS_DENIED)
    frame = n.frame("red", ("web", 5), ("db", 5), upper=n.tcp("A"))
    n.dropped(n.receive(forwarder, frame), DropReason.ACCESS_DENIED)


def test_drops_records_and_path_mtus_stay() -> None:
    forwarder = connected()
    n.dropped(n.through_tunnel(forwarder, inward("10.0.1.99")), DropReason.NO_RECORD)
    forwarder.path_mtu_reported(n.pa("hv1"), 5001, 1400, 0)
    drops, directory = forwarder.drops, forwarder.directory

    forwarder.replace_tables(tables(SEATTLE))

    assert (forwarder.drops, forwarder.directory) == (drops, directory)
    assert drops.total(DropReason.NO_RECORD) == 1
    big = inward(upper=UDP(sport=1, dport=2) / Raw(bytes(1400)))
    assert len(n.through_tunnel(forwarder, big).emissions) == 2


def test_limit_that_stays_is_not_filled_up() -> None:
    limits = Limits(rate=8, burst=50)
    forwarder = connected(limits)
    n.to_underlay(n.through_tunnel(forwarder, inward()))

    forwarder.replace_tables(tables(SEATTLE, limits=limits))
    n.dropped(n.through_tunnel(forwarder, inward()), DropReason.RATE_LIMITED)
    forwarder.replace_tables(tables(SEATTLE, limits=Limits(rate=8, burst=60)))
    n.to_underlay(n.through_tunnel(forwarder, inward()))


def test_mtu_of_a_port_stays() -> None:
    net = n.network()
    host = n.host("hv1", net)
    host.port_mtu_is(n.port("red", "web", 5), 576)

    host.replace_tables(Tables.compile(net))

    frame = n.frame("red", ("web", 6), ("web", 5), flags="DF", upper=UDP() / Raw(bytes(600)))
    n.dropped(n.receive(host, frame, sender="hv2"), DropReason.TOO_BIG)
