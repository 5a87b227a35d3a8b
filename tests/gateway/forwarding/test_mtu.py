"""What is larger than the next piece of the way carries."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, UDP, IPOption_Router_Alert, defragment
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import GRE, Ether
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Answer, Emission, Forward, ToPort, ToUnderlay, Verdict
from tests import networks as n

ROUTED, SWITCHED = ("db", 5), ("web", 6)


def sized(total: int, destination: tuple[str, int] = ROUTED, version: int = 4, **fields: object) -> Packet:
    """A frame whose IP packet has so many octets, all of them different enough."""
    header = 20 if version == 4 else 40
    data = (bytes(range(251)) * 300)[: total - header - 8]
    upper = UDP(sport=1, dport=2) / Raw(data)
    return n.frame("red", ("web", 5), destination, version=version, upper=upper, **fields)


def inner_of(emission: Emission) -> Packet:
    assert isinstance(emission, ToUnderlay)
    return Ether(bytes(GRE(emission.payload).payload))


MTU = [pytest.param(4, 1458, id="IPv4 underlay"), pytest.param(6, 1438, id="IPv6 underlay")]


@pytest.mark.parametrize(("pa_version", "mtu"), MTU)
@pytest.mark.parametrize("destination", [ROUTED, SWITCHED], ids=["routed", "switched"])
@pytest.mark.parametrize("version", [4, 6])
def test_packet_of_the_mtu_fits(
    pa_version: int, mtu: int, destination: tuple[str, int], version: int
) -> None:
    frame = sized(mtu, destination, version, **({"flags": "DF"} if version == 4 else {}))

    emission, _ = n.to_underlay(n.receive(n.gateway(pa_version=pa_version), frame, version=pa_version))

    outer = 20 if pa_version == 4 else 40
    assert outer + len(emission.payload) == 1500


@pytest.mark.parametrize(("pa_version", "mtu"), MTU)
def test_routed_packet_that_is_too_big_is_told_of_by_the_gateway(pa_version: int, mtu: int) -> None:
    frame = sized(mtu + 1, flags="DF")

    verdict = n.receive(n.gateway(pa_version=pa_version), frame, version=pa_version)

    emission, told = n.to_underlay(Answer(n.dropped(verdict, DropReason.TOO_BIG)))
    assert emission.destination == n.pa("hv1", pa_version)
    assert told.src == str(n.router_mac("red", "web"))
    assert (told[IP].src, told[IP].dst) == (n.ca("web", 1), n.ca("web", 5))
    assert (told[ICMP].type, told[ICMP].code, told[ICMP].nexthopmtu) == (3, 4, mtu)
    # It quotes the packet as it came: the hop that did not happen is not counted.
    assert emission.payload[8 + 14 + 28 :] == bytes(frame[IP])[:548]


@pytest.mark.parametrize(("pa_version", "mtu"), MTU)
def test_switched_packet_that_is_too_big_is_told_of_by_its_destination(pa_version: int, mtu: int) -> None:
    """No router is on that path, so no other address would be believed."""
    verdict = n.receive(
        n.gateway(pa_version=pa_version), sized(mtu + 1, SWITCHED, flags="DF"), version=pa_version
    )

    _, told = n.to_underlay(Answer(n.dropped(verdict, DropReason.TOO_BIG)))
    assert (told.src, told.dst) == (str(n.mac("red", "web", 6)), str(n.mac("red", "web", 5)))
    assert (told[IP].src, told[IP].dst) == (n.ca("web", 6), n.ca("web", 5))
    assert (told[ICMP].type, told[ICMP].code, told[ICMP].nexthopmtu) == (3, 4, mtu)


@pytest.mark.parametrize(("pa_version", "mtu"), MTU)
@pytest.mark.parametrize(
    ("destination", "teller"), [(ROUTED, n.ca("web", 1, 6)), (SWITCHED, n.ca("web", 6, 6))]
)
def test_ipv6_packet_that_is_too_big_is_told_of(
    pa_version: int, mtu: int, destination: tuple[str, int], teller: str
) -> None:
    verdict = n.receive(n.gateway(pa_version=pa_version), sized(mtu + 1, destination, 6), version=pa_version)

    _, told = n.to_underlay(Answer(n.dropped(verdict, DropReason.TOO_BIG)))
    assert (told[IPv6].src, told[IPv6].dst) == (teller, n.ca("web", 5, 6))
    assert told[ICMPv6PacketTooBig].mtu == mtu


@pytest.mark.parametrize("at", ["gateway", "host"])
@pytest.mark.parametrize(
    ("destination", "teller"),
    [(ROUTED, n.ca("web", 1)), (SWITCHED, n.ca("web", 6))],
    ids=["routed", "switched"],
)
def test_host_tells_its_own_vm_before_anything_crosses_the_underlay(
    at: str, destination: tuple[str, int], teller: str
) -> None:
    """Whether it has the record itself or would leave the frame to the gateway."""
    host = n.host("hv1", known=n.own_records("hv1") if at == "gateway" else None)

    verdict = n.send(host, ("red", "web", 5), sized(1459, destination, flags="DF"))

    delivered, told = n.to_port(Answer(n.dropped(verdict, DropReason.TOO_BIG)))
    assert delivered.port == n.port("red", "web", 5)
    assert (told[IP].src, told[ICMP].nexthopmtu) == (teller, 1458)


def pieces(verdict: Verdict, pa_version: int) -> list[Packet]:
    """The inner packets of a verdict that fragmented, each of which fits."""
    assert isinstance(verdict, Forward)
    outer = 20 if pa_version == 4 else 40
    for emission in verdict.emissions:
        assert isinstance(emission, ToUnderlay)
        assert outer + len(emission.payload) <= 1500
    return [inner_of(emission) for emission in verdict.emissions]


@pytest.mark.parametrize(("pa_version", "mtu"), MTU)
@pytest.mark.parametrize("destination", [ROUTED, SWITCHED], ids=["routed", "switched"])
@pytest.mark.parametrize("total", [1459, 1500, 9000, 65_535])
@pytest.mark.parametrize("options", [[], [IPOption_Router_Alert()]], ids=["plain", "with options"])
def test_ipv4_without_df_is_fragmented_inside_and_can_be_put_together(
    pa_version: int, mtu: int, destination: tuple[str, int], total: int, options: list[Packet]
) -> None:
    frame = sized(total - 4 * len(options), destination, id=77, options=options)
    assert len(bytes(frame[IP])) == total > mtu

    sent = pieces(n.receive(n.gateway(pa_version=pa_version), frame, version=pa_version), pa_version)

    assert len(sent) > 1
    assert {piece.dst for piece in sent} == {str(n.mac("red", *destination))}
    routed = destination == ROUTED
    assert {(piece[IP].ttl, piece[IP].id) for piece in sent} == {(63 if routed else 64, 77)}
    for piece in sent:
        rebuilt = piece[IP].copy()
        del rebuilt.chksum
        assert bytes(rebuilt) == bytes(piece[IP])
    (whole,) = defragment([piece[IP] for piece in sent])
    expected = frame[IP].copy()
    expected.ttl = 63 if routed else 64
    assert bytes(whole[IP].payload) == bytes(IP(bytes(expected)).payload)


def test_fragment_that_is_too_big_is_fragmented_further() -> None:
    later = n.frame("red", ("web", 5), ROUTED, upper=Raw(bytes(1472)), frag=185, flags="MF", id=9, proto=17)

    sent = pieces(n.receive(n.gateway(), later), 4)

    assert [(piece[IP].frag, str(piece[IP].flags), piece[IP].len) for piece in sent] == [
        (185, "MF", 1452),
        (185 + 179, "MF", 60),
    ]


def test_octets_on_the_way_to_a_local_port_are_not_limited() -> None:
    """Nothing of the underlay is between two VMs of one host."""
    frame = sized(1500, ("db", 6), flags="DF")

    delivered, _ = n.to_port(n.send(n.host("hv1"), ("red", "web", 5), frame))

    assert delivered.port == n.port("red", "db", 6)


def learned(mtu: int, *, now: float = 0, version: int = 4) -> Forwarder:
    forwarder = n.gateway(pa_version=version)
    assert forwarder.path_mtu_reported(bytes(n.pa("hv2", version)), 5001, mtu, now)
    return forwarder


def told_mtu(
    forwarder: Forwarder, now: float, destination: tuple[str, int] = ROUTED, version: int = 4
) -> int:
    frame = sized(1459 if version == 4 else 1439, destination, flags="DF")
    verdict = n.receive(forwarder, frame, version=version, now=now)
    _, told = n.to_underlay(Answer(n.dropped(verdict, DropReason.TOO_BIG)))
    return int(told[ICMP].nexthopmtu)


@pytest.mark.parametrize(("version", "overhead"), [(4, 42), (6, 62)])
def test_what_the_underlay_reports_of_a_path_is_told(version: int, overhead: int) -> None:
    assert told_mtu(learned(1400, version=version), 0, version=version) == 1400 - overhead


def test_reported_path_mtu_is_of_that_path_only() -> None:
    forwarder = learned(1400)

    verdict = n.receive(forwarder, sized(1458, ("db", 6), flags="DF"))

    assert n.to_underlay(verdict)[0].destination == n.pa("hv1")


def test_reported_path_mtu_is_forgotten_after_its_lifetime() -> None:
    forwarder = learned(1400, now=100)

    assert told_mtu(forwarder, 100 + 599) == 1358
    assert told_mtu(forwarder, 100 + 600) == 1458


@pytest.mark.parametrize("known", [False, True], ids=["new flow", "known flow"])
def test_forged_report_does_not_take_a_tenants_ipv6_away(known: bool) -> None:
    """Nobody may be told less than 1280 octets, so as many are sent whatever a report says."""
    forwarder = learned(576)
    least = sized(1280, ROUTED, 6)
    if known:
        n.to_underlay(n.receive(forwarder, least))

    n.to_underlay(n.receive(forwarder, least))

    verdict = n.receive(forwarder, sized(1281, ROUTED, 6))
    _, told = n.to_underlay(Answer(n.dropped(verdict, DropReason.TOO_BIG)))
    assert told[ICMPv6PacketTooBig].mtu == 1280


def test_report_about_a_vsid_that_nobody_has_is_not_believed() -> None:
    forwarder = n.gateway()

    assert not forwarder.path_mtu_reported(bytes(n.pa("hv2")), 0xDEAD, 1400, 0)
    assert told_mtu(forwarder, 0) == 1458


def with_port_of(mtu: int) -> Forwarder:
    """hv2, with a VM's interface of a size of its own."""
    host = n.host("hv2", mtu=9000)
    host.port_mtu_is(n.port("red", "web", 6), mtu)
    return host


