"""What guests ask the network: DHCP, answered from the record, and router solicitations."""

from __future__ import annotations

import msgspec
import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from gateway.forwarding.directory import Directory
from gateway.forwarding.drops import DropReason
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Answer, Forward, Verdict
from policies.model import AccessRule, Action, Network
from policies.tables import Tables
from tests import networks as n

ROUTER = str(n.router_mac("red", "web"))
SELF = str(n.mac("red", "web", 5))
WEB5 = ("red", "web", 5)
OWN, GATEWAY = n.ca("web", 5), n.ca("web", 1)


def ask(
    kind: str,
    *options: tuple[str, object],
    source: str = "0.0.0.0",
    to: str = "255.255.255.255",
    chaddr: str = SELF,
    **fields: object,
) -> Packet:
    """A client's message, broadcast unless it is sent to an address."""
    return (
        Ether(src=SELF, dst=n.BROADCAST if to == "255.255.255.255" else ROUTER)
        / IP(src=source, dst=to)
        / UDP(sport=68, dport=67)
        / BOOTP(op=1, xid=7637, chaddr=bytes.fromhex(chaddr.replace(":", "")), **fields)
        / DHCP(options=[("message-type", kind), *options, "end"])
    )


def answer(verdict: Verdict) -> tuple[Packet, dict[str, object]]:
    """The answer's frame, and its options by name."""
    assert isinstance(verdict, Answer), verdict
    _, frame = n.to_port(verdict)
    return frame, options_of(frame)


def options_of(frame: Packet) -> dict[str, object]:
    # Building it again gives scapy's checksums instead of those that were sent.
    assert bytes(frame) == bytes(unchecked(frame)), "a wrong checksum"
    return {option[0]: option[1] for option in frame[DHCP].options if isinstance(option, tuple)}


def unchecked(frame: Packet) -> Packet:
    copy = frame.copy()
    del copy[IP].chksum, copy[UDP].chksum
    return copy


def test_discover_is_offered_the_records_address() -> None:
    frame, options = answer(n.send(n.host("hv1"), WEB5, ask("discover")))

    assert (frame.src, frame.dst) == (ROUTER, SELF)
    assert (frame[IP].src, frame[IP].dst, frame[IP].ttl) == (GATEWAY, OWN, 64)
    assert (frame[UDP].sport, frame[UDP].dport) == (67, 68)
    assert (frame[BOOTP].op, frame[BOOTP].xid) == (2, 7637)
    assert (frame[BOOTP].yiaddr, frame[BOOTP].ciaddr, frame[BOOTP].giaddr) == (OWN, "0.0.0.0", "0.0.0.0")
    assert frame[BOOTP].chaddr[:6] == n.mac(*WEB5)
    assert options == {
        "message-type": 2,
        "server_id": GATEWAY,
        "lease_time": 86_400,
        "renewal_time": 43_200,
        "rebinding_time": 75_600,
        "subnet_mask": "255.255.255.0",
        "router": GATEWAY,
        "interface-mtu": 1458,
    }


@pytest.mark.parametrize(
    "request_frame",
    [
        pytest.param(ask("request", ("server_id", GATEWAY), ("requested_addr", OWN)), id="selects the offer"),
        pytest.param(ask("request", ("requested_addr", OWN)), id="has restarted"),
        pytest.param(ask("request", source=OWN, to=GATEWAY, ciaddr=OWN), id="renews"),
        pytest.param(ask("request", source=OWN, ciaddr=OWN), id="rebinds"),
    ],
)
def test_request_for_the_records_address_is_acknowledged(request_frame: Packet) -> None:
    frame, options = answer(n.send(n.host("hv1"), WEB5, request_frame))

    assert (options["message-type"], options["lease_time"], options["interface-mtu"]) == (5, 86_400, 1458)
    assert (frame[BOOTP].yiaddr, frame[IP].dst, frame.dst) == (OWN, OWN, SELF)


