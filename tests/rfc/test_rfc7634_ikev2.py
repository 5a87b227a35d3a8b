"""RFC 7634, ChaCha20-Poly1305 in IKEv2: the message of its appendix B."""

from __future__ import annotations

import pytest

from policies.ipsec import Encryption, Group, IkeSuite, Prf
from policies.secret import Secret
from tests.tunnels.ike.entropy import SeededEntropy
from tunnels.ike import wire
from tunnels.ike.ciphers import NotAuthentic
from tunnels.ike.constants import ExchangeType, NotifyType
from tunnels.ike.payloads import Header, Notify
from tunnels.ike.protection import Protection

SUITE = IkeSuite(Encryption.CHACHA20_POLY1305, None, Prf.SHA2_256, Group.X25519)
KEY = Secret(bytes(range(0x80, 0xA0)) + bytes.fromhex("a0a1a2a3"))
MESSAGE = bytes.fromhex(
    "c0c1c2c3c4c5c6c7d0d1d2d3d4d5d6d72e202500000000090000004529000029"
    "101112131415161761039470 1f8d017f7c12924889 6b71bfe25236efd7cdc67066906315b2"
)
WINDOW = Notify(NotifyType.SET_WINDOW_SIZE, (10).to_bytes(4))


def test_appendix_b_message_is_opened() -> None:
    opened = Protection(SUITE, KEY, Secret()).open_untrusted(MESSAGE)

    assert wire.decode_payloads_untrusted(opened.first_payload, opened.plaintext) == (WINDOW,)
    assert opened.header.message_id == 9
    assert opened.header.exchange == ExchangeType.INFORMATIONAL
    assert not opened.header.is_response
    assert not opened.header.from_initiator


def test_appendix_b_message_is_sealed() -> None:
    header = Header(MESSAGE[:8], MESSAGE[8:16], ExchangeType.INFORMATIONAL, 9, False, False)
    sender = Protection(SUITE, KEY, Secret())
    sender._cipher._sent = 0x1011121314151617 - 1  # type: ignore[attr-defined]

    assert sender.seal(header, (WINDOW,), SeededEntropy(1)) == MESSAGE


def test_appendix_b_message_with_any_bit_changed_behind_its_lengths_is_not_authentic() -> None:
    receiver = Protection(SUITE, KEY, Secret())
    for position in (*range(16), *range(17, 24), *range(32, len(MESSAGE))):
        for bit in range(8):
            changed = bytearray(MESSAGE)
            changed[position] ^= 1 << bit
            with pytest.raises(NotAuthentic):
                receiver.open_untrusted(bytes(changed))