@pytest.mark.parametrize("known", [False, True], ids=["new flow", "known flow"])
def test_switched_packet_that_a_vms_own_interface_does_not_carry_is_told_of(known: bool) -> None:
    host = with_port_of(1500)
    if known:
        n.to_port(n.receive(host, sized(1500, SWITCHED, flags="DF"), sender="hv1"))

    verdict = n.receive(host, sized(1501, SWITCHED, flags="DF"), sender="hv1")

    _, told = n.to_underlay(Answer(n.dropped(verdict, DropReason.TOO_BIG)))
    assert (told[IP].src, told[ICMP].nexthopmtu) == (n.ca("web", 6), 1500)


def test_routed_packet_that_a_vms_own_interface_does_not_carry_is_told_of_by_the_gateway() -> None:
    host = n.host("hv1", mtu=9000)
    host.port_mtu_is(n.port("red", "db", 6), 1500)

    verdict = n.send(host, ("red", "web", 5), sized(1501, ("db", 6), flags="DF"))

    _, told = n.to_port(Answer(n.dropped(verdict, DropReason.TOO_BIG)))
    assert (told[IP].src, told[ICMP].nexthopmtu) == (n.ca("web", 1), 1500)


@pytest.mark.parametrize("version", [4, 6])
def test_packet_that_another_host_has_routed_to_a_smaller_interface_is_told_of_where_it_came_from(
    version: int,
) -> None:
    """hv2 routes from db to web, and cannot know what the VM's interface at hv1 carries."""
    frame = sized(1401, ("web", 5), version, **({"flags": "DF"} if version == 4 else {}))
    layer = frame[IP] if version == 4 else frame[IPv6]
    layer.src = n.ca("db", 5, version)
    frame.src = str(n.router_mac("red", "web"))
    host = n.host("hv1")
    host.port_mtu_is(n.port("red", "web", 5), 1400)

    verdict = n.receive(host, frame, sender="hv2", subnet="web")

    emission, told = n.to_underlay(Answer(n.dropped(verdict, DropReason.TOO_BIG)))
    assert (emission.destination, emission.vsid) == (n.pa("hv2"), n.VSIDS["red", "db"])
    assert (told.src, told.dst) == (str(n.router_mac("red", "db")), str(n.mac("red", "db", 5)))
    # The gateway's address would be refused from a host; the destination's is admitted.
    error = told[IP] if version == 4 else told[IPv6]
    assert (error.src, error.dst) == (n.ca("web", 5, version), n.ca("db", 5, version))
    assert (told[ICMP].nexthopmtu if version == 4 else told[ICMPv6PacketTooBig].mtu) == 1400
    delivered, _ = n.to_port(
        n.host("hv2").from_underlay(n.from_host("hv1", to="hv2"), emission.payload, now=0)
    )
    assert delivered.port == n.port("red", "db", 5)


