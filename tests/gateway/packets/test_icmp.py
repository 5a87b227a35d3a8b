from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec
import pytest

from gateway.packets import icmp, ip
from gateway.packets.checksum import internet_checksum, transport_checksum
from policies.addresses import Address
from policies.facts import ICMP, ICMPV6, UDP, PacketFacts

V4 = (Address.parse("10.0.1.5"), Address.parse("10.0.2.6"))
V6 = (Address.parse("fd00:1::5"), Address.parse("fd00:2::6"))
GATEWAY = {4: Address.parse("10.0.1.1"), 6: Address.parse("fd00:1::1")}
BOTH = pytest.mark.parametrize("ends", [V4, V6])


def datagram(ends: tuple[bytes, bytes], size: int) -> bytes:
    payload = (bytes(range(256)) * 8)[:size]
    return ip.build(*ends, UDP, struct.pack("!HHHH", 49153, 53, 8 + size, 0) + payload)


def checksum_is_right(packet: bytes, facts: PacketFacts) -> bool:
    message = packet[facts.header_length : facts.total_length]
    if facts.version == 4:
        return internet_checksum(message) == 0
    return transport_checksum(facts.source, facts.destination, ICMPV6, message) == 0


Errors = Callable[[bytes, bytes, PacketFacts], bytes]


def unreachable(what: icmp.Unreachable) -> Errors:
    return lambda source, packet, facts: icmp.unreachable(source, packet, facts, what)


def too_big(source: bytes, packet: bytes, facts: PacketFacts) -> bytes:
    return icmp.too_big(source, packet, facts, 1458)


ERRORS = [
    (icmp.time_exceeded, (11, 0), (3, 0)),
    (too_big, (3, 4), (2, 0)),
    (unreachable(icmp.Unreachable.NETWORK), (3, 0), (1, 0)),
    (unreachable(icmp.Unreachable.HOST), (3, 1), (1, 3)),
    (unreachable(icmp.Unreachable.PORT), (3, 3), (1, 4)),
]


@BOTH
@pytest.mark.parametrize(("make", "v4", "v6"), ERRORS)
def test_an_error_tells_the_sender_what_happened_to_which_packet(
    ends: tuple[bytes, bytes], make: Errors, v4: tuple[int, int], v6: tuple[int, int]
) -> None:
    packet = datagram(ends, 32)
    about = ip.decode_untrusted(packet)

    error = make(GATEWAY[about.version], packet + bytes(6), about)

    facts = ip.decode_untrusted(error)
    assert (facts.source, facts.destination) == (GATEWAY[about.version], ends[0])
    assert (facts.icmp_type, facts.icmp_code) == (v4 if about.version == 4 else v6)
    assert facts.hop_limit == 64
    assert facts.quoted == about
    assert error[facts.header_length + 8 :] == packet
    assert checksum_is_right(error, facts)
    assert icmp.is_error(facts)


@pytest.mark.parametrize(("ends", "longest"), [(V4, 576), (V6, 1280)])
@pytest.mark.parametrize(("make", "v4", "v6"), ERRORS)
def test_an_error_quotes_as_much_as_it_may(
    ends: tuple[bytes, bytes], longest: int, make: Errors, v4: object, v6: object
) -> None:
    packet = datagram(ends, 1400)

    error = make(GATEWAY[packet[0] >> 4], packet, ip.decode_untrusted(packet))

    facts = ip.decode_untrusted(error)
    assert facts.total_length == len(error) == longest
    assert packet.startswith(error[facts.header_length + 8 :])
    assert checksum_is_right(error, facts)


def test_the_mtu_is_where_its_readers_look() -> None:
    packet = datagram(V4, 1400)
    error = icmp.too_big(GATEWAY[4], packet, ip.decode_untrusted(packet), 1458)
    assert error[20:28][4:] == struct.pack("!HH", 0, 1458)  # RFC 1191 section 4

    packet = datagram(V6, 1400)
    error = icmp.too_big(GATEWAY[6], packet, ip.decode_untrusted(packet), 1438)
    assert error[40:48][4:] == struct.pack("!I", 1438)  # RFC 4443 section 3.2


def test_an_mtu_above_sixteen_bits_is_told_as_the_highest() -> None:
    packet = datagram(V4, 100)

    error = icmp.too_big(GATEWAY[4], packet, ip.decode_untrusted(packet), 70000)

    assert error[26:28] == b"\xff\xff"


def test_ipv4_errors_travel_as_internetwork_control() -> None:
    packet = datagram(V4, 100)

    error = icmp.time_exceeded(GATEWAY[4], packet, ip.decode_untrusted(packet))

    assert ip.decode_untrusted(error).traffic_class == 0xC0


def echo_request(ends: tuple[bytes, bytes], payload: bytes = b"abcde") -> bytes:
    version = 4 if len(ends[0]) == 4 else 6
    message = struct.pack("!BBHHH", 8 if version == 4 else 128, 0, 0, 0x1234, 7) + payload
    if version == 4:
        checksum, protocol = internet_checksum(message), ICMP
    else:
        checksum, protocol = transport_checksum(*ends, ICMPV6, message), ICMPV6
    return ip.build(*ends, protocol, message[:2] + checksum.to_bytes(2) + message[4:], hop_limit=9)


