"""Captured packets as a file that Wireshark reads: pcapng (draft-ietf-opsawg-pcapng), little-endian.

Each place where packets are seen is an interface of the file, described before its first packet.
"""

from __future__ import annotations

import struct

ETHERNET = 1
"""LINKTYPE_ETHERNET: frames begin with an Ethernet header."""
RAW_IP = 101
"""LINKTYPE_RAW: packets begin with an IPv4 or IPv6 header."""

_SECTION_HEADER = 0x0A0D0D0A
_INTERFACE_DESCRIPTION = 1
_INTERFACE_STATISTICS = 5
_ENHANCED_PACKET = 6

_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_UNKNOWN_LENGTH = -1

_END_OF_OPTIONS = 0
_COMMENT = 1
_USER_APPLICATION = 4
_INTERFACE_NAME = 2
_TIME_RESOLUTION = 9
_FLAGS = 2
_LOST = 5

_NANOSECONDS = b"\x09"
_INBOUND, _OUTBOUND = 1, 2

_HEADER = struct.Struct("<II")  # type and length of the block
_LENGTH = struct.Struct("<I")
_OPTION = struct.Struct("<HH")  # code, length
_SECTION = struct.Struct("<IHHq")  # magic, version, length of the section
_INTERFACE = struct.Struct("<HHI")  # link type, reserved, snapshot length
_PACKET = struct.Struct("<IIIII")  # interface, time in two halves, octets kept, octets there were
_STATISTICS = struct.Struct("<III")  # interface, time in two halves
_COUNT = struct.Struct("<Q")


class Writer:
    """Makes the blocks of one file, in order; whoever has them writes them."""

    def __init__(self, snapshot_length: int = 0) -> None:
        """Packets are cut to so many octets by whoever captures; 0: to none."""
        self._snapshot_length = snapshot_length
        self._interfaces: dict[tuple[str, int], int] = {}

    def begin(self, application: str) -> bytes:
        """The start of the file. `application` says what made it."""
        body = _SECTION.pack(_BYTE_ORDER_MAGIC, 1, 0, _UNKNOWN_LENGTH)
        return _block(_SECTION_HEADER, body + _options((_USER_APPLICATION, application.encode())))

    def packet(
        self,
        place: str,
        link_type: int,
        nanoseconds: int,
        octets: bytes,
        *,
        length: int,
        is_inbound: bool,
        comment: str = "",
    ) -> bytes:
        """One packet at a place, at a time since 1970. `length` is what it had before it was cut."""
        number = self._interfaces.get((place, link_type))
        described = b""
        if number is None:
            number = self._interfaces[place, link_type] = len(self._interfaces)
            about = _options((_INTERFACE_NAME, place.encode()), (_TIME_RESOLUTION, _NANOSECONDS))
            described = _block(
                _INTERFACE_DESCRIPTION, _INTERFACE.pack(link_type, 0, self._snapshot_length) + about
            )
        body = _PACKET.pack(number, nanoseconds >> 32, nanoseconds & 0xFFFFFFFF, len(octets), length)
        options = [(_FLAGS, _LENGTH.pack(_INBOUND if is_inbound else _OUTBOUND))]
        if comment:
            options.append((_COMMENT, comment.encode()))
        return described + _block(_ENHANCED_PACKET, body + _padded(octets) + _options(*options))

    def end(self, nanoseconds: int, lost: int) -> bytes:
        """The end of the file: how many packets were lost, which is the same for every place."""
        halves = nanoseconds >> 32, nanoseconds & 0xFFFFFFFF
        return b"".join(
            _block(
                _INTERFACE_STATISTICS,
                _STATISTICS.pack(number, *halves) + _options((_LOST, _COUNT.pack(lost))),
            )
            for number in self._interfaces.values()
        )


def _block(kind: int, body: bytes) -> bytes:
    length = _HEADER.size + len(body) + _LENGTH.size
    return _HEADER.pack(kind, length) + body + _LENGTH.pack(length)


def _options(*options: tuple[int, bytes]) -> bytes:
    together = b"".join(_OPTION.pack(code, len(value)) + _padded(value) for code, value in options)
    return together + _OPTION.pack(_END_OF_OPTIONS, 0)


def _padded(octets: bytes) -> bytes:
    return octets + bytes(-len(octets) % 4)
