"""What a site's host is told by ICMP, and by whom; and what carries too little for a packet."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from gateway.forwarding import notices
from gateway.forwarding.drops import DropReason
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Emission, Forward, ToSite, ToUnderlay
from policies.selectors import Selectors, TrafficSelector
from tests import networks as n


def layer(version: int) -> type[Packet]:
    return IP if version == 4 else IPv6


def inward(
    destination: str, *, version: int = 4, size: int = 20, upper: Packet | None = None, **fields: object
) -> Packet:
    """From a host at the site, in `size` octets of data."""
    upper = UDP(sport=1111, dport=2222) / Raw(bytes(size)) if upper is None else upper
    return layer(version)(src=n.on_premise(version=version), dst=destination, **fields) / upper


def outward(*, version: int = 4, destination: str | None = None, upper: Packet, **fields: object) -> Packet:
    """A VM's frame for a host at the site."""
    ends = {"src": n.ca("web", 5, version), "dst": destination or n.on_premise(version=version)}
    header = Ether(dst=str(n.router_mac("red", "web")), src=str(n.mac("red", "web", 5)))
    return header / layer(version)(**ends, **fields) / upper


def data(size: int) -> Packet:
    return UDP(sport=1111, dport=2222) / Raw(bytes(size))


def to_the_site(told: Sequence[Emission]) -> Packet:
    """The one packet that a site's host is told by."""
    (emission,) = told
    assert isinstance(emission, ToSite)
    assert emission.site == ("red", "seattle")
    return (IP if emission.packet[0] >> 4 == 4 else IPv6)(emission.packet)


def to_the_vm(told: Sequence[Emission]) -> Packet:
    (emission,) = told
    assert isinstance(emission, ToUnderlay)
    assert (emission.destination, emission.vsid) == (n.pa("hv1"), 5001)
    return Ether(emission.payload[8:]).payload


@pytest.mark.parametrize("subnet", ["web", "db"])
def test_traceroute_from_the_site_shows_the_gateway_of_the_destinations_subnet(subnet: str) -> None:
    verdict = n.through_tunnel(n.connected(), inward(n.ca(subnet, 5), ttl=1))

    told = to_the_site(n.dropped(verdict, DropReason.HOP_LIMIT))

    assert (told.src, told.dst) == (n.ca(subnet, 1), n.on_premise())
    assert (told[ICMP].type, told[ICMP].code) == (11, 0)
    assert told[ICMP].payload.dst == n.ca(subnet, 5)


def test_traceroute_from_the_site_in_ipv6() -> None:
    verdict = n.through_tunnel(n.connected(), inward(n.ca("db", 5, 6), version=6, hlim=1))

    told = to_the_site(n.dropped(verdict, DropReason.HOP_LIMIT))

    assert (told.src, told.dst) == (n.ca("db", 1, 6), n.on_premise(version=6))
    assert ICMPv6TimeExceeded in told


def test_traceroute_from_a_vm_shows_the_gateway_of_its_own_subnet() -> None:
    verdict = n.receive(n.connected(), outward(upper=data(20), ttl=1))

    told = to_the_vm(n.dropped(verdict, DropReason.HOP_LIMIT))

    assert (told.src, told.dst, told[ICMP].type) == (n.ca("web", 1), n.ca("web", 5), 11)


def only_for_db() -> Selectors:
    return n.selectors(local=["10.0.2.0/24", "10.0.1.5/32", "fd00:2::/64", "fd00:1::5/128"])


@pytest.mark.parametrize("version", [4, 6])
def test_gateway_speaks_from_an_address_that_the_selectors_hold(version: int) -> None:
    forwarder = n.connected(child=only_for_db())
    fields = {"ttl": 1} if version == 4 else {"hlim": 1}
    packet = inward(n.ca("web", 5, version), version=version, **fields)

    told = to_the_site(
        n.dropped(n.through_tunnel(forwarder, packet, child=only_for_db()), DropReason.HOP_LIMIT)
    )

    assert told.src == n.ca("db", 1, version)
    (emission,) = n.through_tunnel(forwarder, packet, child=only_for_db()).emissions
    assert isinstance(emission, ToSite)
    assert only_for_db().admit_outbound(emission.facts)


def udp_only() -> Selectors:
    return Selectors(
        *(
            tuple(TrafficSelector(each.start, each.end, protocol=17) for each in side)
            for side in (n.BY_SEATTLE.local, n.BY_SEATTLE.remote)
        )
    )