@BOTH
def test_echo_reply_returns_what_was_sent(ends: tuple[bytes, bytes]) -> None:
    request = echo_request(ends)

    reply = icmp.echo_reply(request + bytes(9), ip.decode_untrusted(request))

    facts = ip.decode_untrusted(reply)
    assert (facts.source, facts.destination, facts.hop_limit) == (ends[1], ends[0], 64)
    assert (facts.icmp_type, facts.icmp_code) == (0 if facts.version == 4 else 129, 0)
    assert reply[facts.header_length + 4 :] == struct.pack("!HH", 0x1234, 7) + b"abcde"
    assert checksum_is_right(reply, facts)


def test_the_reply_to_a_request_of_zeros_has_a_right_checksum() -> None:
    request = ip.build(*V4, ICMP, b"\x08\x00\xf7\xff" + bytes(12))

    reply = icmp.echo_reply(request, ip.decode_untrusted(request))

    assert reply[20:] == b"\x00\x00\xff\xff" + bytes(12)  # 0 would be refused: RFC 1071's sum of it is 0


@BOTH
def test_a_damaged_echo_request_gets_a_damaged_reply(ends: tuple[bytes, bytes]) -> None:
    request = bytearray(echo_request(ends))
    request[-1] ^= 1

    reply = icmp.echo_reply(bytes(request), ip.decode_untrusted(bytes(request)))

    assert not checksum_is_right(reply, ip.decode_untrusted(reply))


@BOTH
def test_only_a_whole_echo_request_is_one(ends: tuple[bytes, bytes]) -> None:
    facts = ip.decode_untrusted(echo_request(ends))

    assert icmp.is_echo_request(facts)
    assert not icmp.is_echo_request(msgspec.structs.replace(facts, more_fragments=True))
    assert not icmp.is_echo_request(msgspec.structs.replace(facts, icmp_type=0 if ends is V4 else 129))
    assert not icmp.is_echo_request(msgspec.structs.replace(facts, protocol=UDP))
    assert not icmp.is_echo_request(ip.decode_untrusted(datagram(ends, 32)))


@pytest.mark.parametrize("icmp_type", [3, 4, 5, 11, 12])
def test_nothing_is_told_about_an_icmp_error(icmp_type: int) -> None:
    facts = ip.decode_untrusted(ip.build(*V4, ICMP, bytes([icmp_type]) + bytes(7)))

    assert icmp.is_error(facts)
    assert not icmp.may_be_told(facts)


@pytest.mark.parametrize("icmp_type", [1, 2, 3, 4, 100, 127])
def test_nothing_is_told_about_an_icmpv6_error_even_an_unknown_one(icmp_type: int) -> None:
    facts = ip.decode_untrusted(ip.build(*V6, ICMPV6, bytes([icmp_type]) + bytes(7)))

    assert icmp.is_error(facts)
    assert not icmp.may_be_told(facts)


def test_nothing_is_told_about_an_icmpv6_redirect() -> None:
    assert not icmp.may_be_told(ip.decode_untrusted(ip.build(*V6, ICMPV6, b"\x89" + bytes(7))))


@pytest.mark.parametrize(("ends", "protocol", "icmp_type"), [(V4, ICMP, 8), (V6, ICMPV6, 128)])
def test_something_may_be_told_about_an_echo_request(
    ends: tuple[bytes, bytes], protocol: int, icmp_type: int
) -> None:
    facts = ip.decode_untrusted(ip.build(*ends, protocol, bytes([icmp_type]) + bytes(7)))

    assert not icmp.is_error(facts)
    assert icmp.may_be_told(facts)


@BOTH
def test_something_may_be_told_about_a_first_fragment_and_nothing_about_a_later_one(
    ends: tuple[bytes, bytes],
) -> None:
    facts = ip.decode_untrusted(datagram(ends, 32))

    assert icmp.may_be_told(facts)
    assert icmp.may_be_told(msgspec.structs.replace(facts, more_fragments=True))
    assert not icmp.may_be_told(msgspec.structs.replace(facts, fragment_offset=8))


@pytest.mark.parametrize("destination", ["224.0.0.5", "239.1.2.3", "255.255.255.255", "ff02::1", "ff0e::1"])
def test_nothing_is_told_about_a_packet_to_a_group(destination: str) -> None:
    group = Address.parse(destination)
    source = V4[0] if group.version == 4 else V6[0]

    assert not icmp.may_be_told(ip.decode_untrusted(ip.build(source, group, 253, b"")))


@pytest.mark.parametrize(
    "source",
    ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "ff02::1"],
)
def test_nothing_is_told_to_a_source_that_is_not_a_single_host(source: str) -> None:
    address = Address.parse(source)
    destination = V4[1] if address.version == 4 else V6[1]

    assert not icmp.may_be_told(ip.decode_untrusted(ip.build(address, destination, 253, b"")))


@pytest.mark.parametrize("source", ["1.0.0.1", "126.0.0.1", "128.0.0.1", "223.255.255.255", "fe80::1", "::2"])
def test_something_may_be_told_to_a_single_host(source: str) -> None:
    address = Address.parse(source)
    destination = V4[1] if address.version == 4 else V6[1]

    assert icmp.may_be_told(ip.decode_untrusted(ip.build(address, destination, 253, b"")))