def test_packet_for_a_smaller_interface_is_fragmented_where_it_may_be() -> None:
    frame = sized(3000, SWITCHED)

    verdict = n.receive(with_port_of(1500), frame, sender="hv1")

    assert isinstance(verdict, Forward)
    pieces = [Ether(each.frame)[IP] for each in verdict.emissions if isinstance(each, ToPort)]
    assert len(pieces) == 3
    assert all(piece.len <= 1500 for piece in pieces)
    assert bytes(defragment(pieces)[0].payload) == bytes(frame[IP].payload)


def test_flow_that_was_known_before_heeds_a_new_path_mtu() -> None:
    forwarder = n.gateway()
    frame = sized(1458, flags="DF")
    n.to_underlay(n.receive(forwarder, frame))
    n.to_underlay(n.receive(forwarder, frame))
    forwarder.path_mtu_reported(bytes(n.pa("hv2")), 5001, 1400, 0)

    _, told = n.to_underlay(Answer(n.dropped(n.receive(forwarder, frame), DropReason.TOO_BIG)))

    assert told[ICMP].nexthopmtu == 1358


def test_ipv6_sender_is_never_told_less_than_1280() -> None:
    """RFC 8200 section 5: no link may carry less, and RFC 8201 section 4 has the sender ignore it."""
    forwarder = learned(1280, version=6)

    verdict = n.receive(forwarder, sized(1300, ROUTED, 6), version=6)

    _, told = n.to_underlay(Answer(n.dropped(verdict, DropReason.TOO_BIG)))
    assert told[ICMPv6PacketTooBig].mtu == 1280


