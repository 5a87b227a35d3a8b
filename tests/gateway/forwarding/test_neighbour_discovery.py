"""Neighbour discovery: answered from the directory, and only if it is what RFC 4861 asks for."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from gateway.forwarding.verdicts import Answer
from tests import networks as n

ROUTER = str(n.router_mac("red", "web"))
SELF = str(n.mac("red", "web", 5))
OTHER = str(n.mac("red", "web", 6))
LINK_LOCAL = "fe80::5"


@pytest.mark.parametrize(
    ("target", "mac", "is_router"),
    [
        pytest.param(n.ca("web", 1, 6), ROUTER, 1, id="gateway"),
        pytest.param("fe80::1", ROUTER, 1, id="router's link-local address"),
        pytest.param(n.ca("web", 6, 6), OTHER, 0, id="other VM"),
    ],
)
@pytest.mark.parametrize("source", [n.ca("web", 5, 6), LINK_LOCAL])
@pytest.mark.parametrize("to", [None, OTHER], ids=["group", "unicast reprobe"])
def test_solicitation_is_answered_at_the_gateway_and_at_a_port(
    target: str, mac: str, is_router: int, source: str, to: str | None
) -> None:
    request = n.solicitation("red", ("web", 5), target, source=source, to=to)

    emission, through_underlay = n.to_underlay(n.receive(n.gateway(), request))
    delivered, direct = n.to_port(n.send(n.host("hv1"), ("red", "web", 5), request))

    assert (emission.destination, emission.vsid) == (n.pa("hv1"), n.VSIDS["red", "web"])
    assert delivered.port == n.port("red", "web", 5)
    for reply in (through_underlay, direct):
        assert (reply.src, reply.dst) == (ROUTER, SELF)
        assert (reply[IPv6].src, reply[IPv6].dst, reply[IPv6].hlim) == (target, source, 255)
        message = reply[ICMPv6ND_NA]
        assert (message.tgt, message.R, message.S, message.O) == (target, is_router, 1, 1)
        assert message[ICMPv6NDOptDstLLAddr].lladdr == mac


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("fd00:1::99", id="nobody's"),
        pytest.param("fd00:2::5", id="VM's in another subnet"),
        pytest.param("fd00:2::1", id="gateway's in another subnet"),
        pytest.param("fe80::6", id="other VM's link-local address"),
    ],
)
def test_gateway_is_silent_about_who_has_no_record_in_the_subnet(target: str) -> None:
    verdict = n.receive(n.gateway(), n.solicitation("red", ("web", 5), target))

    assert n.dropped(verdict, DropReason.NO_RECORD) == ()


@pytest.mark.parametrize("at", ["gateway", "port"])
def test_duplicate_detection_of_ones_own_address_is_left_alone(at: str) -> None:
    request = n.solicitation("red", ("web", 5), n.ca("web", 5, 6), source="::")

    verdict = (
        n.receive(n.gateway(), request)
        if at == "gateway"
        else n.send(n.host("hv1"), ("red", "web", 5), request)
    )

    assert n.dropped(verdict, DropReason.NEIGHBOUR_OWN) == ()


@pytest.mark.parametrize(("target", "mac"), [(n.ca("web", 6, 6), OTHER), ("fe80::1", ROUTER)])
def test_duplicate_detection_of_anothers_address_is_answered_to_all_nodes(target: str, mac: str) -> None:
    request = n.solicitation("red", ("web", 5), target, source="::")

    _, at_gateway = n.to_underlay(n.receive(n.gateway(), request))
    _, at_port = n.to_port(n.send(n.host("hv1"), ("red", "web", 5), request))

    for reply in (at_gateway, at_port):
        assert (reply[IPv6].src, reply[IPv6].dst) == (target, "ff02::1")
        assert (reply[ICMPv6ND_NA].tgt, reply[ICMPv6ND_NA].S) == (target, 0)
        assert reply[ICMPv6NDOptDstLLAddr].lladdr == mac


@pytest.mark.parametrize("source", [n.ca("web", 5, 6), "::"], ids=["solicitation", "duplicate detection"])
def test_host_passes_what_it_cannot_answer_to_the_gateway_and_delivers_the_answer(source: str) -> None:
    host = n.host("hv1", known=n.own_records("hv1"))
    request = n.solicitation("red", ("web", 5), n.ca("web", 6, 6), source=source)

    emission, inner = n.to_underlay(n.send(host, ("red", "web", 5), request))
    assert emission.destination == n.pa("edge-1")
    assert bytes(inner) == bytes(request)

    answer, _ = n.to_underlay(n.gateway().from_underlay(n.from_host("hv1"), emission.payload, now=0))
    verdict = host.from_underlay(n.from_host("edge-1", to="hv1"), answer.payload, now=0)
    delivered, reply = n.to_port(verdict)
    assert delivered.port == n.port("red", "web", 5)
    assert reply[ICMPv6NDOptDstLLAddr].lladdr == OTHER


def asked(**changes: object) -> Packet:
    """A solicitation for the gateway, with something wrong."""
    request = n.solicitation("red", ("web", 5), n.ca("web", 1, 6))
    for field, value in changes.items():
        setattr(request[ICMPv6ND_NS], field, value)
    return request


def with_option(option: bytes) -> Packet:
    request = n.solicitation("red", ("web", 5), n.ca("web", 1, 6))
    request[ICMPv6ND_NS].remove_payload()
    return request / Raw(option)


def probe_of(destination: str, payload: Packet | None = None) -> Packet:
    message = IPv6(src="::", dst=destination, hlim=255) / ICMPv6ND_NS(tgt=n.ca("web", 1, 6))
    return Ether(src=SELF, dst="33:33:ff:00:00:01") / (message / payload if payload else message)


def fragmented() -> Packet:
    whole = n.solicitation("red", ("web", 5), n.ca("web", 1, 6))
    message = bytes(whole[ICMPv6ND_NS])
    header = IPv6(src=whole[IPv6].src, dst=whole[IPv6].dst, hlim=255)
    return Ether(src=SELF, dst=whole.dst) / header / IPv6ExtHdrFragment(nh=58, m=1, id=7) / Raw(message)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(
            n.solicitation("red", ("web", 5), n.ca("web", 1, 6), hop_limit=254), id="from beyond the link"
        ),
        pytest.param(asked(code=1), id="code"),
        pytest.param(asked(cksum=0x1234), id="checksum"),
        pytest.param(asked(tgt="ff02::1"), id="group as target"),
        pytest.param(with_option(b"\x01\x00" + bytes(6)), id="option of length 0"),
        pytest.param(with_option(b"\x01\x02" + bytes(6)), id="option that is cut off"),
        pytest.param(with_option(b"\x01"), id="half an option"),
        pytest.param(probe_of("ff02::1"), id="probe to another group"),
        pytest.param(probe_of("ff02::1:ff00:1", ICMPv6NDOptSrcLLAddr(lladdr=SELF)), id="probe with a MAC"),
        pytest.param(fragmented(), id="in a fragment"),
    ],
)
def test_solicitation_that_is_not_valid_gets_no_answer(request_: Packet) -> None:
    assert n.dropped(n.receive(n.gateway(), request_), DropReason.MALFORMED) == ()
    assert n.dropped(n.send(n.host("hv1"), ("red", "web", 5), request_), DropReason.MALFORMED) == ()


def rogue(message: Packet, *, to: str = "33:33:00:00:00:01", source: str = LINK_LOCAL) -> Packet:
    destination = "ff02::1" if to.startswith("33:33") else n.ca("web", 6, 6)
    return Ether(src=SELF, dst=to) / IPv6(src=source, dst=destination, hlim=255) / message


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(ICMPv6ND_NA(tgt=n.ca("web", 5, 6), R=0, O=1), id="own advertisement"),
        pytest.param(ICMPv6ND_NA(tgt=n.ca("web", 6, 6), R=0, O=1), id="advertisement of another's"),
        pytest.param(ICMPv6ND_RA(), id="router advertisement"),
        pytest.param(ICMPv6ND_Redirect(tgt=LINK_LOCAL, dst="fd00:2::5"), id="redirect"),
    ],
)
@pytest.mark.parametrize("to", ["33:33:00:00:00:01", OTHER])
@pytest.mark.parametrize("broadcast", [False, True])
def test_what_a_vm_says_unasked_goes_nowhere(message: Packet, to: str, broadcast: bool) -> None:
    net = n.network(n.tenant("red", broadcast=broadcast))
    said = rogue(message, to=to)

    is_its_own = ICMPv6ND_NA in message and message.tgt == n.ca("web", 5, 6)
    heard = DropReason.ANNOUNCEMENT if is_its_own else DropReason.NEIGHBOUR_REPLY
    n.dropped(n.send(n.host("hv1", net), ("red", "web", 5), said), heard)
    n.dropped(n.receive(n.gateway(net), said), DropReason.NEIGHBOUR_REPLY)
    n.dropped(n.receive(n.host("hv2", net), said), DropReason.NEIGHBOUR_REPLY)


@pytest.mark.parametrize(
    "message", [ICMPv6ND_RA(), ICMPv6ND_NA(tgt="fd00:1::6"), ICMPv6ND_NS(tgt="fd00:1::6")]
)
def test_vm_may_not_speak_as_the_router(message: Packet) -> None:
    said = rogue(message, source="fe80::1")

    n.dropped(n.send(n.host("hv1"), ("red", "web", 5), said), DropReason.SPOOFED_SOURCE)
    n.dropped(n.receive(n.gateway(), said), DropReason.SPOOFED_SOURCE)


def test_solicitation_is_not_flooded_even_where_multicast_is_carried() -> None:
    forwarder = n.gateway(n.network(n.tenant("red", broadcast=True)))

    n.dropped(n.receive(forwarder, n.solicitation("red", ("web", 5), "fd00:1::99")), DropReason.NO_RECORD)


def test_host_answers_for_its_own_vms_only() -> None:
    request = n.solicitation("red", ("web", 6), n.ca("web", 5, 6))

    n.dropped(n.receive(n.host("hv1"), request, sender="hv2"), DropReason.NOT_HERE)


def test_other_tenants_vm_with_the_same_address_is_not_told_of() -> None:
    request = n.solicitation("blue", ("web", 5), n.ca("web", 6, 6))

    verdict = n.receive(n.gateway(), request, tenant="blue")

    assert isinstance(verdict, Answer)
    assert n.to_underlay(verdict)[1][ICMPv6NDOptDstLLAddr].lladdr == str(n.mac("blue", "web", 6))
