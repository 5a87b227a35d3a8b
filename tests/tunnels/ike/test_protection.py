from __future__ import annotations

import hmac

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from policies.errors import MalformedPacket
from policies.ipsec import Encryption, Group, IkeSuite, Integrity, Prf
from policies.secret import Secret
from tests.tunnels.ike.entropy import SeededEntropy
from tunnels.ike import wire
from tunnels.ike.ciphers import NotAuthentic
from tunnels.ike.constants import ExchangeType, NotifyType, PayloadType
from tunnels.ike.payloads import Header, Nonce, Notify, Payload
from tunnels.ike.protection import Protection

AEAD_SUITES = [IkeSuite(each, None, Prf.SHA2_256, Group.X25519) for each in Encryption if each.is_aead]
CBC_SUITES = [
    IkeSuite(each, hmac, Prf.SHA2_256, Group.X25519)
    for each in Encryption
    if not each.is_aead
    for hmac in Integrity
]
SUITES = AEAD_SUITES + CBC_SUITES
KEY_OCTETS = {
    Encryption.AES_128_GCM: 20,
    Encryption.AES_256_GCM: 36,
    Encryption.CHACHA20_POLY1305: 36,
    Encryption.AES_128_CBC: 16,
    Encryption.AES_256_CBC: 32,
}
HMAC_OCTETS = {None: 0, Integrity.SHA2_256: 32, Integrity.SHA2_384: 48, Integrity.SHA2_512: 64}
HEADER = Header(b"initspi1", b"respspi2", ExchangeType.INFORMATIONAL, 7, False, True)
NOTIFY = Notify(NotifyType.INITIAL_CONTACT)
ENTROPY = SeededEntropy(1)


def protection(suite: IkeSuite, seed: int = 1) -> Protection:
    entropy = SeededEntropy(seed)
    encryption = Secret(entropy.octets(KEY_OCTETS[suite.encryption]))
    return Protection(suite, encryption, Secret(entropy.octets(HMAC_OCTETS[suite.integrity])))


def opened(suite: IkeSuite, message: bytes) -> tuple[Payload, ...]:
    what = protection(suite).open_untrusted(message)
    return wire.decode_payloads_untrusted(what.first_payload, what.plaintext)


@pytest.mark.parametrize("suite", SUITES, ids=str)
@pytest.mark.parametrize(
    "payloads", [(), (NOTIFY,), tuple(Nonce(bytes(length)) for length in range(16, 64))], ids=len
)
def test_what_is_sealed_is_opened(suite: IkeSuite, payloads: tuple[Payload, ...]) -> None:
    message = protection(suite).seal(HEADER, payloads, ENTROPY)
    what = protection(suite).open_untrusted(message)

    assert opened(suite, message) == payloads
    assert what.fragment is None
    assert (what.header.message_id, what.header.initiator_spi) == (7, b"initspi1")
    assert what.header.next_payload == PayloadType.ENCRYPTED


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_any_changed_octet_is_noticed(suite: IkeSuite) -> None:
    message = protection(suite).seal(HEADER, (NOTIFY,), ENTROPY)
    receiver = protection(suite)

    for position in range(len(message)):
        for bit in (0, 7):
            changed = bytearray(message)
            changed[position] ^= 1 << bit
            with pytest.raises((NotAuthentic, MalformedPacket)) as caught:
                receiver.open_untrusted(bytes(changed))
            # The lengths and what kind of payload it is are looked at first.
            first_look = position in (16, *range(24, 28), *range(30, 32))
            assert first_look or caught.type is NotAuthentic, position
    assert opened(suite, message) == (NOTIFY,)


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_any_changed_octet_of_a_fragment_is_noticed(suite: IkeSuite) -> None:
    fragment = protection(suite).seal_fragments(HEADER, (Nonce(bytes(200)),), 180, ENTROPY)[0]
    receiver = protection(suite)

    for position in range(len(fragment)):
        changed = bytearray(fragment)
        changed[position] ^= 1
        with pytest.raises((NotAuthentic, MalformedPacket)):
            receiver.open_untrusted(bytes(changed))


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_message_cut_anywhere_is_malformed_or_not_authentic(suite: IkeSuite) -> None:
    message = protection(suite).seal(HEADER, (NOTIFY,), ENTROPY)
    receiver = protection(suite)

    for end in range(len(message)):
        with pytest.raises(MalformedPacket):
            receiver.open_untrusted(message[:end])
        if end >= 32:
            fitted = wire.encode_header(
                Header(b"initspi1", b"respspi2", 37, 7, False, True, PayloadType.ENCRYPTED), end
            )
            fitted += message[28:30] + (end - 28).to_bytes(2) + message[32:end]
            with pytest.raises((MalformedPacket, NotAuthentic)):
                receiver.open_untrusted(fitted)


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_other_keys_open_nothing(suite: IkeSuite) -> None:
    message = protection(suite, seed=2).seal(HEADER, (NOTIFY,), ENTROPY)

    with pytest.raises(NotAuthentic):
        protection(suite, seed=1).open_untrusted(message)


