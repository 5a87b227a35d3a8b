"""A ping of our own, for machines without one: ICMP echo, reported as iputils' ping reports it."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import time

from gateway.lab import error_queue
from gateway.packets.checksum import internet_checksum

ECHO = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
REQUEST = {4: 8, 6: 128}
REPLY = {4: 0, 6: 129}
IPV6_HOPLIMIT = 52


class Pinger:
    """Echo requests to one target. A context manager; opening it raises OSError."""

    def __init__(
        self,
        target: str,
        *,
        size: int,
        dont_fragment: bool,
        hop_limit: int | None = None,
        source: str | None = None,
    ) -> None:
        self.target = target
        self.version = ipaddress.ip_address(target).version
        self.size = size
        self.received = 0
        self._identifier = os.getpid() & 0xFFFF
        self._sent_at: dict[int, float] = {}
        family, protocol = (
            (socket.AF_INET, socket.IPPROTO_ICMP)
            if self.version == 4
            else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
        )
        self._sock = socket.socket(family, socket.SOCK_RAW, protocol)
        discover = error_queue.DISCOVER_DO if dont_fragment else error_queue.DISCOVER_NEVER
        error_queue.enable(self._sock, self.version, discover)
        if self.version == 6:
            self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        if hop_limit is not None:
            level, option = error_queue.LEVEL[self.version], error_queue.HOP_LIMIT[self.version]
            self._sock.setsockopt(level, option, hop_limit)
        if source is not None:
            self._sock.bind((source, 0))
        self._sock.connect((target, 0))

    def __enter__(self) -> Pinger:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def send(self, sequence: int) -> list[str]:
        """Send one request; return lines about what kept it from leaving."""
        header = ECHO.pack(REQUEST[self.version], 0, 0, self._identifier, sequence)
        payload = bytes(i & 0xFF for i in range(self.size))
        if self.version == 4:  # for ICMPv6 the kernel fills the checksum in
            header = ECHO.pack(REQUEST[4], 0, internet_checksum(header + payload), self._identifier, sequence)
        lines = []
        for _ in range(2):
            self._sent_at[sequence] = time.monotonic()
            try:
                self._sock.send(header + payload)
                break
            except OSError as error:
                # An error about an earlier packet comes out of this call too: then this one did not leave.
                lines += self._errors()
                if error.errno == errno.EMSGSIZE:
                    break
        return lines

    def receive(self, until: float, *, sequence: int) -> list[str]:
        """Wait until a time for the reply to one request; return lines about whatever came."""
        lines: list[str] = []
        while not lines:
            readable, failed = error_queue.wait(self._sock, until - time.monotonic())
            if failed:
                lines += self._errors()
            elif readable:
                if line := self._reply(sequence):
                    lines.append(line)
            else:
                break
        return lines

    def _errors(self) -> list[str]:
        lines = []
        while error := error_queue.read(self._sock, self.version):
            if error.is_local:
                lines.append(f"ping: local error: message too long, mtu={error.mtu}")
            elif len(error.packet) >= ECHO.size:
                _, _, _, identifier, sequence = ECHO.unpack_from(error.packet)
                if identifier == self._identifier:
                    lines.append(f"From {error.offender} icmp_seq={sequence} {error}")
        return lines

    def _reply(self, expected: int) -> str | None:
        try:
            packet, ancillary, _, _ = self._sock.recvmsg(65535, 64)
        except OSError:  # the error is in the queue too, and is read from there
            return None
        hop_limit = packet[8] if self.version == 4 else _hop_limit(ancillary)
        message = packet[(packet[0] & 0x0F) * 4 :] if self.version == 4 else packet
        if len(message) < ECHO.size:
            return None
        kind, _, _, identifier, sequence = ECHO.unpack_from(message)
        if kind != REPLY[self.version] or identifier != self._identifier or sequence != expected:
            return None
        self.received += 1
        milliseconds = (time.monotonic() - self._sent_at[sequence]) * 1000
        return (
            f"{len(message)} bytes from {self.target}: icmp_seq={sequence} "
            f"ttl={hop_limit} time={milliseconds:.3g} ms"
        )


def ping(
    target: str,
    *,
    count: int = 4,
    interval: float = 1.0,
    timeout: float = 1.0,
    size: int = 56,
    dont_fragment: bool = False,
    hop_limit: int | None = None,
    source: str | None = None,
) -> int:
    """Ping an address, print what happens, and return 0 if anything came back, else 1."""
    with Pinger(target, size=size, dont_fragment=dont_fragment, hop_limit=hop_limit, source=source) as pinger:
        overhead = 28 if pinger.version == 4 else 48
        print(f"PING {target} ({target}) {size}({size + overhead}) bytes of data.", flush=True)
        begun = time.monotonic()
        for sequence in range(1, count + 1):
            sent = time.monotonic()
            lines = pinger.send(sequence)
            lines = lines or pinger.receive(sent + timeout, sequence=sequence)
            for line in lines:
                print(line, flush=True)
            if sequence < count:
                time.sleep(max(0.0, sent + interval - time.monotonic()))
        loss = round(100 * (count - pinger.received) / count)
        elapsed = round((time.monotonic() - begun) * 1000)
        print(f"\n--- {target} ping statistics ---")
        print(
            f"{count} packets transmitted, {pinger.received} received, {loss}% packet loss, time {elapsed}ms"
        )
        return 0 if pinger.received else 1


def reachable(target: str, timeout: float = 1.0) -> bool:
    """Whether an address answers one echo request within `timeout` seconds."""
    try:
        with Pinger(target, size=8, dont_fragment=False) as pinger:
            pinger.send(1)
            pinger.receive(time.monotonic() + timeout, sequence=1)
            return pinger.received > 0
    except OSError:  # no route to it, which is an answer
        return False


def reachable_soon(target: str, timeout: float) -> bool:
    """Whether an address answers within `timeout` seconds, whatever is said of it before."""
    deadline = time.monotonic() + timeout
    while not reachable(target):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _hop_limit(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IPV6 and kind == IPV6_HOPLIMIT:
            return int(struct.unpack("=i", data[:4])[0])
    return 0
