"""Sends frames at a steady rate, cheaply enough not to be what is measured.

The frames lie in a ring that is shared with the kernel (PACKET_TX_RING, packet(7)
and the kernel's Documentation/networking/packet_mmap.rst): one system call sends
as many as are due.
"""

from __future__ import annotations

import errno
import mmap
import socket
import struct
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from gateway.packets import ip
from gateway.packets.ethernet import EthernetHeader
from policies.addresses import CustomerAddress
from policies.facts import UDP

SOL_PACKET = 263
PACKET_VERSION = 10
PACKET_TX_RING = 13
PACKET_QDISC_BYPASS = 20
TPACKET_V2 = 1
HEADER = struct.Struct("=III")  # the first fields of tpacket2_hdr: status, length, captured length
DATA_OFFSET = 32
SEND_REQUEST = (1).to_bytes(4, "little")

SLOT = 2048
SLOTS = 1024
STREAM_SLOTS = 16 * 1024
BLOCK = 64 * 1024

# How many flows `udp_frames` are of.
FLOWS = 64

# Frames go out in bursts this far apart: short enough that a burst fits any queue on the way.
TICK = 0.0005


class Generator:
    """Sends the same frames over and over, in turn, from one interface of the namespace it is made in."""

    def __init__(self, interface: str, frames: Sequence[bytes], slots: int = SLOTS) -> None:
        """`slots` is how many frames the ring holds. Raises ValueError if these don't fill it evenly."""
        if slots % len(frames):
            raise ValueError(f"{len(frames)} frames do not fill a ring of {slots} evenly")
        self._slots = slots
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        self._socket.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        ring = struct.pack("=IIII", BLOCK, SLOT * slots // BLOCK, SLOT, slots)
        self._socket.setsockopt(SOL_PACKET, PACKET_TX_RING, ring)
        self._socket.bind((interface, 0))
        self._ring = mmap.mmap(self._socket.fileno(), SLOT * slots)
        for slot in range(slots):
            frame = frames[slot % len(frames)]
            HEADER.pack_into(self._ring, slot * SLOT, 0, len(frame), len(frame))
            start = slot * SLOT + DATA_OFFSET
            self._ring[start : start + len(frame)] = frame
        self._next = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ring.close()
        self._socket.close()

    def send(self, count: int) -> int:
        """Send `count` frames at once, at most the ring's size; return how many more the next hop dropped.

        What does not fit its queue is lost, but stays in the ring: it is sent again, as one more.
        """
        ring, slot = self._ring, self._next
        for _ in range(count):
            ring[slot * SLOT : slot * SLOT + 4] = SEND_REQUEST
            slot = (slot + 1) % self._slots
        self._next = slot
        dropped = 0
        while True:
            try:
                self._socket.send(b"")
                return dropped
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                dropped += 1

    def run(self, rate: float, seconds: float) -> tuple[int, float]:
        """Send `rate` frames a second, or as many as go; return how many that were, in how many seconds."""
        began = time.perf_counter()
        sent, elapsed = 0, 0.0
        while elapsed < seconds:
            due = int(min(elapsed * rate - sent, SLOTS))
            if due > 0:
                sent += due + self.send(due)
            if due < SLOTS:
                time.sleep(TICK)
            elapsed = time.perf_counter() - began
        return sent, elapsed


class StreamGenerator(Generator):
    """Sends each frame once; all have the same length."""

    def __init__(self, interface: str, frames: Sequence[bytes]) -> None:
        # What was sent is still read from the ring until its receiver takes it: so there is
        # room for more frames than wait anywhere on the way.
        super().__init__(interface, frames[:1], STREAM_SLOTS)
        self._frames = frames
        self._sent = 0

    def send(self, count: int) -> int:
        """Send the next `count` frames; return how many more the next hop dropped."""
        ring, slot = self._ring, self._next
        for frame in self._frames[self._sent : self._sent + count]:
            start = slot * SLOT + DATA_OFFSET
            ring[start : start + len(frame)] = frame
            slot = (slot + 1) % STREAM_SLOTS
        self._sent += count
        return super().send(count)


def udp_frames(
    header: EthernetHeader, source: CustomerAddress, destination: CustomerAddress, size: int
) -> list[bytes]:
    """Frames of `size` octets, one of each of several flows."""
    encoded = header.encode()
    length = size - len(encoded) - 20
    return [
        encoded
        + ip.build(
            source,
            destination,
            UDP,
            (1024 + flow).to_bytes(2) + (9).to_bytes(2) + length.to_bytes(2) + bytes(length - 6),
        )
        for flow in range(FLOWS)
    ]
