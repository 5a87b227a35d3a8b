"""RFC 4861, neighbour discovery, and the part of RFC 4862 that detects duplicates."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from gateway.forwarding.drops import DropReason
from gateway.packets.checksum import transport_checksum
from tests import networks as n

GATEWAY, OTHER, OWN = n.ca("web", 1, 6), n.ca("web", 6, 6), n.ca("web", 5, 6)
SELF = str(n.mac("red", "web", 5))


def answered(request: Packet) -> Packet:
    return n.to_underlay(n.receive(n.gateway(), request))[1]


def refused(request: Packet) -> None:
    assert n.dropped(n.receive(n.gateway(), request), DropReason.MALFORMED) == ()


def asked(target: str = GATEWAY, **fields: object) -> Packet:
    request = n.solicitation("red", ("web", 5), target)
    for name, value in fields.items():
        setattr(request[ICMPv6ND_NS], name, value)
    return request


def message(octets: bytes) -> Packet:
    """A solicitation's whole ICMPv6 message, with a right checksum."""
    target = bytes.fromhex("fd000001000000000000000000000001")
    base = Ether(src=SELF, dst="33:33:ff:00:00:01") / IPv6(src=OWN, dst="ff02::1:ff00:1", hlim=255, nh=58)
    body = bytes((135, 0, 0, 0)) + octets.replace(b"TARGET", target)
    checksum = transport_checksum(
        bytes.fromhex("fd000001000000000000000000000005"),
        bytes.fromhex("ff0200000000000000000001ff000001"),
        58,
        body,
    )
    return base / Raw(body[:2] + checksum.to_bytes(2) + body[4:])


@pytest.mark.parametrize("hop_limit", [0, 1, 64, 254])
def test_section_7_1_1_hop_limit_must_be_255(hop_limit: int) -> None:
    refused(n.solicitation("red", ("web", 5), GATEWAY, hop_limit=hop_limit))


def test_section_7_1_1_checksum_must_be_right() -> None:
    refused(asked(cksum=1))


@pytest.mark.parametrize("code", [1, 255])
def test_section_7_1_1_code_must_be_zero(code: int) -> None:
    refused(asked(code=code))


@pytest.mark.parametrize("length", range(8, 24))
def test_section_7_1_1_message_must_have_24_octets(length: int) -> None:
    refused(message(bytes(length - 4)))


@pytest.mark.parametrize("target", ["ff02::1", "ff02::1:ff00:1"])
def test_section_7_1_1_target_must_be_no_group(target: str) -> None:
    refused(asked(tgt=target))


@pytest.mark.parametrize(
    "option", [b"\x01\x00" + bytes(6), b"\x0e\x00", b"\x0e\x01" + bytes(6) + b"\x01\x00"]
)
def test_section_7_1_1_options_must_have_a_length(option: bytes) -> None:
    refused(message(bytes(4) + b"TARGET" + option))


@pytest.mark.parametrize("destination", ["ff02::1", "ff02::2", GATEWAY])
def test_section_7_1_1_probe_must_go_to_a_solicited_node_group(destination: str) -> None:
    refused(
        Ether(src=SELF, dst="33:33:ff:00:00:01")
        / IPv6(src="::", dst=destination, hlim=255)
        / ICMPv6ND_NS(tgt=GATEWAY)
    )


def test_section_7_1_1_probe_must_not_name_its_mac() -> None:
    probe = n.solicitation("red", ("web", 5), GATEWAY, source="::")
    refused(probe / ICMPv6NDOptSrcLLAddr(lladdr=SELF))


def test_section_7_1_1_reserved_field_and_unknown_options_are_ignored() -> None:
    reserved = message(b"\xff\xff\xff\xff" + b"TARGET")
    unknown = message(bytes(4) + b"TARGET" + b"\xfd\x01" + bytes(6))

    for request in (reserved, unknown):
        assert answered(request)[ICMPv6ND_NA].tgt == GATEWAY


@pytest.mark.parametrize("target", [GATEWAY, OTHER, "fe80::1"])
def test_section_7_2_4_target_is_copied_and_its_mac_included(target: str) -> None:
    reply = answered(asked(target))

    mac = n.mac("red", "web", 6) if target == OTHER else n.router_mac("red", "web")
    assert reply[ICMPv6ND_NA].tgt == target
    assert reply[ICMPv6NDOptDstLLAddr].lladdr == str(mac)
    assert reply[IPv6].hlim == 255


@pytest.mark.parametrize(("target", "router"), [(GATEWAY, 1), ("fe80::1", 1), (OTHER, 0)])
def test_section_7_2_4_router_flag_says_whether_the_target_is_a_router(target: str, router: int) -> None:
    assert router == answered(asked(target))[ICMPv6ND_NA].R


def test_section_7_2_4_answer_to_a_known_source_is_solicited_and_unicast() -> None:
    reply = answered(asked())

    assert (reply[ICMPv6ND_NA].S, reply[IPv6].dst, reply.dst) == (1, OWN, SELF)


def test_section_7_2_4_answer_to_the_unspecified_source_is_unsolicited_and_to_all_nodes() -> None:
    reply = answered(n.solicitation("red", ("web", 5), OTHER, source="::"))

    assert (reply[ICMPv6ND_NA].S, reply[IPv6].dst) == (0, "ff02::1")


def test_section_7_2_3_who_is_not_known_is_not_answered_for() -> None:
    n.dropped(n.receive(n.gateway(), asked("fd00:1::99")), DropReason.NO_RECORD)


def test_section_7_3_reachability_is_confirmed_by_unicast() -> None:
    request = n.solicitation("red", ("web", 5), OTHER, to=str(n.mac("red", "web", 6)))

    assert answered(request)[ICMPv6ND_NA].S == 1


def test_rfc_4862_section_5_4_address_that_nobody_else_has_stays_free() -> None:
    """5.4.3: an answer, and be it about itself, would make the guest give up its address."""
    own = n.solicitation("red", ("web", 5), OWN, source="::")
    free = n.solicitation("red", ("web", 5), "fd00:1::99", source="::")

    assert n.dropped(n.receive(n.gateway(), own), DropReason.NEIGHBOUR_OWN) == ()
    assert n.dropped(n.receive(n.gateway(), free), DropReason.NO_RECORD) == ()


def test_section_11_advertisements_of_a_vm_are_believed_by_nobody() -> None:
    said = Ether(src=SELF, dst=str(n.mac("red", "web", 6))) / IPv6(src=OWN, dst=OTHER, hlim=255)
    said /= ICMPv6ND_NA(tgt=GATEWAY, R=1, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=SELF)

    n.dropped(n.receive(n.gateway(), said), DropReason.NEIGHBOUR_REPLY)
    n.dropped(n.send(n.host("hv1"), ("red", "web", 5), said), DropReason.NEIGHBOUR_REPLY)
