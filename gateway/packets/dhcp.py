"""DHCP for IPv4 (RFC 2131) and its options (RFC 2132): what a guest asks, and the answer."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum

import msgspec

from policies.errors import MalformedPacket

SERVER_PORT = 67
CLIENT_PORT = 68

REQUEST = 1
REPLY = 2

BROADCAST = 0x8000
"""The flag of a client that takes no unicast before it has an address (RFC 2131 section 4.1)."""

# Operation, hardware type, its address' length, hops; transaction; seconds, flags; the client's, your, the
# next server's and the relay's address; hardware address; server name; boot file; the magic cookie.
_MESSAGE = struct.Struct("!BBBBIHH4s4s4s4s6s10s64s128s4s")
_ETHERNET = (1, 6)
_COOKIE = b"\x63\x82\x53\x63"

# RFC 1542 section 2.1: some clients take nothing shorter than BOOTP's 300 octets.
_SHORTEST = 300


class Option(IntEnum):
    """The options that are read or written here, by RFC 2132."""

    PAD = 0
    SUBNET_MASK = 1
    ROUTER = 3
    INTERFACE_MTU = 26
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER_IDENTIFIER = 54
    RENEWAL_TIME = 58
    REBINDING_TIME = 59
    CLIENT_IDENTIFIER = 61
    END = 255


class MessageType(IntEnum):
    """What a message is for (RFC 2132 section 9.6)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


# What a value must be long where it is present, of the options that are read.
_LENGTHS = {Option.REQUESTED_ADDRESS: 4, Option.SERVER_IDENTIFIER: 4, Option.MESSAGE_TYPE: 1}

# The fields that options may continue in, by the bit of the overload option (RFC 2132 section 9.3).
_FILE, _SERVER_NAME = 1, 2


class DhcpMessage(msgspec.Struct, frozen=True, gc=False):
    """A message of a client or a server; addresses are 4 octets, zero where there is none."""

    operation: int
    message_type: int
    """One of `MessageType`, or what later RFCs have added."""
    transaction: int
    flags: int
    client_address: bytes
    your_address: bytes
    relay_address: bytes
    hardware_address: bytes
    options: Mapping[int, bytes]
    """By their codes, but for the type of the message."""

    def encode(self) -> bytes:
        """Return the payload of a UDP datagram. The options are less than 256 octets each."""
        options = {Option.MESSAGE_TYPE: bytes([self.message_type]), **self.options}
        message = _MESSAGE.pack(
            self.operation,
            *_ETHERNET,
            0,
            self.transaction,
            0,
            self.flags,
            self.client_address,
            self.your_address,
            bytes(4),
            self.relay_address,
            self.hardware_address,
            bytes(10),
            b"",
            b"",
            _COOKIE,
        )
        message += b"".join(bytes((code, len(value))) + value for code, value in options.items())
        return (message + bytes([Option.END])).ljust(_SHORTEST, b"\0")


def decode_untrusted(payload: bytes) -> DhcpMessage:
    """Return the message that a UDP datagram carries.

    Raises MalformedPacket and nothing else, also for BOOTP without a type of message, and for other
    hardware than Ethernet.
    """
    if len(payload) < _MESSAGE.size:
        raise MalformedPacket(f"{len(payload)} octets are too short for a DHCP message")
    (
        operation,
        *hardware,
        _,
        transaction,
        _,
        flags,
        client_address,
        your_address,
        _,
        relay_address,
        hardware_address,
        _,
        server_name,
        file,
        cookie,
    ) = _MESSAGE.unpack_from(payload)
    if operation not in (REQUEST, REPLY):
        raise MalformedPacket(f"a DHCP message with operation {operation}")
    if tuple(hardware) != _ETHERNET:
        raise MalformedPacket(f"DHCP for hardware {hardware} is not for Ethernet")
    if cookie != _COOKIE:
        raise MalformedPacket(f"a DHCP message with the cookie {cookie.hex()}")
    options = _read_options(payload[_MESSAGE.size :], file, server_name)
    for code, length in _LENGTHS.items():
        if len(options.get(code, bytes(length))) != length:
            raise MalformedPacket(f"DHCP option {code} of {len(options[code])} octets")
    message_type = options.pop(Option.MESSAGE_TYPE, None)
    if message_type is None:
        raise MalformedPacket("a BOOTP message without a DHCP message type")
    return DhcpMessage(
        operation,
        message_type[0],
        transaction,
        flags,
        client_address,
        your_address,
        relay_address,
        hardware_address,
        options,
    )


def _read_options(field: bytes, file: bytes, server_name: bytes) -> dict[int, bytes]:
    """Return the options of all fields that hold some: the file comes before the server name (RFC 3396)."""
    options: dict[int, bytes] = {}
    _read_field(options, field)
    overload = options.pop(Option.OVERLOAD, b"\0")
    if len(overload) != 1 or overload[0] > _FILE | _SERVER_NAME:
        raise MalformedPacket(f"DHCP option overload is {overload.hex()}")
    if overload[0] & _FILE:
        _read_field(options, file)
    if overload[0] & _SERVER_NAME:
        _read_field(options, server_name)
    return options


def _read_field(options: dict[int, bytes], field: bytes) -> None:
    for code, value in _walk(field):
        # RFC 3396 section 5: an option that comes again goes on.
        options[code] = options.get(code, b"") + value


def _walk(field: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each option of a field. One without an end ends with the field."""
    position = 0
    while position < len(field) and field[position] != Option.END:
        code = field[position]
        if code == Option.PAD:
            position += 1
            continue
        if position + 2 > len(field):
            raise MalformedPacket("a DHCP option is cut off")
        start, length = position + 2, field[position + 1]
        if start + length > len(field):
            raise MalformedPacket(f"DHCP option {code} of {length} octets is cut off")
        yield code, field[start : start + length]
        position = start + length
