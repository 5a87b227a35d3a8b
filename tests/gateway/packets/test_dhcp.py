from __future__ import annotations

import pytest
from scapy.layers.dhcp import BOOTP, DHCP

from gateway.packets import dhcp
from gateway.packets.dhcp import DhcpMessage, MessageType, Option
from policies.addresses import MacAddress
from policies.errors import MalformedPacket

MAC = MacAddress.parse("02:00:00:00:01:05")
OWN = bytes([10, 0, 1, 5])
ROUTER = bytes([10, 0, 1, 1])


def message(
    *,
    operation: int = 1,
    hardware: bytes = b"\x01\x06",
    cookie: bytes = b"\x63\x82\x53\x63",
    options: bytes = b"\x35\x01\x01\xff",
    server_name: bytes = b"",
    file: bytes = b"",
) -> bytes:
    """Build a message octet by octet, so that each rule can be broken alone."""
    return (
        bytes([operation])
        + hardware
        + bytes(1)
        + (0x1DD5).to_bytes(4)
        + bytes(2)
        + b"\x80\x00"
        + bytes(16)
        + MAC.ljust(16, b"\0")
        + server_name.ljust(64, b"\0")
        + file.ljust(128, b"\0")
        + cookie
        + options
    )


def test_whole_message() -> None:
    decoded = dhcp.decode_untrusted(message(options=b"\x35\x01\x03\x00\x32\x04\x0a\x00\x01\x05\xff\x07"))

    assert decoded == DhcpMessage(
        operation=dhcp.REQUEST,
        message_type=MessageType.REQUEST,
        transaction=0x1DD5,
        flags=dhcp.BROADCAST,
        client_address=bytes(4),
        your_address=bytes(4),
        relay_address=bytes(4),
        hardware_address=MAC,
        options={Option.REQUESTED_ADDRESS: OWN},
    )


def test_scapy_reads_what_we_write_and_we_what_scapy_writes() -> None:
    answer = DhcpMessage(
        operation=dhcp.REPLY,
        message_type=MessageType.ACK,
        transaction=7,
        flags=0,
        client_address=OWN,
        your_address=OWN,
        relay_address=bytes(4),
        hardware_address=MAC,
        options={Option.SERVER_IDENTIFIER: ROUTER, Option.INTERFACE_MTU: (1458).to_bytes(2)},
    )

    read = BOOTP(answer.encode())
    assert (read.op, read.xid, read.ciaddr, read.yiaddr, read.giaddr) == (
        2,
        7,
        "10.0.1.5",
        "10.0.1.5",
        "0.0.0.0",
    )
    assert read.chaddr[:6] == MAC
    assert read[DHCP].options[:4] == [
        ("message-type", 5),
        ("server_id", "10.0.1.1"),
        ("interface-mtu", 1458),
        "end",
    ]
    written = BOOTP(op=1, xid=7, chaddr=bytes(MAC)) / DHCP(
        options=[("message-type", "request"), ("requested_addr", "10.0.1.5"), "end"]
    )
    decoded = dhcp.decode_untrusted(bytes(written))
    assert (decoded.message_type, decoded.transaction, decoded.hardware_address) == (3, 7, MAC)
    assert decoded.options == {Option.REQUESTED_ADDRESS: OWN}


def test_answer_is_as_long_as_bootp_has_it() -> None:
    decoded = dhcp.decode_untrusted(message())

    assert len(decoded.encode()) == 300
    assert dhcp.decode_untrusted(decoded.encode()) == decoded


def test_options_go_on_in_the_file_and_then_in_the_servers_name() -> None:
    decoded = dhcp.decode_untrusted(
        message(
            options=b"\x34\x01\x03\x3d\x01a\xff",
            file=b"\x3d\x01b\x35\x01\x01\xff",
            server_name=b"\x3d\x01c\xff",
        )
    )

    assert decoded.message_type == MessageType.DISCOVER
    assert decoded.options == {Option.CLIENT_IDENTIFIER: b"abc"}


def test_without_overload_the_file_is_a_name() -> None:
    decoded = dhcp.decode_untrusted(message(file=b"\x3d\x01b\xff"))

    assert decoded.options == {}


def test_options_may_end_with_the_datagram() -> None:
    assert dhcp.decode_untrusted(message(options=b"\x35\x01\x01")).options == {}


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(message()[:239], id="cut off in the cookie"),
        pytest.param(message(operation=3), id="neither asks nor answers"),
        pytest.param(message(hardware=b"\x06\x06"), id="not Ethernet"),
        pytest.param(message(hardware=b"\x01\x10"), id="too long a MAC"),
        pytest.param(message(cookie=bytes(4)), id="another cookie"),
        pytest.param(message(options=b"\xff"), id="without a type"),
        pytest.param(message(options=b"\x35\x02\x01\x01\xff"), id="type of two octets"),
        pytest.param(message(options=b"\x35\x01\x01\x32\x03\x0a\x00\x01\xff"), id="address of three octets"),
        pytest.param(message(options=b"\x35\x01\x01\x32"), id="option without a length"),
        pytest.param(message(options=b"\x35\x01\x01\x32\x04\x0a"), id="option cut off"),
        pytest.param(message(options=b"\x35\x01\x01\x34\x01\x04\xff"), id="unknown overload"),
        pytest.param(message(options=b"\x35\x01\x01\x34\x00\xff"), id="empty overload"),
    ],
)
def test_what_breaks_the_format_is_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedPacket):
        dhcp.decode_untrusted(payload)
