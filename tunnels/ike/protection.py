"""What keeps IKE's messages secret and whole: the Encrypted payload, of one direction.

RFC 7296 section 3.14, and RFC 7383 section 2.5 for fragments. Only what the peer holds
the key for gets through `open_untrusted`: everything else leaves no trace.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

from policies.errors import MalformedPacket
from policies.ipsec import IkeSuite
from policies.secret import Secret
from tunnels.ike import fragments, wire
from tunnels.ike.ciphers import cipher_of
from tunnels.ike.constants import PayloadType
from tunnels.ike.entropy import Entropy
from tunnels.ike.payloads import Header, Payload

_PAYLOAD = struct.Struct("!BBH")  # next payload, critical bit, length with this header
_FRAGMENT = struct.Struct("!HH")  # number, total; from 1
_START = wire.HEADER_LENGTH + _PAYLOAD.size


class Opened(msgspec.Struct, frozen=True):
    """What was in an Encrypted payload; of a fragment its number and the total, from 1."""

    header: Header
    first_payload: int
    plaintext: bytes
    fragment: tuple[int, int] | None = None


class Protection:
    """Seals or opens the messages of one direction of one IKE SA.

    Keep one object for as long as the keys live: with AEAD its counter is what makes
    each IV new (RFC 5282 section 4).
    """

    def __init__(self, suite: IkeSuite, encryption: Secret, integrity: Secret) -> None:
        self._cipher = cipher_of(suite, encryption, integrity)

    def __repr__(self) -> str:
        return f"<Protection by {self._cipher.name}>"

    def seal(self, header: Header, payloads: Sequence[Payload], entropy: Entropy) -> bytes:
        """Return the whole message with all payloads in one Encrypted payload."""
        first, plaintext = wire.encode_payloads(payloads)
        return self._sealed(header, first, plaintext, None, entropy)

    def seal_fragments(
        self, header: Header, payloads: Sequence[Payload], limit: int, entropy: Entropy
    ) -> list[bytes]:
        """Return the message in datagrams of at most `limit` octets: one, or RFC 7383's fragments.

        `limit` is that of UDP's payload, after a Non-ESP Marker. Raises ValueError where it
        leaves no room.
        """
        first, plaintext = wire.encode_payloads(payloads)
        if _START + self._sealed_octets(len(plaintext)) <= limit:
            return [self._sealed(header, first, plaintext, None, entropy)]
        room = self._room_in(limit - _START - _FRAGMENT.size)
        if room < 1:
            raise ValueError(f"{limit} octets leave no room for a fragment")
        pieces = fragments.split(plaintext, room)
        return [
            # Only the first fragment names the first payload inside (RFC 7383 section 2.5).
            self._sealed(header, first if number == 1 else 0, piece, (number, len(pieces)), entropy)
            for number, piece in enumerate(pieces, 1)
        ]

    def open_untrusted(self, datagram: bytes) -> Opened:
        """Return what the peer sealed.

        The Encrypted payload has to be the only one of the message, as everybody sends it.
        Raises MalformedPacket or NotAuthentic, and nothing else.
        """
        header = wire.decode_header_untrusted(datagram)
        if header.next_payload not in (PayloadType.ENCRYPTED, PayloadType.ENCRYPTED_FRAGMENT):
            raise MalformedPacket(f"a message starts with payload {header.next_payload} instead of Encrypted")
        start = _START
        if len(datagram) < start:
            raise MalformedPacket("the message ends in the header of its Encrypted payload")
        first, _, length = _PAYLOAD.unpack_from(datagram, wire.HEADER_LENGTH)
        if wire.HEADER_LENGTH + length != len(datagram):
            raise MalformedPacket(f"an Encrypted payload of {length} octets does not fill its message")
        fragment = None
        if header.next_payload == PayloadType.ENCRYPTED_FRAGMENT:
            if len(datagram) < start + _FRAGMENT.size:
                raise MalformedPacket("the message ends in the header of its Encrypted Fragment payload")
            number, total = _FRAGMENT.unpack_from(datagram, start)
            if not 1 <= number <= total:
                raise MalformedPacket(f"fragment {number} of {total} cannot be")
            fragment = (number, total)
            start += _FRAGMENT.size
        padded = self._cipher.open_untrusted(datagram[:start], datagram[start:])
        return Opened(header, first, _unpadded(padded), fragment)

    def _sealed(
        self,
        header: Header,
        first: int,
        plaintext: bytes,
        fragment: tuple[int, int] | None,
        entropy: Entropy,
    ) -> bytes:
        kind = PayloadType.ENCRYPTED if fragment is None else PayloadType.ENCRYPTED_FRAGMENT
        behind = b"" if fragment is None else _FRAGMENT.pack(*fragment)
        length = _PAYLOAD.size + len(behind) + self._sealed_octets(len(plaintext))
        clear = wire.encode_header(
            msgspec.structs.replace(header, next_payload=kind), wire.HEADER_LENGTH + length
        )
        clear += _PAYLOAD.pack(first, 0, length) + behind
        padding = self._padding(len(plaintext))
        return clear + self._cipher.seal(clear, plaintext + bytes(padding) + bytes((padding,)), entropy)

    def _padding(self, plaintext: int) -> int:
        """How many octets bring it, with the one that tells their number, to whole blocks."""
        return -(plaintext + 1) % self._cipher.block_octets

    def _sealed_octets(self, plaintext: int) -> int:
        padded = plaintext + self._padding(plaintext) + 1
        return self._cipher.iv_octets + padded + self._cipher.icv_octets

    def _room_in(self, sealed: int) -> int:
        """How many octets, at most, are no longer than this when they are sealed."""
        padded = sealed - self._cipher.iv_octets - self._cipher.icv_octets
        return padded - padded % self._cipher.block_octets - 1


def _unpadded(padded: bytes) -> bytes:
    """Cut off the padding, of any content, and its length in the last octet (RFC 7296 section 3.14)."""
    if not padded or padded[-1] >= len(padded):
        raise MalformedPacket(f"the padding is longer than the {len(padded)} octets that it ends")
    return padded[: len(padded) - 1 - padded[-1]]