@pytest.mark.parametrize(
    "child",
    [n.selectors(local=["10.0.1.5/32", "10.0.2.5/32"]), udp_only()],
    ids=["no address of the gateway's", "no ICMP"],
)
def test_where_the_selectors_hold_no_address_of_the_gateways_nobody_is_told_and_that_is_counted(
    child: Selectors,
) -> None:
    forwarder = n.connected(child=child)

    verdict = n.through_tunnel(forwarder, inward(n.ca("web", 5), ttl=1), child=child)

    assert n.dropped(verdict, DropReason.HOP_LIMIT) == ()
    assert (forwarder.notices.without_source, forwarder.notices.sent) == (1, 0)


def test_site_is_told_nothing_while_it_has_no_tunnel() -> None:
    forwarder = n.connected()
    forwarder.sites.site_is_down(("red", "seattle"))

    verdict = n.through_tunnel(forwarder, inward(n.ca("web", 5), ttl=1))

    assert n.dropped(verdict, DropReason.HOP_LIMIT) == ()


@pytest.mark.parametrize(
    ("destination", "reason", "code"),
    [
        (n.ca("web", 99), DropReason.NO_RECORD, 1),
        ("10.0.77.7", DropReason.NO_ROUTE, 0),
        ("172.16.0.9", DropReason.LOOP, 0),
    ],
)
def test_site_is_told_that_nobody_is_there(destination: str, reason: DropReason, code: int) -> None:
    child = n.selectors(local=["0.0.0.0/0"])
    forwarder = n.connected(child=child)

    told = to_the_site(n.dropped(n.through_tunnel(forwarder, inward(destination), child=child), reason))

    assert (told[ICMP].type, told[ICMP].code) == (3, code)


def test_site_is_told_that_the_gateway_has_no_such_port() -> None:
    told = to_the_site(
        n.dropped(n.through_tunnel(n.connected(), inward(n.ca("db", 1))), DropReason.TO_GATEWAY)
    )

    assert (told.src, told[ICMP].type, told[ICMP].code) == (n.ca("db", 1), 3, 3)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(
            inward(
                n.ca("web", 5),
                ttl=1,
                upper=ICMP(type=3, code=1) / IP(src=n.ca("web", 5), dst=n.on_premise()) / UDP(),
            ),
            id="ICMP error",
        ),
        pytest.param(
            inward(n.ca("web", 5), ttl=1, frag=5, proto=17, upper=Raw(bytes(16))), id="later fragment"
        ),
        pytest.param(inward("10.0.1.255", ttl=1), id="broadcast address of a subnet"),
    ],
)
def test_some_packets_of_a_site_are_never_told_of(packet: Packet) -> None:
    """RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7."""
    verdict = n.through_tunnel(n.connected(), packet)

    assert verdict.emissions == ()


def test_notices_to_a_site_are_limited_in_rate() -> None:
    forwarder = n.connected()

    told = sum(
        len(n.through_tunnel(forwarder, inward(n.ca("web", 5), ttl=1)).emissions)
        for _ in range(int(notices.BURST) + 50)
    )

    assert told == notices.BURST
    assert forwarder.notices.suppressed == 50


def test_vm_is_told_that_the_site_has_no_tunnel() -> None:
    forwarder = n.connected()
    forwarder.sites.site_is_down(("red", "seattle"))

    told = to_the_vm(n.dropped(n.receive(forwarder, outward(upper=data(20))), DropReason.SITE_DOWN))

    assert (told.src, told[ICMP].type, told[ICMP].code) == (n.ca("web", 1), 3, 0)


@pytest.mark.parametrize("version", [4, 6])
def test_vm_is_told_that_the_tunnel_does_not_carry_such_packets(version: int) -> None:
    """RFC 4301 section 5.1.1: administratively prohibited."""
    forwarder = n.connected(child=n.selectors(["172.16.9.0/24", "fd99:9::/64"]))

    verdict = n.receive(forwarder, outward(version=version, upper=data(20)))

    told = to_the_vm(n.dropped(verdict, DropReason.OUTSIDE_SELECTORS))
    if version == 4:
        assert (told[ICMP].type, told[ICMP].code) == (3, 13)
    else:
        assert told[ICMPv6DestUnreach].code == 1


def fits(mtu: int, version: int) -> Packet:
    return data(mtu - (28 if version == 4 else 48))


@pytest.mark.parametrize("version", [4, 6])
def test_vm_is_told_what_the_tunnel_carries(version: int) -> None:
    forwarder = n.connected(mtu=1390)
    fields = {"flags": "DF"} if version == 4 else {}

    n.to_site(n.receive(forwarder, outward(version=version, upper=fits(1390, version), **fields)))
    verdict = n.receive(forwarder, outward(version=version, upper=fits(1391, version), **fields))

    told = to_the_vm(n.dropped(verdict, DropReason.TOO_BIG))
    assert told.src == n.ca("web", 1, version)
    if version == 4:
        assert (told[ICMP].type, told[ICMP].code, told[ICMP].nexthopmtu) == (3, 4, 1390)
    else:
        assert told[ICMPv6PacketTooBig].mtu == 1390


