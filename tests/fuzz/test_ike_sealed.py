"""No change to a sealed message gets past its key, in whole messages or in fragments."""

from __future__ import annotations

import pytest

from policies.errors import MalformedPacket
from policies.ipsec import Encryption, Group, IkeSuite, Integrity, Prf
from policies.secret import Secret
from tests.fuzz.mutation import INPUTS, mutations
from tests.tunnels.ike import messages as m
from tests.tunnels.ike.entropy import SeededEntropy
from tunnels.ike import wire
from tunnels.ike.ciphers import NotAuthentic
from tunnels.ike.protection import Protection

AEAD = IkeSuite(Encryption.AES_256_GCM, None, Prf.SHA2_256, Group.X25519)
CHACHA20 = IkeSuite(Encryption.CHACHA20_POLY1305, None, Prf.SHA2_256, Group.X25519)
CBC = IkeSuite(Encryption.AES_128_CBC, Integrity.SHA2_256, Prf.SHA2_256, Group.X25519)

START = wire.HEADER_LENGTH + wire.PAYLOAD_HEADER_LENGTH


def protection(suite: IkeSuite) -> Protection:
    encryption = 16 if suite is CBC else 36
    return Protection(suite, Secret(range(encryption)), Secret(range(32)))


def sealed(suite: IkeSuite) -> list[bytes]:
    """Messages of a peer, whole and in fragments."""
    sender, entropy = protection(suite), SeededEntropy(1)
    chains = m.CHAINS_OF_PEERS[1:]
    return [sender.seal(m.HEADER, chain, entropy) for chain in chains] + [
        datagram for chain in chains for datagram in sender.seal_fragments(m.HEADER, chain, 200, entropy)
    ]


def right_lengths(datagram: bytearray) -> None:
    if len(datagram) >= START:
        datagram[24:28] = len(datagram).to_bytes(4)
        datagram[30:32] = (len(datagram) - wire.HEADER_LENGTH).to_bytes(2)


def fuzz(suite: IkeSuite, seed: int) -> None:
    receiver, corpus = protection(suite), sealed(suite)
    for whole in corpus:
        receiver.open_untrusted(whole)
    forged = 0
    for datagram in mutations(corpus, seed, INPUTS, right_lengths):
        if datagram in corpus:
            continue
        try:
            receiver.open_untrusted(datagram)
        except NotAuthentic:
            forged += 1
            continue
        except MalformedPacket:
            continue
        except Exception as failure:
            pytest.fail(f"{suite}: {failure!r} for bytes.fromhex({datagram.hex()!r})")
        pytest.fail(f"{suite}: bytes.fromhex({datagram.hex()!r}) was opened")
    assert forged > INPUTS // 10, f"only {forged} inputs reached the cipher"


@pytest.mark.parametrize("suite", [AEAD, CHACHA20, CBC], ids=str)
def test_changed_message_is_not_authentic(suite: IkeSuite) -> None:
    fuzz(suite, seed=5282)


@pytest.mark.soak
@pytest.mark.parametrize("suite", [AEAD, CHACHA20, CBC], ids=str)
def test_none_of_millions_of_changed_messages_is_authentic(suite: IkeSuite) -> None:
    fuzz(suite, seed=7634)
