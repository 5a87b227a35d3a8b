"""Transfers that prove themselves: TCP with a hash from each end, and UDP packets that are counted."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Iterator

BLOCK = 1 << 20
SEQUENCE = struct.Struct("!Q")
SO_MAX_PACING_RATE = 47  # of <asm-generic/socket.h>, which Python lacks


def send(target: str, port: int, count: int, *, rate: int = 0, timeout: float = 60.0) -> int:
    """Send `count` octets by TCP; return 0 if the receiver's hash of them is ours, else 1. Raises OSError.

    `rate` is in octets a second; 0: as fast as it goes.
    """
    digest = hashlib.sha256()
    with socket.create_connection((target, port), timeout) as sock:
        if rate:
            sock.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, rate)
        begun = time.monotonic()
        for block in _blocks(count):
            digest.update(block)
            sock.sendall(block)
        sock.shutdown(socket.SHUT_WR)
        answer = sock.makefile("r", encoding="ascii").readline().split()
        elapsed = time.monotonic() - begun
    print(f"sent {count} bytes in {elapsed:.2f} s ({_rate(count, elapsed)}), sha256 {digest.hexdigest()}")
    if answer == [str(count), digest.hexdigest()]:
        print("the receiver has the same")
        return 0
    print(f"the receiver has {' '.join(answer) or 'said nothing'}")
    return 1


def receive(port: int, *, listen: str = "::", timeout: float = 60.0) -> int:
    """Take one TCP connection, read it to its end, and say what came, here and to the sender."""
    with _bound(socket.SOCK_STREAM, listen, port) as server:
        server.listen(1)
        server.settimeout(timeout)
        print(f"listening on port {port}", flush=True)
        sock, (peer, *_) = server.accept()
    digest = hashlib.sha256()
    count = 0
    with sock:
        sock.settimeout(timeout)
        begun = time.monotonic()
        buffer = bytearray(BLOCK)
        view = memoryview(buffer)
        while size := sock.recv_into(buffer):
            digest.update(view[:size])
            count += size
        elapsed = time.monotonic() - begun
        sock.sendall(f"{count} {digest.hexdigest()}\n".encode("ascii"))
    print(f"received {count} bytes from {_plain(peer)} in {elapsed:.2f} s ({_rate(count, elapsed)})")
    print(f"sha256 {digest.hexdigest()}", flush=True)
    return 0


def say(port: int, text: str, *, listen: str = "::") -> int:
    """Tell a sentence to everyone who connects by TCP, until the process ends. Raises OSError."""
    with _bound(socket.SOCK_STREAM, listen, port) as server:
        server.listen(8)
        print(f"listening on port {port}", flush=True)
        while True:
            sock, _ = server.accept()
            with sock:
                sock.sendall(f"{text}\n".encode())


def ask(target: str, port: int, *, timeout: float = 5.0) -> int:
    """Connect by TCP and print what the other side says. Raises OSError."""
    with socket.create_connection((target, port), timeout) as sock:
        print(sock.makefile("r", encoding="utf-8").read(), end="")
    return 0


def flood(target: str, port: int, *, packets: int, size: int = 64, rate: float = 0.0) -> int:
    """Send numbered UDP packets of `size` octets each, `rate` a second or as fast as we can."""
    family = socket.AF_INET if ipaddress.ip_address(target).version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((target, port))
        filling = bytes(max(0, size - SEQUENCE.size))
        begun = time.monotonic()
        refused = 0
        for number in range(packets):
            if rate:
                time.sleep(max(0.0, begun + number / rate - time.monotonic()))
            try:
                sock.send(SEQUENCE.pack(number) + filling)
            except OSError:  # an ICMP error about an earlier packet, or a full queue
                refused += 1
        elapsed = time.monotonic() - begun
    print(
        f"sent {packets - refused} packets in {elapsed:.2f} s ({(packets - refused) / elapsed:.0f} packets/s)"
    )
    return 0


def count(port: int, *, expected: int, idle: float = 1.0, listen: str = "::", timeout: float = 60.0) -> int:
    """Count the packets of `flood` until all came, or none for `idle` seconds; return 0 if all came."""
    seen: set[int] = set()
    octets = repeated = 0
    begun = last = 0.0
    with _bound(socket.SOCK_DGRAM, listen, port) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        sock.settimeout(timeout)
        print(f"counting on port {port}", flush=True)
        while len(seen) < expected:
            try:
                packet = sock.recv(65535)
            except TimeoutError:
                break
            last = time.monotonic()
            if not seen:
                begun = last
                sock.settimeout(idle)
            (number,) = SEQUENCE.unpack_from(packet.ljust(SEQUENCE.size, b"\0"))
            repeated += number in seen
            seen.add(number)
            octets += len(packet)
    elapsed = max(last - begun, 1e-6)
    print(
        f"received {len(seen)} of {expected} packets, {repeated} of them again, {octets} bytes "
        f"in {elapsed:.2f} s ({len(seen) / elapsed:.0f} packets/s)"
    )
    return 0 if len(seen) == expected else 1


def _blocks(count: int) -> Iterator[bytes]:
    """Random octets, every block different from all others."""
    noise = os.urandom(BLOCK)
    for number in range(0, count, BLOCK):
        yield (SEQUENCE.pack(number) + noise)[: min(BLOCK, count - number)]


def _bound(kind: socket.SocketKind, listen: str, port: int) -> socket.socket:
    """A bound socket; the default address, ::, is for both families."""
    family = socket.AF_INET if ipaddress.ip_address(listen).version == 4 else socket.AF_INET6
    sock = socket.socket(family, kind)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((listen, port))
    return sock


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:")


def _rate(count: int, seconds: float) -> str:
    return f"{count * 8 / max(seconds, 1e-6) / 1e6:.0f} Mbit/s"