@pytest.mark.parametrize(
    ("node", "version", "mtu"),
    [
        pytest.param("hv2", 4, 1500, id="as large as the link"),
        pytest.param("hv2", 4, 9000, id="larger than the link"),
        pytest.param("hv2", 4, 575, id="less than every IPv4 host takes"),
        pytest.param("hv2", 6, 1279, id="less than every IPv6 link carries"),
        pytest.param("hv2", 4, 0, id="zero"),
        pytest.param(None, 4, 1400, id="of an address that is no member"),
    ],
)
def test_implausible_report_is_not_believed(node: str | None, version: int, mtu: int) -> None:
    forwarder = n.gateway(pa_version=version)
    destination = bytes(n.pa(node, version)) if node else bytes((203, 0, 113, 99))

    assert not forwarder.path_mtu_reported(destination, 5001, mtu, 0)
    assert told_mtu(forwarder, 0, version=version) == (1458 if version == 4 else 1438)


@pytest.mark.parametrize(("version", "mtu"), [(4, 576), (6, 1280)])
def test_lowest_plausible_report_is_believed(version: int, mtu: int) -> None:
    assert told_mtu(learned(mtu, version=version), 0, version=version) == mtu - (42 if version == 4 else 62)


def test_larger_underlay_carries_more() -> None:
    verdict = n.receive(n.gateway(mtu=9000), sized(8958, flags="DF"))

    assert 20 + len(n.to_underlay(verdict)[0].payload) == 9000
