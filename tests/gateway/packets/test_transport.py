from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.packets import ip
from gateway.packets.checksum import transport_checksum
from gateway.packets.transport import clamp_mss, flow_id
from policies.addresses import Address
from policies.facts import TCP, TCP_ACK, TCP_SYN, UDP

ENDS = [
    (Address.parse("10.0.1.5"), Address.parse("10.0.2.5")),
    (Address.parse("fd00:1::5"), Address.parse("fd00:2::5")),
]
MSS_1460 = bytes([2, 4, 0x05, 0xB4])
NOP = b"\x01"


def tcp(ends: tuple[bytes, bytes], options: bytes, flags: int = TCP_SYN, payload: bytes = b"") -> bytes:
    options += bytes(-len(options) % 4)
    header = bytearray(20)
    header[0:4] = bytes.fromhex("c001 0050")
    header[12] = (20 + len(options)) // 4 << 4
    header[13] = flags
    segment = bytes(header) + options + payload
    checksum = transport_checksum(*ends, TCP, segment)
    return ip.build(*ends, TCP, segment[:16] + checksum.to_bytes(2) + segment[18:])


def clamp(packet: bytes, limit: int) -> bytes:
    return clamp_mss(packet, ip.decode_untrusted(packet), limit)


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("flags", [TCP_SYN, TCP_SYN | TCP_ACK])
def test_an_mss_above_the_limit_is_lowered_and_the_checksum_stays_right(
    ends: tuple[bytes, bytes], flags: int
) -> None:
    packet = tcp(ends, MSS_1460 + bytes.fromhex("0402 0303 07"), flags)

    assert clamp(packet, 1418) == tcp(ends, bytes([2, 4]) + (1418).to_bytes(2) + packet[-8:][:5], flags)


@pytest.mark.parametrize("ends", ENDS)
def test_an_mss_at_an_odd_place_is_lowered_and_the_checksum_stays_right(ends: tuple[bytes, bytes]) -> None:
    packet = tcp(ends, NOP + MSS_1460)

    assert clamp(packet, 1418) == tcp(ends, NOP + bytes([2, 4]) + (1418).to_bytes(2))


def test_every_mss_option_is_lowered() -> None:
    lowered = bytes([2, 4]) + (1418).to_bytes(2)

    assert clamp(tcp(ENDS[0], MSS_1460 + NOP + MSS_1460), 1418) == tcp(ENDS[0], lowered + NOP + lowered)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(tcp(ENDS[0], bytes([2, 4]) + (1418).to_bytes(2)), id="at the limit"),
        pytest.param(tcp(ENDS[0], b""), id="no options"),
        pytest.param(tcp(ENDS[0], bytes.fromhex("0402 0303 07")), id="no MSS"),
        pytest.param(tcp(ENDS[0], MSS_1460, TCP_ACK), id="no SYN"),
        pytest.param(tcp(ENDS[0], b"\x00" + MSS_1460), id="behind the end of options"),
        pytest.param(tcp(ENDS[0], b"\x08\x00" + MSS_1460), id="behind an option of length 0"),
        pytest.param(tcp(ENDS[0], b"\x08\x01" + MSS_1460), id="behind an option of length 1"),
        pytest.param(tcp(ENDS[0], b"\x08\x28" + MSS_1460), id="behind an option beyond the end"),
        pytest.param(tcp(ENDS[0], bytes([2, 3, 0xFF, 1])), id="MSS of another length"),
        pytest.param(tcp(ENDS[0], NOP * 3, payload=MSS_1460), id="in the payload"),
        pytest.param(tcp(ENDS[0], NOP * 2 + MSS_1460[:2], payload=b"\xff\xff"), id="half in the payload"),
        pytest.param(tcp(ENDS[0], NOP * 3 + MSS_1460[:1]), id="cut off behind its type"),
        pytest.param(
            ip.build(*ENDS[0], UDP, bytes.fromhex("c001 0050 000c 0000") + MSS_1460), id="in a UDP datagram"
        ),
    ],
)
def test_whatever_need_not_be_changed_is_the_same_object(packet: bytes) -> None:
    assert clamp(packet, 1418) is packet


@given(options=st.binary(max_size=40), limit=st.integers(0, 0xFFFF))
def test_any_options_leave_a_packet_of_the_same_length_and_a_right_checksum(
    options: bytes, limit: int
) -> None:
    packet = clamp(tcp(ENDS[0], options), limit)

    assert len(packet) == len(tcp(ENDS[0], options))
    assert transport_checksum(*ENDS[0], TCP, packet[20:]) in (0, 0xFFFF)


def udp(ends: tuple[bytes, bytes], ports: str = "c001 0035") -> bytes:
    return ip.build(*ends, UDP, bytes.fromhex(ports + "0008 0000"))


def test_flow_ids_are_the_same_in_every_process() -> None:
    program = (
        "from gateway.packets import ip, transport\n"
        f"print(transport.flow_id(ip.decode_untrusted({udp(ENDS[0])!r})))"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert int(other.stdout) == flow_id(ip.decode_untrusted(udp(ENDS[0])))


def test_flow_ids_spread_over_their_range() -> None:
    seen = {flow_id(ip.decode_untrusted(udp(ENDS[0], f"{port:04x} 0035"))) for port in range(4096)}

    assert len(seen) == 256


@pytest.mark.parametrize("ends", ENDS)
def test_all_fragments_of_a_packet_have_one_flow_id(ends: tuple[bytes, bytes]) -> None:
    whole = ip.decode_untrusted(udp(ends))
    first = msgspec.structs.replace(whole, more_fragments=True)
    later = msgspec.structs.replace(whole, source_port=0, destination_port=0, fragment_offset=1480)

    assert flow_id(first) == flow_id(later)