@pytest.mark.parametrize(
    "request_frame",
    [
        pytest.param(
            ask("request", ("server_id", GATEWAY), ("requested_addr", "10.0.1.6")), id="selects another's"
        ),
        pytest.param(ask("request", ("requested_addr", "192.168.7.7")), id="has restarted elsewhere"),
        pytest.param(ask("request", ciaddr="10.0.1.9"), id="renews what it had"),
    ],
)
def test_request_for_any_other_address_is_refused(request_frame: Packet) -> None:
    frame, options = answer(n.send(n.host("hv1"), WEB5, request_frame))

    assert options == {"message-type": 6, "server_id": GATEWAY}
    assert (frame[BOOTP].yiaddr, frame[BOOTP].ciaddr) == ("0.0.0.0", "0.0.0.0")
    # The client has no address yet, or not a right one; the frame is still for it alone.
    assert (frame[IP].dst, frame.dst) == ("255.255.255.255", SELF)


def test_client_that_knows_its_address_is_informed_of_the_rest() -> None:
    frame, options = answer(n.send(n.host("hv1"), WEB5, ask("inform", source=OWN, to=GATEWAY, ciaddr=OWN)))

    assert (options["message-type"], options["router"], options["interface-mtu"]) == (5, GATEWAY, 1458)
    assert "lease_time" not in options
    assert (frame[BOOTP].yiaddr, frame[BOOTP].ciaddr, frame[IP].dst) == ("0.0.0.0", OWN, OWN)


@pytest.mark.parametrize(
    "request_frame",
    [
        pytest.param(ask("decline", ("requested_addr", OWN), ("server_id", GATEWAY)), id="declines"),
        pytest.param(ask("release", source=OWN, to=GATEWAY, ciaddr=OWN), id="releases"),
        pytest.param(
            ask("request", ("server_id", "10.0.1.77"), ("requested_addr", OWN)), id="takes another server's"
        ),
        pytest.param(ask("request"), id="asks for nothing"),
        pytest.param(ask("offer"), id="offers"),
        pytest.param(ask("inform", ciaddr="10.0.1.9"), id="informs of another address"),
        pytest.param(ask("discover", giaddr="10.0.1.77"), id="comes by a relay"),
    ],
)
def test_what_needs_no_answer_gets_none(request_frame: Packet) -> None:
    assert n.dropped(n.send(n.host("hv1"), WEB5, request_frame), DropReason.TO_GATEWAY) == ()


def test_client_that_takes_only_broadcasts_gets_one_in_a_frame_for_it_alone() -> None:
    frame, _ = answer(n.send(n.host("hv1"), WEB5, ask("discover", flags=0x8000)))

    assert (frame[IP].dst, frame.dst, frame[BOOTP].yiaddr) == ("255.255.255.255", SELF, OWN)


def test_client_is_told_its_own_identifier() -> None:
    _, options = answer(n.send(n.host("hv1"), WEB5, ask("discover", ("client_id", b"\x01vm"))))

    assert options["client_id"] == b"\x01vm"


def test_client_that_asks_for_one_of_several_addresses_is_offered_that() -> None:
    directory = n.directory(n.network())
    record = directory.find(n.VSIDS["red", "web"], bytes([10, 0, 1, 5]))
    assert record is not None
    second = msgspec.structs.replace(record, ca=type(record.ca).parse("10.0.1.200"))
    host = n.host("hv1", known=Directory([*directory, second]))

    frame, _ = answer(n.send(host, WEB5, ask("discover", ("requested_addr", "10.0.1.200"))))
    assert frame[BOOTP].yiaddr == "10.0.1.200"
    frame, _ = answer(n.send(host, WEB5, ask("discover")))
    assert frame[BOOTP].yiaddr == OWN


def test_interface_that_carries_less_lowers_the_mtu() -> None:
    host = n.host("hv1")
    host.port_mtu_is(n.port(*WEB5), 1400)

    assert answer(n.send(host, WEB5, ask("discover")))[1]["interface-mtu"] == 1400


def test_message_in_the_name_of_another_mac_is_dropped() -> None:
    request = ask("discover", chaddr=str(n.mac("red", "web", 6)))

    n.dropped(n.send(n.host("hv1"), WEB5, request), DropReason.SPOOFED_SOURCE)


