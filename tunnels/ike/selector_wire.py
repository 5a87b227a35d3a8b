"""Traffic Selector payloads to bytes and back (RFC 7296 section 3.13)."""

from __future__ import annotations

import struct

from policies.errors import MalformedPacket
from policies.selectors import LAST_PORT, TrafficSelector
from tunnels.ike.constants import SelectorType

_COUNT = struct.Struct("!B3x")
_HEADER = struct.Struct("!BBH")  # type, protocol, length with this header
_PORTS = struct.Struct("!HH")
_ADDRESS_SIZES = {SelectorType.IPV4_RANGE: 4, SelectorType.IPV6_RANGE: 16}
_TYPES = {4: SelectorType.IPV4_RANGE, 6: SelectorType.IPV6_RANGE}


def decode_untrusted(body: bytes) -> tuple[TrafficSelector, ...]:
    """Return the selectors, which the count's octet bounds to 255, without those of unknown types.

    A selector of a type that we don't know selects nothing that we could carry, so the
    peer gets less than it asked for (section 2.9). Raises MalformedPacket.
    """
    if len(body) < _COUNT.size:
        raise MalformedPacket("a TS payload is too short")
    (count,) = _COUNT.unpack_from(body)
    selectors = []
    position = _COUNT.size
    for _ in range(count):
        if len(body) < position + _HEADER.size:
            raise MalformedPacket("a TS payload ends before its last selector")
        kind, protocol, length = _HEADER.unpack_from(body, position)
        end = position + length
        if length < _HEADER.size or end > len(body):
            raise MalformedPacket(f"a traffic selector of {length} octets cannot be")
        if kind in _ADDRESS_SIZES:
            selectors.append(_range(kind, protocol, body[position + _HEADER.size : end]))
        position = end
    if position != len(body):
        raise MalformedPacket("a TS payload goes on after its last selector")
    return tuple(selectors)


def encode(selectors: tuple[TrafficSelector, ...]) -> bytes:
    """Return what follows the payload's generic header."""
    return _COUNT.pack(len(selectors)) + b"".join(map(_encode_range, selectors))


def _range(kind: int, protocol: int, content: bytes) -> TrafficSelector:
    size = _ADDRESS_SIZES[SelectorType(kind)]
    if len(content) != _PORTS.size + 2 * size:
        raise MalformedPacket(f"a traffic selector of type {kind} has {len(content)} octets")
    first, last = _PORTS.unpack_from(content)
    start, end = content[_PORTS.size : -size], content[-size:]
    if start > end or (first > last and (first, last) != (LAST_PORT, 0)):
        raise MalformedPacket("a traffic selector ends before it begins")
    return TrafficSelector(start, end, protocol, first, last)


def _encode_range(selector: TrafficSelector) -> bytes:
    content = _PORTS.pack(selector.start_port, selector.end_port) + selector.start + selector.end
    return _HEADER.pack(_TYPES[selector.version], selector.protocol, _HEADER.size + len(content)) + content
