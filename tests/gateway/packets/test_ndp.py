from __future__ import annotations

import pytest

from gateway.packets import ip, ndp
from gateway.packets.checksum import transport_checksum
from policies.addresses import Address, MacAddress
from policies.errors import MalformedPacket
from policies.facts import ICMPV6

MAC = MacAddress.parse("02:00:00:00:01:05")
ASKER = Address.parse("fd00:1::5")
TARGET = Address.parse("fd00:1::6")
UNSPECIFIED = bytes(16)
ALL_NODES = Address.parse("ff02::1")


def solicitation(
    *,
    source: bytes = ASKER,
    destination: bytes | None = None,
    target: bytes = TARGET,
    code: int = 0,
    options: bytes = b"\x01\x01" + MAC,
    hop_limit: int = 255,
    damage: int = 0,
) -> bytes:
    """Build a solicitation octet by octet, so that each rule can be broken alone."""
    destination = ndp.solicited_node(target) if destination is None else destination
    message = bytes([ndp.NEIGHBOUR_SOLICITATION, code, 0, 0, 0, 0, 0, 0]) + target + options
    checksum = transport_checksum(source, destination, ICMPV6, message) ^ damage
    message = message[:2] + checksum.to_bytes(2) + message[4:]
    return ip.build(source, destination, ICMPV6, message, hop_limit=hop_limit)


def decode(packet: bytes) -> ndp.NeighbourSolicitation:
    return ndp.decode_solicitation_untrusted(packet, ip.decode_untrusted(packet))


def test_the_group_of_an_address_ends_in_its_last_three_octets() -> None:
    assert ndp.solicited_node(Address.parse("fd00::12:3456")) == Address.parse("ff02::1:ff12:3456")


def test_whole_solicitation() -> None:
    packet = solicitation()

    assert decode(packet) == ndp.NeighbourSolicitation(ASKER, ndp.solicited_node(TARGET), TARGET, MAC)
    assert ndp.encode_solicitation(ASKER, ndp.solicited_node(TARGET), TARGET, MAC) == packet
    assert not decode(packet).is_probe


def test_solicitation_to_one_host_may_leave_out_the_mac() -> None:
    assert decode(solicitation(destination=TARGET, options=b"")).source_mac is None


def test_probe() -> None:
    probe = decode(solicitation(source=UNSPECIFIED, options=b""))

    assert probe.is_probe
    assert probe.source_mac is None


def test_ethernet_padding_behind_it_is_ignored() -> None:
    assert decode(solicitation() + bytes(7)) == decode(solicitation())


def test_options_that_nobody_knows_are_skipped() -> None:
    nonce = bytes.fromhex("0e01 010203040506")  # RFC 3971

    assert decode(solicitation(options=nonce + b"\x01\x01" + MAC)).source_mac == MAC


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(solicitation(hop_limit=254), id="from beyond the link"),
        pytest.param(solicitation(damage=1), id="wrong checksum"),
        pytest.param(solicitation(code=1), id="code is not 0"),
        pytest.param(solicitation(target=ALL_NODES, destination=TARGET), id="target is a group"),
        pytest.param(solicitation(target=TARGET[:12], destination=TARGET, options=b""), id="too short"),
        pytest.param(solicitation(options=b"\x0e\x00" + bytes(6)), id="option of length 0"),
        pytest.param(
            solicitation(options=b"\x01\x01" + MAC + b"\x0e\x00" + bytes(6)), id="last is of length 0"
        ),
        pytest.param(solicitation(options=b"\x01\x02" + MAC), id="option beyond the end"),
        pytest.param(solicitation(options=b"\x01"), id="half an option"),
        pytest.param(solicitation(options=b"\x01\x02" + bytes(14)), id="MAC of another length"),
        pytest.param(solicitation(source=UNSPECIFIED), id="probe that names a MAC"),
        pytest.param(
            solicitation(source=UNSPECIFIED, destination=TARGET, options=b""), id="probe to a single host"
        ),
        pytest.param(
            solicitation(source=UNSPECIFIED, destination=ALL_NODES, options=b""), id="probe to all nodes"
        ),
    ],
)
def test_solicitation_that_breaks_a_rule_of_rfc_4861_section_7_1_1_is_malformed(packet: bytes) -> None:
    with pytest.raises(MalformedPacket):
        decode(packet)


def test_fragmented_solicitation_is_malformed() -> None:
    packet = solicitation()
    fragment_header = bytes([ICMPV6, 0, 0, 1, 0, 0, 0, 1])
    header = ip.ipv6_header(ASKER, TARGET, ip.FRAGMENT, len(packet) - 40 + 8, hop_limit=255)

    with pytest.raises(MalformedPacket, match="fragment"):
        decode(header + fragment_header + packet[40:])


def test_an_advertisement_is_no_solicitation() -> None:
    packet = ndp.advertisement(TARGET, ASKER, TARGET, MAC, router=False, solicited=True)

    with pytest.raises(MalformedPacket):
        decode(packet)


@pytest.mark.parametrize("router", [True, False])
@pytest.mark.parametrize("override", [True, False])
def test_advertisement_says_what_it_was_given(router: bool, override: bool) -> None:
    packet = ndp.advertisement(TARGET, ASKER, TARGET, MAC, router=router, solicited=True, override=override)
    facts = ip.decode_untrusted(packet)

    assert facts.hop_limit == 255
    assert ndp.decode_advertisement_untrusted(packet, facts) == ndp.NeighbourAdvertisement(
        TARGET, ASKER, TARGET, MAC, router=router, solicited=True, override=override
    )


def test_advertisement_to_a_group_cannot_have_been_asked_for() -> None:
    asked = ndp.advertisement(TARGET, ALL_NODES, TARGET, MAC, router=False, solicited=True)
    told = ndp.advertisement(TARGET, ALL_NODES, TARGET, MAC, router=False, solicited=False)

    assert not ndp.decode_advertisement_untrusted(told, ip.decode_untrusted(told)).solicited
    with pytest.raises(MalformedPacket):
        ndp.decode_advertisement_untrusted(asked, ip.decode_untrusted(asked))