@pytest.mark.parametrize("broken", ["checksum", "cookie", "fragment"])
def test_broken_message_is_malformed(broken: str) -> None:
    request = ask("discover")
    if broken == "checksum":
        request[UDP].chksum = 0x1234
    elif broken == "cookie":
        request[BOOTP].options = b"none"
    else:
        request[IP].flags = "MF"
        request[BOOTP].options = b"\x63\x82\x53\x63\x35\x01\x01\xff"
        request[BOOTP].remove_payload()
        request /= bytes(4)

    n.dropped(n.send(n.host("hv1"), WEB5, request), DropReason.MALFORMED)


def test_host_passes_on_what_only_the_gateway_has_a_record_for_and_hands_over_its_answer() -> None:
    """Also where the tenant's access rules allow nothing like it."""
    rule = AccessRule(name="web", action=Action.ALLOW, protocol=6)
    net = n.network(n.tenant("red", access=(rule,)))
    host = n.host("hv1", net, known=Directory())
    request = ask("discover", flags=0x8000)

    passed = n.send(host, WEB5, request)
    assert isinstance(passed, Forward)
    emission, inner = n.to_underlay(passed)
    assert (emission.destination, bytes(inner)) == (n.pa("edge-1"), bytes(request))

    said, _ = n.to_underlay(n.gateway(net).from_underlay(n.from_host("hv1"), emission.payload, now=0))
    delivered, frame = n.to_port(host.from_underlay(n.from_host("edge-1", to="hv1"), said.payload, now=0))
    assert delivered.port == n.port(*WEB5)
    assert (frame[BOOTP].yiaddr, options_of(frame)["interface-mtu"]) == (OWN, 1458)


def test_gateway_answers_over_ipv6_with_what_that_carries() -> None:
    _, frame = n.to_underlay(n.receive(n.gateway(), ask("discover"), version=6))

    assert options_of(frame)["interface-mtu"] == 1438


def test_vm_that_nobody_has_recorded_hears_nothing() -> None:
    net = n.network()
    forwarder = Forwarder(n.gateway(net).node, Tables.compile(net), Directory())
    said = n.receive(forwarder, ask("discover"))

    assert n.dropped(said, DropReason.NO_RECORD) == ()


def test_address_of_another_tenant_is_not_offered() -> None:
    request = ask("discover")
    request[BOOTP].chaddr = n.mac("blue", "web", 5)
    request.src = str(n.mac("blue", "web", 5))

    n.dropped(n.receive(n.gateway(), request), DropReason.NO_RECORD)


def test_host_answers_its_own_vms_only() -> None:
    n.dropped(n.receive(n.host("hv2"), ask("discover")), DropReason.NOT_HERE)


def test_nobody_but_the_gateway_may_answer() -> None:
    offer = n.frame("red", ("web", 6), ("web", 5), upper=UDP(sport=67, dport=68) / BOOTP(op=2))
    offer[IP].src = GATEWAY

    n.dropped(n.receive(n.host("hv1"), offer, sender="hv2"), DropReason.SPOOFED_SOURCE)


def without(net: Network, **switches: bool) -> Network:
    """The same network, with something switched off in every subnet."""
    tenants = tuple(
        msgspec.structs.replace(
            each, subnets=tuple(msgspec.structs.replace(subnet, **switches) for subnet in each.subnets)
        )
        for each in net.tenants
    )
    return msgspec.structs.replace(net, tenants=tenants)


def test_dhcp_can_be_turned_off() -> None:
    off = without(n.network(), dhcp=False)
    n.dropped(n.send(n.host("hv1", off), WEB5, ask("discover")), DropReason.GROUP_NOT_ALLOWED)

    # A tenant with a server of its own needs broadcasts.
    carried = n.host("hv1", without(n.network(n.tenant("red", broadcast=True)), dhcp=False))
    assert isinstance(n.send(carried, WEB5, ask("discover")), Forward)