def test_ipv6_of_1280_octets_goes_into_any_tunnel() -> None:
    """RFC 8200 section 5: no sender may be told less; ESP has its outer packet fragmented."""
    forwarder = n.connected(mtu=1200)

    n.to_site(n.receive(forwarder, outward(version=6, upper=fits(1280, 6))))
    verdict = n.receive(forwarder, outward(version=6, upper=fits(1281, 6)))

    assert to_the_vm(n.dropped(verdict, DropReason.TOO_BIG))[ICMPv6PacketTooBig].mtu == 1280


def test_ipv4_that_may_be_fragmented_is_fragmented_before_the_tunnel() -> None:
    sent = outward(upper=data(3000), id=7)

    verdict = n.receive(n.connected(mtu=1390), sent)

    assert isinstance(verdict, Forward)
    pieces = [IP(each.packet) for each in verdict.emissions if isinstance(each, ToSite)]
    assert len(pieces) == len(verdict.emissions) == 3
    assert all(len(piece) <= 1390 and piece.ttl == 63 for piece in pieces)
    assert b"".join(bytes(piece.payload) for piece in pieces) == bytes(sent[IP].payload)
    facts = {each.facts for each in verdict.emissions if isinstance(each, ToSite)}
    assert {each.destination_port for each in facts} == {2222}, "one child SA for all fragments"


@pytest.mark.parametrize("version", [4, 6])
def test_site_is_told_what_the_underlay_carries(version: int) -> None:
    packet = inward(n.ca("web", 5, version), version=version, upper=fits(1459, version))
    if version == 4:
        packet.flags = "DF"

    told = to_the_site(n.dropped(n.through_tunnel(n.connected(), packet), DropReason.TOO_BIG))

    assert told.src == n.ca("web", 1, version)
    if version == 4:
        assert (told[ICMP].type, told[ICMP].code, told[ICMP].nexthopmtu) == (3, 4, 1458)
    else:
        assert told[ICMPv6PacketTooBig].mtu == 1458


def announced(packet: Packet) -> int:
    return int(dict(packet[TCP].options)["MSS"])


SYN = TCP(sport=1111, dport=80, flags="S", options=[("MSS", 1460)])


@pytest.mark.parametrize(("version", "mss"), [(4, 1390 - 40), (6, 1390 - 60)])
@pytest.mark.parametrize("flags", ["S", "SA"])
def test_segment_size_is_kept_within_the_tunnel_both_ways(version: int, mss: int, flags: str) -> None:
    forwarder = n.connected(mtu=1390)
    syn = SYN.copy()
    syn.flags = flags

    _, there = n.to_site(n.receive(forwarder, outward(version=version, upper=syn)))
    _, back = n.to_underlay(
        n.through_tunnel(forwarder, inward(n.ca("web", 5, version), version=version, upper=syn))
    )

    assert (announced(there), announced(back)) == (mss, mss)


def test_segment_size_is_kept_within_the_underlay_where_that_carries_less() -> None:
    forwarder = n.connected(mtu=1500)

    _, there = n.to_site(n.receive(forwarder, outward(upper=SYN)))
    _, back = n.to_underlay(n.through_tunnel(forwarder, inward(n.ca("web", 5), upper=SYN)))

    assert (announced(there), announced(back)) == (1458 - 40, 1458 - 40)


def test_segment_size_between_two_sites_is_that_of_the_smaller_tunnel() -> None:
    child = n.selectors(local=["0.0.0.0/0"])
    sites = n.site("seattle", *n.SEATTLE), n.site("oslo", *n.OSLO)
    forwarder = n.connected(n.tenant("red", sites=sites), mtu=1300, child=child)
    forwarder.sites.site_is_up(("red", "oslo"), 1390, [n.selectors(n.OSLO, ["0.0.0.0/0"])])

    _, packet = n.to_site(n.through_tunnel(forwarder, inward("172.17.0.5", upper=SYN), child=child))

    assert announced(packet) == 1300 - 40


def test_mtu_that_no_link_may_have_is_a_mistake_of_the_caller() -> None:
    forwarder: Forwarder = n.gateway()

    with pytest.raises(ValueError, match="67"):
        forwarder.sites.site_is_up(("red", "seattle"), 67, [])