@pytest.mark.parametrize("suite", SUITES, ids=str)
@pytest.mark.parametrize("limit", [548, 576, 1232])
def test_fragments_are_as_long_as_they_may_be_and_bring_all(suite: IkeSuite, limit: int) -> None:
    payloads = tuple(Nonce(bytes((number,)) * 256) for number in range(12))
    whole = wire.encode_payloads(payloads)[1]
    sealed = protection(suite).seal_fragments(HEADER, payloads, limit, ENTROPY)
    pieces = [protection(suite).open_untrusted(each) for each in sealed]

    assert all(limit - 32 < len(each) <= limit for each in sealed[:-1])
    assert len(sealed[-1]) <= limit
    assert [each.fragment for each in pieces] == [
        (number, len(sealed)) for number in range(1, len(sealed) + 1)
    ]
    # Only the first names the payload that all begins with (RFC 7383 section 2.5).
    assert [each.first_payload for each in pieces] == [PayloadType.NONCE] + [0] * (len(sealed) - 1)
    assert b"".join(each.plaintext for each in pieces) == whole
    assert {each.header.next_payload for each in pieces} == {PayloadType.ENCRYPTED_FRAGMENT}


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_message_that_fits_is_not_cut(suite: IkeSuite) -> None:
    length = len(protection(suite).seal(HEADER, (Nonce(bytes(200)),), ENTROPY))

    assert len(protection(suite).seal_fragments(HEADER, (Nonce(bytes(200)),), length, ENTROPY)) == 1
    [one] = protection(suite).seal_fragments(HEADER, (Nonce(bytes(200)),), length, ENTROPY)
    assert opened(suite, one) == (Nonce(bytes(200)),)
    assert len(protection(suite).seal_fragments(HEADER, (Nonce(bytes(200)),), length - 1, ENTROPY)) == 2


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_limit_without_room_for_anything_is_our_mistake(suite: IkeSuite) -> None:
    with pytest.raises(ValueError):
        protection(suite).seal_fragments(HEADER, (Nonce(bytes(200)),), 53, ENTROPY)


@pytest.mark.parametrize("suite", AEAD_SUITES, ids=str)
def test_iv_of_aead_counts_so_none_is_used_twice(suite: IkeSuite) -> None:
    sender = protection(suite)
    messages = [sender.seal(HEADER, (), ENTROPY) for _ in range(3)]
    messages += sender.seal_fragments(HEADER, (Nonce(bytes(256)),) * 3, 300, ENTROPY)

    ivs = [each[36:44] if each[16] == PayloadType.ENCRYPTED_FRAGMENT else each[32:40] for each in messages]
    assert ivs == [number.to_bytes(8) for number in range(1, len(messages) + 1)]