def solicit(source: str = "fe80::5", *, hop_limit: int = 255, lladdr: bool = True) -> Packet:
    said = Ether(src=SELF, dst="33:33:00:00:00:02") / IPv6(src=source, dst="ff02::2", hlim=hop_limit)
    said /= ICMPv6ND_RS()
    return said / ICMPv6NDOptSrcLLAddr(lladdr=SELF) if lladdr else said


@pytest.mark.parametrize("at", ["gateway", "port"])
@pytest.mark.parametrize(("source", "to"), [("fe80::5", "fe80::5"), ("::", "ff02::1")])
def test_router_solicitation_is_answered_to_the_asker_alone(at: str, source: str, to: str) -> None:
    request = solicit(source, lladdr=source != "::")

    if at == "gateway":
        _, frame = n.to_underlay(n.receive(n.gateway(), request))
    else:
        _, frame = n.to_port(n.send(n.host("hv1"), WEB5, request))

    assert (frame.src, frame.dst) == (ROUTER, SELF)
    assert (frame[IPv6].src, frame[IPv6].dst, frame[IPv6].hlim) == ("fe80::1", to, 255)
    advertised = frame[ICMPv6ND_RA]
    assert (advertised.M, advertised.O, advertised.routerlifetime) == (0, 0, 65_535)
    assert frame[ICMPv6NDOptSrcLLAddr].lladdr == ROUTER
    assert frame[ICMPv6NDOptMTU].mtu == 1458
    prefix = frame[ICMPv6NDOptPrefixInfo]
    assert (prefix.prefix, prefix.prefixlen, prefix.L, prefix.A) == ("fd00:1::", 64, 1, 0)
    copy = frame.copy()
    del copy[ICMPv6ND_RA].cksum
    assert bytes(copy) == bytes(frame), "a wrong checksum"


@pytest.mark.parametrize(
    "request_frame",
    [
        pytest.param(solicit(hop_limit=254), id="from beyond the link"),
        pytest.param(solicit("::"), id="a MAC, but no address"),
    ],
)
def test_broken_router_solicitation_is_malformed(request_frame: Packet) -> None:
    n.dropped(n.receive(n.gateway(), request_frame), DropReason.MALFORMED)


def test_router_solicitations_can_be_left_unanswered() -> None:
    off = without(n.network(), router_advertisements=False)

    n.dropped(n.send(n.host("hv1", off), WEB5, solicit()), DropReason.TO_GATEWAY)


def test_router_is_advertised_unasked_as_it_is_to_who_asks() -> None:
    host = n.host("hv1")
    _, answer = n.to_port(n.send(host, WEB5, solicit("::", lladdr=False)))

    unasked = host.advertise_router(n.port(*WEB5), now=600.0)

    assert unasked is not None
    assert unasked.port == n.port(*WEB5)
    assert unasked.frame == bytes(answer)
    off = n.host("hv1", without(n.network(), router_advertisements=False))
    assert off.advertise_router(n.port(*WEB5), now=600.0) is None


def test_router_is_not_advertised_at_a_port_whose_vm_is_elsewhere() -> None:
    host, port = n.host("hv1"), n.port(*WEB5)

    host.moves.port_closed(port)
    assert host.advertise_router(port, now=600.0) is None

    host.moves.port_opened(port, now=601.0)
    assert host.advertise_router(port, now=602.0) is not None


def test_host_hands_over_the_gateways_advertisement() -> None:
    emission, _ = n.to_underlay(n.receive(n.gateway(), solicit()))

    delivered, frame = n.to_port(
        n.host("hv1").from_underlay(n.from_host("edge-1", to="hv1"), emission.payload, now=0)
    )

    assert delivered.port == n.port(*WEB5)
    assert frame[ICMPv6ND_RA].routerlifetime == 65_535


def test_vm_may_not_advertise_itself_as_a_router() -> None:
    said = Ether(src=SELF, dst="33:33:00:00:00:01") / IPv6(src="fe80::5", dst="ff02::1", hlim=255)

    n.dropped(n.send(n.host("hv1"), WEB5, said / ICMPv6ND_RA()), DropReason.NEIGHBOUR_REPLY)
