"""What ESP costs for each packet, beside the cipher alone: no sockets, one child SA, AES-256-GCM with ESN."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.bench.results import Result
from tests.tunnels.esp.pairs import BACK, SITE, child, joined, packet
from tunnels.esp.associations import Sealed

# As many as are received at once, so that they are as warm in the caches as they are then.
BATCH = 64
BATCHES = 400
RUNS = 5


def benchmark() -> Iterator[Result]:
    """Seal and open packets of two lengths, and encrypt and decrypt as many octets."""
    for size in (64, 1400):
        bare = [_bare(size) for _ in range(RUNS)]
        esp = [_esp(size) for _ in range(RUNS)]
        for n, (what, alone) in enumerate((("seal", "encrypt"), ("open", "decrypt"))):
            against = f"bare AES-256-GCM: {alone}, {size} B"
            yield Result(against, "us", tuple(run[n] for run in bare))
            yield Result(f"ESP: {what}, {size} B", "us", tuple(run[n] for run in esp), against=against)


def _bare(size: int) -> tuple[float, float]:
    """Return the microseconds to encrypt, and to decrypt."""
    aead, octets, covered = AESGCM(bytes(32)), os.urandom(size), bytes(12)
    encrypting = decrypting = 0.0
    for batch in range(BATCHES):
        nonces = [n.to_bytes(12) for n in range(batch * BATCH, (batch + 1) * BATCH)]
        began = time.perf_counter()
        sealed = [aead.encrypt(nonce, octets, covered) for nonce in nonces]
        between = time.perf_counter()
        for nonce, each in zip(nonces, sealed, strict=True):
            aead.decrypt(nonce, each, covered)
        encrypting += between - began
        decrypting += time.perf_counter() - between
    return encrypting / BATCHES / BATCH * 1e6, decrypting / BATCHES / BATCH * 1e6


def _esp(size: int) -> tuple[float, float]:
    """Return the microseconds to seal, and to open."""
    us, peer = joined(child())
    facts, octets = packet(size)
    sealing = opening = 0.0
    for _ in range(BATCHES):
        began = time.perf_counter()
        sealed = [us.seal(SITE, facts, octets, 0.0) for _ in range(BATCH)]
        sealing += time.perf_counter() - began
        received = [each.packet for each in sealed if isinstance(each, Sealed)]
        began = time.perf_counter()
        for each in received:
            peer.open_untrusted(BACK, each, 0.0)
        opening += time.perf_counter() - began
    if peer.traffic(SITE).received_packets != BATCHES * BATCH:
        raise AssertionError(f"not all were opened: {peer.drops}")
    packets = BATCHES * BATCH / 1e6
    return sealing / packets, opening / packets