@pytest.mark.parametrize("suite", CBC_SUITES, ids=str)
def test_iv_of_cbc_cannot_be_foreseen(suite: IkeSuite) -> None:
    class Announced(SeededEntropy):
        def octets(self, count: int) -> bytes:
            assert count == 16
            return b"sixteen octets!!"

    assert protection(suite).seal(HEADER, (), Announced(1))[32:48] == b"sixteen octets!!"


def test_gcm_covers_the_header_as_section_5_1_of_rfc_5282_says() -> None:
    suite = AEAD_SUITES[1]
    assert suite.encryption is Encryption.AES_256_GCM
    key = SeededEntropy(1).octets(36)
    message = protection(suite).seal(HEADER, (NOTIFY,), ENTROPY)

    covered, iv, sealed = message[:32], message[32:40], message[40:]
    plaintext = AESGCM(key[:32]).decrypt(key[32:] + iv, sealed, covered)
    assert plaintext == bytes.fromhex("0000000800004000") + b"\0"


@pytest.mark.parametrize(
    "suite", [each for each in CBC_SUITES if each.integrity is Integrity.SHA2_256], ids=str
)
def test_padding_of_any_content_is_accepted_and_too_much_is_malformed(suite: IkeSuite) -> None:
    entropy = SeededEntropy(1)
    key, integrity = entropy.octets(KEY_OCTETS[suite.encryption]), entropy.octets(32)

    def message(padded: bytes) -> bytes:
        header = wire.encode_header(
            Header(b"initspi1", b"respspi2", 37, 7, False, True, PayloadType.ENCRYPTED), 64 + len(padded)
        )
        encryptor = Cipher(algorithms.AES(key), modes.CBC(bytes(16))).encryptor()
        sealed = encryptor.update(padded) + encryptor.finalize()
        covered = header + b"\0\0" + (36 + len(padded)).to_bytes(2) + bytes(16) + sealed
        return covered + hmac.digest(integrity, covered, "sha256")[:16]

    receiver = protection(suite)
    assert receiver.open_untrusted(message(b"\xee" * 31 + b"\x1f")).plaintext == b""
    assert receiver.open_untrusted(message(b"plain" + b"\xee" * 10 + b"\x0a")).plaintext == b"plain"
    for octet in (32, 33, 255):
        with pytest.raises(MalformedPacket):
            receiver.open_untrusted(message(bytes(31) + bytes((octet,))))
    with pytest.raises(MalformedPacket):
        receiver.open_untrusted(message(b""))


@pytest.mark.parametrize(("number", "total"), [(0, 1), (2, 1), (0, 0), (1, 0)])
def test_fragment_with_numbers_that_cannot_be_is_malformed(number: int, total: int) -> None:
    header = Header(b"initspi1", b"respspi2", 37, 7, False, True, PayloadType.ENCRYPTED_FRAGMENT)
    body = number.to_bytes(2) + total.to_bytes(2) + bytes(64)
    message = wire.encode_header(header, 28 + 4 + len(body)) + b"\0\0" + (4 + len(body)).to_bytes(2) + body

    with pytest.raises(MalformedPacket):
        protection(SUITES[0]).open_untrusted(message)


def test_message_in_the_clear_is_not_opened() -> None:
    with pytest.raises(MalformedPacket, match="instead of Encrypted"):
        protection(SUITES[0]).open_untrusted(wire.encode_message(HEADER, (NOTIFY,)))


def test_protection_shows_its_algorithm_and_no_key() -> None:
    assert repr(protection(AEAD_SUITES[1])) == "<Protection by aes256gcm16>"
    assert repr(protection(CBC_SUITES[0])) == "<Protection by aes128-sha256>"


def test_cbc_without_integrity_is_our_mistake() -> None:
    with pytest.raises(ValueError):
        Protection(
            IkeSuite(Encryption.AES_128_CBC, None, Prf.SHA2_256, Group.X25519), Secret(bytes(16)), Secret()
        )
